"""A run without a config file: the config that it needs, written to its folder, and kept there.

`RUN/config.py` is what is run, now and by the same command later; `RUN/command.json` says what was
asked for, so that a folder never goes on with other settings than it began with.
"""

import contextlib
import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from SSLRemoteSensing.core import distributed, machine
from SSLRemoteSensing.core.config import Part, load_config
from SSLRemoteSensing.core.console import shell_line
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.core.files import make_folder, read_json, write_text
from SSLRemoteSensing.core.templates import render
from SSLRemoteSensing.data.prepared import read_card
from SSLRemoteSensing.data.scale import Scale, up_to
from SSLRemoteSensing.models.backbones import ARCHITECTURES, BLOCKS
from SSLRemoteSensing.models.heads import SKIPS
from SSLRemoteSensing.models.pretrained import load_backbone
from SSLRemoteSensing.training.rehearsal import measure_step
from SSLRemoteSensing.training.train_step import TrainStep
from SSLRemoteSensing.workflows.finetuning import SegmentationConfig
from SSLRemoteSensing.workflows.own_images import look_at_images, write_list
from SSLRemoteSensing.workflows.own_labels import OwnLabels, prepare_own
from SSLRemoteSensing.workflows.presets import FINETUNING, PRETRAINING, choose_preset
from SSLRemoteSensing.workflows.pretraining import PretextConfig, open_pretraining

CONFIG, COMMAND, TILES = "config.py", "command.json", "tiles"
WEIGHTS = {"random": False, "imagenet": True}  # others are files
LEAST_EPOCHS, MOST_EPOCHS = 5, 400  # where no length is asked for
SHARE = 0.9  # of --minutes for steps: checkpoints, reading and the start take the rest
LARGE = 1.5  # images larger than the network's view by this factor are cut, not scaled
SCENE = 8  # and by this one are scenes, of which windows are read


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
        if self.epochs is not None and self.minutes is not None:
            raise UserError("--epochs, --minutes: give one of them")
        for flag in ("epochs", "minutes", "size"):
            value = getattr(self, flag)
            if value is not None and value <= 0:
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
    """What `finetune` is asked for without a config file: prepared tiles, or images with labels.

    Attributes:
        tiles: the folder of a prepared set; None: `images` and `labels` make one in the run.
        output: the run's folder.
        backbone: 'random', 'imagenet' or a file.
        preset: of `presets.FINETUNING`.
        fraction: share of the labels, above 0 to 1.
        images, labels, classes, class_field, splits, tile, label_offset: as `OwnLabels` has them.
        settings: 'a.b=VALUE' each, keys of the config.
    """

    tiles: str | None
    output: str
    backbone: str = "random"
    preset: str = "standard"
    fraction: float = 1.0
    images: Sequence[str] = ()
    labels: str | None = None
    classes: Sequence[str] = ()
    class_field: str | None = None
    splits: Sequence[str] = ()
    tile: int | None = None
    label_offset: int | None = None
    settings: Sequence[str] = ()

    task = "finetune"

    def __post_init__(self):
        if not 0 < self.fraction <= 1:
            raise UserError(f"--fraction {self.fraction:g}: must be above 0 and at most 1")
        choose_preset(FINETUNING, self.preset)
        if (self.tiles is None) != bool(self.images and self.labels):
            raise UserError("--tiles, or --images with --labels: give one of the two")
        for key in ("labels", "classes", "class_field", "splits", "tile", "label_offset"):
            if self.tiles is not None and getattr(self, key) not in (None, (), []):
                raise UserError(f"--{key}: is for --images; --tiles has been prepared")


Request = PretrainingRequest | FinetuningRequest
SCHEMAS = {"pretrain": PretextConfig, "finetune": SegmentationConfig}


@dataclass(frozen=True)
class Planned:
    """A config's text, and what to say of it, a line each."""

    text: str
    facts: Sequence[str]


@contextlib.contextmanager
def requested_config(request: Request, writes: bool = True) -> Iterator[dict]:
    """The config of a run, read from its folder or made and, if `writes`, kept there; without, what
    it needs is there as long as the block lasts.

    Processes of torchrun wait for the first, which writes.

    Raises:
        UserError: the folder holds a run of other settings; images, tiles or weights that cannot be
            used; a wrong key of `settings`.
    """
    folder, schemas = Path(request.output), [Part(SCHEMAS[request.task])]
    begun = require_same(request)
    with tempfile.TemporaryDirectory() as scratch:
        target = folder if begun or writes else Path(scratch)
        if not begun and distributed.rank() == 0:
            make_folder(target, "--output")
            with distributed.alone():
                write_config(request, target, schemas)
        if writes:
            print(f"config: {target / CONFIG}{', as this run began' if begun else ''}")
            distributed.barrier()
        yield load_config(target / CONFIG, schemas=schemas)


