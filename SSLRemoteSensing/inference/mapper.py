"""Map scenes: reading, the network and writing side by side, each scene whole or not at all."""

import math
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from SSLRemoteSensing.core import distributed, machine
from SSLRemoteSensing.core.bars import progress
from SSLRemoteSensing.core.classes import IGNORE
from SSLRemoteSensing.core.config import Part, check_fields
from SSLRemoteSensing.core.console import styled
from SSLRemoteSensing.core.errors import CannotWrite, UserError, one_line
from SSLRemoteSensing.core.files import atomic_together
from SSLRemoteSensing.data.geotiff import open_tiff
from SSLRemoteSensing.data.scale import Scale, checked_scale, up_to
from SSLRemoteSensing.inference.georeference import keep_place, side_car, side_files
from SSLRemoteSensing.inference.grid import NATIVE, planes_of_scene
from SSLRemoteSensing.inference.network import MapNetwork
from SSLRemoteSensing.inference.outputs import Outputs, public_path, scene_name, stem_of
from SSLRemoteSensing.inference.polygons import write_polygons
from SSLRemoteSensing.inference.preview import Preview
from SSLRemoteSensing.inference.scene import InputScene
from SSLRemoteSensing.inference.windows import predict_scene, probabilities
from SSLRemoteSensing.inference.writer import BLOCK, MapFile, make_png

# By device; a CPU gains nothing by more windows at a time.
DEFAULTS = {"cpu": {"batch_size": 1, "workers": 1}, "cuda": {"batch_size": 16, "workers": 4}}
TILE = 512
LEAST = {"tile": 32, "batch_size": 1, "workers": 1, "min_area": 0, "simplify": 0}
WAITING = 4  # parts of strips that may wait to be written
SPARE = 2**26  # bytes for GDAL besides the strips


@dataclass(frozen=True)
class MapSettings:
    """How scenes are mapped. Defaults and meanings are those of tools/predict.py's flags.

    None as `tile` is what suits a network, see `for_network`; as `batch_size` or `workers` what
    suits a device, see `on`. `gsd` is metres, 'native' or None, see `choose_grid`; a `scale` may
    be a dict of `Scale`'s minimum and maximum.

    Raises:
        UserError: for values that cannot be.
    """

    tile: int | None = None
    overlap: float = 0.5
    batch_size: int | None = None
    tta: bool = False
    bands: Sequence[int] | None = None
    max_value: float | None = None
    scale: Annotated[Scale | Mapping | None, Part(Scale)] = None
    workers: int | None = None
    min_area: float = 0.0
    simplify: float | None = None
    vector_classes: Sequence[str] | None = None
    gsd: float | str | None = None
    allow_remote: bool = False

    def __post_init__(self):
        check_fields(self)
        for key, least in LEAST.items():
            value = getattr(self, key)
            if value is not None and not least <= value < math.inf:
                raise UserError(f"--{key} {value}: must be a number from {least}")
        if not 0 <= self.overlap < 1:
            raise UserError(f"--overlap {self.overlap}: must be in 0 to below 1")
        if self.max_value is not None and not 0 < self.max_value < math.inf:
            raise UserError(f"--max_value {self.max_value}: must be a number above 0")
        if isinstance(self.scale, Mapping):
            object.__setattr__(self, "scale", checked_scale(self.scale))
        if self.max_value is not None and self.scale is not None:
            raise UserError(
                f"--max_value {self.max_value:g}, --scale: both are given; leave one of them out"
            )
        is_word = isinstance(self.gsd, str)
        if self.gsd != NATIVE if is_word else not (self.gsd is None or 0 < self.gsd < math.inf):
            raise UserError(f"--gsd {self.gsd}: must be a number of metres above 0, or {NATIVE}")

    def on(self, device: torch.device) -> "MapSettings":
        """These settings, with a batch size and workers that suit `device` for None."""
        defaults = DEFAULTS["cuda" if device.type == "cuda" else "cpu"].items()
        return replace(self, **{key: n for key, n in defaults if getattr(self, key) is None})

    def for_network(self, network: MapNetwork) -> "MapSettings":
        """These settings, with what suits `network` and its device for None.

        Raises:
            UserError: windows of another size than the one that the network takes.
        """
        if network.side and self.tile not in (None, network.side):
            raise UserError(
                f"--tile {self.tile}: {network.source} takes windows of {network.side} pixels "
                f"alone; leave --tile out"
            )
        return replace(self.on(network.device), tile=network.side or self.tile or TILE)

    def check_classes(self, classes: Sequence[str]) -> None:
        """Raise a `UserError` for a class that the network does not have."""
        unknown_classes = [name for name in self.vector_classes or () if name not in classes]
        if unknown_classes:
            raise UserError(f"--vector_classes: {unknown_classes[0]!r} is none of {list(classes)}")


