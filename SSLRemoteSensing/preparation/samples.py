"""Which images of a shard belong to one sample, as WebDataset names them: x.jpg and x.seg.png."""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from SSLRemoteSensing.core.console import shell_line, warn
from SSLRemoteSensing.data.path_list import CODEC
from SSLRemoteSensing.preparation.catalog import listing

# A member's name: the key of its sample, and which part of that it is.
SAMPLE = re.compile(rb"((?:.*/)?[^/.]+)(\..+)", re.DOTALL)


def other_parts(names: Sequence[bytes]) -> tuple[dict[int, str], Counter[str]]:
    """Which of a shard's images are left out, by place, as x.seg.png is beside x.jpg; and, by part,
    how many of the others are of samples that still have several.

    A sample is the members of one key, the name up to its first dot. Its image is called so and by
    an ending; where there is one, images with more before their ending are something else of it: a
    label, a mask. Without one all may be images whose names have dots.
    """
    samples = defaultdict(dict)
    for place, name in enumerate(names):
        if match := SAMPLE.fullmatch(name):
            samples[match[1]][place] = match[2].decode(*CODEC)
    left_out, several = {}, Counter()
    for parts in samples.values():
        own = {place for place, part in parts.items() if part.count(".") == 1} or set(parts)
        left_out |= {place: part for place, part in parts.items() if place not in own}
        if len(own) > 1:
            several.update(parts[place] for place in own)
    return left_out, several


def say_parts(folder: Path, left_out: Counter[str], several: Counter[str]) -> None:
    """Say how many images are left out, and how many taken that may be labels all the same."""
    if left_out:
        print(
            f"left out: {left_out.total():,} images that lie beside the one of their sample: "
            f"{counts_of(left_out)} (--every_part takes them)"
        )
    if several:
        part = several.most_common(1)[0][0]
        warn(
            f"{several.total():,} images are of samples that have several ({counts_of(several)}), "
            "and all are taken; to pre-train on those of one part, name it: --images "
            f"{shell_line(f'{folder}/**/*{part}')}"
        )


def counts_of(parts: Counter[str]) -> str:
    return listing([f"{part} {count:,}" for part, count in parts.most_common()])
