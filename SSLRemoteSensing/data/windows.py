"""Windows drawn from large scenes: how many each scene has, where one lies, what is read there."""

import atexit
import os
import shlex
import threading
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import ExitStack
from copy import copy
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from SSLRemoteSensing.core.bars import map_files
from SSLRemoteSensing.core.console import warn
from SSLRemoteSensing.core.errors import UnreadableImage, UserError
from SSLRemoteSensing.data.channels import choose_channels
from SSLRemoteSensing.data.geotiff import Tiff, open_tiff
from SSLRemoteSensing.data.images import (
    has_windows,
    label_rows,
    read_header,
    read_image,
    read_label,
    scaled,
)
from SSLRemoteSensing.data.labels import count_values
from SSLRemoteSensing.data.places import ground_size, read_place
from SSLRemoteSensing.data.reading import Reading
from SSLRemoteSensing.data.scale import Scale
from SSLRemoteSensing.data.transforms import resize

LARGEST = 2**15  # OpenCV pads no image beyond it
MOST_PIXELS = 2**26  # of a scene, that make one window
MOST_DRAWN = 1000  # places in a scene, for one sample, until one holds enough data
MOST_OPEN = 32  # files that a thread keeps open
CACHE = 2**29  # bytes of decoded blocks that a process keeps of them
SAME_GSD = 1.05  # times a size of pixels, within which it is taken for the same
ENLARGED = 1.01  # times the ground sampling distance that is asked for


@dataclass
class WindowSettings:
    """Windows that are drawn anew in each epoch from scenes of any size.

    Attributes:
        size: side of a window in pixels; a smaller scene is padded (image mirrored, label 255).
        per_scene: windows of each scene in an epoch; None: as many as have its area, at least one.
        min_valid: a window of which a smaller share holds data, 0 to 1, is drawn again.
        gsd: ground sampling distance in metres; each scene is scaled to it as its georeference
            says, images by the mean or the file's overviews, labels to what most pixels are. None:
            pixels as they are.
    """

    size: int
    per_scene: int | None = None
    min_valid: float = 0.5
    gsd: float | None = None

    def check(self) -> None:
        """Raise a `UserError` for numbers that cannot be."""
        for key, is_right, text in (
            ("size", 1 <= self.size <= LARGEST, f"must be 1 to {LARGEST} pixels"),
            ("per_scene", self.per_scene is None or self.per_scene >= 1, "must be at least 1"),
            ("min_valid", 0 <= self.min_valid <= 1, "must be 0 to 1, a share of the pixels"),
            ("gsd", self.gsd is None or 0 < self.gsd < np.inf, "must be above 0, in metres"),
        ):
            if not is_right:
                raise UserError(f"windows.{key}={getattr(self, key)}: {text}")


@dataclass(frozen=True)
class Window:
    """Pixels (height, width) of a scene from (y, x), and the `shape` that they are scaled to."""

    y: int
    x: int
    height: int
    width: int
    shape: tuple[int, int]

    @property
    def part(self) -> tuple[slice, slice]:
        """Of an array of the whole scene."""
        return slice(self.y, self.y + self.height), slice(self.x, self.x + self.width)


