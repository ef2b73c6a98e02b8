"""A few labels of many: which tiles a fraction keeps, the same on every machine."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Sequence

from SSLRemoteSensing.core.errors import UserError

# Endings of tile names: y, x, or x0, y0, x1, y1 of other tools.
CORNERS = re.compile(r"(.+)_(\d+)_(\d+)_(\d+)_(\d+)")
ORIGIN = re.compile(r"(.+)_(\d+)_(\d+)")


def name_hash(name: str) -> float:
    """A number in [0, 1) that depends on `name` alone."""
    digest = hashlib.sha256(name.encode(errors="surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def scene_of(stem: str, prepared: bool = False) -> str:
    """The scene a tile was cut from, by its name: '2_10' of '2_10_0_256' or '2_10_0_0_512_512'.

    A name that does not end in a place is a scene of its own kind: all such are taken as one.

    Args:
        prepared: the name is one of ours, which ends in y and x.
    """
    corners = None if prepared else CORNERS.fullmatch(stem)
    if corners:
        left, top, right, bottom = map(int, corners.groups()[1:])
        if left < right and top < bottom:
            return corners[1]
    origin = ORIGIN.fullmatch(stem)
    return origin[1] if origin else ""


def choose_fraction(
    stems: Sequence[str], fraction: float, seed: int, prepared: bool = False
) -> list[int]:
    """Indices of the tiles that `fraction` keeps, in order: round(fraction x tiles), at least one.

    Tiles of a scene are ranked by a hash of (seed, name). Sorted by (rank + 1/2) / tiles of the
    scene, and by the hash where that is equal, the first ones have each scene in its share; a
    smaller fraction is always within a larger one, and no list needs to be kept.

    Raises:
        UserError: a fraction not in (0, 1].
    """
    if not 0 < fraction <= 1:
        raise UserError(f"fraction={fraction}: must be above 0 and at most 1")
    scenes = defaultdict(list)
    for index, stem in enumerate(stems):
        scenes[scene_of(stem, prepared)].append((name_hash(f"{seed} {stem}"), index))
    order = [
        ((rank + 0.5) / len(tiles), draw, index)
        for tiles in scenes.values()
        for rank, (draw, index) in enumerate(sorted(tiles))
    ]
    count = max(1, round(fraction * len(stems)))
    return sorted(index for _, _, index in sorted(order)[:count])
