"""results.json: its form, every protocol that applies, and test files that are read at the end."""

import contextlib
import json
import re
import shutil
from pathlib import Path

import jsonschema
import pytest
import torch
from conftest import ROOT
from drawn import draw_levir, draw_potsdam, prepared

from SSLRemoteSensing.core.config import load_config
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.data.class_weights import median_frequency
from SSLRemoteSensing.models.segmentation import build_segmentation, require_same_network
from SSLRemoteSensing.workflows.finetuning import finetune
from SSLRemoteSensing.workflows.segmentation import check_segmentation

SCHEMA = json.loads((ROOT / "docs/results.schema.json").read_text())
KINDS = ("images", "labels", "labels_eroded")
CLUTTER = ["all", "mean_of_foreground", "clutter_ignored"]


@pytest.fixture(scope="module")
def potsdam(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("potsdam")
    draw_potsdam(folder / "source", ("2_10", "2_11", "2_13", "2_14"), size=(150, 190))
    prepared(folder, "potsdam", "--labels", "both", tile=64)
    return folder / "out"


def seg_config(root: Path, folder: Path, name="seg_potsdam_resnet50") -> dict:
    config = load_config(ROOT / f"configs/{name}_cfg.py")
    config["backbone_cfg"]["name"] = "resnet18"
    train_cfg = config["train_cfg"]
    train_cfg |= dict(batch_size=4, num_step=2, num_workers=0, device="cpu", precision="fp32")
    train_cfg["optimizer"] = dict(name="SGD", lr=0.01)  # a third of AdamW's checkpoints
    del train_cfg["num_epoch"]
    for split in ("train", "val", "test"):
        paths = {f"{kind}_path": f"{root}/{kind}s/{split}" for kind in ("image", "label")}
        train_cfg[f"{split}_data"] |= paths
    train_cfg["train_data"]["crop_size"] = 32
    train_cfg["checkpoints"] = dict(checkpoints_path=str(folder / "run"))
    train_cfg["log"] = dict(log_path=str(folder / "run/log"))
    return config


def results_of(folder: Path) -> dict:
    results = json.loads((folder / "results.json").read_text())
    jsonschema.validate(results, SCHEMA)
    return results


def test_the_schema_is_a_schema_and_refuses_what_is_not_of_it():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"version": 1}, SCHEMA)


def test_one_scoring_reports_every_protocol_and_reads_test_files_at_the_end_alone(
    run, potsdam, tmp_path
):
    """While training the test tiles but the first are empty; then the checkpoint is scored."""
    tiles = Path(shutil.copytree(potsdam, tmp_path / "tiles"))
    later = {tiles / kind / "test": tmp_path / kind for kind in KINDS}
    for path, hidden in later.items():
        path.rename(hidden)
        path.mkdir()
        for file in hidden.iterdir():
            (path / file.name).touch()
    first = min((tiles / KINDS[0] / "test").iterdir())
    shutil.copy(tmp_path / KINDS[0] / first.name, first)
    config = seg_config(tiles, tmp_path)
    config["train_cfg"]["loss"] = dict(name="CrossEntropyLoss", class_weights="median_frequency")
    config["scoring_cfg"] = dict(window=96)
    done = run("finetune_seg.py", config, "--backbone", "random")
    assert done.returncode == 2
    assert re.fullmatch(r"error: \w+ \S+: is empty; .*\n", done.stderr), done.stderr
    assert (tmp_path / "run/best.pth").exists()
    assert not (tmp_path / "run/results.json").exists()

    for path, hidden in later.items():
        shutil.rmtree(path)
        hidden.rename(path)
    again = run("finetune_seg.py", config, "--backbone", "random", "--tta")
    assert again.returncode == 0, again.stderr
    assert "nothing is left to do" in again.stdout
    results = results_of(tmp_path / "run")
    names = [*CLUTTER, *(f"{name}_eroded" for name in CLUTTER)]
    assert list(results["protocols"]) == names
    for name in names:  # and all of them in the terminal
        assert re.search(rf"^{name} +\d", again.stdout, re.MULTILINE), again.stdout
    assert (results["split"], results["scenes"], results["tiles"]) == ("test", 2, 18)
    assert results["scoring"] == dict(on="scenes", window=96, overlap=0.5, tta=True)
    assert results["protocols"]["all"]["pixels"] == 2 * 150 * 190  # though tiles overlap
    assert results["train_tiles"] == {"used": 9, "of": 9}
    train_cfg = results["config"]["train_cfg"]
    weights = median_frequency(train_cfg["train_data"]["image_path"], config["classes"])
    assert train_cfg["loss"]["class_weights"] == weights

    # Another way of scoring is another result: the same command with --tiles scores again.
    quick = run("finetune_seg.py", config, "--backbone", "random", "--tiles")
    assert quick.returncode == 0, quick.stderr
    results = results_of(tmp_path / "run")
    assert results["scenes"] is None
    assert results["scoring"] == dict(on="tiles", window=None, overlap=None, tta=False)
    assert results["protocols"]["all"]["pixels"] == 18 * 64 * 64


