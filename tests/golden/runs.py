"""The commands whose behaviour is frozen, each run once a session, on drawn data.

Each is run as a user does, in a process of its own, on the CPU, in fp32 and with one thread.
"""

import functools
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import version1
from conftest import ROOT
from drawings import CLASSES, draw_scene, draw_source, draw_tiles
from frozen import entries_of
from preloaded import python

STEPS = {"latest": 5, "epoch": 4}  # of the runs of version 1
OLD_NAMES = {"latest": "latest.pth", "epoch": "epoch_0001.pth"}
RATE = 0.0001  # low: each step of Adam takes machines further apart
JITTER = dict(brightness=0.3, contrast=(0.5, 1.5), saturation=(0.5, 1.5), hue=(-0.3, 0.3))
# What a command reads of its environment must not depend on who runs it.
UNSET = ("NO_COLOR", "FORCE_COLOR", "RANK", "WORLD_SIZE", "LOCAL_RANK")


@dataclass(frozen=True)
class Done:
    """What a command said; `files` it made by their paths below `folder`."""

    stdout: str
    stderr: str
    folder: Path

    @property
    def files(self) -> list[str]:
        paths = (path for path in self.folder.rglob("*") if path.is_file())
        return sorted(path.relative_to(self.folder).as_posix() for path in paths)


def command(script: str, *arguments, folder: Path, interpreter: str | None = None) -> Done:
    """Run one of the repository's scripts; `folder` is where its results lie."""
    env = {key: value for key, value in os.environ.items() if key not in UNSET}
    env |= {"OMP_NUM_THREADS": "1", "COLUMNS": "100", "PYTHONPATH": str(ROOT)}
    line = [interpreter or python(), script, *map(str, arguments)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300, cwd=ROOT, env=env)
    assert done.returncode == 0, done.stderr
    return Done(done.stdout, done.stderr, folder)


def pretraining_config(tiles: Path, run: Path) -> dict:
    """Two epochs of four steps with all three tasks and a probe.

    Entries of the log at 3, 6 and 8, looks at 4 and 8, probes at 0, 4 and 8, saves at 4 and 8.
    """
    labelled = dict(image_path=str(tiles / "images"), label_path=str(tiles / "labels"))
    turns = {f"Rotate_{angle}": dict(name="Rotate", angle=angle) for angle in (0, 90, 180, 270)}
    flips = ("RandomHorizontalFlip", "RandomVerticalFlip")
    block = dict(min_cover_ratio=0.2, max_cover_ratio=1 / 3, **JITTER)
    return dict(
        name="golden",
        backbone_cfg=dict(name="resnet18", in_channels=3),
        inpainting_head_cfg=dict(
            name="InpaintingHead", in_channels=512, out_channels=3,
            feat_channels=(256, 128, 64, 64, 32),
        ),
        agr_head_cfg=dict(name="AGPHead", in_channels=512, num_classes=6),
        examplar_head_cfg=dict(name="ExamplarHead", in_channels=512, out_channels=64),
        train_cfg=dict(
            batch_size=4,
            device="cpu",
            precision="fp32",
            num_epoch=2,
            train_data=dict(
                data_path=str(tiles / "images"),
                data_format="*.png",
                img_size=64,
                crop_size=64,
                inpainting_transforms_cfg=block,
                pre_transforms_cfg={name: dict(name=name) for name in (*flips, "Rotate")},
                agr_transforms_cfg=dict(
                    transforms_cfg={name: dict(name=name, p=1.0) for name in flips} | turns,
                    shortcut_cfg=dict(
                        RandomCrop=dict(name="RandomCrop", crop_ratio_min=0.7, crop_ratio_max=0.95),
                        ColorJitter=dict(name="ColorJitter", **JITTER),
                        RandomGrayscale=dict(name="RandomGrayscale", p=0.5),
                    ),
                ),
            ),
            probe=dict(**labelled, classes=CLASSES, train_tiles=6, val_tiles=6, pixels=64),
            losses=dict(
                InpaintingLoss=dict(name="InpaintingLoss"),
                AGRLoss=dict(name="CrossEntropyLoss"),
                ExamplarLoss=dict(name="ExamplarLoss"),
                factors=(20, 1, 1),
            ),
            optimizer=dict(name="Adam", lr=RATE),
            lr_schedule=dict(name="stepLR", step_size=1, gamma=0.95),
            checkpoints=dict(checkpoints_path=str(run), save_step=1, max_keep=1),
            log=dict(log_path=str(run / "log"), log_step=3, vis_step=4, with_vis=True),
        ),
    )  # fmt: skip


