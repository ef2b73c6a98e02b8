"""One's own images with labels to prepared tiles, with what has to be known found in the files."""

import contextlib
import os
import re
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath

from SSLRemoteSensing.core.config import check_fields
from SSLRemoteSensing.core.console import this_command, warn
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.core.files import read_json
from SSLRemoteSensing.data.file_lists import spread_evenly
from SSLRemoteSensing.data.images import Header, read_header
from SSLRemoteSensing.data.reading import sort_of
from SSLRemoteSensing.data.scale import Scale
from SSLRemoteSensing.preparation.blocks import BLOCKS, FEW
from SSLRemoteSensing.preparation.folder import ENDINGS, beside_labels, pair_files
from SSLRemoteSensing.preparation.polygons import list_images
from SSLRemoteSensing.preparation.prepare import AUDIT
from SSLRemoteSensing.preparation.request import prepare_request
from SSLRemoteSensing.preparation.sources import SourceFile
from SSLRemoteSensing.preparation.splits import SPLITS
from SSLRemoteSensing.workflows.own_images import channels_of, largest_value
from SSLRemoteSensing.workflows.settled_scale import card_of_weights, scale_of_weights

LARGEST_TILE = 256
FEW_LINES = 5  # of scenes, and of what is alike of them; RUN/tiles/audit.json has all
STRIDE = 32  # of the networks, which tiles are a multiple of


@dataclass(frozen=True)
class OwnLabels:
    """Images with label images or polygons.

    Attributes:
        images: a folder, or with polygons also scenes.
        labels: a folder of label images with the names of theirs, or a file of polygons. An image
            that has no label in the folder is not among those that train with one or are scored.
        classes: names of the classes, in order; of polygons those to take, by default all.
        class_field: of the polygons, the field with their class.
        splits: as tools/prepare.py takes them; none: sub-folders train, val, test, or else blocks
            of ground.
        tile: side of a tile in pixels; None: by the images.
        label_offset: added to each value of a label image.
        label_codes: in place of it, the value of each class in a label image, such as (0, 255).

    Raises:
        UserError: a value of another type.
    """

    images: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
    labels: str | os.PathLike[str]
    classes: Sequence[str] = ()
    class_field: str | None = None
    splits: Sequence[str] = ()
    tile: int | None = None
    label_offset: int | None = None
    label_codes: Sequence[int] | None = None

    def __post_init__(self):
        check_fields(self, given=("images", "labels"))


KEYS = tuple(field.name for field in fields(OwnLabels))
FLAG = re.compile(r"--([a-z]\w*)")


@dataclass(frozen=True)
class OwnImages:
    """The images of `OwnLabels`: those with a label, and those without, which trains none."""

    labelled: Sequence[SourceFile]
    others: Sequence[SourceFile] = ()

    @property
    def count(self) -> int:
        return len(self.labelled) + len(self.others)


def find_own(own: OwnLabels) -> OwnImages:
    """The images of `own`, of which polygons label all. A warning where most have no label.

    Raises:
        UserError: no image, or none with a label.
    """
    with flags_of_finetuning():
        files = [file for file in list_images(own.images) if file.ending in ENDINGS]
        if not files:
            raise UserError(f"--images {own.images[0]}: no image ({', '.join(ENDINGS)}) there")
        if not Path(own.labels).is_dir():
            return OwnImages(files)
        both = [file for file in beside_labels(files, str(own.labels)) if file.ending in ENDINGS]
        pairs, strays = pair_files(both)
    images = OwnImages([x for x, label in pairs if label], [x for x, label in pairs if not label])
    example = images.others[0].name.removeprefix("images/") if images.others else ""
    stray = strays[0].removeprefix("labels/") if strays else ""
    how = "a label has the name of its image, sub-folders too, with any ending or _label, _mask"
    if not images.labelled:
        there = f"of its {len(strays)}, the first is {stray}" if strays else "it has no image"
        raise UserError(
            f"--labels {own.labels}: no label was found for {images.count} images of --images, the "
            f"first is {example}; {there}: {how}"
        )
    if len(images.others) > len(images.labelled):
        lost = f"; {len(strays)} labels fit no image, the first is {stray}" if strays else ""
        warn(
            f"--labels {own.labels}: {len(images.labelled):,} of {images.count:,} images have a "
            f"label, the first without is {example}; {how}{lost}"
        )
    return images


