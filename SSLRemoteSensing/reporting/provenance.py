"""What made a score: data, weights, commands, versions, config."""

import json
import pprint
import shlex
import sys
from pathlib import Path

from SSLRemoteSensing.reporting.markup import Markup, facts, fold, join, link, section, tag

BESIDE = ("results.json", "tile_errors.csv", "confusion_matrix.png", "examples.png")
BESIDE += ("train_tiles.txt", "run.json", "backbone.json")
TASKS = {
    "inpainting_head_cfg": "inpainting",
    "agr_head_cfg": "transform prediction",
    "examplar_head_cfg": "exemplar",
}


def data_name(results: dict, dataset: str | None) -> str:
    split = results["config"]["train_cfg"][f"{results['split']}_data"]
    return dataset or split["image_path"]


def amount(results: dict) -> str:
    tiles = f"{results['tiles']:,} tiles"
    number = results["scenes"]
    if number is None:
        return f"{tiles}, each by itself"
    return tiles if number == results["tiles"] else f"{number:,} scenes ({tiles})"


def chosen(results: dict) -> str:
    step = results["step"]
    said = Path(results["checkpoint"]).name + (f", step {step:,}" if step is not None else "")
    return f"{said}, chosen by {results['chosen_by']}" if results["chosen_by"] else said


def start_of(backbone: dict) -> Markup:
    """Where the backbone's weights began, in words; of our own, what their card says."""
    start = backbone.get("pretrained", False)
    if start is False:
        return join(["random weights"])
    if start is True:
        return join(["ImageNet (torchvision)"])
    card = read_json(Path(start).with_suffix(".json"))
    told = [f"epoch {card['epoch']:,}"] if isinstance(card.get("epoch"), int) else []
    if isinstance(card.get("images_seen"), int):
        told.append(f"{card['images_seen']:,} images seen")
    config = card.get("config")
    if isinstance(config, dict):
        tasks = [name for key, name in TASKS.items() if config.get(key)]
        told += [f"pre-trained on {', '.join(tasks)}"] if tasks else []
    return join([tag("code", start), *([": " + ", ".join(told)] if told else [])])


def made_of(folder: Path, results: dict, card: dict, log: Path) -> Markup:
    """Data, commands, versions, config, and the files beside."""
    split = results["config"]["train_cfg"][f"{results['split']}_data"]
    train_cfg = card.get("config", results["config"])["train_cfg"]
    train, runs = train_cfg.get("train_data") or {}, read_json(folder / "run.json").get("runs")
    here = shlex.join(["python", *sys.argv])
    before = runs[-1].get("command") if isinstance(runs, list) and runs else None
    before = before and f"python {before}"
    scoring = results["scoring"]
    how = "each tile in one piece" if scoring["window"] is None else (
        f"windows of {scoring['window']} pixels, overlap {scoring['overlap']:g}"
    )  # fmt: skip
    versions = ", ".join(f"{name} {found}" for name, found in results["versions"].items() if found)
    known = facts(
        [
            ("Images scored", tag("code", split["image_path"])),
            ("Their labels", tag("code", split["label_path"])),
            ("Trained on", tag("code", train.get("image_path", "not known"))),
            ("Share of labels", f"{100 * train.get('fraction', 1.0):g} %"),
            ("Prediction", how + (", mean of 8 turns and flips" if scoring["tta"] else "")),
            ("Device", results["device"]),
            ("Versions", versions),
        ]
    )
    commands = [tag("h3", "Command"), tag("pre", here, tabindex="0")]
    if before and before != here:
        commands += [tag("h3", "Trained by"), tag("pre", before, tabindex="0")]
    config = pprint.pformat(results["config"], width=88, sort_dicts=False)
    beside = [folder / name for name in BESIDE if (folder / name).is_file()]
    beside += [log] if log.is_file() else []
    files = tag("ul", *(tag("li", link(path, folder)) for path in beside), class_="files")
    shown = fold("The whole config", tag("pre", config, tabindex="0"))
    return section("What made it", known, *commands, shown, tag("h3", "Files beside it"), files)


def read_json(path: Path) -> dict:
    """The object in `path`; empty where there is none."""
    try:
        contents = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return contents if isinstance(contents, dict) else {}