@dataclass(frozen=True)
class Mapped:
    """What came of a scene: sizes, seconds, pixels of each class, and what to say of it."""

    outputs: Outputs
    height: int
    width: int
    seconds: float
    counts: list[int]
    classes: list[str]
    remarks: list[str] = field(default_factory=list)

    @property
    def pixels(self) -> int:
        return self.height * self.width

    def __str__(self) -> str:
        pixels, valid, size = self.pixels, sum(self.counts), self.pixels / 1e6
        counts = zip(self.classes, self.counts, strict=True)
        shares = ", ".join(f"{name} {count / max(1, valid):.1%}" for name, count in counts)
        empty = f"; no data {1 - valid / pixels:.1%}" if valid < pixels else ""
        lines = [
            f"{public_path(self.outputs.scene)}: {self.width} x {self.height}, {size:.2f} "
            f"megapixels in {self.seconds:.1f} s, {size / self.seconds:.3g} megapixels a second",
            shares + empty,
            *self.remarks,
            ", ".join(map(str, reversed(self.outputs.files))),
        ]
        return "\n  ".join(lines)


def map_scenes(
    network: MapNetwork, plan: Sequence[Outputs], settings: MapSettings
) -> tuple[list[Mapped], list[str]]:
    """Map this process's share of the scenes; what came of them, and the errors of those that
    could not be mapped, which do not stop the others.

    Raises:
        CannotWrite: the disk is full, say, which would stop the others too.
        UserError: settings that do not suit the network.
    """
    settings = settings.for_network(network)
    maps, failures = [], []
    for outputs in distributed.shard(plan):
        try:
            maps.append(map_scene(network, outputs, settings))
            print(maps[-1], flush=True)
        except CannotWrite:
            raise
        except UserError as error:
            failures.append(one_line(error))
            print(styled("error:", "red", sys.stderr), one_line(error), file=sys.stderr, flush=True)
    return maps, failures


def map_scene(network: MapNetwork, outputs: Outputs, settings: MapSettings) -> Mapped:
    """Map one scene, by settings `for_network`. Its files get their names when all are whole.

    Raises:
        UserError: a scene that does not fit the network, or cannot be read. CannotWrite.
    """
    import rasterio

    start = time.perf_counter()
    with open_tiff(outputs.scene, beside=True) as source, ExitStack() as stack:
        scale = settings.scale or up_to(settings.max_value)
        scene = InputScene(source, network, settings.bands, scale, settings.gsd)
        if not scene.grid.is_own:
            scene.second = stack.enter_context(open_tiff(outputs.scene, beside=True))
        remarks = scene.remarks()
        require_memory(scene, len(network.classes), settings)
        parts = stack.enter_context(atomic_together(outputs.files))
        hidden = outputs.renamed(parts)
        for path, part in zip(outputs.files, parts, strict=True):
            if part in (hidden.map, hidden.probabilities):
                stack.enter_context(side_files(path, part))
        # Of the file's blocks a row is kept, as windows begin anywhere in it.
        rows = settings.tile + (1 if scene.grid.is_own else 2) * scene.block[1] + BLOCK
        cache = SPARE + scene.row_bytes * min(rows, scene.height)
        with rasterio.Env(GDAL_CACHEMAX=cache, GDAL_NUM_THREADS=str(settings.workers)):
            with rasterio.Env(GDAL_PAM_ENABLED="NO"):
                counts, preview = write_map(network, scene, hidden, settings)
            if outputs.probabilities is not None:
                keep_place(hidden.probabilities, scene)
            remarks += keep_place(hidden.map, scene)
            if preview is not None:
                shares = counts / max(1, counts.sum())
                preview.draw(scene_name(scene.path), network, shares, hidden.preview)
            if hidden.vectors is not None:
                limits = settings.min_area, settings.simplify, settings.vector_classes
                target, layer = hidden.vectors, stem_of(scene.path)
                number = write_polygons(hidden.map, target, layer, network.classes, *limits)
                remarks.append(f"{number} polygons")
                if scene.transform is None and (scene.gcps or scene.rpcs):
                    remarks.append("the polygons lie in pixels; warp the scene first (gdalwarp)")
            if outputs.map.suffix.lower() == ".png":
                make_png(hidden.map)
                side_car(hidden.map).unlink(missing_ok=True)
                if scene.transform or scene.gcps or scene.rpcs:
                    remarks.append("a PNG has no coordinates; name a .tif to keep them")
    seconds, size = time.perf_counter() - start, (scene.height, scene.width)
    return Mapped(outputs, *size, seconds, counts.tolist(), network.classes, remarks)


