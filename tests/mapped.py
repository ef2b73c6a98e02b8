"""Scenes, networks without context, and maps that they make."""

import warnings
from pathlib import Path

import cv2
import numpy as np
import rasterio
import torch
from rasterio.errors import NotGeoreferencedWarning
from torch import nn

from SSLRemoteSensing.data.scale import up_to
from SSLRemoteSensing.inference.mapper import MapSettings, map_scene
from SSLRemoteSensing.inference.network import MapNetwork
from SSLRemoteSensing.inference.outputs import plan_outputs

CPU = torch.device("cpu")
CLASSES = ["ground", "roof", "tree", "water"]
PALETTE = [(225, 225, 225), (200, 60, 50), (30, 140, 40), (40, 80, 220)]
PLACE = dict(crs="EPSG:32633", transform=rasterio.Affine(0.5, 0, 366000, 0, -0.5, 5808000))


class Pointwise(nn.Module):
    """The classes of a pixel depend on that pixel alone; it counts what it is shown."""

    def __init__(self, bands: int = 3):
        super().__init__()
        torch.manual_seed(3)
        self.layer, self.windows = nn.Conv2d(bands, len(CLASSES), 1, bias=False), 0

    def logits(self, images):
        self.windows += len(images)
        return 20 * self.layer(images.float() / 255 - 0.5)


def network(
    in_channels: int = 3, model: nn.Module | None = None, max_value: float | None = None, **changes
) -> MapNetwork:
    model = model or Pointwise(in_channels)
    given = dict(model=model, device=CPU, precision="fp32", classes=CLASSES, palette=PALETTE)
    given |= dict(in_channels=in_channels, bands=None, scale=up_to(max_value))
    return MapNetwork(**given | dict(source="best.pth") | changes)


def draw(height: int, width: int, bands: int = 3, seed: int = 0, dtype=np.uint8) -> np.ndarray:
    """Planes of smooth colours above 0."""
    rng = np.random.default_rng(seed)
    small = rng.integers(1, 256, (bands, 6, 7)).astype(np.float32)
    planes = [cv2.resize(plane, (width, height), interpolation=cv2.INTER_CUBIC) for plane in small]
    noisy = np.stack(planes) + rng.normal(0, 4, (bands, height, width))
    return np.clip(noisy, 1, 255).astype(dtype)


def write(path: Path, planes: np.ndarray, alpha: bool = False, mask=None, **profile) -> Path:
    bands, height, width = planes.shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(
            path, "w", driver="GTiff", count=bands, height=height, width=width,
            dtype=planes.dtype, **profile,
        ) as file:  # fmt: skip
            if alpha:
                ci = rasterio.enums.ColorInterp
                file.colorinterp = [ci.red, ci.green, ci.blue, ci.alpha][-bands:]
            file.write(planes)
            if mask is not None:
                file.write_mask(mask)
    return path


def mapped(net: MapNetwork, scene: Path, output: Path, asked: dict | None = None, **settings):
    """What `map_scene` says, with the class map as it was read again."""
    (planned,) = plan_outputs([scene], str(output), **asked or {})
    applied = MapSettings(**dict(tile=64, batch_size=3) | settings).for_network(net)
    done = map_scene(net, planned, applied)
    assert not [file for file in output.parent.iterdir() if ".part" in file.name]
    return done, read(planned.map)


def read(path: Path) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path) as file:
            planes = file.read()
    return planes[0] if len(planes) == 1 else planes


def damaged(path: Path, compress: str = "deflate") -> tuple[Path, np.ndarray]:
    """A scene of 64 x 64 blocks, of which the one at columns 64 and rows 128 cannot be read; and
    what was read of it before."""
    write(
        path, draw(250, 190), tiled=True, blockxsize=64, blockysize=64, compress=compress,
        photometric="ycbcr" if compress == "jpeg" else "rgb", interleave="pixel", **PLACE,
    )  # fmt: skip
    with rasterio.open(path) as file:
        planes = file.read()
        place = [
            int(file.get_tag_item(f"BLOCK_{what}_1_2", "TIFF", bidx=1))
            for what in ("OFFSET", "SIZE")
        ]
    data, at, size = bytearray(path.read_bytes()), place[0], place[1]
    if compress == "jpeg":  # from its middle on: what GDAL fills with grey, and goes on
        data[at + size // 2 : at + size] = b"\xff" * (size - size // 2)
    else:
        data[at : at + 200] = bytes(255 - byte for byte in data[at : at + 200])
    path.write_bytes(data)
    return path, planes
