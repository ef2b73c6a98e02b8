"""What a file says is no data is 0 for the network: in training, in prepared tiles and in maps."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
from drawn import prepare
from mapped import PLACE, draw, network
from PIL import Image

from SSLRemoteSensing.data.geotiff import open_tiff
from SSLRemoteSensing.data.images import read_image
from SSLRemoteSensing.data.scale import up_to
from SSLRemoteSensing.inference.scene import InputScene

SIDE, TOP = 64, 250
EMPTY = np.zeros((SIDE, SIDE), bool)
EMPTY[:20, 5:30] = True


def write(path: Path, planes, nodata=None, mask=None, inside=False, driver="GTiff", **profile):
    size = dict(count=len(planes), height=SIDE, width=SIDE, dtype=planes.dtype, nodata=nodata)
    place = PLACE if driver == "GTiff" else {}
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=inside),
        rasterio.open(path, "w", driver=driver, **size, **place, **profile) as file,
    ):
        file.write(planes)
        if mask is not None:
            file.write_mask(mask)
    return path


def write_value(folder: Path, dtype: str, value: float) -> Path:
    """`value` stands for no data, in one place in all bands, in another in the last."""
    planes = draw(SIDE, SIDE).clip(1, 120).astype(dtype)
    planes[:, EMPTY] = value
    planes[2, 40:50, 40:50] = value
    return write(folder / "a.tif", planes, nodata=value)


def pixels_and_mask() -> tuple[np.ndarray, np.ndarray]:
    """Planes, bright where they hold no data, and the mask."""
    planes = draw(SIDE, SIDE).clip(1, 200)
    planes[:, EMPTY] = 255
    return planes, np.where(EMPTY, 0, 255).astype(np.uint8)


def write_mask(folder: Path, inside: bool) -> Path:
    planes, mask = pixels_and_mask()
    return write(folder / "a.tif", planes, mask=mask, inside=inside)


def write_alpha(folder: Path, driver: str, bands: int, **profile) -> Path:
    planes, alpha = pixels_and_mask()
    ending = {"GTiff": "tif", "PNG": "png"}[driver]
    planes = np.concatenate([planes[:bands], alpha[None]])
    return write(folder / f"a.{ending}", planes, driver=driver, **profile)


def write_sidecar(folder: Path) -> Path:
    path = write(folder / "a.tif", pixels_and_mask()[0])
    bands = (
        f'<PAMRasterBand band="{n}"><NoDataValue>255</NoDataValue></PAMRasterBand>'
        for n in (1, 2, 3)
    )
    Path(f"{path}.aux.xml").write_text(f"<PAMDataset>{''.join(bands)}</PAMDataset>")
    return path


def write_clear_colour(folder: Path) -> Path:
    planes, _ = pixels_and_mask()
    image = Image.fromarray(planes[0]).convert("P")
    image.save(folder / "a.png", transparency=bytes(0 if i == 255 else 255 for i in range(256)))
    return folder / "a.png"


def write_clear_grey(folder: Path) -> Path:
    return write(folder / "a.png", pixels_and_mask()[0][:1], nodata=255, driver="PNG")


VALUES = [
    *(("uint8", value) for value in (0, 7, 255)),
    *(("uint16", value) for value in (0, 65535)),
    *(("int16", value) for value in (-9999, -32768, 32767)),
    ("int8", -128), ("int32", -9999), ("uint32", 2**32 - 1),
    *(("float32", value) for value in (-9999, np.nan, 1e20, np.finfo(np.float32).min)),
    ("float64", np.nan), ("float64", -1.7e308),
]  # fmt: skip
FILES = {f"{dtype} {value:g}": (write_value, dtype, value) for dtype, value in VALUES}
FILES |= {
    "mask beside": (write_mask, False),
    "mask inside": (write_mask, True),
    "alpha of a TIFF": (write_alpha, "GTiff", 3),
    "alpha of a PNG": (write_alpha, "PNG", 3),
    "grey and alpha": (write_alpha, "PNG", 1),
    "value beside": (write_sidecar,),
    "clear colour": (write_clear_colour,),
    "clear grey": (write_clear_grey,),
}
PREPARED = [name for name in FILES if not name.startswith(("int", "uint32", "float"))]


def draw_file(folder: Path, name: str) -> tuple[Path, np.dtype, float | None]:
    function, *arguments = FILES[name]
    path = function(folder, *arguments)
    with open_tiff(path, beside=True) as source:
        return path, source.dtype, None if source.dtype == np.uint8 else TOP


@pytest.mark.parametrize("name", FILES)
@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_map_takes_what_training_takes(tmp_path, name):
    path, dtype, max_value = draw_file(tmp_path, name)
    image = read_image(path, scale=up_to(max_value))
    assert not image[EMPTY].any()
    assert image[~EMPTY].any(1).mean() > 0.9
    if name in [f"{dtype} {value:g}" for dtype, value in VALUES]:
        assert not image[40:50, 40:50, 2].any()
        assert np.isnan(FILES[name][2]) or image[40:50, 40:50, :2].all()
    with open_tiff(path, beside=True) as source:
        scene = InputScene(source, network(dtype=dtype.name), None, up_to(max_value))
        np.testing.assert_array_equal(scene.rows(0, SIDE), image)
        valid = scene.take_valid(0, SIDE)
    assert not valid[EMPTY].any()
    assert valid[~EMPTY].mean() > 0.9


@pytest.mark.parametrize("name", PREPARED)
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_prepared_tile_holds_what_training_takes(tmp_path, name):
    (tmp_path / "source").mkdir()
    path, _, max_value = draw_file(tmp_path, name)
    for file in path.parent.glob("a.*"):
        shutil.move(file, tmp_path / "source")
    folders = ["--source", tmp_path / "source", "--output", tmp_path / "out"]
    flags = [] if max_value is None else ["--max_value", TOP]
    done = prepare("folder", *folders, *flags, "--splits", "val=0", tile=SIDE, status=0)
    assert "of the pixels hold no data" in done.stdout
    (tile,) = (tmp_path / "out/images/train").iterdir()
    expected = read_image(tmp_path / "source" / path.name, scale=up_to(max_value))
    np.testing.assert_array_equal(read_image(tile, scale=up_to(max_value)), expected)


def test_alpha_that_the_network_takes_masks_nothing(tmp_path):
    path = write_alpha(tmp_path, "GTiff", 3)
    image = read_image(path, in_channels=4)
    assert (image[EMPTY] == (255, 255, 255, 0)).all()
    with open_tiff(path, beside=True) as source:
        scene = InputScene(source, network(4, dtype="uint8"), None, None)
        np.testing.assert_array_equal(scene.rows(0, SIDE), image)


def test_one_band_of_values_that_are_no_data_is_0_alone(tmp_path):
    planes = draw(SIDE, SIDE, bands=5).astype(np.uint16)
    planes[3, EMPTY] = 999
    path = write(tmp_path / "a.tif", planes, nodata=999)
    image = read_image(path, in_channels=2, bands=(4, 5), scale=up_to(TOP))
    assert not image[EMPTY, 0].any()
    assert image[EMPTY, 1].all()
    assert read_image(path, bands=(1, 2, 3), scale=up_to(TOP)).all()
