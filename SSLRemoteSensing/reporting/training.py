"""How the training went, from its metrics.jsonl, and what it and the scoring were of."""

import json
from collections.abc import Sequence
from pathlib import Path

from SSLRemoteSensing.reporting.charts import histogram, line_chart, share_bars
from SSLRemoteSensing.reporting.markup import Markup, section, tag
from SSLRemoteSensing.tile_errors import Place


def training_section(
    results: dict, card: dict, log: Sequence[dict], places: Sequence[Place], first: dict
) -> Markup:
    """Loss, learning rate and validation over the steps; shares of classes; errors of tiles."""
    drawn = []
    for title, key, unit, scale in (
        ("Training loss", "loss", "", 1),
        ("Validation mIoU", "val_miou", "%", 100),
        ("Learning rate", "lr", "", 1),
    ):
        points = [(one["step"], scale * one[key]) for one in log if one.get(key) is not None]
        if points:
            marked = results["step"] if key == "val_miou" else None
            drawn.append(line_chart(title, points, unit, marked))
    shares = [one.share for one in places if one.scored]
    if shares:
        drawn.append(histogram("Tiles by their share of wrong pixels", shares, "number of tiles"))
    series = {}
    known, names = card.get("label_shares"), list(first["per_class"])
    classes = card.get("classes") or list(results["config"]["classes"])
    if known and set(names) <= set(classes):
        of = f"{known['tiles']:,} training label{'s' if known['tiles'] != 1 else ''}"
        series[of] = [known["shares"][classes.index(name)] for name in names]
    total = max(1, first["pixels"])
    of = f"{results['split']}, as scored"
    series[of] = [entry["pixels"] / total for entry in first["per_class"].values()]
    drawn.append(share_bars("Shares of classes", names, series))
    missing = [] if log else [tag("p", "No log of the training was found.", class_="note")]
    return section("Training and data", *missing, tag("div", *drawn, class_="charts"))


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
    found = []
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:  # cut off by a crash
            continue
        if isinstance(entry, dict) and isinstance(entry.get("step"), int):
            found.append(entry)
    return found
