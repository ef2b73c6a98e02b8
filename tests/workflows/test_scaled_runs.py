"""Scales of each band from one end to the other: pre-training, fine-tuning, going on, maps.

This file is also the script of two processes, which settle the scale of other images each.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from drawn import write_png, write_tiff
from teams import joined, start_team

import SSLRemoteSensing as sslrs
from SSLRemoteSensing.core import checkpoints
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.data.geotiff import open_tiff
from SSLRemoteSensing.data.scale import Scale, scale_of_card
from SSLRemoteSensing.data.segmentation import SegmentationDataset, TileSettings
from SSLRemoteSensing.inference.network import open_network
from SSLRemoteSensing.inference.scene import InputScene
from SSLRemoteSensing.workflows.finetuning import finetune, score_checkpoint
from SSLRemoteSensing.workflows.pretraining import open_pretraining, pretrain
from SSLRemoteSensing.workflows.segmentation import open_finetuning
from SSLRemoteSensing.workflows.settled_scale import settle_scale

MEANS = (-12, -19, 300)  # decibels of VV and VH, and kelvin


def draw_scenes(folder: Path, count: int = 6, shift: float = 0, dtype=np.float32) -> dict:
    """Float32 GeoTIFFs of three bands of different ranges, some of it NaN, and labels 0/1; of a
    whole `dtype` tenths of what lies above -100, and 0 for NaN."""
    rng = np.random.default_rng(0)
    for number in range(count):
        label = rng.integers(0, 2, (4, 4)).repeat(16, 0).repeat(16, 1)
        planes = np.stack([rng.normal(mean + shift + 4 * label, 1) for mean in MEANS])
        planes[:, :5, :7] = np.nan
        if dtype != np.float32:
            planes = np.nan_to_num((planes + 100) * 10, nan=0)
        profile = {} if dtype == np.float32 else {"nodata": 0}
        write_tiff(folder / f"images/t{number}.tif", planes.astype(dtype), **profile)
        write_png(folder / f"labels/t{number}.png", label.astype(np.uint8))
    return {"image_path": str(folder / "images"), "label_path": str(folder / "labels")}


@pytest.fixture
def of_pretraining(light_pretext_config, tmp_path) -> dict:
    tiles, config = draw_scenes(tmp_path), light_pretext_config
    data = dict(data_path=tiles["image_path"], data_format="*.tif", scale="percentile")
    config["train_cfg"]["train_data"] |= data
    config["train_cfg"] |= {"num_epoch": 1}
    return config


@pytest.fixture
def of_finetuning(seg_config, tmp_path) -> dict:
    tiles, train_cfg = draw_scenes(tmp_path), seg_config["train_cfg"]
    train_cfg |= {f"{part}_data": dict(tiles) for part in ("val", "test")}
    train_cfg |= {"train_data": tiles | dict(scale="percentile", crop_size=32), "num_step": 2}
    return seg_config


def ends(card: dict) -> np.ndarray:
    return np.array([card["scale"]["minimum"], card["scale"]["maximum"]])


def test_the_numbers_that_are_found_stay_those_of_the_run(of_pretraining, tmp_path, capsys):
    folder = tmp_path / "run"
    pretrain(of_pretraining)
    assert "(2nd and 98th percentile of some of the images)" in capsys.readouterr().out
    card = json.loads((folder / "backbone.json").read_text())
    numbers = ends(card)
    # Half of the values lie about the mean, half 4 above it: of these the 4th and 96th percentile.
    expected = np.add(MEANS, [[-1.75], [5.75]])
    np.testing.assert_allclose(numbers, expected, atol=0.25)
    assert card["max_value"] is None
    run = json.loads((folder / "run.json").read_text())["runs"][0]
    assert np.array_equal(ends(run["config"]["train_cfg"]["train_data"]), numbers)

    draw_scenes(tmp_path, shift=2)  # the images are others now
    of_pretraining["train_cfg"]["num_epoch"] = 2
    pretrain(of_pretraining)
    said = capsys.readouterr()
    assert "(of the run so far)" in said.out
    assert "scale" not in said.err
    assert np.array_equal(ends(json.loads((folder / "backbone.json").read_text())), numbers)
    (folder / "run.json").unlink()  # the checkpoints have the numbers too
    (folder / "latest.pth").write_bytes(b"damaged")
    assert np.array_equal(ends(settle_scale(of_pretraining, 3)["train_cfg"]["train_data"]), numbers)
    assert "(of the run so far)" in capsys.readouterr().out
    of_pretraining["train_cfg"]["checkpoints"]["checkpoints_path"] = str(tmp_path / "new")
    task, _ = open_pretraining(of_pretraining)
    np.testing.assert_allclose(ends(task.card), numbers + 2, atol=0.25)


def test_fine_tuning_takes_the_numbers_of_the_weights(of_pretraining, of_finetuning, capsys):
    """Where it asks for percentiles, and where nothing else tells; not for other bands."""
    pretrain(of_pretraining)
    folder = Path(of_pretraining["train_cfg"]["checkpoints"]["checkpoints_path"])
    numbers = ends(json.loads((folder / "backbone.json").read_text()))
    data = of_finetuning["train_cfg"]["train_data"]
    draw_scenes(Path(data["image_path"]).parent, shift=2)
    cases = (("backbone.pth", "percentile"), ("latest.pth", "percentile"), ("backbone.pth", None))
    for name, scale in cases:
        of_finetuning["backbone_cfg"]["pretrained"] = str(folder / name)
        data["scale"] = scale
        task, _ = open_finetuning(of_finetuning)
        assert np.array_equal(ends(task.card), numbers), (name, scale)
        assert "of the training of the weights" in capsys.readouterr().out
    data |= {"scale": "percentile", "bands": (3, 2, 1)}
    for part in ("val", "test"):
        of_finetuning["train_cfg"][f"{part}_data"] |= {"scale": "percentile"}  # the same
    task, _ = open_finetuning(of_finetuning)
    np.testing.assert_allclose(ends(task.card), numbers[:, ::-1] + 2, atol=0.3)


def test_the_card_beside_the_weights_of_others_gives_its_scale(of_finetuning, tmp_path, capsys):
    """One for all bands, of images that hold its type; a wrong one is named with its file."""
    tiles = draw_scenes(tmp_path / "deep", dtype=np.uint16)
    of_finetuning["train_cfg"]["train_data"] |= tiles | dict(scale=None)
    of_finetuning["backbone_cfg"]["pretrained"] = str(tmp_path / "foreign.pth")
    card = dict(dtype="uint16", scale=dict(minimum=0, maximum=10000))
    (tmp_path / "foreign.json").write_text(json.dumps(card))
    data = settle_scale(of_finetuning, 3)["train_cfg"]["train_data"]
    assert data["scale"] == dict(minimum=(0,), maximum=(10000,))
    assert "max_value=10000 (of the training of the weights" in capsys.readouterr().out
    (tmp_path / "foreign.json").write_text(json.dumps(card | dict(dtype="uint8")))
    assert settle_scale(of_finetuning, 3) == of_finetuning
    (tmp_path / "foreign.json").write_text(json.dumps(card | dict(scale=dict(maximum=1))))
    with pytest.raises(UserError, match=r"weights .*foreign\.pth: scale of the card: missing key"):
        settle_scale(of_finetuning, 3)


def test_images_of_the_sort_of_the_weights_alone_take_their_numbers(
    of_pretraining, of_finetuning, tmp_path, capsys
):
    """Also of 16 bits, whose largest value would tell another; a fine-tuned network counts too."""
    data = of_pretraining["train_cfg"]["train_data"]
    data["data_path"] = draw_scenes(tmp_path / "deep", dtype=np.uint16)["image_path"]
    pretrain(of_pretraining)
    backbone = tmp_path / "run/backbone.pth"
    card = json.loads(backbone.with_suffix(".json").read_text())
    assert card["dtype"] == "uint16"
    expected = np.add(MEANS, [[98.25], [105.75]]) * 10
    np.testing.assert_allclose(ends(card), expected, atol=3)

    tuning, folders = of_finetuning["train_cfg"], draw_scenes(tmp_path / "other", dtype=np.uint16)
    for part in ("train", "val", "test"):
        tuning[f"{part}_data"] |= folders
    of_finetuning["backbone_cfg"]["pretrained"] = str(backbone)
    for scale in (None, "percentile"):
        tuning["train_data"]["scale"] = scale
        assert np.array_equal(ends(open_finetuning(of_finetuning)[0].card), ends(card))
    tuning["train_data"]["scale"] = None
    best = finetune(of_finetuning)
    assert checkpoints.read(best)["card"]["bands"] is None  # all, as they are stored
    backbone.with_suffix(".json").unlink()
    capsys.readouterr()
    going_on = settle_scale(of_finetuning, 3)["train_cfg"]["train_data"]
    assert "(of the run so far)" in capsys.readouterr().out
    assert np.array_equal(ends({"scale": going_on["scale"]}), ends(card))

    tuning["checkpoints"]["checkpoints_path"] = str(tmp_path / "third")
    of_finetuning["backbone_cfg"]["pretrained"] = str(best)
    assert np.array_equal(ends(open_finetuning(of_finetuning)[0].card), ends(card))
    folders = draw_scenes(tmp_path / "float")
    for part in ("train", "val", "test"):
        tuning[f"{part}_data"] |= folders
    with pytest.raises(UserError, match="holds float32; set max_value"):
        open_finetuning(of_finetuning)
    tuning["train_data"]["scale"] = "percentile"
    numbers = ends(open_finetuning(of_finetuning)[0].card)
    np.testing.assert_allclose(numbers, np.add(MEANS, [[-1.75], [5.75]]), atol=0.25)


def test_two_processes_take_the_first_ones_numbers(of_pretraining, tmp_path):
    """Where one cannot read what the other can, as of a disk that is not quite shared."""
    for rank in (0, 1):
        draw_scenes(tmp_path / f"of_{rank}", shift=2 * rank)
    (tmp_path / "config.json").write_text(json.dumps(of_pretraining))
    start_team(__file__, tmp_path, [2])
    first, second = (json.loads((tmp_path / f"found.{rank}").read_text()) for rank in (0, 1))
    assert first == second
    np.testing.assert_allclose(ends(first), np.add(MEANS, [[-1.75], [5.75]]), atol=0.25)


def work(folder: Path) -> None:
    rank = os.environ["RANK"]
    config = json.loads((folder / "config.json").read_text())
    config["train_cfg"]["train_data"]["data_path"] = str(folder / f"of_{rank}/images")
    with joined(2):
        found = settle_scale(config, 3)["train_cfg"]["train_data"]
    (folder / f"found.{rank}").write_text(json.dumps({"scale": found["scale"]}))


def test_a_map_sees_what_training_saw(of_finetuning, tmp_path, run):
    best = finetune(of_finetuning)
    card = checkpoints.read(best)["card"]
    assert ends(card).shape == (2, 3)
    data = of_finetuning["train_cfg"]["train_data"]
    stated = {key: tuple(values) for key, values in card["scale"].items()}
    tiles = SegmentationDataset(TileSettings(**data | {"scale": stated}), 2)
    image, _ = tiles.read(0)
    assert not image[:5, :7].any()
    assert {*image.min((0, 1)), *image.max((0, 1))} == {0, 255}
    network = open_network(best, torch.device("cpu"), "fp32")
    with open_tiff(tiles.pairs[0][0], beside=True) as source:
        rows = InputScene(source, network, None, None).rows(0, 64)
    np.testing.assert_array_equal(rows, image)
    batch = torch.from_numpy(image).permute(2, 0, 1)[None]
    with torch.no_grad():
        expected = network.model.logits(batch)[0].argmax(0).numpy()
    flags = ("--checkpoint", best, "--input", tiles.pairs[0][0], "--device", "cpu", "--tile", 64)
    done = run("tools/predict.py", None, *map(str, flags), "--output", str(tmp_path / "map.tif"))
    assert done.returncode == 0, done.stderr
    with open_tiff(tmp_path / "map.tif") as source:
        classes = source.rows([1], 0, 64)[0]
    held = image.sum(2) > 0
    np.testing.assert_array_equal(classes[held], expected[held])

    scores = json.loads(best.with_name("results.json").read_text())["protocols"]
    best.with_name("results.json").unlink()
    of_finetuning["train_cfg"]["train_data"]["image_path"] = "/nowhere"
    score_checkpoint(of_finetuning, best)  # by the card alone
    assert json.loads(best.with_name("results.json").read_text())["protocols"] == scores
    write_tiff(tmp_path / "deep.tif", np.zeros((3, 64, 64), np.uint16))
    flags = ("--checkpoint", best, "--input", tmp_path / "deep.tif", "--output", tmp_path / "x.tif")
    done = run("tools/predict.py", None, *map(str, flags))
    assert done.returncode == 2
    assert "was trained on float32, scale=dict(minimum=(" in done.stderr

    # The same scene in whole hundredths, which the flag that the error names makes the same.
    with open_tiff(tiles.pairs[0][0]) as source:
        planes = source.rows([1, 2, 3], 0, 64)
    cents = np.where(np.isnan(planes), -32768, planes * 100).round().astype(np.int16)
    write_tiff(tmp_path / "cents.tif", cents, nodata=-32768)
    minimum, maximum = ends(card) * 100
    scale = Scale(minimum.tolist(), maximum.tolist())
    with open_tiff(tmp_path / "cents.tif", beside=True) as source:
        seen = InputScene(source, network, None, scale).rows(0, 64)
    assert np.abs(seen.astype(int) - rows).max() <= 1
    flags = ("--checkpoint", best, "--input", tmp_path / "cents.tif", "--device", "cpu")
    words = (*map(str, flags), "--output", str(tmp_path / "y.tif"))
    done = run("tools/predict.py", None, *words, *scale.flag().split())
    assert done.returncode == 0, done.stderr
    for asked, said in (
        (("percentile",), "--scale percentile: give a minimum and a maximum of each band"),
        (("0", "1", "2", "3"), "--scale has numbers of 2 bands, the network takes 3"),
        (("0", "1", "--max_value", "3"), "--max_value 3, --scale: both are given; leave one"),
    ):
        done = run("tools/predict.py", None, *words, "--overwrite", "--scale", *asked)
        assert done.returncode == 2
        assert said in done.stderr
        assert done.stderr.count("error: ") == 1


def test_what_is_shown_is_scaled_as_training_has_it(of_pretraining, of_finetuning, tmp_path, run):
    """By the weights' numbers, by a flag, and by a config that asks for percentiles."""
    picture = ("--output", str(tmp_path / "x.png"), "--samples", "4")
    done = run("tools/show_pretext.py", of_pretraining, *picture)
    assert done.returncode == 0, done.stderr
    assert "2nd and 98th percentile" in done.stdout
    pretrain(of_pretraining)
    of_finetuning["backbone_cfg"]["pretrained"] = str(tmp_path / "run/backbone.pth")
    of_finetuning["train_cfg"]["train_data"].pop("scale")
    for part in ("train", "test"):
        done = run("tools/show_labels.py", of_finetuning, *picture, "--part", part)
        assert done.returncode == 0, done.stderr
        assert "of the training of the weights" in done.stdout
    data = of_finetuning["train_cfg"]["train_data"]
    words = ("--images", data["image_path"], "--labels", data["label_path"], "--classes", "a", "b")
    done = run("tools/show_labels.py", None, *words, *picture)
    assert done.returncode == 2
    for scale in (("percentile",), map(str, (-20, -5, -25, -12, 290, 310))):
        done = run("tools/show_labels.py", None, *words, *picture, "--scale", *scale)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("scale", "said"),
    [
        ({"minimun": 0, "maximum": 1}, "scale: unknown key 'minimun', did you mean 'minimum'?"),
        ({"minimum": 1, "maximum": 1}, "minimum 1, maximum 1: the minimum must be below"),
        ("percentil", "scale: expected 'percentile' or a dict, not 'percentil'"),
    ],
)
def test_a_call_refuses_what_is_no_scale(tmp_path, scale, said):
    with pytest.raises(UserError) as error:
        sslrs.pretrain(draw_scenes(tmp_path)["image_path"], tmp_path / "run", scale=scale)
    assert said in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_probe_and_its_training_are_scaled_alike(of_pretraining, tmp_path):
    tiles = draw_scenes(tmp_path)
    cfg = tiles | dict(classes=("a", "b"), crop_size=32, pixels=8)
    of_pretraining["train_cfg"]["probe"] = cfg
    for scale in (None, "percentile"):
        cfg["scale"] = scale
        images = open_pretraining(of_pretraining)[0].probe.probe.images
        assert images.min() == 0
        assert images.max() == 255
    cfg["scale"] = dict(minimum=0, maximum=1)
    with pytest.raises(
        UserError, match=r"train_cfg.probe: max_value=1: in train_data .* it is scale="
    ):
        open_pretraining(of_pretraining)


