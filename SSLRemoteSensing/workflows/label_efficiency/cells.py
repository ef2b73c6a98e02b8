"""The cells of a grid: the commands that make them, what their folders tell of them.

A cell is one run of finetune_seg.py. Its folder `cells/NAME` holds what that command writes;
`output.txt`, what it said; and `cell.json`, how it ended: status 'done', 'failed', 'stopped', or
'unscored' (trained, but scoring it on the test tiles failed). Failed and stopped cells run again
with the next call, and go on from their own latest.pth.
"""

from dataclasses import asdict, dataclass
from itertools import chain

from SSLRemoteSensing.core.files import read_json
from SSLRemoteSensing.workflows.label_efficiency.grid import Cell, Grid


@dataclass(frozen=True)
class CellJob:
    """A process to run: all of a cell, or only the scoring of a trained one on test tiles."""

    cell: Cell
    scoring: bool = False


def arguments(grid: Grid, job: CellJob, gpu: str | None) -> list[str]:
    """Those of finetune_seg.py, less the config file."""
    cell, folder = job.cell, grid.path(job.cell)
    sets = [
        f"train_cfg.train_data.fraction={cell.fraction!r}",
        f"train_cfg.train_data.fraction_seed={cell.seed}",
        f"train_cfg.seed={cell.seed}",
        *grid.known_inits[cell.init]["set"],
    ]
    if cell.lr is not None:
        sets.append(f"train_cfg.optimizer.lr={cell.lr!r}")
        if not job.scoring:
            sets.append("train_cfg.test_data=None")
    if gpu is not None:
        sets.append("train_cfg.device=cuda")  # the one that the process sees
    flags = ["--backbone", grid.known_inits[cell.init]["spec"], "--checkpoints_path", str(folder)]
    flags += ["--log_path", str(folder / "log"), "--set", *sets]
    return [*flags, "--evaluate", str(folder / "best.pth")] if job.scoring else flags


def remaining_jobs(grid: Grid) -> list[CellJob]:
    """What is still to do, as far as it is known: scoring comes once a learning rate is chosen."""
    jobs = []
    for cell in grid.cells():
        status = read_cell(grid, cell)["status"]
        if status in ("to do", "stopped", "failed"):
            jobs.append(CellJob(cell))
        elif status == "unscored":
            jobs.append(CellJob(cell, scoring=True))
    return jobs


def read_cell(grid: Grid, cell: Cell) -> dict:
    """cell.json of `cell`, with its status as of now, and `results`, those of results.json."""
    record = read_json(grid.path(cell) / "cell.json") or {"status": "to do"}
    results = read_json(grid.path(cell) / "results.json")
    if record["status"] in ("done", "unscored"):
        if not results:
            record["status"] = "to do"
        elif is_chosen(grid, cell) and results["split"] != grid.split:
            has_weights = (grid.path(cell) / "best.pth").exists()
            record["status"] = "unscored" if has_weights else "to do"
    return record | {"results": results}


def is_chosen(grid: Grid, cell: Cell) -> bool:
    return grid.lrs is None or grid.chosen.get((cell.init, cell.fraction)) == cell.lr


def main_miou(protocols: dict[str, dict]) -> float | None:
    """mIoU by protocol `all`, or by the first there is where a config leaves that out."""
    first_scores = next(iter(protocols.values()), {})
    return protocols.get("all", first_scores).get("miou")


def records_of(grid: Grid) -> list[dict]:
    """The cell.json of each cell that has one, also of those that are not asked for now."""
    records = (read_json(path) for path in sorted(grid.folder.glob("cells/*/cell.json")))
    return [record for record in records if record]


def existing_cells(grid: Grid) -> list[Cell]:
    return [Cell.of(record) for record in records_of(grid)]


def rows_of(grid: Grid) -> list[dict]:
    """A row for each cell asked for or already there, as `comparison` takes them."""
    order = list(dict.fromkeys(chain(grid.inits, grid.known_inits)))
    cells = {*grid.cells(), *existing_cells(grid)}
    return [
        row_of(grid, cell)
        for cell in sorted(
            cells, key=lambda cell: (order.index(cell.init), cell.fraction, cell.seed, cell.lr or 0)
        )
    ]


def row_of(grid: Grid, cell: Cell) -> dict:
    record = read_cell(grid, cell)
    is_done = record["status"] == "done"
    results = record["results"] if is_done else {"split": "", "protocols": {}}
    return asdict(cell) | {
        "chosen": is_chosen(grid, cell),
        "status": record["status"],
        "error": "" if is_done else record.get("error", ""),
        "tiles": grid.labelled_tiles(cell.fraction),
        "steps": grid.steps,
        "seconds": round(record.get("seconds", 0), 1),
        "split": results["split"],
        "commit": results.get("versions", {}).get("commit"),
        "device": results.get("device"),
        "val_miou": main_miou(record.get("val") or {}),
        "protocols": results["protocols"],
    }


def mean_seconds(grid: Grid) -> float | None:
    """Mean time of the finished cells."""
    times = [record["seconds"] for record in records_of(grid) if record["status"] == "done"]
    return sum(times) / len(times) if times else None
