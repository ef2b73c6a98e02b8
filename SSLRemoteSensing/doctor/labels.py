"""Read every label: missing, of another size, values that are no class, classes without a pixel."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from SSLRemoteSensing.datasets.labels import INVALID, ValueCoding, detect_coding
from SSLRemoteSensing.doctor.header import read_header
from SSLRemoteSensing.doctor.images import Facts, in_parallel
from SSLRemoteSensing.doctor.report import Section
from SSLRemoteSensing.doctor.subject import Split
from SSLRemoteSensing.errors import UserError, told
from SSLRemoteSensing.raster import IGNORE, MAX_PIXELS, read_label

MOST_ODD = 0.5  # share of the labels; more of them speak against the config, not against labels


@dataclass(frozen=True)
class LabelFacts:
    """One label: the pixels of each value, or why it cannot be used; `kind` is missing, size or
    unreadable."""

    image: str
    label: str
    values: Counter = field(default_factory=Counter)
    fault: str | None = None
    kind: str = ""


def look_at_label(image: Facts, label: str) -> LabelFacts:
    """Read `label`, once its header says that it is of its image's size."""
    if not os.path.isfile(label):
        return LabelFacts(image.file, label, fault=f"{label} (of {image.file})", kind="missing")
    try:
        header = read_header(label)
        if header is not None and header.pixels > MAX_PIXELS:
            text = f"label {label}: claims {header.size} pixels; replace it"
            return LabelFacts(image.file, label, fault=text, kind="unreadable")
        if header is not None and image.header is not None and header.size != image.header.size:
            text = f"{label}: {header.size} pixels, its image {image.header.size}"
            return LabelFacts(image.file, label, fault=text, kind="size")
        counts = np.bincount(read_label(label).ravel(), minlength=256)
    except UserError as error:
        return LabelFacts(image.file, label, fault=told(error), kind="unreadable")
    values = Counter({int(value): int(counts[value]) for value in np.flatnonzero(counts)})
    return LabelFacts(image.file, label, values)


def scan_labels(split: Split, images: Sequence[Facts], workers: int) -> list[LabelFacts]:
    """`look_at_label` for each image of `split`."""
    pairs = list(zip(images, split.labels, strict=True))
    return in_parallel(
        lambda pair: look_at_label(*pair), pairs, workers, f"reading {split.name} labels"
    )


def settle_coding(
    train: Split, facts: Sequence[LabelFacts], num_classes: int, section: Section
) -> ValueCoding | None:
    """The coding that the training labels are read with; None, and a finding, where none fits.

    Some labels with values that no coding has do not hide what the others are coded in.
    """
    if train.coding is not None:
        return train.coding
    usual = {*range(num_classes + 1), IGNORE}
    sound = [one for one in facts if one.values.keys() <= usual]
    if len(sound) < (1 - MOST_ODD) * len(facts):
        sound = facts
    counts = np.zeros(256, np.int64)
    for value, pixels in sum((one.values for one in sound), Counter()).items():
        counts[value] = pixels
    found = section.attempt(detect_coding, counts, num_classes, "train labels")
    if found is None:
        return None
    coding, said = found
    if said:
        section.warn(said)
    return coding


def judge_labels(
    split: Split,
    facts: Sequence[LabelFacts],
    coding: ValueCoding | None,
    classes: Sequence[str],
    section: Section,
) -> list[str]:
    """Findings on the labels of one split; the images whose labels cannot be used.

    Args:
        coding: None where it could not be found out: values are then named as they are.
    """
    faults = {
        "missing": "labels are missing",
        "size": "labels are of another size than their image",
        "unreadable": "labels cannot be read",
    }
    bad = [one for one in facts if one.fault is not None]
    for kind, what in faults.items():
        named = [one.fault for one in bad if one.kind == kind]
        if named:
            section.fail(f"{split.name}: {len(named)} of {len(facts)} {what}", named)
    if not bad:
        section.ok(f"{split.name}: all {len(facts)} labels are there, of their image's size")
    total = sum((one.values for one in facts), Counter())
    pixels = sum(total.values())
    if not pixels:
        return [one.image for one in bad]
    section.ok(f"{split.name}: values {', '.join(map(str, sorted(total)))}")
    known = coding.table if coding is not None else plain_table(len(classes))
    odd = {value for value in total if known[value] == INVALID}
    holding = [one for one in facts if odd & one.values.keys()]
    if odd:
        text = f"values {', '.join(map(str, sorted(odd)))} are no classes, in {len(holding)} labels"
        named = [f"{one.label}: {sorted(odd & one.values.keys())}" for one in holding]
        section.fail(f"{split.name}: {text}; mend them, or set label_offset or label_codes", named)
    if coding is not None:
        judge_classes(split.name, total, coding, classes, section)
        if split.kept is not None:
            used = sum((facts[index].values for index in split.kept), Counter())
            name = f"{split.name}, the {len(split.kept)} tiles that fraction keeps"
            judge_classes(name, used, coding, classes, section)
    few = len(holding) <= MOST_ODD * len(facts)
    return [one.image for one in [*bad, *(holding if few else ())]]


def judge_classes(
    name: str, total: Counter, coding: ValueCoding, classes: Sequence[str], section: Section
) -> None:
    """Shares of the classes in the scored pixels; classes without a pixel."""
    scored = [sum(n for v, n in total.items() if coding.table[v] == k) for k in range(len(classes))]
    everything, kept = max(1, sum(total.values())), sum(scored)
    left = sum(n for value, n in total.items() if coding.table[value] == IGNORE) / everything
    if not kept:
        section.fail(f"{name}: no pixel has a class, all are not scored")
        return
    shares = ", ".join(f"{c} {n / kept:.2%}" for c, n in zip(classes, scored, strict=True))
    say = section.warn if left > 0.5 else section.ok
    say(f"{name}: {shares}; not scored {left:.2%} of all pixels")
    absent = [c for c, n in zip(classes, scored, strict=True) if not n]
    if absent:
        why = "it cannot be learned" if name.startswith("train") else "it has no score there"
        section.warn(f"{name}: no pixel is {' or '.join(absent)}; {why}")


def plain_table(num_classes: int) -> np.ndarray:
    """Class indices and 255 for not scored."""
    table = np.full(256, INVALID, np.int16)
    table[:num_classes], table[IGNORE] = range(num_classes), IGNORE
    return table
