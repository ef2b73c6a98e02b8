"""Map scenes: reading, the network and writing side by side, each scene whole or not at all."""

import math
import os
import sys
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from SSLRemoteSensing.core import distributed
from SSLRemoteSensing.core.classes import IGNORE
from SSLRemoteSensing.core.console import progress, styled
from SSLRemoteSensing.core.errors import CannotWrite, UserError, one_line
from SSLRemoteSensing.inference.network import MapNetwork
from SSLRemoteSensing.inference.nodata import ValidRows
from SSLRemoteSensing.inference.outputs import Outputs
from SSLRemoteSensing.inference.polygons import write_polygons
from SSLRemoteSensing.inference.preview import Preview
from SSLRemoteSensing.inference.scene import InputScene, open_scene
from SSLRemoteSensing.inference.windows import predict_scene, probabilities
from SSLRemoteSensing.inference.writer import BLOCK, MapWriter, write_png

BATCH = {"cpu": 1, "cuda": 16}  # windows; a CPU gains nothing by more
THREADS = {"cpu": 1, "cuda": 4}
WAITING = 4  # parts of strips that may wait to be written
SPARE = 2**26  # bytes for GDAL besides the strips


@dataclass(frozen=True)
class MapSettings:
    """How scenes are mapped. Defaults and meanings are those of tools/predict.py's flags.

    None as `batch_size` or `workers` is what suits a device, see `on`.
    """

    tile: int = 512
    overlap: float = 0.5
    batch_size: int | None = 1
    tta: bool = False
    bands: Sequence[int] | None = None
    max_value: float | None = None
    on_bad_block: str = "fail"
    workers: int | None = 1
    min_area: float = 0.0
    simplify: float | None = None
    vector_classes: Sequence[str] | None = None

    def on(self, device: torch.device) -> "MapSettings":
        """These settings, checked, with a batch size and workers that suit `device` for None.

        Raises:
            UserError: for values that cannot be.
        """
        defaults = {"batch_size": BATCH[device.type], "workers": THREADS[device.type]}
        missing = {key: value for key, value in defaults.items() if getattr(self, key) is None}
        settings = replace(self, **missing)
        settings.check()
        return settings

    def check(self) -> None:
        """Raise a `UserError` for values that cannot be."""
        for key, least in (("tile", 32), ("batch_size", 1), ("workers", 1)):
            if getattr(self, key) < least:
                raise UserError(f"--{key} {getattr(self, key)}: must be at least {least}")
        if not 0 <= self.overlap < 1:
            raise UserError(f"--overlap {self.overlap}: must be in 0 to below 1")
        for key in ("min_area", "simplify"):
            value = getattr(self, key) or 0
            if not (math.isfinite(value) and value >= 0):
                raise UserError(f"--{key} {value}: must be a number from 0")
        if self.max_value is not None and not (
            math.isfinite(self.max_value) and self.max_value > 0
        ):
            raise UserError(f"--max_value {self.max_value}: must be a number above 0")

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
        pixels, valid = self.pixels, sum(self.counts)
        shares = ", ".join(
            f"{name} {count / max(1, valid):.1%}"
            for name, count in zip(self.classes, self.counts, strict=True)
        )
        empty = f"; no data {1 - valid / pixels:.1%}" if valid < pixels else ""
        rate = pixels / 1e6 / self.seconds
        lines = [
            f"{self.outputs.scene}: {self.width} x {self.height}, {pixels / 1e6:.2f} megapixels in "
            f"{self.seconds:.1f} s, {rate:.3g} megapixels a second",
            f"  {shares}{empty}",
            *(f"  {remark}" for remark in self.remarks),
            f"  {', '.join(str(path) for path in reversed(self.outputs.files))}",
        ]
        return "\n".join(lines)


def map_scenes(
    network: MapNetwork, plan: Sequence[Outputs], settings: MapSettings
) -> tuple[list[Mapped], list[str]]:
    """Map this process's share of the scenes; what came of them, and the errors of those that
    could not be mapped, which do not stop the others.

    Raises:
        CannotWrite: the disk is full, say, which would stop the others too.
    """
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
    """Map one scene. Its files get their names when all of them are whole.

    Raises:
        UserError: a scene that does not fit the network, or cannot be read. CannotWrite.
    """
    import rasterio

    start = time.perf_counter()
    overrides = {"bands": settings.bands, "max_value": settings.max_value}
    try:
        with open_scene(
            outputs.scene, network, **overrides, on_bad_block=settings.on_bad_block
        ) as scene:
            require_memory(scene, len(network.classes), settings)
            # Of the file's blocks a row is kept, as windows begin anywhere in it.
            rows = settings.tile + scene.block[1] + BLOCK
            cache = SPARE + scene.row_bytes * min(rows, scene.height)
            with rasterio.Env(
                GDAL_CACHEMAX=cache, GDAL_NUM_THREADS=str(settings.workers), GDAL_PAM_ENABLED="NO"
            ):
                counts, preview = write_map(network, scene, outputs, settings)
                remarks = [*remarks_on(scene), *finish(network, outputs, settings, counts, preview)]
        outputs.publish()
    finally:
        outputs.remove_parts()
    seconds = time.perf_counter() - start
    return Mapped(
        outputs, scene.height, scene.width, seconds, counts.tolist(), network.classes, remarks
    )


