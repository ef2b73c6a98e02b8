"""Runs on version-1 files, see version1.py."""

import functools
from pathlib import Path

import cv2
import numpy as np
import torch
import version1
from frozen import entries_of
from runs import Done, Runs, command, finetuning_config, pretraining_config, write_config

STEPS = {"latest": 5, "epoch": 4}


class OldRuns:
    """What the commands of today make of files of version 1, each run when it is asked for."""

    def __init__(self, runs: Runs):
        self.runs = runs
        self.written: dict[str, dict] = {}  # the version-1 files, before train.py went on

    @functools.cache  # noqa: B019  # as many as there are runs
    def gone_on(self, kept: str) -> Done:
        """train.py on the folder of a run of five steps, or of four that lost its latest.pth."""
        folder = self.runs.folder / f"old_{kept}"
        config = pretraining_config(self.runs.tiles, folder)
        file = write_config(config, self.runs.folder / f"old_{kept}_cfg.py")
        entries = entries_of(self.runs.pretraining.folder / "log")
        file_of_run = version1.write_run(folder, config, STEPS[kept], entries, kept == "latest")
        self.written[kept] = version1.structure(torch.load(file_of_run, weights_only=True))
        return command("train.py", "--config_file", file, folder=folder)

    @functools.cached_property
    def best(self) -> Path:
        tiles = sorted((self.runs.tiles / "images").iterdir())[:4]
        images = np.stack([cv2.imread(str(path))[:64, :64, ::-1] for path in tiles])
        folder = self.runs.folder / "old_best"
        folder.mkdir()
        config = finetuning_config(self.runs.preparation.folder, folder)
        images = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
        version1.write_best(folder / "best.pth", config, images)
        return folder / "best.pth"

    @functools.cached_property
    def prediction(self) -> Done:
        return self.runs.predict(self.best, self.runs.folder / "old_maps")

    @functools.cached_property
    def evaluation(self) -> Done:
        return self.runs.evaluate(self.best)
