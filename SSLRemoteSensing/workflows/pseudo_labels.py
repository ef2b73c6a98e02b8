"""Labels that a network gives to tiles without: the classes of its surest pixels, 255 elsewhere.

One round of self-training (Lee, 2013), with a share of each class in place of one threshold, so
that rare classes are not starved (Zou et al., ECCV 2018).
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from itertools import groupby, islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from SSLRemoteSensing.core import distributed
from SSLRemoteSensing.core.bars import map_files
from SSLRemoteSensing.core.classes import IGNORE
from SSLRemoteSensing.core.console import warn
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.core.files import atomic, make_folder, read_json, sha256, write_text
from SSLRemoteSensing.core.workers import name_lost_workers, read_in_order
from SSLRemoteSensing.data.file_lists import spread_evenly
from SSLRemoteSensing.data.images import read_image, write_png
from SSLRemoteSensing.data.reading import Reading
from SSLRemoteSensing.data.segmentation import SegmentationDataset
from SSLRemoteSensing.evaluation.protocols import ScoringSettings
from SSLRemoteSensing.inference.windows import predict_scene
from SSLRemoteSensing.reports.label_figures import (
    choose_tiles,
    class_table,
    count_classes,
    draw_tiles,
    read_tiles,
)

LABELLER = "labeller"  # folder of the network that labels
LEVELS = 4096  # of confidence, 0..1 as uint16
COLLAPSED = 0.95  # of all pixels, in one class
RARE = 0.005  # of the labels: of fewer nothing can be said
SHOWN, COUNTED = 6, 200  # tiles of the picture, and of its shares of the classes


@dataclass(frozen=True)
class Labeller:
    """A network that labels: `predict` takes images uint8 (N, C, h, w) to probabilities
    (N, K, h, w), both on `device`; `scoring` says how large a window and a stack are."""

    predict: Callable[[Tensor], Tensor]
    scoring: ScoringSettings
    device: torch.device


@dataclass(frozen=True)
class Unlabelled(Dataset):
    """Tiles to label: their images, uint8 (H, W, C), how these are read, and what each one's label
    is called."""

    images: Sequence[str]
    reading: Reading
    in_channels: int

    def names(self) -> list[str]:
        return [f"{number:07d}_{Path(file).stem[:100]}" for number, file in enumerate(self.images)]

    def digest(self) -> str:
        """A hash of the images, in order, and of how they are read. Their folder may have been
        moved."""
        how = [str(self.reading.scale), self.reading.bands and list(self.reading.bands)]
        return digest_of([*how, *signatures(self.images)])

    def labels(self, folder: Path) -> list[str] | None:
        """The files of their labels in `folder`; None where not all of them are there."""
        record = read_record(folder)
        if not record or record.get("images") != self.digest():
            return None
        return [str(folder / f"labels/{name}.png") for name in self.names()]

    def __getitem__(self, number: int) -> np.ndarray:
        reading = self.reading
        return read_image(self.images[number], self.in_channels, reading.bands, reading.scale)


def digest_of(value: object) -> str:
    """A hash of a value of JSON's types."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()


def signatures(files: Sequence[str]) -> list[tuple[str, str]]:
    """The name of each file, and a hash of its contents."""
    return list(map_files(signature, files, "hashing"))


def signature(file: str) -> tuple[str, str]:
    now = os.stat(file)
    return os.path.basename(file), hash_of(file, now.st_size, now.st_mtime_ns)


@cache
def hash_of(file: str, size: int, changed: int) -> str:
    """The SHA-256 of a file of so many bytes, written at a time in nanoseconds; a process reads it
    once."""
    return sha256(file)


def read_record(folder: Path) -> dict:
    """What `write_pseudo_labels` left in a folder; empty where it did not come to its end."""
    record = read_json(folder / "record.json")
    return record if "classes" in record else {}


