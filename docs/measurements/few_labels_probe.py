"""What a straight line reads off frozen maps of few tiles: the table of few_labels.md.

    python docs/measurements/few_labels_probe.py random runs/few_labels/pretrain/backbone.pth

For each file of weights, or `random`, and each set of runs/few_labels: ridge regression of the
classes on all maps of ResNet-18 (enlarged to the tile, each channel with mean 0 and deviation 1) at
256 pixels a tile, from 2 % of the training tiles, as finetune_seg.py draws them; mIoU in % at 256
pixels of each validation tile, mean of eight draws.
"""

import sys
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from SSLRemoteSensing.data.subsets import choose_fraction
from SSLRemoteSensing.evaluation.metrics import ConfusionMatrix, scores
from SSLRemoteSensing.models.backbones import ARCHITECTURES
from SSLRemoteSensing.models.pretrained import load_backbone

CLASSES = {"mumbai": 6, "sparcs": 7, "dubai": 5}
FRACTION, DRAWS, PIXELS, RIDGE = 0.02, 8, 256, 0.1


def read_tiles(folder: Path, split: str) -> tuple[list[str], np.ndarray, np.ndarray]:
    files = sorted((folder / "images" / split).glob("*.png"))
    images = np.stack([cv2.imread(str(file))[:, :, ::-1] for file in files])
    labels = [cv2.imread(str(folder / "labels" / split / file.name), -1) for file in files]
    return [file.stem for file in files], images, np.stack(labels)


def drawn_network(images: np.ndarray) -> torch.nn.Module:
    """Random weights, with the statistics of batch normalization of these images."""
    torch.manual_seed(0)
    net = ARCHITECTURES["resnet18"]()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the mean over all batches
    with torch.no_grad():
        for batch in batches(images):
            net(batch)
    return net


def batches(images: np.ndarray) -> list[torch.Tensor]:
    tiles = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
    return list((tiles.float() / 255).split(64))


@torch.no_grad()
def features(net: torch.nn.Module, images: np.ndarray, places: np.ndarray) -> np.ndarray:
    """All maps at `places` (N, PIXELS) of each image: (N, PIXELS, channels of all maps)."""
    parts = []
    for batch, index in zip(batches(images), torch.from_numpy(places).split(64), strict=True):
        maps = [
            F.interpolate(x, size=batch.shape[2:], mode="bilinear") for x in net(batch).values()
        ]
        pixels = torch.cat(maps, dim=1).flatten(2)
        parts.append(pixels.gather(2, index[:, None].expand(-1, pixels.shape[1], -1)))
    return torch.cat(parts).transpose(1, 2).numpy()


def miou(truth: np.ndarray, prediction: np.ndarray, classes: int) -> float:
    matrix = ConfusionMatrix(classes)
    matrix.update(torch.from_numpy(prediction), torch.from_numpy(truth))
    return scores(matrix.counts, [str(k) for k in range(classes)])["miou"]


def probe(weights: str, folder: Path, classes: int) -> float:
    stems, images, labels = read_tiles(folder, "train")
    _, val_images, val_labels = read_tiles(folder, "val")
    net = drawn_network(images) if weights == "random" else load_backbone(None, weights)["model"]
    net.eval()
    rng = np.random.default_rng(0)
    draws = [
        np.argsort(rng.random((len(x), x[0].size)), 1)[:, :PIXELS] for x in (labels, val_labels)
    ]
    x, val_x = features(net, images, draws[0]), features(net, val_images, draws[1])
    y, val_y = (
        np.take_along_axis(values.reshape(len(values), -1), index, 1)
        for values, index in zip((labels, val_labels), draws, strict=True)
    )
    values = []
    for draw in range(DRAWS):
        chosen = choose_fraction(stems, FRACTION, draw, True)
        truth = y[chosen].ravel()
        rows = x[chosen].reshape(len(truth), -1)[truth < classes]
        mean, deviation = rows.mean(0), rows.std(0) + 1e-6
        rows = np.pad((rows - mean) / deviation, ((0, 0), (0, 1)), constant_values=1)
        targets = np.eye(classes, dtype=np.float32)[truth[truth < classes]]
        inner = rows.T @ rows / len(rows) + RIDGE * np.eye(rows.shape[1], dtype=np.float32)
        line = np.linalg.solve(inner, rows.T @ targets / len(rows))
        seen = (val_x.reshape(-1, val_x.shape[2]) - mean) / deviation
        values.append(miou(val_y.ravel(), (seen @ line[:-1] + line[-1]).argmax(1), classes))
    return float(np.mean(values))


if __name__ == "__main__":
    torch.set_num_threads(1)
    for weights in sys.argv[1:]:
        for name, classes in CLASSES.items():
            score = probe(weights, Path("runs/few_labels", name), classes)
            print(f"{weights} {name} {100 * score:.1f}")
