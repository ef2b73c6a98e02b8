"""Pages that show what the pretext tasks have learnt, as R, G, B pixels."""

from collections.abc import Sequence

import numpy as np

from SSLRemoteSensing.panels import (
    INK,
    LINE,
    MARGIN,
    PAPER,
    Grid,
    as_rgb,
    fitted,
    panel_scale,
    sized,
    text_width,
    write,
)

WHITE = 0.5  # the error that is drawn white, of a range of 1
BLUE = (8, 48, 107)
CELL = 64  # pixels


def inpainting_grid(size: int, rows: int) -> Grid:
    """Where the panels of `inpainting_page` stand, of images of `size` pixels."""
    side = sized(np.empty((size, size)), panel_scale(size, size, least=128)).shape[0]
    return Grid(side, side, rows, columns=4, header=1)


def inpainting_page(
    occluded: np.ndarray, prediction: np.ndarray, anchor: np.ndarray, names: Sequence[str]
) -> np.ndarray:
    """A row an image: occluded, prediction, anchor, and the error where the image was distorted.

    Args:
        occluded, anchor: uint8 (N, H, W, C), H = W.
        prediction: float (N, H, W, C), 0..1 where it is right; shown clipped to that.
        names: what to call each image.
    """
    size = anchor.shape[1]
    grid, scale = inpainting_grid(size, len(names)), panel_scale(size, size, least=128)
    rows, captions = [], []
    for one, guess, true, name in zip(occluded, prediction, anchor, names, strict=True):
        weight = np.abs(true.astype(np.float32) - one) / 255
        error = np.abs(guess - true.astype(np.float32) / 255)
        mean = float((error * weight).sum() / (weight.sum() + 1e-6))
        shown = np.where(weight.any(axis=2), error.mean(axis=2), 0)
        row = as_rgb(one), as_rgb(guess), as_rgb(true), as_rgb(shown, white=WHITE)
        rows.append([sized(picture, scale) for picture in row])
        captions.append([f"{name}: weighted error {mean:.3f}"])
    titles = ["occluded", "prediction", "anchor", f"error, white = {WHITE}"]
    return grid.draw(rows, titles, captions, ["the loss counts the distorted block alone"])


def transforms_page(counts: np.ndarray, names: Sequence[str], header: str) -> np.ndarray:
    """The confusion matrix `counts` (K, K): rows true, columns predicted transform.

    A cell's blue is its share of the row; the number of images stands in it.
    """
    names = [f"{number} {name}" for number, name in enumerate(names)]
    left = MARGIN + max(text_width(name) for name in names) + MARGIN
    top = MARGIN + 3 * LINE
    side = CELL * len(names)
    width = max(left + side + MARGIN, 2 * MARGIN + text_width(header))
    page = np.full((top + side + MARGIN, width, 3), PAPER, np.uint8)
    right = int(np.trace(counts))
    write(page, fitted(header, width - 2 * MARGIN), MARGIN, MARGIN)
    told = f"right: {right} of {int(counts.sum())}; rows true, columns predicted"
    write(page, fitted(told, width - 2 * MARGIN), MARGIN + LINE, MARGIN)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    paper, blue = np.array(PAPER, float), np.array(BLUE, float)
    for row, column in np.ndindex(counts.shape):
        y, x = top + row * CELL, left + column * CELL
        share = shares[row, column]
        page[y : y + CELL - 1, x : x + CELL - 1] = np.rint(paper + share * (blue - paper))
        text = str(int(counts[row, column]))
        colour = PAPER if share > 0.5 else INK
        write(page, text, y + (CELL - LINE) // 2, x + (CELL - text_width(text)) // 2, colour)
    for number, name in enumerate(names):
        write(page, name, top + number * CELL + (CELL - LINE) // 2, MARGIN)
        short = str(number)
        write(page, short, top - LINE, left + number * CELL + (CELL - text_width(short)) // 2)
    return page


def neighbours_page(
    images: np.ndarray, found: np.ndarray, similarity: np.ndarray, names: Sequence[str], header: str
) -> np.ndarray:
    """A row a query: the image, then those whose embeddings are the most similar, best first.

    Args:
        images: uint8 (N, H, W, C).
        found: numbers of images (queries, 1 + neighbours), a row's first the query itself.
        similarity: cosines, of the same shape.
    """
    scale = panel_scale(*images.shape[1:3], least=128, most=160)
    side = sized(images[0], scale).shape[:2]
    rows = [[sized(as_rgb(images[i]), scale) for i in row] for row in found]
    captions = []
    for row, cosines in zip(found, similarity, strict=True):
        told = ", ".join(f"{cosine:.4f}" for cosine in cosines[1:])
        captions.append([f"{names[row[0]]}: cosine {told}"])
    titles = ["query", *(f"neighbour {n}" for n in range(1, found.shape[1]))]
    grid = Grid(*side, rows=len(rows), columns=len(titles), header=1)
    return grid.draw(rows, titles, captions, [header])