class Windows:
    """How many windows each of the `scenes` has in an epoch, and the drawing of one.

    The n-th sample of an epoch is of `scene(n)`. Where it lies is drawn from the sample's own
    generator, all places of the scene being equally likely: it depends on no worker and no restart.

    Attributes:
        sides: int64 (scenes, 2), height and width in a scene's pixels of one of its windows.
        ends: int64 (scenes,), how many windows a scene and all before it have.

    Args:
        skips: a scene whose header cannot be read is not told here, but when a window is read.

    Raises:
        UserError: settings that cannot be; with `gsd`, a scene without georeference.
        UnreadableImage: a scene whose size has to be known, and cannot be read.
    """

    def __init__(self, settings: WindowSettings, scenes: Sequence[str], skips: bool = False):
        settings.check()
        self.settings = settings
        self.sides = np.full((len(scenes), 2), settings.size)
        counts = np.full(len(scenes), settings.per_scene or 1)
        if settings.gsd is not None or settings.per_scene is None:
            measure = Measure(settings, skips)
            measures = list(map_files(measure, scenes, "measuring scenes", unit="scene"))
            self.sides = np.array([sides for sides, _ in measures])
            counts = np.array([count for _, count in measures])
            self.tell_enlarged(scenes)
        self.counts, self.ends = counts, np.cumsum(counts)

    def tell_enlarged(self, scenes: Sequence[str]) -> None:
        """Warn of scenes whose pixels are larger than the ground sampling distance asked for."""
        is_coarse = self.sides.min(1) * ENLARGED < self.settings.size
        if is_coarse.any():
            first = scenes[int(np.argmax(is_coarse))]
            warn(
                f"windows.gsd={self.settings.gsd:g}: {is_coarse.sum()} of {len(scenes)} scenes "
                f"have larger pixels and are enlarged, first {first}"
            )

    def of(self, scenes: Sequence[int]) -> "Windows":
        """The windows of some of the scenes alone."""
        result, chosen = copy(self), np.asarray(scenes, int)
        result.sides, result.counts = self.sides[chosen], self.counts[chosen]
        result.ends = np.cumsum(result.counts)
        return result

    def __len__(self) -> int:
        return int(self.ends[-1])

    def scene(self, index: int) -> int:
        """The scene that sample `index` of an epoch is a window of."""
        return int(np.searchsorted(self.ends, index, side="right"))

    def first(self, scene: int) -> int:
        """The first sample that is a window of a scene."""
        return int(self.ends[scene] - self.counts[scene])

    def draw(self, scene: int, shape: tuple[int, int], rng: np.random.Generator) -> Window:
        """A window of a scene of (height, width) pixels; of one that is smaller, all of it."""
        size, sides = self.settings.size, self.sides[scene].tolist()
        height, width = map(min, sides, shape)
        y, x = (int(rng.integers(a - b + 1)) for a, b in zip(shape, (height, width), strict=True))
        lengths = zip((height, width), sides, strict=True)
        return Window(y, x, height, width, tuple(max(1, round(size * a / b)) for a, b in lengths))

    def read(
        self, scene: int, file: str, rng: np.random.Generator, in_channels: int, how: Reading
    ) -> tuple[np.ndarray, np.ndarray | None, Window, int]:
        """A window of the scene `file`: image uint8 (H, W, in_channels) of at most `size` a side;
        which pixels hold data, bool (H, W), None: all; its place; how often it was drawn again.

        Raises:
            UnreadableImage: a damaged scene; of MOST_DRAWN windows none holds enough data.
        """
        shape, least = scene_shape(file), self.settings.min_valid
        for redrawn in range(MOST_DRAWN):
            window = self.draw(scene, shape, rng)
            image, valid = read_window(file, window, in_channels, how.bands, how.scale)
            if valid is None or valid.mean() >= least:
                return image, valid, window, redrawn
        raise UnreadableImage(
            f"image {file}: of {MOST_DRAWN} windows none holds data on min_valid={least:g} of its "
            "pixels; lower windows.min_valid, or exclude it"
        )

    def example(self, scene: int, file: str, in_channels: int, how: Reading) -> np.ndarray:
        """A window's image of the scene `file`, the same in every call."""
        return self.read(scene, file, np.random.default_rng(scene), in_channels, how)[0]


@dataclass(frozen=True)
class Measure:
    """Called with a scene's file: the sides of its windows in its pixels, and their number."""

    settings: WindowSettings
    skips: bool

    def __call__(self, file: str) -> tuple[tuple[int, int], int]:
        settings, size = self.settings, self.settings.size
        try:
            header = read_header(file)
        except UnreadableImage:
            if not self.skips:
                raise
            return (size, size), settings.per_scene or 1
        sides = size, size
        if settings.gsd is not None:
            metres = ground_size(file, header.shape)
            sides = tuple(max(1, round(size * settings.gsd / length)) for length in metres)
            if sides[0] * sides[1] > MOST_PIXELS:
                raise UserError(
                    f"windows.gsd={settings.gsd:g}: a window of {size} pixels is {sides[1]} x "
                    f"{sides[0]} pixels of {file}, more than can be read at a time; set a smaller "
                    "size, or reduce the scene"
                )
        return sides, settings.per_scene or max(1, round(header.pixels / (sides[0] * sides[1])))


def require_gsd(files: Sequence[str], gsd: float) -> None:
    """Raise a `UserError` where pixels of an image are of another size than `gsd` metres."""
    for file, metres in zip(files, map_files(pixel_metres, files, "measuring scenes"), strict=True):
        height, width = (length / gsd for length in metres)
        if 1 / SAME_GSD <= min(height, width) <= max(height, width) <= SAME_GSD:
            continue
        units = np.linalg.norm(np.reshape(read_place(file).transform, (3, 3))[:2, :2], axis=0)
        across, down = units / (width, height)
        raise UserError(
            f"image {file}: has pixels of {metres[1]:.3g} x {metres[0]:.3g} m, and is scored as it "
            f"is, where train_data.windows.gsd={gsd:g}; scale it, and its label by 'mode', as in: "
            f"rio warp --res {across:.9g} --res {down:.9g} --resampling average "
            f"{shlex.quote(file)} scaled.tif"
        )


def pixel_metres(file: str) -> tuple[float, float]:
    """Height and width of a pixel in metres; raises as `ground_size`."""
    return ground_size(file, read_header(file).shape)


def open_windows(settings, scenes: Sequence[str], skips: bool = False) -> Windows | None:
    """The windows of a data set's `settings`, None where it has whole files; see `Windows`."""
    if settings.windows is None:
        return None
    if settings.crop_size is not None:
        raise UserError(
            f"crop_size={settings.crop_size}: windows are cut already; leave one of both out"
        )
    return Windows(WindowSettings(**settings.windows), scenes, skips)


