"""Whatever rasterio writes is read as an image and as a label as rasterio reads it."""

import io
import warnings
from contextlib import ExitStack

import numpy as np
import pytest
import rasterio
from drawn import PLACE
from PIL import Image
from rasterio.errors import NotGeoreferencedWarning

from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.data.images import read_header, read_image, read_label
from SSLRemoteSensing.data.scale import up_to
from SSLRemoteSensing.preparation.sources import SourceFile
from SSLRemoteSensing.preparation.tiling import open_raster

HEIGHT, WIDTH = 48, 64  # of whole tiles of 16
COLOURS = {index: (index * 40 % 256, index * 77 % 256, 255 - index, 255) for index in range(256)}
INTEGERS = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"]
TYPES = [*INTEGERS, "float32", "float64"]
LOSSLESS_JP2 = dict(driver="JP2OpenJPEG", QUALITY="100", REVERSIBLE="YES", YCC="NO")


def table() -> list[dict]:
    """Options of each file: its ending, type, count of bands, highest value and profile."""
    rows = []

    def add(dtype="uint8", ending="tif", bands=1, top=5, palette=0, **profile):
        rows.append(
            dict(dtype=dtype, ending=ending, bands=bands, top=top, palette=palette) | profile
        )

    for dtype in TYPES:
        is_lerc_type = dtype not in ("int64", "uint64")
        for compress in ["none", "lzw", "deflate", "packbits", "zstd", "lzma"] + [
            "lerc"
        ] * is_lerc_type:
            add(dtype, compress=compress)
        add(dtype, ENDIANNESS="BIG")
        add(dtype, BIGTIFF="YES", tiled=True, blockxsize=16, blockysize=32)
        add(dtype, compress="deflate", predictor=3 if "float" in dtype else 2)
    for photometric in ("minisblack", "miniswhite"):
        for compress in ("none", "ccittfax3", "ccittfax4", "ccittrle", "packbits"):
            add(nbits=1, top=1, photometric=photometric, compress=compress)
        for bits in (2, 4):
            add(nbits=bits, top=3, photometric=photometric)
        add("uint8", photometric=photometric)
        add("uint16", photometric=photometric)
    for bits in (3, 5, 6, 7):
        add(nbits=bits)
    for dtype, bits in (("uint16", 9), ("uint16", 12), ("uint32", 20), ("uint32", 24)):
        add(dtype, nbits=bits)
    add("float32", nbits=16)
    add(top=0, sparse_ok=True, tiled=True, blockxsize=16, blockysize=16)
    for bits in (1, 2, 4, 8):
        add(nbits=bits, palette=2**bits, top=min(5, 2**bits - 1))
        add(ending="png", driver="PNG", nbits=bits, palette=2**bits, top=min(5, 2**bits - 1))
    for interleave in ("pixel", "band"):
        for dtype in ("uint8", "uint16", "float32"):
            add(dtype, bands=3, interleave=interleave, photometric="rgb")
        for dtype in ("uint8", "uint16"):
            add(dtype, bands=4, interleave=interleave, photometric="rgb", alpha="yes")
        add(bands=2, interleave=interleave, alpha="yes")
    add(bands=3, compress="webp", WEBP_LOSSLESS="YES", interleave="pixel")
    add(top=200, compress="jpeg")
    add(driver="COG")
    for dtype in ("uint8", "uint16"):
        for bands in (1, 2, 3, 4):
            add(dtype, "png", bands, driver="PNG")
        add(dtype, "jp2", **LOSSLESS_JP2)
        add(dtype, "jp2", 3, **LOSSLESS_JP2)
        add(dtype, "j2k", **LOSSLESS_JP2, CODEC="J2K")
        add(dtype, "tif", **LOSSLESS_JP2)
    for ending, driver in (("bmp", "BMP"), ("gif", "GIF")):
        add(ending=ending, driver=driver)
        add(ending=ending, driver=driver, palette=256)
    add(ending="bmp", driver="BMP", bands=3)
    add(ending="png", driver="GTiff")
    add(ending="jpg", driver="PNG")
    add(ending="tif", driver="PNG", palette=256)
    add(ending="tif", driver="BMP", bands=3)
    add(ending="jpg", driver="JPEG", top=200, quality=100)
    add(ending="tif", driver="JPEG", top=200, quality=100)
    add(ending="webp", driver="WEBP", bands=3, LOSSLESS="YES")
    for dtype in ("uint8", "int16", "float32"):
        add(dtype, "img", driver="HFA")
    return rows


