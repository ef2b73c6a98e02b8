"""Read every label: missing, of another size, values that are no class, classes without a pixel."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from SSLRemoteSensing.core.classes import IGNORE
from SSLRemoteSensing.core.errors import UserError, one_line
from SSLRemoteSensing.data.images import MAX_PIXELS, read_label
from SSLRemoteSensing.data.labels import INVALID, ValueCoding, settle_coding, value_counts
from SSLRemoteSensing.workflows.doctor.findings import Section
from SSLRemoteSensing.workflows.doctor.images import (
    MOST_ALIKE,
    ImageFacts,
    in_parallel,
    read_header,
)
from SSLRemoteSensing.workflows.doctor.subject import Split


@dataclass(frozen=True)
class LabelFacts:
    """One label: the pixels of each value (256,), or why it cannot be used; `kind` is missing, size
    or unreadable."""

    image: str
    label: str
    counts: np.ndarray | None = None
    fault: str | None = None
    kind: str = ""


def examine_label(image: ImageFacts, label: str) -> LabelFacts:
    """Read `label`, once its header says that it is of its image's size."""
    if not os.path.lexists(label):
        return LabelFacts(image.file, label, fault=f"{label} (of {image.file})", kind="missing")
    try:
        header = read_header(label)
        if header is not None and header.pixels > MAX_PIXELS:
            text = f"label {label}: claims {header.size} pixels; replace it"
            return LabelFacts(image.file, label, fault=text, kind="unreadable")
        if header is not None and image.header is not None and header.size != image.header.size:
            text = f"{label}: {header.size} pixels, its image {image.header.size}"
            return LabelFacts(image.file, label, fault=text, kind="size")
        return LabelFacts(image.file, label, value_counts(read_label(label)))
    except UserError as error:
        return LabelFacts(image.file, label, fault=one_line(error), kind="unreadable")


def scan_labels(split: Split, images: Sequence[ImageFacts], workers: int) -> list[LabelFacts]:
    """`look_at_label` for each image of `split`."""
    pairs = list(zip(images, split.labels, strict=True))
    return in_parallel(
        lambda pair: examine_label(*pair), pairs, workers, f"reading {split.name} labels"
    )


def check_labels(
    split: Split,
    facts: Sequence[LabelFacts],
    coding: ValueCoding | None,
    classes: Sequence[str],
    section: Section,
) -> tuple[list[str] | None, ValueCoding | None]:
    """Findings on the labels of one split.

    Args:
        coding: the one that is stated, or that the training labels have; None: to be found out.

    Returns:
        The images whose labels cannot be used, None where the config is what is wrong; the coding,
        None where no coding fits.
    """
    faults = {
        "missing": "labels are missing",
        "size": "labels are of another size than their image",
        "unreadable": "labels cannot be read",
    }
    bad, whole = [one for one in facts if one.fault is not None], len(facts)
    to_blame = False
    for kind, what in faults.items():
        named = [one.fault for one in bad if one.kind == kind]
        if not named:
            continue
        many = len(named) > MOST_ALIKE * whole
        to_blame |= many
        hint = ", so the config is probably what is wrong" if many else ""
        section.fail(f"{split.name}: {len(named)} of {whole} {what}{hint}", named)
    if not bad:
        section.ok(f"{split.name}: all {whole} labels are there, of their image's size")
    read = [one for one in facts if one.fault is None]
    if not read:
        return None, coding
    coding, odd = settle_codings(split, read, coding, len(classes), section)
    if coding is not None:
        check_classes(split.name, sum(one.counts for one in read), coding, classes, section)
    if coding is not None and split.kept is not None:
        used = [facts[index].counts for index in split.kept if facts[index].fault is None]
        name = f"{split.name}, the {len(split.kept)} tiles that fraction keeps"
        check_classes(name, sum(used, np.zeros(256, np.int64)), coding, classes, section)
    if to_blame or coding is None:
        return None, coding
    return [one.image for one in [*bad, *odd]], coding


def settle_codings(
    split: Split,
    read: Sequence[LabelFacts],
    coding: ValueCoding | None,
    num_classes: int,
    section: Section,
) -> tuple[ValueCoding | None, list[LabelFacts]]:
    """The coding as opening the data set finds it, and the labels that have other values.

    Some labels with values that no coding has do not hide what the others are coded in.
    """
    total = sum(one.counts for one in read)
    values = np.flatnonzero(total)
    section.ok(f"{split.name}: values {', '.join(map(str, values))}")
    usual = np.isin(np.arange(256), [*range(num_classes + 1), IGNORE])
    sound = usual if coding is None else coding.table != INVALID
    odd = [one for one in read if one.counts[~sound].any()]
    few = 0 < len(odd) <= MOST_ALIKE * len(read)

    def found_in(labels: Sequence[LabelFacts], section: Section) -> tuple | None:
        counts, files = np.array([one.counts for one in labels]), [one.label for one in labels]
        return section.attempt(settle_coding, counts, files, num_classes, coding)

    found = found_in(read, Section(""))
    if found is not None:
        odd = []
    elif few:
        wrong = np.flatnonzero(total * ~sound)
        text = f"values {', '.join(map(str, wrong))} are no classes, in {len(odd)} labels"
        named = [f"{one.label}: {np.flatnonzero(one.counts * ~sound).tolist()}" for one in odd]
        hint = "mend them, or set label_offset or label_codes"
        section.fail(f"{split.name}: {text}; {hint}", named)
        others = [one for one in read if not one.counts[~sound].any()]
        found = found_in(others, section)
    else:
        found = found_in(read, section)
    if found is None:
        return None, []
    for sentence in found[1]:
        section.warn(sentence)
    return found[0], odd


def check_classes(
    name: str, total: np.ndarray, coding: ValueCoding, classes: Sequence[str], section: Section
) -> None:
    """Shares of the classes in the scored pixels; classes without a pixel."""
    scored = [int(total[coding.table == k].sum()) for k in range(len(classes))]
    kept, left = sum(scored), total[coding.table == IGNORE].sum() / max(1, total.sum())
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
