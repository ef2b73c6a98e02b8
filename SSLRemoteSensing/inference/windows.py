"""Predict a scene of any size, window by window, blended where the windows overlap."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor, nn

from SSLRemoteSensing.data.prepared import positions

Rows = Callable[[int, int], np.ndarray]  # (y, height) -> uint8 (height, width, C)
Empty = Callable[[int, int, int, int], bool]  # (y, x, height, width) -> nothing to predict there
PART = 64  # rows of probabilities given out at a time
LEAST = 1e-30  # far below any weight, and above 0 for what no window covers


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
    layout = torch.contiguous_format if images.is_contiguous() else torch.channels_last
    total = None
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
        for turns, flip in [(k, f) for k in range(4) for f in (False, True)] if tta else [(0, 0)]:
            view = images.flip(3) if flip else images
            view = torch.rot90(view, turns, (2, 3)) if turns else view
            scores = net.logits(view.contiguous(memory_format=layout)).float().softmax(1)
            scores = torch.rot90(scores, -turns, (2, 3))
            scores = scores.flip(3) if flip else scores
            total = scores if total is None else total + scores
    return total / 8 if tta else total


def predict_scene(
    predict: Callable[[Tensor], Tensor],
    rows: Rows,
    height: int,
    width: int,
    window: int,
    overlap: float,
    batch_size: int,
    device: torch.device,
    empty: Empty | None = None,
    num_classes: int | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """Probabilities of a scene from top to bottom: (y, float (K, h, width)), each row once.

    Square windows overlap by `overlap` of their side; the last ones move inward, and a scene
    smaller than a window is one window. Where windows overlap, probabilities are averaged with the
    weight sin^2 of the place in the window, so that no seam is left. Memory depends on window and
    width, not on the height: a strip of the image as high as a window, and its probabilities.

    Close the iterator (`contextlib.closing`) before what `rows` reads from is closed.

    Args:
        predict: images uint8 (N, C, h, w) on `device`, on a GPU in the memory format channels_last,
            to probabilities (N, K, h, w).
        rows: reads the image; is asked for rows in order, each once, one call ahead of the network.
        empty: windows of which this is true are not predicted; a pixel that no other window covers
            gets zeros. It is asked after `rows` has given all rows of the window.
        num_classes: K; with `empty` it must be given, as there may be no window to tell it.
    """
    tall, wide = min(window, height), min(window, width)
    step = max(1, round(window * (1 - overlap)))
    tops, lefts = positions(height, tall, step), positions(width, wide, step)
    weight = (bell(tall)[:, None] * bell(wide)).to(device)
    sums = None  # (K + 1, tall, width): weighted probabilities, and last the weights

    def read_pixels(y: int, count: int) -> Tensor:
        # On its way to a GPU from here, so that no step of the network waits for the copy.
        pixels = torch.from_numpy(np.ascontiguousarray(rows(y, count)))
        return pixels.pin_memory() if device.type == "cuda" else pixels

    with ThreadPoolExecutor(1) as reader:
        strip = read_pixels(0, tall).to(device, copy=True)  # (tall, width, C), moved up in place
        if num_classes is not None:
            sums = torch.zeros(num_classes + 1, tall, width, device=device)
        for top, below in zip(tops, [*tops[1:], height], strict=True):
            advance = below - top
            next_rows = reader.submit(read_pixels, top + tall, advance) if below < height else None
            columns = [x for x in lefts if empty is None or not empty(top, x, tall, wide)]
            for batch in even_batches(columns, batch_size):
                images = torch.stack([strip[:, x : x + wide] for x in batch]).permute(0, 3, 1, 2)
                outputs = predict(images if device.type == "cuda" else images.contiguous())
                if sums is None:
                    sums = torch.zeros(outputs.shape[1] + 1, tall, width, device=device)
                for x, output in zip(batch, outputs, strict=True):
                    sums[:-1, :, x : x + wide].addcmul_(output, weight)
                    sums[-1, :, x : x + wide] += weight
            # In parts, so that beside the strip there is never a second one of its size.
            for start in range(0, advance, PART):
                part = sums[:, start : min(start + PART, advance)]
                yield top + start, part[:-1] / part[-1].clamp_min(LEAST)
            if next_rows is not None:
                move_up(strip, advance, 0)
                strip[tall - advance :] = next_rows.result().to(device, non_blocking=True)
                move_up(sums, advance, 1)
                sums[:, tall - advance :].zero_()


def even_batches(items: Sequence[int], most: int) -> Iterator[Sequence[int]]:
    """`items` in as few batches of at most `most` as can be, all of nearly one size."""
    count = -(-len(items) // most)
    for number in range(count):
        yield items[number * len(items) // count : (number + 1) * len(items) // count]


def bell(length: int) -> Tensor:
    """Weights (length,) above 0, sin^2 over a window: they add up to 1 at an overlap of a half."""
    return torch.sin(torch.pi * (torch.arange(length) + 0.5) / length) ** 2


def move_up(values: Tensor, count: int, dim: int) -> None:
    """Move `values` by `count` rows towards the first, in place; the last ones stay as they were.

    In pieces of `count` rows, so that no piece is copied onto itself.
    """
    for start in range(0, values.shape[dim] - count, count):
        rows = min(count, values.shape[dim] - count - start)
        values.narrow(dim, start, rows).copy_(values.narrow(dim, start + count, rows))
