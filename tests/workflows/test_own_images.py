"""What a folder of one's own images is found to be."""

import cv2
import numpy as np
import pytest
import rasterio
from drawn import write_tiff

from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.data.scale import Scale, up_to
from SSLRemoteSensing.workflows.own_images import look_at_images, write_list

RNG = np.random.default_rng(5)


def draw(path, size=(48, 64), bands=3, dtype="uint8", top=None):
    """An image of random values up to `top`, by rasterio for TIFF, else by OpenCV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    top = top or (255 if dtype == "uint8" else 1)
    values = RNG.random((bands, *size)) * top
    values[0, 0, 0] = top
    planes = values.astype(dtype)
    if path.suffix == ".tif":
        shape = dict(height=size[0], width=size[1], count=bands, dtype=dtype)
        transform = rasterio.Affine(2, 0, 400_000, 0, -2, 5_000_000)
        photometric = {} if bands == 3 else {"photometric": "minisblack"}
        with rasterio.open(path, "w", **shape, transform=transform, **photometric) as file:
            file.write(planes)
        return path
    cv2.imwrite(str(path), planes.transpose(1, 2, 0).squeeze())
    return path


@pytest.fixture
def folder(tmp_path):
    for number in range(5):
        draw(tmp_path / f"mine/a{number}.png")
    return tmp_path / "mine"


def look(paths, tmp_path, **more):
    paths = [str(path) for path in (paths if isinstance(paths, list) else [paths])]
    return look_at_images(paths, tmp_path / "run", **more)


def test_a_folder_is_searched_for_all_its_images(folder, tmp_path):
    draw(folder / "deeper/b.png")
    images = look(folder, tmp_path)
    assert (images.data_path, images.data_format) == (str(folder), "**/*.png")
    assert (images.count, images.channels, images.dtype) == (6, 3, "uint8")
    assert (images.height, images.width, images.side) == (48, 64, 48)
    assert images.scale is None
    assert "6 in" in images.facts[0]
    assert "64 x 48 pixels" in images.facts[0]
    assert "(--bands)" in images.facts[1]


def test_of_several_endings_each_has_a_pattern(folder, tmp_path):
    draw(folder / "b.JPEG")
    draw(folder / "c.jpg")
    assert look(folder, tmp_path).data_format == ("**/*.jpg", "**/*.png")


def test_beside_labels_only_the_images_are_taken(folder, tmp_path):
    draw(tmp_path / "set/images/a.png")
    draw(tmp_path / "set/labels/a.png", bands=1)
    assert look(tmp_path / "set", tmp_path).data_path == str(tmp_path / "set/images")
    draw(folder / "masks/a.png", bands=1)
    with pytest.raises(UserError, match="masks lies there too; name the folder of the images"):
        look(folder, tmp_path)


def test_images_that_cannot_be_read_are_counted_passed_over_or_left_out(folder, tmp_path):
    broken = [folder / "a1.png", folder / "a3.png"]
    for file in broken:
        file.write_bytes(b"")
    remedy = r"or pass over it: the same command with --set train_cfg\S+=skip"
    with pytest.raises(
        UserError, match=f"2 of 5 looked at cannot be read, first .*a1.png.*{remedy}"
    ):
        look(folder, tmp_path)
    assert look(folder, tmp_path, skips=True).count == 5  # which the run then passes over
    listed = tmp_path / "exclude.txt"
    listed.write_text("\n".join(map(str, broken)))
    assert look(folder, tmp_path, exclude=str(listed)).count == 3
    files = [*folder.iterdir(), draw(tmp_path / "other/b.png")]
    assert look(files, tmp_path, exclude=str(listed)).count == 4
    for skips in (True, False):  # and what cannot help is not advised
        with pytest.raises(UserError) as told:
            look(broken, tmp_path, skips=skips)
        assert "or pass over" not in str(told.value)


def test_a_pattern_a_list_and_files(folder, tmp_path):
    images = look(f"{folder}/a[01].png", tmp_path)
    assert (images.data_path, images.data_format, images.count) == (str(folder), "a[01].png", 2)
    listing = tmp_path / "list.txt"
    listing.write_text("mine/a3.png\nmine/a1.png\nmine/a0.png\n")
    images = look(listing, tmp_path)
    assert (images.data_path, images.count) == (str(listing), 3)
    images = look([folder / "a2.png", folder / "a0.png"], tmp_path)
    assert (images.data_path, images.data_format) == (str(folder), ("a2.png", "a0.png"))


def test_files_of_several_folders_are_listed_in_the_run(folder, tmp_path):
    paths = [str(folder / "a1.png"), str(draw(tmp_path / "other/b.png")), str(folder / "a0.png")]
    images = look(paths, tmp_path)
    (tmp_path / "run").mkdir()
    write_list(images, paths, tmp_path / "run")
    assert images.data_path == str(tmp_path / "run/images.txt")
    assert (tmp_path / "run/images.txt").read_text().split() == paths


@pytest.mark.parametrize(
    ("bands", "asked", "channels"),
    [(1, None, 3), (3, None, 3), (4, None, 4), (7, None, 7), (7, (4, 3, 2), 3), (7, (5,), 3)],
)
def test_the_bands_make_the_channels(tmp_path, bands, asked, channels):
    draw(tmp_path / "mine/a.tif", bands=bands)
    assert look(tmp_path / "mine", tmp_path, bands=asked).channels == channels


@pytest.mark.parametrize(
    ("dtype", "top", "expected"),
    [
        ("uint8", 255, None), ("uint16", 1000, 1023), ("uint16", 3000, 4095),
        ("uint16", 9000, 10_000), ("uint16", 60_000, 65_535), ("int16", 9999, 10_000),
        ("float32", 0.9, 1), ("float32", 2000, 2047), ("float32", 70_000, 70_000),
    ],
)  # fmt: skip
def test_the_value_that_becomes_white_is_that_of_a_sensor(tmp_path, dtype, top, expected):
    draw(tmp_path / "mine/a.tif", dtype=dtype, top=top, size=(64, 64))
    images = look(tmp_path / "mine", tmp_path)
    top = images.scale and images.scale.max_value
    assert top == (expected if expected is None else pytest.approx(expected, rel=0.01))
    assert look(tmp_path / "mine", tmp_path, scale=up_to(500)).scale == up_to(500)


def test_mixed_kinds_are_told_apart(tmp_path):
    draw(tmp_path / "mine/a.tif", bands=4)
    draw(tmp_path / "mine/b.tif", bands=4)
    draw(tmp_path / "mine/c.tif", bands=7)
    with pytest.raises(UserError, match=r"2 with channels: 4 \(.*a.tif\), 1 with channels: 7"):
        look(tmp_path / "mine", tmp_path)
    draw(tmp_path / "mine/c.tif", bands=4, dtype="uint16", top=900)
    with pytest.raises(UserError, match=r"2 with values of uint8 .*, 1 with values of uint16"):
        look(tmp_path / "mine", tmp_path)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("none", "none: no such file or folder"),
        ("none/*.png", "none: no such folder"),
        ("mine/x*.png", "no image matches"),
        ("mine/a0.png,mine", "mine: is a folder; give one folder, or image files"),
        ("empty", "no image matches"),
    ],
)
def test_what_is_not_there_is_named(folder, tmp_path, path, message):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=message):
        look([tmp_path / part for part in path.split(",")], tmp_path)


def test_bands_and_values_that_cannot_be_are_refused(tmp_path):
    draw(tmp_path / "mine/a.tif", bands=4)
    with pytest.raises(UserError, match="--bands 1 5: the files have 4 bands"):
        look(tmp_path / "mine", tmp_path, bands=(1, 5))


def test_of_values_below_0_the_percentiles_are_taken_and_said(tmp_path):
    """Evenly spread from -40 to 0 in each of two bands, the second half as far."""
    for number in range(3):
        planes = RNG.uniform(-40, 0, (2, 80, 90)) * [[[1]], [[0.5]]]
        write_tiff(tmp_path / f"dark/{number}.tif", planes.astype(np.float32))
    images = look(tmp_path / "dark", tmp_path)
    np.testing.assert_allclose(images.scale.minimum, (-39.2, -19.6), atol=0.4)
    np.testing.assert_allclose(images.scale.maximum, (-0.8, -0.4), atol=0.3)
    line = next(fact for fact in images.facts if fact.startswith("scale: -"))
    assert line.endswith("2nd and 98th percentile of each band, become black and white (--scale)")
    assert look(tmp_path / "dark", tmp_path, scale="percentile").scale == images.scale
    stated = Scale((-25, -32), (0, -5))
    assert look(tmp_path / "dark", tmp_path, scale=stated).scale == stated
