"""What becomes of values that have a scale of their own in each band, and how it is found."""

from pathlib import Path

import numpy as np
import pytest
from drawn import write_png, write_tiff

from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.data.images import read_image
from SSLRemoteSensing.data.percentiles import percentile_scale
from SSLRemoteSensing.data.prepared import agreed_scale
from SSLRemoteSensing.data.pretext import PretextSettings, choose_images
from SSLRemoteSensing.data.reading import Reading, agreed_reading
from SSLRemoteSensing.data.scale import (
    Scale,
    checked_scale,
    read_scale,
    scale_card,
    scale_of_card,
    stated_scale,
    to_uint8,
    up_to,
)
from SSLRemoteSensing.data.values import check_values, values_of
from SSLRemoteSensing.data.windows import Window, read_window

DB = Scale((-25.0, -32.0), (0.0, -5.0))  # decibels of VV and VH
NAN = float("nan")


def db_planes(seed: int = 0, size: tuple[int, int] = (40, 50)) -> np.ndarray:
    """Decibels of VV about -12, of VH about -19, float32 (2, H, W)."""
    rng = np.random.default_rng(seed)
    return np.stack([rng.normal(mean, 3, size) for mean in (-12, -19)]).astype(np.float32)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, np.int32])
def test_each_band_has_ends_of_its_own(tmp_path, dtype):
    # Fifths of VV's 25 and of VH's 27 dB do not fall on halves of a grey level.
    planes = np.array([[[-25, -20, -5, 0, 3]], [[-32, -14, -5, -40, 1]]]).astype(dtype)
    image = read_image(write_tiff(tmp_path / "a.tif", planes), 2, scale=DB)
    assert image[0, :, 0].tolist() == [0, 51, 204, 255, 255]
    assert image[0, :, 1].tolist() == [0, 170, 255, 0, 255]


@pytest.mark.parametrize("dtype", [np.float64, np.int32])
def test_large_numbers_keep_their_units(tmp_path, dtype):
    """Which float32, whose neighbours are 64 apart there, does not have."""
    planes = 10**9 + np.array([[[0, 1, 100, 254, 255, 300]]]).astype(dtype)
    image = read_image(write_tiff(tmp_path / "a.tif", planes), 1, scale=Scale(10**9, 10**9 + 255))
    assert image[0, :, 0].tolist() == [0, 1, 100, 254, 255, 255]


def test_offsets_of_unsigned_values_are_taken_out(tmp_path):
    """As Sentinel-2's since 2022: 1000 is a reflectance of 0."""
    planes = np.array([[[0, 1000, 2000, 3550, 65535]], [[0, 1000, 1051, 1255, 9]]], np.uint16)
    scale = Scale(1000, (3550, 1255))
    image = read_image(write_tiff(tmp_path / "a.tif", planes), 2, scale=scale)
    assert image[0].T.tolist() == [[0, 0, 100, 255, 255], [0, 0, 51, 255, 0]]


def test_bytes_can_be_stretched_and_bands_are_chosen(tmp_path):
    planes = np.stack([np.full((1, 2), value, np.uint8) for value in (10, 20, 30)])
    tiff = write_tiff(tmp_path / "a.tif", planes)
    png = write_png(tmp_path / "a.png", planes.transpose(1, 2, 0))
    for file in (tiff, png):
        scale = Scale((20, 10), (40, 20))
        assert read_image(file, 2, (3, 1), scale)[0, 0].tolist() == [128, 0], file
    assert read_image(png, 3, scale=Scale(0, (100, 50, 255)))[0, 0].tolist() == [26, 102, 30]


@pytest.mark.parametrize(
    ("empty", "profile"),
    [(NAN, {}), (NAN, {"nodata": NAN}), (-99.0, {"nodata": -99}), (0.0, {"nodata": 0})],
)
def test_what_holds_no_data_becomes_0(tmp_path, empty, profile):
    """Also where the value of no data is 0, the brightest of decibels."""
    planes = db_planes()
    planes[:, 3, 4:9] = empty
    file = write_tiff(tmp_path / "a.tif", planes, **profile)
    image = read_image(file, 2, scale=DB)
    assert not image[3, 4:9].any()
    assert image[4:].all(2).mean() > 0.99
    part, valid = read_window(str(file), Window(2, 3, 10, 12, (10, 12)), 2, None, DB)
    np.testing.assert_array_equal(part, image[2:12, 3:15])
    assert np.flatnonzero(~valid[1]).tolist() == [1, 2, 3, 4, 5]


def test_one_number_stands_for_all_bands_and_grey_is_repeated(tmp_path):
    file = write_tiff(tmp_path / "a.tif", np.array([[-10, -5]], np.float32))
    assert read_image(file, 3, scale=Scale(-15, 0)).tolist() == [[[85] * 3, [170] * 3]]
    assert Scale((-1, -2), 5) == Scale([-1, -2], [5, 5])
    assert Scale(0, 1023) == up_to(1023)
    assert up_to(None) is None


