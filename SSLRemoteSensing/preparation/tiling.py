"""Cut a scene into tiles, strip by strip, and count what is in it."""

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from SSLRemoteSensing.core.classes import IGNORE
from SSLRemoteSensing.core.errors import UnreadableImage, UserError
from SSLRemoteSensing.data.formats import orientation, orientation_fault
from SSLRemoteSensing.data.geotiff import Tiff, encode_tiff, open_tiff
from SSLRemoteSensing.data.images import as_bytes, encode_png, label_rows, read_image
from SSLRemoteSensing.data.labels import ColourCoding, ValueCoding, count_values
from SSLRemoteSensing.data.places import displacement, place_of
from SSLRemoteSensing.data.prepared import LABEL_FOLDERS, positions
from SSLRemoteSensing.data.scale import Scale
from SSLRemoteSensing.preparation.burning import BurntLabel
from SSLRemoteSensing.preparation.catalog import SourceScene
from SSLRemoteSensing.preparation.scaling import band_sums, fill_values, sees_bytes, to_bytes
from SSLRemoteSensing.preparation.sources import SourceFile

ALPHA = "a band called alpha; tools/prepare.py --bands rgbir if it is near infrared"
MASK = "nodata value or mask"
TILE_FOLDERS = {"image": "images"} | LABEL_FOLDERS


@dataclass(frozen=True)
class TilingSettings:
    """How scenes are cut. With `output` None nothing is written. `is_own`: the scenes are of no
    published set, so that `scale` may state values of any type."""

    tile: int
    stride: int
    output: Path | None
    coding: ColourCoding | ValueCoding | None
    scale: Scale | None
    is_own: bool = False
    stop: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class Raster:
    """An open scene or label.

    `rows(y, height)` gives planes (bands, height, width), 0 where they hold no data, and a mask
    uint8 (height, width), 0 where no band holds any; None: all do. `numbers` are the bands in the
    file, from 1. `mask_origin` is what tells pixels without data, '' where all hold data.
    """

    name: str
    height: int
    width: int
    bands: int
    dtype: np.dtype
    rows: Callable[[int, int], tuple[np.ndarray, np.ndarray | None]]
    numbers: list[int] | None = None
    mask_origin: str = ""
    crs: Any = None
    transform: Any = None

    def part(self, first: int, end: int) -> "Raster":
        """The rows from `first` to before `end`."""
        place = self.transform
        if place is not None:
            corner = place.c + place.b * first, place.f + place.e * first
            place = type(place)(place.a, place.b, corner[0], place.d, place.e, corner[1])
        return replace(
            self,
            height=end - first,
            rows=lambda y, height: self.rows(first + y, height),
            transform=place,
        )


def open_raster(
    file: SourceFile,
    bands: Sequence[int] | None,
    stack: ExitStack,
    has_colours: bool = True,
    scale: Scale | None = None,
) -> Raster:
    """A scene or a label, open until `stack` ends.

    Args:
        bands: of the file, or of the R, G, B of a photograph or palette; None: all but alpha.
        has_colours: False for a label of one band of values, which may be indices of a palette.
        scale: of a scene; what holds no data becomes its minimum, and so 0 by it. None: becomes 0.
    """
    # Of what is missing in a JPEG GDAL makes grey; it is asked for its place and mask alone.
    pixels = file.photograph() if has_colours and file.is_jpeg() else None
    source = stack.enter_context(open_tiff(file.address, beside=True))
    place = source.crs, source.transform
    if not has_colours:

        def values(y: int, height: int) -> tuple[np.ndarray, None]:
            return label_rows(source, y, height, file.name)[None], None

        size = source.height, source.width
        return Raster(file.name, *size, 1, np.dtype(np.uint8), values, [1], "", *place)
    if pixels is not None:
        return raster_in_memory(file, source, pixels, bands, list(bands or (1, 2, 3)), scale)
    if source.is_cmyk:
        return raster_in_memory(file, source, read_image(file.address, 3), bands, None, scale)
    table = numbers = clear = None
    if source.palette is not None:
        table, clear = source.palette.T[band_indices(file, bands, 3)], source.clear
    else:
        numbers = list(bands or source.data_bands)
        band_indices(file, numbers, source.count)
    # A band called alpha may be near infrared; it masks only where nobody asked for bands.
    alpha = None if bands else source.alpha_beside(numbers or [1])

    def rows(y: int, height: int) -> tuple[np.ndarray, np.ndarray | None]:
        planes, empty = source.read(numbers or [1], y, height, alpha=alpha, clear=clear)
        planes = planes if table is None else table[:, planes[0]]
        if empty is None:
            return planes, None
        return np.where(empty, fill, planes), 255 * np.uint8(~empty.all(0))

    count, dtype = (len(numbers), source.dtype) if table is None else (len(table), table.dtype)
    fill = fill_values(scale, count, dtype)
    origin = ALPHA if alpha else MASK if source.has_nodata else ""
    size = source.height, source.width
    return Raster(file.name, *size, count, dtype, rows, numbers, origin, *place)


