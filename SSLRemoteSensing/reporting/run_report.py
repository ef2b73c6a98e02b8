"""report.html of a scoring: everything there is to see of it, in one file beside results.json."""

import csv
import io
import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from SSLRemoteSensing.reporting.examples import file_name, look_at, tiles_section
from SSLRemoteSensing.reporting.markup import Markup, facts, section, tag, write_page
from SSLRemoteSensing.reporting.provenance import amount, chosen, data_name, made_of, start_of
from SSLRemoteSensing.reporting.scores import (
    class_section,
    confusion_section,
    main_figures,
    meaning,
    protocol_section,
)
from SSLRemoteSensing.reporting.training import log_of, read_log, training_section
from SSLRemoteSensing.scoring import Scored, ScoringSettings
from SSLRemoteSensing.tile_errors import Place, TileErrors, rank
from SSLRemoteSensing.writing import write_bytes

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
    ranked = rank(places)
    examples = {
        place: look_at(scored, place, root, predict, settings, device)
        for group in ranked.groups.values()
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
        tiles_section(ranked, examples, classes, palette, origin["band_names"]),
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
    known = facts(
        [
            ("Data", f"{results['split']} of {data_name(results, dataset)}: {amount(results)}"),
            ("Network", f"{results['backbone']['name']} with {decoder}"),
            ("Backbone from", start_of(results["backbone"])),
            ("Labels used", train and f"{train['used']:,} of {train['of']:,} train tiles{share}"),
            ("Checkpoint", chosen(results)),
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
        known,
    )


def next_commands(results: dict) -> str:
    checkpoint = shlex.quote(results["checkpoint"])
    lines = ["# map scenes of your own, with pictures to look at"]
    lines.append(
        f"python tools/predict.py --checkpoint {checkpoint} --input 'scenes/*.tif' "
        "--output maps --preview"
    )
    if results["backbone"].get("pretrained", False) is False:
        lines.append("# start from images without labels instead, and compare")
        lines.append("python train.py --config_file CONFIG")
    return "\n".join(lines)


def write_errors(path: Path, places: Sequence[Place], scored: Scored, root: Path) -> None:
    """A row a tile: its scene or file, its place there, scored and wrong pixels."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["scene", "y", "x", "height", "width", "scored", "wrong"])
    for one in places:
        name = file_name(scored.scenes[one.scene].name, root)
        writer.writerow([name, one.y, one.x, one.height, one.width, one.scored, one.wrong])
    write_bytes(path, file.getvalue().encode("utf-8", "backslashreplace"))
