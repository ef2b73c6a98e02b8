"""Tiles with labels: image and label of a pixel stay together through every crop, flip and turn."""

import os
import sys
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from SSLRemoteSensing.core.classes import IGNORE
from SSLRemoteSensing.core.config import Part
from SSLRemoteSensing.core.console import warn
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.data.file_lists import EVERY_IMAGE, find_images, find_labels, leave_out, stem
from SSLRemoteSensing.data.images import (
    read_header,
    read_image,
    read_label,
    read_masked,
    read_valid,
)
from SSLRemoteSensing.data.labels import (
    INVALID,
    ValueCoding,
    check_labels,
    count_label,
    count_labels,
    count_values,
    require_one_size,
    value_coding,
)
from SSLRemoteSensing.data.percentiles import chosen_scale
from SSLRemoteSensing.data.prepared import origin_of_tiles, read_card, require_fit
from SSLRemoteSensing.data.reading import Reading, agreed_reading, reading_of
from SSLRemoteSensing.data.sampling import ClassSampling, SamplingSettings
from SSLRemoteSensing.data.scale import ScaleKey
from SSLRemoteSensing.data.subsets import choose_fraction, name_hash
from SSLRemoteSensing.data.transforms import ColorJitter, turn, window
from SSLRemoteSensing.data.values import check_values
from SSLRemoteSensing.data.windows import (
    LARGEST,
    WindowSettings,
    commonest,
    count_redrawn,
    mirrored,
    open_windows,
    read_label_window,
    scene_shape,
)


@dataclass
class TileSettings:
    """Images with label maps, paired by name.

    The keys of `train_data`, `val_data` and `test_data` of fine-tuning.

    Attributes:
        image_path: a folder, or a text file with one path a line, relative to that file's folder.
        data_format: pattern or patterns of the files in the folder; `**` goes into sub-folders. The
            ending is meant in any case, .jpg and .jpeg, .tif and .tiff alike; hidden files, such as
            ._a.jpg, are passed over.
        label_path: the folder of labels; sub-folders are as in `image_path`, of a list as below its
            folder, and where no label is there, in none.
        label_format: a label's file name, with {stem} for the image's name without ending, and an
            ending as in data_format.
        hash_range: keep the images whose name hashes into [low, high) of [0, 1): (0.1, 1) and
            (0, 0.1) divide a folder into train and validation, the same on every machine.
        exclude: a text file of images to leave out, as tools/doctor.py writes it; None: none.
        fraction: keep this share of the tiles, above 0 to 1, as `choose_fraction` does; they come
            round again, so an epoch has as many steps at any fraction.
        fraction_seed: which tiles these are; a smaller fraction is a part of a larger one.
        label_offset: added to a label's value to give its class: -1 where 0 is not scored and 1 is
            the first class. None: found in the values of the training labels, and said.
        label_codes: the value of each class, e.g. (0, 128, 255); None: as with label_offset.
        crop_size: side of a random square crop in pixels; smaller tiles are padded (image mirrored,
            label 255). None: whole tiles, all of one size.
        flips: mirror each axis with probability 1/2.
        turns: turn by a random multiple of 90 degrees.
        jitter: random changes of colour, by `ColorJitter`; None: none.
        bands: which bands of a file, counted from 1, e.g. (4, 1, 2). None: those of train_data, or
            all.
        max_value: the value that becomes 255, e.g. 1023 for 10-bit data; values above are clipped.
            None: that of a prepared set or of train_data, or the largest of the file's integer
            type.
        scale: in place of max_value, what becomes 0 and 255 in each band; or 'percentile', the
            2nd and 98th, found once over training images. None: by max_value, or of train_data.
        windows: the images are scenes, of which windows are drawn in place of whole files, with
            those of their labels; what a scene says is no data is not scored. `fraction` then
            keeps scenes. None: whole files, or a random square of each by crop_size.
        sampling: draw tiles by the classes in their labels. None: each as often as any other.
    """

    image_path: str
    label_path: str
    data_format: str | Sequence[str] = EVERY_IMAGE
    label_format: str = "{stem}.png"
    hash_range: tuple[float, float] = (0.0, 1.0)
    fraction: float = 1.0
    fraction_seed: int = 0
    label_offset: int | None = None
    label_codes: Sequence[int] | None = None
    crop_size: int | None = None
    flips: bool = False
    turns: bool = False
    jitter: Annotated[dict | None, Part(ColorJitter)] = None
    bands: Sequence[int] | None = None
    max_value: float | None = None
    exclude: str | None = None
    windows: Annotated[dict | None, Part(WindowSettings)] = None
    scale: ScaleKey = None
    sampling: Annotated[dict | None, Part(SamplingSettings)] = None


