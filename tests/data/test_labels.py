"""Label colours and label values become classes, or are refused, never guessed in silence."""

import re
from collections import Counter

import cv2
import numpy as np
import pytest
from drawn import coloured, draw_classes, draw_image, write_tiff

from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.data.labels import (
    ColourCoding,
    ValueCoding,
    count_values,
    detect_coding,
    value_coding,
)
from SSLRemoteSensing.data.segmentation import SegmentationDataset, TileSettings
from SSLRemoteSensing.preparation.isprs import PALETTE
from SSLRemoteSensing.preparation.levir_cs import coding as levir_coding
from SSLRemoteSensing.workflows.finetuning import trained_coding

ISPRS = ColourCoding(PALETTE)


def planes(*colours) -> np.ndarray:
    """One pixel of each colour, (3, 1, N)."""
    return np.array(colours, np.uint8).T[:, None]


def counted(**values: int) -> np.ndarray:
    """Counts of values given as v0=10, v255=3."""
    counts = np.zeros(256, np.int64)
    for name, count in values.items():
        counts[int(name[1:])] = count
    return counts


@pytest.fixture(scope="module")
def lossy() -> tuple[np.ndarray, np.ndarray]:
    """Classes and their colours after lossy storage, as the published label of 4_12 has them."""
    classes = draw_classes((600, 600), block=60)
    noise = np.random.default_rng(0).integers(-6, 7, (600, 600, 3))
    rgb = np.clip(coloured(classes).transpose(1, 2, 0) + noise, 0, 255).astype(np.uint8)
    stored = cv2.imencode(".jpg", rgb[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 60])[1]
    return classes, np.ascontiguousarray(
        cv2.imdecode(stored, cv2.IMREAD_COLOR)[:, :, ::-1].transpose(2, 0, 1)
    )


def test_a_lossy_label_decodes_though_exact_matching_finds_nearly_nothing(lossy):
    classes, colours = lossy
    assert len(np.unique(colours.reshape(3, -1), axis=1).T) > 2000
    exact = (colours == coloured(classes)).all(0).mean()
    decoded, counts = ISPRS.decode(colours)
    assert exact < 0.15
    assert (decoded == classes).mean() > 0.98
    summary = ISPRS.summary(counts)
    assert summary["inexact"] > 0.85 * classes.size
    assert summary["unknown"] < 0.01 * classes.size


def test_colours_of_the_lossy_label_that_are_far_from_any_are_spread_thin(lossy):
    classes, colours = lossy
    _, counts = ISPRS.decode(colours)
    strangers = ISPRS.strangers(colours)
    far = ISPRS.summary(counts)["far"]
    assert 0 < far < 0.1 * classes.size
    assert strangers.most_common(1)[0][1] < 0.004 * classes.size


@pytest.mark.parametrize(
    ("colour", "expected"),
    [
        ((255, 255, 255), 0),
        ((0, 0, 255), 1),
        ((0, 255, 255), 2),
        ((0, 255, 0), 3),
        ((255, 255, 0), 4),
        ((255, 0, 0), 5),
        ((0, 0, 0), 255),  # eroded
        ((255, 0, 255), 255),  # of no class
        ((252, 255, 0), 4),  # cars of 6_7
        ((128, 128, 127), 4),  # at the threshold
        ((127, 128, 127), 3),
    ],
)
def test_every_corner_of_the_colour_cube_has_its_class(colour, expected):
    decoded, counts = ISPRS.decode(planes(colour))
    assert decoded.dtype == np.uint8
    assert decoded.tolist() == [[expected]]
    assert counts.sum() == 1


def test_black_is_not_scored_and_magenta_is_unknown_and_both_are_counted():
    drawn = planes((0, 0, 0), (0, 0, 0), (255, 0, 255), (252, 255, 0), (255, 255, 0), (90, 3, 255))
    summary = ISPRS.summary(ISPRS.decode(drawn)[1])
    assert summary["not_scored"] == 2
    assert summary["unknown"] == 1
    assert summary["pixels"] == [0, 1, 0, 0, 2, 0]
    assert summary["inexact"] == 2
    assert summary["far"] == 1
    assert ISPRS.strangers(drawn) == Counter({(90, 3, 255): 1})


