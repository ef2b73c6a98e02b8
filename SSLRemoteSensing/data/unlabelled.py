"""Tiles without labels that train beside those with: which they are, and both in one sample."""

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from torch.utils.data import Dataset

from SSLRemoteSensing.core.bars import map_files
from SSLRemoteSensing.core.console import warn
from SSLRemoteSensing.core.errors import UnreadableImage, UserError, about
from SSLRemoteSensing.core.files import sha256
from SSLRemoteSensing.data.file_lists import EVERY_IMAGE, LABEL_FOLDER, find_images
from SSLRemoteSensing.data.images import read_header, read_image
from SSLRemoteSensing.data.prepared import UNLABELLED, agreed_scale, read_card, source_sizes
from SSLRemoteSensing.data.reading import Reading, agreed_reading, reading_of
from SSLRemoteSensing.data.scale import up_to
from SSLRemoteSensing.data.segmentation import SegmentationDataset, collate

REST = "rest"
KEY = "train_cfg.unlabelled"


@dataclass
class UnlabelledSettings:
    """The keys of `unlabelled`: tiles that a network labels, and that train with these labels.

    Attributes:
        image_path: 'rest', the train tiles that `fraction` leaves out, whose labels are not used,
            and those that the prepared set has of images without a label (images/unlabelled); or
            a folder, or a text file with one path a line, as in train_data.
        data_format: pattern or patterns of the files in the folder, as in train_data.
        bands, max_value: of the folder's files, as in train_data; None: those of train_data, where
            the files are of its kind.
        labelled_by: 'probe', a linear probe on the frozen backbone; 'network', the config's own; in
            the run's folder each is first trained on the labelled tiles, as long as the run. Or a
            file, a checkpoint of a fine-tuning with these classes. None: 'probe' where the backbone
            is pre-trained, else 'network'.
        share: of the pixels of each class, the share that is learned from, above 0 to 1: those
            whose class is surest.
        weight: of the loss on these tiles, above 0; that on the labelled ones has 1.
        allow_test_images: take images that are validation or test tiles as well, or that such
            tiles were cut from; else they are refused. Their scores are then of images that were
            seen in training.
    """

    image_path: str
    data_format: str | Sequence[str] = EVERY_IMAGE
    labelled_by: Literal["probe", "network"] | str | None = None
    share: float = 0.6
    weight: float = 1.0
    allow_test_images: bool = False
    bands: Sequence[int] | None = None
    max_value: float | None = None

    def __post_init__(self):
        if self.image_path == REST and (self.bands is not None or self.max_value is not None):
            raise UserError(
                f"{KEY}: '{REST}' is read as train_data is; leave out bands and max_value"
            )
        if not 0 < self.share <= 1:
            raise UserError(f"{KEY}.share={self.share}: must be above 0 and at most 1")
        if not self.weight > 0:
            raise UserError(f"{KEY}.weight={self.weight}: must be above 0")


def find_unlabelled(
    settings: UnlabelledSettings,
    train: SegmentationDataset,
    scored: dict[str, SegmentationDataset],
) -> tuple[Sequence[str], Reading]:
    """The images to label, and how they are read.

    Args:
        train: the labelled tiles; an image with the bytes of one of them, or of a file that one was
            cut from, is left out.
        scored: by their key in `train_cfg`, tiles whose images must not be among them, nor what
            they were cut from.

    Raises:
        UserError: no image is left; other bands or another scale than those of `train`; images of
            `scored`, unless `settings` allow them.
    """
    if train.windows is not None:
        raise UserError(
            f"{KEY}: is for tiles, and train_data.windows draws from scenes; cut them by "
            "tools/prepare.py"
        )
    if settings.image_path == REST:
        rest = [*train.left_out, *tiles_without_labels(train)]
        if not rest:
            raise UserError(
                f"{KEY}.image_path='{REST}': all train tiles have their labels used; set "
                "train_data.fraction (--fraction 0.1), or name a folder of other images"
            )
        return rest, train.reading
    root, keys = settings.image_path, (f"{KEY}.image_path", f"{KEY}.data_format")
    images = find_images(root, settings.data_format, keys=keys)
    labels = [image for image in images if lies_among_labels(image, root)]
    if labels:
        raise UserError(
            f"{keys[0]} {root}: {len(labels)} of {len(images)} files lie in a folder of labels, "
            f"first {labels[0]}; name the folder of the images alone"
        )
    card = read_card(root if os.path.isdir(root) else images[0])
    with about(KEY):
        scale = agreed_scale(card, up_to(settings.max_value), settings.bands)
        reading = reading_of(images[0], scale, settings.bands, card, None)
        reading = agreed_reading(reading, train.reading)
    try:
        read_image(images[0], train.in_channels, reading.bands, reading.scale)
    except UserError as error:
        fault, remedy = str(error).partition(";")[0], "name images that train_data could have"
        remedy += "" if isinstance(error, UnreadableImage) else ", or choose with bands=(...) here"
        raise UserError(f"{KEY}: {fault}; {remedy}") from error
    others = {"train_data": train} | scored
    known = copies(images, {k: [file for file, _ in tiles.pairs] for k, tiles in others.items()})
    for key in scored:
        both = sorted(known[key])
        if both and not settings.allow_test_images:
            raise UserError(
                f"{keys[0]} {root}: {len(both)} of {len(images)} images are tiles of {key} or what "
                f"they were cut from, first {both[0]}; name a folder without them, or set "
                f"allow_test_images=True, and say so with the scores"
            )
        if both:
            warn(
                f"{KEY}: {len(both)} images are tiles of {key} or what they were cut from, as "
                f"allow_test_images=True has it"
            )
    left = [image for image in images if image not in known["train_data"]]
    if not left:
        raise UserError(
            f"{keys[0]} {root}: its {len(images)} images are all among the labelled tiles, or what "
            "they were cut from; name a folder of others"
        )
    return left, reading


