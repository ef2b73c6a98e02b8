"""What is kept of each run, in JSON's types: the tests compare it, record.py writes it anew."""

import json
import re
import sys
from pathlib import Path

import cv2
import numpy as np
import rasterio
import torch
from frozen import (
    card_of,
    digest_of,
    digest_of_pixels,
    entries_of,
    files_of,
    lines_of,
    norms_of,
    packed,
    plain,
)
from runs import STEPS, Done, Runs, command

HELP = ("train.py", "finetune_seg.py", "tools/predict.py", "tools/prepare.py", "tools/doctor.py")
HELP += ("tools/label_efficiency.py", "tools/probe.py", "tools/export.py", "tools/show_pretext.py")
HELP += ("tools/show_labels.py",)


def help_of(script: str) -> str:
    """`python SCRIPT --help`, as an interpreter of its own says it at 100 columns."""
    return command(script, "--help", folder=Path(), interpreter=sys.executable).stdout


def said(done: Done, folder: Path) -> dict:
    return {"stdout": lines_of(done.stdout, folder), "stderr": lines_of(done.stderr, folder)}


def backbone_of(run: Path) -> dict:
    return torch.load(run / "backbone.pth", weights_only=True)


def keys_of(value):
    """Keys at every depth."""
    if isinstance(value, dict):
        return {key: keys_of(entry) for key, entry in value.items()}
    return [keys_of(entry) for entry in value] if isinstance(value, list) else None


def pretraining(runs: Runs) -> dict:
    done, folder = runs.pretraining, runs.folder
    run = json.loads((done.folder / "run.json").read_text())
    return {
        "dry_run": said(runs.dry_pretraining, folder),
        "said": said(done, folder),
        "files": files_of(done.files),
        "entries": entries_of(done.folder / "log"),
        "card": card_of(done.folder / "backbone.json", folder),
        "run": keys_of(plain(run, folder)),
        "norms": norms_of(backbone_of(done.folder)),
    }


def finetuning(runs: Runs) -> dict:
    done, folder = runs.finetuning, runs.folder
    best = torch.load(done.folder / "best.pth", weights_only=True)
    return {
        "dry_run": said(runs.dry_finetuning, folder),
        "said": said(done, folder),
        "files": files_of(done.files),
        "entries": entries_of(done.folder / "log"),
        "results": card_of(done.folder / "results.json", folder),
        "norms": norms_of(best["model"]),
        "evaluation": said(runs.evaluation, folder),
        "evaluation_files": files_of(runs.evaluation.files),
        "evaluation_results": card_of(runs.evaluation.folder / "results.json", folder),
    }


def read_map(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        return file.read(1)


def georeference(path: Path) -> dict:
    with rasterio.open(path) as file:
        tags = {key: value for key, value in file.tags().items() if not key.startswith("TIFF")}
        colours = file.colormap(1) if file.count == 1 else {}
        shown = [0, 1, 2, 255]
        return {
            "crs": str(file.crs),
            "transform": list(file.transform)[:6],
            "shape": list(file.shape),
            "bands": file.count,
            "dtypes": list(file.dtypes),
            "nodata": file.nodata,
            "colours": {str(value): list(colours[value]) for value in shown if value in colours},
            "descriptions": list(file.descriptions),
            "tags": tags,
            "overviews": file.overviews(1),
            "layout": [file.profile.get("compress"), file.profile.get("tiled")],
        }


def mapped(done: Done, folder: Path) -> dict:
    return {
        "said": said(done, folder),
        "files": done.files,
        "map": georeference(done.folder / "map.tif"),
        "probabilities": georeference(done.folder / "map_probabilities.tif"),
        "pixels": packed(read_map(done.folder / "map.tif")),
    }


def prediction(runs: Runs) -> dict:
    return mapped(runs.prediction, runs.folder)


def old(runs: Runs) -> dict:
    folder = runs.folder
    return {
        "gone_on": {name: said(runs.gone_on(name), folder) for name in STEPS},
        "prediction": mapped(runs.old_prediction, folder),
        "evaluation": said(runs.old_evaluation, folder),
        "results": card_of(runs.old_evaluation.folder / "results.json", folder),
    }


def preparation(runs: Runs) -> dict:
    """Exact everywhere: whole numbers, and means and shares of them."""
    done = runs.preparation
    card = card_of(done.folder / "dataset.json", runs.folder)
    # Hashes of files that GDAL wrote: a test computes them.
    card["sources"] = list(card["sources"])
    tiles = [name for name in done.files if re.fullmatch(r"(images|labels)/.*\.png", name)]
    pixels = {name: cv2.imread(str(done.folder / name), cv2.IMREAD_UNCHANGED) for name in tiles}
    return {
        "said": said(done, runs.folder),
        "files": done.files,
        "card": card,
        "pixels": {name: digest_of_pixels(found)[:16] for name, found in pixels.items()},
    }


def hashes(runs: Runs) -> dict[str, str]:
    best = torch.load(runs.finetuning.folder / "best.pth", weights_only=True)
    return {
        "backbone": digest_of(backbone_of(runs.pretraining.folder)),
        "best": digest_of(best["model"]),
        "map": digest_of_pixels(read_map(runs.prediction.folder / "map.tif")),
    }
