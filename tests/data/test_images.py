"""Any image becomes uint8 (H, W, bands) with the right values; a damaged one is named."""

import struct
import zlib

import cv2
import numpy as np
import pytest
import rasterio
from affine import Affine
from conftest import DATA
from drawn import png_chunk, write_tiff
from PIL import Image

from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.data.images import (
    encode_png,
    read_header,
    read_image,
    read_label,
    write_png,
)
from SSLRemoteSensing.data.scale import up_to

HEIGHT, WIDTH = 12, 10
RGB = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
LEFT, RIGHT = (200, 40, 90), (30, 160, 220)
LOSSLESS = ["png", "tif"]


def two_colours(size: int = 32) -> np.ndarray:
    """Left half one colour, right half another, so that JPEG keeps the values well."""
    image = np.empty((size, size, 3), np.uint8)
    image[:, : size // 2], image[:, size // 2 :] = LEFT, RIGHT
    return image


def save(path, image, **options):
    """Write an array or a Pillow image by Pillow; a TIFF has no georeference then."""
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(path, **options)
    return path


def save_geotiff(path, image, **options):
    """Write (H, W, bands) as a GeoTIFF."""
    height, width, count = image.shape
    profile = dict(height=height, width=width, count=count, dtype=image.dtype)
    profile |= dict(driver="GTiff", crs="EPSG:32633", transform=Affine(1, 0, 5e5, 0, -1, 5e6))
    with rasterio.open(path, "w", **profile, **options) as file:
        file.write(image.transpose(2, 0, 1))
    return path


def uint16(bands: int, highest: int = 65535) -> np.ndarray:
    image = np.random.default_rng(1).integers(0, highest, (HEIGHT, WIDTH, bands), endpoint=True)
    image[0, 0] = 0
    image[0, 1] = highest
    return image.astype(np.uint16)


def check(image: np.ndarray, expected: np.ndarray, within: float = 0) -> None:
    assert image.dtype == np.uint8
    assert image.shape == expected.shape
    assert np.abs(image.astype(float) - expected).max() <= within


@pytest.mark.parametrize("name", ["a.jpg", "a.JPG", "a.jpeg"])
def test_jpeg_is_read_as_red_green_blue_also_with_bytes_after_its_end(tmp_path, name):
    file = save(tmp_path / name, two_colours(), quality=95, subsampling=0)
    for ending in (b"", bytes(16)):
        file.write_bytes(file.read_bytes() + ending)
        check(read_image(file), two_colours(), within=4)


PALETTE = Image.fromarray(RGB).quantize(8)
BITS = RGB[:, :, :1] > 127
GREY = RGB[:, :, :1].repeat(3, axis=2)
KINDS = {  # an image as Pillow has it, and what it is read as
    "colour": (RGB, RGB),
    "grey": (RGB[:, :, 0], GREY),
    "palette": (PALETTE, np.asarray(PALETTE.convert("RGB"))),
    "colour and alpha": (np.concatenate([RGB, RGB[:, :, :1] // 2], 2), RGB * (RGB[:, :, :1] > 1)),
    "grey and alpha": (RGB[:, :, :2].copy(), GREY * (RGB[:, :, 1:2] > 0)),
    "one bit": (BITS[:, :, 0], BITS.repeat(3, axis=2) * 255),
}


@pytest.mark.parametrize("max_value", [None, 255])
@pytest.mark.parametrize("ending", LOSSLESS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("error::rasterio.errors.NotGeoreferencedWarning")
def test_a_lossless_image_becomes_red_green_blue(tmp_path, kind, ending, max_value):
    image, expected = KINDS[kind]
    file = save(tmp_path / f"a.{ending}", image)
    check(read_image(file, scale=up_to(max_value)), expected)
    if kind == "grey":
        check(read_image(file, in_channels=1, scale=up_to(max_value)), RGB[:, :, :1])


@pytest.mark.parametrize("ending", ["tiff", "TIF", "bmp"])
def test_other_endings_are_known(tmp_path, ending):
    check(read_image(save(tmp_path / f"a.{ending}", RGB)), RGB)


@pytest.mark.parametrize(("ending", "within"), [("jpg", 3), ("tif", 1)])
def test_cmyk_is_converted(tmp_path, ending, within):
    inks = np.full((16, 16, 4), (10, 60, 110, 30), np.uint8)
    file = save(tmp_path / f"a.{ending}", Image.fromarray(inks, mode="CMYK"))
    expected = (255 - inks[:, :, :3]) * ((255 - 30) / 255)
    check(read_image(file), expected, within=within)


@pytest.mark.parametrize("bands", [1, 3])
@pytest.mark.parametrize(("max_value", "highest"), [(None, 65535), (1023, 1023)])
@pytest.mark.parametrize("ending", LOSSLESS)
def test_16_bits_are_scaled_to_8(tmp_path, ending, bands, max_value, highest):
    values, file = uint16(bands, highest), tmp_path / f"a.{ending}"
    if ending == "tif":
        save_geotiff(file, values)
    else:
        cv2.imwrite(str(file), values[:, :, ::-1])
    expected = np.rint(values * (255 / highest)).repeat(3 // bands, axis=2)
    image = read_image(file, scale=up_to(max_value))
    # OpenCV takes the upper byte of a 16-bit PNG, which is up to one level off.
    check(image, expected, within=1 if (ending, max_value) == ("png", None) else 0)
    assert (image[0, 0] == 0).all()
    assert (image[0, 1] == 255).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(
    ("bands", "profile", "arguments", "wanted"),
    [
        (3, dict(photometric="RGB"), {}, [0, 1, 2]),
        # rasterio marks the fourth band of a uint8 file as alpha unless told otherwise.
        (4, {}, dict(in_channels=4), [0, 1, 2, 3]),
        (4, {}, dict(bands=(4, 1, 2)), [3, 0, 1]),
        (4, dict(photometric="RGB", alpha="YES"), {}, [0, 1, 2]),
    ],
)
def test_bands_of_a_geotiff(tmp_path, dtype, bands, profile, arguments, wanted):
    values = uint16(bands, 255).astype(dtype)
    file = save_geotiff(tmp_path / "a.tif", values, **profile)
    check(read_image(file, scale=up_to(255), **arguments), values[:, :, wanted])
    if dtype == np.uint8:
        check(read_image(file, **arguments), values[:, :, wanted])


@pytest.mark.parametrize("ending", LOSSLESS)
def test_bands_are_selected_and_ordered(tmp_path, ending):
    file = save(tmp_path / f"a.{ending}", RGB)
    check(read_image(file, bands=(3, 2, 1)), np.ascontiguousarray(RGB[:, :, ::-1]))
    check(read_image(file, in_channels=1, bands=[2]), RGB[:, :, 1:2])


@pytest.mark.parametrize("bands", [(0, 1, 2), (2, 3, 4), ()])
@pytest.mark.parametrize("ending", LOSSLESS)
def test_bands_that_the_file_lacks_are_named(tmp_path, ending, bands):
    file = save(tmp_path / f"a.{ending}", RGB)
    with pytest.raises(UserError, match=rf"a\.{ending}.*bands=.*1 to 3"):
        read_image(file, bands=bands)


@pytest.mark.parametrize(("has", "wants"), [(4, 3), (3, 4), (5, 3), (2, 4)])
def test_another_number_of_bands_is_named(tmp_path, has, wants):
    file = save_geotiff(tmp_path / "a.tif", uint16(has))
    with pytest.raises(UserError, match=rf"a\.tif.*has {has} bands where {wants} are expected"):
        read_image(file, in_channels=wants)


def test_the_orientation_tag_of_a_photograph_is_left_alone(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown a quarter turn clockwise
    file = save(tmp_path / "a.jpg", two_colours()[:16], exif=exif)
    assert read_image(file).shape == (16, 32, 3)


def smooth(size: int = 64) -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 2)


SHARES = [0, 0.002, 0.01, 0.1, 0.5, 0.9]
JPEGS = [("jpg", {}), ("jpg", dict(progressive=True))]
# Less two bytes, a PNG lacks but a part of the check sum of its empty last chunk.
CUTS = [(kind, share) for kind in (*JPEGS, ("png", {}), ("tif", {})) for share in SHARES]
CUTS += [(kind, "less 2 bytes") for kind in JPEGS]


@pytest.mark.parametrize(("kind", "share"), CUTS, ids=str)
def test_a_truncated_image_is_refused_by_name(tmp_path, kind, share):
    ending, options = kind
    whole = save(tmp_path / f"whole.{ending}", smooth(), **options).read_bytes()
    file = tmp_path / f"cut.{ending}"
    file.write_bytes(whole[:-2] if share == "less 2 bytes" else whole[: int(len(whole) * share)])
    with pytest.raises(UserError, match=rf"cut\.{ending}"):
        read_image(file)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif"])
def test_a_missing_or_text_file_is_refused_by_name(tmp_path, name):
    with pytest.raises(UserError, match=rf"{name}.*No such file"):
        read_image(tmp_path / name)
    (tmp_path / name).write_text("not an image\n")
    with pytest.raises(UserError, match=name):
        read_image(tmp_path / name)


@pytest.mark.parametrize(
    ("dtype", "max_value", "said"),
    [
        *(
            (dtype, None, rf"a\.tif.*{dtype}.*max_value")
            for dtype in ("float32", "float64", "int16")
        ),
        *(("uint16", max_value, f"max_value={max_value}") for max_value in (0, -1)),
    ],
)
def test_floating_point_and_signed_data_need_a_max_value_above_0(tmp_path, dtype, max_value, said):
    file = save_geotiff(tmp_path / "a.tif", np.ones((4, 4, 3), dtype))
    with pytest.raises(UserError, match=said):
        read_image(file, scale=up_to(max_value))


@pytest.mark.parametrize(
    ("values", "dtype", "max_value", "expected"),
    [
        ((0, 512, 1023, 1024, 65535), np.uint16, 1023, (0, 128, 255, 255, 255)),
        ((-9999, 0, 500, 1000, 32767), np.int16, 1000, (0, 0, 128, 255, 255)),
        ((0, 0.5, 1, 7, -3, np.nan, np.inf), np.float32, 1, (0, 128, 255, 255, 0, 0, 255)),
        ((0, 0.5, 1, 7, -3, np.nan, np.inf), np.float64, 1, (0, 128, 255, 255, 0, 0, 255)),
    ],
)
def test_values_are_scaled_and_clipped_and_nan_becomes_0(
    tmp_path, values, dtype, max_value, expected
):
    file = save_geotiff(tmp_path / "a.tif", np.array(values, dtype)[None, :, None])
    assert read_image(file, 1, scale=up_to(max_value)).ravel().tolist() == list(expected)


def test_headers_say_what_decoding_gives(tmp_path):
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 255, (20, 30, 3), np.uint8)
    image = Image.fromarray(colours)
    cases = {
        "rgb.png": ("RGB", {}, 3),
        "grey.png": ("L", {}, 1),
        "palette.png": ("P", {}, 3),
        "alpha.png": ("RGBA", {}, 4),
        "rgb.jpg": ("RGB", {}, 3),
        "grey.jpg": ("L", {}, 1),
        "progressive.jpg": ("RGB", {"progressive": True}, 3),
        "exif.jpg": ("RGB", {"exif": b"Exif\0\0" + bytes(500)}, 3),
        "rgb.tif": ("RGB", {}, 3),
        "rgb.bmp": ("RGB", {}, 3),
    }
    for name, (mode, options, bands) in cases.items():
        header = read_header(save(tmp_path / name, image.convert(mode), **options))
        assert (header.shape, header.bands, header.dtype) == ((20, 30), bands, "uint8"), name
    cv2.imwrite(str(tmp_path / "deep.png"), colours.astype(np.uint16))
    assert read_header(tmp_path / "deep.png").dtype == "uint16"
    assert read_header(save_geotiff(tmp_path / "deep.tif", uint16(4))).dtype == "uint16"
    (tmp_path / "short.jpg").write_bytes((tmp_path / "rgb.jpg").read_bytes()[:30])
    with pytest.raises(UserError, match=r"short\.jpg"):
        read_header(tmp_path / "short.jpg")


@pytest.mark.parametrize("compression", [None, 6])
@pytest.mark.parametrize("pixels", [RGB, RGB[:, :, 0], RGB.astype(np.uint16) * 257])
def test_a_png_comes_back_as_it_was(tmp_path, pixels, compression):
    write_png(tmp_path / "a.png", pixels, compression)
    assert (tmp_path / "a.png").read_bytes() == encode_png(pixels, compression)
    back = cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(back[:, :, ::-1] if back.ndim == 3 else back, pixels)


def indices() -> np.ndarray:
    label = np.random.default_rng(0).integers(0, 6, (HEIGHT, WIDTH), dtype=np.uint8)
    label[0, :4] = 0, 1, 5, 255
    return label


@pytest.mark.parametrize("kind", ["grey", "palette", "one bit"])
@pytest.mark.parametrize("ending", LOSSLESS)
def test_a_label_keeps_its_indices(tmp_path, ending, kind):
    values = indices() > 2 if kind == "one bit" else indices()
    image = Image.fromarray(values)
    if kind == "palette":
        image.putpalette(np.random.default_rng(0).integers(0, 256, 768, dtype=np.uint8).tobytes())
    label = read_label(save(tmp_path / f"a.{ending}", image))
    assert label.dtype == np.uint8
    np.testing.assert_array_equal(label, values)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.int32])
def test_a_label_of_any_integer_type_keeps_its_values(tmp_path, dtype):
    label = read_label(save_geotiff(tmp_path / "a.tif", indices()[:, :, None].astype(dtype)))
    assert label.dtype == np.uint8
    np.testing.assert_array_equal(label, indices())


def test_a_two_bit_grey_label_keeps_its_values(tmp_path):
    row = b"\0" + bytes([0b00_01_10_11])  # filter 0, then 4 pixels: 0, 1, 2, 3
    header = struct.pack(">IIBBBBB", 4, 1, 2, 0, 0, 0, 0)
    chunks = {b"IHDR": header, b"IDAT": zlib.compress(row), b"IEND": b""}
    parts = [png_chunk(name, data) for name, data in chunks.items()]
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    assert read_label(tmp_path / "a.png").tolist() == [[0, 1, 2, 3]]


@pytest.mark.parametrize(
    ("values", "said"),
    [(RGB, "colours"), (np.array([[[0], [256]]], np.uint16), "outside 0 to 255, 0 to 256")],
)
def test_a_label_of_colours_or_values_beyond_a_byte_is_refused_by_name(tmp_path, values, said):
    with pytest.raises(UserError, match=rf"a\.tif.*{said}"):
        read_label(save_geotiff(tmp_path / "a.tif", values))


@pytest.mark.parametrize("share", [0, 0.1, 0.5])
@pytest.mark.parametrize("ending", LOSSLESS)
def test_a_missing_or_truncated_label_is_refused_by_name(tmp_path, ending, share):
    noise = np.random.default_rng(0).integers(0, 6, (64, 64), dtype=np.uint8)
    whole = save(tmp_path / f"whole.{ending}", noise).read_bytes()
    file = tmp_path / f"cut.{ending}"
    with pytest.raises(UserError, match=rf"cut\.{ending}.*not found"):
        read_label(file)
    file.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(UserError, match=rf"cut\.{ending}"):
        read_label(file)


def real_file(pattern: str):
    files = sorted(DATA.glob(pattern))
    if not files:
        pytest.skip(f"no {pattern} under {DATA}")
    with rasterio.open(files[0]) as file:
        return files[0], file.read().transpose(1, 2, 0)


def test_a_real_naip_tile_has_four_bands():
    file, values = real_file("naip/*.tif")
    check(read_image(file, in_channels=4), values)
    check(read_image(file, bands=(4, 1, 2)), values[:, :, [3, 0, 1]])


def test_a_real_landsat_tile_is_scaled_from_10_bits():
    file, values = real_file("landsat_clouds/test/mss/*_mss.tiff")
    assert values.dtype == np.uint16
    expected = np.rint(np.minimum(values, 1023) * (255 / 1023))
    image = read_image(file, in_channels=values.shape[2], scale=up_to(1023))
    check(image, expected)
    assert image.max() > 100


@pytest.mark.parametrize("ending", [".webp", ".gif", ".png"])
def test_what_is_transparent_is_0_in_any_format(tmp_path, ending):
    pixels = np.full((16, 16, 4), 200, np.uint8)
    pixels[:, :4, 3] = 0
    options = {"lossless": True} if ending == ".webp" else {}
    Image.fromarray(pixels).save(tmp_path / f"a{ending}", **options)
    image = read_image(tmp_path / f"a{ending}")
    assert (image[:, :4] == 0).all()
    assert (image[:, 4:] == 200).all()


@pytest.mark.parametrize(
    ("dtype", "nodata"),
    [("int16", -9999), ("uint16", 65535), ("float32", float("nan")), ("int8", -1)],
)
def test_a_label_s_nodata_value_that_is_no_class_is_not_scored(tmp_path, dtype, nodata):
    values = np.array([[nodata, 0, 2]] * 16, dtype).repeat(8, 1)
    write_tiff(tmp_path / "l.tif", values[None], nodata=nodata)
    assert read_label(tmp_path / "l.tif")[0, ::8].tolist() == [255, 0, 2]
