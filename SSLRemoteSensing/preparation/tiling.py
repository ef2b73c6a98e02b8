"""Cut a scene into tiles, strip by strip, and count what is in it."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from SSLRemoteSensing.core.classes import IGNORE
from SSLRemoteSensing.core.errors import UnreadableImage, UserError
from SSLRemoteSensing.core.files import sha256
from SSLRemoteSensing.data.geotiff import encode_tiff, open_tiff, reading
from SSLRemoteSensing.data.images import TIFF_ENDINGS, read_image, read_label
from SSLRemoteSensing.data.labels import ColourCoding, ValueCoding, histogram
from SSLRemoteSensing.data.prepared import LABEL_FOLDERS, positions
from SSLRemoteSensing.preparation.catalog import SourceScene

ALPHA = "a band called alpha; --bands rgbir if it is near infrared"
JPEG_ENDINGS = {".jpg", ".jpeg"}
STRANGERS = 1000  # colours kept in count; a class's would be among the most frequent


class Stopped(Exception):
    """The user asked to stop."""


@dataclass(frozen=True)
class TilingSettings:
    """How scenes are cut. With `output` None nothing is written."""

    tile: int
    stride: int
    output: Path | None
    coding: ColourCoding | ValueCoding | None
    scale: float | None
    stop: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class Strips:
    """An open scene or label. `rows(y, height)` gives planes (bands, height, width), and where not
    every pixel holds data a mask uint8 (height, width), 0 = none."""

    height: int
    width: int
    bands: int
    dtype: np.dtype
    rows: Callable[[int, int], tuple[np.ndarray, np.ndarray | None]]
    crs: Any = None
    transform: Any = None
    mask: str = ""  # what the mask comes from
    numbers: list[int] | None = None  # of an image: which bands of its file these are, from 1


@contextmanager
def open_image(path: Path, bands: tuple[int, ...] | None) -> Iterator[Strips]:
    if path.suffix.lower() not in JPEG_ENDINGS:
        with open_tiff(path, beside=True) as source:
            if source.palette is not None or source.is_cmyk:
                yield require_whole(pick_bands(read_image(path, 3), bands, path))
                return
            numbers = list(bands or source.data_bands)
            require_bands(numbers, source.count, path)
            # A band called alpha may be near infrared; it masks only where nobody asked for bands.
            has_mask = source.has_nodata or (bands is None and source.has_alpha)

            def rows(y: int, height: int) -> tuple[np.ndarray, np.ndarray | None]:
                return source.rows(numbers, y, height), source.mask(y, height) if has_mask else None

            yield Strips(
                source.height, source.width, len(numbers), source.dtype, rows, source.crs,
                source.transform, ALPHA if source.has_alpha else "nodata value or mask", numbers,
            )  # fmt: skip
    else:  # which GDAL would read with grey in place of what is missing
        yield replace(
            require_whole(pick_bands(read_image(path, 3), bands, path)),
            numbers=list(bands or (1, 2, 3)),
        )


def pick_bands(image: np.ndarray, bands: tuple[int, ...] | None, path: Path) -> np.ndarray:
    if bands is None:
        return image
    require_bands(bands, image.shape[2], path)
    return image[:, :, [band - 1 for band in bands]]


def require_bands(bands: Sequence[int], count: int, path: Path) -> None:
    if max(bands) > count:
        raise UnreadableImage(f"{path}: has {count} bands, not band {max(bands)}")


@contextmanager
def open_label(path: Path, planes: int) -> Iterator[Strips]:
    """A label of three planes of colour or one of values."""
    ending = path.suffix.lower()
    if ending in TIFF_ENDINGS or (planes == 3 and ending not in JPEG_ENDINGS):
        with open_tiff(path, beside=True) as source:
            if planes == 3 and source.palette is not None:
                yield require_whole(read_image(path, 3))
                return
            if source.count < planes or (planes == 1 and source.count > 1):
                raise UnreadableImage(
                    f"label {path}: has {source.count} bands, expected "
                    + ("colours R, G, B" if planes == 3 else "one band of class values")
                )
            numbers = list(range(1, planes + 1))
            yield Strips(
                source.height, source.width, planes, source.dtype,
                lambda y, height: (source.rows(numbers, y, height), None), source.crs,
                source.transform,
            )  # fmt: skip
    else:
        try:
            label = read_image(path, 3) if planes == 3 else read_label(path)[:, :, None]
        except UserError as error:
            raise UnreadableImage(str(error)) from error
        yield require_whole(label)


def require_whole(image: np.ndarray) -> Strips:
    """An image (H, W, C) in memory as strips."""

    def rows(y: int, height: int) -> tuple[np.ndarray, None]:
        return np.ascontiguousarray(image[y : y + height].transpose(2, 0, 1)), None

    return Strips(*image.shape, image.dtype, rows)


def tile_scene(scene: SourceScene, job: TilingSettings) -> dict:
    """Write the tiles of `scene` and return its record: sizes, sums of bands, counts of labels.

    A scene that must not be used has `refused` in its record, and no tile is left of it.

    Raises:
        UserError: a tile cannot be written. Stopped: `job.stop` was set.
    """
    record = {"scene": scene.name, "split": scene.split, "sources": {}, "labels": {}}
    files = {"image": scene.image} | scene.labels
    record["stamps"] = {file.name: list(file.stamp) for file in files.values()}
    record["kinds"] = sorted(scene.labels)
    tile_paths: list[Path] = []
    places: dict[str, str] = {}
    try:
        with ExitStack() as stack:
            paths = {key: stack.enter_context(file.local()) for key, file in files.items()}
            places = {str(paths[key]): file.name for key, file in files.items()}
            for key, file in files.items():
                with reading(paths[key]):
                    record["sources"][file.name] = sha256(paths[key])
            image = stack.enter_context(open_image(paths.pop("image"), scene.bands))
            planes = job.coding.planes if job.coding else 1
            labels = {
                kind: stack.enter_context(open_label(path, planes)) for kind, path in paths.items()
            }
            tile_strips(scene, image, labels, job, record, tile_paths)
    except UnreadableImage as error:
        text = str(error)
        for path, name in places.items():  # a member of a zip was read under another name
            text = text.replace(path, name)
        record["refused"] = text
    except BaseException:
        remove_files(tile_paths)
        raise
    if "refused" in record:
        remove_files(tile_paths)
    return record


def tile_strips(
    scene: SourceScene,
    image: Strips,
    labels: dict[str, Strips],
    job: TilingSettings,
    record: dict,
    tile_paths: list[Path],
) -> None:
    height, width = image.height, image.width
    record |= {
        "height": height,
        "width": width,
        "bands": image.bands,
        "source_bands": image.numbers,
        "dtype": str(image.dtype),
        "crs": image.crs and image.crs.to_string(),
        "transform": image.transform and list(image.transform)[:6],
    }
    refusal = check_pair(scene, image, labels, job)
    if refusal:
        record["refused"] = refusal
        return
    depth = 256 if image.dtype == np.uint8 else 65536
    counts = np.zeros((image.bands, depth), np.int64)
    tallies = dict.fromkeys(labels, 0)
    strangers = {kind: Counter() for kind in labels}
    masked_pixels = 0
    fresh_from = 0  # rows above were counted in the strip before
    columns = positions(width, job.tile, job.stride)
    for y in positions(height, job.tile, job.stride):
        if job.stop.is_set():
            raise Stopped
        planes, mask = image.rows(y, job.tile)
        skip = fresh_from - y
        fresh_from = y + job.tile
        new_mask = None if mask is None else mask[skip:]
        masked_pixels += 0 if new_mask is None else int((new_mask == 0).sum())
        for band, plane in enumerate(planes):
            counts[band] += histogram(plane[skip:], depth, new_mask)
        maps = {}
        for kind, label in labels.items():
            strip = label.rows(y, job.tile)[0]
            if strip.dtype != np.uint8:
                strip = to_uint8_values(strip, scene.labels[kind].name)
            maps[kind], tally = job.coding.decode(strip)
            new_rows = strip[:, skip:]
            if mask is not None:
                maps[kind][mask == 0] = IGNORE
                new_rows = new_rows[:, new_mask > 0][:, None]
            if skip or mask is not None:
                tally = job.coding.decode(new_rows)[1] if new_rows.size else tally * 0
            tallies[kind] = tallies[kind] + tally
            if job.coding.planes == 3 and tally[16:].any():
                strangers[kind] += job.coding.strangers(new_rows)
                strangers[kind] = Counter(dict(strangers[kind].most_common(STRANGERS)))
        if job.output is not None:
            write_strip(scene, planes, maps, y, columns, image, job, tile_paths)
    if not counts.any():
        record["refused"] = f"{scene.image.name}: no pixel of it holds data"
        return
    record["tiles"] = len(columns) * len(positions(height, job.tile, job.stride))
    record |= {"masked": masked_pixels, "mask": image.mask}
    strays = [scene.labels[kind].name for kind, label in labels.items() if lie_apart(image, label)]
    record["apart"] = strays[0] if strays else None
    record["sums"] = [band_sums(values, job.scale or 255) for values in counts]
    for kind in labels:
        summary = job.coding.summary(tallies[kind])
        summary["not_scored"] += masked_pixels
        if strangers[kind]:
            colour, pixels = strangers[kind].most_common(1)[0]
            summary["stranger"] = [list(colour), pixels]
        record["labels"][kind] = summary


def check_pair(
    scene: SourceScene, image: Strips, labels: dict[str, Strips], job: TilingSettings
) -> str | None:
    """What keeps a scene from being cut, if anything."""
    height, width = image.height, image.width
    for kind, label in labels.items():
        if (label.height, label.width) != (height, width):
            return (
                f"{scene.labels[kind].name} is {label.height} x {label.width} pixels (height x "
                f"width), its image {scene.image.name} {height} x {width}"
            )
    if min(height, width) < job.tile:
        return (
            f"{scene.image.name} is {height} x {width} pixels, smaller than a tile; set --tile "
            f"{min(height, width)} or less, or --leave_out {scene.name}"
        )
    if image.dtype not in (np.uint8, np.uint16):
        return f"{scene.image.name} holds {image.dtype}; convert it to uint8 or uint16"
    if image.dtype == np.uint16 and job.scale is None:
        return f"{scene.image.name} holds 16-bit values; set --max_value, the value that becomes 1"
    return None


def lie_apart(image: Strips, label: Strips) -> bool:
    """Whether both have a place on the map, and these are more than half a pixel apart."""
    if image.transform is None or label.transform is None:
        return False
    pixel = abs(image.transform[0]) + abs(image.transform[1])
    pairs = zip(image.transform[2:6:3], label.transform[2:6:3], strict=True)
    return any(abs(a - b) > pixel / 2 for a, b in pairs)


def write_strip(
    scene: SourceScene,
    planes: np.ndarray,
    maps: dict[str, np.ndarray],
    y: int,
    columns: list[int],
    image: Strips,
    job: TilingSettings,
    tile_paths: list[Path],
) -> None:
    """The tiles of one row of windows: PNG for grey and colour of 8 bits, or else TIFF."""
    folder = job.output / "images" / scene.split
    as_png = is_png(planes.dtype, len(planes))
    # OpenCV writes blue first.
    pixels = cv2.merge(list(planes[::-1])) if as_png else planes
    for x in columns:
        name = f"{scene.name}_{y}_{x}"
        if as_png:
            write_tile(folder / f"{name}.png", encode_png(pixels[:, x : x + job.tile]), tile_paths)
        else:
            place = image.transform and moved_transform(image.transform, x, y)
            tile = encode_tiff(pixels[:, :, x : x + job.tile], image.crs, place)
            write_tile(folder / f"{name}.tif", tile, tile_paths)
        for kind, classes in maps.items():
            labels = job.output / LABEL_FOLDERS[kind] / scene.split
            write_tile(labels / f"{name}.png", encode_png(classes[:, x : x + job.tile]), tile_paths)


def is_png(dtype: np.dtype | str, bands: int) -> bool:
    """Whether tiles of such images are PNG; the others are TIFF."""
    return np.dtype(dtype) == np.uint8 and bands in (1, 3)


def moved_transform(transform, x: int, y: int):
    """The transform of a tile that begins at pixel (x, y)."""
    a, b, c, d, e, f = transform[:6]
    return type(transform)(a, b, c + a * x + b * y, d, e, f + d * x + e * y)


def encode_png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()


def write_tile(path: Path, data: bytes, tile_paths: list[Path]) -> None:
    tile_paths.append(path)
    try:
        path.write_bytes(data)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror}); finished scenes are kept, the same "
            "command goes on from there"
        ) from error


def remove_files(files: list[Path]) -> None:
    for file in files:
        file.unlink(missing_ok=True)


def band_sums(counts: np.ndarray, scale: float) -> list[int | float]:
    """Pixels, sum and sum of squares of values clipped at `scale`; exact for a whole `scale`."""
    values = np.minimum(np.arange(len(counts)), int(scale) if scale == int(scale) else scale)
    return [int(counts.sum()), (values @ counts).item(), (values**2 @ counts).item()]


def to_uint8_values(values: np.ndarray, name: str) -> np.ndarray:
    if values.dtype.kind not in "iub" or values.min() < 0 or values.max() > 255:
        raise UnreadableImage(f"label {name}: holds {values.dtype} values outside 0 to 255")
    return values.astype(np.uint8)
