"""report.html of a scoring: everything there is to see of it, in one file beside results.json."""

import contextlib
import csv
import io
import json
import pprint
import time
from collections.abc import Sequence
from dataclasses import astuple, fields
from pathlib import Path

from SSLRemoteSensing.core.classes import NOT_SCORED
from SSLRemoteSensing.core.console import command_line, this_command
from SSLRemoteSensing.core.files import read_json, write_bytes
from SSLRemoteSensing.evaluation.protocols import AGAINST_REST
from SSLRemoteSensing.evaluation.scoring import Scored, Scoring
from SSLRemoteSensing.evaluation.tile_errors import Place, rank
from SSLRemoteSensing.reports.charts import Chart, histogram, line_chart, share_bars
from SSLRemoteSensing.reports.examples import bands_shown, draw, file_name, look_at
from SSLRemoteSensing.reports.figures import ERROR
from SSLRemoteSensing.reports.html import link, percent, write_page
from SSLRemoteSensing.reports.results import METRICS, row_names

NAME, ERRORS = "report.html", "tile_errors.csv"
BESIDE = ("results.json", ERRORS, "confusion_matrix.png", "examples.png")
BESIDE += ("train_tiles.txt", "run.json", "backbone.json")
BESIDE += ("pseudo_labels/record.json", "pseudo_labels/examples.png")
MEANINGS = {
    "all": "all labelled pixels, all classes",
    "mean_of_foreground": "the same pixels, means without clutter",
    "clutter_ignored": "pixels labelled clutter not scored",
}
TASKS = {
    "inpainting_head_cfg": "inpainting",
    "agr_head_cfg": "transform prediction",
    "examplar_head_cfg": "exemplar",
    "distillation_head_cfg": "distillation",
}


def write_report(scoring: Scoring, results: dict) -> None:
    """Write `report.html` and `tile_errors.csv` beside the checkpoint that was scored.

    Args:
        results: as in results.json.

    Raises:
        UserError: a tile that cannot be read any more. CannotWrite.
    """
    folder, config, protocols = scoring.source.parent, scoring.config, results["protocols"]
    classes, origin = scoring.scored.classes, scoring.scored.tiles.origin
    protocol, first = next(iter(protocols.items()))
    root = Path(config["train_cfg"][f"{scoring.split}_data"]["image_path"])
    places = scoring.errors.places()
    write_errors(folder / ERRORS, places, scoring.scored, root)
    ranked, ranked_count = rank(places)
    groups = {
        group: [look_at(scoring, place, root) for place in members]
        for group, members in ranked.items()
    }
    examples = [example for group in groups.values() for example in group]
    channels = {example.image.shape[2] for example in examples}
    note = f"Protocol {protocol}: {meaning(first)}; {first['pixels']:,} pixels scored."
    if scoring.split == "val":
        note += " These tiles also chose the checkpoint: the scores are a little too high."
    log = log_of(scoring.card.get("config", config), folder)
    steps = read_log(log)
    files = [*(folder / name for name in BESIDE), log]
    colours = dict(zip(classes, config["palette"], strict=True))
    values = {
        "title": f"{config['name']}: {scoring.split} scores",
        "heading": config["name"],
        "note": note,
        "summary": summary(results, origin["dataset"]) | unlabelled(scoring.card),
        "protocols": protocols,
        "protocol_rows": [protocol_row(*entry) for entry in protocols.items()],
        "first": first,
        "names": row_names(first, classes),
        "classes": classes,
        "colours": colours,
        "marks": colours | {"not scored": NOT_SCORED, "wrong": ERROR},
        "ranked_count": ranked_count,
        "left_out": len(places) - ranked_count,
        "bands_shown": "".join(bands_shown(origin["band_names"], count) for count in channels),
        "groups": groups,
        "pictures": draw(examples, config["palette"]),
        "has_log": bool(steps),
        "charts": training_charts(steps, results["step"]) + data_charts(scoring, places, first),
        "next_commands": next_commands(results),
        "made_of": made_of(results, scoring.card),
        "command": this_command(),
        "trained_by": trained_by(folder),
        "config": pprint.pformat(config, width=88, sort_dicts=False),
        "files": [link(path, folder) for path in files if path.is_file()],
    }
    write_page(folder / NAME, "run.html", values)