def open_label(
    label: SourceFile | BurntLabel, image: Raster, planes: Sequence[int], stack: ExitStack
) -> Raster:
    """The label of an open `image`: a file of one band or of three colours, or polygons."""
    if isinstance(label, SourceFile):
        return open_raster(label, planes, stack, has_colours=len(planes) == 3)
    size = label.frame.height, label.frame.width
    place = image.crs, image.transform
    return Raster(label.name, *size, 1, np.dtype(np.uint8), label.rows(), [1], "", *place)


def require_one_orientation(image: SourceFile, label: SourceFile | BurntLabel) -> None:
    """Raise an `UnreadableImage` where viewers turn an image, and so not what lies on it."""
    with image.open() as opened:
        if isinstance(label, SourceFile):
            with label.open() as opened_label:
                fault = orientation_fault(opened, opened_label)
        else:  # outlines on the map hold for the pixels as they are stored
            turn = 1 if label.polygons.crs else orientation(opened)
            fault = turn != 1 and (
                f"{image.name}: has orientation {turn} (EXIF or TIFF tag; 1 is as stored), and "
                f"{label.name} does not say whether its outlines are turned; save it turned as it "
                "is shown, or remove the tag"
            )
    if fault:
        raise UnreadableImage(fault)


def raster_in_memory(
    file: SourceFile,
    source: Tiff,
    pixels: np.ndarray,
    bands: Sequence[int] | None,
    numbers: list[int] | None,
    scale: Scale | None,
) -> Raster:
    """A raster of the R, G, B (H, W, 3) of an open file, with the place and mask that it says, or
    what lies beside it."""
    planes = pixels.transpose(2, 0, 1)[band_indices(file, bands, pixels.shape[2])]
    fill = fill_values(scale, len(planes), planes.dtype)

    def rows(y: int, height: int) -> tuple[np.ndarray, np.ndarray | None]:
        part = np.ascontiguousarray(planes[:, y : y + height])
        if not source.has_nodata:
            return part, None
        _, empty = source.read(source.data_bands, y, height)
        empty = empty.any(0) if source.is_cmyk else empty.all(0)
        return np.where(empty, fill, part), 255 * np.uint8(~empty)

    origin = MASK if source.has_nodata else ""
    size, place = pixels.shape[:2], (source.crs, source.transform)
    return Raster(file.name, *size, len(planes), planes.dtype, rows, numbers, origin, *place)


def band_indices(file: SourceFile, bands: Sequence[int] | None, count: int) -> list[int]:
    """`bands` from 0, all of `count` by default."""
    if bands and max(bands) > count:
        raise UnreadableImage(f"{file.name}: has {count} bands, not band {max(bands)}")
    return [band - 1 for band in bands or range(1, count + 1)]


def tile_scene(scene: SourceScene, job: TilingSettings) -> dict:
    """Write the tiles of `scene` and return its record: sizes, sums of bands, counts of labels.

    A scene that must not be used has `refused` in its record. Tiles of it may be left, as of one
    that an error ends; whoever keeps the records removes them.

    Raises:
        OSError: a tile cannot be written. CancelledError: `job.stop` was set.
    """
    record = {"scene": scene.name, "split": scene.split, "sources": {}, "labels": {}}
    record |= {"stamps": scene.stamps, "kinds": sorted(scene.labels)}
    try:
        record["sources"] = scene.digests()
        with ExitStack() as stack:
            image = open_raster(scene.image, scene.bands, stack, scale=job.scale)
            planes = range(1, 1 + job.coding.planes) if job.coding else ()
            labels = {
                kind: open_label(label, image, planes, stack)
                for kind, label in scene.labels.items()
            }
            require_one_size(image, labels)
            if scene.rows is not None:
                image = image.part(*scene.rows)
                labels = {kind: label.part(*scene.rows) for kind, label in labels.items()}
            record |= {
                "height": image.height,
                "width": image.width,
                "bands": image.bands,
                "source_bands": image.numbers,
                "dtype": str(image.dtype),
                "crs": image.crs and image.crs.to_string(),
                "transform": image.transform and list(image.transform)[:6],
            }
            require_fit(scene, image, job)
            for label in scene.labels.values():
                require_one_orientation(scene.image, label)
            record |= summarize(image, labels, tile_strips(scene, image, labels, job), job)
    except UserError as error:
        record["refused"] = str(error)
        for file in scene.files:  # as the user knows it
            record["refused"] = record["refused"].replace(file.address, file.name)
    return record


