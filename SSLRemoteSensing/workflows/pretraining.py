"""Pre-training as train.py runs it: its config keys, open what they name, train."""

from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple, NotRequired, TypedDict

import torch

from SSLRemoteSensing.core import checkpoints
from SSLRemoteSensing.core.config import OneOf, Part, require
from SSLRemoteSensing.core.console import shell_line
from SSLRemoteSensing.core.distributed import size
from SSLRemoteSensing.core.errors import UserError, about
from SSLRemoteSensing.core.machine import choose_device, choose_precision, versions
from SSLRemoteSensing.data.prepared import origin_of_tiles, read_card
from SSLRemoteSensing.data.pretext import (
    PretextDataset,
    PretextSettings,
    choose_images,
    collate,
)
from SSLRemoteSensing.data.reading import Reading
from SSLRemoteSensing.data.scale import scale_card, stated_scale
from SSLRemoteSensing.evaluation.linear_probe import read_probe
from SSLRemoteSensing.evaluation.probe_tiles import ProbeSettings
from SSLRemoteSensing.models.distillation import DISTILLATION_HEADS
from SSLRemoteSensing.models.heads import AGR_HEADS, EXAMPLAR_HEADS, INPAINTING_HEADS, TURNS
from SSLRemoteSensing.models.pretext import PretextNet, build_pretext, pretext_losses
from SSLRemoteSensing.models.pretrained import BACKBONES
from SSLRemoteSensing.training.engine import fit
from SSLRemoteSensing.training.rehearsal import rehearse
from SSLRemoteSensing.training.resume import start_digest
from SSLRemoteSensing.training.run_folder import write_run_card
from SSLRemoteSensing.training.settings import LoopSettings, divide_batch, split
from SSLRemoteSensing.training.task import Monitor, Place, Task
from SSLRemoteSensing.workflows.monitor import BatchMonitor, EpochProbe, SampleMonitor
from SSLRemoteSensing.workflows.settled_scale import settle_scale

MAPS = ("map_channels",)  # what a head takes of the backbone


class PretextData(TypedDict):
    """What `train_cfg` holds for train.py besides the loop's own keys.

    Attributes:
        train_data: the images and what is made of them.
        global_batch_size: images a step of all processes together, in place of `batch_size`; a
            multiple of their number.
        losses: the tasks' losses and weights; by default the published ones.
        joint_pass: all images of a step in one pass through the backbone, with the statistics of
            batch normalization over all of them: fewer, larger kernels, and not what was published.
            By default False, a pass a branch.
        probe: a linear classifier fitted on a few labels after each epoch, which tells whether the
            features get better for segmentation; None or absent: none.
    """

    train_data: Annotated[dict, Part(PretextSettings)]
    global_batch_size: NotRequired[int]
    losses: NotRequired[Annotated[dict, Part(pretext_losses)]]
    joint_pass: NotRequired[bool]
    probe: NotRequired[Annotated[dict | None, Part(ProbeSettings)]]


class PretextConfig(TypedDict):
    """A config of train.py; a head that is None or absent is not trained.

    Attributes:
        name: of the experiment; kept in the card and run.json.
        backbone_cfg: the network that is pre-trained.
        inpainting_head_cfg: the head that restores the distorted block.
        agr_head_cfg: the head that tells the transform.
        examplar_head_cfg: the head whose embedding tells images apart.
        distillation_head_cfg: the head that predicts the features of a frozen teacher.
        train_cfg: data, losses and the loop.
    """

    name: str
    backbone_cfg: Annotated[dict, OneOf(BACKBONES)]
    inpainting_head_cfg: NotRequired[Annotated[dict | None, OneOf(INPAINTING_HEADS, given=MAPS)]]
    agr_head_cfg: NotRequired[Annotated[dict | None, OneOf(AGR_HEADS, given=MAPS)]]
    examplar_head_cfg: NotRequired[Annotated[dict | None, OneOf(EXAMPLAR_HEADS, given=MAPS)]]
    distillation_head_cfg: NotRequired[
        Annotated[dict | None, OneOf(DISTILLATION_HEADS, given=(*MAPS, "bands"))]
    ]
    train_cfg: Annotated[dict, Part(LoopSettings, (), PretextData)]