def test_black_can_be_a_class():
    coding = ColourCoding([(0, 0, 0), (255, 0, 0)])
    decoded, counts = coding.decode(planes((0, 0, 0), (3, 0, 9), (255, 0, 0)))
    assert decoded.tolist() == [[0, 0, 1]]
    assert coding.summary(counts)["not_scored"] == 0


@pytest.mark.parametrize(
    "palette", [[(0, 0, 0), (0, 0, 0)], [(0, 0, 0), (255, 128, 0)], [(0, 0, 0), (1, 0, 0)]]
)
def test_a_palette_that_a_threshold_cannot_tell_apart_is_refused(palette):
    with pytest.raises(UserError, match="palette"):
        ColourCoding(palette)


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (200, 300), (4097, 4099)])
def test_a_count_of_values_is_bincount_also_beyond_what_a_float_counts(shape):
    values = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    if values.size > 2**24:
        values[:] = 1
        values[0, :3] = 2
    counts = count_values(values)
    assert np.array_equal(counts, np.bincount(values.ravel(), minlength=256))
    assert counts.dtype == np.int64


@pytest.mark.parametrize(
    ("counts", "num_classes", "said", "classes"),
    [
        (dict(v0=5, v1=5, v5=1, v255=90), 6, "", {0: 0, 5: 5, 255: 255, 7: 255}),
        (
            dict(v0=10, v1=50, v2=50, v3=50, v4=50, v5=50, v6=50), 6,
            r"there: 0 is taken as not scored .*label_offset=-1", {0: 255, 1: 0, 6: 5, 7: 255},
        ),
        (
            dict(v0=5, v128=5, v255=1), 3,
            "there: the values 0, 128, 255 are taken as the classes 0, 1, 2",
            {0: 0, 128: 1, 255: 2},
        ),
    ],
)  # fmt: skip
def test_a_coding_is_detected_and_one_that_is_not_ours_is_said(counts, num_classes, said, classes):
    coding, remark = detect_coding(counted(**counts), num_classes, "there")
    assert bool(remark) == bool(said)
    assert re.search(said, remark)
    decoded, found = coding.decode(np.array([[list(classes)]], np.uint8))
    assert decoded.tolist() == [list(classes.values())]
    assert coding.summary(found)["values"] == sorted(classes)


CODES = {2: r"=\(0, 255\)", 3: r"=\(0, 128, 255\)", 6: r"=\(...\), a value for each of the 6 .*"}


@pytest.mark.parametrize(
    ("counts", "num_classes", "said"),
    [
        # 0 is much of all pixels; 0 and K alone may be a mask of a class or a wrong `classes`.
        (dict(v0=40, v1=30, v2=30), 2, "there: .*0 .*40%.*label_offset=-1"),
        (dict(v0=5, v6=95), 6, "there: value 6"),
        *(
            (dict(v0=5, v255=5), num_classes, f"label_codes{codes} or label_offset=0")
            for num_classes, codes in CODES.items()
        ),
        (dict(v0=5, v128=5, v255=1), 2, "128"),
        (dict(v0=5, v1=5, v7=1, v9=1), 6, "there: values 7, 9 where classes are 0 to 5"),
        (dict(v1=5, v7=1), 6, "there: value 7 where"),
        (dict(v0=5, v1=50, v6=5, v255=1), 6, "value 6"),  # 0 and 255 both as not scored
    ],
)
def test_values_that_are_no_class_or_have_two_meanings_are_refused(counts, num_classes, said):
    with pytest.raises(UserError, match=said):
        detect_coding(counted(**counts), num_classes, "there")


