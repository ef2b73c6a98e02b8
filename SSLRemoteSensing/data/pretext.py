"""From one image file to the three images of the pretext tasks."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from torch.utils.data import Dataset

from SSLRemoteSensing.core.config import Chain, Part, build
from SSLRemoteSensing.core.errors import UnreadableImage, UserError
from SSLRemoteSensing.data.file_lists import find_images
from SSLRemoteSensing.data.images import read_image
from SSLRemoteSensing.data.percentiles import chosen_scale
from SSLRemoteSensing.data.prepared import read_card
from SSLRemoteSensing.data.reading import Reading, reading_of
from SSLRemoteSensing.data.scale import ScaleKey
from SSLRemoteSensing.data.shards import has_shards
from SSLRemoteSensing.data.transforms import (
    TRANSFORMS,
    DistortBlock,
    RandomCrop,
    Resize,
    resize,
    window,
)
from SSLRemoteSensing.data.values import check_values
from SSLRemoteSensing.data.windows import WindowSettings, count_redrawn, mirrored, open_windows

MOST_SKIPPED = 20  # in a row, for one sample; the loop limits them all to 1 %


def agr_transforms(
    transforms_cfg: Annotated[dict, Chain(TRANSFORMS)],
    shortcut_cfg: Annotated[dict | None, Chain(TRANSFORMS)] = None,
) -> tuple[list, list]:
    """The classes of the transform prediction, and what follows each of them in random order.

    Args:
        transforms_cfg: one of these, drawn uniformly, is the transform to tell; the class is its
            place.
        shortcut_cfg: all of these follow, in random order, so that the transform cannot be told
            from traces of colour or border; None: nothing follows.
    """
    return (
        build_chain(transforms_cfg, "agr_transforms_cfg.transforms_cfg"),
        build_chain(shortcut_cfg or {}, "agr_transforms_cfg.shortcut_cfg"),
    )


def build_chain(cfg: dict, path: str) -> list:
    return [build(TRANSFORMS, entry, f"{path}.{key}") for key, entry in cfg.items()]


@dataclass
class PretextSettings:
    """Images without labels, each as occluded, anchor and transformed (Li et al. 2021).

    The keys of `train_data` of pre-training.

    Attributes:
        data_path: a folder, one of tar shards by `prepare shards` too; or a text file with one path
            a line, relative to that file's folder.
        data_format: pattern or patterns of the files in the folder; `**` goes into sub-folders. The
            ending is meant in any case, .jpg and .jpeg, .tif and .tiff alike; hidden files, such as
            ._a.jpg, are passed over.
        img_size: side of the three images in pixels, a multiple of 32.
        inpainting_transforms_cfg: anchor to occluded, by `DistortBlock`.
        pre_transforms_cfg: image to anchor.
        agr_transforms_cfg: anchor to transformed.
        post_transforms_cfg: kept for published configs; a `Resize` in it must agree with img_size.
        crop_size: first take a random square of this side in pixels, for images much larger than
            img_size; None: the whole image is scaled to img_size.
        bands: which bands of a file, counted from 1, e.g. (4, 1, 2); None: all.
        max_value: the value that becomes 255, e.g. 1023 for 10-bit data; values above are clipped.
            None: that of a prepared set, or the largest of the file's integer type.
        scale: in place of max_value, what becomes 0 and 255 in each band; or 'percentile', the
            2nd and 98th, found once over some of the images. None: by max_value.
        exclude: a text file of images to leave out, as tools/doctor.py writes it; None: none.
        on_bad_image: 'raise', or 'skip' to take the next file instead of an unreadable one; more
            than 1 % of them end the run.
        windows: the images are scenes, of which windows are drawn in place of whole files; None:
            whole files, or a random square of each by crop_size.
        allow_remote: data_path may be an address (https://, s3://, gs://, az://, /vsicurl/...), or
            list some, that GDAL reads over the network. False: nothing is read from there.
    """

    data_path: str
    img_size: int
    inpainting_transforms_cfg: Annotated[dict, Part(DistortBlock)]
    pre_transforms_cfg: Annotated[dict, Chain(TRANSFORMS)]
    agr_transforms_cfg: Annotated[dict, Part(agr_transforms)]
    post_transforms_cfg: Annotated[dict | None, Chain(TRANSFORMS)] = None
    data_format: str | Sequence[str] = "**/*.jpg"
    crop_size: int | None = None
    bands: Sequence[int] | None = None
    max_value: float | None = None
    on_bad_image: Literal["raise", "skip"] = "raise"
    exclude: str | None = None
    windows: Annotated[dict | None, Part(WindowSettings)] = None
    scale: ScaleKey = None
    allow_remote: bool = False


class PretextDataset(Dataset):
    """The images that `PretextSettings` name, as samples.

    `dataset[(epoch, index)]` is a dict of
        occluded, anchor, transformed: uint8 arrays (img_size, img_size, in_channels),
        transform_label: int, the class of the transform, in the order of `transforms_cfg`,
        crop: top, left, height and width of what the crops of `shortcut_cfg` left of the
            transformed image, as shares of its sides,
        index: int, the file the sample was made of: `files[index]`,
        skipped: list of int, unreadable files passed over to get there.
    With `windows` a file has several samples, of which `windows.scene(index)` is the file's number;
    of a scene passed over, `skipped` has its first one; and a sample has besides
        redrawn: int, how many windows were drawn before it that held too little data.

    Every draw comes from `default_rng([seed, epoch, index])`: a sample depends on its key alone,
    not on workers, processes or restarts.

    Raises:
        UserError: no image; transforms or sizes that cannot be.
    """

    def __init__(self, settings: PretextSettings, in_channels: int = 3, seed: int = 0):
        self.settings, self.in_channels, self.seed = settings, in_channels, seed
        self.distort = DistortBlock(**settings.inpainting_transforms_cfg)
        self.pre = build_chain(settings.pre_transforms_cfg, "pre_transforms_cfg")
        self.classes, self.shortcut = agr_transforms(**settings.agr_transforms_cfg)
        if not self.classes:
            raise UserError("agr_transforms_cfg.transforms_cfg: names no transform")
        side, crop_size = settings.img_size, settings.crop_size
        for transform in build_chain(settings.post_transforms_cfg or {}, "post_transforms_cfg"):
            if isinstance(transform, Resize) and transform.size != (side, side):
                raise UserError(
                    f"post_transforms_cfg: Resize to {transform.size} where img_size={side}"
                )
        if side < 32 or side % 32:
            raise UserError(f"img_size={side}: must be a multiple of 32, the backbone's stride")
        if crop_size is not None and crop_size < 1:
            raise UserError(f"crop_size={crop_size}: must be at least 1 pixel")
        self.files, self.reading = choose_images(settings, in_channels)
        self.windows = open_windows(settings, self.files, settings.on_bad_image == "skip")

    def __len__(self) -> int:
        return len(self.files if self.windows is None else self.windows)

    def __getitem__(self, key: tuple[int, int]) -> dict:
        epoch, index = key
        rng = np.random.default_rng([self.seed, epoch, index])
        if self.windows is None:
            image, index, skipped = self.read(index)
            counts = {}
        else:
            image, index, skipped, redrawn = self.read_window(index, rng)
            counts = {"redrawn": redrawn}
        side, crop_size = self.settings.img_size, self.settings.crop_size
        if crop_size is not None:
            image = window(image, crop_size, crop_size, rng)
        for transform in self.pre:
            image = transform(image, rng)
        anchor = np.ascontiguousarray(image)
        occluded = self.distort(anchor, rng)
        label = int(rng.integers(len(self.classes)))
        transformed = self.classes[label](anchor, rng)
        crop = (0.0, 0.0, 1.0, 1.0)
        for i in rng.permutation(len(self.shortcut)):
            if isinstance(self.shortcut[i], RandomCrop):
                transformed, crop = cut(transformed, crop, self.shortcut[i], rng)
            else:
                transformed = self.shortcut[i](transformed, rng)
        images = {"occluded": occluded, "anchor": anchor, "transformed": transformed}
        sample = {key: resize(image, side, side) for key, image in images.items()}
        facts = {"transform_label": label, "crop": crop, "index": index, "skipped": skipped}
        return sample | facts | counts

    def read(self, index: int) -> tuple[np.ndarray, int, list[int]]:
        """The image of `index`, or with on_bad_image='skip' the next readable one after it."""
        skipped, how = [], self.reading
        while True:
            place = (index + len(skipped)) % len(self)
            file = self.files[place]
            try:
                return read_image(file, self.in_channels, how.bands, how.scale), place, skipped
            except UnreadableImage as error:
                self.pass_over(error)
                skipped.append(place)
            self.require_readable(skipped, file)

    def read_window(
        self, index: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, int, list[int], int]:
        """The window of `index`, or as `read` the first one of the next scene, from the same place
        of the generator: what a scene that is passed over has drawn changes nothing."""
        skipped, start = [], rng.bit_generator.state
        first = self.windows.scene(index)
        while True:
            scene = (first + len(skipped)) % len(self.files)
            place = self.windows.first(scene) if skipped else index
            file, rng.bit_generator.state = self.files[scene], start
            try:
                image, _, _, redrawn = self.windows.read(
                    scene, file, rng, self.in_channels, self.reading
                )
                down, right = (self.windows.settings.size - side for side in image.shape[:2])
                return mirrored(image, down, right), place, skipped, redrawn
            except UnreadableImage as error:
                self.pass_over(error)
                skipped.append(self.windows.first(scene))
            self.require_readable(skipped, file)

    def pass_over(self, error: UnreadableImage) -> None:
        """Raise it anew where the settings do not let training pass over it."""
        if self.settings.on_bad_image == "raise":
            raise UnreadableImage(
                f"{error}, or pass over it: the same command with "
                f"--set train_cfg.train_data.on_bad_image=skip"
            ) from error

    def require_readable(self, skipped: Sequence[int], file: str) -> None:
        if len(skipped) == min(MOST_SKIPPED, len(self.files)):
            raise UserError(
                f"data: {len(skipped)} files in a row cannot be read, last {file}; "
                f"repair or remove them"
            )

    def check_values(self, key: str) -> None:
        """Warn where images come out nearly constant; `key` names this set in a config."""
        example = None if self.windows is None else self.windows.example
        check_values(self.files, self.in_channels, self.reading, key, example)

    def name(self, index: int) -> Path:
        return Path(self.files[index if self.windows is None else self.windows.scene(index)])


def cut(
    image: np.ndarray, crop: Sequence[float], transform: RandomCrop, rng: np.random.Generator
) -> tuple[np.ndarray, tuple[float, ...]]:
    """The window that `transform` draws of `image`, which is `crop` of another one; and what of
    that one the window is."""
    top, left, height, width = transform.place(image.shape, rng)
    high, wide = crop[2] / image.shape[0], crop[3] / image.shape[1]  # of a pixel
    place = (crop[0] + top * high, crop[1] + left * wide, height * high, width * wide)
    return image[top : top + height, left : left + width], place


def choose_images(settings: PretextSettings, in_channels: int = 3) -> tuple[list[str], Reading]:
    """The images of a `PretextDataset` and how they are read; of the first the header is read, for
    scale='percentile' also values of some."""
    data_path = settings.data_path
    card = read_card(data_path)
    is_whole_set = card is not None and Path(data_path).absolute() == card["root"]
    if is_whole_set and not has_shards(data_path):
        raise UserError(f"data_path {data_path}: name a split, {data_path}/images/train")
    images = find_images(
        data_path,
        settings.data_format,
        settings.exclude,
        takes_shards=True,
        allow_remote=settings.allow_remote,
    )
    scale = chosen_scale(settings, card, images, in_channels)
    reading = reading_of(images[0], scale, settings.bands, card, settings.windows)
    # What is scaled to img_size; of whole images of any size nothing is known.
    side = settings.windows["size"] if settings.windows else settings.crop_size
    gsd = side and reading.gsd and reading.gsd * side / settings.img_size
    return images, replace(reading, gsd=gsd)


def collate(samples: list[dict]) -> dict:
    """Stack samples: images uint8 (N, C, H, W) in channels_last memory, as they were decoded."""
    batch = {
        key: torch.from_numpy(np.stack([sample[key] for sample in samples])).permute(0, 3, 1, 2)
        for key in ("occluded", "anchor", "transformed")
    }
    for key in ("transform_label", "index"):
        batch[key] = torch.tensor([sample[key] for sample in samples], dtype=torch.int64)
    batch["crop"] = torch.tensor([sample["crop"] for sample in samples], dtype=torch.float32)
    batch["skipped"] = [index for sample in samples for index in sample["skipped"]]
    return batch | count_redrawn(samples)