def require_one_size(image: Raster, labels: dict[str, Raster]) -> None:
    """Raise an `UnreadableImage` where a label is of another size than its image."""
    name, height, width = image.name, image.height, image.width
    for label in labels.values():
        if (label.height, label.width) != (height, width):
            raise UnreadableImage(
                f"{label.name} is {label.height} x {label.width} pixels (height x width), its "
                f"image {name} {height} x {width}"
            )


def require_fit(scene: SourceScene, image: Raster, job: TilingSettings) -> None:
    """Raise an `UnreadableImage` for what keeps a scene from being cut."""
    name, height, width = image.name, image.height, image.width
    side = min(height, width)
    if side < job.tile:
        raise UnreadableImage(
            f"{name} is {height} x {width} pixels, smaller than a tile; set --tile {side} or less, "
            f"or leave it out"
        )
    is_plain = image.dtype in (np.uint8, np.uint16)
    is_real = image.dtype.kind in "iuf"
    if not (is_plain or (is_real and job.is_own and job.scale)):
        remedy = ", or state what it holds by tools/prepare.py --scale"
        stated = remedy if is_real and job.is_own else ""
        raise UnreadableImage(f"{name} holds {image.dtype}; convert it to uint8 or uint16{stated}")
    if job.scale and job.scale.count not in (1, image.bands):
        raise UnreadableImage(
            f"{name}: {image.bands} bands are taken, the scale has numbers of {job.scale.count}; "
            "give tools/prepare.py --scale a minimum and a maximum for each, or one pair for all"
        )
    if image.dtype == np.uint16 and job.scale is None:
        raise UnreadableImage(
            f"{name} holds 16-bit values; set tools/prepare.py --max_value, the value that becomes "
            "1"
        )


def tile_strips(
    scene: SourceScene, image: Raster, labels: dict[str, Raster], job: TilingSettings
) -> dict:
    """Write the tiles of `scene`, a strip of them after the other; the sum of `read_rows`' counts,
    and of the 'bytes' of the tiles.

    Each row of the scene is read, and so counted, once: what a strip shares with the one above, it
    has from that.
    """
    strip, total, end = {}, {}, 0
    for y in positions(image.height, job.tile, job.stride):
        if job.stop.is_set():
            raise CancelledError
        shared = max(0, end - y)
        rows, counts = read_rows(image, labels, job, y + shared, job.tile - shared)
        if shared:
            rows = {k: np.concatenate([strip[k][..., -shared:, :], rows[k]], -2) for k in rows}
        strip, end = rows, y + job.tile
        is_written = job.output is not None
        counts["bytes"] = write_strip(scene, strip, y, image, job) if is_written else 0
        total = {k: total[k] + count for k, count in counts.items()} if total else counts
    return total


