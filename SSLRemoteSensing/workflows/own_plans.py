"""The config of a run without one: by what images, tiles and weights are, and by a preset."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from SSLRemoteSensing.core import machine
from SSLRemoteSensing.core.classes import usual_palette
from SSLRemoteSensing.core.cli import WEIGHTS
from SSLRemoteSensing.core.config import Part, build, load_config
from SSLRemoteSensing.core.console import shell_line
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.core.files import write_text
from SSLRemoteSensing.core.templates import render
from SSLRemoteSensing.data.prepared import UNLABELLED, gsd_of_tiles, read_card
from SSLRemoteSensing.data.scale import up_to
from SSLRemoteSensing.data.unlabelled import REST
from SSLRemoteSensing.models.backbones import ARCHITECTURES, BLOCKS
from SSLRemoteSensing.models.heads import SKIPS
from SSLRemoteSensing.models.pretrained import BACKBONES, load_backbone
from SSLRemoteSensing.training.settings import split
from SSLRemoteSensing.workflows.kinds import KINDS
from SSLRemoteSensing.workflows.own_images import look_at_images, write_list
from SSLRemoteSensing.workflows.own_labels import OwnImages, OwnLabels, find_own, prepare_own
from SSLRemoteSensing.workflows.own_lengths import (
    length_of,
    samples_per_step,
    set_below,
    set_lengths,
    steps_per_epoch,
    steps_within,
)
from SSLRemoteSensing.workflows.own_requests import FinetuningRequest, PretrainingRequest, Request
from SSLRemoteSensing.workflows.presets import FINETUNING, PRETRAINING, choose_preset

CONFIG, TILES = "config.py", "tiles"
LEAST_EPOCHS, MOST_EPOCHS = 5, 400  # where no length is asked for
LARGE = 1.5  # images larger than the network's view by this factor are cut, not scaled
SCENE = 8  # and by this one are scenes, of which windows are read


@dataclass(frozen=True)
class Planned:
    """A config's text, what to say of it, a line each, and how many samples an epoch has."""

    text: str
    facts: Sequence[str]
    samples: int


