"""One meaning of a file's values for all parts of a config, and images that come out constant."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import draw_tiles
from drawn import draw_levir, prepared, write_png, write_tiff

from SSLRemoteSensing.core import checkpoints
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.data.images import read_image
from SSLRemoteSensing.data.reading import Reading, agreed_reading
from SSLRemoteSensing.data.scale import up_to
from SSLRemoteSensing.data.segmentation import TileSettings, find_tiles
from SSLRemoteSensing.data.values import check_values, fault_of_values, levels
from SSLRemoteSensing.workflows.doctor.images import find_split
from SSLRemoteSensing.workflows.finetuning import finetune, score_checkpoint
from SSLRemoteSensing.workflows.open_tiles import part_of_config
from SSLRemoteSensing.workflows.pretraining import open_pretraining, train_reading
from SSLRemoteSensing.workflows.segmentation import open_finetuning


def deep_tiles(folder: Path, bands: int = 3, top: int = 3000, dtype=np.uint16, seed=0) -> dict:
    """Four GeoTIFFs with values up to `top`, and labels 0/1: the paths for a config."""
    rng = np.random.default_rng(seed)
    for number in range(4):
        label = rng.integers(0, 2, (4, 4)).repeat(16, 0).repeat(16, 1)
        planes = rng.uniform(0.1, 0.4, (bands, 64, 64)) + 0.6 * label
        write_tiff(folder / f"images/t{number}.tif", (planes * top).astype(dtype))
        write_png(folder / f"labels/t{number}.png", label.astype(np.uint8))
    return {"image_path": str(folder / "images"), "label_path": str(folder / "labels")}


def change(config: dict, **parts) -> dict:
    """`config` with keys of train, val and test data in place of its own."""
    for part in ("train", "val", "test"):
        config["train_cfg"][f"{part}_data"] = parts.get(part)
    config["train_cfg"]["train_data"] |= {"crop_size": 32}
    return config


UINT16, UINT8 = dict(dtype="uint16", count=4), dict(dtype="uint8", count=3)


@pytest.mark.parametrize(
    ("train", "own", "max_value", "bands"),
    [
        (dict(max_value=3060) | UINT16, UINT16, 3060, None),
        (dict(max_value=3060) | UINT16, dict(dtype="int16", count=4), 3060, None),
        (UINT16, dict(dtype="uint32", count=4), 65535, None),
        (dict(max_value=1.0, dtype="float32"), dict(dtype="float64"), 1.0, None),
        (dict(bands=(3, 2, 1)) | UINT16, UINT16, None, (3, 2, 1)),
        (dict(bands=(1, 2, 3)) | UINT16, UINT8, None, None),
        (dict(bands=(4, 2, 1)) | UINT16, dict(bands=(3, 2, 1)) | UINT8, None, (3, 2, 1)),
        # The same said in two ways, or 8 bits that were scaled.
        (dict(max_value=255) | UINT8, UINT8, None, None),
        (UINT8, dict(max_value=255) | UINT8, 255, None),
        (dict(max_value=3060) | UINT16, UINT8, None, None),
        (UINT16, dict(max_value=65535) | UINT16, 65535, None),
        (UINT8, dict(bands=(1, 2, 3)) | UINT8, None, (1, 2, 3)),
        # A prepared set is taken at its word, and its bands are its own.
        (dict(max_value=3060) | UINT16, dict(max_value=1023, prepared=True) | UINT16, 1023, None),
        (dict(max_value=1023, bands=(2,), prepared=True) | UINT16, UINT16, 1023, None),
    ],
)
def test_what_a_split_does_not_state_is_that_of_train_data(train, own, max_value, bands):
    def reading(facts: dict) -> Reading:
        facts = dict(max_value=None, bands=None, file="a.tif") | facts
        return Reading(up_to(facts.pop("max_value")), **facts)

    result = agreed_reading(reading(own), reading(train))
    assert (result.max_value, result.bands) == (max_value, bands)


@pytest.mark.parametrize("train_bands", [(3, 2, 1), (4, 1, 2)])
def test_two_parts_of_a_prepared_set_take_the_same_bands(train_bands):
    train = Reading(None, train_bands, "train.png", "uint8", 4, prepared=True)
    own = Reading(None, None, "val.png", "uint8", 4, prepared=True)
    assert agreed_reading(own, train).bands == train_bands
    with pytest.raises(UserError, match="bands="):
        agreed_reading(Reading(None, (2, 1, 3), "val.png", "uint8", 4, prepared=True), train)


@pytest.mark.parametrize(
    ("train", "own", "message"),
    [
        (dict(max_value=3060) | UINT16, dict(max_value=1000) | UINT16, "max_value=1000.*is 3060"),
        (UINT16, dict(max_value=1000) | UINT16, "max_value=1000.*65535, the largest of uint16"),
        (UINT8, dict(max_value=127) | UINT8, "max_value=127.*is 255"),
        (UINT8, UINT16, "a.tif: holds uint16, .* of train_data uint8; set max_value"),
        (dict(max_value=3060) | UINT16, dict(dtype="float32"), "holds float32.*up to 3060"),
        (dict(bands=(3, 2, 1)) | UINT8, dict(bands=(1, 2, 3)) | UINT8, r"bands=\(1, 2, 3\).*3, 2"),
        (UINT8, dict(bands=(3, 2, 1)) | UINT8, r"bands=\(3, 2, 1\): .* all, as they are"),
        (dict(bands=(4, 2, 1)) | UINT16, UINT8 | dict(dtype="uint16"), "has 3 bands.*set bands"),
    ],
)
def test_what_differs_without_a_reason_is_refused(train, own, message):
    def reading(facts: dict) -> Reading:
        facts = dict(max_value=None, bands=None, file="a.tif") | facts
        return Reading(up_to(facts.pop("max_value")), **facts)

    with pytest.raises(UserError, match=message):
        agreed_reading(reading(own), reading(train))


TILES = dict(scale=up_to(1023), bands=None, file="tile.tif", dtype="uint16", prepared=True)
FILES = dict(scale=up_to(1023), bands=None, file="scene.tif", dtype="uint16")


@pytest.mark.parametrize(
    ("of_scenes", "count", "bands"),
    [
        ((4, 1, 2), 4, (4, 1, 2)),  # a scene as the tiles were cut from
        ((4, 1, 2), 3, None),  # which cannot be one
        ((2,), 4, (2,)),
        ((1, 2, 3), 4, None),  # whose last band may be alpha
        ((1, 2, 3, 4), 4, None),
        (None, 4, None),  # not known what they were cut from
    ],
)
def test_scenes_beside_a_prepared_set_give_the_bands_of_its_tiles(of_scenes, count, bands):
    train = Reading(**TILES, count=len(of_scenes or range(4)), scene_bands=of_scenes)
    own = Reading(**FILES, count=count)
    assert agreed_reading(own, train).bands == bands
    stated = Reading(**FILES | dict(bands=(2, 1, 3)), count=count)
    assert agreed_reading(stated, train).bands == (2, 1, 3)


@pytest.fixture(scope="module")
def levir(tmp_path_factory) -> Path:
    """Levir_CS, whose bands are stored as blue, green, red, prepared with red first."""
    folder = tmp_path_factory.mktemp("levir")
    draw_levir(folder / "source", train=4, test=1, size=(64, 64))
    prepared(folder, "levir_cs", "--splits", "val=0")
    return folder


def test_files_that_may_be_scenes_or_tiles_have_to_say_which(levir):
    def find(train, **keys):
        paths = dict(label_path=str(levir / "source"), label_format="{stem}.tif")
        return find_tiles(TileSettings(**paths | keys), 3, train, 4).reading

    scenes, tiles = f"{levir}/source/test/mss", f"{levir}/out/images/train"
    train = find(None, image_path=tiles)
    assert find(train, image_path=tiles).bands is None
    with pytest.raises(UserError, match=r"_mss\.tiff: has 4 bands.*set bands=\(3, 2, 1, 4\)"):
        find(train, image_path=scenes)
    assert find(train, image_path=scenes, bands=(3, 2, 1, 4)).bands == (3, 2, 1, 4)
    raw = find(None, image_path=scenes)
    with pytest.raises(
        UserError, match=r"set bands=\(3, 2, 1, 4\) here if .* bands=\(1, 2, 3, 4\)"
    ):
        find(raw, image_path=tiles)
    for bands in ((3, 2, 1, 4), (1, 2, 3, 4)):
        assert find(raw, image_path=tiles, bands=bands).bands == bands
    assert find(find(None, image_path=scenes, bands=(3, 2, 1, 4)), image_path=tiles).bands is None


@pytest.mark.parametrize("part", ["val", "test"])
def test_a_split_that_states_another_scale_is_refused_before_training(seg_config, tmp_path, part):
    tiles = deep_tiles(tmp_path)
    parts = {"train": tiles | {"max_value": 3000}, "val": dict(tiles), "test": dict(tiles)}
    parts[part]["max_value"] = 1000
    with pytest.raises(UserError, match=rf"^train_cfg.{part}_data: max_value=1000: .* is 3000;"):
        finetune(change(seg_config, **parts))
    assert not (tmp_path / "seg").exists()
    parts[part]["max_value"] = 3000  # as the message says
    open_finetuning(change(seg_config, **parts))


def test_all_that_opens_a_split_reads_it_as_training_does(seg_config, tmp_path, capsys):
    tiles = deep_tiles(tmp_path, bands=5)
    config = change(
        seg_config, train=tiles | {"max_value": 3000, "bands": (4, 2, 1)}, val=tiles, test=tiles
    )
    config["train_cfg"]["num_step"] = 2
    file = f"{tiles['image_path']}/t0.tif"
    wanted = read_image(file, 3, (4, 2, 1), up_to(3000))
    train = find_split(config, "train").reading
    found = find_split(config, "val", train).reading
    assert (found.max_value, found.bands) == (3000, (4, 2, 1))
    assert np.array_equal(part_of_config(config, "val").dataset.read(0)[0], wanted)
    best = finetune(config)
    scores = json.loads(best.with_name("results.json").read_text())["protocols"]
    best.with_name("results.json").unlink()
    # By the checkpoint: what the config says of train_data, which need not be there, has no weight.
    config["train_cfg"]["train_data"] |= {"max_value": 65535, "image_path": "/nowhere"}
    score_checkpoint(config, best)
    assert json.loads(best.with_name("results.json").read_text())["protocols"] == scores
    config["train_cfg"]["test_data"] = tiles | {"max_value": 65535}
    with pytest.raises(UserError, match=r"test_data: max_value=65535: .*best.pth\) it is 3000"):
        score_checkpoint(config, best)
    assert checkpoints.read(best)["card"]["max_value"] == 3000
    assert "warning" not in capsys.readouterr().err


def test_the_tiles_of_a_probe_are_read_as_those_of_pre_training(pretext_config, tmp_path):
    tiles = deep_tiles(tmp_path)
    train_cfg = pretext_config["train_cfg"]
    train_cfg["train_data"] |= dict(data_path=tiles["image_path"], data_format="*.tif")
    train_cfg["train_data"]["max_value"] = 3000
    train_cfg["probe"] = tiles | dict(classes=("a", "b"), crop_size=32, pixels=8)
    task, _ = open_pretraining(pretext_config)
    assert task.probe.probe.images.max() > 200
    assert train_reading(train_cfg["train_data"] | {"data_path": "/nowhere"}, 3).max_value == 3000
    train_cfg["probe"]["max_value"] = 1000
    with pytest.raises(UserError, match=r"train_cfg.probe: max_value=1000: .* is 3000"):
        open_pretraining(pretext_config)


DARK = [
    (np.uint16, 40, 3060, None, "no value is above .*; set max_value=30"),
    (np.uint32, 40, 3060, None, "no value is above 0 of 255; set max_value=30"),
    (np.uint16, 0, 10000, 65535, "no value is above 39 of 255; set max_value="),
    (np.uint16, 300, 10000, 255, "of one colour .255 to 255 of 255.; set max_value="),
    (np.uint16, 0, 9000, 300, "9.% of the values are cut off at 255; set max_value="),
    (np.float32, 0, 1, 255, "no value is above 1 of 255; set max_value="),
    (np.float32, -25, -3, 100, "no value is above 0 of 255; set scale='percentile' in place"),
    (np.float32, 290, 300, 400, "of one colour .18. to 191 of 255.; no max_value tells them apart"),
    (np.int32, 0, 4000, 2**31 - 1, "no value is above 0 of 255; set max_value="),
    (np.uint8, 0, 6, None, "no value is above 5 of 255; set max_value=5"),
    (
        np.uint8,
        100,
        104,
        None,
        "nearly of one colour .100 to 103 of 255.; no max_value tells them apart: set",
    ),
]


@pytest.mark.parametrize(("dtype", "low", "high", "max_value", "message"), DARK)
def test_images_that_come_out_constant_are_told(
    tmp_path, capsys, dtype, low, high, max_value, message
):
    rng, files = np.random.default_rng(0), []
    for number in range(12):
        planes = rng.uniform(low, high, (3, 40, 40)).astype(dtype)
        files.append(str(write_tiff(tmp_path / f"{number}.tif", planes)))
    how = Reading(up_to(max_value), None, files[0], np.dtype(dtype).name, 3)
    check_values(files, 3, how, "train_cfg.train_data")
    said = capsys.readouterr().err
    assert said.startswith("warning: train_cfg.train_data: ")
    assert str(tmp_path / "0.tif") in said
    assert np.dtype(dtype).name in said
    assert re.search(message, said), said


def test_images_that_are_mostly_below_0_are_told(tmp_path, capsys):
    """Decibels: the few values above 0 hide that all others become 0."""
    rng = np.random.default_rng(0)
    files = [str(tmp_path / f"{number}.tif") for number in range(3)]
    for file in files:
        write_tiff(Path(file), rng.uniform(-25, 2, (1, 32, 32)).astype(np.float32))
    check_values(files, 3, Reading(up_to(2.0), None, files[0], "float32", 1), "train_data")
    assert "values are below 0, and become 0; set scale='percentile'" in capsys.readouterr().err


def test_the_value_that_is_proposed_mends_it(tmp_path, capsys):
    """A few pixels without data, of the largest value, do not count."""
    planes = np.random.default_rng(0).integers(100, 900, (3, 64, 64)).astype(np.uint16)
    planes[:, :10] = 65535
    file = str(write_tiff(tmp_path / "a.tif", planes))
    check_values([file], 3, Reading(None, None, file, "uint16", 3), "here")
    assert "set max_value=899" in capsys.readouterr().err
    check_values([file], 3, Reading(up_to(899), None, file, "uint16", 3), "here")
    assert not capsys.readouterr().err


def noise(low: int, high: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(low, high, (32, 32, 3)).astype(np.uint8)


def at_night(seed: int) -> np.ndarray:
    image = noise(0, 9, seed)
    image[3, 4] = 250
    return image


@pytest.mark.parametrize(
    ("images", "is_scaled"),
    [
        ([at_night(seed) for seed in range(8)], False),
        ([noise(60, 90, seed) for seed in range(8)], True),
        ([noise(235, 256, seed) for seed in range(8)], True),
        ([np.zeros((32, 32, 3), np.uint8)] * 3 + [noise(0, 200, 1)] * 5, True),
        ([noise(3, 30, seed) for seed in range(8)], False),
        ([np.where(noise(0, 9, 2) > 1, 0, noise(0, 255, 3))] * 8, True),
    ],
    ids=["night", "haze", "snow", "dark ones among others", "dark", "borders"],
)
def test_images_that_are_only_dark_or_bright_are_not_told(images, is_scaled):
    assert fault_of_values([levels(image) for image in images], is_scaled) == ""


@pytest.mark.parametrize(("dtype", "mark"), [(np.uint16, "warn"), (np.uint32, "FAIL")])
def test_the_doctor_and_training_tell_it_in_the_same_words(
    run, pretext_config, tmp_path, dtype, mark
):
    tiles = deep_tiles(tmp_path, dtype=dtype)
    train_data = pretext_config["train_cfg"]["train_data"]
    train_data |= dict(data_path=tiles["image_path"], data_format="*.tif")
    trained = run("train.py", pretext_config, "--dry_run").stderr
    assert trained.count("set max_value=2") == 1
    examined = run("tools/doctor.py", pretext_config)
    line = f"  {mark}  {trained.splitlines()[0].removeprefix('warning: ')}"
    assert examined.stdout.count("set max_value=2") == 1
    assert line in examined.stdout.splitlines()
    assert examined.returncode == (mark == "FAIL")


def test_a_few_images_of_one_colour_are_named_by_the_doctor(run, pretext_config, tmp_path):
    folder = draw_tiles(tmp_path / "few", 8) / "images"
    write_png(folder / "tile_003.jpg", np.full((64, 64, 3), 80, np.uint8))
    pretext_config["train_cfg"]["train_data"]["data_path"] = str(folder)
    done = run("tools/doctor.py", pretext_config)
    assert "warn  train_cfg.train_data: 1 of 8 images are of one colour; exclude" in done.stdout
    assert done.returncode == 0


def test_a_prepared_set_is_to_be_prepared_again(tmp_path, capsys):
    """Its scale cannot be contradicted."""
    file = str(write_png(tmp_path / "a.png", noise(0, 9, 0)))
    check_values([file], 3, Reading(None, None, file, "uint8", 3, prepared=True), "here")
    assert "no value is above 8 of 255; prepare the data set again" in capsys.readouterr().err
