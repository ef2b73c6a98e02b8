"""Where a JPEG ends whatever follows it, and how an image and its label are turned."""

import io
import shlex
import shutil
import struct
import subprocess

import cv2
import numpy as np
import pytest
from drawn import checked
from PIL import Image, ImageOps

from SSLRemoteSensing.core.errors import UnreadableImage, UserError
from SSLRemoteSensing.data.formats import orientation
from SSLRemoteSensing.data.images import read_header, read_image
from SSLRemoteSensing.data.segmentation import SegmentationDataset, TileSettings
from SSLRemoteSensing.workflows.doctor.images import ImageFacts
from SSLRemoteSensing.workflows.doctor.labels import TURNED, examine_label

RNG = np.random.default_rng(0)
TAIL = RNG.integers(0, 256, 100_000, np.uint8).tobytes()


def jpeg(side: int = 120, **options) -> bytes:
    pixels = RNG.integers(0, 256, (side, side, 3), np.uint8)
    data = io.BytesIO()
    Image.fromarray(cv2.GaussianBlur(pixels, (0, 0), 2)).save(data, "JPEG", **options)
    return data.getvalue()


def with_thumbnail(data: bytes) -> bytes:
    """`data` with a whole JPEG in its EXIF."""
    contents = b"Exif\0\0" + struct.pack("<4sIHI", b"II*\0", 8, 0, 0) + jpeg(40)
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(contents) + 2) + contents + data[2:]


KINDS = {
    "baseline": jpeg(),
    "progressive": jpeg(progressive=True),
    "restart markers": jpeg(restart_marker_blocks=2),
    "with a thumbnail": with_thumbnail(jpeg()),
    "with a comment of markers": jpeg(comment=b"\xff\xd9\xff\xda\xff\xd9"),
}
TAILS = {
    "nothing": b"",
    "zeros": bytes(4096),
    "a line end": b"\n",
    "a video": b"\0\0\0\x18ftypmp42" + TAIL,
    "scan markers": b"\xff\xda" * 9,
    "another picture": jpeg(60),
    "another picture, cut short": jpeg(60)[:-300],
    "fill bytes": b"\xff" * 7,
    "a start": b"\xff\xd8",
}


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_jpeg_is_read_whatever_follows_it(tmp_path, kind, tail):
    (tmp_path / "a.jpg").write_bytes(KINDS[kind] + TAILS[tail])
    expected = cv2.imdecode(np.frombuffer(KINDS[kind], np.uint8), cv2.IMREAD_COLOR_RGB)
    np.testing.assert_array_equal(read_image(tmp_path / "a.jpg"), expected)


