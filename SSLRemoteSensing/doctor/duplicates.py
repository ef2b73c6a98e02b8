"""Images that are there twice: within a split, and in two splits, by their decoded pixels."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations

from SSLRemoteSensing.doctor.images import Facts
from SSLRemoteSensing.doctor.report import Section


def judge_duplicates(scanned: dict[str, Sequence[Facts]], section: Section) -> None:
    """Same pixels within each split and in each two of them; `scanned` is by the split's name.

    Neither makes a run fail, but scores on images that were trained on say nothing.
    """
    grouped = {name: by_pixels(facts) for name, facts in scanned.items()}
    for name, groups in grouped.items():
        twice = [files for files in groups.values() if len(files) > 1]
        if twice:
            spare = sum(len(files) - 1 for files in twice)
            text = f"{name}: {spare} images are there again ({len(twice)} groups of equal pixels)"
            section.warn(text, [" = ".join(files) for files in twice])
        else:
            section.ok(f"{name}: no image is there twice")
    for first, second in combinations(grouped, 2):
        shared = [digest for digest in grouped[first] if digest in grouped[second]]
        if shared:
            names = [f"{grouped[first][d][0]} = {grouped[second][d][0]}" for d in shared]
            section.warn(
                f"{first} and {second} share {len(shared)} images: scores would not be of unseen "
                f"images",
                names,
            )
        else:
            section.ok(f"{first} and {second} share no image")


def by_pixels(facts: Sequence[Facts]) -> dict[bytes, list[str]]:
    """The files of each content, in the order of `facts`."""
    groups = defaultdict(list)
    for one in facts:
        if one.digest is not None:
            groups[one.digest].append(one.file)
    return groups