def prepare_own(
    own: OwnLabels,
    images: OwnImages,
    tiles: Path,
    weights: str | None = None,
    keeps_others: bool = False,
) -> None:
    """Cut `own` to the prepared set `tiles`, or what is left to cut of it.

    Args:
        images: the images of `own`.
        weights: a file of those that the tiles are for. The scale of its training is that of the
            tiles, where its card has one and says that it is of images of such bands and values.
        keeps_others: images without a label are cut too, to train beside.

    Raises:
        UserError: as tools/prepare.py; tiles of other settings; something must not be used.
    """
    with flags_of_finetuning():
        request = tiling_request(own, images.labelled, tiles, weights)
        request.unlabelled = "keep" if keeps_others else request.unlabelled
        print(f"tiles: prepared in {tiles}, {request.tile} x {request.tile} pixels (--tile)")
        is_good, _ = prepare_request(request, [this_command()], FEW_LINES)
        if not is_good:
            scenes = read_json(tiles / AUDIT)["scenes"]
            refused = [scene for scene in scenes if "refused" in scene]
            raise UserError(
                f"--images: {len(refused)} of {len(scenes)} must not be used, the first is "
                f"{refused[0]['scene']}: {refused[0]['refused']}; mend them or move them away"
            )


@contextlib.contextmanager
def flags_of_finetuning() -> Iterator[None]:
    """What is wrong in preparing is said with the flags of `finetune`."""
    try:
        yield
    except UserError as error:
        text = str(error).replace("--source", "--images")
        strangers = [name for name in FLAG.findall(text) if name not in (*KEYS, "output")]
        if strangers:
            text += f"; --{strangers[0]} is a flag of tools/prepare.py, whose tiles --tiles takes"
        raise type(error)(text) from error


def tiling_request(
    own: OwnLabels, files: Sequence[SourceFile], tiles: Path, weights: str | None
) -> Namespace:
    """What is asked of `prepare_request` for `own`, by its images with labels: whether others are
    cut beside changes nothing of their tiles."""
    is_folder = Path(own.labels).is_dir()
    heads = [read_header(files[i].path) for i in spread_evenly(len(files))]
    has_splits = any(is_split(file.name) for file in files)
    splits = own.splits or ([] if has_splits else [BLOCKS])
    parts = 3 if BLOCKS in splits and len(files) < FEW else 1  # of the rows of each
    side = min(min(head.height // parts, head.width) for head in heads)
    if own.tile is not None and own.tile < STRIDE:
        raise UserError(f"--tile {own.tile}: must be at least {STRIDE}, the network's stride")
    tile = own.tile or min(LARGEST_TILE, side // STRIDE * STRIDE)
    if tile < STRIDE and parts > 1:
        raise UserError(
            f"--images: a third of the rows of one, {side}, is less than a tile of {STRIDE}; name "
            f"whole images for validation and test: --splits val=A test=B"
        )
    if tile < STRIDE:
        raise UserError(
            f"--images: {side} pixels are less than a tile of {STRIDE}; take larger ones"
        )
    paths = [str(file.path) for file in files]
    scale = scale_for(weights, paths[0], heads[0]) if weights else None
    is_open = scale is None and heads[0].dtype != "uint8"
    top = largest_value(paths, heads[0].dtype) if is_open else None
    words = ["percentile"] if is_open and top is None else scale and scale.flag().split()[1:]
    if scale is not None:
        print(f"{scale.flag()} (of the training of {weights})")
    return Namespace(
        set="folder" if is_folder else "polygons",
        source=[str(path) for path in own.images],
        output=str(tiles), tile=tile, stride=None, bands=None, labels=str(own.labels),
        splits=list(splits), leave_out=[], workers=None, check=False,
        classes=list(own.classes), palette=None, label_offset=own.label_offset,
        label_codes=own.label_codes and list(own.label_codes), max_value=top, scale=words,
        unlabelled="leave_out" if is_folder else None,
        class_field=own.class_field, inside=None, touched=False, order=None, background=None,
    )  # fmt: skip


def scale_for(weights: str, file: str, head: Header) -> Scale | None:
    """The scale of the training of `weights`, where its card has one and says that it is of images
    like `file`; else None."""
    card = card_of_weights(weights)
    if not card.get("dtype") or sort_of(card["dtype"]) != sort_of(head.dtype):
        return None
    channels = channels_of(file, head.bands)
    scale = scale_of_weights(card, None, channels)
    return scale if scale and scale.count in (1, min(head.bands, channels)) else None


def is_split(name: str) -> bool:
    """Whether a file lies in a folder that is called as a split."""
    return any(part.lower() in SPLITS for part in PurePosixPath(name).parts[:-1])