def finetuning_config(tiles: Path, run: Path) -> dict:
    """Eight steps on prepared tiles, with a rate of its own for the backbone."""

    def split(name: str) -> dict:
        paths = {f"{kind}_path": str(tiles / f"{kind}s" / name) for kind in ("image", "label")}
        return paths | dict(data_format="*.png")

    return dict(
        name="golden",
        classes=CLASSES,
        palette=((120, 160, 90), (200, 60, 50)),
        backbone_cfg=dict(name="resnet18", in_channels=3, pretrained=False),
        decoder_cfg=dict(name="Decoder"),
        scoring_cfg=dict(window=64),
        train_cfg=dict(
            batch_size=4,
            device="cpu",
            precision="fp32",
            num_step=8,
            train_data=split("train")
            | dict(crop_size=64, flips=True, turns=True, jitter=dict(brightness=0.2), fraction=0.9),
            val_data=split("val"),
            test_data=split("test"),
            loss=dict(name="CrossEntropyLoss"),
            backbone_lr_factor=0.5,
            optimizer=dict(name="SGD", lr=0.02),
            lr_schedule=dict(name="cosine", warmup_steps=2),
            checkpoints=dict(checkpoints_path=str(run), max_keep=1),
            log=dict(log_path=str(run / "log"), log_step=3),
        ),
    )


def write_config(config: dict, path: Path) -> Path:
    path.write_text(f"config = {config!r}\n")
    return path


class Runs:
    """The runs, each made when it is first asked for, in `folder`."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.written: dict[str, dict] = {}  # the version-1 files, before train.py went on

    @functools.cached_property
    def tiles(self) -> Path:
        return draw_tiles(self.folder / "tiles")

    @functools.cached_property
    def scene(self) -> Path:
        return draw_scene(self.folder / "scene.tif")

    def pretrain(self, name: str, *flags) -> Done:
        """train.py in the folder of that name."""
        folder, file = self.folder / name, self.folder / f"{name}_cfg.py"
        write_config(pretraining_config(self.tiles, folder), file)
        return command("train.py", "--config_file", file, *flags, folder=folder)

    @functools.cached_property
    def dry_pretraining(self) -> Done:
        no_pictures = ("--set", "train_cfg.log.with_vis=False")  # a dry run refuses them
        return self.pretrain("pretraining", "--dry_run", *no_pictures)

    @functools.cached_property
    def pretraining(self) -> Done:
        return self.pretrain("pretraining")

    @functools.cached_property
    def preparation(self) -> Done:
        source, output = draw_source(self.folder / "source"), self.folder / "prepared"
        return command(
            "tools/prepare.py", "folder", "--source", source, "--output", output,
            "--classes", *CLASSES, "--tile", "64", "--stride", "48", "--workers", "1",
            folder=output,
        )  # fmt: skip

    @functools.cached_property
    def finetuning_file(self) -> Path:
        config = finetuning_config(self.preparation.folder, self.folder / "finetuning")
        return write_config(config, self.folder / "finetuning_cfg.py")

    @property
    def finetuning_flags(self) -> tuple:
        backbone = self.pretraining.folder / "backbone.pth"
        return "--config_file", self.finetuning_file, "--backbone", backbone

    @functools.cached_property
    def dry_finetuning(self) -> Done:
        folder = self.folder / "finetuning"
        return command("finetune_seg.py", *self.finetuning_flags, "--dry_run", folder=folder)

    @functools.cached_property
    def finetuning(self) -> Done:
        return command("finetune_seg.py", *self.finetuning_flags, folder=self.folder / "finetuning")

    def evaluate(self, best: Path) -> Done:
        """Score `best` from a folder of its own, as the results are written beside it."""
        flags = ("--config_file", self.finetuning_file, "--evaluate", best, "--tta", "--tiles")
        return command("finetune_seg.py", *flags, folder=best.parent)

    @functools.cached_property
    def evaluation(self) -> Done:
        folder = self.folder / "evaluation"
        folder.mkdir()
        return self.evaluate(Path(shutil.copy(self.finetuning.folder / "best.pth", folder)))

    def predict(self, best: Path, folder: Path) -> Done:
        """Map the drawn scene with `best`."""
        return command(
            "tools/predict.py", "--checkpoint", best, "--input", self.scene,
            "--output", folder / "map.tif", "--tile", "64", "--device", "cpu",
            "--precision", "fp32", "--probabilities", "--preview", folder=folder,
        )  # fmt: skip

    @functools.cached_property
    def prediction(self) -> Done:
        return self.predict(self.finetuning.folder / "best.pth", self.folder / "maps")

    @functools.cache  # noqa: B019  # as many as there are runs
    def gone_on(self, name: str) -> Done:
        """train.py on the folder of a version-1 run of five steps, or of four that lost its
        latest.pth."""
        folder = self.folder / f"old_{name}"
        config = pretraining_config(self.tiles, folder)
        entries = entries_of(self.pretraining.folder / "log")
        file_of_run = version1.write_run(folder, config, STEPS[name], entries, OLD_NAMES[name])
        self.written[name] = version1.structure(torch.load(file_of_run, weights_only=True))
        return self.pretrain(f"old_{name}")

    @functools.cached_property
    def old_best(self) -> Path:
        """best.pth of version 1."""
        paths = sorted((self.tiles / "images").iterdir())[:4]
        images = np.stack([cv2.imread(str(path))[:64, :64, ::-1] for path in paths])
        folder = self.folder / "old_best"
        folder.mkdir()
        config = finetuning_config(self.preparation.folder, folder)
        images = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
        version1.write_best(folder / "best.pth", config, images)
        return folder / "best.pth"

    @functools.cached_property
    def old_prediction(self) -> Done:
        return self.predict(self.old_best, self.folder / "old_maps")

    @functools.cached_property
    def old_evaluation(self) -> Done:
        return self.evaluate(self.old_best)