class SegmentationDataset(Dataset):
    """The tiles that `TileSettings` name, as samples.

    `dataset[(epoch, index)]` is a dict of image uint8 (H, W, in_channels), label uint8 (H, W) with
    255 = not scored, and index; with `windows` also redrawn, as `PretextDataset` has it. Draws
    depend on (seed, epoch, index) alone. An index past the end begins again.

    Args:
        in_channels: of the network; three take grey, repeated.
        coding: that of the training labels, for the other splits: a few labels show too little.
        classes: names to compare with those that a prepared set has.
        checked: the labels have been looked through in `coding`; take them at its word.
        train: how the training images are read, for the other splits.

    `full_length` is the number of samples before `fraction`, `num_files` that of tiles or scenes,
    `left_out` the images that `fraction` leaves out.
    Prepared tiles are taken at the word of their dataset.json. Of others every label is read once
    when the data set is opened.

    Raises:
        UserError: no image, a missing label, sizes that differ, a value that is no class, a
            prepared set of other classes or bands; when read: bands that differ.
    """

    def __init__(
        self,
        settings: TileSettings,
        num_classes: int,
        in_channels: int = 3,
        seed: int = 0,
        coding: ValueCoding | None = None,
        classes: Sequence[str] | None = None,
        checked: bool = False,
        train: Reading | None = None,
    ):
        if settings.crop_size is not None and not 1 <= settings.crop_size <= LARGEST:
            raise UserError(f"crop_size={settings.crop_size}: must be 1 to {LARGEST} pixels")
        self.settings, self.num_classes = settings, num_classes
        self.in_channels, self.seed = in_channels, seed
        self.jitter = None if settings.jitter is None else ColorJitter(**settings.jitter)
        tiles = find_tiles(settings, num_classes, train, in_channels)
        self.card, self.reading = tiles.label_card, tiles.reading
        self.origin = origin_of_tiles(tiles.image_card, self.reading.bands, in_channels)
        check_present(tiles, settings)
        self.coding = tiles.coding or coding
        if self.card is not None:
            require_fit(self.card, num_classes, classes, self.reading.bands, in_channels)
        elif not checked:
            images, labels = zip(*tiles.pairs, strict=True)
            self.coding, remarks = check_labels(images, labels, num_classes, self.coding)
            for remark in remarks:
                print(remark, file=sys.stderr)
        chosen = range(len(tiles.pairs)) if tiles.chosen is None else tiles.chosen
        self.pairs = [tiles.pairs[index] for index in chosen]
        left_out = () if tiles.chosen is None else set(range(len(tiles.pairs))).difference(chosen)
        self.left_out = [tiles.pairs[index][0] for index in sorted(left_out)]
        self.num_files = len(tiles.pairs)
        windows = open_windows(settings, [image for image, _ in tiles.pairs])
        self.windows = windows and windows.of(chosen)
        self.sampling: ClassSampling | None = None
        self.length = len(self.pairs if windows is None else self.windows)
        self.full_length = len(tiles.pairs if windows is None else windows)

    def repeated(self) -> "SegmentationDataset":
        """This set for `full_length` samples an epoch: tiles come round again, each with its draws.

        So an epoch has as many steps at any fraction, and fewer tiles than a batch can be trained.
        """
        result, sampling = copy(self), self.settings.sampling
        result.length = self.full_length
        if sampling is not None:
            if self.windows is not None:
                raise UserError("train_data.sampling: is for tiles; leave out it or windows")
            counts = count_labels(self.read_scored, self.pairs, "counting labels")
            counts = counts[:, : self.num_classes]
            power = SamplingSettings(**sampling).power
            result.sampling = ClassSampling(counts, power, result.length, self.seed)
        return result

    def on(
        self,
        pairs: list[tuple[str, str]],
        reading: Reading,
        seed: int,
        coding: ValueCoding | None = None,
    ) -> "SegmentationDataset":
        """Other tiles with this set's crops, flips, turns and jitter, drawn by `seed`.

        Args:
            pairs: (image, label).
            reading: of these images.
            coding: of these labels; None: classes 0..K-1, and 255 = not scored.
        """
        result = copy(self)
        result.pairs, result.reading, result.seed = pairs, reading, seed
        result.coding = coding or value_coding(self.num_classes)
        result.length = result.full_length = result.num_files = len(pairs)
        result.left_out, result.sampling = [], None
        return result

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, key: tuple[int, int]) -> dict:
        epoch, index = key
        rng, counts = np.random.default_rng([self.seed, epoch, index]), {}
        if self.windows is None:
            index = index if self.sampling is None else self.sampling.tile(epoch, index)
            image, label = self.read(index)
            side = self.settings.crop_size
        else:
            image, label, counts["redrawn"] = self.read_window(index, rng)
            side = self.windows.settings.size
        down, right = (max(0, (side or 0) - length) for length in label.shape)
        if down or right:
            image = mirrored(image, down, right)
            label = np.pad(label, ((0, down), (0, right)), constant_values=IGNORE)
        # One array of C + 1 bands takes each geometric step, so that no two draws can part them.
        planes = np.dstack([image, label])
        if side is not None:
            planes = window(planes, side, side, rng)
        if self.settings.flips:
            planes = planes[:: 1 if rng.random() < 0.5 else -1, :: 1 if rng.random() < 0.5 else -1]
        if self.settings.turns:
            planes = turn(np.ascontiguousarray(planes), int(rng.integers(4)))
        image, label = map(np.ascontiguousarray, (planes[:, :, :-1], planes[:, :, -1]))
        if self.jitter is not None:
            image = self.jitter(image, rng)
        return {"image": image, "label": label, "index": index} | counts

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Image (H, W, C) and label (H, W) as they are in the files, checked; 255 where the image
        holds no data."""
        image, (label,) = self.read_with(*self.pairs[index % len(self.pairs)])
        return image, label

    def read_with(self, file: str, *labels: str) -> tuple[np.ndarray, list[np.ndarray]]:
        """The image `file` and some `labels` of it, as `read` gives them."""
        image, valid = read_masked(file, self.in_channels, self.reading.bands, self.reading.scale)
        parts = [self.read_label(label) for label in labels]
        for label, part in zip(labels, parts, strict=True):
            require_one_size((file, label), image.shape[:2], part.shape)
        return image, [unscored(part, valid) for part in parts]

    def read_scored(self, pair: tuple[str, str]) -> np.ndarray:
        """The label that `read` gives of (image, label); most images need not be decoded for it."""
        label = self.read_label(pair[1])
        valid = read_valid(pair[0], self.in_channels, self.reading.bands)
        if valid is not None:
            require_one_size(pair, valid.shape, label.shape)
        return unscored(label, valid)

    def read_window(
        self, index: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """Image (H, W, C) and label (H, W) of a window, of a scene that is smaller all of it; how
        often it was drawn again."""
        scene = self.windows.scene(index % len(self.windows))
        file, label_file = self.pairs[scene]
        image, valid, place, redrawn = self.windows.read(
            scene, file, rng, self.in_channels, self.reading
        )
        require_one_size(self.pairs[scene], scene_shape(file), scene_shape(label_file))
        values = read_label_window(label_file, place)
        label = commonest(self.decode(values, label_file), place.shape)
        return image, unscored(label, valid), redrawn

    def read_image(self, file: str) -> np.ndarray:
        """An image uint8 (H, W, in_channels), with the bands and scale of this set."""
        return read_image(file, self.in_channels, self.reading.bands, self.reading.scale)

    def read_label(self, file: str) -> np.ndarray:
        """A label as classes uint8 (H, W), its values checked."""
        return self.decode(read_label(file), file)

    def count_label(self, pair: tuple[str, str]) -> np.ndarray:
        """Pixels of each class, and of 255, in the label of (image, label), int64 (256,). Of scenes
        that windows are drawn from the label's own, since no image of them is read whole."""
        if self.windows is None:
            return count_values(self.read_scored(pair))
        _, counts = count_label(pair[1], read_header(pair[1]).pixels)
        self.require_known(counts, pair[1])
        return np.bincount(self.coding.classes, counts, 256).astype(np.int64)

    def decode(self, values: np.ndarray, file: str) -> np.ndarray:
        """Classes uint8 (H, W) of values uint8 (H, W) of the label `file`, checked."""
        label = cv2.LUT(values, self.coding.classes)
        self.require_known(count_values(values), file)
        return label

    def require_known(self, counts: np.ndarray, file: str) -> None:
        """Raise a `UserError` where one of the values counted in the label `file` is no class."""
        strangers = np.flatnonzero((counts > 0) & (self.coding.table == INVALID))
        if len(strangers):
            raise UserError(
                f"label {file}: value {strangers[0]} where classes are 0 to "
                f"{self.num_classes - 1} and {IGNORE} = not scored; mend the label or `classes`"
            )

    def check_values(self, key: str) -> None:
        """Warn where images come out nearly constant; `key` names this set in a config."""
        files = [image for image, _ in self.pairs]
        example = None if self.windows is None else self.windows.example
        check_values(files, self.in_channels, self.reading, key, example)

    def name(self, index: int) -> Path:
        if self.windows is not None:
            index = self.windows.scene(index % len(self.windows))
        return Path(self.pairs[index % len(self.pairs)][0])


