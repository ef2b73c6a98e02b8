"""A frozen teacher, and the head that predicts its features from the backbone's maps."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import torch
from torch import Tensor, nn

from SSLRemoteSensing.core.config import OneOf, build
from SSLRemoteSensing.core.console import warn
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.core.files import read_json, sha256
from SSLRemoteSensing.models.backbones import Backbone
from SSLRemoteSensing.models.pretrained import BACKBONES
from SSLRemoteSensing.models.timm_backbones import TimmBackbone

MATCHED = ("block5", "block6")  # 1/16, 1/32
SEED = 0  # of a teacher with random weights, which every process and every restart has to have


class DistillationHead(nn.Module):
    """The features of a frozen teacher, predicted from the backbone's maps place by place.

    A 1x1 convolution for each of the maps of 1/16 and 1/32 takes the backbone's channels to the
    teacher's, as the regressor of FitNets (Romero et al., ICLR 2015); what is compared are
    directions, so the loss is a cosine. Not in the published method.

    `forward(maps, images)`: the backbone's pyramid of float images (N, bands, H, W) in 0..1 that
    have no mean taken out, to pairs (prediction, target) of (N, D, H/16, W/16) and
    (N, D', H/32, W/32). The teacher takes out its own mean and std, of its card or of timm. It
    cannot know which values of the files became 0 and 1: where it was trained on others (a
    reflectance of 1, or 10,000), give `train_data` its scale.

    The teacher is no part of the head's modules: it is in no checkpoint, no optimizer sees it, and
    no mode but evaluation reaches it. It is built anew from the config where a run goes on.

    Args:
        teacher: a backbone, as in `backbone_cfg`; `pretrained` names its weights, which without it
            are random, and always the same.
        teacher_bands: which of the images' channels it gets, counted from 1, in its order; None:
            all of them.

    Attributes:
        teacher_card: which network with which weights it is, and under which licence, in plain
            types; None where nobody says.
    """

    reads = MATCHED

    def __init__(
        self,
        teacher: Annotated[dict, OneOf(BACKBONES)],
        map_channels: dict[str, int],
        bands: int,
        teacher_bands: Sequence[int] | None = None,
    ):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(SEED)
            net = build_teacher({"out_keys": MATCHED} | teacher)
        for what, channels in (
            ("backbone_cfg", map_channels),
            ("teacher", net.keep(net.channels)),
        ):
            if missing := [key for key in MATCHED if key not in channels]:
                raise UserError(
                    f"{what}: returns no {missing[0]}, which is compared; name it in out_keys"
                )
        channels = check_bands(teacher_bands, bands, net.in_channels)
        # On the device: the numbers of a list would be copied there in each step, and waited for.
        chosen = None if channels == list(range(bands)) else torch.tensor(channels)
        self.register_buffer("channels", chosen, persistent=False)
        self.projections = nn.ModuleDict(
            {key: nn.Conv2d(map_channels[key], net.channels[key], 1) for key in MATCHED}
        )
        self.teacher: Backbone
        object.__setattr__(self, "teacher", net.eval().requires_grad_(False))  # not a submodule
        self.teacher_card = describe(net, teacher) | {"bands": [n + 1 for n in channels]}
        if not teacher.get("pretrained"):
            warn("distillation_head_cfg.teacher: has random weights; set pretrained")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "DistillationHead":
        self.teacher._apply(fn, recurse)  # it goes where the head goes: device, memory format
        return super()._apply(fn, recurse)

    def require_size(self, side: int) -> None:
        """Raise a `UserError` where the teacher cannot see images of `side` pixels."""
        fixed_size = self.teacher.fixed_size
        if fixed_size not in (None, side):
            raise UserError(
                f"distillation_head_cfg.teacher.img_size={fixed_size}: {self.teacher.name} takes "
                f"that size alone, and train_data.img_size is {side}; make them equal"
            )

    def forward(self, maps: dict[str, Tensor], images: Tensor) -> list[tuple[Tensor, Tensor]]:
        # Not inference_mode, whose tensors the student's gradient could not be computed with.
        with torch.no_grad():
            seen = images if self.channels is None else images.index_select(1, self.channels)
            targets = self.teacher(seen)
        return [(project(maps[key]), targets[key]) for key, project in self.projections.items()]


def build_teacher(teacher: dict) -> Backbone:
    """The backbone of a config's `teacher`; what is wrong is said with its keys."""
    try:
        return build(BACKBONES, teacher, "teacher")
    except UserError as error:
        text = str(error).replace("backbone_cfg.", "distillation_head_cfg.teacher.")
        raise type(error)(text) from error


def check_bands(teacher_bands: Sequence[int] | None, bands: int, expected: int) -> list[int]:
    """`teacher_bands` counted from 0, or all; a `UserError` where they are not as many as the
    teacher takes, or not of the images."""
    chosen = list(range(1, bands + 1)) if teacher_bands is None else list(teacher_bands)
    if len(chosen) != expected or not all(1 <= band <= bands for band in chosen):
        given = "the images have" if teacher_bands is None else f"{tuple(chosen)} of"
        remedy = f"give {expected} numbers from 1 to {bands}"
        if len(chosen) != expected:
            remedy += f", or teacher.in_channels={len(chosen)}"
        raise UserError(
            f"teacher_bands: {given} {bands} channels, and the teacher takes {expected}; {remedy}"
        )
    return [band - 1 for band in chosen]


def describe(net: Backbone, cfg: dict) -> dict:
    """What a card says of a teacher built from `cfg`: no path, which may be a user's name."""
    weights, licence, digest = cfg.get("pretrained", False), None, None
    if isinstance(weights, str):
        licence = read_json(Path(weights).with_suffix(".json")).get("license")
        digest, weights = sha256(weights), Path(weights).name
    elif weights:
        weights = "timm" if isinstance(net, TimmBackbone) else "torchvision"
        licence = net.licence if isinstance(net, TimmBackbone) else None
    else:
        weights = "random"
    return net.card() | {"weights": weights, "sha256": digest, "license": licence}


DISTILLATION_HEADS = {"DistillationHead": DistillationHead}
