"""One's own images with labels to prepared tiles, with what has to be known found in the files."""

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from SSLRemoteSensing.core.console import this_command
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.data.file_lists import spread_evenly
from SSLRemoteSensing.data.images import Header, read_header
from SSLRemoteSensing.data.reading import sort_of
from SSLRemoteSensing.data.scale import Scale
from SSLRemoteSensing.preparation.blocks import BLOCKS, FEW
from SSLRemoteSensing.preparation.folder import ENDINGS
from SSLRemoteSensing.preparation.polygons import list_images
from SSLRemoteSensing.preparation.prepare import CARD
from SSLRemoteSensing.preparation.request import prepare_request
from SSLRemoteSensing.preparation.splits import SPLITS
from SSLRemoteSensing.workflows.own_images import channels_of, largest_value
from SSLRemoteSensing.workflows.settled_scale import card_of_weights, scale_of_weights

LARGEST_TILE = 256
STRIDE = 32  # of the networks, which tiles are a multiple of


@dataclass(frozen=True)
class OwnLabels:
    """Images with label images or polygons.

    Attributes:
        images: a folder, or with polygons also single scenes.
        labels: a folder of label images with the names of theirs, or a file of polygons.
        classes: names of the classes, in order; of polygons those to take, by default all.
        class_field: of the polygons, the field with their class.
        splits: as tools/prepare.py takes them; none: sub-folders train, val, test, or else blocks
            of ground.
        tile: side of a tile in pixels; None: by the images.
        label_offset: added to each value of a label image.
    """

    images: Sequence[str]
    labels: str
    classes: Sequence[str] = ()
    class_field: str | None = None
    splits: Sequence[str] = ()
    tile: int | None = None
    label_offset: int | None = None


def prepare_own(own: OwnLabels, tiles: Path, weights: str | None = None) -> None:
    """Cut `own` to the prepared set `tiles`; where it is one already it is taken as it is.

    Args:
        weights: a file of those that the tiles are for. The scale of its training is that of the
            tiles, where its card has one and says that it is of images of such bands and values.

    Raises:
        UserError: as tools/prepare.py; something must not be used.
    """
    if (tiles / CARD).is_file():
        print(f"tiles: {tiles}, prepared before")
        return
    files = [file for file in list_images(own.images) if file.ending in ENDINGS]
    if not files:
        raise UserError(f"--images {own.images[0]}: no image ({', '.join(ENDINGS)}) there")
    heads = [read_header(files[i].path) for i in spread_evenly(len(files))]
    has_splits = any(is_split(file.name) for file in files)
    splits = own.splits or ([] if has_splits else [BLOCKS])
    parts = 3 if BLOCKS in splits and len(files) < FEW else 1  # of the rows of each
    side = min(min(head.height // parts, head.width) for head in heads)
    tile = own.tile or min(LARGEST_TILE, side // STRIDE * STRIDE)
    if tile < STRIDE:
        raise UserError(
            f"--images: {side} pixels are less than a tile of {STRIDE}; take larger ones"
        )
    paths = [str(file.path) for file in files]
    scale = scale_for(weights, paths[0], heads[0]) if weights else None
    is_open = scale is None and heads[0].dtype != "uint8"
    top = largest_value(paths, heads[0].dtype) if is_open else None
    words = ["percentile"] if is_open and top is None else scale and scale.flag().split()[1:]
    request = Namespace(
        set="folder" if Path(own.labels).is_dir() else "polygons",
        source=[str(path) for path in own.images],
        output=str(tiles), tile=tile, stride=None, bands=None, labels=str(own.labels),
        splits=list(splits), leave_out=[], workers=None, check=False,
        classes=list(own.classes), palette=None, label_codes=None, label_offset=own.label_offset,
        max_value=top, scale=words,
        class_field=own.class_field, inside=None, touched=False, order=None, background=None,
    )  # fmt: skip
    print(f"tiles: prepared in {tiles}, {tile} x {tile} pixels (--tile, --splits)")
    if scale is not None:
        print(f"{scale.flag()} (of the training of {weights})")
    is_good, _ = prepare_request(request, made_by=[this_command()])
    if not is_good:
        raise UserError(f"--images: some of them must not be used, see {tiles / 'audit.json'}")


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
