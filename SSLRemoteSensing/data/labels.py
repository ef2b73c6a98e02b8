"""Labels of any coding as class indices: colours by threshold, values by a table, never by guess.

A coding turns the bands of a label, as planes (C, H, W), into class indices (H, W) with 255 = not
scored, and counts what it met, so that an audit can tell what would else stay silent.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np

from SSLRemoteSensing.core.bars import map_files
from SSLRemoteSensing.core.classes import IGNORE
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.data.geotiff import open_tiff
from SSLRemoteSensing.data.images import (
    has_nodata_beyond,
    has_windows,
    label_rows,
    read_header,
    read_label,
    require_one_orientation,
)
from SSLRemoteSensing.data.places import displacement, read_place

INVALID = -1
STRAYS = "lie at another place on the map than their image"
LARGE = 2**26  # pixels of a label; larger ones are counted some rows at a time
FAR = 64  # levels of 255 from the nearest pure colour; lossy storage seldom goes as far


class ColourCoding:
    """Label colours decoded by a threshold at 127 in each channel.

    Exact matching is what loses labels: one published label is a lossy re-encode of 24,850 colours,
    another has 252,255,0 where 255,255,0 is meant. Black is not scored unless it is a class.

    Args:
        palette: R, G, B of each class, every value 0 or 255.

    Raises:
        UserError: other values, or a colour twice.
    """

    planes = 3

    def __init__(self, palette: Sequence[Sequence[int]]):
        colours = [tuple(colour) for colour in palette]
        if len(set(colours)) < len(colours) or {v for c in colours for v in c} - {0, 255}:
            raise UserError(
                f"palette {colours}: colours are told apart by a threshold at 127, so each must "
                "be of 0 and 255 only and occur once; turn others into class indices first"
            )
        self.num_classes = len(colours)
        self.class_of = np.full(8, INVALID, np.int16)
        self.class_of[0] = IGNORE
        for i, (r, g, b) in enumerate(colours):
            self.class_of[(r > 127) << 2 | (g > 127) << 1 | (b > 127)] = i
        value = np.arange(256)
        distance = np.minimum(value, 255 - value)  # from the nearest of 0 and 255
        marks = np.where(distance > 0, 8, 0) | np.where(distance > FAR, 16, 0)
        self.tables = [np.uint8(np.where(value > 127, bit, 0) | marks) for bit in (4, 2, 1)]
        classes = np.where(self.class_of == INVALID, IGNORE, self.class_of)
        self.classes = np.resize(classes, 256).astype(np.uint8)  # marks do not change the class

    def meaning(self) -> dict[str, int]:
        """The class of each colour, as JSON keeps it."""
        bits = (("R", 4), ("G", 2), ("B", 1))
        names = ["".join(name for name, bit in bits if code & bit) or "black" for code in range(8)]
        return {n: int(k) for n, k in zip(names, self.class_of, strict=True) if k != INVALID}

    def decode(self, planes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Classes uint8 (H, W) of R, G, B uint8 (3, H, W); counts int64 (32,) for `summary`."""
        code = cv2.LUT(planes[0], self.tables[0])
        for plane, table in zip(planes[1:3], self.tables[1:], strict=True):
            cv2.bitwise_or(code, cv2.LUT(plane, table), dst=code)
        return cv2.LUT(code, self.classes), count_values(code, 32)

    def strangers(self, planes: np.ndarray) -> Counter:
        """Pixels of each (R, G, B) that is far from every pure colour.

        Lossy storage spreads such pixels over very many colours along the edges; one that covers
        an area is a class the palette does not have.
        """
        planes = planes[:3].astype(np.int32)
        r, g, b = planes[:, np.minimum(planes, 255 - planes).max(0) > FAR]
        colours, counts = np.unique((r << 16) | (g << 8) | b, return_counts=True)
        commonest = [(int(colours[i]), int(counts[i])) for i in np.argsort(counts)[-100:]]
        return Counter({(c >> 16, c >> 8 & 255, c & 255): pixels for c, pixels in commonest})

    def summary(self, counts: np.ndarray) -> dict:
        """Pixels of each class, not scored, of unknown and of inexact colours, far from any."""
        counts = np.asarray(counts).reshape(4, 8)  # rows: exact, inexact, far (16), far and inexact
        inexact, far = int(counts[1:].sum()), int(counts[2:].sum())
        pixels = pixels_of(self.class_of, counts.sum(0), self.num_classes)
        return pixels | {"inexact": inexact, "far": far}


