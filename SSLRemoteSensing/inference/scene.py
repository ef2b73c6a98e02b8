"""A scene to be mapped: its rows as the network takes them, and which of its pixels hold data."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from SSLRemoteSensing.core.errors import UnreadableImage
from SSLRemoteSensing.data.geotiff import Tiff, open_tiff
from SSLRemoteSensing.data.images import read_image, to_uint8
from SSLRemoteSensing.inference.bands import ChosenBands, agreed_scale, choose_bands
from SSLRemoteSensing.inference.network import MapNetwork

JPEG_ENDINGS = {".jpg", ".jpeg"}
LARGEST = 2**40  # pixels, a million by a million: more is a damaged header


@dataclass
class InputScene:
    """An open scene.

    Attributes:
        crs, transform, gcps, rpcs: where it lies, as the file has it; None where it does not.
        masked: what tells pixels without data, '' where all hold data.
        block: width and height of the blocks that the file is read in.
        bad: what could not be read and was passed over, a line each.
        bad_blocks: column and row where each of these begins.
    """

    path: Path
    height: int
    width: int
    crs: Any
    transform: Any
    gcps: Any
    rpcs: Any
    masked: str
    block: tuple[int, int]
    row_bytes: int
    source: Tiff
    image: np.ndarray | None  # of a format that can only be decoded whole
    taken: ChosenBands
    in_channels: int
    max_value: float | None
    pass_over: bool
    bad: list[str] = field(default_factory=list)
    bad_blocks: set[tuple[int, int]] = field(default_factory=set)

    @property
    def may_be_empty(self) -> bool:
        """Whether some pixels may turn out to hold no data."""
        return bool(self.masked) or self.pass_over or self.source.dtype.kind == "f"

    def rows(self, y: int, height: int) -> tuple[np.ndarray, np.ndarray | None]:
        """uint8 (height, width, in_channels) from row `y`, and bool (height, width): holds data.

        None in place of the second: all do. Pixels without data are 0, whatever the file has there.

        Raises:
            UnreadableImage: a block that cannot be read, named by its window, unless it is to be
                passed over.
        """
        if self.image is not None:
            return self.image[y : y + height], None
        try:
            if any(top < y + height and y < top + self.block[1] for _, top in self.bad_blocks):
                planes, valid = self.read_blocks(y, height)
            else:
                planes, valid = self.read(self.source, y, 0, height, self.width)
        except UnreadableImage as error:
            bad_count = len(self.bad_blocks)
            planes, valid = self.read_blocks(y, height)
            if len(self.bad_blocks) == bad_count:
                raise error  # the blocks can be read: something else is wrong
        return self.to_network(planes, valid), valid

    def read(
        self, source: Tiff, y: int, x: int, height: int, width: int
    ) -> tuple[np.ndarray, np.ndarray | None]:
        choice = self.taken
        bands = choice.bands if choice.alpha is None else [*choice.bands, choice.alpha]
        planes, valid = source.window(bands, y, x, height, width), None
        if choice.alpha is not None:
            planes, valid = planes[:-1], planes[-1] > 0
        elif source.has_nodata:
            valid = source.mask(y, height, x, width) > 0
        if choice.clear is not None:
            opaque = ~choice.clear[planes[0]]
            valid = opaque if valid is None else valid & opaque
        if planes.dtype.kind == "f":
            numbers = np.isfinite(planes).all(0)
            if not numbers.all():
                valid = numbers if valid is None else valid & numbers
        return planes, valid

    def read_blocks(self, y: int, height: int) -> tuple[np.ndarray, np.ndarray]:
        """The same block by block; where one cannot be read, zeros that are no data.

        The file is opened anew, without what GDAL kept of a block that it read in part.
        """
        planes = np.zeros((len(self.taken.bands), height, self.width), self.source.dtype)
        valid = np.ones((height, self.width), bool)
        wide, tall = self.block
        with open_tiff(self.path, beside=True) as source:
            for top in range(y - y % tall, y + height, tall):
                first, last = max(top, y), min(top + tall, y + height)
                for x in range(0, self.width, wide):
                    part = slice(first - y, last - y), slice(x, x + wide)
                    shape = last - first, min(wide, self.width - x)
                    if (x, top) in self.bad_blocks:
                        valid[part] = False
                        continue
                    try:
                        values, mask = self.read(source, first, x, *shape)
                        planes[:, *part] = values
                        valid[part] = True if mask is None else mask
                    except UnreadableImage as reason:
                        self.judge_bad_block(x, top, shape[1], min(tall, self.height - top), reason)
                        valid[part] = False
        return planes, valid

    def judge_bad_block(self, x: int, y: int, width: int, height: int, reason: Exception) -> None:
        where = f"columns {x} to {x + width - 1}, rows {y} to {y + height - 1}"
        why = str(reason).partition("cannot be read (")[2].rpartition("); ")[0]
        if not self.pass_over:
            raise UnreadableImage(
                f"image {self.path}: the block at {where} cannot be read ({why}); mend the file, "
                f"or pass --on_bad_block nodata to leave it empty in the map"
            ) from reason
        self.bad_blocks.add((x, y))
        self.bad.append(f"{self.path}: the block at {where} cannot be read; it is empty in the map")

    def to_network(self, planes: np.ndarray, valid: np.ndarray | None) -> np.ndarray:
        if self.taken.palette is not None:
            pixels = to_uint8(self.taken.palette[planes[0]], self.max_value, self.path)
        else:
            # Band by band, as scaling goes by floating point.
            bands = [to_uint8(plane, self.max_value, self.path) for plane in planes]
            bands = bands * self.in_channels if len(bands) < self.in_channels else bands
            pixels = np.stack(bands, axis=-1)
        if valid is not None:
            pixels[~valid] = 0
        return pixels


@contextmanager
def open_scene(
    path: Path,
    network: MapNetwork,
    bands: Sequence[int] | None = None,
    max_value: float | None = None,
    on_bad_block: str = "fail",
) -> Iterator[InputScene]:
    """Open the scene at `path` as `network` wants it.

    Args:
        bands, max_value: in place of what the checkpoint says.
        on_bad_block: 'fail', or 'nodata' to go on without what cannot be read.

    Raises:
        UserError: another number of bands or kind of values than the network was trained on.
        UnreadableImage: no image, a damaged one, or one that claims more than can be.
    """
    with open_tiff(path, beside=True) as source:
        if source.height * source.width > LARGEST:
            raise UnreadableImage(
                f"image {path}: claims {source.width} x {source.height} pixels, which no scene "
                f"has; replace or remove it"
            )
        photograph = Path(path).suffix.lower() in JPEG_ENDINGS
        choice = choose_bands(path, source, network, bands, photograph)
        kind = source.dtype if choice.palette is None else choice.palette.dtype
        max_value = agreed_scale(path, kind, network, max_value)
        image = None
        if photograph:  # GDAL fills what is missing with grey
            as_stored = len(choice.bands) == 1 or choice.bands == list(range(1, source.count + 1))
            file_bands = None if as_stored else choice.bands
            image = read_image(path, network.in_channels, file_bands, max_value)
        points, points_crs = source.source.gcps
        tall, wide = source.source.block_shapes[0]
        yield InputScene(
            path=Path(path),
            height=source.height,
            width=source.width,
            crs=source.crs or points_crs,
            transform=source.transform,
            gcps=points or None,
            rpcs=source.source.rpcs,
            masked="" if image is not None else what_masks(source, choice),
            block=(wide, tall),
            row_bytes=source.width * source.count * source.dtype.itemsize,
            source=source,
            image=image,
            taken=choice,
            in_channels=network.in_channels,
            max_value=max_value,
            pass_over=on_bad_block == "nodata",
        )


def what_masks(source: Tiff, choice: ChosenBands) -> str:
    if choice.alpha is not None:
        return "alpha band"
    value = source.source.nodata
    if source.has_nodata and (choice.clear is None or value is None):
        return "mask band" if value is None else f"nodata value {value:g}"
    return "" if choice.clear is None else "transparent colours"
