"""The cells of a grid: the command that makes one, what its folder tells of it.

A cell is one run of finetune_seg.py. Its folder `cells/NAME` holds what that command writes;
`output.txt`, what it said; and `cell.json`, how it ended: status 'done', 'failed', 'stopped', or
'unscored' (trained, but not scored on the test tiles). Failed and stopped cells run again with the
next call, and go on from their own latest.pth; of unscored ones the scoring alone is run.
"""

import contextlib
import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, astuple

from SSLRemoteSensing.core.files import read_json
from SSLRemoteSensing.workflows.label_efficiency.grid import Cell, Grid
from SSLRemoteSensing.workflows.label_efficiency.scene_bootstrap import scene_counts

REMAINING = ("to do", "stopped", "failed", "unscored")


def arguments(grid: Grid, cell: Cell, scoring: bool, gpu: str | None) -> list[str]:
    """Those of finetune_seg.py, less the config file; `scoring`: of the trained cell alone."""
    init, folder = grid.known_inits[cell.init], grid.path(cell)
    sets = [
        f"train_cfg.train_data.fraction={cell.fraction!r}",
        f"train_cfg.train_data.fraction_seed={cell.seed}",
        f"train_cfg.seed={cell.seed}",
        *init["set"],
    ]
    if cell.lr is not None:
        sets.append(f"train_cfg.optimizer.lr={cell.lr!r}")
        if not scoring:
            sets.append("train_cfg.test_data=None")
    if gpu is not None:
        sets.append("train_cfg.device=cuda")  # the one that the process sees
    flags = ["--backbone", init["spec"], "--checkpoints_path", str(folder)]
    flags += ["--log_path", str(folder / "log"), "--set", *sets]
    return [*flags, "--evaluate", str(folder / "best.pth")] if scoring else flags


def remaining_cells(grid: Grid, statuses: Sequence[str] = REMAINING) -> list[Cell]:
    """What is still to do, as far as it is known: scoring comes once a learning rate is chosen."""
    return [cell for cell in grid.cells() if read_cell(grid, cell)["status"] in statuses]


def read_cell(grid: Grid, cell: Cell) -> dict:
    """cell.json of `cell`, with its status as of now, and `results`, those of results.json."""
    folder = grid.path(cell)
    record = read_json(folder / "cell.json") or {"status": "to do"}
    results = read_json(folder / "results.json")
    if record["status"] in ("done", "unscored"):
        if not results:
            record["status"] = "to do"
        elif grid.is_chosen(cell) and results["split"] != grid.split:
            record["status"] = "unscored" if (folder / "best.pth").exists() else "to do"
    return record | {"results": results}


def main_miou(protocols: dict[str, dict]) -> float | None:
    """mIoU by protocol `all`, or by the first there is where a config leaves that out."""
    first_scores = next(iter(protocols.values()), {})
    return protocols.get("all", first_scores).get("miou")


def records_of(grid: Grid) -> list[dict]:
    """The cell.json of each cell that has one, also of those that are not asked for now."""
    return list(filter(None, map(read_json, sorted(grid.folder.glob("cells/*/cell.json")))))


def existing_cells(grid: Grid) -> list[Cell]:
    return [Cell.of(record) for record in records_of(grid)]


def rows_of(grid: Grid) -> list[dict]:
    """A row for each cell asked for or already there, as `comparison` takes them."""
    order = list(dict.fromkeys([*grid.inits, *grid.known_inits]))
    cells = {*grid.cells(), *existing_cells(grid)}
    cells = sorted(cells, key=lambda cell: (order.index(cell.init), astuple(cell)))
    return [row_of(grid, cell) for cell in cells]


def row_of(grid: Grid, cell: Cell) -> dict:
    record = read_cell(grid, cell)
    is_done = record["status"] == "done"
    results = record["results"] if is_done else {"split": "", "protocols": {}}
    return asdict(cell) | {
        "chosen": grid.is_chosen(cell),
        "status": record["status"],
        "error": "" if is_done else record.get("error", ""),
        "tiles": grid.labelled_tiles(cell.fraction),
        "steps": grid.steps,
        "seconds": round(record.get("seconds", 0), 1),
        "split": results["split"],
        "commit": results.get("versions", {}).get("commit"),
        "device": results.get("device"),
        "step_ms": step_time(grid, cell) if is_done else None,
        "weights": (grid.known_inits[cell.init]["sha256"] or "")[:12],
        "val_miou": main_miou(record.get("val") or {}),
        "protocols": results["protocols"],
        "scenes": scene_counts(read_json(grid.path(cell) / "scenes.json")) if is_done else None,
    }


def step_time(grid: Grid, cell: Cell) -> float | None:
    """Milliseconds that a step of a cell took, the median of what its log has."""
    with contextlib.suppress(OSError, ValueError):
        lines = (grid.path(cell) / "log/metrics.jsonl").read_text().splitlines()
        rates = [json.loads(line).get("images_per_second") for line in lines]
        return 1000 * grid.per_step / statistics.median(filter(None, rates))
    return None


def expected_seconds(grid: Grid, cells: Sequence[Cell]) -> float | None:
    """Time that `cells` will take, one after another, by the mean of the finished ones of the same
    initialisation, which may label tiles first or train less of its network; where there are none,
    by the mean of all."""
    done = [record for record in records_of(grid) if record["status"] == "done"]
    if not done:
        return None
    times = {init: [] for init in grid.known_inits}
    for record in done:
        times[record["init"]].append(record["seconds"])
    everything = [record["seconds"] for record in done]
    return sum(statistics.mean(times[cell.init] or everything) for cell in cells)
