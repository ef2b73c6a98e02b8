"""Scores as tables: protocols, classes, the confusion matrix."""

from collections.abc import Sequence

from SSLRemoteSensing.evaluation.protocols import AGAINST_REST
from SSLRemoteSensing.reports.html import (
    Markup,
    boxed,
    fold,
    join,
    percent,
    section,
    swatch,
    table,
    tag,
)

METRICS = {"mIoU": "miou", "mF1": "mf1", "OA": "oa", "kappa": "kappa"}
MEANINGS = {
    "all": "all labelled pixels, all classes",
    "mean_of_foreground": "the same pixels, means without clutter",
    "clutter_ignored": "pixels labelled clutter not scored",
}
DEEP = 0.6  # of a field's colour, from which on its text is white


def main_figures(scores: dict) -> Markup:
    """The four scores, large."""
    names = {"mIoU": "mean IoU", "mF1": "mean F1", "OA": "overall accuracy", "kappa": "kappa"}
    figures = [
        tag("div", tag("b", percent(scores[key])), tag("span", f"{names[name]}, %"))
        for name, key in METRICS.items()
    ]
    return tag("div", *figures, class_="figures")


def protocol_section(protocols: dict[str, dict]) -> Markup:
    """The means of each protocol."""
    rows = []
    for name, scores in protocols.items():
        scope = meaning(scores)
        if scores["absent"]:
            scope += f"; in neither label nor map, left out: {', '.join(scores['absent'])}"
        numbers = [percent(scores[key]) for key in METRICS.values()]
        rows.append([tag("code", name), *numbers, f"{scores['pixels']:,}", scope])
    head = ["protocol", *METRICS, "pixels scored", "of what"]
    caption = "Scores in % under each protocol"
    note = "Scores of different protocols are not comparable, here or in papers."
    return section("Scores", table(head, rows, caption, words=1), note=note)


def meaning(scores: dict) -> str:
    name = scores["classes"]
    text = MEANINGS.get(name, f"{name.removesuffix(AGAINST_REST)} against all others as one")
    return text + (", boundaries not scored" if scores["labels"] == "eroded" else "")


def class_section(protocols: dict[str, dict], colours: dict[str, Sequence]) -> Markup:
    """Scores of each class, those of the first protocol open."""
    (name, first), *others = protocols.items()
    parts = [class_table(name, first, colours)]
    parts += [
        fold(f"Protocol {other}", class_table(other, scores, colours)) for other, scores in others
    ]
    return section("Classes", *parts)


def class_table(protocol: str, scores: dict, colours: dict[str, Sequence]) -> Markup:
    rows = []
    for name, entry in scores["per_class"].items():
        value = entry["iou"]
        iou = join([percent(value), *([] if value is None else [bar(value)])])
        numbers = [percent(entry[key]) for key in ("f1", "precision", "recall")]
        rows.append([class_name(name, colours), iou, *numbers, f"{entry['pixels']:,}"])
    head = ["class", "IoU", "F1", "precision", "recall", "pixels labelled"]
    return table(head, rows, f"Scores of each class in %, protocol {protocol}")


def class_name(name: str, colours: dict[str, Sequence]) -> Markup:
    return join([swatch(colours[name]), name] if name in colours else [name])


def bar(share: float) -> Markup:
    return tag("span", class_="bar", style=f"--s:{100 * share:.0f}%")


def confusion_section(scores: dict, names: Sequence[str], colours: dict[str, Sequence]) -> Markup:
    """Rows label, columns map: each field its share of the row, and folded its pixels."""
    counts = scores["confusion_matrix"]
    corner = "label \\ map"
    heads = [tag("th", corner, scope="col"), *(tag("th", name, scope="col") for name in names)]
    lines, pixels = [], []
    for row, (name, values) in enumerate(zip(names, counts, strict=True)):
        head = class_name(name, colours)
        fields = [tag("th", head, scope="row")]
        for column, value in enumerate(values):
            fields.append(confusion_field(value, sum(values), row == column, name, names[column]))
        lines.append(tag("tr", *fields))
        pixels.append([head, *(f"{value:,}" for value in values)])
    shares = boxed(
        tag("thead", tag("tr", *heads)), lines, "Share of each label's pixels, in %", "heat"
    )
    numbers = fold("Numbers of pixels", table([corner, *names], pixels, "Pixels"))
    return section("Confusion matrix", shares, numbers, note="Blue: right. Orange: mistakes.")


def confusion_field(value: int, total: int, hit: bool, label: str, prediction: str) -> Markup:
    share = value / total if total else 0
    kind = ("hit" if hit else "miss") + (" deep" if share >= DEEP else "")
    title = f"{value:,} pixels of {label} mapped as {prediction}"
    text = f"{100 * share:.1f}" if total else "none"
    return tag("td", text, class_=kind, style=f"--s:{share:.3f}", title=title)
