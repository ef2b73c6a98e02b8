"""A scene to be mapped: its rows as the network takes them, and which of its pixels hold data."""

import math
import shlex
from collections.abc import Sequence
from itertools import product

import numpy as np

from SSLRemoteSensing.core.errors import UnreadableImage
from SSLRemoteSensing.data.formats import orientation
from SSLRemoteSensing.data.geotiff import Tiff, open_tiff
from SSLRemoteSensing.data.images import read_image
from SSLRemoteSensing.data.remote import is_remote
from SSLRemoteSensing.data.scale import Scale, to_uint8
from SSLRemoteSensing.data.transforms import resize
from SSLRemoteSensing.data.windows import nearest
from SSLRemoteSensing.inference.bands import ChosenBands, agreed_scale, choose_bands
from SSLRemoteSensing.inference.grid import LARGEST, choose_grid
from SSLRemoteSensing.inference.network import MapNetwork

MOST_NAMED = 4  # blocks that cannot be read
ROWS = 256  # of a scene in colours of a palette, that are scaled at a time


class InputScene:
    """An open scene as `network` wants it.

    Attributes:
        crs, transform, gcps, rpcs: where it lies, as the file has it; None where it does not.
        pixel_is: the file's tag of what a pixel stands for, a point or an area; empty without.
        masked: what tells pixels without data, '' where all hold data.
        block: width and height of the blocks that the file is read in.
        grid: the pixels in which the network sees it. Its rows are what `rows` and `is_empty` speak
            of; all else is in the scene's own.
        second: the file opened once more, for `take_valid` where the grid is another one: a file
            serves one thread at a time.

    Args:
        bands, scale, gsd: in place of what the checkpoint says.

    Raises:
        UserError: another number of bands or kind of values than the network was trained on; as
            `choose_grid`.
        UnreadableImage: a damaged image, or one that claims more than can be.
    """

    def __init__(
        self,
        source: Tiff,
        network: MapNetwork,
        bands: Sequence[int] | None,
        scale: Scale | None,
        gsd: float | str | None = None,
    ):
        self.source, self.path = source, source.path
        self.height, self.width = source.height, source.width
        if self.height * self.width > LARGEST:  # a damaged header
            raise UnreadableImage(
                f"image {self.path}: claims {self.width} x {self.height} pixels, which no scene "
                f"has; replace or remove it"
            )
        self.choice = choice = choose_bands(source, network, bands)
        kind = source.dtype if choice.palette is None else choice.palette.dtype
        self.scale = agreed_scale(self.path, kind, network, scale)
        self.in_channels, self.image = network.in_channels, None
        if source.source.driver == "JPEG":  # GDAL fills what is missing with grey
            as_stored = len(choice.bands) == 1 or choice.bands == list(range(1, source.count + 1))
            file_bands = None if as_stored else choice.bands
            self.image = read_image(self.path, self.in_channels, file_bands, self.scale)
        self.grid = choose_grid(source, network, gsd)
        if self.image is not None:
            self.image = resize(self.image, self.grid.height, self.grid.width)
        points, points_crs = source.source.gcps
        self.crs, self.transform = source.crs or points_crs, source.transform
        self.gcps, self.rpcs = points or None, source.source.rpcs
        tags = source.source.tags()
        self.pixel_is = {key: value for key, value in tags.items() if key == "AREA_OR_POINT"}
        self.block = source.source.block_shapes[0][::-1]
        self.row_bytes = source.width * source.count * source.dtype.itemsize
        self.masked = "" if self.image is not None else what_masks(source, choice)
        self.second: Tiff | None = None
        # By row of the grid, from when it is read until it is taken, or of another grid than the
        # scene's own until no window can have it; None: all of it holds data.
        self.valid: dict[int, np.ndarray | None] = {}
        self.first_kept = 0

    @property
    def may_be_empty(self) -> bool:
        """Whether some pixels may turn out to hold no data."""
        return bool(self.masked) or self.source.dtype.kind == "f"

    def remarks(self) -> list[str]:
        """What the user should know of the scene."""
        remarks = [text for text in (self.choice.remark, self.grid.remark) if text]
        if self.crs is None and self.rpcs is None:
            remarks.append("has no coordinate system, so the map has none")
        if self.masked:
            remarks.append(f"pixels without data by its {self.masked}")
        if is_remote(self.path):  # whose bytes GDAL alone reads
            return remarks
        with self.path.open("rb") as file:
            if (turn := orientation(file)) != 1:
                remarks.append(
                    f"orientation {turn} (EXIF or TIFF tag) is not applied: the map lies as the "
                    "pixels are stored"
                )
        return remarks

    def rows(self, y: int, height: int) -> np.ndarray:
        """uint8 (height, width, in_channels) from row `y`; 0 where the scene holds no data.

        Raises:
            UnreadableImage: blocks that cannot be read, named by their windows.
        """
        valid = None
        if self.image is not None:
            pixels = self.image[y : y + height]
        else:
            try:
                pixels, valid = self.read_grid(y, height)
            except UnreadableImage:
                first, end = self.grid.rows_of_scene(y, height)
                if not self.grid.is_own:  # GDAL looks at rows beside those that it scales
                    first, end = max(0, math.floor(first) - 2), min(math.ceil(end) + 2, self.height)
                self.require_blocks(int(first), int(end - first))
                raise
        for row in range(height):
            self.valid[y + row] = None if valid is None else valid[row]
        return pixels

    def read_grid(self, y: int, height: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Rows of the grid, uint8 (height, width, in_channels); which of these pixels hold data,
        bool (height, width), None: all."""
        grid, width = self.grid, self.width
        if grid.is_own:
            planes, empty = self.read(self.source, y, 0, height, width)
            return self.to_network(planes, empty), None if empty is None else ~empty.all(0)
        if self.choice.palette is None:
            first, end = grid.rows_of_scene(y, height)
            shape = height, grid.width
            planes, empty = self.read(self.source, first, 0, end - first, width, shape)
            return self.to_network(planes, empty), None if empty is None else ~empty.all(0)
        # Indices have no mean, but the colours that they stand for.
        images, masks, step = [], [], max(1, ROWS * grid.height // self.height)
        for top in range(y, y + height, step):
            count = min(step, y + height - top)
            first, end = grid.rows_of_scene(top, count)
            first, end = math.floor(first), math.ceil(end)
            planes, empty = self.read(self.source, first, 0, end - first, width)
            images.append(resize(self.to_network(planes, empty), count, grid.width))
            if empty is not None:
                masks.append(nearest(~empty.all(0), (count, grid.width)))
        return np.concatenate(images), np.concatenate(masks) if masks else None

    def is_empty(self, y: int, x: int, height: int, width: int) -> bool:
        """Whether no pixel of a window, whose rows have all been read, holds data."""
        while not self.grid.is_own and self.first_kept < y:
            del self.valid[self.first_kept]
            self.first_kept += 1
        rows = (self.valid[row] for row in range(y, y + height))
        return not any(row is None or row[x : x + width].any() for row in rows)

    def take_valid(self, y: int, height: int) -> np.ndarray | None:
        """bool (height, width): the pixels that hold data; None: all do. Once for each row.

        Of a scene that the network sees in other pixels they are read again, as they are.
        """
        if not self.grid.is_own:
            if self.image is not None or not self.may_be_empty:
                return None
            try:
                empty = self.read(self.second, y, 0, height, self.width)[1]
            except UnreadableImage:
                self.require_blocks(y, height)
                raise
            return None if empty is None else ~empty.all(0)
        rows = [self.valid.pop(row) for row in range(y, y + height)]
        if all(row is None for row in rows):
            return None
        return np.stack([np.ones(self.width, bool) if row is None else row for row in rows])

    def read(
        self,
        source: Tiff,
        y: float,
        x: int,
        height: float,
        width: int,
        shape: tuple[int, int] | None = None,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        choice, place = self.choice, (y, height, x, width)
        return source.read(choice.bands, *place, choice.alpha, choice.clear, shape=shape)

    def require_blocks(self, y: int, height: int) -> None:
        """Raise `UnreadableImage` with the blocks in these rows that cannot be read.

        The file is opened anew, without what GDAL kept of a block that it read in part.
        """
        (wide, tall), blocks, errors = self.block, [], []
        with open_tiff(self.path, beside=True) as source:
            tops, lefts = range(y - y % tall, y + height, tall), range(0, self.width, wide)
            for top, left in product(tops, lefts):
                below, right = min(top + tall, self.height), min(left + wide, self.width)
                try:
                    self.read(source, top, left, below - top, right - left)
                except UnreadableImage as error:
                    blocks.append(f"columns {left} to {right - 1}, rows {top} to {below - 1}")
                    errors.append(error)
        if not blocks:
            return  # something else is wrong
        more = f" and {len(blocks) - MOST_NAMED} more" if len(blocks) > MOST_NAMED else ""
        why = str(errors[0]).partition("cannot be read (")[2].rpartition("); ")[0]
        raise UnreadableImage(
            f"image {self.path}: the block{'s' if len(blocks) > 1 else ''} at "
            f"{'; '.join(blocks[:MOST_NAMED])}{more} cannot be read ({why}); take another copy, or "
            f"one with 0 or grey in their place: GTIFF_IGNORE_READ_ERRORS=YES rio convert "
            f"{shlex.quote(str(self.path))} copy.tif"
        ) from errors[0]

    def to_network(self, planes: np.ndarray, empty: np.ndarray | None) -> np.ndarray:
        scale = self.scale
        if self.choice.palette is not None:
            planes = self.choice.palette[planes[0]].transpose(2, 0, 1)
        if len(planes) < self.in_channels and scale and scale.count > 1:  # grey, each in its own
            planes = planes.repeat(self.in_channels, axis=0)
        # Band by band, as scaling goes by floating point.
        bands = [
            to_uint8(plane, scale and scale.of([band]), self.path)
            for band, plane in enumerate(planes, start=1)
        ]
        bands = bands * self.in_channels if len(bands) < self.in_channels else bands
        pixels = np.stack(bands, axis=-1)
        if empty is not None:
            pixels *= ~empty.transpose(1, 2, 0)
        return pixels


def what_masks(source: Tiff, choice: ChosenBands) -> str:
    if choice.alpha is not None:
        return "alpha band"
    value = source.source.nodata
    if source.has_nodata and (choice.clear is None or value is None):
        return "mask band" if value is None else f"nodata value {value:g}"
    return "" if choice.clear is None else "transparent colours"
