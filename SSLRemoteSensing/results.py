"""What a scoring leaves behind: results.json, the confusion matrix, a page of maps, a table."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from SSLRemoteSensing.command import device_name, versions
from SSLRemoteSensing.figures import draw_confusion_matrix, draw_examples
from SSLRemoteSensing.scoring import table
from SSLRemoteSensing.writing import write_text


def write_results(
    folder: Path,
    scores: dict,
    split: str,
    tiles,
    classify: Callable[[Tensor], Tensor],
    classes: Sequence[str],
    palette: Sequence,
    source: Path,
    best: dict,
    config: dict,
) -> None:
    """Write `scores` of the checkpoint `best`, read from `source`, to `folder`, and print them.

    Args:
        split: which tiles were scored, 'test' or 'val'.
        classify: images uint8 (N, C, H, W) to classes uint8 (N, H, W).
    """
    results = {
        "version": 1,
        "split": split,
        "tiles": len(tiles),
        "checkpoint": str(source),
        "step": best.get("step"),
        "chosen_by": "miou on val_data" if source.name == "best.pth" else None,
        "protocols": {"all": scores},
        "backbone": best.get("card", {}).get("config", config)["backbone_cfg"],
        "config": config,
        "versions": versions(),
        "device": device_name(),
    }
    write_text(folder / "results.json", json.dumps(results, indent=2, default=str) + "\n")
    draw_confusion_matrix(scores["confusion_matrix"], classes, folder / "confusion_matrix.png")
    draw_examples(classify, tiles, classes, palette, folder / "examples.png")
    print(f"{split}_data, {len(tiles)} tiles, {source}, step {best.get('step')}:")
    print(table(scores))
    print(f"results: {folder / 'results.json'}, confusion_matrix.png and examples.png beside it")
