"""The part of benchmark.py that measures samples: whole, and transform by transform."""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from benchmark_timing import say, seconds

from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.data.pretext import PretextDataset, PretextSettings, collate
from SSLRemoteSensing.data.transforms import resize, window

MOST = 200  # files of one pass


def open_images(config: dict, images: str | None, img_size: int, batch_size: int, scratch: Path):
    """The config's data set at `img_size` on the folder `images`, or on images drawn here.

    A config that crops at its own `img_size` crops at this one.
    """
    channels = config["backbone_cfg"].get("in_channels", 3)
    if channels != 3:
        raise UserError(f"backbone_cfg.in_channels={channels}: JPEG images have 3; take another")
    count = max(64, 2 * batch_size)
    data = dict(config["train_cfg"]["train_data"])
    if data.get("crop_size") == data["img_size"]:
        data["crop_size"] = img_size
    data |= {
        "data_path": images or str(draw_images(scratch / "images", count)),
        "data_format": "**/*.jpg",
        "img_size": img_size,
        "post_transforms_cfg": None,
        "bands": None,
        "max_value": None,
    }
    dataset = PretextDataset(PretextSettings(**data))
    if len(dataset) < batch_size:
        raise UserError(f"--images {images}: {len(dataset)} files, --batch_size {batch_size}")
    return dataset


def measure_samples(dataset: PretextDataset, train_data: dict, batch_size: int) -> dict:
    """Milliseconds a sample on one core: whole, its parts, and the parts' sum.

    The sum is of what one sample goes through, so with the mean of the classes, of which it gets
    one, and without collating. It differs from the whole by what lies between the parts.
    """
    say("samples, on one core")
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    whole = sample_ms(dataset)
    parts = parts_ms(dataset, train_data)
    samples = [dataset[(0, i % len(dataset))] for i in range(batch_size)]
    cpu = torch.device("cpu")
    collating = statistics.median(seconds(lambda: collate(samples), cpu) for _ in range(10))
    cv2.setNumThreads(threads)
    classes = [value for name, value in parts.items() if name.startswith("class ")]
    others = sum(value for name, value in parts.items() if not name.startswith("class "))
    return {
        "sample_ms": whole,
        "sample_parts_ms": parts | {"collate": collating * 1000 / batch_size},
        "sample_parts_sum_ms": others + statistics.mean(classes),
    }


def sample_ms(dataset: PretextDataset, rounds: int = 7) -> float:
    """Milliseconds a sample, the median over `rounds` passes of up to 200 files."""
    count = min(MOST, len(dataset))
    passes = []
    for epoch in range(rounds + 1):  # the first warms the file cache up
        start = time.perf_counter()
        for index in range(count):
            dataset[(epoch, index)]
        passes.append((time.perf_counter() - start) / count * 1000)
    return statistics.median(passes[1:])


def parts_ms(dataset: PretextDataset, train_data: dict, rounds: int = 5) -> dict[str, float]:
    """Milliseconds of each part of a sample: the median over passes of the mean over the files.

    Every class is timed on every anchor; one of them, drawn as in a sample, goes on to the
    shortcut transforms.

    Args:
        train_data: where the transforms' names stand, in the data set's order.
    """
    chains = train_data["agr_transforms_cfg"]
    pre = list(zip(train_data["pre_transforms_cfg"], dataset.pre, strict=True))
    classes = list(zip(chains["transforms_cfg"], dataset.classes, strict=True))
    shortcut = list(zip(chains.get("shortcut_cfg") or {}, dataset.shortcut, strict=True))
    count, passes = min(MOST, len(dataset)), []
    for epoch in range(rounds + 1):
        sums: dict[str, float] = defaultdict(float)

        def timed(name: str, function: Callable, *arguments, sums=sums):
            start = time.perf_counter()
            result = function(*arguments)
            sums[name] += (time.perf_counter() - start) * 1000
            return result

        for index in range(count):
            key = [dataset.seed, epoch, index]
            rng = timed("generator", np.random.default_rng, key)
            image, _, _ = timed("read and decode", dataset.read, index)
            if (side := dataset.settings.crop_size) is not None:
                image = timed("crop", window, image, side, side, rng)
            for name, transform in pre:
                image = timed(f"pre {name}", transform, image, rng)
            anchor = timed("contiguous anchor", np.ascontiguousarray, image)
            occluded = timed("DistortBlock", dataset.distort, anchor, rng)
            views = [timed(f"class {name}", one, anchor, rng) for name, one in classes]
            transformed = views[int(rng.integers(len(views)))]
            for i in rng.permutation(len(shortcut)):
                name, transform = shortcut[i]
                transformed = timed(f"shortcut {name}", transform, transformed, rng)
            size = dataset.settings.img_size
            for name, one in (("anchor", anchor), ("occluded", occluded)):
                timed(f"resize {name}", resize, one, size, size)
            timed("resize transformed", resize, transformed, size, size)
        passes.append({name: value / count for name, value in sums.items()})
    names = [name for name in passes[-1] if not name.startswith("shortcut ")]
    place = names.index("resize anchor")
    names[place:place] = [
        f"shortcut {name}" for name, _ in shortcut
    ]  # they were drawn in any order
    return {name: statistics.median(one[name] for one in passes[1:]) for name in names}


def draw_images(folder: Path, count: int) -> Path:
    """Smooth noise with edges in it, which compresses about as a photograph does."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        image = cv2.resize(coarse, (256, 256), interpolation=cv2.INTER_NEAREST)
        image = cv2.GaussianBlur(image, (3, 3), 0)
        noise = rng.normal(0, 6, image.shape)
        image = np.clip(image + noise, 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / f"{number:04d}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 90])
    return folder
