"""Which bands and values of a scene a network gets: a test for each rule."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from mapped import network

from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.data.geotiff import Tiff
from SSLRemoteSensing.data.scale import up_to
from SSLRemoteSensing.inference import bands
from SSLRemoteSensing.inference.bands import RULES, Case, agreed_scale, choose_bands
from SSLRemoteSensing.inference.mapper import MapSettings

IRRG = dict(bands=(4, 1, 2), band_names=("near infrared", "red", "green"))
BGR = dict(bands=(3, 2, 1), band_names=("red", "green", "blue"))
TILES = dict(prepared=True)
NAMES = dict(band_names=IRRG["band_names"])
ONE = dict(in_channels=1)


def scene(count: int, alpha: int | None = None, colours=None, name: str = "scene.tif"):
    """What a file says of itself; `colours` is 'palette', 'clear' (a palette) or 'cmyk'."""
    table = np.full((256, 4), 255, np.uint8)
    table[7, 3] = 0 if colours == "clear" else 255
    data_bands = [band for band in range(1, count + 1) if band != alpha]
    palette = table[:, :3] if colours in ("palette", "clear") else None
    file = SimpleNamespace(
        path=Path(name), count=count, data_bands=data_bands, palette=palette, colour_table=table,
        is_cmyk=colours == "cmyk",
    )  # fmt: skip
    file.alpha_beside, file.clear = partial(Tiff.alpha_beside, file), Tiff.clear.fget(file)
    return file


GIVEN = [
    ("flag", scene(4), IRRG | TILES, (2, 3, 1), [2, 3, 1], None, "bands 2, 3, 1 taken as near"),
    ("flag", scene(4, alpha=4), {}, (2, 3, 1), [2, 3, 1], 4, ""),
    ("flag", scene(1, colours="palette"), ONE, (1,), [1], None, ""),
    ("palette", scene(1, colours="palette"), {}, None, [1], None, ""),
    ("photograph", scene(4, colours="cmyk", name="a.JPG"), {}, None, [1, 2, 3, 4], None, ""),
    ("training", scene(4), IRRG | TILES, None, [4, 1, 2], None, "bands 4, 1, 2 taken as near in"),
    ("training", scene(5), BGR | TILES, None, [3, 2, 1], None, "bands 3, 2, 1 taken as red,"),
    ("training", scene(3), BGR, None, [3, 2, 1], None, "bands 3, 2, 1 taken as red, green, blue"),
    ("training", scene(4), dict(bands=(4, 1, 2)), None, [4, 1, 2], None, "bands 4, 1, 2 taken as"),
    ("training", scene(4, alpha=4), BGR | TILES | dict(bands=(1, 2, 3)), None, [1, 2, 3], 4, ""),
    ("training", scene(1, colours="palette"), ONE | dict(bands=(1,)), None, [1], None, ""),
    ("as stored", scene(3), IRRG | TILES, None, [1, 2, 3], None, "bands 1, 2, 3 taken as near in"),
    ("as stored", scene(3), BGR | TILES, None, [1, 2, 3], None, "bands 1, 2, 3 taken as red,"),
    ("as stored", scene(3), NAMES, None, [1, 2, 3], None, "bands 1, 2, 3 taken as near infrared"),
    ("as stored", scene(4, alpha=4), dict(in_channels=4), None, [1, 2, 3, 4], None, ""),
    ("as stored", scene(3), {}, None, [1, 2, 3], None, ""),
    ("without alpha", scene(4, alpha=1), {}, None, [2, 3, 4], 1, "bands 2, 3, 4 taken"),
    ("grey", scene(2, alpha=2), {}, None, [1], 2, ""),
]  # fmt: skip
REFUSED = [
    ("absent band", scene(3), {}, (1, 2, 4), "has 3 bands, not band 4 of --bands"),
    ("absent band", scene(3), {}, (0, 1, 2), "has 3 bands, not band 0 of --bands"),
    ("other number", scene(3), {}, (1, 2), "--bands: 2 bands where the network takes 3"),
    ("indices", scene(1, colours="palette"), ONE, None, "of a palette where the network takes 1"),
    ("CMYK", scene(4, colours="cmyk"), {}, None, "holds CMYK; convert it to RGB"),
    ("CMYK", scene(4, colours="cmyk", name="a.jpg"), IRRG, None, "holds CMYK"),
    ("other", scene(4), {}, None, "takes 3, those of training; choose them in this order with --b"),
    ("other", scene(2), {}, None, "has 2 bands where the network takes 3, those of training; take"),
    ("other", scene(3), IRRG, None, "network takes bands 4 (near infrared), 1 (red), 2 (green)"),
    ("other", scene(1), IRRG, None, "has 1 band where the network takes bands 4 (near"),
    ("other", scene(3), dict(bands=(1, 2, 9)), None, "network takes bands 1, 2, 9; choose"),
    ("other", scene(4), NAMES, None, "takes 3: near infrared, red, green; choose them"),
]  # fmt: skip


def rule_of(file, net, flag) -> str:
    return next(rule.name for rule in RULES if rule.holds(Case(file, net, flag)))


@pytest.mark.parametrize(("rule", "file", "card", "flag", "taken", "alpha", "remark"), GIVEN)
def test_a_rule_gives_its_bands(rule, file, card, flag, taken, alpha, remark):
    net = network(**card)
    choice = choose_bands(file, net, flag)
    assert rule_of(file, net, flag) == rule
    assert (choice.bands, choice.alpha) == (taken, alpha)
    assert choice.remark.startswith(remark)
    assert bool(choice.remark) == bool(remark)
    assert (choice.palette is not None) == (rule == "palette")


@pytest.mark.parametrize(("rule", "file", "card", "flag", "message"), REFUSED)
def test_a_rule_refuses_a_file_in_one_line(rule, file, card, flag, message):
    net = network(**card)
    with pytest.raises(UserError) as error:
        choose_bands(file, net, flag)
    assert rule_of(file, net, flag) == rule
    assert message in str(error.value)
    assert str(error.value).startswith(f"image {file.path}: ")
    assert "\n" not in str(error.value)


def test_each_rule_has_a_test_and_a_row_of_the_table():
    names = [rule.name for rule in RULES]
    assert {case[0] for case in GIVEN + REFUSED} == set(names)
    rows = [line.split(" | ")[0][2:] for line in bands.__doc__.splitlines() if line[:2] == "| "]
    assert rows == ["rule", *names]


def test_transparent_colours_are_those_that_the_palette_says():
    assert choose_bands(scene(1, colours="palette"), network(), None).clear is None
    clear = choose_bands(scene(1, colours="clear"), network(), None).clear
    assert np.flatnonzero(clear).tolist() == [7]


DEEP = dict(max_value=1023, dtype="uint16")


@pytest.mark.parametrize(
    ("kind", "card", "flag", "top"),
    [
        ("uint8", {}, None, None),
        ("uint16", DEEP, None, 1023),
        ("int16", DEEP, None, 1023),
        ("uint16", dict(dtype="uint16"), None, None),
        ("float32", {}, 2.5, 2.5),
    ],
)
def test_the_scale_is_that_of_training_or_of_the_user(kind, card, flag, top):
    found = agreed_scale(Path("a.tif"), np.dtype(kind), network(**card), up_to(flag))
    assert found == up_to(top)


def test_a_scale_may_be_stated_as_configs_do():
    assert MapSettings(scale={"minimum": 0, "maximum": 5}).scale == up_to(5)
    with pytest.raises(UserError, match="unknown key 'minimun', did you mean 'minimum'"):
        MapSettings(scale={"minimun": 0, "maximum": 5})


@pytest.mark.parametrize(
    ("kind", "card", "message"),
    [
        ("uint16", {}, "holds uint16, the network was trained on 8 bits; pass --max_value"),
        ("float32", {}, "holds float32, the network was trained on 8 bits"),
        ("uint8", DEEP, "the network was trained on uint16 up to 1023; pass --max_value, 255 if"),
        ("uint8", dict(dtype="uint16"), "holds uint8, the network was trained on uint16; pass"),
        ("float32", dict(dtype="uint16"), "holds float32, the network was trained on uint16"),
        ("uint16", dict(max_value=255), "the network was trained on 8 bits up to 255"),
        ("complex64", {}, "holds complex64; convert it"),
    ],
)
def test_values_of_another_kind_than_training_had_are_refused(kind, card, message):
    with pytest.raises(UserError, match=r"image a\.tif: ") as error:
        agreed_scale(Path("a.tif"), np.dtype(kind), network(**card), None)
    assert message in str(error.value)
