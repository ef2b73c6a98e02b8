"""Pictures of results: the confusion matrix, and a page of example maps."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from SSLRemoteSensing.core.classes import IGNORE, colour_map
from SSLRemoteSensing.core.drawing import plain_figures
from SSLRemoteSensing.reports.image_grid import as_rgb

ERROR = (230, 0, 200)


@plain_figures()
def draw_confusion_matrix(counts: Sequence, classes: Sequence[str], path: Path) -> None:
    """Rows label, columns prediction; each cell its share of the row in per cent."""
    from matplotlib.figure import Figure

    counts = np.asarray(counts, dtype=float)
    shares = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = 2.6 + 0.75 * len(classes)
    figure = Figure(figsize=(side + 0.8, side), layout="constrained", dpi=130)
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    axes.set_xticks(range(len(classes)), classes, rotation=35, ha="right")
    axes.set_yticks(range(len(classes)), classes)
    axes.set(xlabel="prediction", ylabel="label")
    for row, column in np.ndindex(shares.shape):
        colour = "white" if shares[row, column] > 60 else "black"
        text = f"{shares[row, column]:.1f}"
        axes.text(column, row, text, ha="center", va="center", color=colour)
    figure.colorbar(image, label="% of the label's pixels", shrink=0.8)
    figure.savefig(path)


@plain_figures()
def draw_examples(
    predicts: dict[str, Callable[[Tensor], Tensor]],
    dataset,
    classes: Sequence[str],
    palette: Sequence,
    path: Path,
    count: int = 8,
) -> None:
    """Image, label and maps of `count` tiles, evenly spread over `dataset`; of one map its errors.

    Args:
        predicts: by the name of the map, images uint8 (1, C, H, W) to classes uint8 (1, H, W).
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    indices = np.unique(np.linspace(0, len(dataset) - 1, count).round().astype(int))
    marks = dict(zip(classes, palette, strict=True))
    titles = ["image", "label", *predicts]
    if len(predicts) == 1:
        titles, marks = [*titles, "errors"], marks | {"error": ERROR}
    size = (2.25 * len(titles), 2.3 * len(indices) + 0.9)
    figure = Figure(figsize=size, layout="constrained", dpi=100)
    grid = figure.subplots(len(indices), len(titles), squeeze=False)
    for row, index in zip(grid, indices, strict=True):
        sample = dataset[(0, int(index))]
        image, label = (middle(sample[key]) for key in ("image", "label"))
        tensor = torch.from_numpy(image).permute(2, 0, 1)[None]
        maps = [predict(tensor)[0].cpu().numpy() for predict in predicts.values()]
        pictures = [as_rgb(image), *(colour_map(part, palette) for part in (label, *maps))]
        pictures.append(error_map(image, label, maps[0]))
        for axes, picture in zip(row, pictures, strict=False):
            axes.imshow(picture, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
        row[0].set_ylabel(dataset.name(int(index)).stem[-28:], fontsize=7)
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, fontsize=10)
    entries = [
        Patch(facecolor=np.array(colour) / 255, edgecolor="grey", label=name)
        for name, colour in marks.items()
    ]
    columns = min(6, len(entries))
    figure.legend(handles=entries, loc="outside lower center", ncols=columns)
    figure.savefig(path)


def error_map(image: np.ndarray, label: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """The image pale, wrong pixels in one colour, what is not scored dark: R, G, B (H, W, 3).

    Args:
        image: uint8 (H, W, C).
        label, classes: uint8 (H, W).
    """
    grey = as_rgb(image).mean(2, keepdims=True)
    scored = label != IGNORE
    shade = np.where(scored[:, :, None], grey / 2 + 120, grey / 3)
    picture = np.repeat(shade, 3, axis=2).astype(np.uint8)
    picture[scored & (label != classes)] = ERROR
    return picture


def middle(pixels: np.ndarray, side: int = 1024) -> np.ndarray:
    """The middle of an image that is too large to be shown, or predicted, in one piece."""
    y, x = (max(0, length - side) // 2 for length in pixels.shape[:2])
    return np.ascontiguousarray(pixels[y : y + side, x : x + side])