def unscored(label: np.ndarray, valid: np.ndarray | None) -> np.ndarray:
    """`label` (H, W) with 255 where its image holds no data, by `valid` bool (H, W)."""
    return label if valid is None else np.where(valid, label, np.uint8(IGNORE))


def collate(samples: list[dict]) -> dict:
    """image uint8 (N, C, H, W) in channels_last memory, label uint8 (N, H, W), index int64 (N,)."""
    shapes = {sample["label"].shape for sample in samples}
    if len(shapes) > 1:
        raise UserError(
            f"train_data: tiles of a batch differ in size {sorted(shapes)}; set crop_size"
        )
    image = np.stack([sample["image"] for sample in samples])
    label = np.stack([sample["label"] for sample in samples])
    index = torch.tensor([sample["index"] for sample in samples], dtype=torch.int64)
    image = torch.from_numpy(image).permute(0, 3, 1, 2)
    batch = {"image": image, "label": torch.from_numpy(label), "index": index}
    return batch | count_redrawn(samples)


@dataclass(frozen=True)
class Tiles:
    """Labelled tiles as `TileSettings` name them; whether labels are there is not asked.

    Attributes:
        pairs: (image, label), those that `fraction` leaves out included.
        absent: the labels that are not there.
        chosen: the indices that `fraction` keeps; None: all.
        image_card: the dataset.json that the images are of, if any.
        label_card: the same where the labels are of that prepared set too, else None.
        coding: of the labels, where the prepared set or the settings state it.
        reading: of the images.
    """

    pairs: list[tuple[str, str]]
    absent: frozenset[str]
    chosen: list[int] | None
    image_card: dict | None
    label_card: dict | None
    coding: ValueCoding | None
    reading: Reading