def write_map(
    network: MapNetwork, scene: InputScene, outputs: Outputs, settings: MapSettings
) -> tuple[np.ndarray, Preview | None]:
    """Predict and write, strip by strip; how many pixels each class has, and the preview."""
    valid = ValidRows()
    preview = None if outputs.preview is None else Preview(scene.height, scene.width)
    counts = np.zeros(256, np.int64)

    def rows(y: int, height: int) -> np.ndarray:
        pixels, mask = scene.rows(y, height)
        valid.add(y, height, mask)
        if preview is not None:
            preview.add_image(y, pixels)
        return pixels

    def write(y: int, event, classes: Tensor, shares: Tensor | None, mask) -> int:
        if event is not None:
            event.synchronize()
        class_map = classes.numpy()
        shares = None if shares is None else shares.numpy()
        if mask is not None:
            class_map[~mask] = IGNORE
            if shares is not None:
                shares[:, ~mask] = 0
        counts[:] += np.bincount(class_map.ravel(), minlength=256)
        if preview is not None:
            preview.add_classes(y, class_map)
        writer.add(class_map, shares, mask)
        return class_map.shape[0]

    predict = partial(
        probabilities, network.model, network.device, network.precision, tta=settings.tta
    )
    strips = predict_scene(
        predict, rows, scene.height, scene.width, settings.tile, settings.overlap,
        settings.batch_size, network.device, valid.empty, len(network.classes),
        network.channels_last,
    )  # fmt: skip
    probability_file = outputs.probabilities and outputs.part(outputs.probabilities)
    tags = {"checkpoint": network.source, "scene": outputs.scene.name}
    map_file = outputs.part(outputs.map, ".tif")
    writer = MapWriter(
        map_file, probability_file, scene, network.classes, network.palette, tags
    )  # fmt: skip
    bar = progress(outputs.scene.name, total=scene.height * scene.width, unit="px", unit_scale=True)
    # Closed in this order: no more strips are asked for, what is at work ends, the files close.
    with closing(writer), ThreadPoolExecutor(1) as pool, closing(strips), bar:
        futures: deque[Future] = deque()
        try:
            for y, strip in strips:
                transfer = to_bytes(strip, outputs.probabilities is not None)
                mask = valid.take(y, strip.shape[1])
                futures.append(pool.submit(write, y, *transfer, mask))
                del strip, transfer, mask
                while len(futures) > WAITING or (futures and futures[0].done()):
                    bar.update(futures.popleft().result() * scene.width)
            for future in futures:
                bar.update(future.result() * scene.width)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
        writer.finish()
    return counts[: len(network.classes)], preview


def to_bytes(strip: Tensor, with_shares: bool) -> tuple:
    """Classes uint8 (h, width) and 255 * probabilities uint8 (K, h, width), or None, on the CPU.

    From a GPU they are on their way: wait for the event that comes first.
    """
    classes = strip.max(0).indices.to(torch.uint8)  # the same as argmax, 7 times faster on a CPU
    shares = (strip * 255).round_().to(torch.uint8) if with_shares else None
    if strip.device.type != "cuda":
        return None, classes, shares
    copies = [
        None
        if value is None
        else torch.empty(value.shape, dtype=value.dtype, pin_memory=True).copy_(
            value, non_blocking=True
        )
        for value in (classes, shares)
    ]
    return torch.cuda.current_stream(strip.device).record_event(), *copies


def finish(
    network: MapNetwork, outputs: Outputs, settings: MapSettings, counts: np.ndarray,
    preview: Preview | None,
) -> list[str]:  # fmt: skip
    """Make of the map what is made of it when it is whole; what to say of that."""
    remarks = []
    map_file = outputs.part(outputs.map, ".tif")
    if preview is not None:
        shares = counts / max(1, counts.sum())
        preview.draw(
            outputs.scene.name, network.classes, network.palette, shares,
            outputs.part(outputs.preview),
        )  # fmt: skip
    if outputs.vectors is not None:
        number = write_polygons(
            map_file, outputs.part(outputs.vectors), outputs.scene.stem, network.classes,
            settings.min_area, settings.simplify, settings.vector_classes,
        )  # fmt: skip
        remarks.append(f"{number} polygons")
    if outputs.map.suffix.lower() == ".png":
        write_png(map_file, outputs.part(outputs.map))
    return remarks


def require_memory(scene: InputScene, num_classes: int, settings: MapSettings) -> None:
    """Raise a `UserError` where the strips of a scene are more than the whole machine has."""
    rows = min(settings.tile, scene.height)
    size = rows * scene.width * (2 * scene.in_channels + 4 * num_classes + 4)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if size > memory:
        raise UserError(
            f"image {scene.path}: {scene.width} x {scene.height} pixels; strips of {rows} rows "
            f"take {size / 2**30:.0f} GiB of memory, this machine has {memory / 2**30:.0f}; lower "
            f"--tile, or cut the scene"
        )


def remarks_on(scene: InputScene) -> list[str]:
    """What the user should know of a scene that was mapped all the same."""
    remarks = [scene.taken.remark] if scene.taken.remark else []
    if scene.crs is None and scene.rpcs is None:
        remarks.append("has no coordinate system, so the map has none")
    if scene.masked:
        remarks.append(f"pixels without data by its {scene.masked}")
    return [*remarks, *(f"warning: {line}" for line in scene.bad)]
