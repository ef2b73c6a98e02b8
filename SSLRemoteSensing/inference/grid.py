"""The pixels that a network sees a scene in, and the way of its map back to the scene's own."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from SSLRemoteSensing.core.classes import IGNORE
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.data.geotiff import Tiff
from SSLRemoteSensing.data.places import SAME_SIZE, place_of, size_of_place
from SSLRemoteSensing.inference.network import MapNetwork

NATIVE = "native"  # of --gsd: the scene's own pixels
LARGEST = 2**40  # pixels, a million by a million
PART = 64  # rows of the scene that are given out at a time


@dataclass(frozen=True)
class Grid:
    """Pixels that cover a scene: its own, or of another size.

    Attributes:
        height, width: of the grid.
        scene: height and width in the scene's own pixels.
        gsd: size of a pixel in metres; None: the pixels are the scene's own.
        remark: what the user should know of it.
    """

    height: int
    width: int
    scene: tuple[int, int]
    gsd: float | None = None
    remark: str = ""

    @property
    def is_own(self) -> bool:
        """Whether the pixels are the scene's own."""
        return self.gsd is None

    def rows_of_scene(self, y: int, height: int) -> tuple[float, float]:
        """Where rows of the grid from `y` begin and end in the scene's own rows, fractions too."""
        rows = self.scene[0]
        return y * rows / self.height, min((y + height) * rows / self.height, rows)


def choose_grid(source: Tiff, network: MapNetwork, gsd: float | str | None) -> Grid:
    """The grid on which `network` sees the scene `source`, opened with what lies beside it.

    Its pixels are as large as those of training, as far as the card knows them, along each side of
    the scene's own; they stay its own where these are as large to within 1 %. A network of prepared
    tiles takes a scene whose pixels nobody knows the size of for such a tile.

    Args:
        gsd: size in metres in place of the card's, or 'native'; None: the card's.

    Raises:
        UserError: a scene without georeference where a size is asked for, or known from windows
            that training scaled to it; a grid that is too large.
    """
    path, shape = source.path, (source.height, source.width)
    own, wanted = Grid(*shape, shape), network.gsd if gsd is None else gsd
    if wanted is None or isinstance(wanted, str):
        return own
    try:
        remedy = "pass --gsd native to map its pixels as they are"
        metres = size_of_place(place_of(source), path, shape, remedy)
    except UserError:
        if gsd is not None or not network.prepared:
            raise
        remark = f"the size of its pixels is not known, and taken for training's {wanted:.3g} m"
        return Grid(*shape, shape, remark=remark)
    if all(1 / SAME_SIZE <= length / wanted <= SAME_SIZE for length in metres):
        return own
    sizes = f"pixels of {metres[1]:.3g} x {metres[0]:.3g} m, seen by the network at {wanted:.3g} m"
    sides = [n * length / wanted for n, length in zip(shape, metres, strict=True)]
    if sides[0] * sides[1] > LARGEST:
        text = f"{sizes} these are {sides[1]:.3g} x {sides[0]:.3g}, more than can be mapped"
        raise UserError(f"image {path}: {text}; pass another --gsd, or --gsd native")
    height, width = (max(1, round(side)) for side in sides)
    return Grid(height, width, shape, wanted, sizes)


@dataclass(frozen=True)
class Neighbours:
    """For each of `count` pixels along a side the pixels of the grid, of which there are `length`,
    around its centre.

    Attributes:
        nearest: int64 (count,), the one that the centre lies in.
        first, second: int64 (count,), those whose centres lie before and behind it.
        weight: float32 (count,), of the second in the linear mean of the two.
    """

    nearest: Tensor
    first: Tensor
    second: Tensor
    weight: Tensor

    def part(self, start: int, end: int, first: int = 0) -> "Neighbours":
        """Those of the pixels from `start` to `end`; the grid begins with its pixel `first`."""
        places = (self.nearest, self.first, self.second)
        return Neighbours(*(x[start:end] - first for x in places), self.weight[start:end])


def neighbours(count: int, length: int, device: torch.device) -> Neighbours:
    centres = (np.arange(count) + 0.5) * (length / count)
    first = np.clip(np.floor(centres - 0.5), 0, length - 1)
    second = np.minimum(first + 1, length - 1)
    weight = np.clip(centres - 0.5 - first, 0, 1).astype(np.float32)
    nearest = np.minimum(centres, length - 1)
    places = (torch.from_numpy(x.astype(np.int64)).to(device) for x in (nearest, first, second))
    return Neighbours(*places, torch.from_numpy(weight).to(device))


@torch.no_grad()
def planes_of_scene(
    strips: Iterator[tuple[int, Tensor]], grid: Grid, with_shares: bool
) -> Iterator[tuple[int, list[Tensor]]]:
    """A map on a grid as rows of the scene's own pixels, from top to bottom, each once.

    A pixel has the class of that pixel of the grid in which its centre lies, 255 where no window
    covers it; probabilities are linear between the centres of the grid's pixels.

    Args:
        strips: (y, probabilities float (K, h, grid.width)) of the grid's rows, as `predict_scene`
            gives them; closed at the end.

    Yields:
        (y, [classes uint8 (1, h, W)]) and, if `with_shares`, 255 * probabilities uint8 (K, h, W).
    """
    rows = columns = kept = None
    done, (height, width) = 0, grid.scene
    with closing(strips):
        for y, strip in strips:
            if rows is None:
                rows = neighbours(height, grid.height, strip.device)
                columns = neighbours(width, grid.width, strip.device)
                ends = rows.second.cpu().numpy()
            # The last row before this strip lies above centres that this strip lies below.
            pixels = strip if kept is None else torch.cat([kept, strip], 1)
            end = y + strip.shape[1]
            best = pixels.max(0)
            classes = torch.where(best.values > 0, best.indices, IGNORE).to(torch.uint8)
            ready = int(np.searchsorted(ends, end))
            for start in range(done, ready, PART):
                part = rows.part(start, min(start + PART, ready), end - pixels.shape[1])
                chosen = classes.index_select(0, part.nearest)
                planes = [chosen.index_select(1, columns.nearest)[None]]
                if with_shares:
                    shares = between(between(pixels, part, 1), columns, 2)
                    planes.append((shares * 255).round_().to(torch.uint8))
                yield start, planes
            done, kept = ready, pixels[:, -1:].clone()


def between(pixels: Tensor, places: Neighbours, dim: int) -> Tensor:
    """`pixels` (K, h, w) at `places` along one side, linear between two of them."""
    weight = places.weight[:, None] if dim == 1 else places.weight
    first, second = (pixels.index_select(dim, x) for x in (places.first, places.second))
    return first.lerp_(second, weight)
