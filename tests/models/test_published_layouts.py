"""Weights of others under the names that their authors' code saves them by, and cards beside them.

The names are those of the repositories named; the values are drawn, one number a tensor.
"""

import argparse
import json

import pytest
import torch
from conftest import ROOT
from test_backbones import bare, blank, check_loaded, constants, save, weights_of
from torch import Tensor

from SSLRemoteSensing import load_backbone
from SSLRemoteSensing.core.config import build
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.data.scale import scale_of_card
from SSLRemoteSensing.models.pretrained import BACKBONES

timm = pytest.importorskip("timm")

VIT = "vit_tiny_patch16_224"
ARGS = argparse.Namespace(arch="any", lr=0.03)


def under(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in state.items()}


def mlp(prefix: str, *numbers: int) -> dict[str, Tensor]:
    """Layers of a head that is not the backbone's."""
    return {f"{prefix}{number}.weight": torch.zeros(2, 2) for number in numbers}


def averaged(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A running mean of the weights: other values."""
    return {key: value + 1 for key, value in state.items()}


def children(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A torchvision ResNet's names in nn.Sequential(*children)."""
    numbers = dict(conv1=0, bn1=1, layer1=4, layer2=5, layer3=6, layer4=7)
    parts = ((key.partition("."), value) for key, value in state.items())
    return {f"{numbers[name]}.{rest}": value for (name, _, rest), value in parts}


def torchgeo(state: dict) -> dict:
    """torchgeo: timm's names, no classifier."""
    return state


def moco_v2(state: dict) -> dict:
    """zhu-xlab/SSL4EO-S12, src/benchmark/pretrain_ssl/models/moco_v2/builder.py."""
    names = under("module.encoder_q.", state | mlp("fc.", 0, 2))
    names |= under("module.encoder_k.", averaged(state) | mlp("fc.", 0, 2))
    names |= {"module.queue": torch.zeros(2, 8), "module.queue_ptr": torch.zeros(1).long()}
    return {"epoch": 100, "arch": "any", "state_dict": names, "optimizer": {"state": {}}}


def moco_v3(state: dict) -> dict:
    """facebookresearch/moco-v3, moco/builder.py; SSL4EO-S12 has its ViTs so."""
    head = mlp("head.", 0, 3, 6)
    names = under("module.base_encoder.", state | head)
    names |= under("module.momentum_encoder.", averaged(state) | head)
    return {"epoch": 100, "state_dict": names | mlp("module.predictor.", 0, 3)}


def dino(state: dict) -> dict:
    """SSL4EO-S12, src/benchmark/pretrain_ssl/pretrain_dino_s2c.py: a ResNet's teacher, which has
    batch normalization, is wrapped as the student is; a ViT's is not."""
    head = mlp("head.mlp.", 0, 2, 4) | {"head.last_layer.weight_g": torch.zeros(2, 1)}
    wrapped = "module." if "bn1.weight" in state else ""
    student = under("module.backbone.", state) | under("module.", head)
    teacher = under(f"{wrapped}backbone.", averaged(state)) | under(wrapped, head)
    centre = {"center": torch.zeros(1, 2)}
    return {"student": student, "teacher": teacher, "args": ARGS, "dino_loss": centre}


def byol_numbered(state: dict) -> dict:
    """sthalles/PyTorch-BYOL, models/resnet_base_network.py and trainer.py."""
    online = under("encoder.", children(state)) | mlp("projetion.net.", 0, 3)
    target = under("encoder.", children(averaged(state))) | mlp("projetion.net.", 0, 3)
    return {"online_network_state_dict": online, "target_network_state_dict": target}


def byol(state: dict) -> dict:
    """lucidrains/byol-pytorch, byol_pytorch/byol_pytorch.py: the network stands there twice."""
    names = under("net.", state) | under("online_encoder.net.", state)
    names |= under("target_encoder.net.", averaged(state))
    return names | mlp("online_encoder.projector.", 0, 3) | mlp("online_predictor.", 0, 3)


def mae(state: dict) -> dict:
    """SatMAE (util/misc.py) and SSL4EO-S12's MAE: the decoder is beside."""
    decoder = {
        f"decoder_blocks.{number}.{key.split('.', 2)[2]}": torch.zeros(()).expand(value.shape)
        for number in range(8)
        for key, value in state.items()
        if key.startswith("blocks.0.")
    }
    decoder |= {"mask_token": torch.zeros(1, 1, 8), "decoder_pos_embed": torch.zeros(1, 197, 8)}
    decoder |= mlp("decoder_", "embed", "pred", "norm")
    return {"model": state | decoder, "optimizer": {}, "epoch": 100, "scaler": {}, "args": ARGS}


RESNETS = [torchgeo, moco_v2, moco_v3, dino, byol_numbered, byol]


@pytest.mark.parametrize("layout", RESNETS)
def test_a_resnet_is_found_with_or_without_its_architecture(tmp_path, layout):
    weights = constants(bare("resnet18", 13).state_dict())
    path = save(tmp_path / "w.pth", layout(weights))
    for model in (None, blank("resnet18", 13)):
        found = load_backbone(model, path)
        check_loaded(found["model"], weights)
        assert f"{len(weights)} of {len(weights)} entries of resnet18" in found["summary"]


@pytest.fixture(scope="module")
def vit() -> dict[str, Tensor]:
    """A ViT of 13 bands as torchgeo and its authors have it, without a classifier."""
    return constants(timm.create_model(VIT, num_classes=0, in_chans=13).state_dict())


def backbone(**settings):
    cfg = dict(name="timm", model=VIT, in_channels=13)
    return build(BACKBONES, cfg | settings, "backbone_cfg")


@pytest.mark.parametrize("layout", [torchgeo, moco_v3, dino, mae])
def test_a_vit_is_found_in_the_network_of_timm(tmp_path, vit, layout):
    found = load_backbone(backbone(), save(tmp_path / "w.pth", layout(vit)))
    state = found["model"].state_dict()
    assert len(found["matched"]) == len([key for key in state if not key.startswith("pyramid.")])
    for key in found["matched"]:
        assert (state[key] == vit[key]).all(), key
    assert {"norm.weight", "norm.bias"} <= set(found["left_over"])


def test_tokens_of_groups_of_bands_are_told_from_those_of_a_vit(tmp_path, vit):
    """SatMAE, models_mae_group_channels.py."""
    state = {key: value for key, value in vit.items() if not key.startswith("patch_embed.")}
    for number, count in enumerate((4, 4, 2)):
        state[f"patch_embed.{number}.proj.weight"] = torch.zeros(192, count, 8, 8)
        state[f"patch_embed.{number}.proj.bias"] = torch.zeros(192)
    state |= {"pos_embed": torch.zeros(1, 145, 128), "channel_embed": torch.zeros(1, 3, 64)}
    path = save(tmp_path / "w.pth", mae(state))
    with pytest.raises(UserError, match=r"groups of bands \(SatMAE\).* a plain ViT"):
        load_backbone(backbone(), path)


CARD = dict(mean=[0.16] * 13, std=[0.08] * 13, bands=list(range(1, 14)))


def carded(tmp_path, card) -> str:
    """A ResNet of 13 bands with a card beside it."""
    path = save(tmp_path / "w.pth", torchgeo(constants(bare("resnet18", 13).state_dict())))
    text = card if isinstance(card, str) else json.dumps(card)
    path.with_suffix(".json").write_text(text)
    return str(path)


def test_a_card_beside_a_foreign_file_brings_mean_and_std_and_that_is_printed(tmp_path, capsys):
    net = BACKBONES["resnet18"](in_channels=13, pretrained=carded(tmp_path, CARD))
    assert (net.mean, net.std) == ((0.16,) * 13, (0.08,) * 13)
    said = capsys.readouterr().out
    assert "mean (0.16, 0.16, " in said
    assert "of its card w.json are taken out" in said
    given = dict(in_channels=13, mean=[0.5] * 13, std=[0.5] * 13)
    with pytest.raises(UserError, match=r"was trained with mean=\[0\.16, .*leave them out"):
        BACKBONES["resnet18"](pretrained=carded(tmp_path, CARD), **given)
    BACKBONES["resnet18"](pretrained=carded(tmp_path, {}), **given)
    assert "and std (0.5, 0.5, " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("card", "said"),
    [
        ("{", r"card .*w\.json: cannot be read \(.*\); mend or remove it"),
        (CARD | dict(mean=[0.1] * 3), r"w\.json: mean and std must be 13 numbers each"),
        (CARD | dict(std=None, mean="0.1"), r"w\.json: mean and std must be 13 numbers each"),
        (dict(mean=[0.1] * 13), r"w\.json: mean and std must be 13 numbers each"),
        (CARD | dict(mean=[1612.9] * 13), r"w\.json: mean=\(1612\.9, .*by the value that becomes"),
        (CARD | dict(bands=[4, 3, 2]), r"w\.json: bands must be 13 numbers"),
    ],
)
def test_a_wrong_card_is_one_line(tmp_path, card, said):
    with pytest.raises(UserError, match=said) as error:
        load_backbone(None, carded(tmp_path, card))
    assert "\n" not in str(error.value)


def test_the_card_of_the_documentation_is_one(tmp_path):
    page = (ROOT / "docs/use_the_weights.md").read_text()
    card = json.loads(page.split("```json\n")[1].split("```")[0])
    found = load_backbone(None, carded(tmp_path, card))
    assert found["model"].mean is None
    assert "no card says" not in found["summary"]
    assert scale_of_card(card).max_value == 10000


def test_weights_without_a_card_are_loaded_as_before(tmp_path):
    path = save(tmp_path / "w.pth", weights_of("resnet18"))
    path.with_suffix(".json").write_text(json.dumps(dict(scale=dict(minimum=0, maximum=10000))))
    found = load_backbone(None, path)
    assert found["model"].mean is None
    assert "no card says whether mean and std were taken out" in found["summary"]