def test_what_looks_at_a_run_and_publishes_it_knows_its_numbers(
    of_pretraining, of_finetuning, tmp_path, run
):
    """The doctor, the probe's command, and the model card of an export."""
    of_pretraining["train_cfg"]["probe"] = draw_scenes(tmp_path) | dict(
        classes=("a", "b"), crop_size=32, pixels=8
    )
    pretrain(of_pretraining)
    folder = tmp_path / "run"
    numbers = ends(json.loads((folder / "backbone.json").read_text()))
    stated = f"minimum=({', '.join(f'{low:g}' for low in numbers[0])})"
    draw_scenes(tmp_path, shift=2)
    words = ("--backbone", str(folder / "backbone.pth"), "--device", "cpu")
    done = run("tools/probe.py", of_pretraining, *words)
    assert done.returncode == 0, done.stderr
    assert stated in done.stdout
    of_finetuning["backbone_cfg"]["pretrained"] = str(folder / "backbone.pth")
    of_finetuning["train_cfg"]["train_data"].pop("scale")  # as only the weights tell it
    done = run("tools/doctor.py", of_finetuning)
    assert "FAIL" not in done.stdout, done.stdout
    assert stated in done.stdout
    words = ("--checkpoint", folder / "backbone.pth", "--format", "safetensors", "--output")
    done = run("tools/export.py", None, *map(str, words), str(tmp_path / "x/net.safetensors"))
    assert done.returncode == 0, done.stderr
    card = (tmp_path / "x/README.md").read_text()
    pairs = ", ".join(f"{low:g} to {high:g}" for low, high in numbers.T)
    assert f"The files' values were scaled first: {pairs} of each band become 0 to 1;" in card


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (dict(scale="percentil"), "scale: expected 'percentile' or a dict, not 'percentil'"),
        (dict(scale=3), "scale: expected 'percentile' or a dict, not 3"),
        (dict(scale=dict(minimum=0)), "scale: missing key 'maximum'"),
        (dict(scale=dict(minimum="a", maximum=1)), "scale.minimum: expected float"),
        (dict(scale=dict(minimum=5, maximum=1)), "minimum 5, maximum 1: the minimum must be below"),
        (dict(scale=dict(minimum=(0, 0), maximum=1)), "scale has numbers of 2; give one for each"),
        (dict(max_value=3), "max_value=3, scale: both are given; leave one of them out"),
    ],
)
def test_wrong_keys_are_refused_in_a_line(run, of_pretraining, of_finetuning, keys, said):
    for script, config in (("train.py", of_pretraining), ("finetune_seg.py", of_finetuning)):
        config["train_cfg"]["train_data"] |= keys
        done = run(script, config, "--dry_run")
        assert done.returncode == 2, done.stderr
        assert said in done.stderr
        assert done.stderr.strip().splitlines()[-1].startswith("error: ")
        assert done.stderr.count("error: ") == 1
        assert "train_cfg.train_data" in done.stderr


