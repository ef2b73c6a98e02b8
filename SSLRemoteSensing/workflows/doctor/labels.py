"""Read every label: missing, of another size, values that are no class, classes without a pixel."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from SSLRemoteSensing.core.classes import IGNORE
from SSLRemoteSensing.core.errors import UserError, one_line
from SSLRemoteSensing.data.images import require_one_orientation
from SSLRemoteSensing.data.labels import (
    INVALID,
    STRAYS,
    ValueCoding,
    count_label,
    find_stray,
    require_one_size,
    settle_coding,
)
from SSLRemoteSensing.workflows.doctor.findings import OK, WARNING, Section
from SSLRemoteSensing.workflows.doctor.images import MISLED, MOST_ALIKE, ImageFacts, Split

MISSING, UNREADABLE = "labels are missing", "labels cannot be read"
OTHER_SIZE = "labels are of another size than their image"
TURNED = "labels are of another orientation than their image"


@dataclass(frozen=True)
class LabelFacts:
    """One label: the pixels of each value (256,), or what kind of fault it has, and which; how it
    lies where that is another place on the map than its image's."""

    image: str
    label: str
    counts: np.ndarray | None = None
    kind: str | None = None
    fault: str = ""
    stray: str = ""


def examine_label(pair: tuple[ImageFacts, str]) -> LabelFacts:
    """Read a label, and compare its size and place with what its image says."""
    image, label = pair
    kind = UNREADABLE if os.path.lexists(label) else MISSING
    try:
        shape, counts = count_label(label, image.header.pixels if image.header else 0)
        kind = TURNED
        if image.header is not None:
            require_one_orientation(image.file, label)
            kind = OTHER_SIZE
            require_one_size((image.file, label), image.header.shape, shape)
    except UserError as error:
        return LabelFacts(image.file, label, None, kind, one_line(error))
    return LabelFacts(image.file, label, counts, stray=find_stray(image.file, label, shape))


def check_labels(
    split: Split, facts: Sequence[LabelFacts], coding: ValueCoding | None, section: Section
) -> tuple[dict[str, str] | None, ValueCoding | None]:
    """Findings on the labels of one split, coded as the training labels where nothing is stated.

    Returns:
        The images whose labels cannot be used, and why, None where the config is what is wrong; the
        coding, None where no coding fits.
    """
    name, total, is_misled = split.name, len(facts), False
    for kind in (MISSING, TURNED, OTHER_SIZE, UNREADABLE):
        faults = [label.fault for label in facts if label.kind == kind]
        many = len(faults) > MOST_ALIKE * total
        is_misled |= many
        if faults:
            section.fail(f"{name}: {len(faults)} of {total} {kind}{MISLED if many else ''}", faults)
    readable = [label for label in facts if label.kind is None]
    strays = [label.stray for label in readable if label.stray]
    if strays:
        section.warn(f"{name}: {len(strays)} of {total} labels {STRAYS}; check the pairs", strays)
    if len(readable) == total:
        section.ok(f"{name}: all {total} labels are there, of their image's size")
    if not readable:
        return None, coding
    coding, outliers = settle(split, readable, split.coding or coding, section)
    if coding is None:
        return None, None
    check_classes(split, readable, coding, section)
    if split.dropped:
        used_labels = [label for label in readable if label.image not in split.dropped]
        of = f", the {total - len(split.dropped)} tiles that fraction keeps"
        check_classes(split, used_labels, coding, section, of)
    bad_images = [label.image for label in facts if label.kind is not None] + outliers
    reasons = {image: f"image {image}: its label" for image in bad_images}
    return None if is_misled else reasons, coding


def settle(
    split: Split, labels: Sequence[LabelFacts], coding: ValueCoding | None, section: Section
) -> tuple[ValueCoding | None, list[str]]:
    """The coding as opening the data set finds it, and the images of labels with other values.

    Some labels with values that no coding has do not hide what the others are coded in.
    """
    num_classes = len(split.classes)

    def attempt(labels: Sequence[LabelFacts]) -> tuple | None:
        counts, files = np.array([label.counts for label in labels]), [x.label for x in labels]
        return section.attempt(settle_coding, counts, files, num_classes, coding)

    total, outliers = sum(label.counts for label in labels), []
    section.ok(f"{split.name}: values {', '.join(map(str, np.flatnonzero(total)))}")
    coding_and_remarks = attempt(labels)
    if coding_and_remarks is None:
        odd = np.arange(256) > num_classes if coding is None else coding.table == INVALID
        odd[IGNORE] = False
        outliers = [label for label in labels if label.counts[odd].any()]
        if not 0 < len(outliers) <= MOST_ALIKE * len(labels):
            return None, []
        section.findings.pop()  # of the first such value; here of all
        values = ", ".join(map(str, np.flatnonzero(total * odd)))
        text = f"{split.name}: values {values} are no classes, in {len(outliers)} labels"
        names = [f"{x.label}: {np.flatnonzero(x.counts * odd).tolist()}" for x in outliers]
        section.fail(f"{text}; mend them, or set label_offset or label_codes", names)
        coding_and_remarks = attempt([label for label in labels if not label.counts[odd].any()])
    coding, remarks = coding_and_remarks or (None, [])
    for remark in remarks:
        section.warn(remark)
    return coding, [label.image for label in outliers]


def check_classes(
    split: Split, labels: Sequence[LabelFacts], coding: ValueCoding, section: Section, of: str = ""
) -> None:
    """Shares of the classes in the scored pixels; classes without a pixel."""
    total, name = sum((x.counts for x in labels), np.zeros(256, np.int64)), f"{split.name}{of}"
    summary = coding.summary(total)
    counts, pixels = (
        dict(zip(split.classes, summary["pixels"], strict=True)),
        sum(summary["pixels"]),
    )
    if not pixels:
        section.fail(f"{name}: no pixel has a class, all are not scored")
        return
    shares = ", ".join(f"{class_name} {n / pixels:.2%}" for class_name, n in counts.items())
    ignored_share = summary["not_scored"] / total.sum()
    text = f"{name}: {shares}; not scored {ignored_share:.2%} of all pixels"
    section.add(WARNING if ignored_share > 0.5 else OK, text)
    absent_classes = [class_name for class_name, n in counts.items() if not n]
    if absent_classes:
        why = "it cannot be learned" if split.name == "train" else "it has no score there"
        section.warn(f"{name}: no pixel is {' or '.join(absent_classes)}; {why}")
