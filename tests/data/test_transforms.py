"""The pretext transforms: exact on a small asymmetric image, torchvision as oracle for colours."""

from collections import Counter
from itertools import permutations

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchvision.transforms.v2 import functional as oracle

from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.data import transforms
from SSLRemoteSensing.data.transforms import (
    ColorJitter,
    DistortBlock,
    RandomCrop,
    RandomGrayscale,
    RandomHorizontalFlip,
    RandomVerticalFlip,
    Resize,
    Rotate,
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
)

# 4 x 4 pixels, all 48 values distinct, 3 to 238.
IMAGE = (np.arange(48).reshape(4, 4, 3) * 5 + 3).astype(np.uint8)
GREY = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
FACTORS = [0.0, 0.3, 0.5, 0.7, 0.95, 1.0, 1.05, 1.3, 1.5, 2.0]
ALL = [
    RandomHorizontalFlip(),
    RandomVerticalFlip(),
    Rotate(),
    Rotate(angle=90),
    RandomCrop(),
    ColorJitter(0.3, (0.5, 1.5), (0.5, 1.5), (-0.3, 0.3)),
    RandomGrayscale(),
    Resize(11),
    Resize(40),
    DistortBlock(),
]
NAMES = [f"{type(transform).__name__}-{i}" for i, transform in enumerate(ALL)]


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def noise(height: int, width: int, bands: int = 3, seed: int = 0) -> np.ndarray:
    return generator(seed).integers(0, 256, (height, width, bands), dtype=np.uint8)


def smooth(seed: int = 0) -> np.ndarray:
    coarse = noise(6, 6, seed=seed)
    return cv2.resize(coarse, (96, 96), interpolation=cv2.INTER_CUBIC)


def torchvision(function, image: np.ndarray, factor: float) -> np.ndarray:
    return function(torch.from_numpy(image).permute(2, 0, 1), factor).permute(1, 2, 0).numpy()