def write_map(
    network: MapNetwork, scene: InputScene, outputs: Outputs, settings: MapSettings
) -> tuple[np.ndarray, Preview | None]:
    """Predict and write, strip by strip; how many pixels each class has, and the preview."""
    classes, name = network.classes, scene_name(scene.path)
    origin = {"checkpoint": network.source, "scene": name}
    counts, grid = np.zeros(256, np.int64), scene.grid
    origin |= {} if grid.is_own else {"gsd": f"{grid.gsd:g}"}
    preview = None if outputs.preview is None else Preview(grid)
    files: list[MapFile] = []  # of classes, and of probabilities

    def rows(y: int, height: int) -> np.ndarray:
        pixels = scene.rows(y, height)
        if preview is not None:
            preview.add_image(y, pixels)
        return pixels

    def predict(images: Tensor) -> Tensor:
        layout = torch.channels_last if network.channels_last else torch.contiguous_format
        images = images.contiguous(memory_format=layout)
        size = f"--batch_size {settings.batch_size}: predicting"
        with machine.enough_memory(size, f"set a smaller one, or a --tile below {settings.tile}"):
            return probabilities(
                network.model, network.device, network.precision, images, settings.tta
            )

    def write(y: int, event, planes: Sequence[Tensor]) -> int:
        if event is not None:
            event.synchronize()
        mask = scene.take_valid(y, planes[0].shape[1])
        if mask is not None and not grid.is_own:
            mask &= planes[0][0].numpy() != IGNORE
        for file, plane, blank in zip(files, planes, (IGNORE, 0), strict=False):
            if mask is not None:
                plane.numpy()[:, ~mask] = blank
            file.add(plane.numpy(), mask)
        values = planes[0][0].numpy()
        counts[:] += np.bincount(values.ravel(), minlength=256)
        if preview is not None:
            preview.add_classes(y, values)
        return values.size

    strips = predict_scene(
        predict, rows, grid.height, grid.width, settings.tile, settings.overlap,
        settings.batch_size, network.device, scene.is_empty, len(classes),
    )  # fmt: skip
    with_shares = outputs.probabilities is not None
    if grid.is_own:
        parts = planes_of_strips(strips, with_shares)
    else:
        parts = planes_of_scene(strips, grid, with_shares)
    bar = progress(name, total=scene.height * scene.width, unit="px", unit_scale=True)
    # Closed from the last on: no more strips are asked for, what is at work ends, the files close.
    with ExitStack() as stack:
        tags = origin | {f"class_{index}": name for index, name in enumerate(classes)}
        maps = MapFile(outputs.map, scene, ["class"], tags, network.palette)
        files.append(stack.enter_context(closing(maps)))
        if with_shares:
            path, tags = outputs.probabilities, origin | {"scale": "255 is a probability of 1"}
            shares = MapFile(path, scene, classes, tags, masked=scene.may_be_empty)
            files.append(stack.enter_context(closing(shares)))
        pool = stack.enter_context(ThreadPoolExecutor(1))
        stack.enter_context(closing(parts))
        stack.enter_context(bar)
        futures: deque[Future] = deque()
        try:
            for y, planes in parts:
                futures.append(pool.submit(write, y, *to_host(planes)))
                del planes
                while len(futures) > WAITING or (futures and futures[0].done()):
                    bar.update(futures.popleft().result())
            for future in futures:
                bar.update(future.result())
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
        for file in files:
            file.finish()
    return counts[: len(classes)], preview


def planes_of_strips(
    strips: Iterator[tuple[int, Tensor]], with_shares: bool
) -> Iterator[tuple[int, list[Tensor]]]:
    """`planes_of_scene` where the network sees a scene in its own pixels."""
    with closing(strips):
        for y, strip in strips:
            # 7 times faster on a CPU than argmax.
            planes = [strip.max(0).indices.to(torch.uint8)[None]]
            if with_shares:
                planes.append((strip * 255).round_().to(torch.uint8))
            del strip
            yield y, planes


def to_host(planes: Sequence[Tensor]) -> tuple:
    """The planes on the CPU, and before them the event to wait for: from a GPU they are on their
    way; else None."""
    if planes[0].device.type != "cuda":
        return None, [plane.cpu() for plane in planes]
    copies = [
        torch.empty(plane.shape, dtype=plane.dtype, pin_memory=True).copy_(plane, non_blocking=True)
        for plane in planes
    ]
    return torch.cuda.current_stream(planes[0].device).record_event(), copies


def require_memory(scene: InputScene, num_classes: int, settings: MapSettings) -> None:
    """Raise a `UserError` where the strips of a scene are more than the whole machine has."""
    grid = scene.grid
    rows = min(settings.tile, grid.height)
    size = rows * grid.width * (2 * scene.in_channels + 4 * num_classes + 4)
    memory = machine.memory()
    if size > memory:
        raise UserError(
            f"image {scene.path}: {grid.width} x {grid.height} pixels"
            f"{'' if grid.is_own else f' of {grid.gsd:g} m'}; strips of {rows} rows take "
            f"{size / 2**30:.0f} GiB of memory, this machine has {memory / 2**30:.0f}; lower "
            f"--tile, or cut the scene"
        )
