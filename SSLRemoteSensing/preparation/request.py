"""What is asked of `prepare`: a published data set by its name, or a folder of one's own."""

import json
import os
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import cv2

from SSLRemoteSensing.core.console import command_line
from SSLRemoteSensing.core.errors import CannotWrite, UserError
from SSLRemoteSensing.core.machine import versions
from SSLRemoteSensing.preparation.folder import read_folder
from SSLRemoteSensing.preparation.isprs import potsdam, vaihingen
from SSLRemoteSensing.preparation.levir_cs import levir_cs
from SSLRemoteSensing.preparation.prepare import CARD, prepare
from SSLRemoteSensing.preparation.sources import list_files

PRETRAINING = "configs/vr_vgg16_inapinting_agr_examplar_cfg.py"
PUBLISHED = {"potsdam": potsdam, "vaihingen": vaihingen, "levir_cs": levir_cs}
BANDS = {"potsdam": "rgb", "vaihingen": "irrg", "levir_cs": "rgbir", "folder": None}


FOLDER_FLAGS = ("classes", "palette", "max_value", "label_offset", "label_codes")


def prepare_request(request: Namespace, made_by: Sequence[str]) -> bool:
    """Cut and audit what `request`, the flags of the command, names; True where all may be used.

    Args:
        made_by: the command line, for the card of the tiles.

    Raises:
        UserError: flags that do not go together, and as `prepare`.
    """
    request.stride = request.tile if request.stride is None else request.stride
    check(request)
    name, bands = request.set, request.bands or BANDS[request.set]
    settings = {"set": name, "tile": request.tile, "stride": request.stride, "bands": bands}
    settings |= {"labels": request.labels, "splits": request.splits}
    files = list_files(request.source)
    if name == "folder":
        options = {key: getattr(request, key) for key in FOLDER_FLAGS}
        options["palette"] = request.palette and [read_colour(text) for text in request.palette]
        settings |= options
        catalog = read_folder(files, bands, request.splits, **options)
    else:
        kinds = ("full", "eroded") if request.labels == "both" else (request.labels,)
        catalog = PUBLISHED[name](files, bands, kinds, request.splits)
    cv2.setNumThreads(1)  # --workers are the threads
    origin = {"command": made_by, "versions": versions()}
    workers = os.cpu_count() if request.workers is None else request.workers
    try:
        return prepare(
            catalog, Path(request.output or "."), settings, workers, request.leave_out,
            request.check, origin,
        )  # fmt: skip
    except OSError as error:
        raise CannotWrite(
            f"--output {request.output}: {error.filename} cannot be written ({error.strerror}); "
            "finished scenes are kept, the same command goes on from there"
        ) from error


def check(request: Namespace) -> None:
    """Raise a `UserError` for what can be refused before a file is looked for."""
    tile, stride, highest = request.tile, request.stride, request.max_value
    is_folder, output = request.set == "folder", request.output
    inside = output and Path(output).resolve().is_relative_to(Path(request.source).resolve())
    rules = [
        (output is None and not request.check,
         "--output: name the folder of the tiles, or --check to write nothing"),
        (highest is not None and not 0 < highest < float("inf"),
         f"--max_value {highest}: must be above 0"),
        (tile < 1, f"--tile {tile}: must be at least 1"),
        (not 0 < stride <= tile,
         f"--stride {stride}: must be 1 to --tile {tile}, so that nothing is left"),
        (is_folder and inside and not request.check,
         f"--output {output}: lies in --source, whose images are scenes"),
        (is_folder and request.labels != "full",
         "--labels: a folder of your own has one kind of labels"),
    ]  # fmt: skip
    for key in () if is_folder else FOLDER_FLAGS:
        text = f"--{key}: is for tools/prepare.py folder; {request.set} has its own"
        rules.append((getattr(request, key) not in (None, []), text))
    for applies, text in rules:
        if applies:
            raise UserError(text)


def next_commands(request: Namespace) -> list[str]:
    """The commands that examine the tiles: their labels, for fine-tuning, where a config expects
    them there, and for pre-training."""
    name, output = request.set, Path(request.output)
    commands, card = [], json.loads((output / CARD).read_text())
    if "train" in card["scenes"] and card["classes"]:
        words = ("--tiles", output, "--output", f"{output}_labels.png")
        commands.append(command_line("tools/show_labels.py", *words))
    if name in PUBLISHED and output == Path("data", name):
        config = f"configs/seg_{name}_vgg16_cfg.py"
        commands.append(command_line("tools/doctor.py", "--config_file", config))
    if "train" not in card["scenes"]:
        return commands
    images = output / "images/train"
    ending = next(images.iterdir()).suffix
    words = {"data_path": images, "data_format": f"*{ending}"}
    words |= {} if card["scale"] == 255 else {"max_value": card["scale"]}
    words = [f"train_cfg.train_data.{key}={value}" for key, value in words.items()]
    if (bands := len(card["bands"])) != 3:
        words += [f"backbone_cfg.in_channels={bands}", f"inpainting_head_cfg.out_channels={bands}"]
    words = ["--config_file", PRETRAINING, "--set", "train_cfg.device=auto", *words]
    return [*commands, command_line("tools/doctor.py", *words)]


def read_colour(text: str) -> list[int]:
    try:
        r, g, b = (int(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"--palette {text}: write each colour as R,G,B") from None
    return [r, g, b]
