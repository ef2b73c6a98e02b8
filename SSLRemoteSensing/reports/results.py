"""What a scoring leaves behind: results.json, scenes.json, the confusion matrix, a page of maps.

The form of results.json is `docs/results.schema.json`. scenes.json has the confusion matrix of each
scene: what a bootstrap over scenes needs, and which scene the errors lie in.
"""

import json
from collections.abc import Sequence

from SSLRemoteSensing.core.files import write_text
from SSLRemoteSensing.core.machine import device_name, versions
from SSLRemoteSensing.evaluation.protocols import score_protocols
from SSLRemoteSensing.evaluation.scoring import Scoring
from SSLRemoteSensing.reports.figures import draw_confusion_matrix, draw_examples
from SSLRemoteSensing.reports.html import percent

VERSION = 2  # of results.json, as in its schema
METRICS = {"mIoU": "miou", "mF1": "mf1", "OA": "oa", "kappa": "kappa"}


def write_results(scoring: Scoring) -> dict:
    """Write the scores beside the checkpoint that they are of; print them.

    Returns:
        What results.json holds.

    Raises:
        UserError: a protocol of the settings that these labels do not allow.
    """
    scored, split, source, config = scoring.scored, scoring.split, scoring.source, scoring.config
    tiles, scenes, classes, settings = scored.tiles, scored.number, scored.classes, scored.settings
    folder, step = source.parent, scoring.checkpoint.get("step")
    in_windows = not scored.stacked
    protocols = score_protocols(scoring.counts, classes, settings)
    results = {
        "version": VERSION,
        "split": split,
        "scenes": scenes,
        "tiles": len(tiles),
        "scoring": {
            "on": "tiles" if scenes is None else "scenes",
            "window": settings.window if in_windows else None,
            "overlap": settings.overlap if in_windows else None,
            "tta": settings.tta,
        },
        "checkpoint": str(source),
        "step": step,
        "chosen_by": "miou on val_data" if source.name == "best.pth" else None,
        "train_tiles": scoring.card.get("train_tiles"),
        "protocols": protocols,
        "backbone": scoring.card.get("config", config)["backbone_cfg"],
        "config": config,
        "versions": versions(),
        "device": device_name(),
    }
    first = next(iter(protocols.values()))
    write_text(folder / "results.json", json.dumps(results, indent=2, default=str) + "\n")
    write_scenes(scoring)
    content = f"{len(tiles)} tiles" if scenes is None else f"{scenes} scenes ({len(tiles)} tiles)"
    print(f"{split}_data, {content}, {source}, step {step}, in %:")
    print(class_table(first))
    print(protocol_table(protocols))
    matrix, names = first["confusion_matrix"], row_names(first, classes)
    draw_confusion_matrix(matrix, names, folder / "confusion_matrix.png")
    maps, page = {"map": scoring.classify}, folder / "examples.png"
    draw_examples(maps, tiles, classes, config["palette"], page)
    return results


def write_scenes(scoring: Scoring) -> None:
    """Write scenes.json; where tiles were scored there is none, nor one of an earlier scoring."""
    path, scored = scoring.source.with_name("scenes.json"), scoring.scored
    if scoring.by_scene is None:
        path.unlink(missing_ok=True)
        return
    pairs = zip(scored.scenes, scoring.by_scene.tolist(), strict=True)
    contents = {
        "split": scoring.split,
        "kind": next(iter(scored.kinds)),
        "classes": list(scored.classes),
        "scenes": [{"name": scene.name, "confusion_matrix": counts} for scene, counts in pairs],
    }
    write_text(path, json.dumps(contents) + "\n")


def row_names(scores: dict, classes: Sequence[str]) -> list[str]:
    """What the rows of a protocol's confusion matrix are of."""
    is_full = len(scores["confusion_matrix"]) == len(classes)
    return list(classes if is_full else scores["per_class"])


def class_table(scores: dict) -> str:
    """Scores of each class as lines of text, in per cent."""
    lines = [f"{'class':<24}{'IoU':>8}{'F1':>8}{'precision':>11}{'recall':>8}{'pixels':>16}"]
    for name, entry in scores["per_class"].items():
        numbers = [percent(entry[key]) for key in ("iou", "f1", "precision", "recall")]
        text = "{:<24}{:>8}{:>8}{:>11}{:>8}".format(name, *numbers)
        lines.append(f"{text}{entry['pixels']:>16,}")
    return "\n".join(lines)


def protocol_table(protocols: dict[str, dict]) -> str:
    """The means of each protocol as lines of text, in per cent."""
    width = max(24, *(len(name) + 2 for name in protocols))
    heads = "".join(f"{text:>8}" for text in METRICS)
    lines = [f"{'protocol':<{width}}{heads}{'pixels scored':>19}"]
    for name, scores in protocols.items():
        numbers = "".join(f"{percent(scores[key]):>8}" for key in METRICS.values())
        lines.append(f"{name:<{width}}{numbers}{scores['pixels']:>19,}")
        if scores["absent"]:
            absent = ", ".join(scores["absent"])
            lines.append(f"  in neither label nor prediction, left out of its means: {absent}")
    return "\n".join(lines)