def find_tiles(
    settings: TileSettings, num_classes: int, train: Reading | None = None, in_channels: int = 3
) -> Tiles:
    """Find images, labels and what is stated of them; one image's header is read.

    Args:
        train: bands and scale of the training images, for what `settings` do not state.

    Raises:
        UserError: no image, or none kept; a damaged dataset.json, or another scale or coding than
            its; a fraction or coding that cannot be; bands or a scale other than in `train`.
    """
    label_path = settings.label_path
    if not os.path.isdir(label_path):
        raise UserError(f"label_path {label_path}: no such folder")
    pairs, absent = find_pairs(settings)
    # A list file may lie anywhere; what it lists tells where the set is.
    is_folder = os.path.isdir(settings.image_path)
    image_card = read_card(settings.image_path if is_folder else Path(pairs[0][0]).parent)
    chosen = None
    if settings.fraction != 1:
        stems, seed = [stem(image) for image, _ in pairs], settings.fraction_seed
        chosen = choose_fraction(stems, settings.fraction, seed, image_card is not None)
    scale = chosen_scale(settings, image_card, [image for image, _ in pairs], in_channels, train)
    reading = reading_of(pairs[0][0], scale, settings.bands, image_card, settings.windows)
    root = image_card and image_card["root"]
    label_card = image_card if root and Path(label_path).absolute().is_relative_to(root) else None
    coding, offset, codes = None, settings.label_offset, settings.label_codes
    if label_card is not None and (offset or codes is not None):
        raise UserError(
            f"label_offset, label_codes: {root} is prepared, its labels are in order; leave them "
            "out"
        )
    if label_card is not None or offset is not None or codes is not None:
        coding = value_coding(num_classes, offset, codes)
    reading = agreed_reading(reading, train)
    return Tiles(pairs, absent, chosen, image_card, label_card, coding, reading)


