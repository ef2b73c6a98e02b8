"""What is asked of `prepare`: a published data set by its name, or images of one's own with labels
or with polygons."""

import contextlib
import json
import os
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2

from SSLRemoteSensing.core import locks
from SSLRemoteSensing.core.console import command_line
from SSLRemoteSensing.core.errors import CannotWrite, UnreadableImage, UserError
from SSLRemoteSensing.core.files import make_folder
from SSLRemoteSensing.core.machine import versions
from SSLRemoteSensing.data.geotiff import open_tiff
from SSLRemoteSensing.data.percentiles import percentile_scale
from SSLRemoteSensing.data.scale import PERCENTILE, Scale, read_scale, up_to
from SSLRemoteSensing.preparation.audit import MOST_LINES
from SSLRemoteSensing.preparation.blocks import BLOCKS, deal_blocks
from SSLRemoteSensing.preparation.catalog import Catalog
from SSLRemoteSensing.preparation.folder import beside_labels, read_folder
from SSLRemoteSensing.preparation.isprs import potsdam, vaihingen
from SSLRemoteSensing.preparation.levir_cs import levir_cs
from SSLRemoteSensing.preparation.outlines import PolygonSettings
from SSLRemoteSensing.preparation.polygons import list_images, read_polygons
from SSLRemoteSensing.preparation.prepare import CARD, prepare, read_state
from SSLRemoteSensing.preparation.sources import list_files
from SSLRemoteSensing.preparation.splits import listed_splits

PRETRAINING = "configs/vr_vgg16_inapinting_agr_examplar_cfg.py"
PUBLISHED = {"potsdam": potsdam, "vaihingen": vaihingen, "levir_cs": levir_cs}
BANDS = {"potsdam": "rgb", "vaihingen": "irrg", "levir_cs": "rgbir"}
KINDS = ("full", "eroded", "both")
FOLDER_FLAGS = ("classes", "palette", "max_value", "scale", "label_offset", "label_codes")
FOLDER_FLAGS += ("unlabelled",)
POLYGON_FLAGS = ("class_field", "classes", "inside", "touched", "order", "background")
FLAGS = {"folder": FOLDER_FLAGS, "polygons": (*POLYGON_FLAGS, "max_value", "scale")}


def prepare_request(
    request: Namespace, made_by: Sequence[str], most_lines: int = MOST_LINES
) -> tuple[bool, Catalog]:
    """Cut and audit what `request`, the flags of the command, names; whether all may be used, and
    what it is.

    Args:
        made_by: the command line, for the card of the tiles.
        most_lines: as `prepare` has it.

    Raises:
        UserError: flags that do not go together, and as `prepare`.
    """
    request.stride = request.tile if request.stride is None else request.stride
    for fault in faults(request):
        raise UserError(fault)
    in_blocks = BLOCKS in request.splits
    if in_blocks and (len(request.splits) > 1 or request.set in PUBLISHED):
        raise UserError(f"--splits {BLOCKS}: stands alone, and is for images of your own")
    splits = ["val=0"] if in_blocks else listed_splits(request.splits)
    request.splits = request.splits if in_blocks else splits
    name, bands = request.set, request.bands or BANDS.get(request.set)
    settings = {"set": name, "tile": request.tile, "stride": request.stride, "bands": bands}
    settings |= {"labels": request.labels, "splits": request.splits}
    options = {key: getattr(request, key) for key in FLAGS.get(name, ())}
    words = options.pop("scale", None)
    stated = read_scale(words) if words else up_to(options.get("max_value"))
    scale = None if stated == PERCENTILE else stated
    if name == "polygons":
        del options["max_value"]
        catalog = read_polygons(
            list_images(request.source), bands, splits, scale,
            PolygonSettings(request.labels, **options | {"background": background(request)}),
        )  # fmt: skip
        settings |= options | {"background": background(request), "max_value": request.max_value}
        # The folder they are in may be named in many ways; their stamps are those of the scenes.
        names = {key: settings[key] for key in ("labels", "inside") if settings[key] is not None}
        settings |= {key: Path(name).name for key, name in names.items()}
    elif name == "folder":
        options["palette"] = request.palette and list(map(read_colour, request.palette))
        # Whether others are cut beside changes nothing of those with labels.
        settings |= {key: value for key, value in options.items() if key != "unlabelled"}
        del options["max_value"]
        files = list_files(request.source[0])
        if request.labels not in KINDS:
            files = beside_labels(files, request.labels)
        catalog = read_folder(files, bands, splits, scale=scale, **options)
    else:
        kinds = ("full", "eroded") if request.labels == "both" else (request.labels,)
        files = list_files(request.source[0])
        catalog = PUBLISHED[name](files, bands, kinds, splits)
    if in_blocks:
        deal_blocks(catalog, request.tile)
    if stated == PERCENTILE:
        catalog.scale, origin = found_scale(catalog, request.output)
        print(f"{catalog.scale.flag()} ({origin})")
    if words:
        settings |= {"scale": catalog.scale.numbers()}
    cv2.setNumThreads(1)  # --workers are the threads
    workers = os.cpu_count() if request.workers is None else request.workers
    output, left_out = Path(request.output or "."), request.leave_out
    made_by = {"command": made_by, "versions": versions()}
    try:
        given = (workers, left_out, request.check, made_by, most_lines)
        with contextlib.nullcontext() if request.check else alone(output):
            return prepare(catalog, output, settings, *given), catalog
    except OSError as error:
        file = error.filename or output
        raise CannotWrite(
            f"--output {request.output}: {file} cannot be written ({error.strerror}); finished "
            "scenes are kept, the same command goes on from there"
        ) from error