def count_redrawn(samples: Sequence[dict]) -> dict[str, int]:
    """What a batch of windows has besides: `redrawn`, of all its samples."""
    if "redrawn" not in samples[0]:
        return {}
    return {"redrawn": sum(sample["redrawn"] for sample in samples)}


def read_window(
    file: str,
    window: Window,
    in_channels: int,
    bands: Sequence[int] | None,
    scale: Scale | None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """A window of an image as `read_image` reads the whole of it, scaled to its `shape`: uint8
    (H, W, in_channels); and which pixels hold data in any band, bool (H, W), None: all do."""
    source, shape = opened(file), window.shape
    if source is None:
        whole = read_image(file, in_channels, bands, scale)
        return resize(np.ascontiguousarray(whole[window.part]), *shape), None
    channels = choose_channels(source, in_channels, bands)
    has_palette = channels.palette is not None  # whose indices have no mean
    place = window.y, window.height, window.x, window.width
    try:
        planes, empty = channels.read(source, *place, None if has_palette else shape, with_0=True)
    except UnreadableImage:
        close_file(file)  # GDAL would keep what it made of the damaged block, and tell it no more
        raise
    image = scaled(channels, planes, empty, scale, Path(file))
    valid = None if empty is None else ~empty.all(0)
    if has_palette:
        image, valid = resize(image, *shape), None if valid is None else nearest(valid, shape)
    if image.shape[2] < in_channels:
        image = image.repeat(in_channels, axis=2)
    return image, valid


def read_label_window(file: str, window: Window) -> np.ndarray:
    """The values of a label's window, uint8 (height, width), as they are in the file; raises as
    `read_label` does."""
    try:
        source = opened(file)
        if source is None:
            return read_label(file)[window.part]
        return label_rows(source, window.y, window.height, file, window.x, window.width)
    except UnreadableImage as error:
        close_file(file)
        text = str(error)
        raise UserError(f"label {text[6:]}" if text.startswith("image ") else text) from error


def commonest(label: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A label uint8 (h, w) scaled to `shape`: by area, the class that most of a pixel is of; the
    nearest pixel where that enlarges it."""
    if label.shape == shape:
        return label
    if shape[0] > label.shape[0] or shape[1] > label.shape[1]:
        return nearest(label, shape)
    result, largest = np.zeros(shape, np.uint8), np.zeros(shape, np.float32)
    for value in np.flatnonzero(count_values(label)):
        share = cv2.resize(
            np.float32(label == value), (shape[1], shape[0]), interpolation=cv2.INTER_AREA
        )
        result[share > largest + 1e-6] = value  # of equal shares the lowest class
        largest = np.maximum(largest, share)
    return result


def nearest(pixels: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """`pixels` (h, w) scaled to `shape`, each the one in whose area its centre lies."""
    lengths = zip(shape, pixels.shape, strict=True)
    rows, columns = (((np.arange(a) + 0.5) * b / a).astype(int) for a, b in lengths)
    return pixels[rows][:, columns]


def mirrored(image: np.ndarray, down: int, right: int) -> np.ndarray:
    """An image (H, W, C) with some mirrored rows below it, and columns at its right."""
    padded = cv2.copyMakeBorder(image, 0, down, 0, right, cv2.BORDER_REFLECT)
    return padded.reshape(*padded.shape[:2], image.shape[2])  # OpenCV drops the axis of one band


class OpenFiles(threading.local):
    """The files that this thread of this process keeps open, the last used at the end; None stands
    for one that is read whole."""

    def __init__(self):
        self.process = os.getpid()
        self.files: OrderedDict[str, tuple[Tiff | None, ExitStack]] = OrderedDict()


_open = OpenFiles()
# Of the process that this one was forked from, whose place in the file they share. To close them
# here might wait for a lock of one of its threads.
_inherited: list[OrderedDict] = []


def opened(file: str) -> Tiff | None:
    """The open file, None for one of a format that has to be read whole; see `MOST_OPEN`."""
    from rasterio.env import set_gdal_config

    if _open.process != os.getpid():
        _inherited.append(_open.files)
        _open.__init__()
    files = _open.files
    if file in files:
        files.move_to_end(file)
        return files[file][0]
    while len(files) >= MOST_OPEN:
        close_file(next(iter(files)))
    if not files and "GDAL_CACHEMAX" not in os.environ:
        # GDAL's own limit is a share of the machine's memory, for each of many workers.
        set_gdal_config("GDAL_CACHEMAX", CACHE)
    stack = ExitStack()
    files[file] = stack.enter_context(open_tiff(file)) if has_windows(file) else None, stack
    return files[file][0]


def close_file(file: str) -> None:
    """Close `file`, where this thread has it open."""
    _, stack = _open.files.pop(file, (None, ExitStack()))
    stack.close()


@atexit.register
def close_files() -> None:
    """Close all that this thread has open."""
    if _open.process == os.getpid():
        for file in list(_open.files):
            close_file(file)


def scene_shape(file: str) -> tuple[int, int]:
    """Height and width of a scene."""
    source = opened(file)
    return read_header(file).shape if source is None else (source.height, source.width)
