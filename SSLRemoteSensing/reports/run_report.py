"""report.html of a scoring: everything there is to see of it, in one file beside results.json."""

import csv
import io
import json
import pprint
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from SSLRemoteSensing.core.console import command_line, this_command
from SSLRemoteSensing.core.files import read_json, write_bytes
from SSLRemoteSensing.evaluation.scoring import Scored, ScoringSettings
from SSLRemoteSensing.evaluation.tile_errors import Place, TileErrors, rank
from SSLRemoteSensing.reports.charts import histogram, line_chart, share_bars
from SSLRemoteSensing.reports.examples import file_name, look_at, tiles_section
from SSLRemoteSensing.reports.html import Markup, facts, fold, join, link, section, tag, write_page
from SSLRemoteSensing.reports.scores import (
    class_section,
    confusion_section,
    main_figures,
    meaning,
    protocol_section,
)

NAME, ERRORS = "report.html", "tile_errors.csv"


def write_report(
    folder: Path,
    results: dict,
    card: dict,
    errors: TileErrors,
    scored: Scored,
    predict: Callable[[Tensor], Tensor],
    settings: ScoringSettings,
    device: torch.device,
) -> None:
    """Write `report.html` and `tile_errors.csv` to `folder`.

    Args:
        results: as in results.json.
        card: of the checkpoint that was scored.
        errors: counted in the scoring of `scored` by `predict`, see `scoring.score`.

    Raises:
        UserError: a tile that cannot be read any more. CannotWrite.
    """
    config, protocols = results["config"], results["protocols"]
    classes, palette = list(config["classes"]), config["palette"]
    colours = dict(zip(classes, palette, strict=True))
    first = next(iter(protocols.values()))
    square = len(first["confusion_matrix"]) == len(classes)
    root = Path(config["train_cfg"][f"{results['split']}_data"]["image_path"])
    origin = scored.tiles.origin
    places = errors.places()
    write_errors(folder / ERRORS, places, scored, root)
    ranking = rank(places)
    examples = {
        place: look_at(scored, place, root, predict, settings, device)
        for group in ranking.groups.values()
        for place in group
    }
    log = log_of(card.get("config", config), folder)
    write_page(
        folder / NAME,
        f"{config['name']}: {results['split']} scores",
        head(results, origin["dataset"], first),
        protocol_section(protocols),
        class_section(protocols, colours),
        confusion_section(first, classes if square else list(first["per_class"]), colours),
        tiles_section(ranking, examples, classes, palette, origin["band_names"]),
        training_section(results, card, read_log(log), places, first),
        section("What to run next", tag("pre", next_commands(results), tabindex="0")),
        made_of(folder, results, card, log),
    )


def head(results: dict, dataset: str | None, first: dict) -> Markup:
    """What this is, the main scores, and where the network comes from."""
    config, protocol = results["config"], next(iter(results["protocols"]))
    train = results["train_tiles"]
    share = f" ({100 * train['used'] / train['of']:.3g} %)" if train else ""
    decoder = (config.get("decoder_cfg") or {}).get("name", "Decoder")
    details = facts(
        [
            ("Data", f"{results['split']} of {data_name(results, dataset)}: {amount(results)}"),
            ("Network", f"{results['backbone']['name']} with {decoder}"),
            ("Backbone from", start_of(results["backbone"])),
            ("Labels used", train and f"{train['used']:,} of {train['of']:,} train tiles{share}"),
            ("Checkpoint", checkpoint_text(results)),
            ("Scored", time.strftime("%Y-%m-%d %H:%M")),
        ]
    )
    note = f"Protocol {protocol}: {meaning(first)}; {first['pixels']:,} pixels scored."
    if results["split"] == "val":
        note += " These tiles also chose the checkpoint: the scores are a little too high."
    return tag(
        "header",
        tag("h1", config["name"]),
        main_figures(first),
        tag("p", note, class_="note"),
        details,
    )


def next_commands(results: dict) -> str:
    words = ("--checkpoint", results["checkpoint"], "--input", "scenes/*.tif", "--output", "maps")
    lines = ["# map scenes of your own, with pictures to look at"]
    lines.append(command_line("tools/predict.py", *words, "--preview"))
    if results["backbone"].get("pretrained", False) is False:
        lines.append("# start from images without labels instead, and compare")
        lines.append(command_line("train.py", "--config_file", "CONFIG"))
    return "\n".join(lines)


