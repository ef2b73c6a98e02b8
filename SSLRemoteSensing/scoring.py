"""Score a network on labelled tiles: each tile whole, each pixel once, one confusion matrix."""

import sys
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from SSLRemoteSensing.datasets.workers import end_workers, one_thread
from SSLRemoteSensing.metrics import ConfusionMatrix


def evaluate(
    predict: Callable[[Tensor], Tensor],
    dataset,
    num_classes: int,
    device: torch.device,
    batch_size: int,
    num_workers: int = 0,
) -> ConfusionMatrix:
    """Confusion matrix of `predict` over every tile of `dataset`.

    Args:
        predict: images uint8 (N, C, H, W) to classes uint8 (N, H, W) on `device`.
        dataset: `dataset[(0, index)]` gives image (H, W, C) and label (H, W) as arrays.
    """
    matrix = ConfusionMatrix(num_classes, device)
    for images, labels in equal_batches(dataset, batch_size, num_workers):
        matrix.update(predict(images), labels.to(device))
    return matrix


def equal_batches(dataset, batch_size: int, num_workers: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Tiles in order, stacked as long as they are of one size."""
    loader = DataLoader(
        dataset,
        sampler=[(0, index) for index in range(len(dataset))],
        batch_size=None,
        collate_fn=tensors,
        num_workers=num_workers,
        worker_init_fn=one_thread,
        generator=torch.Generator(),
    )
    waiting: list[dict] = []
    samples = iter(loader)
    quiet = not sys.stderr.isatty()
    try:
        for sample in tqdm(samples, "scoring", len(dataset), leave=False, disable=quiet):
            full = len(waiting) == batch_size
            if waiting and (full or waiting[0]["label"].shape != sample["label"].shape):
                yield stack(waiting)
                waiting = []
            waiting.append(sample)
        if waiting:
            yield stack(waiting)
    finally:
        end_workers(samples)


def stack(samples: list[dict]) -> tuple[Tensor, Tensor]:
    images = torch.stack([sample["image"] for sample in samples])
    labels = torch.stack([sample["label"] for sample in samples])
    return images.permute(0, 3, 1, 2), labels


def tensors(sample: dict) -> dict[str, Tensor]:
    """Image and label as tensors, which pass from a worker in shared memory."""
    return {key: torch.from_numpy(sample[key]) for key in ("image", "label")}


def table(scores: dict) -> str:
    """Scores of a protocol as lines of text, in per cent."""
    lines = [f"{'class':<24}{'IoU':>8}{'F1':>8}{'precision':>11}{'recall':>8}{'pixels':>14}"]
    for name, entry in scores["per_class"].items():
        numbers = [percent(entry[key]) for key in ("iou", "f1", "precision", "recall")]
        lines.append(
            "{:<24}{:>8}{:>8}{:>11}{:>8}".format(name, *numbers) + f"{entry['pixels']:>14,}"
        )
    heads = {"mIoU": "miou", "mF1": "mf1", "overall accuracy": "oa", "kappa": "kappa"}
    lines.append("  ".join(f"{text} {percent(scores[key])}" for text, key in heads.items()))
    if scores["absent"]:
        lines.append(f"in neither label nor prediction, left out of the means: {scores['absent']}")
    return "\n".join(lines)


def percent(value: float | None) -> str:
    return "none" if value is None else f"{100 * value:.2f}"
