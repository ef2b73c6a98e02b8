"""Tiles with labels: image and label of a pixel stay together through every crop, flip and turn."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from SSLRemoteSensing.config import Part
from SSLRemoteSensing.datasets.files import find_images
from SSLRemoteSensing.datasets.transforms import ColorJitter, turn, window
from SSLRemoteSensing.errors import UserError
from SSLRemoteSensing.metrics import IGNORE
from SSLRemoteSensing.raster import read_image, read_label


class SegmentationDataset(Dataset):
    """Images with label maps, paired by name.

    `dataset[(epoch, index)]` is a dict of image uint8 (H, W, in_channels), label uint8 (H, W) with
    255 = not scored, and index. Draws depend on (seed, epoch, index) alone.

    Args:
        image_path, data_format: a folder and its pattern(s), or a list file; see `find_images`.
        label_path: the folder of labels; sub-folders are as in `image_path`.
        label_format: a label's file name, with {stem} for the image's name without ending.
        hash_range: keep the images whose name hashes into [low, high) of [0, 1): (0.1, 1) and
            (0, 0.1) divide a folder into train and validation, the same on every machine.
        crop_size: side of a random square crop; smaller tiles are padded (image mirrored, label
        255).
        flips, turns: mirror each axis with probability 1/2; turn by a random multiple of 90
        degrees.
        jitter: parameters of `ColorJitter`.
        bands, max_value: see `read_image`.

    Raises:
        UserError: no image, a missing label; when read: sizes or bands that differ, a value that is
            no class.
    """

    def __init__(
        self,
        image_path: str,
        label_path: str,
        num_classes: int,
        data_format: str | Sequence[str] = ("**/*.png", "**/*.jpg", "**/*.tif", "**/*.tiff"),
        label_format: str = "{stem}.png",
        hash_range: tuple[float, float] = (0.0, 1.0),
        crop_size: int | None = None,
        flips: bool = False,
        turns: bool = False,
        jitter: Annotated[dict | None, Part(ColorJitter)] = None,
        bands: Sequence[int] | None = None,
        max_value: float | None = None,
        in_channels: int = 3,
        seed: int = 0,
    ):
        if crop_size is not None and crop_size < 1:
            raise UserError(f"crop_size={crop_size}: must be at least 1 pixel")
        if not Path(label_path).is_dir():
            raise UserError(f"label_path {label_path}: no such folder")
        self.num_classes, self.seed = num_classes, seed
        self.crop_size, self.flips, self.turns = crop_size, flips, turns
        self.jitter = None if jitter is None else ColorJitter(**jitter)
        self.in_channels, self.bands, self.max_value = in_channels, bands, max_value
        low, high = hash_range
        found = find_images(image_path, data_format)
        self.files = [file for file in found if low <= name_hash(file.stem) < high]
        if not self.files:
            raise UserError(f"hash_range={hash_range!r}: keeps none of {len(found)} images")
        root = Path(image_path)
        self.labels = []
        for file in self.files:
            inside = file.relative_to(root).parent if root.is_dir() else Path()
            self.labels.append(
                Path(label_path) / inside / label_format.replace("{stem}", file.stem)
            )
        missing = [label for label in self.labels if not label.is_file()]
        if missing:
            raise UserError(
                f"label_path {label_path}: {len(missing)} of {len(self.files)} images have no "
                f"label, "
                f"first {missing[0].name}; set label_path and label_format={label_format!r}"
            )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, key: tuple[int, int]) -> dict:
        epoch, index = key
        image, label = self.read(index)
        rng = np.random.default_rng([self.seed, epoch, index])
        if self.crop_size is not None:
            image, label = crop(image, label, self.crop_size, rng)
        # One array of C + 1 bands takes each geometric step, so that no two draws can part them.
        both = np.dstack([image, label])
        if self.flips:
            both = both[:: 1 if rng.random() < 0.5 else -1, :: 1 if rng.random() < 0.5 else -1]
        if self.turns:
            both = turn(np.ascontiguousarray(both), int(rng.integers(4)))
        image, label = np.ascontiguousarray(both[:, :, :-1]), np.ascontiguousarray(both[:, :, -1])
        if self.jitter is not None:
            image = self.jitter(image, rng)
        return {"image": image, "label": label, "index": index}

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Image (H, W, C) and label (H, W) as they are in the files, checked."""
        file, label_file = self.files[index], self.labels[index]
        image = read_image(file, self.in_channels, self.bands, self.max_value)
        label = self.read_label(index)
        if image.shape[:2] != label.shape:
            raise UserError(
                f"label {label_file}: {label.shape[1]} x {label.shape[0]} pixels, its image "
                f"{file.name} "
                f"{image.shape[1]} x {image.shape[0]}; they must be of one size"
            )
        return image, label

    def read_label(self, index: int) -> np.ndarray:
        """The label (H, W) of `index`, its values checked."""
        label_file = self.labels[index]
        label = read_label(label_file)
        wrong = label[(label >= self.num_classes) & (label != IGNORE)]
        if wrong.size:
            raise UserError(
                f"label {label_file}: value {wrong[0]} where classes are 0 to "
                f"{self.num_classes - 1} "
                f"and {IGNORE} = not scored; mend the label or `classes`"
            )
        return label

    def name(self, index: int) -> Path:
        return self.files[index]


def crop(
    image: np.ndarray, label: np.ndarray, side: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The same random square of both, padded at the bottom and right where they are smaller."""
    down, right = (max(0, side - length) for length in label.shape)
    if down or right:
        mirrored = cv2.copyMakeBorder(image, 0, down, 0, right, cv2.BORDER_REFLECT)
        image = mirrored.reshape(*mirrored.shape[:2], -1)
        label = np.pad(label, ((0, down), (0, right)), constant_values=IGNORE)
    both = window(np.dstack([image, label]), side, side, rng)
    return both[:, :, :-1], both[:, :, -1]


def collate(samples: list[dict]) -> dict:
    """image uint8 (N, C, H, W) in channels_last memory, label uint8 (N, H, W), index int64 (N,)."""
    shapes = {sample["label"].shape for sample in samples}
    if len(shapes) > 1:
        raise UserError(
            f"train_data: tiles of a batch differ in size {sorted(shapes)}; set crop_size"
        )
    image = np.stack([sample["image"] for sample in samples])
    label = np.stack([sample["label"] for sample in samples])
    return {
        "image": torch.from_numpy(image).permute(0, 3, 1, 2),
        "label": torch.from_numpy(label),
        "index": torch.tensor([sample["index"] for sample in samples], dtype=torch.int64),
    }


def name_hash(name: str) -> float:
    """A number in [0, 1) that depends on `name` alone."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
