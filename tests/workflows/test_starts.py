"""What a grid's cells start from: networks of timm, their size, weights that cannot be had."""

import pytest
import torch

from SSLRemoteSensing.core.errors import MissingWeights, UserError
from SSLRemoteSensing.workflows.label_efficiency.cells import arguments
from SSLRemoteSensing.workflows.label_efficiency.grid import plan_grid, require_cells
from SSLRemoteSensing.workflows.label_efficiency.starts import config_of, network_size

pytest.importorskip("timm")
TIMM = ["backbone_cfg.name=timm", "backbone_cfg.model=convnext_atto"]


@pytest.fixture
def plan(seg_config, tmp_path):
    seg_config["decoder_cfg"] = {"name": "Decoder"}

    def call(*inits, own=(), fraction=0.5, **twins):
        return plan_grid(tmp_path / "grid", seg_config, inits, [fraction], [0], None, own, **twins)

    return call


def test_a_network_of_timm_is_a_start_with_its_own_weights_a_file_or_none(plan, tmp_path):
    file = tmp_path / "weights.pth"
    torch.save({}, file)
    grid = plan(
        "random=random", "own=timm:convnext_atto", f"file=timm:convnext_atto@{file}",
        "none=timm:convnext_atto@random",
    )  # fmt: skip
    expected = {"random": ("random", []), "own": ("imagenet", TIMM)}
    expected |= {"file": (str(file), TIMM), "none": ("random", TIMM)}
    for name, (spec, settings) in expected.items():
        assert (grid.known_inits[name]["spec"], grid.known_inits[name]["set"]) == (spec, settings)
    assert (grid.known_inits["file"]["sha256"] or "").isalnum()
    assert grid.known_inits["own"]["sha256"] is None
    (cell,) = (cell for cell in grid.cells() if cell.init == "file")
    words = arguments(grid, cell, False, None)
    assert words[words.index("--backbone") + 1] == str(file)
    assert set(TIMM) < set(words)


def test_sizes_are_of_the_network_with_its_decoder(plan):
    """A grid says of each start what a gain may only come of."""
    grid = plan("random=random", "none=timm:convnext_atto@random")
    name, parameters, macs = network_size(grid.config, grid.known_inits["none"])
    assert name == "convnext_atto of timm"
    # 3.37 million of the backbone without its last norm; the decoder's five stages of 3x3 with
    # their batch normalizations, and the two classes.
    stages = [(320, 160), (160, 80), (80, 40), (40, 64), (64, 32)]
    decoder = sum(9 * a * b + b + 2 * b for a, b in stages) + 9 * 32 * 2 + 2
    assert abs(parameters - decoder - 3_373_880) < 2_000
    assert 1e6 < macs < 1e9
    assert network_size(grid.config, grid.known_inits["random"])[0] == "resnet18"


def test_what_cannot_be_downloaded_is_left_out_unless_all_are_required(plan, monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.models.WeightsEnum.get_state_dict", offline)
    grid = plan("random=random", "net=imagenet")
    with pytest.raises(MissingWeights, match=r"--init net: .*no route to host"):
        require_cells(grid, require_all=True)
    (remark,) = require_cells(grid)
    assert remark.startswith("warning: left out, --init net: ")
    assert grid.inits == ["random"]
    with pytest.raises(MissingWeights):  # nothing would be left
        require_cells(plan("net=imagenet"))


def test_a_network_that_timm_has_not_is_refused(plan):
    with pytest.raises(UserError, match=r"--init x: .*model='convnext_none': timm .* has convnext"):
        require_cells(plan("random=random", "x=timm:convnext_none@random"))


def test_each_start_stands_with_tiles_without_labels_beside_itself(plan, tmp_path):
    own = [["ours", "train_cfg.backbone_lr_factor=0.1"]]
    grid = plan("random=random", "ours=random", own=own, frozen=True, unlabelled="rest")
    assert grid.inits[4:] == ["random.unlabelled", "ours.unlabelled"]
    for cell in grid.cells():
        train_cfg = config_of(grid.config, grid.known_inits[cell.init])["train_cfg"]
        expected = {"image_path": "rest"} if cell.init.endswith(".unlabelled") else None
        assert train_cfg.get("unlabelled") == expected
    assert train_cfg["backbone_lr_factor"] == 0.1  # of ours.unlabelled, the last cell
    require_cells(grid)
    grid = plan("random=random", unlabelled=str(tmp_path / "others"))
    assert str(tmp_path / "others") in str(grid.known_inits["random.unlabelled"]["set"])
    with pytest.raises(UserError, match=r"--unlabelled rest: at --fractions 1 nothing is left"):
        plan("random=random", unlabelled="rest", fraction=1.0)
    with pytest.raises(UserError, match=r"\.unlabelled ends the names that --unlabelled gives"):
        plan("a.unlabelled=random")


def test_each_start_stands_frozen_beside_itself(plan):
    """A probe has its own decoder, and what else was set for its start."""
    own = [["ours", "decoder_cfg.transfer=True", "train_cfg.backbone_lr_factor=0.1"]]
    own += [["net", "train_cfg.norm_eval=False"]]
    grid = plan("ours=random", "net=timm:convnext_atto@random", own=own, frozen=True)
    assert grid.inits == ["ours", "net", "ours.frozen", "net.frozen"]
    for cell in grid.cells():
        config = config_of(grid.config, grid.known_inits[cell.init])
        is_frozen = cell.init.endswith(".frozen")
        decoder = {"name": "LinearProbe"} if is_frozen else {"name": "Decoder"}
        decoder |= {"transfer": True} if cell.init == "ours" else {}
        assert config["decoder_cfg"] == decoder
        assert config["train_cfg"].get("freeze_backbone", False) == is_frozen
        factor = 0.1 if cell.init.startswith("ours") else 1.0
        assert config["train_cfg"]["backbone_lr_factor"] == factor
    assert "norm_eval" in config["train_cfg"]  # of net.frozen, the last cell
    require_cells(grid)
    with pytest.raises(UserError, match=r"--init a\.frozen=random: \.frozen ends the names"):
        plan("a.frozen=random")