def name_of(row: dict) -> str:
    return "-".join(f"{value}" for value in row.values())


TABLE = table()


def write(path, planes, palette=0, **profile):
    """Write planes (bands, height, width), and a colour for each of `palette` indices."""
    count, height, width = planes.shape
    profile = dict(driver="GTiff") | profile
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(
            path, "w", count=count, height=height, width=width, dtype=planes.dtype, **profile
        ) as file:
            if palette:
                file.write_colormap(1, {index: COLOURS[index] for index in range(palette)})
            file.write(planes)
    return path


def read(path) -> tuple[np.ndarray, np.ndarray | None]:
    """The planes of a file, and the red, green and blue of its indices where it is a palette's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path) as file:
            colours = file.colormap(1).values() if file.colorinterp[0].name == "palette" else ()
            return file.read(), np.array([colour[:3] for colour in colours]) if colours else None


def class_planes(bands: int = 1, dtype="uint8", top: int = 5) -> np.ndarray:
    """The same band of class values once or thrice, with an opaque alpha where `bands` is even."""
    values = np.random.default_rng(0).integers(0, top, (1, HEIGHT, WIDTH), endpoint=True)
    opaque = [np.full_like(values, np.iinfo(dtype).max)] if bands in (2, 4) else []
    return np.concatenate([values] * (bands - len(opaque)) + opaque).astype(dtype)


def test_the_table_is_long():
    assert len({name_of(row) for row in TABLE}) == len(TABLE) >= 150


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("row", TABLE, ids=name_of)
def test_what_rasterio_writes_is_read_as_rasterio_reads_it(tmp_path, caplog, capfd, row):
    row = dict(row)
    ending, bands, palette = row.pop("ending"), row.pop("bands"), row.pop("palette")
    planes = class_planes(bands, row.pop("dtype"), row.pop("top"))
    path = write(tmp_path / f"a.{ending}", planes, palette, **row)
    stored, colours = read(path)
    assert palette == 0 or colours[palette - 1].tolist() == list(COLOURS[palette - 1][:3])
    np.testing.assert_array_equal(read_label(path), stored[0])
    with ExitStack() as stack:
        label = open_raster(SourceFile(path.name, path, None, (0, 0)), (1,), stack, False)
        np.testing.assert_array_equal(label.rows(0, HEIGHT)[0][0], stored[0])
    max_value = None if stored.dtype == np.uint8 else 255
    for in_channels in {bands - (bands == 2), 3} if colours is None else {3}:
        image = read_image(path, in_channels, scale=up_to(max_value))
        expected = np.clip(stored, 0, 255)[:in_channels].transpose(1, 2, 0)
        if colours is not None:
            expected = colours[stored[0]]
        elif bands < 3:
            expected = expected[:, :, :1].repeat(in_channels, 2)
        np.testing.assert_array_equal(image, expected)
    assert read_header(path).shape == (HEIGHT, WIDTH)
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.float32([0, 0.5]), "holds float32 values such as 0.5, no whole numbers"),
        (np.float64([0, np.nan]), "holds float64 values such as nan"),
        (np.float32([0, np.inf]), "float32 values outside 0 to 255, 0 to inf"),
        (np.int16([-9999, 3]), "int16 values outside 0 to 255, -9999 to 3"),
        (np.uint64([0, 2**40]), "uint64 values outside 0 to 255"),
        (np.complex64([0, 1]), "holds complex64; convert it to uint8"),
    ],
    ids=str,
)
def test_values_that_are_no_classes_are_named(tmp_path, values, said):
    path = write(tmp_path / "a.tif", values[None, None])
    with pytest.raises(UserError, match=rf"label .*a\.tif: .*{said}") as caught:
        read_label(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ending", ["png", "tif"])
@pytest.mark.parametrize(
    ("bands", "change", "said"),
    [
        (3, 1, "has 3 bands, expected class values in one"),
        (4, 2, "has 4 bands, expected class values in one"),
        (4, 3, "last of 4 bands, which would be alpha, is not 255"),
        (2, 1, "last of 2 bands, which would be alpha, is not 255"),
    ],
)
def test_a_label_of_bands_that_differ_or_of_transparent_pixels_is_refused(
    tmp_path, ending, bands, change, said
):
    planes = class_planes(bands)
    planes[change, 0, 0] = 77
    path = write(tmp_path / f"a.{ending}", planes, driver={"png": "PNG", "tif": "GTiff"}[ending])
    with pytest.raises(UserError, match=said):
        read_label(path)


# ---------------------------------------------------------------------------------------- pages


def save_pages(path, sides, mode="L", **options):
    images = [Image.new(mode, side, index) for index, side in enumerate(sides)]
    images[0].save(path, save_all=True, append_images=images[1:], **options)
    return path


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("read", [read_image, read_label, read_header])
@pytest.mark.parametrize(
    ("sides", "mode", "options"),
    [
        ([(40, 30)] * 4, "L", {}),
        ([(40, 30)] * 2, "P", {}),
        ([(40, 30), (30, 40)], "RGB", {}),
        ([(40, 30), (20, 5)], "L", dict(compression="tiff_lzw")),
        ([(40, 30)] * 12, "L", dict(big_tiff=True)),
    ],
)
def test_several_pages_are_told_with_what_to_do(tmp_path, read, sides, mode, options):
    path = save_pages(tmp_path / "a b.tif", sides, mode, **options)
    with pytest.raises(UserError, match=rf"a b\.tif: has {len(sides)} pages; .*rio convert '") as e:
        read(path)
    assert "\n" not in str(e.value)


def test_masks_overviews_and_thumbnails_are_no_pages(tmp_path):
    size = dict(height=64, width=64, count=1, dtype="uint8")
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(tmp_path / "a.tif", "w", driver="GTiff", **PLACE, **size) as file,
    ):
        file.write(np.ones((1, 64, 64), np.uint8))
        file.write_mask(np.full((64, 64), 255, np.uint8))
        file.build_overviews([2, 4])
    save_pages(tmp_path / "b.tif", [(100, 67), (50, 33), (13, 9)])  # which says nothing of copies
    for name in ("a.tif", "b.tif"):
        assert read_image(tmp_path / name).shape[2] == 3
        read_label(tmp_path / name)


@pytest.mark.parametrize(("bands", "in_channels"), [(2, 3), (4, 3), (1, 4), (13, 3)])
def test_bands_fewer_or_more_than_asked_are_told(tmp_path, bands, in_channels):
    path = write(tmp_path / "a.tif", np.ones((bands, 8, 8), np.uint16))
    with pytest.raises(
        UserError, match=rf"has {bands} bands where {in_channels} are expected; set"
    ):
        read_image(path, in_channels)


def test_an_image_of_any_format_under_any_ending_is_read(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    formats = {"PNG": {}, "TIFF": {}, "BMP": {}, "WEBP": dict(lossless=True), "JPEG2000": {}}
    for content, options in formats.items():
        data = io.BytesIO()
        Image.fromarray(pixels).save(data, content, **options)
        for ending in ("png", "jpg", "tif", "TIFF", "jp2", "bmp", "dat"):
            path = tmp_path / f"{content}.{ending}"
            path.write_bytes(data.getvalue())
            np.testing.assert_array_equal(read_image(path), pixels, str(path))
            assert read_header(path).shape == (24, 32)