def write_errors(path: Path, places: Sequence[Place], scored: Scored, root: Path) -> None:
    """A row a tile: its scene or file, its place there, scored and wrong pixels."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(field.name for field in fields(Place))
    for place in places:
        name = file_name(scored.scenes[place.scene].name, root)
        writer.writerow([name, *astuple(place)[1:]])
    write_bytes(path, file.getvalue().encode("utf-8", "backslashreplace"))


def meaning(scores: dict) -> str:
    """What is scored under a protocol, in words."""
    name = scores["classes"]
    text = MEANINGS.get(name, f"{name.removesuffix(AGAINST_REST)} against all others as one")
    return text + (", boundaries not scored" if scores["labels"] == "eroded" else "")


def protocol_row(name: str, scores: dict) -> list[str]:
    means = (percent(scores[key]) for key in METRICS.values())
    absent = ", ".join(scores["absent"])
    scope = meaning(scores) + (f"; in neither label nor map, left out: {absent}" if absent else "")
    return [name, *means, f"{scores['pixels']:,}", scope]


def summary(results: dict, dataset: str | None) -> dict[str, object]:
    """What was scored, and where the network comes from."""
    config, tiles, scenes = results["config"], f"{results['tiles']:,} tiles", results["scenes"]
    if scenes is None:
        tiles += ", each by itself"
    elif scenes != results["tiles"]:
        tiles = f"{scenes:,} scenes ({tiles})"
    data = dataset or config["train_cfg"][f"{results['split']}_data"]["image_path"]
    train, step, chosen_by = (results[key] for key in ("train_tiles", "step", "chosen_by"))
    share = f" ({100 * train['used'] / train['of']:.3g} %)" if train else ""
    decoder = (config.get("decoder_cfg") or {}).get("name", "Decoder")
    checkpoint = Path(results["checkpoint"]).name
    checkpoint += "" if step is None else f", step {step:,}"
    return {
        "Data": f"{results['split']} of {data}: {tiles}",
        "Network": f"{results['backbone']['name']} with {decoder}",
        "Backbone from": start_of(results["backbone"]),
        "Labels used": train and f"{train['used']:,} of {train['of']:,} train tiles{share}",
        "Checkpoint": checkpoint + (f", chosen by {chosen_by}" if chosen_by else ""),
        "Scored": time.strftime("%Y-%m-%d %H:%M"),
    }


def unlabelled(card: dict) -> dict[str, str]:
    """The tiles without labels that a network learned from too, in words."""
    cfg = card.get("config", {}).get("train_cfg", {}).get("unlabelled")
    record = card.get("pseudo_labels") or {}
    if not cfg or "classes" not in record:
        return {}
    used = sum(entry["pixels"] * entry["used"] for entry in record["classes"].values())
    miou = record.get("val_miou")
    score = "" if miou is None else f" (mIoU on validation {percent(miou)} %)"
    text = f"{record['tiles']:,}, labelled by {record['by']}{score}, "
    text += f"{percent(used)} % of their pixels used"
    if cfg.get("allow_test_images"):
        text += "; images of scored tiles were allowed among them"
    return {"Unlabelled tiles": text}


def start_of(backbone: dict) -> str:
    """Where the backbone's weights began, in words; of our own, what their card says."""
    start = backbone.get("pretrained", False)
    if isinstance(start, bool):
        return "ImageNet (torchvision)" if start else "random weights"
    card = read_json(Path(start).with_suffix(".json"))
    details = [f"epoch {card['epoch']:,}"] if isinstance(card.get("epoch"), int) else []
    if isinstance(card.get("images_seen"), int):
        details.append(f"{card['images_seen']:,} images seen")
    if isinstance(card.get("config"), dict):
        tasks = [name for key, name in TASKS.items() if card["config"].get(key)]
        details += [f"pre-trained on {', '.join(tasks)}"] if tasks else []
    return f"{start}: {', '.join(details)}" if details else str(start)