def write_config(request: Request, folder: Path, schemas: Sequence[object]) -> None:
    """Write the config that `request` plans, and last what was asked for, to `folder`."""
    plan = plan_pretraining if request.task == "pretrain" else plan_finetuning
    planned, path = plan(request, folder), folder / CONFIG
    write_text(path, planned.text)
    if request.settings:
        before, after = load_config(path), load_config(path, request.settings, schemas)
        write_text(path, planned.text + assignments(before, after, request.settings))
    write_text(folder / COMMAND, json.dumps(record_of(request), indent=2) + "\n")
    print(*planned.facts, sep="\n")


def record_of(request: Request) -> dict:
    """A request as command.json keeps it; where it lies may change."""
    record = {"task": request.task} | asdict(request)
    del record["output"]
    return json.loads(json.dumps(record))


def require_same(request: Request) -> bool:
    """Whether the folder holds a run of `request`.

    Raises:
        UserError: it holds another one.
    """
    folder = Path(request.output)
    if not (folder / COMMAND).is_file():
        for name in (CONFIG, "latest.pth", "run.json"):
            if (folder / name).exists():
                raise UserError(
                    f"--output {folder}: holds {name} of another run; give another folder, or go "
                    f"on with that run's own config"
                )
        return False
    before, now = read_json(folder / COMMAND), record_of(request)
    if not before:
        raise UserError(f"{folder / COMMAND}: damaged; restore it, or give another --output")
    changes = [key for key in dict.fromkeys([*before, *now]) if before.get(key) != now.get(key)]
    if changes:
        key = changes[0]
        again = shell_line("sslrs", request.task, "--config_file", folder / CONFIG)
        raise UserError(
            f"--output {folder}: holds a run of other settings, its {key} is {before.get(key)!r}, "
            f"now {now.get(key)!r}; give another folder, or go on with it as it began: {again}"
        )
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder / CONFIG}: is not there; restore it, or give another --output")
    return True


def assignments(before: dict, after: dict, settings: Sequence[str]) -> str:
    """What `settings` made of a config, as lines of Python to stand below it."""
    lines = ["", "# As --set has it."]
    for setting in settings:
        keys = setting.partition("=")[0].strip().split(".")
        place, old, value = "config", before, after
        for key in keys[:-1]:
            place += f"[{json.dumps(key)}]"
            old, value = old.get(key), value[key]
            if not isinstance(old, dict):
                lines.append(f"{place} = {{}}")
                old = {}
        lines.append(f"{place}[{json.dumps(keys[-1])}] = {literal(value[keys[-1]])}")
    return "\n".join(dict.fromkeys(lines)) + "\n"


def literal(value: object) -> str:
    """`value` as Python source, text in double quotes."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, tuple):
        return f"({''.join(f'{literal(part)}, ' for part in value).removesuffix(' ')})"
    return repr(value)


def plan_pretraining(request: PretrainingRequest, lists: Path) -> Planned:
    """The config of a pre-training, and what was found and chosen; `lists` gets a list of images
    where the config needs one."""
    scale = request.scale or up_to(request.max_value)
    images = look_at_images(request.images, lists, request.bands, scale)
    write_list(images, request.images, lists)
    preset = choose_preset(PRETRAINING, request.preset)
    img_size = request.size or min(preset.img_size, max(64, images.side // 32 * 32))
    crop_size = img_size if images.side > LARGE * img_size else None
    is_scenes = images.side >= SCENE * img_size and images.is_in_parts
    each = round(images.height * images.width / img_size**2) if is_scenes else 1
    count = images.count * each  # samples of an epoch, with windows about
    batch_size = min(preset.batch_size, count)
    if batch_size < 3:
        raise UserError(f"--images: {count} samples; at least 3 are compared with each other")
    samples = count // batch_size * batch_size
    epochs = request.epochs or min(max(preset.samples // samples, LEAST_EPOCHS), MOST_EPOCHS)
    steps = epochs * (count // batch_size)
    values = {
        "is_scenes": is_scenes,
        "images": images,
        "img_size": img_size,
        "crop_size": crop_size,
        "preset": preset,
    }
    values |= {"batch_size": batch_size, "length": f"num_epoch={epochs}"}
    values |= common_values(request, steps)
    feat_channels, last = pyramid_of(preset.backbone)
    values |= {"feat_channels": (*feat_channels, 32), "last": last, "channels": images.channels}
    how = "windows of each scene" if is_scenes else "a window of each image"
    how = how if crop_size else "each image, scaled"
    how = "each image as it is" if images.side == img_size else how
    size = f"size: the network sees {img_size} x {img_size} pixels, {how} (--size)"
    facts = [*images.facts, size]
    length = f"{epochs} epochs of {count // batch_size} steps (--epochs, --minutes)"
    if request.minutes is not None:
        steps = steps_within(render("workflows", "pretraining_config.txt", **values), request)
        values |= {"length": f"num_step={steps}"} | common_values(request, steps)
        length = f"{steps} steps, as many as {request.minutes:g} minutes hold here"
    facts.append(f"preset {preset.name}: {preset.text} (--preset)")
    facts.append(f"length: {length}, {batch_size} images a step")
    return Planned(render("workflows", "pretraining_config.txt", **values), facts)


def common_values(request: Request, steps: int) -> dict:
    """What both templates take of a request whose run has so many steps."""
    folder = Path(request.output)
    cores = machine.cores()
    return {
        "literal": literal,
        "command": f"sslrs {request.task}",
        "again": shell_line("sslrs", request.task, "--config_file", folder / CONFIG),
        "run_name": folder.absolute().name,
        "output": str(folder),
        "log": str(folder / "log"),
        "num_workers": min(8, max(0, cores - 2)),
        "warmup_steps": max(1, min(200, steps // 10)),
        "log_step": max(1, min(50, steps // 20)),
    }


def pyramid_of(backbone: str) -> tuple[tuple[int, ...], int]:
    """Channels of a network's maps block5 to block2, and of block6."""
    with torch.device("meta"):  # no memory, no numbers
        channels = ARCHITECTURES[backbone](in_channels=3, out_keys=BLOCKS).channels
    return tuple(channels[key] for key in SKIPS), channels["block6"]


