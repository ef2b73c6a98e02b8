"""Read every label: missing, of another size, values that are no class, classes without a pixel."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from SSLRemoteSensing.core.classes import IGNORE
from SSLRemoteSensing.core.errors import UserError, one_line
from SSLRemoteSensing.data.images import MAX_PIXELS, read_header, read_label
from SSLRemoteSensing.data.labels import INVALID, ValueCoding, count_values, settle_coding
from SSLRemoteSensing.workflows.doctor.findings import Section
from SSLRemoteSensing.workflows.doctor.images import (
    MOST_ALIKE,
    ImageFacts,
    in_parallel,
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
        if header.pixels > MAX_PIXELS:
            text = f"label {label}: claims {header.size} pixels; replace it"
            return LabelFacts(image.file, label, fault=text, kind="unreadable")
        if image.header is not None and header.size != image.header.size:
            text = f"{label}: {header.size} pixels, its image {image.header.size}"
            return LabelFacts(image.file, label, fault=text, kind="size")
        return LabelFacts(image.file, label, count_values(read_label(label)))
    except UserError as error:
        return LabelFacts(image.file, label, fault=one_line(error), kind="unreadable")


def scan_labels(split: Split, images: Sequence[ImageFacts], workers: int) -> list[LabelFacts]:
    """`examine_label` for each image of `split`."""
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
    bad_labels, total = [label for label in facts if label.fault is not None], len(facts)
    config_to_blame = False
    for kind, fault in faults.items():
        kind_faults = [label.fault for label in bad_labels if label.kind == kind]
        if not kind_faults:
            continue
        many = len(kind_faults) > MOST_ALIKE * total
        config_to_blame |= many
        hint = ", so the config is probably what is wrong" if many else ""
        section.fail(f"{split.name}: {len(kind_faults)} of {total} {fault}{hint}", kind_faults)
    if not bad_labels:
        section.ok(f"{split.name}: all {total} labels are there, of their image's size")
    readable_labels = [label for label in facts if label.fault is None]
    if not readable_labels:
        return None, coding
    coding, outliers = settle_codings(split, readable_labels, coding, len(classes), section)
    if coding is not None:
        check_classes(
            split.name, sum(label.counts for label in readable_labels), coding, classes, section
        )
    if coding is not None and split.kept is not None:
        used_counts = [facts[index].counts for index in split.kept if facts[index].fault is None]
        name = f"{split.name}, the {len(split.kept)} tiles that fraction keeps"
        check_classes(name, sum(used_counts, np.zeros(256, np.int64)), coding, classes, section)
    if config_to_blame or coding is None:
        return None, coding
    return [label.image for label in [*bad_labels, *outliers]], coding


def settle_codings(
    split: Split,
    readable_labels: Sequence[LabelFacts],
    coding: ValueCoding | None,
    num_classes: int,
    section: Section,
) -> tuple[ValueCoding | None, list[LabelFacts]]:
    """The coding as opening the data set finds it, and the labels that have other values.

    Some labels with values that no coding has do not hide what the others are coded in.
    """
    total = sum(label.counts for label in readable_labels)
    values = np.flatnonzero(total)
    section.ok(f"{split.name}: values {', '.join(map(str, values))}")
    usual_values = np.isin(np.arange(256), [*range(num_classes + 1), IGNORE])
    sound_values = usual_values if coding is None else coding.table != INVALID
    outliers = [label for label in readable_labels if label.counts[~sound_values].any()]
    few_outliers = 0 < len(outliers) <= MOST_ALIKE * len(readable_labels)

    def attempt_coding(facts: Sequence[LabelFacts], section: Section) -> tuple | None:
        counts, files = np.array([fact.counts for fact in facts]), [fact.label for fact in facts]
        return section.attempt(settle_coding, counts, files, num_classes, coding)

    coding_and_remarks = attempt_coding(readable_labels, Section(""))
    if coding_and_remarks is not None:
        outliers = []
    elif few_outliers:
        odd_values = np.flatnonzero(total * ~sound_values)
        text = f"values {', '.join(map(str, odd_values))} are no classes, in {len(outliers)} labels"
        label_values = [
            f"{label.label}: {np.flatnonzero(label.counts * ~sound_values).tolist()}"
            for label in outliers
        ]
        hint = "mend them, or set label_offset or label_codes"
        section.fail(f"{split.name}: {text}; {hint}", label_values)
        other_labels = [label for label in readable_labels if not label.counts[~sound_values].any()]
        coding_and_remarks = attempt_coding(other_labels, section)
    else:
        coding_and_remarks = attempt_coding(readable_labels, section)
    if coding_and_remarks is None:
        return None, []
    for sentence in coding_and_remarks[1]:
        section.warn(sentence)
    return coding_and_remarks[0], outliers


def check_classes(
    name: str, total: np.ndarray, coding: ValueCoding, classes: Sequence[str], section: Section
) -> None:
    """Shares of the classes in the scored pixels; classes without a pixel."""
    counts = [int(total[coding.table == index].sum()) for index in range(len(classes))]
    pixels, ignored_share = sum(counts), total[coding.table == IGNORE].sum() / max(1, total.sum())
    if not pixels:
        section.fail(f"{name}: no pixel has a class, all are not scored")
        return
    shares = ", ".join(
        f"{class_name} {count / pixels:.2%}"
        for class_name, count in zip(classes, counts, strict=True)
    )
    say = section.warn if ignored_share > 0.5 else section.ok
    say(f"{name}: {shares}; not scored {ignored_share:.2%} of all pixels")
    absent_classes = [
        class_name for class_name, count in zip(classes, counts, strict=True) if not count
    ]
    if absent_classes:
        why = "it cannot be learned" if name.startswith("train") else "it has no score there"
        section.warn(f"{name}: no pixel is {' or '.join(absent_classes)}; {why}")
