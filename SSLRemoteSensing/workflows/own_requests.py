"""What the commands without a config file are asked for."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from SSLRemoteSensing.core.config import check_fields
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.data.scale import Scale
from SSLRemoteSensing.workflows.own_labels import OwnLabels
from SSLRemoteSensing.workflows.presets import FINETUNING, PRETRAINING, choose_preset


@dataclass(frozen=True)
class PretrainingRequest:
    """What `pretrain` is asked for without a config file.

    Attributes:
        images: a folder, a pattern, a text file with a path a line, or image files.
        output: the run's folder.
        preset: of `presets.PRETRAINING`.
        epochs, minutes: length of the run; None both: by the preset.
        size: side in pixels of what the network sees; None: by preset and images.
        bands: as `look_at_images` has them.
        max_value, scale: the value that becomes white; or what becomes black and white, or
            'percentile'. None both: by the values of some files.
        settings: 'a.b=VALUE' each, keys of the config.
    """

    images: Sequence[str]
    output: str
    preset: str = "modern"
    epochs: int | None = None
    minutes: float | None = None
    size: int | None = None
    bands: Sequence[int] | None = None
    max_value: float | None = None
    scale: Scale | str | None = None
    settings: Sequence[str] = ()

    task = "pretrain"

    def __post_init__(self):
        check_fields(self)
        if self.epochs is not None and self.minutes is not None:
            raise UserError("--epochs, --minutes: give one of them")
        for flag in ("epochs", "minutes", "size", "max_value"):
            value = getattr(self, flag)
            if value is not None and not 0 < value < math.inf:
                raise UserError(f"--{flag} {value:g}: must be above 0")
        if self.size is not None and self.size % 32:
            raise UserError(f"--size {self.size}: must be a multiple of 32, the network's stride")
        if self.max_value is not None and self.scale is not None:
            raise UserError(
                f"--max_value {self.max_value:g}, --scale: both are given; leave one of them out"
            )
        choose_preset(PRETRAINING, self.preset)


@dataclass(frozen=True)
class FinetuningRequest:
    """What `finetune` is asked for without a config file.

    Attributes:
        tiles: the folder of a prepared set, or images with labels, which make one in the run.
        output: the run's folder.
        backbone: 'random', 'imagenet' or a file.
        preset: of `presets.FINETUNING`.
        frozen: the backbone's features as they are, read by a linear probe; else all is trained.
        fraction: share of the labels, above 0 to 1.
        epochs: length of the run; None: by the preset.
        unlabelled: 'rest', the tiles that `fraction` leaves out and the images that have no label,
            or a folder of images, to train on too by labels that a network gives them; None: no.
        settings: 'a.b=VALUE' each, keys of the config.
    """

    tiles: str | OwnLabels
    output: str
    backbone: str = "random"
    preset: str = "standard"
    frozen: bool = False
    fraction: float = 1.0
    epochs: int | None = None
    unlabelled: str | None = None
    settings: Sequence[str] = ()

    task = "finetune"

    def __post_init__(self):
        check_fields(self)
        if self.epochs is not None and self.epochs <= 0:
            raise UserError(f"--epochs {self.epochs}: must be above 0")
        if self.frozen and self.backbone == "random":
            raise UserError("--frozen: random weights have nothing to read; give --backbone FILE")
        if not 0 < self.fraction <= 1:
            raise UserError(f"--fraction {self.fraction:g}: must be above 0 and at most 1")
        choose_preset(FINETUNING, self.preset)


Request = PretrainingRequest | FinetuningRequest