def test_a_checkpoint_is_scored_without_training_data_and_by_its_own_network_only(
    run, potsdam, tmp_path
):
    config = seg_config(potsdam, tmp_path)
    config["decoder_cfg"] = dict(name="PSPNet", output_stride=16)
    config["train_cfg"]["loss"] = dict(name="CrossEntropyLoss", class_weights="median_frequency")
    net = build_segmentation(config | {"train_cfg": {}})
    card = net.backbone.card() | {"classes": config["classes"], "config": config}
    (tmp_path / "run").mkdir()
    contents = {"model": net.state_dict(), "step": 7, "card": json.loads(json.dumps(card))}
    torch.save(contents, tmp_path / "run/best.pth")

    config["train_cfg"]["train_data"]["image_path"] = "/nowhere/images"
    given = ("--evaluate", str(tmp_path / "run/best.pth"), "--tiles")
    done = run("finetune_seg.py", config, *given)
    assert done.returncode == 0, done.stderr
    assert results_of(tmp_path / "run")["step"] == 7

    # The weights would fit at another dilation, and give other maps.
    done = run("finetune_seg.py", config, *given, "--set", "decoder_cfg.output_stride=8")
    assert done.returncode == 2
    assert "trained with decoder_cfg.output_stride=16, the config has 8" in done.stderr


@pytest.mark.parametrize(
    ("trained", "asked", "said"),
    [
        (dict(name="Unet"), dict(name="Unet", interpolation="nearest"), None),  # the default
        (None, dict(name="Decoder", transfer=True), None),
        (dict(name="Unet"), dict(name="Unet", interpolation="bilinear"), "interpolation='nearest'"),
        (dict(name="FPN"), dict(name="Unet"), "decoder_cfg.name='FPN', the config has 'Unet'"),
    ],
)
def test_what_is_another_network_is_told_from_what_is_written_otherwise(trained, asked, said):
    backbone = dict(name="resnet18", pretrained="a.pth", mean=[0.5] * 3)
    one = dict(backbone_cfg=backbone, decoder_cfg=trained)
    other = dict(backbone_cfg=dict(name="resnet18", in_channels=3), decoder_cfg=asked)
    wrong = pytest.raises(UserError, match=re.escape(said)) if said else contextlib.nullcontext()
    with wrong:
        require_same_network(one, other, "best.pth")


def test_cloud_and_snow_are_scored_against_the_rest(run, tmp_path):
    draw_levir(tmp_path / "source", train=5, test=2, size=(70, 90))
    prepared(tmp_path, "levir_cs", "--splits", "val=0.3", "train", "test")
    config = seg_config(tmp_path / "out", tmp_path, "seg_levir_cs_resnet50")
    done = run("finetune_seg.py", config, "--backbone", "random")
    assert done.returncode == 0, done.stderr
    protocols = results_of(tmp_path / "run")["protocols"]
    assert list(protocols) == ["all", "cloud_against_rest", "snow_against_rest"]
    matrix = torch.tensor(protocols["all"]["confusion_matrix"])
    cloud = protocols["cloud_against_rest"]["confusion_matrix"]
    assert cloud[1][1] == int(matrix[1, 1])
    assert cloud[0][0] == int(matrix[[0, 2]][:, [0, 2]].sum())


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["scoring_cfg.protocols=('all','cloud_against_rest')"], "'cloud_against_rest' is not to"),
        (["scoring_cfg.windw=64"], "scoring_cfg: unknown key 'windw', did you mean 'window'?"),
        (["train_cfg.loss.class_weights=median"], "train_cfg.loss.class_weights"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_opened(overrides, said):
    config = load_config(ROOT / "configs/seg_potsdam_resnet50_cfg.py", overrides)
    with pytest.raises(UserError, match=re.escape(said)):
        check_segmentation(config)


def test_eroded_labels_that_are_not_there_are_missed_before_training(potsdam, tmp_path):
    shutil.copytree(potsdam, tmp_path / "tiles")
    card = json.loads((tmp_path / "tiles/dataset.json").read_text()) | {"labels": ["full"]}
    (tmp_path / "tiles/dataset.json").write_text(json.dumps(card))
    config = seg_config(tmp_path / "tiles", tmp_path)
    config["scoring_cfg"] = dict(protocols=("all", "all_eroded"))
    with pytest.raises(UserError, match="has no eroded labels"):
        finetune(config)
    assert not (tmp_path / "run").exists()


def test_median_frequency_weighs_a_class_by_the_median_share_over_its_own(potsdam, tmp_path):
    card = json.loads((potsdam / "dataset.json").read_text())
    shares = list(card["class_shares"].values())
    middle = sum(sorted(shares)[2:4]) / 2
    weights = median_frequency(f"{potsdam}/images/train", card["classes"])
    assert weights == pytest.approx([middle / share for share in shares])
    for folder, classes, said in (
        (f"{potsdam}/images/train", ["a", "b"], "has the classes impervious surface, building"),
        (str(tmp_path), ["a", "b"], "not prepared"),
    ):
        with pytest.raises(UserError, match=said):
            median_frequency(folder, classes)
    # A class that never occurs gets no weight.
    card["class_shares"] = dict(zip(card["classes"], (0.5, 0.3, 0.2, 0, 0, 0), strict=True))
    (tmp_path / "dataset.json").write_text(json.dumps(card))
    weights = median_frequency(str(tmp_path), card["classes"])
    assert weights == pytest.approx([0.6, 1, 1.5, 0, 0, 0])


def test_weights_reach_losses_inside_a_sum(potsdam, tmp_path, capsys):
    config = seg_config(potsdam, tmp_path)
    weighted = dict(name="CrossEntropyLoss", class_weights="median_frequency")
    parts = dict(a=weighted, b=dict(name="DiceLoss"))
    config["train_cfg"]["loss"] = dict(name="SumLoss", losses=parts, factors=(1, 0.5))
    finetune(config, dry_run=True)
    assert re.search(r"losses: a \d.* b \d", capsys.readouterr().out)