@contextlib.contextmanager
def alone(output: Path) -> Iterator[None]:
    """Make the folder of the tiles, and keep another `prepare` from it, which would remove what it
    did not cut itself."""
    make_folder(output, "--output")
    with locks.alone(output, "--output"):
        yield


def found_scale(catalog: Catalog, output: str | None) -> tuple[Scale, str]:
    """The scale of the tiles that are there already, or else percentiles of what of the scenes is
    for training, or of all where nothing is; and what it is."""
    earlier = (output and read_state(Path(output))[0]) or {}
    if isinstance(earlier.get("scale"), dict):
        return Scale(**earlier["scale"]), "of the tiles so far"
    scenes = [scene for scene in catalog.scenes if scene.split == "train"] or catalog.scenes
    bands = None  # of damaged scenes, which are named when they are cut
    for scene in scenes:
        with contextlib.suppress(UnreadableImage), open_tiff(scene.image.address) as source:
            bands = scene.bands or (None if source.palette is not None else source.data_bands)
            break
    files, channels = [scene.image.address for scene in scenes], len(bands or "RGB")
    return (
        percentile_scale(files, channels, bands, [scene.rows for scene in scenes]),
        "2nd and 98th percentile of some of the training scenes",
    )


def faults(request: Namespace) -> Iterator[str]:
    """What can be refused before a file is looked for."""
    tile, stride, highest, output = request.tile, request.stride, request.max_value, request.output
    if output is None and not request.check:
        yield "--output: name the folder of the tiles, or --check to write nothing"
    if highest is not None and not 0 < highest < float("inf"):
        yield f"--max_value {highest}: must be above 0"
    if highest is not None and request.scale is not None:
        yield f"--max_value {highest}, --scale: both are given; leave one of them out"
    if tile < 1:
        yield f"--tile {tile}: must be at least 1"
    if not 0 < stride <= tile:
        yield f"--stride {stride}: must be 1 to --tile {tile}, so that nothing is left"
    own = FLAGS.get(request.set, ())
    for key in dict.fromkeys((*FOLDER_FLAGS, *POLYGON_FLAGS)):
        if key not in own and getattr(request, key) not in (None, [], False):
            names = " and ".join(name for name, keys in FLAGS.items() if key in keys)
            fault = "its labels are polygons" if own else f"{request.set} has its own"
            fault = "its labels are images" if request.set == "folder" else fault
            yield f"--{key}: is for tools/prepare.py {names}; {fault}"
    if request.set == "polygons":
        if request.labels in KINDS:
            yield "--labels: name the file of polygons, e.g. --labels buildings.gpkg"
    elif len(request.source) > 1:
        yield f"--source: {request.set} is one folder or zip file; {len(request.source)} are given"
    elif request.set == "folder" and Path(request.labels).is_dir():
        pass  # of their own
    elif request.labels not in KINDS:
        yield (
            f"--labels {request.labels}: expected {', '.join(KINDS)}, or a folder of labels; a "
            f"file is for tools/prepare.py polygons"
        )
    elif request.set == "folder" and request.labels != "full":
        yield "--labels: a folder of your own has one kind of labels"
    for source in map(Path, request.source if own else ()):
        if output and not request.check and Path(output).resolve().is_relative_to(source.resolve()):
            yield f"--output {output}: lies in --source, whose images are scenes"


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
    is_plain = not isinstance(card["scale"], dict) and card["scale"] != 255
    words |= {"max_value": card["scale"]} if is_plain else {}
    words = [f"train_cfg.train_data.{key}={value}" for key, value in words.items()]
    if (bands := len(card["bands"])) != 3:
        words += [f"backbone_cfg.in_channels={bands}", f"inpainting_head_cfg.out_channels={bands}"]
    words = ["--config_file", PRETRAINING, "--set", "train_cfg.device=auto", *words]
    return [*commands, command_line("tools/doctor.py", *words)]


def background(request: Namespace) -> str:
    """The class of what no polygon covers; the flag has no default, as only polygons have it."""
    return "background" if request.background is None else request.background


def read_colour(text: str) -> list[int]:
    try:
        r, g, b = map(int, text.split(","))
    except ValueError:
        raise UserError(f"--palette {text}: write each colour as R,G,B") from None
    return [r, g, b]