def own_run(run, images: str, output: Path, *flags):
    words = ("--images", images, "--output", output, "--preset", "small", "--epochs", 1, *flags)
    batch = ("train_cfg.batch_size=3", "train_cfg.device=cpu", "train_cfg.num_workers=0")
    return run("train.py", None, *map(str, words), "--set", *batch)


def test_a_run_of_ones_own_negative_images_chooses_percentiles(run, tmp_path):
    images = draw_scenes(tmp_path)["image_path"]
    done = own_run(run, images, tmp_path / "own")
    assert done.returncode == 0, done.stderr
    assert "2nd and 98th percentile of each band, become black and white (--scale)" in done.stdout
    numbers = ends(json.loads((tmp_path / "own/backbone.json").read_text()))
    np.testing.assert_allclose(numbers, np.add(MEANS, [[-1.75], [5.75]]), atol=0.25)
    assert "scale=dict(" in (tmp_path / "own/config.py").read_text()
    flags = ("--scale", -25, 0, -32, -5, 250, 350)
    done = own_run(run, images, tmp_path / "stated", *flags, "--dry_run")
    assert done.returncode == 0, done.stderr
    assert "of the values lie below scale" in done.stdout
    assert "percentile" not in done.stdout


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--scale", "percentil"), "--scale percentil: give percentile, or a minimum"),
        (("--scale", 0, 1, 2), "--scale 0 1 2: give percentile, or"),
        (("--scale", 1, 1), "minimum 1, maximum 1: the minimum must be below"),
        (("--scale", 0, 1, "--max_value", 3), "--max_value 3, --scale: both are given; leave one"),
        (("--scale", 0, 1, -5, 5), "--scale has numbers of 2 bands where 3 are taken; give"),
    ],
)
def test_wrong_flags_of_an_own_run_are_refused_in_a_line(run, tmp_path, flags, said):
    done = own_run(run, draw_scenes(tmp_path)["image_path"], tmp_path / "own", *flags)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("error: ") == 1
    assert not (tmp_path / "own/config.py").exists()  # the folder takes the right numbers next