def differences(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    return np.abs(ours.astype(int) - theirs.astype(int))


@pytest.mark.parametrize(
    ("transform", "expected"),
    [
        (RandomHorizontalFlip(p=1), IMAGE[:, 2::-1]),
        (RandomVerticalFlip(p=1), IMAGE[::-1, :3]),
        *(
            (Rotate(angle), np.rot90(IMAGE[:, :3], turns))
            for angle, turns in ((0, 0), (90, 1), (180, 2), (270, 3), (360, 0), (-90, 3))
        ),
    ],
)
def test_flips_swap_sides_and_an_angle_is_that_many_quarter_turns_counter_clockwise(
    transform, expected
):
    np.testing.assert_array_equal(transform(IMAGE[:, :3], generator()), expected)


def test_rotate_without_angle_takes_all_four_turns_equally_often():
    rng, rotate = generator(), Rotate()
    counts = Counter(rotate(IMAGE, rng).tobytes() for _ in range(4000))
    assert set(counts) == {np.rot90(IMAGE, turns).tobytes() for turns in range(4)}
    for count in counts.values():
        assert count / 4000 == pytest.approx(1 / 4, abs=0.03)


@pytest.mark.parametrize(
    ("kind", "share"),
    [
        *((kind, 1) for kind in (RandomHorizontalFlip, RandomVerticalFlip, RandomGrayscale)),
        (lambda p: Rotate(90, p), 1),
        (lambda p: Rotate(p=p), 3 / 4),  # a turn by 0 is a turn
    ],
)
@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_a_transform_acts_with_its_probability(kind, share, p):
    rng, transform = generator(), kind(p=p)
    acted = [not np.array_equal(transform(IMAGE, rng), IMAGE) for _ in range(4000)]
    assert np.mean(acted) == pytest.approx(p * share, abs=0.03 if 0 < p * share < 1 else 0)


def test_crop_cuts_one_window_with_one_ratio_for_both_sides():
    rows, columns = np.mgrid[:100, :200].astype(np.uint8)
    image, rng, crop = np.stack([rows, columns], axis=2), generator(), RandomCrop(0.7, 0.95)
    ratios, corners = [], []
    for _ in range(1000):
        cut = crop(image, rng)
        height, width = cut.shape[:2]
        top, left = (int(value) for value in cut[0, 0])
        np.testing.assert_array_equal(cut, image[top : top + height, left : left + width])
        # Each side is rounded to a pixel: half a pixel of 100 and half a pixel of 200.
        assert height / 100 == pytest.approx(width / 200, abs=0.5 / 100 + 0.5 / 200)
        ratios.append(width / 200)
        corners.append((top / (100 - height), left / (200 - width)))
    assert min(ratios) == pytest.approx(0.7, abs=0.01)
    assert max(ratios) == pytest.approx(0.95, abs=0.01)
    assert np.mean(ratios) == pytest.approx(0.825, abs=0.01)
    np.testing.assert_array_equal(np.min(corners, axis=0), 0)
    np.testing.assert_array_equal(np.max(corners, axis=0), 1)
    np.testing.assert_allclose(np.mean(corners, axis=0), 0.5, atol=0.05)


def test_resize_to_half_is_the_mean_of_four_pixels():
    blocks = IMAGE.reshape(2, 2, 2, 2, 3).astype(float).mean(axis=(1, 3))
    assert np.abs(Resize(2)(IMAGE) - blocks).max() <= 0.5


def test_resize_to_more_pixels_is_bilinear():
    image = noise(5, 7)
    expected = F.interpolate(
        torch.from_numpy(image).permute(2, 0, 1)[None].double(), (13, 16), mode="bilinear"
    )[0].permute(1, 2, 0)
    ours = Resize((13, 16))(image)
    assert ours.shape == (13, 16, 3)
    assert np.abs(ours - expected.numpy()).max() <= 1


def test_the_height_of_a_size_comes_before_its_width():
    assert Resize((2, 3))(IMAGE, generator()).shape == Resize([2, 3])(IMAGE).shape == (2, 3, 3)


def test_greyscale_is_the_luma_in_all_three_bands():
    luma = IMAGE @ np.array([0.299, 0.587, 0.114])
    grey = RandomGrayscale(p=1)(IMAGE, generator())
    assert np.abs(grey - luma[:, :, None]).max() <= 1
    np.testing.assert_array_equal(grey, np.repeat(grey[:, :, :1], 3, axis=2))


def test_distort_block_changes_one_square_and_nothing_outside():
    # Values above 130 halved are below 128, so every pixel of the block changes.
    image = generator().integers(130, 256, (60, 90, 3), dtype=np.uint8)
    distort = DistortBlock(0.2, 1 / 3, brightness=(0.5, 0.5), contrast=0, saturation=0, hue=0)
    rng, sides, tops, lefts = generator(), [], [], []
    for _ in range(600):
        changed = (distort(image, rng) != image).any(axis=2)
        rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
        side = len(rows)
        assert side == len(columns) == np.ptp(rows) + 1 == np.ptp(columns) + 1
        assert changed.sum() == side * side
        sides.append(side)
        tops.append(rows[0] / (60 - side))
        lefts.append(columns[0] / (90 - side))
    assert min(sides) == 12
    assert max(sides) in (19, 20)  # 20 itself is the open end of the uniform draw
    assert np.mean(sides) == pytest.approx(16, abs=0.7)
    for place in (tops, lefts):
        assert (min(place), max(place)) == (0, 1)
        assert np.mean(place) == pytest.approx(0.5, abs=0.06)


def moves(image: np.ndarray) -> dict[bytes, str]:
    turned = {np.rot90(image, turns).tobytes(): f"turn {turns}" for turns in (1, 2, 3)}
    return {image[::-1].tobytes(): "flip 0", image[:, ::-1].tobytes(): "flip 1"} | turned


@pytest.mark.parametrize("bands", [1, 3])
@pytest.mark.parametrize("factor", [1, 0.5])
def test_the_block_is_jittered_and_flipped_half_the_time_and_turned_half_the_time(bands, factor):
    block, brightness = GREY.repeat(bands, axis=2), (factor, factor)
    distort = DistortBlock(1, 1, brightness, contrast=0, saturation=0, hue=0)  # all of the image
    rng, known = generator(), moves(adjust_brightness(block, factor))
    counts = Counter(known[distort(block, rng).tobytes()] for _ in range(4000))
    shares = {move: count / 4000 for move, count in counts.items()}
    assert shares == pytest.approx(
        {"flip 0": 1 / 4, "flip 1": 1 / 4, "turn 1": 1 / 6, "turn 2": 1 / 6, "turn 3": 1 / 6},
        abs=0.03,
    )


@pytest.mark.parametrize(
    ("adjust", "image"),
    [
        (lambda image: ColorJitter()(image, generator()), noise(64, 64)),
        (Resize(4), IMAGE),
        (lambda image: adjust_hue(image, 0.2), GREY.repeat(3, axis=2)),
        (lambda image: adjust_hue(image, 0.2), GREY),
        (lambda image: adjust_saturation(image, 0.2), GREY),
        (lambda image: RandomGrayscale(p=1)(image, generator()), GREY),
    ],
)
def test_what_has_nothing_to_change_changes_nothing(adjust, image):
    np.testing.assert_array_equal(adjust(image), image)


@pytest.mark.parametrize("image", [noise(96, 96), smooth()], ids=["noise", "smooth"])
@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_brightness_contrast_and_saturation_are_within_2_of_255_of_torchvision(name, factor, image):
    ours = getattr(transforms, f"adjust_{name}")(image, factor)
    theirs = torchvision(getattr(oracle, f"adjust_{name}"), image, factor)
    assert differences(ours, theirs).max() <= 2


@pytest.mark.parametrize("image", [noise(96, 96), smooth()], ids=["noise", "smooth"])
@pytest.mark.parametrize("factor", [*np.linspace(-0.5, 0.5, 11).round(3).tolist(), -0.013, 0.05])
def test_hue_is_within_half_a_level_of_torchvision_on_average_and_8_at_worst(factor, image):
    # 8-bit HSV has 256 steps of hue, up to 6 levels of a band each, and rounds twice.
    difference = differences(
        adjust_hue(image, factor), torchvision(oracle.adjust_hue, image, factor)
    )
    assert difference.mean() <= 0.5
    assert difference.max() <= 8


@pytest.mark.parametrize(("factor", "band"), [(1 / 3, 1), (-1 / 3, 2)])
def test_hue_turns_red_to_green_forwards_and_to_blue_backwards(factor, band):
    red = np.array([[[255, 0, 0]]], np.uint8)
    expected = np.zeros(3)
    expected[band] = 255
    np.testing.assert_allclose(adjust_hue(red, factor)[0, 0], expected, atol=8)


@pytest.mark.parametrize("bands", [4, 6])
@pytest.mark.parametrize("adjust", [adjust_saturation, adjust_hue])
def test_saturation_and_hue_act_on_the_first_three_bands_alone(adjust, bands):
    image = noise(8, 9, bands)
    out = adjust(image, 0.3)
    np.testing.assert_array_equal(out[:, :, 3:], image[:, :, 3:])
    np.testing.assert_array_equal(out[:, :, :3], adjust(np.ascontiguousarray(image[:, :, :3]), 0.3))
    assert (out[:, :, :3] != image[:, :, :3]).any()


@pytest.mark.parametrize("bands", [1, 4, 6])
def test_brightness_and_contrast_act_on_every_band_contrast_around_the_mean_luma(bands):
    image = noise(8, 9, bands)
    brighter = np.clip(np.rint(image * 1.3), 0, 255)
    assert np.abs(adjust_brightness(image, 1.3) - brighter).max() <= 1
    luma = image.mean() if bands == 1 else (image[:, :, :3] @ [0.299, 0.587, 0.114]).mean()
    expected = np.clip(0.5 * image + 0.5 * luma, 0, 255)
    assert np.abs(adjust_contrast(image, 0.5) - expected).max() <= 1


@pytest.mark.parametrize("transform", ALL, ids=NAMES)
@pytest.mark.parametrize("bands", [1, 3, 4, 6])
def test_a_transform_keeps_bands_type_and_input_and_draws_from_its_generator_alone(
    transform, bands
):
    image, results = noise(24, 30, bands), []
    before = image.copy()
    for seed in (1, 2):
        np.random.seed(seed)
        rng = generator(7)
        results.append([transform(image, rng) for _ in range(8)])
    for ours, again in zip(*results, strict=True):
        assert (ours.ndim, ours.shape[2], ours.dtype) == (3, bands, np.uint8)
        np.testing.assert_array_equal(ours, again)
    np.testing.assert_array_equal(image, before)


def test_jitter_takes_every_order_of_its_steps_and_factors_over_the_whole_range(monkeypatch):
    ranges = {
        "brightness": (0.7, 1.3),
        "contrast": (0.5, 1.5),
        "saturation": (0.0, 2.5),
        "hue": (-0.3, 0.3),
    }
    calls = []

    def record(name):
        def adjust(image, factor):
            calls.append((name, factor))
            return image

        return adjust

    for name in ranges:
        monkeypatch.setattr(transforms, f"adjust_{name}", record(name))
    # A number b stands for 1 - b to 1 + b, not below 0; for hue for -b to b.
    rng, jitter = generator(), ColorJitter(0.3, (0.5, 1.5), 1.5, 0.3)
    for _ in range(1200):
        jitter(IMAGE, rng)
    orders = Counter(tuple(name for name, _ in calls[i : i + 4]) for i in range(0, 4800, 4))
    assert set(orders) == set(permutations(ranges))
    assert max(orders.values()) < 1200 / 24 * 2
    for name, (low, high) in ranges.items():
        factors = [factor for called, factor in calls if called == name]
        assert low <= min(factors) < low + 0.01 * (high - low)
        assert high >= max(factors) > high - 0.01 * (high - low)
        assert np.mean(factors) == pytest.approx((low + high) / 2, abs=0.05 * (high - low))


@pytest.mark.parametrize(
    ("kind", "arguments", "named"),
    [
        (Rotate, dict(angle=45), "angle=45"),
        (Rotate, dict(p=1.5), "p=1.5"),
        (RandomHorizontalFlip, dict(p=1.5), "p=1.5"),
        (RandomVerticalFlip, dict(p=-0.1), "p=-0.1"),
        (RandomGrayscale, dict(p=1.5), "p=1.5"),
        (RandomCrop, dict(crop_ratio_min=0.9, crop_ratio_max=0.5), "crop_ratio_min=0.9"),
        (RandomCrop, dict(crop_ratio_min=0.0), "crop_ratio_min=0.0"),
        (RandomCrop, dict(crop_ratio_max=1.2), "crop_ratio_max=1.2"),
        (DistortBlock, dict(min_cover_ratio=0.5, max_cover_ratio=0.2), "min_cover_ratio=0.5"),
        (DistortBlock, dict(hue=0.7), "hue=0.7"),
        (ColorJitter, dict(hue=0.7), "hue=0.7"),
        (ColorJitter, dict(hue=(-0.6, 0.1)), "hue="),
        (ColorJitter, dict(contrast=(1.5, 0.5)), "contrast="),
        (ColorJitter, dict(brightness=-0.3), "brightness=-0.3"),
        (ColorJitter, dict(brightness=(-0.5, 1)), "brightness="),
        (ColorJitter, dict(saturation=(0.5,)), "saturation="),
        (Resize, dict(size=(256,)), "size="),
        (Resize, dict(size=0), "size=0"),
    ],
)
def test_a_wrong_argument_is_refused_by_name_and_value(kind, arguments, named):
    with pytest.raises(UserError) as error:
        kind(**arguments)
    assert named in str(error.value)
