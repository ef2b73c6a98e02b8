"""What a run's card says of its tiles: which bands of the source scenes, their names, the type."""

import json

import cv2
import numpy as np
import pytest
from conftest import draw_tiles

from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.data.geotiff import encode_tiff
from SSLRemoteSensing.data.prepared import gsd_of_tiles, origin_of_tiles
from SSLRemoteSensing.preparation.prepare import agreed_bands
from SSLRemoteSensing.workflows import segmentation

NAMES = ["near infrared", "red", "green"]
SET = {"version": 1, "name": "town", "classes": ["ground", "building"], "bands": NAMES}
SET["scale"] = 255
KNOWN = SET | {"source_bands": [4, 1, 2], "root": "set"}
NONE = {"bands": None, "band_names": None, "prepared": False, "dataset": None}


@pytest.mark.parametrize(
    ("card", "bands", "channels", "found"),
    [
        (None, None, 3, NONE),
        (None, (4, 1, 2), 3, NONE | {"bands": [4, 1, 2]}),
        (None, (2,), 3, NONE | {"bands": [2, 2, 2]}),
        (KNOWN, None, 3, {"bands": [4, 1, 2], "band_names": NAMES}),
        (KNOWN, (3, 1), 2, {"bands": [2, 4], "band_names": ["green", "near infrared"]}),
        (KNOWN, (2,), 3, {"bands": [1, 1, 1], "band_names": ["red"] * 3}),
        (KNOWN | {"name": "folder"}, None, 3, {"bands": [4, 1, 2], "dataset": None}),
        (KNOWN | {"source_bands": None}, None, 3, {"bands": None, "prepared": False}),
        (KNOWN | {"source_bands": None}, (3, 2, 1), 3, {"bands": [3, 2, 1], "prepared": False}),
        (SET | {"root": "set"}, None, 3, {"bands": None, "prepared": False, "band_names": NAMES}),
    ],
)
def test_bands_are_those_of_the_scenes_that_the_tiles_were_cut_from(card, bands, channels, found):
    told = origin_of_tiles(card, bands, channels)
    assert set(told) == set(NONE)
    wanted = found if card is None else {"prepared": True, "dataset": "town"} | found
    assert {key: told[key] for key in wanted} == wanted


@pytest.mark.parametrize("bands", [(4,), (0, 1)])
def test_a_band_that_prepared_tiles_do_not_have_is_refused(bands):
    with pytest.raises(UserError, match=r"set has the bands 1 to 3 \(near infrared, red, green\)"):
        origin_of_tiles(KNOWN, bands, len(bands))


def test_scenes_that_gave_other_bands_of_their_files_agree_on_none():
    first, second = {"source_bands": [4, 1, 2]}, {"source_bands": [1, 2, 3]}
    assert agreed_bands([first, first]) == [4, 1, 2]
    # {}: a record of an earlier version.
    for records in ([first, second], [first, {}], [{}, {}]):
        assert agreed_bands(records) is None


def places(*sides: float, **changes) -> dict:
    """A card of scenes in UTM whose pixels are so many metres, one validation scene of others."""
    scene = {"height": 200, "width": 300, "crs": "EPSG:32633"}

    def placed(side: float) -> dict:
        return scene | {"transform": [side, 0, 500000, 0, -side, 5000000]} | changes

    train = {f"s{number}": placed(side) for number, side in enumerate(sides)}
    return {"places": {"train": train, "val": {"v": placed(7.0)}}}


@pytest.mark.parametrize(
    ("card", "metres"),
    [
        (None, None),
        (KNOWN, None),
        (places(), None),
        (places(0.5), 0.5),
        (places(0.5, 0.505, 0.5), 0.5025),
        (places(0.5, 0.52), None),
        (places(0.5, crs=None), None),
        (places(0.5, transform=None), None),
        (places(0.5, crs="of an island"), None),
        (places(0.5, crs='LOCAL_CS["site",UNIT["metre",1]]'), None),
        (places(0.5, transform=[0.5, 0, 500000, 0, -0.6, 5000000]), None),
        # A degree of latitude is 111132 m at 45 degrees, one of longitude 78847 m.
        (places(1.0, crs="EPSG:4326", transform=[2 / 78847, 0, 7, 0, -2 / 111132, 45]), 2.0),
    ],
)
def test_a_prepared_set_has_the_pixels_of_its_training_scenes(card, metres):
    assert gsd_of_tiles(card) == (metres and pytest.approx(metres, rel=1e-3))


def card_of_run(config: dict) -> dict:
    """The card that a fine-tuning would write."""
    return segmentation.open_finetuning(config)[0].card


def test_the_card_of_a_fine_tuning_on_prepared_tiles_knows_bands_and_values(seg_config, tmp_path):
    folder = draw_tiles(tmp_path / "set", 3)
    for path in (folder / "images").glob("*.jpg"):
        deep = cv2.imread(str(path)).transpose(2, 0, 1).astype(np.uint16) * 4
        path.with_suffix(".tif").write_bytes(encode_tiff(deep, None, None))
        path.unlink()
    card = SET | {"scale": 1020, "source_bands": [4, 1, 2], "classes": seg_config["classes"]}
    (folder / "dataset.json").write_text(json.dumps(card))
    paths = {"image_path": str(folder / "images"), "label_path": str(folder / "labels")}
    data = paths | {"data_format": "*.tif", "bands": [2, 3, 1]}
    train_cfg = seg_config["train_cfg"]
    train_cfg["train_data"] |= data
    train_cfg["val_data"], train_cfg["test_data"] = data, data
    found = card_of_run(seg_config)
    assert found["bands"] == [1, 2, 4]
    assert found["band_names"] == ["red", "green", "near infrared"]
    assert (found["prepared"], found["dataset"]) == (True, "town")
    assert (found["dtype"], found["max_value"]) == ("uint16", 1020)
    json.dumps(found)
    seg_config["classes"] = seg_config["classes"][::-1]
    with pytest.raises(UserError, match=r"classes: .* was prepared with 2"):
        card_of_run(seg_config)


def test_the_card_of_a_fine_tuning_on_other_tiles_has_the_configs_bands(seg_config):
    seg_config["train_cfg"]["train_data"]["bands"] = (3, 2, 1)
    found = card_of_run(seg_config)
    assert {key: found[key] for key in NONE} == NONE | {"bands": [3, 2, 1]}
    assert (found["dtype"], found["max_value"]) == ("uint8", None)
