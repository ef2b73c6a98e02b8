"""Scales of each band from one end to the other: pre-training, fine-tuning, going on, maps."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from drawn import write_png, write_tiff

from SSLRemoteSensing.core import checkpoints
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.data.geotiff import open_tiff
from SSLRemoteSensing.data.segmentation import SegmentationDataset, TileSettings
from SSLRemoteSensing.inference.network import open_network
from SSLRemoteSensing.inference.scene import InputScene
from SSLRemoteSensing.workflows.finetuning import finetune, open_finetuning, score_checkpoint
from SSLRemoteSensing.workflows.pretraining import open_pretraining, pretrain

MEANS = (-12, -19, 300)  # decibels of VV and VH, and kelvin


def draw_scenes(folder: Path, count: int = 6, shift: float = 0) -> dict:
    """Float32 GeoTIFFs of three bands of different ranges, some of it NaN, and labels 0/1."""
    rng = np.random.default_rng(0)
    for number in range(count):
        label = rng.integers(0, 2, (4, 4)).repeat(16, 0).repeat(16, 1)
        planes = np.stack([rng.normal(mean + shift + 4 * label, 1) for mean in MEANS])
        planes[:, :5, :7] = np.nan
        write_tiff(folder / f"images/t{number}.tif", planes.astype(np.float32))
        write_png(folder / f"labels/t{number}.png", label.astype(np.uint8))
    return {"image_path": str(folder / "images"), "label_path": str(folder / "labels")}


@pytest.fixture
def of_pretraining(pretext_config, tmp_path) -> dict:
    tiles, config = draw_scenes(tmp_path), pretext_config
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
        (("--scale", 0, 1, -5, 5), "3 bands are taken of it, scale has numbers of 2"),
    ],
)
def test_wrong_flags_of_an_own_run_are_refused_in_a_line(run, tmp_path, flags, said):
    done = own_run(run, draw_scenes(tmp_path)["image_path"], tmp_path / "own", *flags)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("error: ") == 1


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
