"""Predict a scene of any size, window by window, blended where the windows overlap."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor, nn

from SSLRemoteSensing.datasets.cut import positions

Rows = Callable[[int, int], np.ndarray]  # (y, height) -> uint8 (height, width, C)


@torch.no_grad()
def probabilities(
    net: nn.Module, device: torch.device, precision: str, images: Tensor, tta: bool = False
) -> Tensor:
    """Probability of each class: images (N, C, H, W), uint8 or float in 0..1, to (N, K, H, W).

    Args:
        net: with `logits(images)`, which takes images of any size.
        tta: the mean over the 8 turns and flips of the image, each turned back.
    """
    net.eval()
    images = images.to(device)
    total = None
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
        for turns, flip in [(k, f) for k in range(4) for f in (False, True)] if tta else [(0, 0)]:
            view = images.flip(3) if flip else images
            found = net.logits(torch.rot90(view, turns, (2, 3))).float().softmax(1)
            found = torch.rot90(found, -turns, (2, 3))
            found = found.flip(3) if flip else found
            total = found if total is None else total + found
    return total / 8 if tta else total


def classify(
    net: nn.Module, device: torch.device, precision: str, images: Tensor, tta: bool = False
) -> Tensor:
    """Class of each pixel: images (N, C, H, W), uint8 or float in 0..1, to uint8 (N, H, W)."""
    return probabilities(net, device, precision, images, tta).argmax(1).to(torch.uint8)


def predict_scene(
    predict: Callable[[Tensor], Tensor],
    rows: Rows,
    height: int,
    width: int,
    window: int,
    overlap: float,
    batch_size: int,
    device: torch.device,
) -> Iterator[tuple[int, Tensor]]:
    """Probabilities of a scene from top to bottom: (y, float (K, h, width)), each row once.

    Square windows overlap by `overlap` of their side; the last ones move inward, and a scene
    smaller than a window is one window. Where windows overlap, probabilities are averaged with the
    weight sin^2 of the place in the window, so that no seam is left. Memory depends on window and
    width, not on the height.

    Args:
        predict: images uint8 (N, C, h, w) on `device` to probabilities (N, K, h, w).
        rows: reads the image; is asked for rows in order, each once, one call ahead of the network.
    """
    tall, wide = min(window, height), min(window, width)
    step = max(1, round(window * (1 - overlap)))
    tops, lefts = positions(height, tall, step), positions(width, wide, step)
    weight = (bell(tall)[:, None] * bell(wide)).to(device)
    total = norm = None  # of the rows that the windows of one height cover
    with ThreadPoolExecutor(1) as ahead:
        strip = to_planes(rows(0, tall), device)
        for top, below in zip(tops, [*tops[1:], height], strict=True):
            done = below - top
            reading = ahead.submit(rows, top + tall, done) if below < height else None
            for start in range(0, len(lefts), batch_size):
                some = lefts[start : start + batch_size]
                found = predict(torch.stack([strip[:, :, x : x + wide] for x in some]))
                if total is None:
                    total = torch.zeros(found.shape[1], tall, width, device=device)
                    norm = torch.zeros(tall, width, device=device)
                for x, one in zip(some, found, strict=True):
                    total[:, :, x : x + wide] += one * weight
                    norm[:, x : x + wide] += weight
            yield top, total[:, :done] / norm[:done]
            if reading is not None:
                fresh = to_planes(reading.result(), device)
                strip = torch.cat([strip[:, done:], fresh], dim=1)
                total, norm = move_up(total, done, 1), move_up(norm, done, 0)


def to_planes(pixels: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1).to(device)


def bell(length: int) -> Tensor:
    """Weights (length,) above 0, sin^2 over a window: they add up to 1 at an overlap of a half."""
    return torch.sin(torch.pi * (torch.arange(length) + 0.5) / length) ** 2


def move_up(values: Tensor, count: int, dim: int) -> Tensor:
    """`values` without its first `count` rows, and as many empty ones after the last."""
    kept = values.narrow(dim, count, values.shape[dim] - count)
    empty = torch.zeros_like(values.narrow(dim, 0, count))
    return torch.cat([kept, empty], dim)
