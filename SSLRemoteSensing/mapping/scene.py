"""A scene to be mapped: its rows as the network takes them, and which of its pixels hold data."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from SSLRemoteSensing.errors import UnreadableImage, UserError
from SSLRemoteSensing.geotiff import Tiff, open_tiff
from SSLRemoteSensing.mapping.network import MapNetwork
from SSLRemoteSensing.raster import read_image, to_uint8

JPEG_ENDINGS = {".jpg", ".jpeg"}
LARGEST = 2**40  # pixels, a million by a million: more is a damaged header


@dataclass
class Scene:
    """An open scene.

    Attributes:
        crs, transform, gcps, rpcs: where it lies, as the file has it; None where it does not.
        masked: what tells pixels without data, '' where all hold data.
        block: width and height of the blocks that the file is read in.
        bad: what could not be read and was passed over, a line each.
    """

    path: Path
    height: int
    width: int
    crs: Any
    transform: Any
    gcps: Any
    rpcs: Any
    masked: str
    block: tuple[int, int]
    row_bytes: int
    source: Tiff
    image: np.ndarray | None  # of a format that can only be decoded whole
    bands: list[int]
    alpha: int | None
    in_channels: int
    max_value: float | None
    pass_over: bool
    bad: list[str] = field(default_factory=list)

    @property
    def may_be_empty(self) -> bool:
        """Whether some pixels may turn out to hold no data."""
        return bool(self.masked) or self.pass_over or self.source.dtype.kind == "f"

    def rows(self, y: int, height: int) -> tuple[np.ndarray, np.ndarray | None]:
        """uint8 (height, width, in_channels) from row `y`, and bool (height, width): holds data.

        None in place of the second: all do. Pixels without data are 0, whatever the file has there.

        Raises:
            UnreadableImage: a block that cannot be read, named by its window, unless it is to be
                passed over.
        """
        if self.image is not None:
            return self.image[y : y + height], None
        try:
            planes, valid = self.read(y, 0, height, self.width)
        except UnreadableImage as error:
            planes, valid = self.read_blocks(y, height, error)
        return self.to_network(planes, valid), valid

    def read(self, y: int, x: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray | None]:
        bands = self.bands if self.alpha is None else [*self.bands, self.alpha]
        planes, valid = self.source.window(bands, y, x, height, width), None
        if self.alpha is not None:
            planes, valid = planes[:-1], planes[-1] > 0
        elif self.masked:
            valid = self.source.mask(y, height, x, width) > 0
        if planes.dtype.kind == "f":
            numbers = np.isfinite(planes).all(0)
            if not numbers.all():
                valid = numbers if valid is None else valid & numbers
        return planes, valid

    def read_blocks(
        self, y: int, height: int, error: UnreadableImage
    ) -> tuple[np.ndarray, np.ndarray]:
        """The same block by block; where one cannot be read, zeros that are no data."""
        planes = np.zeros((len(self.bands), height, self.width), self.source.dtype)
        valid = np.ones((height, self.width), bool)
        wide, tall = self.block
        for top in range(y - y % tall, y + height, tall):
            first, last = max(top, y), min(top + tall, y + height)
            for x in range(0, self.width, wide):
                part = slice(first - y, last - y), slice(x, x + wide)
                shape = last - first, min(wide, self.width - x)
                try:
                    found, known = self.read(first, x, *shape)
                    planes[:, *part] = found
                    valid[part] = True if known is None else known
                except UnreadableImage as reason:
                    self.judge_bad_block(x, top, shape[1], min(tall, self.height - top), reason)
                    valid[part] = False
        if valid.all() and not self.bad:
            raise error  # the blocks can be read: something else is wrong
        return planes, valid

    def judge_bad_block(self, x: int, y: int, width: int, height: int, reason: Exception) -> None:
        where = f"columns {x} to {x + width - 1}, rows {y} to {y + height - 1}"
        why = str(reason).partition("(")[2].partition("); ")[0]
        if not self.pass_over:
            raise UnreadableImage(
                f"image {self.path}: the block at {where} cannot be read ({why}); mend the file, "
                f"or pass --on_bad_block nodata to leave it empty in the map"
            ) from reason
        line = f"{self.path}: the block at {where} cannot be read; it is empty in the map"
        if line not in self.bad:
            self.bad.append(line)

    def to_network(self, planes: np.ndarray, valid: np.ndarray | None) -> np.ndarray:
        if self.source.palette is not None:
            pixels = self.source.palette[planes[0]]
        else:
            # Band by band, as scaling goes by floating point.
            bands = [to_uint8(plane, self.max_value, self.path) for plane in planes]
            bands = bands * self.in_channels if len(bands) < self.in_channels else bands
            pixels = np.stack(bands, axis=-1)
        if valid is not None:
            pixels[~valid] = 0
        return pixels


@contextmanager
def open_scene(
    path: Path,
    network: MapNetwork,
    bands: Sequence[int] | None = None,
    max_value: float | None = None,
    on_bad_block: str = "fail",
) -> Iterator[Scene]:
    """Open the scene at `path` as `network` wants it.

    Args:
        bands, max_value: in place of what the checkpoint says.
        on_bad_block: 'fail', or 'nodata' to go on without what cannot be read.

    Raises:
        UserError: another number of bands or kind of values than the network was trained on.
        UnreadableImage: no image, a damaged one, or one that claims more than can be.
    """
    with open_tiff(path, beside=True) as source:
        if source.height * source.width > LARGEST:
            raise UnreadableImage(
                f"image {path}: claims {source.width} x {source.height} pixels, which no scene "
                f"has; replace or remove it"
            )
        max_value = agreed_scale(path, source, network, max_value)
        image, chosen, alpha = None, [], None
        if Path(path).suffix.lower() in JPEG_ENDINGS:  # GDAL fills what is missing with grey
            asked = bands or network.bands
            image = read_image(path, network.in_channels, asked, max_value)
        else:
            chosen, alpha = choose_bands(path, source, network, bands)
        masked = "" if image is not None else "alpha band" if alpha else what_masks(source)
        points, of_points = source.source.gcps
        tall, wide = source.source.block_shapes[0]
        yield Scene(
            Path(path), source.height, source.width, source.crs or of_points, source.transform,
            points or None, source.source.rpcs, masked, (wide, tall),
            source.width * source.count * source.dtype.itemsize, source, image, chosen, alpha,
            network.in_channels, max_value, on_bad_block == "nodata",
        )  # fmt: skip


def what_masks(source: Tiff) -> str:
    if not source.has_nodata:
        return ""
    value = source.source.nodata
    return "mask band" if value is None else f"nodata value {value:g}"


def choose_bands(
    path: Path, source: Tiff, network: MapNetwork, bands: Sequence[int] | None
) -> tuple[list[int], int | None]:
    """The bands for the network, counted from 1, and the one that masks.

    A band called alpha masks, unless the network was trained on as many bands as the file has, as
    a near infrared band is often called so.
    """
    wanted, count = network.in_channels, source.count
    every = list(range(1, count + 1))
    asked = list(bands or network.bands or ())
    origin = "--bands" if bands else f"the checkpoint's train_data.bands {tuple(asked)}"
    if asked:
        if min(asked) < 1 or max(asked) > count:
            raise UserError(
                f"image {path}: has {count} bands, not band {max(asked)} of {origin}; choose "
                f"with --bands"
            )
        if len(asked) != wanted:
            raise UserError(f"--bands: {len(asked)} bands where the network takes {wanted}")
    if source.palette is not None and wanted == 3 and not asked:
        return [1], None
    if source.is_cmyk:
        raise UserError(f"image {path}: holds CMYK; convert it to RGB")
    data = source.data_bands
    chosen = asked or (every if count == wanted else data)
    if len(chosen) == 1 and wanted == 3 and not asked:
        return chosen, alpha_of(source, chosen)  # grey, repeated
    if len(chosen) != wanted:
        example = " ".join(map(str, every[:wanted])) if count > wanted else "..."
        remedy = f"choose with --bands {example}" if count > wanted else "take another scene"
        raise UserError(
            f"image {path}: has {len(chosen)} bands where the network takes {wanted}; {remedy}"
        )
    return chosen, alpha_of(source, chosen)


def alpha_of(source: Tiff, chosen: Sequence[int]) -> int | None:
    others = set(range(1, source.count + 1)) - set(source.data_bands) - set(chosen)
    return min(others, default=None)


def agreed_scale(
    path: Path, source: Tiff, network: MapNetwork, max_value: float | None
) -> float | None:
    """The value that becomes 255, None for 8 bits as they are.

    Raises:
        UserError: values of another kind than those of training, with no word of the user's on it.
    """
    kind = source.dtype
    if kind.kind not in "uif":
        raise UserError(f"image {path}: holds {kind}; convert it to uint8 or uint16")
    if max_value is not None:
        if not max_value > 0:
            raise UserError(f"--max_value {max_value}: must be above 0")
        return max_value
    trained = network.max_value
    if trained is None and kind != np.uint8:
        raise UserError(
            f"image {path}: holds {kind}, the network was trained on 8 bits; pass --max_value, the "
            f"value that becomes 255"
        )
    if trained is not None and trained > 255 and kind == np.uint8:
        raise UserError(
            f"image {path}: holds uint8, the network was trained on values up to {trained:g}; pass "
            f"--max_value, 255 if the scene was scaled to 8 bits"
        )
    return trained