@pytest.mark.parametrize(
    ("minimum", "maximum", "said"),
    [
        (1, 1, "minimum 1, maximum 1: the minimum must be below"),
        ((0, 5), (1, 4), "minimum 5, maximum 4"),
        (NAN, 1, "minimum nan"),
        (0, float("inf"), "both finite"),
        ((1, 2), (3, 4, 5), "minimum has 2 numbers, maximum 3"),
        ((), 1, "minimum has 0 numbers"),
    ],
)
def test_numbers_that_cannot_be_are_refused(minimum, maximum, said):
    with pytest.raises(UserError, match=f"scale: .*{said}"):
        Scale(minimum, maximum)


def test_another_number_of_bands_is_refused(tmp_path):
    file = write_tiff(tmp_path / "a.tif", np.zeros((3, 4, 4), np.float32))
    with pytest.raises(UserError, match=r"a.tif: 3 bands are taken of it, scale has numbers of 2"):
        read_image(file, 3, scale=DB)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"minimun": 0, "maximum": 1}, "unknown key 'minimun', did you mean 'minimum'?"),
        ({"minimum": 0}, "missing key 'maximum'"),
        ({"minimum": "low", "maximum": 1}, "scale.minimum: expected float"),
        ({"minimum": (0, "1"), "maximum": 1}, "scale.minimum: expected float"),
        ({"minimum": 0, "maximum": NAN}, "both finite"),
        ("percentil", "expected 'percentile' or a dict, not 'percentil'"),
        (10, "expected 'percentile' or a dict, not 10"),
    ],
)
def test_what_is_no_scale_is_refused_in_a_line(value, said):
    with pytest.raises(UserError) as error:
        checked_scale(value)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_damaged_card_is_refused_in_a_line():
    with pytest.raises(UserError, match="scale of the card: unknown key 'low'"):
        scale_of_card({"scale": {"low": 1, "high": 2}})
    with pytest.raises(UserError, match=r"dataset.json: scale: missing key 'maximum'"):
        agreed_scale({"root": "x", "scale": {"minimum": 1}}, None, None)


def test_a_flag_is_read_again_also_of_the_smallest_numbers():
    """argparse takes -1e-05 for a flag."""
    for scale in (DB, Scale(-1e-5, 2.5e-5), Scale(-3e17, 1e20), Scale(0, 1 / 3)):
        words = scale.flag().split()
        assert words[0] == "--scale"
        assert not any("e" in word for word in words[1:])
        assert read_scale(words[1:]) == scale


def test_channels_of_a_pixel_stay_beside_each_other():
    """As batches are laid out, and OpenCV wants it."""
    planes = np.arange(60, dtype=np.uint16).reshape(2, 5, 6)
    image = to_uint8(planes.transpose(1, 2, 0), Scale(0, (255, 510)), "a.tif")
    assert image.flags.c_contiguous
    np.testing.assert_array_equal(image[..., 0], planes[0])


def test_two_scales_are_refused():
    with pytest.raises(UserError, match="max_value=3, scale: both are given; leave one of them"):
        stated_scale(3, {"minimum": 0, "maximum": 1})
    with pytest.raises(UserError, match="both are given"):
        stated_scale(3, "percentile")


def test_a_card_keeps_a_scale():
    for scale in (None, up_to(1023), DB, Scale(1000, 4000)):
        assert scale_of_card(scale_card(scale)) == scale
    assert scale_card(up_to(1023)) == {"max_value": 1023}  # as earlier versions read it
    assert scale_card(DB)["scale"] == {"minimum": [-25, -32], "maximum": [0, -5]}


# ------------------------------------------------------------------------------------- found


def test_percentiles_are_those_of_each_band_where_it_holds_data(tmp_path):
    planes = [db_planes(seed, (300, 310)) for seed in range(3)]  # of which parts are read
    for number, values in enumerate(planes):
        written = values.copy()
        written[:, :100] = (NAN, -9999, -50)[number]  # no data; the last by the file's own word
        write_tiff(tmp_path / f"{number}.tif", written, **({"nodata": -50} if number == 2 else {}))
    files = [str(tmp_path / f"{number}.tif") for number in range(3)]
    scale = percentile_scale(files, 2, None)
    expected = np.percentile([part[:, 100:] for part in planes], (2, 98), axis=(0, 2, 3))
    np.testing.assert_allclose([scale.minimum, scale.maximum], expected, atol=0.15)
    assert percentile_scale(files, 1, (2,)) == scale.of([2])
    assert [len(str(abs(x))) for x in scale.minimum] == [5, 5]  # no more digits than tell apart


def test_a_rare_band_takes_its_ends_and_one_of_a_single_value_is_refused(tmp_path):
    planes = np.zeros((2, 20, 20), np.float32)
    planes[0, 0, :3], planes[1, 5:] = 0.5, 0.25
    file = str(write_tiff(tmp_path / "a.tif", planes))
    assert percentile_scale([file], 2, None) == Scale(0, (0.5, 0.25))
    planes[1] = 7
    write_tiff(tmp_path / "a.tif", planes)
    with pytest.raises(UserError, match="band 2 holds one value alone, 7, in 1 files"):
        percentile_scale([file], 2, None)
    Path(file).write_bytes(b"II*\0 no more")
    with pytest.raises(UserError, match="no file can be read that holds data"):
        percentile_scale([file], 2, None)


