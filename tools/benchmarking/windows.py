"""What reading windows of scenes costs beside reading the same pixels from tiles cut before."""

import argparse
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from demo_scenes.town import draw_town
from torch.utils.data import DataLoader, Dataset

from benchmarking.scenes import TOWN, write_scene
from benchmarking.timing import say
from SSLRemoteSensing.core.workers import one_thread
from SSLRemoteSensing.data.images import read_image, write_png
from SSLRemoteSensing.data.reading import Reading
from SSLRemoteSensing.data.windows import Windows, WindowSettings

SCENES, WORKERS = 4, 2
LAYOUTS = {  # of the scenes, all but the last in blocks of 256 x 256
    name: {"compress": name, "predictor": 2, "interleave": "pixel", "photometric": "RGB"}
    for name in ("deflate", "lzw", "strips")
}
BLOCKS = {"tiled": True, "blockxsize": 256, "blockysize": 256}


class Cost(Dataset):
    """CPU seconds that a worker takes to read sample `index`, a window or its tile."""

    def __init__(self, windows: Windows, scenes: list[str], tiles: Path, reads_tiles: bool):
        self.windows, self.scenes, self.tiles = windows, scenes, tiles
        self.reads_tiles = reads_tiles

    def __getitem__(self, index: int) -> float:
        start = time.process_time()
        self.read(index, self.reads_tiles)
        return time.process_time() - start

    def read(self, index: int, from_tile: bool) -> np.ndarray:
        if from_tile:
            return read_image(self.tiles / f"{index}.png")
        scene, rng = self.windows.scene(index), np.random.default_rng([0, 0, index])
        how = Reading(None, None, self.scenes[scene])
        return self.windows.read(scene, self.scenes[scene], rng, 3, how)[0]


def measure_windows(args: argparse.Namespace, scratch: Path) -> Iterator[dict]:
    """CPU seconds a window, from scenes and from PNG tiles of the same pixels, in turn, by two
    workers at a time whose first fifth of the windows is not counted: it opens and fills caches."""
    town = draw_town(np.random.default_rng(0), TOWN, TOWN)[0][:, :, :3]
    noise = np.random.default_rng(1).integers(-8, 9, town.shape)
    town = np.clip(town + noise, 0, 255).astype(np.uint8)  # as photographs have it
    yield {"window_size": args.img_size, "window_scenes": [SCENES, args.side, args.side]}
    for name, layout in LAYOUTS.items():
        say(f"windows: {name}")
        layout = layout | (BLOCKS if name != "strips" else {"compress": "deflate"})
        scenes = [str(scratch / f"{name}/{number}.tif") for number in range(SCENES)]
        for scene in scenes:
            write_scene(Path(scene), town, args.side, args.side, layout)
        per_scene = -(-args.windows // SCENES)
        windows = Windows(WindowSettings(args.img_size, per_scene), scenes)
        tiles = scratch / f"{name}_tiles"
        tiles.mkdir()
        both = [Cost(windows, scenes, tiles, reads_tiles) for reads_tiles in (False, True)]
        for index in range(len(windows)):
            write_png(tiles / f"{index}.png", both[0].read(index, False))
        rounds = [
            [cost_of(kind, len(windows), turn) for kind in both] for turn in range(args.rounds)
        ]
        window_s, tile_s = (statistics.median(costs) for costs in zip(*rounds, strict=True))
        ratios = [tile / window for window, tile in rounds]
        figures = {"window_ms": 1000 * window_s, "tile_ms": 1000 * tile_s}
        figures |= {"window_rate_over_tile": statistics.median(ratios), "rounds": ratios}
        yield {f"windows_{name}": figures}


def cost_of(dataset: Cost, count: int, turn: int) -> float:
    """Mean CPU seconds of a sample, read in random order."""
    order = np.random.default_rng(turn).permutation(count).tolist()
    loader = DataLoader(
        dataset, sampler=order, batch_size=None, num_workers=WORKERS, worker_init_fn=one_thread
    )
    return statistics.fmean(list(loader)[count // 5 :])