def test_labelled_images_of_ones_own_are_prepared_by_percentiles(run, tmp_path):
    tiles = draw_scenes(tmp_path, count=9)
    words = (
        "--images",
        tiles["image_path"],
        "--labels",
        tiles["label_path"],
        "--classes",
        "a",
        "b",
    )
    words += ("--output", str(tmp_path / "own"), "--splits", "val=0.3", "--dry_run")
    done = run("finetune_seg.py", None, *words, "--set", "train_cfg.device=cpu")
    assert done.returncode == 0, done.stderr
    assert "(2nd and 98th percentile of some of the training scenes)" in done.stdout


def test_labelled_images_of_ones_own_are_prepared_as_the_weights_saw_theirs(
    run, of_pretraining, tmp_path
):
    pretrain(of_pretraining)
    backbone = tmp_path / "run/backbone.pth"
    scale = scale_of_card(json.loads(backbone.with_suffix(".json").read_text()))
    tiles = draw_scenes(tmp_path / "labelled", count=9, shift=2)
    words = ("--images", tiles["image_path"], "--labels", tiles["label_path"])
    words += ("--classes", "a", "b", "--splits", "val=0.3", "--set", "train_cfg.device=cpu")
    flags = ("--output", tmp_path / "own", "--backbone", backbone, "--dry_run")
    done = run("finetune_seg.py", None, *words, *map(str, flags))
    assert done.returncode == 0, done.stderr
    assert f"{scale.flag()} (of the training of" in done.stdout


if __name__ == "__main__":
    work(Path(sys.argv[1]))
