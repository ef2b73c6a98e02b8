"""A grid of fine-tunings: what is asked for, which cells that makes, and whether a folder fits it.

`grid.json` says what makes a grid: config, tiles, learning rates, initialisations with the hashes
of their files; and the learning rates chosen. `config.py` is the config that the cells read, so
that a later edit of the user's file reaches none of them.
"""

import ast
import contextlib
import itertools
import json
import math
import pprint
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from SSLRemoteSensing.core.config import differences, without
from SSLRemoteSensing.core.errors import MissingWeights, UserError, about
from SSLRemoteSensing.core.files import make_folder, read_json, write_text
from SSLRemoteSensing.core.machine import choose_device
from SSLRemoteSensing.data.segmentation import SegmentationDataset, TileSettings, find_tiles
from SSLRemoteSensing.data.unlabelled import REST, UnlabelledSettings
from SSLRemoteSensing.training.settings import MOST_SEED, split
from SSLRemoteSensing.workflows.label_efficiency.comparison import format_percent
from SSLRemoteSensing.workflows.label_efficiency.starts import (
    frozen_inits,
    of_start,
    read_init_sets,
    read_inits,
    unlabelled_inits,
)
from SSLRemoteSensing.workflows.segmentation import (
    SegmentationData,
    open_network,
    scored_split,
    unlabelled_tiles,
)

# Each cell sets these itself, and these differ between machines without changing what is learnt.
OF_CELLS = ("backbone_cfg.pretrained", "train_cfg.seed", "train_cfg.train_data.fraction")
OF_CELLS += ("train_cfg.train_data.fraction_seed", "train_cfg.checkpoints.checkpoints_path")
OF_MACHINES = ("train_cfg.device", "train_cfg.num_workers", "train_cfg.log")
OF_MACHINES += ("train_cfg.checkpoints.max_keep", "train_cfg.checkpoints.save_minutes")


@dataclass(frozen=True)
class Cell:
    init: str
    fraction: float
    seed: int
    lr: float | None = None

    @classmethod
    def of(cls, row: dict) -> "Cell":
        """The cell that a row of a table, or a cell.json, is of."""
        return cls(row["init"], row["fraction"], row["seed"], row["lr"])

    @property
    def name(self) -> str:
        rate = "" if self.lr is None else f"_lr{self.lr:.12g}"
        return f"{self.init}_f{self.fraction:.12g}_s{self.seed}{rate}"

    def __str__(self) -> str:
        rate = "" if self.lr is None else f", lr {self.lr:g}"
        return f"{self.init}, {format_percent(self.fraction)}, seed {self.seed}{rate}"