def write_errors(path: Path, places: Sequence[Place], scored: Scored, root: Path) -> None:
    """A row a tile: its scene or file, its place there, scored and wrong pixels."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["scene", "y", "x", "height", "width", "scored", "wrong"])
    for place in places:
        name = file_name(scored.scenes[place.scene].name, root)
        writer.writerow(
            [name, place.y, place.x, place.height, place.width, place.scored, place.wrong]
        )
    write_bytes(path, file.getvalue().encode("utf-8", "backslashreplace"))


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


def checkpoint_text(results: dict) -> str:
    step = results["step"]
    text = Path(results["checkpoint"]).name + (f", step {step:,}" if step is not None else "")
    return f"{text}, chosen by {results['chosen_by']}" if results["chosen_by"] else text


def start_of(backbone: dict) -> Markup:
    """Where the backbone's weights began, in words; of our own, what their card says."""
    start = backbone.get("pretrained", False)
    if start is False:
        return join(["random weights"])
    if start is True:
        return join(["ImageNet (torchvision)"])
    card = read_json(Path(start).with_suffix(".json"))
    details = [f"epoch {card['epoch']:,}"] if isinstance(card.get("epoch"), int) else []
    if isinstance(card.get("images_seen"), int):
        details.append(f"{card['images_seen']:,} images seen")
    config = card.get("config")
    if isinstance(config, dict):
        tasks = [name for key, name in TASKS.items() if config.get(key)]
        details += [f"pre-trained on {', '.join(tasks)}"] if tasks else []
    return join([tag("code", start), *([": " + ", ".join(details)] if details else [])])


def made_of(folder: Path, results: dict, card: dict, log: Path) -> Markup:
    """Data, commands, versions, config, and the files beside."""
    split = results["config"]["train_cfg"][f"{results['split']}_data"]
    train_cfg = card.get("config", results["config"])["train_cfg"]
    train, runs = train_cfg.get("train_data") or {}, read_json(folder / "run.json").get("runs")
    command = this_command()
    training_command = runs[-1].get("command") if isinstance(runs, list) and runs else None
    if training_command and not training_command.startswith("sslrs "):
        training_command = f"python {training_command}"
    scoring = results["scoring"]
    method = "each tile in one piece" if scoring["window"] is None else (
        f"windows of {scoring['window']} pixels, overlap {scoring['overlap']:g}"
    )  # fmt: skip
    versions = ", ".join(
        f"{name} {version}" for name, version in results["versions"].items() if version
    )
    details = facts(
        [
            ("Images scored", tag("code", split["image_path"])),
            ("Their labels", tag("code", split["label_path"])),
            ("Trained on", tag("code", train.get("image_path", "not known"))),
            ("Share of labels", f"{100 * train.get('fraction', 1.0):g} %"),
            ("Prediction", method + (", mean of 8 turns and flips" if scoring["tta"] else "")),
            ("Device", results["device"]),
            ("Versions", versions),
        ]
    )
    commands = [tag("h3", "Command"), tag("pre", command, tabindex="0")]
    if training_command and training_command != command:
        commands += [tag("h3", "Trained by"), tag("pre", training_command, tabindex="0")]
    config = pprint.pformat(results["config"], width=88, sort_dicts=False)
    paths = [folder / name for name in BESIDE if (folder / name).is_file()]
    paths += [log] if log.is_file() else []
    files = tag("ul", *(tag("li", link(path, folder)) for path in paths), class_="files")
    config_fold = fold("The whole config", tag("pre", config, tabindex="0"))
    return section(
        "What made it", details, *commands, config_fold, tag("h3", "Files beside it"), files
    )


def training_section(
    results: dict, card: dict, log: Sequence[dict], places: Sequence[Place], first: dict
) -> Markup:
    """Loss, learning rate and validation over the steps; shares of classes; errors of tiles."""
    charts = []
    for title, key, unit, scale in (
        ("Training loss", "loss", "", 1),
        ("Validation mIoU", "val_miou", "%", 100),
        ("Learning rate", "lr", "", 1),
    ):
        points = [
            (entry["step"], scale * entry[key]) for entry in log if entry.get(key) is not None
        ]
        if points:
            dot_step = results["step"] if key == "val_miou" else None
            charts.append(line_chart(title, points, unit, dot_step))
    shares = [place.share for place in places if place.scored]
    if shares:
        charts.append(histogram("Tiles by their share of wrong pixels", shares, "number of tiles"))
    series = {}
    label_shares, names = card.get("label_shares"), list(first["per_class"])
    classes = card.get("classes") or list(results["config"]["classes"])
    if label_shares and set(names) <= set(classes):
        series_name = (
            f"{label_shares['tiles']:,} training label{'s' if label_shares['tiles'] != 1 else ''}"
        )
        series[series_name] = [label_shares["shares"][classes.index(name)] for name in names]
    total = max(1, first["pixels"])
    series_name = f"{results['split']}, as scored"
    series[series_name] = [entry["pixels"] / total for entry in first["per_class"].values()]
    charts.append(share_bars("Shares of classes", names, series))
    missing = [] if log else [tag("p", "No log of the training was found.", class_="note")]
    return section("Training and data", *missing, tag("div", *charts, class_="charts"))


def log_of(config: dict, folder: Path) -> Path:
    """The metrics.jsonl of the training: where its config says, or in the moved `folder`."""
    log_path = (config["train_cfg"].get("log") or {}).get("log_path")
    path = Path(log_path or folder / "log") / "metrics.jsonl"
    return path if path.is_file() else folder / "log/metrics.jsonl"


def read_log(path: Path) -> list[dict]:
    """The entries of metrics.jsonl; none where there is no file."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return []
    entries = []
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:  # cut off by a crash
            continue
        if isinstance(entry, dict) and isinstance(entry.get("step"), int):
            entries.append(entry)
    return entries
