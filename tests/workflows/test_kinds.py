"""Which kind a config is of, and what a command says of one of the other kind."""

import pytest
from calls import command
from conftest import ROOT

from SSLRemoteSensing.core.config import load_config
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.workflows.kinds import KINDS, kind_of, require_kind

CONFIGS = sorted((ROOT / "configs").glob("*.py"))
TUNING = "configs/demo_oam_finetune_resnet18_cfg.py"
PRETEXT = "configs/vr_vgg16_inapinting_agr_examplar_cfg.py"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_kind_of_each_config_of_the_repository_is_known(path):
    """By the folders that they name: of tiles, or of images and labels."""
    config = load_config(path)
    script = "train.py" if "data_path" in config["train_cfg"]["train_data"] else "finetune_seg.py"
    assert kind_of(config).script == script


@pytest.mark.parametrize("missing", ["classes", "decoder_cfg", "palette"])
def test_a_key_that_is_missing_does_not_make_it_the_other_kind(missing):
    config = load_config(ROOT / TUNING)
    del config[missing], config["train_cfg"]["val_data"]
    assert kind_of(config).name == "fine-tuning"
    require_kind(config, "finetune", TUNING)


@pytest.mark.parametrize("config", [{}, {"train_cfg": 3}, {"backbone_cfg": {}, "train_cfg": {}}])
def test_a_config_that_tells_nothing_is_left_to_its_check(config):
    for task in KINDS:
        require_kind(config, task, "x.py")


@pytest.mark.parametrize(
    ("script", "file", "flags", "said"),
    [
        ("train.py", TUNING, (), "is for fine-tuning; python finetune_seg.py runs it"),
        ("tools/probe.py", TUNING, ("--backbone", "random"),
         "is for fine-tuning; python finetune_seg.py runs it"),
        ("finetune_seg.py", PRETEXT, (), "is for pre-training; python train.py runs it"),
        ("tools/label_efficiency.py", PRETEXT, ("--output", "x", "--init", "random"),
         "is for pre-training; python train.py runs it"),
        ("tools/show_pretext.py", TUNING, ("--output", "x.png"),
         "is for fine-tuning; python tools/show_labels.py shows it"),
        ("tools/show_labels.py", PRETEXT, ("--output", "x.png"),
         "is for pre-training; python tools/show_pretext.py shows it"),
    ],
)  # fmt: skip
def test_a_config_of_the_other_kind_is_one_line(
    tmp_path, monkeypatch, capsys, script, file, flags, said
):
    path = ROOT / file
    monkeypatch.chdir(tmp_path)
    assert command(script, None, tmp_path, "--config_file", path, *flags) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "left out" not in line]
    assert lines == [f"error: config file {path}: {said}"]
    assert not list(tmp_path.iterdir())


def test_a_kind_that_is_asked_for_passes():
    for task, file in (("finetune", TUNING), ("pretrain", PRETEXT)):
        require_kind(load_config(ROOT / file), task, file)
        other = {"finetune": "pretrain", "pretrain": "finetune"}[task]
        with pytest.raises(UserError, match=f"{file}: is for {KINDS[task].name}; "):
            require_kind(load_config(ROOT / file), other, file)
