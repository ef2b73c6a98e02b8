"""Open a folder of tiles: one that was prepared is taken at its word, another is looked through."""

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from SSLRemoteSensing.datasets.labels import (
    INVALID,
    ValueCoding,
    detect_coding,
    value_counts,
)
from SSLRemoteSensing.errors import UserError
from SSLRemoteSensing.raster import IGNORE, image_size, read_label
from SSLRemoteSensing.terminal import progress

OURS = {"classes", "bands", "scale"}  # of dataset.json, needed to open the tiles


def read_card(folder: str | Path) -> dict | None:
    """The `dataset.json` of the prepared set that `folder` is a part of, None where there is none.

    Raises:
        UserError: its preparation is not finished, or the file is damaged.
    """
    folder = Path(folder).absolute()
    for root in (folder, *folder.parents[:3]):
        card = root / "dataset.json"
        if card.is_file():
            try:
                contents = json.loads(card.read_text())
            except (OSError, ValueError) as error:
                raise UserError(f"{card}: damaged ({error}); prepare the data set again") from error
            if not isinstance(contents, dict):
                raise UserError(f"{card}: damaged (no object); prepare the data set again")
            if OURS.isdisjoint(contents) and "version" not in contents:
                continue  # other tools keep a file of this name too
            if contents.get("version") != 1:
                raise UserError(f"{card}: of version {contents.get('version')}, known is 1")
            missing = OURS - contents.keys()
            if missing:
                raise UserError(
                    f"{card}: damaged (lacks {min(missing)}); prepare the data set again"
                )
            return contents | {"root": root}
        if (root / "prepare.jsonl").is_file():
            raise UserError(
                f"{root}: its preparation is not finished; run tools/prepare.py again, it goes on"
            )
    return None


def agreed_scale(card: dict | None, max_value: float | None) -> float | None:
    """`max_value` for `read_image`: the prepared set's own, which a config may not contradict."""
    if card is None:
        return max_value
    if max_value is not None and max_value != card["scale"]:
        raise UserError(
            f"max_value={max_value}: {card['root']} was prepared with {card['scale']}; leave it out"
        )
    return None if card["scale"] == 255 else card["scale"]


def origin_of_tiles(card: dict | None, bands: Sequence[int] | None, in_channels: int) -> dict:
    """What has to be known of tiles to feed a network the same from other files.

    Args:
        card: the `dataset.json` that they are of, if any.
        bands: those that were read of the tiles, None: all.
        in_channels: of the network; three take grey, repeated.

    Returns:
        bands: the numbers, from 1, of the bands of the source scenes that make the channels; those
            of the tiles where it is not known what they were cut from; None: all in order.
        band_names: those of the channels, None without a dataset.json.
        prepared: whether `bands` are of the scenes that the tiles were cut from.
        dataset: the prepared set's name, None where it has none of its own.

    Raises:
        UserError: a band that the prepared tiles do not have.
    """
    names = card and card["bands"]
    picked = list(bands) if bands else card and list(range(1, len(names) + 1))
    if card and not 1 <= min(picked) <= max(picked) <= len(names):
        raise UserError(
            f"bands={tuple(picked)}: {card['root']} has the bands 1 to {len(names)} "
            f"({', '.join(names)})"
        )
    if picked and in_channels == 3 and len(picked) < 3:
        picked = picked[:1] * 3
    numbers = card and card.get("source_bands")
    prepared = isinstance(numbers, list) and len(numbers) == len(names)
    found = [numbers[band - 1] for band in picked] if prepared else bands and picked
    name = card and card.get("name")
    return {
        "bands": found or None,
        "band_names": card and [names[band - 1] for band in picked],
        "prepared": prepared,
        "dataset": None if name == "folder" else name,
    }