@pytest.mark.parametrize(
    ("num_classes", "given", "classes"),
    [
        (2, dict(label_codes=(0, 255)), {0: 0, 255: 1, 1: -1}),
        (3, dict(label_codes=(255, 0, 128)), {0: 1, 128: 2, 255: 0}),
        (2, dict(label_offset=0), {0: 0, 1: 1, 2: -1, 254: -1, 255: 255}),
        (2, dict(label_offset=-1), {0: 255, 1: 0, 2: 1, 3: -1, 255: 255}),
    ],
)
def test_codes_or_an_offset_are_taken_as_stated_and_other_values_are_unknown(
    num_classes, given, classes
):
    coding = value_coding(num_classes, **given)
    assert coding.table[list(classes)].tolist() == list(classes.values())
    decoded, _ = coding.decode(np.array([[list(classes)]], np.uint8))
    assert decoded.tolist() == [[255 if k == -1 else k for k in classes.values()]]


@pytest.mark.parametrize(
    ("given", "match"),
    [
        (dict(label_offset=-1, label_codes=(0, 1)), "both"),
        (dict(label_codes=(0, 1, 2)), "label_codes"),
        (dict(label_codes=(0, 0)), "label_codes"),
        (dict(label_codes=(0, 256)), "label_codes"),
        (dict(label_codes=(-1, 3)), "label_codes"),
        (dict(label_offset=1), "label_offset"),
        (dict(label_offset=-2), "label_offset"),
    ],
)
def test_a_stated_coding_that_cannot_be_is_refused(given, match):
    with pytest.raises(UserError, match=match):
        value_coding(2, **given)


@pytest.mark.parametrize("codes", [(0, 1, 2), (0, 128, 255)])
def test_levir_cs_has_two_codings_of_one_meaning(codes):
    coding = levir_coding()
    assert isinstance(coding, ValueCoding)
    assert coding.decode(np.array([[codes]], np.uint8))[0].tolist() == [[0, 1, 2]]


def labels_with(folder, dtype: str, **profile) -> dict[str, str]:
    """Images, and labels of 0, 1 and 2, the last rows of which are `dtype`'s -9999 or 255."""
    for number in range(2):
        values = np.full((20, 16), 1, dtype)
        values[:2], values[8:14], values[16:] = 0, 2, profile.get("nodata", 255)
        write_tiff(folder / f"images/{number}.tif", draw_image(3, values.shape, number))
        write_tiff(folder / f"labels/{number}.tif", values, **profile)
    return dict(image_path=f"{folder}/images", label_path=f"{folder}/labels")


@pytest.mark.parametrize("offset", [None, -1])
def test_a_nodata_value_tells_nothing_of_the_coding(tmp_path, offset):
    paths = labels_with(tmp_path, "int16", nodata=-9999)
    settings = TileSettings(**paths, label_format="{stem}.tif", label_offset=offset)
    train = SegmentationDataset(settings, 2)
    SegmentationDataset(settings, 2, coding=train.coding)
    label = train.read(0)[1]
    assert label[[0, 5, 9, 18], 3].tolist() == [255, 0, 1, 255]


def test_255_is_not_scored_beside_a_0_that_is_stated_not_to_be(tmp_path):
    settings = dict(labels_with(tmp_path, "uint8"), label_format="{stem}.tif")
    with pytest.raises(UserError, match="value 2 where classes are 0 to 1"):
        SegmentationDataset(TileSettings(**settings), 2)
    # In labels whose coding is that of others, found there by its absence, it tells another one.
    found = detect_coding(counted(v0=1, v1=50, v2=50), 2, "there")[0]
    with pytest.raises(UserError, match=r"0\.tif: value 255, .* or state label_offset"):
        SegmentationDataset(TileSettings(**settings), 2, coding=found)
    table, train_data = found.table.tolist(), {"train_data": {"label_offset": None}}
    card = {"label_table": table, "config": {"train_cfg": train_data}}
    assert trained_coding(card, 2).without_255
    train_data["train_data"]["label_offset"] = -1
    assert not trained_coding(card, 2).without_255
    stated = TileSettings(**settings, label_offset=-1)
    assert SegmentationDataset(stated, 2, coding=found).coding is not found
    label = SegmentationDataset(TileSettings(**settings, label_offset=-1), 2).read(1)[1]
    assert label[[0, 5, 9, 18], 3].tolist() == [255, 0, 1, 255]