def read_rows(
    image: Raster,
    labels: dict[str, Raster],
    job: TilingSettings,
    y: int,
    height: int,
) -> tuple[dict[str, np.ndarray], dict]:
    """Rows of a scene from `y`, and what was counted in those of its pixels that hold data.

    Returns:
        the planes of the 'image', and the classes of each kind of label, 255 where no data is;
        pixels of each value (bands, values) as 'image', of 0 to 255 where `sees_bytes`, and then of
        what is clipped as 'outside'; without data as 'masked', of each code of each kind of label,
        of the colours of no class as (kind, 'strangers').
    """
    coding = job.coding
    planes, mask = image.rows(y, height)
    rows, counted, outside = {"image": planes}, planes, 0
    if sees_bytes(image.dtype, job.scale):
        counted, outside = to_bytes(planes, mask, job.scale, image.name)
    depth = np.iinfo(counted[0].dtype).max + 1
    counts = {"image": np.stack([count_values(plane, depth, mask) for plane in counted])}
    counts["outside"] = outside
    counts["masked"] = 0 if mask is None else int((mask == 0).sum())
    for kind, label in labels.items():
        values = as_bytes(label.rows(y, height)[0], label.name)
        rows[kind], counts[kind] = coding.decode(values)
        if mask is not None:
            rows[kind][mask == 0] = IGNORE
            values = values[:, mask > 0][:, None]
            counts[kind] = coding.decode(values)[1] if values.size else 0 * counts[kind]
        has_strangers = coding.planes == 3 and counts[kind][16:].any()
        counts[kind, "strangers"] = coding.strangers(values) if has_strangers else Counter()
    return rows, counts


def write_strip(
    scene: SourceScene, strip: dict[str, np.ndarray], y: int, image: Raster, job: TilingSettings
) -> int:
    """Write the tiles of one row of windows: PNG for grey and colour of 8 bits, or else TIFF; how
    many bytes they have."""
    written = 0
    as_png = is_png(image.dtype, image.bands)
    pictures = strip | ({"image": cv2.merge(list(strip["image"]))} if as_png else {})
    for x in positions(image.width, job.tile, job.stride):
        for kind, pixels in pictures.items():
            if as_png or kind != "image":
                tile = encode_png(pixels[:, x : x + job.tile])
            else:
                place = image.transform and moved_transform(image.transform, x, y)
                tile = encode_tiff(pixels[:, :, x : x + job.tile], image.crs, place)
            path = job.output / tile_file(kind, scene.key, y, x, as_png)
            try:
                path.write_bytes(tile)
            except OSError as error:
                error.filename = str(path)  # which a full disk does not say
                raise
            written += len(tile)
    return written


def moved_transform(transform, x: int, y: int):
    """The transform of a tile that begins at pixel (x, y)."""
    a, b, c, d, e, f = transform[:6]
    return type(transform)(a, b, c + a * x + b * y, d, e, f + d * x + e * y)


def is_png(dtype: np.dtype | str, bands: int) -> bool:
    """Whether tiles of such images are PNG; the others are TIFF."""
    return np.dtype(dtype) == np.uint8 and bands in (1, 3)


def tile_file(kind: str, key: str, y: int, x: int, as_png: bool) -> str:
    ending = "png" if as_png or kind != "image" else "tif"
    return f"{TILE_FOLDERS[kind]}/{key}_{y}_{x}.{ending}"


def record_key(record: dict) -> str:
    return f"{record['split']}/{record['scene']}"


def tile_files(record: dict, tile: int, stride: int) -> set[str]:
    """The files of a scene, relative to the data set's folder."""
    as_png = is_png(record["dtype"], record["bands"])
    return {
        tile_file(kind, record_key(record), y, x, as_png)
        for y in positions(record["height"], tile, stride)
        for x in positions(record["width"], tile, stride)
        for kind in ("image", *record["kinds"])
    }


def summarize(image: Raster, labels: dict[str, Raster], counts: dict, job: TilingSettings) -> dict:
    """What a scene's record says of its pixels, from the counts of `tile_strips`."""
    if not counts["image"].any():
        raise UnreadableImage(f"{image.name}: no pixel of it holds data")
    summaries = {kind: job.coding.summary(counts[kind]) for kind in labels}
    for kind, summary in summaries.items():
        summary["not_scored"] += counts["masked"]
        for colour, pixels in counts[kind, "strangers"].most_common(1):
            summary["stranger"] = [list(colour), pixels]
    size = (image.height, image.width)
    place = place_of(image)
    strays = [x.name for x in labels.values() if displacement(place, place_of(x), *size)]
    rows, columns = (positions(n, job.tile, job.stride) for n in size)
    sees = sees_bytes(image.dtype, job.scale)
    top = 255 if sees or job.scale is None else job.scale.max_value
    return ({"outside": counts["outside"]} if sees else {}) | {
        "tiles": len(rows) * len(columns),
        "bytes": counts["bytes"],
        "masked": counts["masked"],
        "mask": image.mask_origin,
        "apart": strays[0] if strays else None,
        "sums": [band_sums(values, top) for values in counts["image"]],
        "labels": summaries,
    }