def median_frequency(image_path: str, classes: Sequence[str]) -> list[float]:
    """Class weights of the prepared set that `image_path` is of: median share / share of a class.

    After Eigen and Fergus (ICCV 2015), with the shares of all train pixels that `dataset.json` has
    in place of those of the images where a class occurs. A class that never occurs gets 0.

    Raises:
        UserError: not prepared, without train labels, or of other classes.
    """
    card = read_card(image_path)
    shares = card and card.get("class_shares")
    if not shares or list(shares) != list(classes):
        why = f"has the classes {', '.join(shares)}" if shares else "has no class_shares"
        where = f"{card['root']}/dataset.json" if card else f"{image_path} (not prepared)"
        raise UserError(
            f"class_weights='median_frequency': {where} {why}; prepare the set, or give numbers"
        )
    median = float(np.median([share for share in shares.values() if share > 0]))
    return [median / share if share > 0 else 0.0 for share in shares.values()]


def check_labels(
    images: Sequence[str],
    labels: Sequence[str],
    num_classes: int,
    coding: ValueCoding | None = None,
) -> tuple[ValueCoding, list[str]]:
    """Read every label once: sizes, values, how much is not scored. The coding, and what to say.

    Args:
        coding: the one that is known to hold; None: found out by `detect_coding`.

    Raises:
        UserError: a size other than the image's, a value that is no class, values that two codings
            would explain, nothing scored at all.
    """

    def look(pair: tuple[str, str]) -> np.ndarray:
        label = read_label(pair[1])
        require_one_size(pair, image_size(pair[0]), label.shape)
        return value_counts(label)

    counts = np.zeros((len(labels), 256), np.int64)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        pairs = zip(images, labels, strict=True)
        bar = progress("checking labels", pool.map(look, pairs), len(labels), "file")
        for i, found in enumerate(bar):
            counts[i] = found
    return settle_coding(counts, labels, num_classes, coding)


def settle_coding(
    counts: np.ndarray,
    labels: Sequence[str],
    num_classes: int,
    coding: ValueCoding | None = None,
) -> tuple[ValueCoding, list[str]]:
    """`check_labels` once the pixels of each value (labels, 256) have been counted."""
    where = f"labels in {Path(labels[0]).parent}"
    total = counts.sum(0)
    said = []
    if coding is None:
        try:
            coding, sentence = detect_coding(total, num_classes, where)
        except UserError as error:
            raise UserError(f"{error} ({example(counts, labels, num_classes)})") from error
        said += [sentence] if sentence else []
    else:
        wrong = (total > 0) & (coding.table == INVALID)
        if coding.table[0] == IGNORE:
            wrong[IGNORE] = total[IGNORE] > 0  # 0 and 255 both for 'not scored' is two codings
        if wrong.any():
            value = int(np.flatnonzero(wrong)[0])
            first = labels[int(np.argmax(counts[:, value] > 0))]
            classes = ", ".join(str(v) for v in np.flatnonzero(coding.classes != IGNORE)[:12])
            raise UserError(
                f"label {first}: value {value}, where the classes are coded {classes} (as stated, "
                "or as in train_data); mend the labels, or state label_offset or label_codes"
            )
    left = total[coding.table == IGNORE].sum() / total.sum()
    if left == 1:
        raise UserError(f"{where}: no pixel has a class, all are 'not scored'")
    if left > 0.5:
        said.append(f"{where}: {left:.0%} of the pixels are not scored")
    scored = [k for k in range(num_classes) if total[coding.table == k].sum()]
    if len(scored) == 1 and num_classes > 1:
        said.append(f"{where}: all scored pixels are of one class, {scored[0]}")
    return coding, said


def require_one_size(pair: tuple[str, str], image: tuple[int, int], label: tuple[int, int]) -> None:
    """Raise a `UserError` where the (height, width) of an image and its label differ."""
    if image != label:
        raise UserError(
            f"label {pair[1]}: {label[1]} x {label[0]} pixels, its image {Path(pair[0]).name} "
            f"{image[1]} x {image[0]}; they must be of one size"
        )


def example(counts: np.ndarray, labels: Sequence[str], num_classes: int) -> str:
    """A label that holds a value which is no class of ours, if there is one."""
    odd = counts[:, num_classes:IGNORE].any(1)
    return f"first seen in {labels[int(np.argmax(odd))]}" if odd.any() else f"{len(labels)} labels"