def begin_labels(folder: Path, origin: dict, has_begun: bool) -> bool:
    """Make `folder` ready for labels of `origin`, and say whether they are there already. What is
    there of another origin is removed, but for the network where that is the same.

    What is removed is moved away in one step before anything is deleted, and the record is there
    before the network is: wherever this is stopped, nothing is taken for what it is not.

    Args:
        has_begun: the run trains with what is there.

    Raises:
        UserError: it does, and that is of another origin.
    """
    record = distributed.all_gather_object(read_json(folder / "record.json"))[0]
    changes = [key for key, value in origin.items() if record.get(key) != value]
    if record and changes and has_begun:
        raise UserError(
            f"{folder}: the run has begun with labels of another {changes[0]} than is asked for "
            f"now; restore what has changed, or give another checkpoints_path (--output)"
        )
    is_done = "classes" in record and not changes
    if distributed.rank() == 0:
        old = folder.with_name(f"{folder.name}.old")
        shutil.rmtree(old, ignore_errors=True)  # a kill may have left it, and drafts
        if is_done:
            shutil.rmtree(folder / "drafts", ignore_errors=True)
        elif changes:
            if record:
                print(f"{folder}: of another {changes[0]} than is asked for now, made anew")
            if folder.exists():
                folder.rename(old)
            make_folder(folder, "--output")
            write_text(folder / "record.json", json.dumps(origin, indent=2) + "\n")
            labeller = old / LABELLER
            if {"by", "labeller"}.isdisjoint(changes) and labeller.exists():
                labeller.rename(folder / LABELLER)  # it can label these too
            shutil.rmtree(old, ignore_errors=True)
    distributed.barrier()
    return is_done


def write_pseudo_labels(
    folder: Path,
    tiles: Unlabelled,
    labeller: Labeller,
    classes: Sequence[str],
    share: float,
    num_workers: int,
    scores: dict[str, float | None],
) -> dict:
    """Write `labels/NAME.png` of each tile, uint8 with 255 = not sure or no data, and what comes of
    it into `record.json`, which is returned. Where it was stopped, it goes on. Several processes
    divide the tiles among them.

    Args:
        folder: as `begin_labels` left it.
        share: of the pixels of each class, those that are kept, the surest.
        scores: of the network, for the record.
    """
    names, drafts, labels = tiles.names(), folder / "drafts", folder / "labels"
    if distributed.rank() == 0:
        for path in (drafts, labels):
            make_folder(path, "--output")
    distributed.barrier()
    own = distributed.shard(range(len(names)))
    size = labeller.scoring.batch_size
    blocks = [own[start : start + size] for start in range(0, len(own), size)]
    is_there = [(drafts / f"{name}.npz").exists() for name in names]
    todo = [n for block in blocks if not all(is_there[n] for n in block) for n in block]
    with name_lost_workers():
        for number, *maps in predicted(tiles, todo, labeller, num_workers):
            with atomic(drafts / f"{names[number]}.npz") as part, part.open("wb") as file:
                np.savez_compressed(file, *maps)
    counts = np.zeros((len(classes), LEVELS), np.int64)
    for number in own:
        label, confidence = read_draft(drafts / f"{names[number]}.npz")
        known = label != IGNORE
        places = label[known].astype(np.int64) * LEVELS + confidence[known]
        counts += np.bincount(places, minlength=counts.size).reshape(counts.shape)
    counts = distributed.all_sum(torch.from_numpy(counts)).numpy()
    limits = surest(counts, share)
    limit_of = np.zeros(IGNORE + 1, np.int64)
    limit_of[: len(limits)] = limits
    for number in own:
        label, confidence = read_draft(drafts / f"{names[number]}.npz")
        label[confidence < limit_of[label]] = IGNORE
        write_png(labels / f"{names[number]}.png", label)
    shares = {"classes": shares_by_class(counts, limits, classes)}
    record = read_json(folder / "record.json") | scores | shares
    distributed.barrier()
    if distributed.rank() == 0:
        write_text(folder / "record.json", json.dumps(record, indent=2) + "\n")
        shutil.rmtree(drafts)
    distributed.barrier()
    return record