@dataclass
class Grid:
    """What is asked for, and what the folder already knows.

    Attributes:
        config: as load_config gives it.
        inits: names of the initialisations asked for.
        known_inits: name -> dict(spec, sha256, set), also those of earlier calls; `spec` is
            'random', 'imagenet' or a file, absolute, `set` holds the 'a.b=VALUE' of that
            initialisation alone.
        lrs: learning rates to search, None for the config's own.
        tiles: of the whole train split.
        against: the initialisation that the others are set against; None for the random one.
        chosen: the learning rate found for (init, fraction).
        lock: numbers of open files that keep other commands out; the cells hold them too.
        per_step, steps, draws: tiles that a step takes; the steps of every cell, the same at any
            fraction; and the tiles that a cell takes in all its steps.
        split: the tiles that the table is about, 'val' or 'test'.
    """

    folder: Path
    config: dict
    inits: list[str]
    known_inits: dict[str, dict]
    fractions: list[float]
    seeds: list[int]
    lrs: list[float] | None
    tiles: int
    against: str | None = None
    chosen: dict[tuple[str, float], float] = field(default_factory=dict)
    lock: Sequence[int] = ()

    def __post_init__(self):
        _, loop = split(self.config["train_cfg"], SegmentationData)
        self.per_step = loop.batch_size * loop.accumulate_steps
        self.steps = loop.num_step or loop.num_epoch * (self.tiles // self.per_step)
        self.draws = self.steps * self.per_step
        self.split = scored_split(self.config)

    def cells(self) -> list[Cell]:
        """All that are asked for: whole curves of the first seed, then of the next.

        Where the learning rate is chosen, seeds that are added need no other.
        """
        rates = {place: [lr] for place, lr in self.chosen.items()}
        return [
            Cell(init, fraction, seed, lr)
            for seed, fraction, init in itertools.product(self.seeds, self.fractions, self.inits)
            for lr in rates.get((init, fraction), self.lrs or [None])
        ]

    def is_chosen(self, cell: Cell) -> bool:
        """Whether the cell's learning rate is the one of the result."""
        return self.lrs is None or self.chosen.get((cell.init, cell.fraction)) == cell.lr

    def labelled_tiles(self, fraction: float) -> int:
        """Number of tiles with labels, as `choose_fraction` has it."""
        return max(1, round(fraction * self.tiles))

    @property
    def baseline(self) -> str | None:
        """The initialisation that others are set against: `against`, or else random weights,
        trained as the config says."""
        plain = [n for n, e in self.known_inits.items() if e["spec"] == "random" and not e["set"]]
        return self.against or next(iter(plain), None)

    def path(self, cell: Cell) -> Path:
        return self.folder / "cells" / cell.name


def plan_grid(
    folder: Path,
    config: dict,
    inits: Sequence[str],
    fractions: Sequence[float],
    seeds: Sequence[int],
    lrs: Sequence[float] | None = None,
    init_sets: Sequence[Sequence[str]] = (),
    against: str | None = None,
    frozen: bool = False,
    unlabelled: str | None = None,
) -> Grid:
    """The grid that is asked for, in `folder` or to be; nothing is written.

    Args:
        config: checked by `check_segmentation`.
        inits: 'NAME=random', 'NAME=imagenet', 'NAME=FILE' or 'NAME=timm:MODEL[@FILE]'.
        init_sets: a name of these and what is set for it alone, each.
        against: the name that the others are compared with; None for the random one.
        frozen: each initialisation also as it is, read by a linear probe.
        unlabelled: each also trained with tiles without labels: 'rest', or a folder.

    Raises:
        UserError: a wrong value; a file, data or a device that is not there; too few tiles for a
            batch; a folder with a grid of another config, other tiles, learning rates or weights.
    """
    check_numbers("--fractions", fractions, lambda value: 0 < value <= 1, "above 0 and at most 1")
    check_numbers("--seeds", seeds, lambda value: 0 <= value <= MOST_SEED, "0 to 2^63 - 1")
    check_numbers("--lrs", lrs or (), lambda value: 0 < value < math.inf, "above 0")
    require_plain(config)
    known_inits = read_inits(inits)
    choose_device(config["train_cfg"].get("device", "auto"))
    read_init_sets(init_sets, known_inits, config, lrs)
    twins = frozen_inits(known_inits) if frozen else {}
    if unlabelled is not None:
        if unlabelled == REST and max(fractions) == 1:
            raise UserError(
                "--unlabelled rest: at --fractions 1 nothing is left; leave 1 out here, and "
                "ask for it without --unlabelled, in the same folder"
            )
        twins |= unlabelled_inits(known_inits, unlabelled)
    known_inits |= twins
    settings = TileSettings(**config["train_cfg"]["train_data"] | {"fraction": 1.0})
    classes, bands = list(config["classes"]), config["backbone_cfg"].get("in_channels", 3)
    with about("train_cfg.train_data"):
        tiles = len(SegmentationDataset(settings, len(classes), bands, classes=classes))
    axes = (sorted(fractions), list(seeds), lrs and sorted(lrs))
    grid = Grid(folder, config, list(known_inits), known_inits, *axes, tiles, against)
    if grid.per_step > tiles:
        raise UserError(
            f"train_cfg.batch_size: a step takes {grid.per_step} of {tiles} train tiles; set a "
            f"batch_size of at most their number"
        )
    read_grid(grid)
    return grid


def require_cells(grid: Grid, require_all: bool = False) -> list[str]:
    """Look for what all cells of an initialisation would fail on: a file of weights that does not
    fit, a wrong key, val_data or test_data that are not there. No label is read.

    Initialisations whose weights cannot be had are taken out of `grid.inits`, unless
    `require_all`; what there is to say of them is returned.

    Raises:
        UserError: for anything else, or where none but such are left.
    """
    remarks = []
    for name in list(grid.inits):
        config = of_start(grid.config, grid.known_inits[name])
        unlabelled = config["train_cfg"].get("unlabelled")
        if unlabelled:  # of which there are the fewest at the largest fraction
            config["train_cfg"]["train_data"]["fraction"] = max(grid.fractions)
        try:
            with about(f"--init {name}"):
                opened = open_network(config)
                if unlabelled:
                    train_data = opened.open_split("train", checked=True)
                    unlabelled_tiles(opened, UnlabelledSettings(**unlabelled), train_data)
        except MissingWeights as error:
            if require_all or len(grid.inits) == 1:
                raise
            remarks.append(f"warning: left out, {error}")
            grid.inits.remove(name)
    train = TileSettings(**config["train_cfg"]["train_data"])
    channels = opened.model.backbone.in_channels
    coding = find_tiles(train, len(opened.classes), None, channels).coding
    for name in sorted({"val", opened.scored_split}):
        opened.open_split(name, coding, checked=True)
    return remarks


def check_numbers(flag: str, values: Sequence[float], is_allowed, expected: str) -> None:
    for value in values:
        if not is_allowed(value):
            raise UserError(f"{flag} {value:g}: must be {expected}")
    names = [f"{value:.12g}" for value in values]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{flag}: {name} stands there twice")


def require_plain(value, path: str = "") -> None:
    """Raise a `UserError` for what a config file written by `write_grid` could not hold."""
    if isinstance(value, dict):
        for key, child in value.items():
            require_plain(child, f"{path}.{key}" if path else str(key))
        return
    with contextlib.suppress(ValueError, SyntaxError):
        if ast.literal_eval(repr(value)) == value:
            return
    raise UserError(f"{path}={value!r}: cannot be kept with the grid; write a plain value")


def read_grid(grid: Grid) -> None:
    """Take over what the folder's grid.json knows, if there is one and it is of this grid."""
    file = grid.folder / "grid.json"
    record = read_json(file)
    if record:
        for entry in record["inits"].values():
            entry.setdefault("set", [])  # earlier versions knew no --init_set
        compare(grid, record)
        grid.known_inits = record["inits"] | grid.known_inits
        choices = record["chosen"]
        grid.chosen = {(entry["init"], entry["fraction"]): entry["lr"] for entry in choices}
    elif file.exists():
        raise UserError(f"{file}: damaged; restore it, or set another --output")
    elif any(grid.folder.glob("cells/*/cell.json")):
        raise UserError(f"{file}: not there, but cells of a grid are; set another --output")
    if grid.against is not None and grid.against not in grid.known_inits:
        names = ", ".join(grid.known_inits)
        raise UserError(f"--against {grid.against}: is no initialisation of the grid ({names})")


def compare(grid: Grid, record: dict) -> None:
    """Raise a `UserError` that names what differs from `record`, the grid.json of the folder."""
    ours = identity(grid)
    theirs = {key: record.get(key) for key in ours}
    names = [name for name in grid.known_inits if name in record["inits"]]
    for side, inits in ((ours, grid.known_inits), (theirs, record["inits"])):
        for name in names:
            spec, digest, settings = (inits[name][key] for key in ("spec", "sha256", "set"))
            # The same weights may lie in another file.
            side |= {
                f"inits.{name}.weights": digest or spec,
                f"inits.{name}.set": " ".join(settings),
            }
    changes = differences(theirs, ours)
    if changes:
        path, before, now = changes[0]
        more = f" (and {len(changes) - 1} keys more)" if len(changes) > 1 else ""
        other = ", or give the initialisation another name" if path.startswith("inits") else ""
        raise UserError(
            f"--output {grid.folder}: holds another grid, its {path.removeprefix('config.')} is "
            f"{before!r}, now {now!r}{more}; set another --output{other}"
        )


def identity(grid: Grid) -> dict:
    """What must not change within a grid, in JSON's types."""
    of_cells = OF_CELLS if grid.lrs is None else (*OF_CELLS, "train_cfg.optimizer.lr")
    config = without(grid.config, (*of_cells, *OF_MACHINES))
    contents = {"version": 1, "lrs": grid.lrs, "config": config, "train_tiles": grid.tiles}
    return json.loads(json.dumps(contents, default=str))


def write_grid(grid: Grid) -> None:
    """Write grid.json and config.py."""
    make_folder(grid.folder / "cells", "--output")
    text = pprint.pformat(grid.config, width=100, sort_dicts=False)
    write_text(grid.folder / "config.py", f"config = {text}\n")
    choices = [
        {"init": init, "fraction": part, "lr": lr} for (init, part), lr in grid.chosen.items()
    ]
    contents = identity(grid) | {"inits": grid.known_inits, "chosen": choices}
    write_text(grid.folder / "grid.json", json.dumps(contents, indent=2) + "\n")