def check_pretext(config: dict) -> None:
    """Raise a `UserError` naming every wrong key of a pre-training config."""
    require(Part(PretextConfig), config)
    train_cfg = config["train_cfg"]
    agr, data = config.get("agr_head_cfg"), train_cfg["train_data"]
    transforms = data["agr_transforms_cfg"]["transforms_cfg"]
    if agr is not None and agr["num_classes"] != len(transforms):
        raise UserError(
            f"agr_head_cfg.num_classes={agr['num_classes']}: there are {len(transforms)} "
            f"transforms in train_data.agr_transforms_cfg.transforms_cfg; make them equal"
        )
    batch_size = divide_batch(train_cfg)["batch_size"]
    examplar = config.get("examplar_head_cfg")
    if agr is not None and agr["name"] == "MatchingHead":
        check_matching(data, batch_size)
    if examplar is None:
        return
    if examplar["name"] == "DenseExamplarHead":
        check_dense(data)
    loss = train_cfg.get("losses", {}).get("ExamplarLoss") or {}
    if batch_size * (size() if loss.get("gather", True) else 1) < 2:
        raise UserError(
            f"train_cfg.batch_size={batch_size} (of each process): the contrastive loss compares "
            f"images of a batch; set at least 2, or examplar_head_cfg=None"
        )


def check_matching(data: dict, batch_size: int) -> None:
    """Raise a `UserError` where a MatchingHead could not learn from such data."""
    faults = {
        f"agr_head_cfg: MatchingHead {TURNS_MISSING}": not has_turns(data),
        f"train_cfg.batch_size={batch_size} (of each process): MatchingHead takes the batch's mean "
        "out of its images; set at least 3": batch_size < 3,
        f"train_data.img_size={data['img_size']}: block6 is a single cell, which MatchingHead "
        "cannot turn; set at least 64": data["img_size"] < 64,
    }
    for fault, is_so in faults.items():
        if is_so:
            raise UserError(f"{fault}, or use AGPHead")


def check_dense(data: dict) -> None:
    """Raise a `UserError` where no place of one view is known in the other."""
    shortcuts = (data["agr_transforms_cfg"].get("shortcut_cfg") or {}).values()
    if not has_turns(data):
        raise UserError(
            f"examplar_head_cfg: DenseExamplarHead {TURNS_MISSING}, or use ExamplarHead"
        )
    if {cfg["name"] for cfg in shortcuts} & {name for name, _ in TURNS}:
        raise UserError(
            "examplar_head_cfg: DenseExamplarHead compares places, which a turn or flip of "
            "shortcut_cfg moves; leave those out of it, or use ExamplarHead"
        )


TURNS_MISSING = (
    "takes the published six transforms, in their order; give "
    "train_data.agr_transforms_cfg.transforms_cfg as in "
    "configs/vr_vgg16_inapinting_agr_examplar_cfg.py"
)


def has_turns(data: dict) -> bool:
    """Whether the transforms are the published six, always applied."""
    transforms = data["agr_transforms_cfg"]["transforms_cfg"].values()
    # A rotation is always applied where a config does not say it; a flip is not, every second time.
    return [(cfg["name"], cfg.get("angle")) for cfg in transforms] == list(TURNS) and all(
        cfg.get("p", 1.0 if cfg["name"] == "Rotate" else 0.5) == 1 for cfg in transforms
    )


class Pretraining(NamedTuple):
    """A config, its network, and its keys of `train_cfg`: the task's and the loop's."""

    config: dict
    model: PretextNet
    keys: dict
    loop: LoopSettings


def open_network(config: dict, processes: int | None = None) -> Pretraining:
    """Check `config` and build its network, for `processes` (default: as many as there are now).

    Raises:
        UserError: naming every wrong key; weights that do not fit. No image is opened.
    """
    check_pretext(config)
    keys, loop = split(config["train_cfg"], PretextData, processes)
    torch.manual_seed(loop.seed)
    network = build_pretext(config)
    if network.distillation_head is not None:
        network.distillation_head.require_size(keys["train_data"]["img_size"])
    return Pretraining(config, network, keys, loop)


def open_pretraining(config: dict) -> tuple[Task, LoopSettings]:
    """Check `config`, build its network, open its images.

    Raises:
        UserError: naming every wrong key, or the files that cannot be used.
    """
    return open_task(open_network(config))


