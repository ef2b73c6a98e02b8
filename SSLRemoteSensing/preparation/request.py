"""What is asked of `prepare`: a published data set by its name, or a folder of one's own."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2

from SSLRemoteSensing.core.console import command_line
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.core.machine import versions
from SSLRemoteSensing.preparation.catalog import Catalog
from SSLRemoteSensing.preparation.folder import read_folder
from SSLRemoteSensing.preparation.isprs import potsdam, vaihingen
from SSLRemoteSensing.preparation.levir_cs import levir_cs
from SSLRemoteSensing.preparation.prepare import CARD, prepare
from SSLRemoteSensing.preparation.sources import list_files

PRETRAINING = "configs/vr_vgg16_inapinting_agr_examplar_cfg.py"
PUBLISHED = {"potsdam": potsdam, "vaihingen": vaihingen, "levir_cs": levir_cs}
BANDS = {"potsdam": "rgb", "vaihingen": "irrg", "levir_cs": "rgbir", "folder": None}


@dataclass(frozen=True)
class Request:
    """What to prepare, and how. The fields are the flags of the command, and mean what they do."""

    set: str
    source: str
    output: str | None
    tile: int
    stride: int | None
    bands: str | None
    labels: str
    splits: Sequence[str]
    leave_out: Sequence[str]
    workers: int | None
    check: bool
    classes: Sequence[str]
    palette: Sequence[str] | None
    max_value: float | None
    label_offset: int | None
    label_codes: Sequence[int] | None

    @property
    def of_folders(self) -> dict:
        """What is for folders of one's own alone, as `read_folder` takes it."""
        return {
            "classes": self.classes,
            "palette": self.palette and [read_colour(text) for text in self.palette],
            "max_value": self.max_value,
            "label_offset": self.label_offset,
            "label_codes": self.label_codes,
        }


def prepare_request(request: Request, made_by: Sequence[str]) -> bool:
    """Cut and audit what `request` names; True where all may be used.

    Args:
        made_by: the command line, for the card of the tiles.

    Raises:
        UserError: flags that do not go together, and as `prepare`.
    """
    check(request)
    bands = request.bands or BANDS[request.set]
    stride = request.tile if request.stride is None else request.stride
    catalog = open_catalog(request, bands)
    settings = {"set": request.set, "tile": request.tile, "stride": stride, "bands": bands}
    settings |= {"labels": request.labels, "splits": request.splits}
    settings |= request.of_folders if request.set == "folder" else {}
    cv2.setNumThreads(1)  # --workers are the threads
    origin = {"command": made_by, "versions": versions()}
    workers = os.cpu_count() if request.workers is None else request.workers
    try:
        return prepare(
            catalog, Path(request.output or "."), settings, request.tile, stride, workers,
            request.leave_out, request.check, origin,
        )  # fmt: skip
    except OSError as error:
        raise UserError(f"--output {request.output}: {error}") from error


def check(request: Request) -> None:
    """Raise a `UserError` for what can be refused before a file is looked for."""
    if request.output is None and not request.check:
        raise UserError("--output: name the folder of the tiles, or --check to write nothing")
    if request.max_value is not None and not 0 < request.max_value < float("inf"):
        raise UserError(f"--max_value {request.max_value}: must be above 0")
    if request.tile < 1:
        raise UserError(f"--tile {request.tile}: must be at least 1")
    if request.set == "folder" and request.output and not request.check:
        source, output = Path(request.source).resolve(), Path(request.output).resolve()
        if output.is_relative_to(source):
            raise UserError(f"--output {request.output}: lies in --source, whose images are scenes")


def open_catalog(request: Request, bands: str | None) -> Catalog:
    """The scenes of --source.

    Raises:
        UserError: what is there is not the data set, or flags that are not for it.
    """
    files, options = list_files(request.source), request.of_folders
    if request.set == "folder":
        if request.labels != "full":
            raise UserError("--labels: a folder of your own has one kind of labels")
        return read_folder(files, bands, request.splits, **options)
    flags = [key for key, value in options.items() if value not in (None, [])]
    if flags:
        raise UserError(f"--{flags[0]}: is for tools/prepare.py folder; {request.set} has its own")
    kinds = ("full", "eroded") if request.labels == "both" else (request.labels,)
    return PUBLISHED[request.set](files, bands, kinds, request.splits)


def next_commands(request: Request) -> list[str]:
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