def tiles_without_labels(train: SegmentationDataset) -> Sequence[str]:
    """Those that the prepared set of the labelled ones has; none where there is no such set."""
    card = read_card(os.path.dirname(train.pairs[0][0]))
    if card is None or not card.get("tiles", {}).get(UNLABELLED):
        return []
    folder = card["root"] / "images" / UNLABELLED
    return find_images(folder, EVERY_IMAGE, keys=(f"{KEY}.image_path='{REST}'", None))


def lies_among_labels(image: str, root: str) -> bool:
    """Whether a folder between `root` and the image is called as folders of labels are."""
    parents = Path(os.path.relpath(image, root if os.path.isdir(root) else Path(root).parent)).parts
    return any(LABEL_FOLDER.fullmatch(part.lower()) for part in parents[:-1])


def copies(images: Sequence[str], others: dict[str, Sequence[str]]) -> dict[str, set[str]]:
    """For each list of `others` those of `images` that have the bytes of one of it, or of a file
    that one was cut from. Only files of a size that is on both sides are read, each once."""
    sources = {key: source_sizes(files) for key, files in others.items()}
    size_of = {
        file: os.path.getsize(file) for file in [*images, *itertools.chain(*others.values())]
    }
    sizes = {size_of[file] for file in itertools.chain(*others.values())}
    sizes |= {size for sizes_of in sources.values() for size in sizes_of.values()}
    sizes &= {size_of[file] for file in images}
    alike = [file for file, size in size_of.items() if size in sizes]
    hashes = dict(zip(alike, map_files(sha256, alike, "hashing"), strict=True))
    known = {
        key: {hashes[file] for file in files if file in hashes} | sources[key].keys()
        for key, files in others.items()
    }
    return {
        key: {image for image in images if hashes.get(image) in digests}
        for key, digests in known.items()
    }


def require_readable(images: Sequence[str], train: SegmentationDataset) -> None:
    """Raise a `UserError` for a file whose header cannot be read, and, where none is cropped, for
    one of another size than the labelled tiles: what else training would meet hours later."""
    shapes = {}
    for image, head in zip(images, map_files(read_header, images, "reading headers"), strict=True):
        shapes.setdefault((head.width, head.height), image)
    first = read_header(train.pairs[0][0])
    shapes.pop((first.width, first.height), None)
    if shapes and train.settings.crop_size is None:
        (width, height), image = next(iter(shapes.items()))
        raise UserError(
            f"{KEY}: {image} is {width} x {height} pixels, tiles of train_data are {first.width} x "
            f"{first.height}; set train_data.crop_size"
        )


class WithUnlabelled(Dataset):
    """`labelled`, a tile of `unlabelled` beside each of its samples, as `unlabelled` in the sample.

    Which one follows from (epoch, index), as its draws do. An epoch is one of `labelled`; the other
    tiles go round, each once a lap, in another order in each and with other draws, however many
    epochs a lap takes: so an epoch has tiles of all folders, whose paths lie side by side.
    """

    def __init__(self, labelled: SegmentationDataset, unlabelled: SegmentationDataset):
        self.labelled, self.unlabelled = labelled, unlabelled

    def __len__(self) -> int:
        return len(self.labelled)

    def __getitem__(self, key: tuple[int, int]) -> dict:
        epoch, index = key
        others = len(self.unlabelled)
        lap, place = divmod(epoch * len(self) + index, others)
        tile = lap_order(self.unlabelled.seed, lap, others)[place]
        # Past the end a set begins again; the number, by which it draws, tells the laps apart.
        return self.labelled[key] | {"unlabelled": self.unlabelled[epoch, lap * others + int(tile)]}

    def name(self, index: int) -> Path:
        return self.labelled.name(index)


@lru_cache(maxsize=2)  # the samples of a batch are of one lap, or of two
def lap_order(seed: int, lap: int, size: int) -> np.ndarray:
    """The order of `size` tiles in a lap, drawn from (seed, lap)."""
    return np.random.default_rng([seed, lap]).permutation(size)


def collate_both(samples: list[dict]) -> dict:
    """A batch as of `segmentation.collate`, and the same of the tiles beside: unlabelled_image and
    pseudo_label, of the same shapes."""
    others = collate([sample["unlabelled"] for sample in samples])
    batch = collate([{k: v for k, v in x.items() if k != "unlabelled"} for x in samples])
    if others["label"].shape != batch["label"].shape:
        shapes = sorted({tuple(part["label"].shape[1:]) for part in (others, batch)})
        raise UserError(
            f"{KEY}: its tiles and those of train_data differ in size {shapes}; set crop_size"
        )
    return batch | {"unlabelled_image": others["image"], "pseudo_label": others["label"]}