def plan_pretraining(request: PretrainingRequest, folder: Path) -> Planned:
    """The config of a pre-training, and what was found and chosen; `folder` gets a list of images
    where the config needs one."""
    scale = request.scale or up_to(request.max_value)
    data = set_below(request.settings, "train_cfg", "train_data")
    exclude = None if data.get("exclude") is None else str(data["exclude"])
    skips = data.get("on_bad_image") == "skip"
    images = look_at_images(request.images, folder, request.bands, scale, exclude, skips)
    write_list(images, request.images, folder)
    preset = choose_preset(PRETRAINING, request.preset)
    img_size = request.size or min(preset.img_size, max(64, images.side // 32 * 32))
    crop_size = img_size if images.side > LARGE * img_size else None
    is_scenes = images.side >= SCENE * img_size and images.is_in_parts
    each = round(images.height * images.width / img_size**2) if is_scenes else 1
    count = images.count * each  # samples of an epoch, with windows about
    batch_size = min(preset.batch_size, count)
    if batch_size < 3:
        raise UserError(f"--images: {count} samples; at least 3 are compared with each other")
    values = {"is_scenes": is_scenes, "images": images, "img_size": img_size}
    values |= {"crop_size": crop_size, "preset": preset}
    values |= {"batch_size": batch_size}
    network = network_of(preset.backbone)
    feat_channels, last = pyramid_of(network)
    values |= {"network": arguments(network)}
    values |= {"feat_channels": (*feat_channels, 32), "last": last, "channels": images.channels}
    how = "windows of each scene" if is_scenes else "a window of each image"
    how = how if crop_size else "each image, scaled"
    how = "each image as it is" if images.side == img_size else how
    size = f"size: the network sees {img_size} x {img_size} pixels, {how} (--size)"
    facts = [*images.facts, size, f"preset {preset.name}: {preset.text} (--preset)"]
    given = {} if request.epochs is None else {"num_epoch": request.epochs}
    given |= {} if request.minutes is None else {"num_step": 1}
    template, stated = f"pretraining_{preset.recipe}.txt", set_lengths(request.settings)
    config = draft(request, template, values, given, "num_epoch")
    length = length_of(config["train_cfg"])
    epoch = steps_per_epoch(count, config["train_cfg"], is_exact=not is_scenes)
    if request.minutes is not None and not stated:
        length = {"num_step": steps_within(config, request)}
    elif not (given or stated):
        epochs = preset.samples // (epoch * samples_per_step(config["train_cfg"]))
        length = {"num_epoch": min(max(epochs, LEAST_EPOCHS), MOST_EPOCHS)}
    return Planned(config_text(request, template, values, length, epoch), facts, count)


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


def network_of(backbone: str) -> dict:
    """Which network a preset names, as keys of `backbone_cfg`: 'resnet18', or 'timm:MODEL'."""
    name, _, model = backbone.partition(":")
    return {"name": name, "model": model} if model else {"name": name}


def arguments(network: dict) -> str:
    return ", ".join(f"{key}={literal(value)}" for key, value in network.items())


def pyramid_of(network: dict) -> tuple[tuple[int, ...], int]:
    """Channels of a network's maps block5 to block2 (64 where it has none), and of block6."""
    if network["name"] in ARCHITECTURES:
        with torch.device("meta"):  # no memory, no numbers
            channels = ARCHITECTURES[network["name"]](in_channels=3, out_keys=BLOCKS).channels
    else:
        channels = build(BACKBONES, network, "backbone_cfg").channels
    return tuple(channels.get(key, 64) for key in SKIPS), channels["block6"]


def draft(request: Request, template: str, values: Mapping, given: Mapping, of_preset: str) -> dict:
    """The config of a request, checked, but for a length that is still to be found: 1 stands there.

    Args:
        given: the length that flags give, as the key of `train_cfg`; empty: they give none.
        of_preset: the key by which the preset has its own.

    Raises:
        UserError: a wrong key of `settings`, or two lengths.
    """
    length = given or dict.fromkeys(set_lengths(request.settings)[:1] or [of_preset], 1)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / CONFIG
        write_text(path, config_text(request, template, values, length, 1))
        kind = KINDS[request.task]
        config = load_config(path, request.settings, [Part(kind.schema)])
    kind.check(config)
    split(config["train_cfg"], kind.keys)
    return config


def config_text(
    request: Request, template: str, values: Mapping, length: Mapping[str, int], epoch: int
) -> str:
    """A config's text, of a length and so many steps an epoch."""
    ((key, number),) = length.items()
    steps = number * (epoch if key == "num_epoch" else 1)
    common = common_values(request, steps) | {"length": f"{key}={number}"}
    return render("workflows", template, **values, **common)


def plan_finetuning(request: FinetuningRequest, folder: Path) -> Planned:
    """The config of a fine-tuning, and what was chosen; `folder` gets the tiles of images with
    labels."""
    preset, is_file = choose_preset(FINETUNING, request.preset), request.backbone not in WEIGHTS
    network = read_network(request.backbone) if is_file else network_of(preset.backbone)
    tiles_folder, images, takes_rest = request.tiles, None, request.unlabelled == REST
    if isinstance(request.tiles, OwnLabels):
        images, tiles_folder = find_own(request.tiles), str(folder / TILES)
        if takes_rest:
            require_rest(request, len(images.others), "all images have one")
        elif request.unlabelled:
            require_others(request.unlabelled, request.tiles.images)
        weights = request.backbone if is_file else None
        prepare_own(request.tiles, images, Path(tiles_folder), weights, takes_rest)
    card = require_labelled(tiles_folder)
    channels, tiles = len(card["bands"]), card["tiles"]
    if takes_rest:
        require_rest(request, tiles.get(UNLABELLED, 0), f"{tiles_folder} has no tiles without")
    batch_size, side = min(preset.batch_size, tiles["train"]), card["tile"]
    values = {"preset": preset, "tiles": tiles_folder, "classes": tuple(card["classes"])}
    palette = card["palette"] or usual_palette(card["classes"])
    values |= {"palette": tuple(map(tuple, palette))}
    values |= {"network": arguments(network), "channels": channels, "fraction": request.fraction}
    values["unlabelled"] = request.unlabelled
    values["is_frozen"] = request.frozen
    values["pretrained"] = WEIGHTS.get(request.backbone, request.backbone)
    values |= {"batch_size": batch_size, "window": max(64, side)}
    values |= {"crop_size": -(-side // 32) * 32, "has_test": bool(tiles.get("test"))}
    counts = ", ".join(f"{name} {count:,}" for name, count in tiles.items() if count)
    size = f" of {gsd:.3g} m" if (gsd := gsd_of_tiles(card)) else ""
    facts = [f"tiles: {counts} of {side} x {side} pixels{size}, {channels} channels"]
    if images and images.others:
        taken = len(card["scenes"].get(UNLABELLED, ())) if takes_rest else None
        facts.append(labelled_fact(images, taken))
    facts.append(f"classes: {', '.join(card['classes'])}")
    name = network.get("model", network["name"])
    how = ", as it is, read by a linear probe (--frozen)" if request.frozen else ""
    facts.append(f"backbone: {name}, {request.backbone} (--backbone){how}")
    facts.append(f"preset {preset.name}: {preset.text} (--preset)")
    if request.unlabelled:
        facts.append(
            f"unlabelled: {request.unlabelled}, labelled by a network first (--unlabelled)"
        )
    given = {} if request.epochs is None else {"num_epoch": request.epochs}
    template = "finetuning_config.txt"
    train_cfg = draft(request, template, values, given, "num_step")["train_cfg"]
    is_stated = given or set_lengths(request.settings)
    length = length_of(train_cfg) if is_stated else {"num_step": preset.num_step}
    epoch = steps_per_epoch(tiles["train"], train_cfg)
    text = config_text(request, template, values, length, epoch)
    return Planned(text, facts, tiles["train"])


def require_rest(request: FinetuningRequest, others: int, why: str) -> None:
    """Raise a `UserError` where 'rest' are no tiles: all labels are used, and there are no `others`
    without."""
    if request.fraction == 1 and not others:
        raise UserError(
            f"--unlabelled rest: all labels are used, and {why}; give --fraction 0.1, say, whose "
            f"rest it takes, or a folder of images"
        )


def require_others(unlabelled: str, images: Sequence[str]) -> None:
    """Raise a `UserError` where a folder of images without labels is that of those with."""
    if any(Path(unlabelled).resolve() == Path(folder).resolve() for folder in images):
        raise UserError(
            f"--unlabelled {unlabelled}: is the folder of --images, with validation and test in "
            f"it; name one of others, or take those without a label by --unlabelled rest"
        )


def labelled_fact(images: OwnImages, taken: int | None) -> str:
    """How many images have a label, and what becomes of the others, of which `taken` train beside;
    None: nobody asked for them."""
    have = f"labels: of {len(images.labelled):,} of {images.count:,} images"
    others = f"the {len(images.others):,} others"
    if taken is None:
        return f"{have}; {others} are left out (--unlabelled rest trains with them too)"
    return f"{have}; of {others} {taken:,} train beside (--unlabelled)"


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
    for part in ("train", "val"):
        if not card["tiles"].get(part):
            raise UserError(
                f"--tiles {tiles}: has no {part} tiles; prepare it with --splits val=0.1"
            )
    return card


def read_network(file: str) -> dict:
    """The network that a file of weights is of, as keys of `backbone_cfg`.

    Raises:
        UserError: it is not there, cannot be read, or is of none that is known.
    """
    if not Path(file).exists():
        raise UserError(f"--backbone {file}: no such file; give one of weights, random or imagenet")
    card = load_backbone(None, file)["model"].card()
    keys = ("name", "model", "img_size")
    return {key: card[key] for key in keys if card.get(key) is not None}


def literal(value: object) -> str:
    """`value` as Python source, text in double quotes."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, tuple):
        return f"({''.join(f'{literal(part)}, ' for part in value).removesuffix(' ')})"
    return repr(value)