def read_draft(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Classes uint8 (H, W), and confidence uint16 (H, W)."""
    with np.load(path, allow_pickle=False) as arrays:
        return arrays["arr_0"], arrays["arr_1"]


def surest(counts: np.ndarray, share: float) -> np.ndarray:
    """The least confidence that is kept of each class, int64 (K,): the greatest one that `share` of
    its pixels reach, so that of pixels that are equally sure all are kept.

    Args:
        counts: pixels of each class by their confidence, int64 (K, LEVELS).
    """
    reach = counts[:, ::-1].cumsum(1)[:, ::-1]  # pixels at each confidence or above
    return (reach >= np.ceil(share * counts.sum(1, keepdims=True))).sum(1) - 1


def shares_by_class(counts: np.ndarray, limits: np.ndarray, classes: Sequence[str]) -> dict:
    """Of each class its share of all pixels, the share of its own that is kept, and from which
    confidence on."""
    total = counts.sum(1)
    used = [row[limit:].sum() for row, limit in zip(counts, limits, strict=True)]
    return {
        name: {
            "pixels": float(total[k] / max(1, total.sum())),
            "used": float(used[k] / max(1, total[k])),
            "confidence": float(limits[k] / (LEVELS - 1)) if total[k] else None,
        }
        for k, name in enumerate(classes)
    }


def predicted(
    tiles: Unlabelled, numbers: Sequence[int], labeller: Labeller, num_workers: int
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Of each of `numbers` its classes uint8 (H, W), 255 where the image has no data, and their
    confidence uint16 (H, W). No stack holds tiles of two blocks, of `scoring.batch_size` numbers
    each, so that a whole block has the same numbers by whatever it is preceded."""
    scoring, device = labeller.scoring, labeller.device
    with closing(read_in_order(tiles, numbers, num_workers, "labelling", "tile")) as samples:
        places = ((n // scoring.batch_size, item) for n, item in enumerate(samples))
        for (_, shape), same in groupby(places, lambda place: (place[0], place[1][1].shape)):
            is_small = max(shape[:2]) <= scoring.window
            while stack := list(islice(same, None if is_small else 1)):
                images = torch.stack([torch.as_tensor(image) for _, (_, image) in stack])
                if is_small:
                    outputs = labeller.predict(images.permute(0, 3, 1, 2).to(device))
                else:
                    outputs = predict_whole(images[0].numpy(), labeller)[None]
                confidence, label = outputs.max(1)
                confidence = (confidence * (LEVELS - 1)).round().to(torch.int32)
                label[(images == 0).all(3).to(device)] = IGNORE  # as what is no data is read
                for (_, (number, _)), *maps in zip(
                    stack, label.cpu(), confidence.cpu(), strict=True
                ):
                    classes, level = (part.numpy() for part in maps)
                    yield number, classes.astype(np.uint8), level.astype(np.uint16)


def predict_whole(image: np.ndarray, labeller: Labeller) -> Tensor:
    """Probabilities (K, H, W) of an image larger than a window."""
    scoring = labeller.scoring
    strips = predict_scene(
        labeller.predict, lambda y, count: image[y : y + count], *image.shape[:2],
        scoring.window, scoring.overlap, scoring.batch_size, labeller.device,
    )  # fmt: skip
    return torch.cat([probabilities for _, probabilities in strips], 1)


def draw_pseudo_labels(
    path: Path, dataset: SegmentationDataset, classes: Sequence[str], palette: Sequence
) -> None:
    """A picture of some tiles with the labels that they were given."""
    dataset = dataset.on(
        [dataset.pairs[place] for place in spread_evenly(len(dataset.pairs), COUNTED)],
        dataset.reading, dataset.seed,
    )  # fmt: skip
    counts = count_classes(dataset)
    tiles = read_tiles(dataset, choose_tiles(counts, SHOWN, None, None), augmented=False)
    table = class_table(tiles, counts, classes)
    write_png(path, draw_tiles(tiles, table, classes, palette, "labels that a network gave"))


def describe(record: dict) -> str:
    """What came of labelling, in a line."""
    classes = record["classes"].items()
    used = sum(entry["pixels"] * entry["used"] for _, entry in classes)
    shares = ", ".join(f"{name} {entry['pixels']:.1%}" for name, entry in classes)
    return f"pseudo labels of {record['tiles']} tiles, {used:.1%} of their pixels kept: {shares}"


def warn_of_lost_classes(record: dict, label_shares: Sequence[float], folder: Path) -> None:
    """Warn where a class of the labels hardly occurs in what the network gave, or one takes all.

    Args:
        label_shares: of each class its share of the labelled pixels.
    """
    for share, (name, entry) in zip(label_shares, record["classes"].items(), strict=True):
        what = ""
        if share > RARE and entry["pixels"] < share / 10:
            what = f"has {share:.1%} of the labels and {entry['pixels']:.2%} of the pseudo labels"
        elif entry["pixels"] > COLLAPSED and share < entry["pixels"] - (1 - COLLAPSED):
            what = f"takes {entry['pixels']:.1%} of the pseudo labels, {share:.1%} of the labels"
        if what:
            warn(
                f"train_cfg.unlabelled: class {name} {what}; look at {folder / 'examples.png'}, "
                "and compare with a run without unlabelled tiles"
            )