@pytest.mark.parametrize("share", [0.4, 0.7, 0.98, "zeros", "thumbnail"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_jpeg_cut_off_before_its_end_is_refused(tmp_path, kind, share):
    data = KINDS[kind]
    cut = data.find(b"\xff\xd9") + 2 if share == "thumbnail" else len(data) // 2
    cut = int(len(data) * share) if isinstance(share, float) else min(cut, len(data) - 1)
    data = data[:cut] + (bytes(9999) if share == "zeros" else b"")
    (tmp_path / "a.jpg").write_bytes(data)
    with pytest.raises(UnreadableImage, match=r"a\.jpg: (is truncated|cannot be decoded)"):
        read_image(tmp_path / "a.jpg")


# ---------------------------------------------------------------------------------- orientation


def save(path, pixels, turn: int = 1, late: bool = False, **options):
    """An image with its orientation tag in the way of its format; `late`: after a PNG's pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[274] = turn
    key = dict(tiffinfo={274: turn}) if path.suffix == ".tif" else dict(exif=exif)
    Image.fromarray(pixels).save(path, **key if turn != 1 else {}, **options)
    if late:
        data = path.read_bytes()
        at, end = data.index(b"eXIf") - 4, data.index(b"IEND") - 4
        chunk = data[at : at + 12 + int.from_bytes(data[at : at + 4], "big")]
        path.write_bytes(data[:at] + data[at + len(chunk) : end] + chunk + data[end:])
    return path


WAYS = {
    "a.jpg": {},
    "b.jpg": dict(icc_profile=bytes(90_000), comment=b"x" * 999),
    "c.png": {},
    "d.png": dict(late=True),
    "e.tif": {},
    "f.tif": dict(big_tiff=True, compression="tiff_lzw"),
    "g.webp": {},
}


@pytest.mark.parametrize("turn", [1, 2, 6, 8])
@pytest.mark.parametrize("name", WAYS)
def test_the_tag_is_found_and_the_pixels_stay_as_stored(tmp_path, name, turn):
    pixels = np.full((20, 30, 3), 100, np.uint8)
    options = WAYS[name] if turn != 1 else {k: v for k, v in WAYS[name].items() if k != "late"}
    path = save(tmp_path / name, pixels, turn, **options)
    with path.open("rb") as file:
        assert orientation(file) == turn
    assert read_image(path).shape == (20, 30, 3)


@pytest.mark.parametrize("value", [0, 9, 65535])
@pytest.mark.parametrize("order", ["<", ">"])
def test_a_tag_that_means_nothing_turns_nothing(tmp_path, order, value):
    begin = b"II*\0" if order == "<" else b"MM\0*"
    tiff = begin + struct.pack(order + "IHHHIHHI", 8, 1, 274, 3, 1, value, 0, 0)
    path = tmp_path / "a.jpg"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path, exif=b"Exif\0\0" + tiff)
    for data in (path.read_bytes(), path.read_bytes()[:40], b"II*\0\x08\0\0\0\1", b""):
        assert orientation(io.BytesIO(data)) == 1


def draw_pair(folder, image: tuple[str, int], label: tuple[str, int]):
    """An image and its label, squares, each under (ending, orientation)."""
    rng = np.random.default_rng(0)
    save(folder / f"images/a.{image[0]}", rng.integers(0, 256, (64, 64, 3), np.uint8), image[1])
    save(folder / f"labels/a.{label[0]}", rng.integers(0, 2, (64, 64), np.uint8), label[1])


def opened(folder, ending: str) -> SegmentationDataset:
    settings = TileSettings(
        str(folder / "images"), str(folder / "labels"), label_format=f"{{stem}}.{ending}"
    )
    return SegmentationDataset(settings, num_classes=2)


@pytest.mark.parametrize(
    ("image", "label"),
    [
        (("jpg", 6), ("png", 1)),
        (("tif", 3), ("png", 1)),
        (("png", 8), ("tif", 1)),
        (("jpg", 6), ("tif", 8)),
        (("png", 1), ("tif", 5)),
    ],
    ids=str,
)
def test_a_pair_of_two_orientations_is_told_with_both_names(tmp_path, image, label):
    draw_pair(tmp_path, image, label)
    said = (
        rf"labels/a\.{label[0]}: has orientation {label[1]}, its image .*a\.{image[0]} {image[1]}"
    )
    with pytest.raises(UserError, match=said) as caught:
        opened(tmp_path, label[0])
    assert "\n" not in str(caught.value)
    header = read_header(tmp_path / f"images/a.{image[0]}")
    facts = ImageFacts(str(tmp_path / f"images/a.{image[0]}"), header)
    fault = examine_label((facts, str(tmp_path / f"labels/a.{label[0]}")))
    assert (fault.kind, fault.fault) == (TURNED, str(caught.value))
    flags = "--classes", "a", "b", "--splits", "val=0"
    told = checked(tmp_path, "folder", *flags, tile=64, status=1)
    assert f"a.{label[0]}: has orientation {label[1]}, its image " in told


def test_both_remedies_of_a_pair_of_two_orientations_work(tmp_path):
    draw_pair(tmp_path, ("jpg", 6), ("png", 1))
    image = tmp_path / "images/a.jpg"
    with pytest.raises(UserError) as caught:
        opened(tmp_path, "png")
    if shutil.which("exiftool"):
        command = str(caught.value).partition("remove the tag: ")[2]
        subprocess.run(shlex.split(command), check=True, capture_output=True)
        assert opened(tmp_path, "png").read(0)[0].shape == (64, 64, 3)
        image.with_name("a.jpg_original").replace(image)
    ImageOps.exif_transpose(Image.open(image)).save(image)
    assert opened(tmp_path, "png").read(0)[0].shape == (64, 64, 3)


@pytest.mark.parametrize(("image", "label"), [(("jpg", 6), ("png", 6)), (("tif", 3), ("tif", 3))])
def test_a_pair_of_one_orientation_is_read_as_stored(tmp_path, image, label):
    draw_pair(tmp_path, image, label)
    pixels, values = opened(tmp_path, label[0]).read(0)
    stored = np.asarray(Image.open(tmp_path / "labels/a.png")) if label[0] == "png" else values
    np.testing.assert_array_equal(values, stored)
    assert pixels.shape == (64, 64, 3)
