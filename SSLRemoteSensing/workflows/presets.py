"""Presets: a network and a recipe by name, for those who begin without a config file."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from SSLRemoteSensing.core.config import nearest
from SSLRemoteSensing.core.errors import UserError

MEASURED = (
    "memory: of the process, at most; a second: samples of a ready batch in a second of CPU time, "
    "on one thread of an AMD EPYC (fp32, tiles of 256 pixels, 2026-11-30); blank: not measured"
)


@dataclass(frozen=True)
class Cost:
    """What a step takes, as docs/measurements/benchmark_presets.json has it.

    Attributes:
        memory: GiB of the process, at most.
        rate: samples in a second of CPU time, of a batch that is ready.
    """

    memory: float
    rate: float


@dataclass(frozen=True)
class PretrainingPreset:
    """How a backbone is pre-trained.

    Attributes:
        backbone: one of the networks of `backbone_cfg.name`, or of timm, 'timm:MODEL'.
        img_size: side in pixels of what it sees, where the images are not smaller.
        batch_size: images a step.
        recipe: tasks, losses and rate. 'published', of Li et al. 2021; 'modern', of
            docs/measurements/history.md; 'places', of docs/results.md, `few_labels`.
        samples: images a run sees where no length is asked for.
        cost: of a step; None: not measured.
    """

    name: str
    text: str
    backbone: str
    img_size: int
    batch_size: int
    recipe: Literal["published", "modern", "places"]
    samples: int
    cost: Cost | None = None


@dataclass(frozen=True)
class FinetuningPreset:
    """How long a network is fine-tuned.

    Attributes:
        backbone: where no file of weights brings its own.
        batch_size: tiles a step.
        num_step: updates of the weights.
        cost: of a step; None: not measured.
    """

    name: str
    text: str
    backbone: str
    batch_size: int
    num_step: int
    cost: Cost | None = None


def by_name(*presets):
    return {preset.name: preset for preset in presets}


# A step of `full` is one of `standard`.
STANDARD = Cost(4.83, 0.211)
# fmt: off
PRETRAINING = by_name(
    PretrainingPreset("small", "ResNet-18 at 128 pixels, settings of today: CPUs and first looks",
        "resnet18", 128, 32, "modern", 100_000, Cost(2.24, 2.38)),
    PretrainingPreset("few_labels", "ResNet-18 at 32 pixels, places told apart: docs/results.md",
        "resnet18", 32, 128, "places", 192_000),
    PretrainingPreset("modern", "ResNet-50 at 256 pixels, settings of today",
        "resnet50", 256, 32, "modern", 1_000_000),
    PretrainingPreset("modern_vgg16", "VGG16-BN at 256 pixels, settings of today",
        "vgg16_bn", 256, 32, "modern", 1_000_000),
    PretrainingPreset("convnext", "ConvNeXt-T of timm at 256 pixels, settings of today",
        "timm:convnext_tiny", 256, 32, "modern", 1_000_000),
    PretrainingPreset("vit", "ViT-S/16 of timm at 256 pixels, settings of today",
        "timm:vit_small_patch16_224", 256, 32, "modern", 1_000_000),
    PretrainingPreset("published", "VGG16-BN at 256 pixels, as published (2021)",
        "vgg16_bn", 256, 4, "published", 1_000_000, Cost(3.41, 0.0678)),
    PretrainingPreset("published_resnet50", "ResNet-50 at 256 pixels, as published (2021)",
        "resnet50", 256, 4, "published", 1_000_000, Cost(5.28, 0.119)),
)
FINETUNING = by_name(
    FinetuningPreset("quick", "200 steps of 8 tiles: whether all is well", "resnet18", 8, 200,
        Cost(1.72, 0.923)),
    FinetuningPreset("standard", "4,000 steps of 16 tiles", "resnet50", 16, 4_000, STANDARD),
    FinetuningPreset("full", "40,000 steps of 16 tiles", "resnet50", 16, 40_000, STANDARD),
)
# fmt: on


def choose_preset(presets: Mapping, name: str):
    """The preset of that name.

    Raises:
        UserError: there is none; the nearest is named.
    """
    if name not in presets:
        raise UserError(f"--preset {name}: unknown, {nearest(name, presets)}")
    return presets[name]