def test_fill_values_of_floats_count_for_nothing(tmp_path):
    planes = db_planes(size=(60, 60))
    expected = np.percentile(planes, (2, 98), axis=(1, 2))
    for number, fill in enumerate((3.4e38, -3.4e38, 9.96921e36, float("inf"))):
        planes[:, number * 9 : number * 9 + 9] = fill
    planes[:, 36:40] = NAN
    scale = percentile_scale([str(write_tiff(tmp_path / "a.tif", planes))], 2, None)
    np.testing.assert_allclose([scale.minimum, scale.maximum], expected, atol=1)


def test_complex_values_have_no_percentiles(tmp_path):
    file = write_tiff(tmp_path / "a.tif", np.zeros((1, 8, 8), np.complex64))
    with pytest.raises(UserError, match=r"a.tif: holds complex64; save real values"):
        percentile_scale([str(file)], 3, None)
    assert values_of(str(file)).size == 64  # a remedy may be looked for in them all the same


def test_photographs_have_percentiles_too(tmp_path):
    image = np.random.default_rng(0).integers((0, 40, 80), (100, 90, 200), (60, 60, 3))
    file = str(write_png(tmp_path / "a.png", image.astype(np.uint8)))
    expected = np.percentile(image, (2, 98), axis=(0, 1))
    scale = percentile_scale([file], 3, None)
    np.testing.assert_allclose([scale.minimum, scale.maximum], expected, atol=1)


# -------------------------------------------------------------------------------- in a config


def test_other_parts_take_the_numbers_of_train_data():
    of_file = ("a.tif", "float32", 2)
    train = Reading(DB, None, *of_file)
    assert agreed_reading(Reading(None, None, *of_file), train).scale == DB
    other = Reading(Scale((-25, -32), (0, -6)), None, *of_file)
    said = r"maximum=\(0, -6\).*it is scale=dict\(minimum=\(-25, -32\)"
    with pytest.raises(UserError, match=said):
        agreed_reading(other, train)


def test_prepared_sets_of_different_numbers_are_told(capsys):
    """As percentiles that each set found for itself; not where max_value says what becomes 1."""
    of_file = (None, "a.tif", "float32", 2, True)
    narrow = Scale((-25, -32), (0, -6))
    assert agreed_reading(Reading(narrow, *of_file), Reading(DB, *of_file)).scale == narrow
    assert "unless that is meant, prepare it with --scale -25 0 -32 -5" in capsys.readouterr().err
    for own, train in ((DB, DB), (up_to(3), up_to(5)), (None, DB)):
        assert agreed_reading(Reading(own, *of_file), Reading(train, *of_file)).scale == own
    assert not capsys.readouterr().err


def test_tiles_of_a_prepared_set_have_its_numbers(tmp_path):
    card = {"root": tmp_path, "scale": DB.numbers()}
    assert agreed_scale(card, None, None) == DB
    assert agreed_scale(card, None, (2,)) == Scale(-32, -5)
    with pytest.raises(UserError, match=r"max_value=3: .* was prepared with scale=dict.* leave it"):
        agreed_scale(card, up_to(3), None)


def settings(folder: Path, **changes) -> PretextSettings:
    transforms = dict(transforms_cfg={}, shortcut_cfg=None)
    given = dict(img_size=32, inpainting_transforms_cfg={}, pre_transforms_cfg={})
    given |= dict(agr_transforms_cfg=transforms, data_format="*.tif")
    return PretextSettings(str(folder), **given | changes)


def test_what_is_clipped_is_told_and_mostly_negative_values_have_a_remedy(tmp_path, capsys):
    for seed in range(4):
        write_tiff(tmp_path / f"{seed}.tif", db_planes(seed))
    files, wrong = choose_images(settings(tmp_path, max_value=5), 2)
    check_values(files, 2, wrong, "train_data")
    said = capsys.readouterr().err
    assert "set scale='percentile' in place of max_value" in said
    _, right = choose_images(settings(tmp_path, scale="percentile"), 2)
    check_values(files, 2, right, "train_data")
    done = capsys.readouterr()
    assert "train_data: 2.0% of the values lie below scale and 2.0% above; clipped" in done.out
    assert not done.err
    narrow = dict(minimum=(-12, -19), maximum=(-11.5, -18.5))
    check_values(files, 2, choose_images(settings(tmp_path, scale=narrow), 2)[1], "train_data")
    assert "lie below scale" in capsys.readouterr().err


def test_values_that_no_max_value_tells_apart_are_told_apart_by_percentiles(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for number in range(4):
        write_tiff(tmp_path / f"{number}.tif", rng.uniform(290, 300, (2, 40, 40)).astype("f4"))
    files, kelvin = choose_images(settings(tmp_path, max_value=400), 2)
    check_values(files, 2, kelvin, "train_data")
    remedy = "no max_value tells them apart: set scale='percentile' in place of max_value"
    assert remedy in capsys.readouterr().err
    check_values(files, 2, choose_images(settings(tmp_path, scale="percentile"), 2)[1], "here")
    assert not capsys.readouterr().err