def find_pairs(settings: TileSettings) -> tuple[list[tuple[str, str]], frozenset[str]]:
    """(image, label) for each image that `settings` choose, before `fraction`, and those labels
    that are not there; a `UserError` where no image is left."""
    image_path, label_path, exclude = settings.image_path, settings.label_path, settings.exclude
    images = find_images(image_path, settings.data_format, keys=("image_path", "data_format"))
    is_folder = os.path.isdir(image_path)
    root = Path(image_path) if is_folder else Path(image_path).parent
    label_root, label_of = str(Path(label_path)), {}
    is_one_folder = os.path.realpath(image_path) == os.path.realpath(label_root)
    inside = os.path.relpath(os.path.realpath(label_root), os.path.realpath(root))
    if is_one_folder:
        label_root = str(root)
    else:  # of a folder of labels within that of the images, none is an image
        images = [image for image in images if not image.startswith(f"{root}/{inside}/")]
    if not images:
        raise UserError(
            f"image_path {image_path}: its images all lie in label_path {label_path}; name the "
            "folder of the images, and that of their labels"
        )
    for image in images:  # a label lies in the sub-folder that its image lies in
        name = image[len(str(root)) + 1 :] if is_folder else below(root, image)
        folder, slash, name = name.rpartition("/")
        name = settings.label_format.replace("{stem}", stem(name))
        label_of[image] = f"{label_root}/{folder}{slash}{name}"
    other_names = find_labels(label_of.values())
    if not is_folder:  # a list may lie anywhere above its images, and all labels in one folder
        flat = {
            image: f"{label_root}/{label.rpartition('/')[2]}"
            for image, label in label_of.items() if other_names.get(label, label) is None
        }  # fmt: skip
        label_of |= flat
        known = {label: name for label, name in other_names.items() if name is not None}
        other_names = known | find_labels(flat.values())
    for image, label in label_of.items() if other_names else ():
        label_of[image] = other_names.get(label) or label
    # In a folder of both, a label is the label of another file, and no image. That an image is
    # left out does not make its label an image.
    labels_beside = set(label_of.values()) if is_one_folder else set()
    images = [image for image in images if image not in labels_beside]
    if not images:
        raise UserError(
            f"label_path {label_path}: is image_path, and by label_format="
            f"{settings.label_format!r} each image is its own label; set label_format, as in "
            "'{stem}_mask.png', or name the folder of the labels"
        )
    pairs = [(image, label_of[image]) for image in leave_out(images, root, exclude)]
    low, high = settings.hash_range
    if (low, high) != (0, 1):
        pairs = [pair for pair in pairs if low <= name_hash(stem(pair[0])) < high]
    if not pairs:
        raise UserError(
            f"hash_range={settings.hash_range!r}: keeps none of {len(label_of)} images; widen it"
        )
    image_of = {label: image for image, label in pairs}
    if len(image_of) < len(pairs):
        image, label = next(pair for pair in pairs if image_of[pair[1]] != pair[0])
        warn(
            f"image_path {image_path}: {image} and {image_of[label]} have one label, {label}; "
            "narrow data_format, or exclude one"
        )
    return pairs, frozenset(label for label, name in other_names.items() if name is None)


def below(root: Path, image: str) -> str:
    """The path of an image below the folder `root`, its name alone where it lies elsewhere."""
    path = Path(image)
    parts = path.relative_to(root).parts if path.is_relative_to(root) else ("..",)
    return path.name if ".." in parts else "/".join(parts)


def check_present(tiles: Tiles, settings: TileSettings) -> None:
    """Raise a `UserError` where labels are missing."""
    missing = [label for _, label in tiles.pairs if label in tiles.absent]
    if missing:
        count = f"{len(missing)} of {len(tiles.pairs)}"
        raise UserError(
            f"label_path {settings.label_path}: {count} images have no label, first "
            f"{os.path.basename(missing[0])}; set label_path and "
            f"label_format={settings.label_format!r}"
        )