def steps_within(text: str, request: PretrainingRequest) -> int:
    """How many steps the minutes of `request` hold, by the time that one takes here and now."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / CONFIG
        write_text(path, text)
        config = load_config(path, request.settings, [Part(PretextConfig)])
    task, settings = open_pretraining(config)
    start = time.perf_counter()
    batch = task.collate([task.dataset[(0, index)] for index in range(settings.batch_size)])
    reading = (time.perf_counter() - start) * settings.accumulate_steps
    _, computing = measure_step(TrainStep(task.model, settings), batch, settings.accumulate_steps)
    # Workers read beside the steps, the process itself before them.
    workers = settings.num_workers
    seconds = max(computing, reading / workers) if workers else computing + reading
    return max(1, int(SHARE * 60 * request.minutes / seconds))


def plan_finetuning(request: FinetuningRequest, lists: Path) -> Planned:
    """The config of a fine-tuning on prepared tiles, and what was chosen."""
    folder, is_file = request.tiles, request.backbone not in WEIGHTS
    if folder is None:
        folder = str(Path(request.output) / TILES)
        names = ("images", "labels", "classes", "class_field", "splits", "tile", "label_offset")
        own = OwnLabels(**{key: getattr(request, key) for key in names})
        prepare_own(own, Path(folder), request.backbone if is_file else None)
    card = require_labelled(folder)
    preset, tiles = choose_preset(FINETUNING, request.preset), card["tiles"]
    channels = len(card["bands"])
    backbone = architecture_of(request.backbone) if is_file else preset.backbone
    batch_size = min(preset.batch_size, tiles["train"])
    side = card["tile"]
    values = {"preset": preset, "tiles": folder, "classes": tuple(card["classes"])}
    values |= {"palette": card["palette"] and tuple(map(tuple, card["palette"]))}
    values |= {"backbone": backbone, "channels": channels, "fraction": request.fraction}
    values["pretrained"] = WEIGHTS.get(request.backbone, request.backbone)
    values |= {"batch_size": batch_size, "num_step": preset.num_step, "window": max(64, side)}
    values |= {"crop_size": -(-side // 32) * 32, "has_test": bool(tiles.get("test"))}
    values |= common_values(request, preset.num_step)
    counts = ", ".join(f"{name} {count:,}" for name, count in tiles.items() if count)
    facts = [f"tiles: {counts} of {side} x {side} pixels, {channels} channels"]
    facts.append(f"classes: {', '.join(card['classes'])}")
    facts.append(f"backbone: {backbone}, {request.backbone} (--backbone)")
    facts.append(f"preset {preset.name}: {preset.text} (--preset)")
    return Planned(render("workflows", "finetuning_config.txt", **values), facts)


def require_labelled(tiles: str) -> Mapping:
    """The card of a prepared set with labels for training and validation."""
    if not Path(tiles).is_dir():
        raise UserError(f"--tiles {tiles}: no such folder")
    card = read_card(tiles)
    if card is None or card["root"] != Path(tiles).absolute():
        raise UserError(
            f"--tiles {tiles}: no dataset.json in it; tools/prepare.py folder makes a set of your "
            f"images and labels"
        )
    if not card["classes"]:
        raise UserError(f"--tiles {tiles}: was prepared without labels; prepare it with them")
    for split in ("train", "val"):
        if not card["tiles"].get(split):
            raise UserError(
                f"--tiles {tiles}: has no {split} tiles; prepare it with --splits val=0.1"
            )
    return card


def architecture_of(file: str) -> str:
    """The network that a file of weights is of.

    Raises:
        UserError: it cannot be read, or is of none that is known.
    """
    return load_backbone(None, file)["model"].name