def open_task(opened: Pretraining) -> tuple[Task, LoopSettings]:
    """The training of `opened`, and its loop's keys; its images and the probe's are opened.

    Raises:
        UserError: files that cannot be used.
    """
    network, keys, settings = opened.model, opened.keys, opened.loop
    backbone, channels = network.backbone, network.backbone.in_channels
    config = settle_scale(opened.config, channels)
    data = config["train_cfg"]["train_data"]
    dataset = open_images(data, channels, settings.seed)
    with about("train_cfg.train_data"):
        origin = origin_of_tiles(read_card(data["data_path"]), data.get("bands"), channels)
        dataset.check_values("train_cfg.train_data")
    cfg, given = keys.get("probe"), (network, settings, data["img_size"], dataset.reading)
    probe = cfg and open_probe(cfg, *given)
    origin["bands"] = origin["bands"] or list(range(1, channels + 1))
    card = backbone.card() | origin
    card |= scale_card(dataset.reading.scale) | {"img_size": data["img_size"]}
    card |= {"dtype": dataset.reading.dtype} if dataset.reading.scale else {}
    if network.distillation_head is not None:
        card["teacher"] = network.distillation_head.teacher_card
    card |= start_digest(config) | {"config": config, "versions": versions()}

    def export(place: Place) -> None:
        reached = {"epoch": place.epoch + 1, "step": place.step, "images_seen": place.images}
        checkpoints.export_backbone(settings.folder, backbone.state_dict(), card | reached)

    transforms = list(data["agr_transforms_cfg"]["transforms_cfg"])
    monitors = open_monitors(network, dataset, transforms, settings)
    calls = {"begin": partial(write_run_card, config), "export": export}
    calls |= {"exported": [settings.folder / name for name in ("backbone.pth", "backbone.json")]}
    calls |= {"monitors": monitors, "probe": probe, "files": len(dataset.files)}
    # Forked workers would read answers to each other's requests on the connections that GDAL keeps.
    calls |= {"start": "spawn" if dataset.settings.allow_remote else None}
    return Task(network, dataset, collate, card, **calls), settings


def open_images(data: dict, in_channels: int, seed: int) -> PretextDataset:
    """The images of a config's `train_data`."""
    with about("train_cfg.train_data"):
        return PretextDataset(PretextSettings(**data), in_channels, seed)


def train_reading(data: dict, in_channels: int) -> Reading:
    """How the images of `train_data` are read; where they are not there, as far as it says so."""
    settings = PretextSettings(**data)
    try:
        return choose_images(settings, in_channels)[1]
    except UserError:
        return Reading(
            stated_scale(settings.max_value, settings.scale), settings.bands, settings.data_path
        )


def open_monitors(
    network: PretextNet, dataset: PretextDataset, transforms: list[str], settings: LoopSettings
) -> list[Monitor]:
    """What looks at the network while it trains; `transforms` are the classes of the prediction."""
    monitors, every = [BatchMonitor(network, transforms)], settings.log.vis_step
    if every:
        given = (network, dataset, collate, settings.batch_size, transforms, every)
        monitors.append(SampleMonitor(*given))
    return monitors


def open_probe(
    cfg: dict, network: PretextNet, settings: LoopSettings, img_size: int, train: Reading | None
) -> EpochProbe:
    """The linear probe of a config; its tiles are read, as images of `train` where it does not say
    how, and it is printed which they are."""
    probe = read_probe(cfg, network.backbone, img_size, train)
    precision = choose_precision(settings.precision, choose_device(settings.device))
    return EpochProbe(probe, network.backbone, precision, settings.channels_last)


def pretrain(config: dict, dry_run: bool = False) -> dict[str, object]:
    """Pre-train as `config` says, or go on with it; where the results lie, by what they are.

    Args:
        dry_run: run and describe one step, write nothing, return nothing.
    """
    task, settings = open_pretraining(config)
    if dry_run:
        rehearse(task, settings)
        return {}
    fit(task, settings)
    log = Path(settings.log.log_path)
    return {
        "backbone": settings.folder / "backbone.pth",
        "card": settings.folder / "backbone.json",
        "figures": log / "metrics.jsonl",
        "curves": shell_line("tensorboard", "--logdir", log),
    }