class ValueCoding:
    """Label values turned into classes by a table.

    Args:
        table: int16 (256,), the class of each value, 255 = not scored, -1 = no such value.
        families: sets of values of which a label may use one alone; None: any of the table.
        without_255: it was found in values among which 255 is not, which would tell another one.
    """

    planes = 1

    def __init__(
        self,
        table: np.ndarray,
        num_classes: int,
        families: Sequence[Sequence[int]] | None = None,
        without_255: bool = False,
    ):
        self.table, self.num_classes, self.families = table, num_classes, families
        self.without_255 = without_255
        self.classes = np.where(table == INVALID, IGNORE, table).astype(np.uint8)

    def meaning(self) -> dict[str, int]:
        """The class of each value, as JSON keeps it."""
        return {str(v): int(k) for v, k in enumerate(self.table) if k != INVALID}

    def decode(self, planes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Classes uint8 (H, W) of values uint8 (1, H, W); counts int64 (256,) of the values."""
        return cv2.LUT(planes[0], self.classes), count_values(planes[0])

    def summary(self, counts: np.ndarray) -> dict:
        """As of `ColourCoding`; a value is exact or it is unknown, and `values` lists all."""
        pixels = pixels_of(self.table, np.asarray(counts), self.num_classes)
        return pixels | {"inexact": 0, "far": 0, "values": np.flatnonzero(counts).tolist()}


def pixels_of(table: np.ndarray, counts: np.ndarray, num_classes: int) -> dict:
    """Pixels of each class, not scored and of no class, by the class of each value in `table`."""
    return {
        "pixels": [int(counts[table == k].sum()) for k in range(num_classes)],
        "not_scored": int(counts[table == IGNORE].sum()),
        "unknown": int(counts[table == INVALID].sum()),
    }


def count_values(values: np.ndarray, bins: int = 256, mask: np.ndarray | None = None) -> np.ndarray:
    """Pixels of each value 0..bins-1 of uint8 or uint16 (H, W), where `mask` is not 0, int64."""
    if values.size > 2**24:  # OpenCV counts in float32, and NumPy would take 8 bytes a pixel
        axis = int(np.argmax(values.shape))
        halves = np.array_split(values, 2, axis)
        masks = [None, None] if mask is None else np.array_split(mask, 2, axis)
        return sum(count_values(v, bins, m) for v, m in zip(halves, masks, strict=True))
    return cv2.calcHist([values], [0], mask, [bins], [0, bins]).ravel().astype(np.int64)


def count_labels(read: Callable, labels: Sequence, what: str) -> np.ndarray:
    """Pixels of each value in each label, int64 (labels, 256), by threads, with a bar.

    Args:
        read: one of `labels`, a file say, to its values uint8 (H, W).
    """
    counts = map_files(lambda label: count_values(read(label)), labels, what)
    return np.array(list(counts), np.int64).reshape(-1, 256)


def count_label(label: str, pixels: int) -> tuple[tuple[int, int], np.ndarray]:
    """(height, width) of a label of some `pixels`, as its image has them, and the pixels of each
    value, int64 (256,); of a large one some rows are read at a time. Raises as `read_label`."""
    if pixels <= LARGE or not has_windows(label):
        values = read_label(label)
        return values.shape, count_values(values)
    counts = np.zeros(256, np.int64)
    try:
        with open_tiff(label) as source:
            for strip in source.strips():
                counts += count_values(label_rows(source, *strip, label))
            return (source.height, source.width), counts
    except UserError as error:
        text = str(error)
        raise UserError(f"label {text[6:]}" if text.startswith("image ") else text) from error


def value_coding(
    num_classes: int, label_offset: int | None = None, label_codes: Sequence[int] | None = None
) -> ValueCoding:
    """The coding that a config states.

    Args:
        label_offset: added to a value to give its class; -1 where 0 means not scored.
        label_codes: the value of each class in order, e.g. (0, 128, 255).

    Raises:
        UserError: both given, codes that are not one a class, an offset that leaves no room.
    """
    if label_offset is not None and label_codes is not None:
        raise UserError("label_offset and label_codes are both given; keep one")
    table = np.full(256, INVALID, np.int16)
    table[IGNORE] = IGNORE
    if label_codes is not None:
        codes = list(label_codes)
        if not len(set(codes)) == len(codes) == num_classes or not set(codes) <= set(range(256)):
            raise UserError(
                f"label_codes={tuple(codes)}: expected {num_classes} different values 0 to 255, "
                "one a class in order"
            )
        table[codes] = range(num_classes)
        return ValueCoding(table, num_classes)
    first = -(label_offset or 0)
    if first not in (0, 1):
        raise UserError(f"label_offset={label_offset}: known are 0, and -1 where 0 is not scored")
    table[:first] = IGNORE
    table[first : first + num_classes] = range(num_classes)
    return ValueCoding(table, num_classes)


def detect_coding(counts: np.ndarray, num_classes: int, where: str) -> tuple[ValueCoding, str]:
    """The coding of labels whose values have been counted, and a sentence when it is not ours.

    Args:
        counts: (256,) pixels of each value, over all labels of a data set: one tile shows too
            little.

    Raises:
        UserError: values that are no class, or that two codings would explain.
    """
    values = {int(value) for value in np.flatnonzero(counts)}
    if values == {0, IGNORE} and num_classes > 1:
        codes = {2: "label_codes=(0, 255)", 3: "label_codes=(0, 128, 255)"}.get(
            num_classes, f"label_codes=(...), a value for each of the {num_classes} classes,"
        )
        raise UserError(
            f"{where}: only the values 0 and 255 occur, and 255 may be a class or not scored; say "
            f"which with {codes} or label_offset=0"
        )
    if values <= {*range(num_classes), IGNORE}:
        remark = ""
        if len(values - {IGNORE}) > 1 and 0 not in values:
            remark = f"{where}: class 0 never occurs; if the labels begin at 1, set label_offset=-1"
        elif len(values) > 2 and not values & {num_classes - 1, IGNORE}:
            remark = (
                f"{where}: values are 0 to {max(values)}, of {num_classes} classes; if 0 is 'not "
                "scored' there, set label_offset=-1, or every class is off by one"
            )
        return value_coding(num_classes), remark
    if values <= set(range(num_classes + 1)) and len(values - {0}) > 1:
        share = counts[0] / np.sum(counts)
        if share > 0.25:
            raise UserError(
                f"{where}: values go to {num_classes}, so 0 would be 'not scored', yet it is "
                f"{share:.0%} of all pixels; mend `classes` or say it with label_offset=-1"
            )
        remark = (
            f"{where}: 0 is taken as not scored and 1 to {num_classes} as the classes, since "
            f"{num_classes} occurs and 255 does not (0 is {share:.1%} of the pixels); "
            "label_offset=-1 says the same"
        )
        table = value_coding(num_classes, label_offset=-1).table
        return ValueCoding(table, num_classes, without_255=True), remark
    if num_classes == 3 and 128 in values and values <= {0, 128, 255}:
        remark = f"{where}: the values 0, 128, 255 are taken as the classes 0, 1, 2"
        return value_coding(num_classes, label_codes=(0, 128, 255)), remark
    strangers = sorted(values - {*range(num_classes), IGNORE})
    noun = "value" if len(strangers) == 1 else "values"
    raise UserError(
        f"{where}: {noun} {', '.join(map(str, strangers[:8]))} where classes are 0 to "
        f"{num_classes - 1} and 255 = not scored; mend the labels or `classes`, or set "
        "label_offset=0 (255 = not scored), label_offset=-1 (0 = not scored) or label_codes=(...)"
    )


def check_labels(
    images: Sequence[str],
    labels: Sequence[str],
    num_classes: int,
    coding: ValueCoding | None = None,
) -> tuple[ValueCoding, list[str]]:
    """Read every label once: sizes, values, how much is not scored, its place on the map. The
    coding, and what to say.

    Args:
        coding: the one that is known to hold; None: found out by `detect_coding`, for which 255
            does not count that is a label's declared nodata value.

    Raises:
        UserError: a size other than the image's, a value that is no class, values that two codings
            would explain, nothing scored at all.
    """
    strays = []

    def count(pair: tuple[str, str]) -> np.ndarray:
        header = read_header(pair[0])
        shape, counts = count_label(pair[1], header.pixels)
        require_one_orientation(*pair)
        require_one_size(pair, header.shape, shape)
        if stray := find_stray(*pair, shape):
            strays.append(stray)
        return counts

    pairs = list(zip(images, labels, strict=True))
    counts = np.array(list(map_files(count, pairs, "checking labels")), np.int64).reshape(-1, 256)
    coding, remarks = settle_coding(counts, labels, num_classes, coding)
    if strays:
        text = f"{len(strays)} of {len(labels)} labels {STRAYS}, first {min(strays)}"
        remarks.append(f"warning: {text}; check the pairs")
    return coding, remarks


def find_stray(image: str, label: str, size: tuple[int, int]) -> str:
    """The label and how it lies, where its georeference is of another place than its image's."""
    place = read_place(label)  # PNG has mostly none, and then nothing else is asked for
    text = place and displacement(read_place(image), place, *size)
    return f"{label}: {text}" if text else ""


def settle_coding(
    counts: np.ndarray,
    labels: Sequence[str],
    num_classes: int,
    coding: ValueCoding | None = None,
) -> tuple[ValueCoding, list[str]]:
    """`check_labels` once the pixels of each value (labels, 256) have been counted."""
    where = f"labels in {Path(labels[0]).parent}"
    total = counts.sum(0)
    remarks = []
    seen, holds_255 = total.copy(), counts[:, IGNORE] > 0
    if (coding is None or coding.without_255) and all(
        has_nodata_beyond(label) for label in np.array(labels)[holds_255]
    ):
        seen[IGNORE] = 0
    if coding is None:
        try:
            coding, remark = detect_coding(seen, num_classes, where)
        except UserError as error:
            has_others = counts[:, num_classes:IGNORE].any(1)
            example = f"first seen in {labels[int(np.argmax(has_others))]}"
            example = example if has_others.any() else f"{len(labels)} labels"
            raise UserError(f"{error} ({example})") from error
        remarks += [remark] if remark else []
    else:
        is_wrong = (total > 0) & (coding.table == INVALID)
        is_wrong[IGNORE] |= coding.without_255 and seen[IGNORE] > 0
        if is_wrong.any():
            value = int(np.flatnonzero(is_wrong)[0])
            label = labels[int(np.argmax(counts[:, value] > 0))]
            classes = ", ".join(str(v) for v in np.flatnonzero(coding.classes != IGNORE)[:12])
            raise UserError(
                f"label {label}: value {value}, where the classes are coded {classes} (as stated, "
                "or as in train_data); mend the labels, or state label_offset or label_codes"
            )
    unscored_share = total[coding.table == IGNORE].sum() / total.sum()
    if unscored_share == 1:
        raise UserError(f"{where}: no pixel has a class, all are 'not scored'")
    if unscored_share > 0.5:
        remarks.append(f"{where}: {unscored_share:.0%} of the pixels are not scored")
    scored_classes = [k for k in range(num_classes) if total[coding.table == k].sum()]
    if len(scored_classes) == 1 and num_classes > 1:
        remarks.append(f"{where}: all scored pixels are of one class, {scored_classes[0]}")
    return coding, remarks


def require_one_size(pair: tuple[str, str], image: tuple[int, int], label: tuple[int, int]) -> None:
    """Raise a `UserError` where the (height, width) of an image and its label differ."""
    if image != label:
        raise UserError(
            f"label {pair[1]}: {label[1]} x {label[0]} pixels, its image {Path(pair[0]).name} "
            f"{image[1]} x {image[0]}; they must be of one size"
        )