def made_of(results: dict, card: dict) -> dict[str, object]:
    """Data, method, device and versions."""
    split = results["config"]["train_cfg"][f"{results['split']}_data"]
    train = card.get("config", results["config"])["train_cfg"].get("train_data") or {}
    scoring = results["scoring"]
    method = "each tile in one piece"
    if scoring["window"] is not None:
        method = f"windows of {scoring['window']} pixels, overlap {scoring['overlap']:g}"
    versions = (f"{name} {version}" for name, version in results["versions"].items() if version)
    return {
        "Images scored": split["image_path"],
        "Their labels": split["label_path"],
        "Trained on": train.get("image_path", "not known"),
        "Share of labels": f"{100 * train.get('fraction', 1.0):g} %",
        "Prediction": method + (", mean of 8 turns and flips" if scoring["tta"] else ""),
        "Device": results["device"],
        "Versions": ", ".join(versions),
    }


def trained_by(folder: Path) -> str | None:
    """The command of the training in `folder`, where its run.json tells it."""
    runs = read_json(folder / "run.json").get("runs")
    command = runs[-1].get("command") if isinstance(runs, list) and runs else None
    return f"python {command}" if command and not command.startswith("sslrs ") else command


def next_commands(results: dict) -> str:
    words = (
        "--checkpoint",
        Path(results["checkpoint"]),
        "--input",
        "scenes/*.tif",
        "--output",
        "maps",
    )
    lines = ["# map scenes of your own, with pictures to look at"]
    lines.append(command_line("tools/predict.py", *words, "--preview"))
    if results["backbone"].get("pretrained", False) is False:
        lines.append("# start from images without labels instead, and compare")
        lines.append(command_line("train.py", "--config_file", "CONFIG"))
    return "\n".join(lines)


def training_charts(log: Sequence[dict], step: int | None) -> list[Chart]:
    """Loss, validation and learning rate over the steps, those of them that the log has."""
    charts = []
    for title, key, unit, scale in (
        ("Training loss", "loss", "", 1),
        ("Validation mIoU", "val_miou", "%", 100),
        ("Learning rate", "lr", "", 1),
    ):
        points = [(line["step"], scale * line[key]) for line in log if line.get(key) is not None]
        if points:
            charts.append(line_chart(title, points, unit, step if key == "val_miou" else None))
    return charts


def data_charts(scoring: Scoring, places: Sequence[Place], first: dict) -> list[Chart]:
    """Errors of the tiles; shares of the classes in the training labels and as scored."""
    charts, series = [], {}
    shares = [place.share for place in places if place.scored]
    if shares:
        title = "Tiles by their share of wrong pixels"
        charts.append(histogram(title, shares, "number of tiles"))
    label_shares, names = scoring.card.get("label_shares"), list(first["per_class"])
    classes = scoring.card.get("classes") or list(scoring.config["classes"])
    if label_shares and set(names) <= set(classes):
        tiles = label_shares["tiles"]
        labels = "1 training label" if tiles == 1 else f"{tiles:,} training labels"
        series[labels] = [label_shares["shares"][classes.index(name)] for name in names]
        record = scoring.card.get("pseudo_labels") or {}
        if set(names) <= record.get("classes", {}).keys():
            pixels = [record["classes"][name]["pixels"] for name in names]
            series[f"{record['tiles']:,} pseudo labels"] = pixels
    total = max(1, first["pixels"])
    scored_shares = [entry["pixels"] / total for entry in first["per_class"].values()]
    series[f"{scoring.split}, as scored"] = scored_shares
    return [*charts, share_bars("Shares of classes", names, series)]


def log_of(config: dict, folder: Path) -> Path:
    """The metrics.jsonl of the training: where its config says, or in the moved `folder`."""
    log_path = (config["train_cfg"].get("log") or {}).get("log_path")
    path = Path(log_path or folder / "log") / "metrics.jsonl"
    return path if path.is_file() else folder / "log/metrics.jsonl"


def read_log(path: Path) -> list[dict]:
    """The entries of metrics.jsonl; none where there is no file."""
    entries = []
    for line in path.read_text(errors="replace").splitlines() if path.is_file() else ():
        with contextlib.suppress(ValueError):  # cut off by a crash
            entry = json.loads(line)
            if isinstance(entry, dict) and isinstance(entry.get("step"), int):
                entries.append(entry)
    return entries
