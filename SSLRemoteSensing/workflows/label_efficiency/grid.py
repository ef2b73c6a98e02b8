"""A grid of fine-tunings: what is asked for, which cells that makes, and whether a folder fits it.

`grid.json` says what makes a grid: config, tiles, learning rates, initialisations with the hashes
of their files; and the learning rates chosen. `config.py` is the config that the cells read, so
that a later edit of the user's file reaches none of them.
"""

import ast
import contextlib
import copy
import fcntl
import functools
import json
import math
import pprint
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from SSLRemoteSensing.core.config import differences, override
from SSLRemoteSensing.core.errors import UserError, about
from SSLRemoteSensing.core.files import make_folder, read_json, sha256, write_text
from SSLRemoteSensing.core.machine import choose_device
from SSLRemoteSensing.data.segmentation import SegmentationDataset, TileSettings
from SSLRemoteSensing.data.subsets import choose_fraction
from SSLRemoteSensing.training.settings import divide_batch, require_one_length
from SSLRemoteSensing.workflows.finetuning import check_segmentation
from SSLRemoteSensing.workflows.label_efficiency.comparison import format_percent

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")
# Each cell sets these itself, and these differ between machines without changing what is learnt.
OF_CELLS = ("backbone_cfg.pretrained", "train_cfg.seed", "train_cfg.train_data.fraction")
OF_CELLS += ("train_cfg.train_data.fraction_seed", "train_cfg.checkpoints.checkpoints_path")
# What may differ between initialisations: how a network is trained, not on what or for how long.
OWN = ("decoder_cfg.transfer", "train_cfg.freeze_backbone", "train_cfg.norm_eval")
OWN += ("train_cfg.backbone_lr_factor", "train_cfg.optimizer", "train_cfg.lr_schedule")
OF_MACHINES = ("train_cfg.device", "train_cfg.num_workers", "train_cfg.log")
OF_MACHINES += ("train_cfg.checkpoints.max_keep", "train_cfg.checkpoints.save_minutes")


@dataclass(frozen=True)
class Cell:
    init: str
    fraction: float
    seed: int
    lr: float | None = None

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
        inits: name -> 'random', 'imagenet' or a file, absolute; those asked for.
        known_inits: name -> dict(spec, sha256, set), also those of earlier calls; `set` holds the
            'a.b=VALUE' of that initialisation alone.
        lrs: learning rates to search, None for the config's own.
        tiles, steps: of the whole train split; of every cell.
        chosen: the learning rate found for (init, fraction).
        against: the initialisation that the others are set against; None for the random one.
        lock: the open file that keeps other commands out; the cells hold it too.
    """

    folder: Path
    config: dict
    inits: dict[str, str]
    known_inits: dict[str, dict]
    fractions: list[float]
    seeds: list[int]
    lrs: list[float] | None
    tiles: int
    steps: int
    chosen: dict[tuple[str, float], float]
    against: str | None = None
    lock: int | None = None

    def cells(self) -> list[Cell]:
        """All that are asked for: whole curves of the first seed, then of the next.

        Where the learning rate is chosen, seeds that are added need no other.
        """
        return [
            Cell(init, fraction, seed, lr)
            for seed in self.seeds
            for fraction in self.fractions
            for init in self.inits
            for lr in self.rates(init, fraction)
        ]

    def rates(self, init: str, fraction: float) -> list:
        if self.lrs is None:
            return [None]
        chosen = self.chosen.get((init, fraction))
        return self.lrs if chosen is None else [chosen]

    def labelled_tiles(self, fraction: float) -> int:
        """Number of tiles with labels."""
        return count_labelled(self.tiles, fraction)

    @property
    def per_step(self) -> int:
        """Tiles that a step takes."""
        return tiles_per_step(self.config["train_cfg"])

    @property
    def draws(self) -> int:
        """Tiles that a cell takes in all its steps."""
        return self.steps * self.per_step

    @property
    def split(self) -> str:
        """The tiles that the table is about."""
        return "val" if self.config["train_cfg"].get("test_data") is None else "test"

    @property
    def baseline(self) -> str | None:
        """The initialisation that others are set against: `against`, or else random weights,
        trained as the config says."""
        if self.against is not None:
            return self.against
        for name, entry in self.known_inits.items():
            if entry["spec"] == "random" and not entry["set"]:
                return name
        return None

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
) -> Grid:
    """The grid that is asked for, in `folder` or to be; nothing is written.

    Args:
        config: checked by `check_segmentation`.
        inits: 'NAME=random', 'NAME=imagenet' or 'NAME=FILE'.
        init_sets: a name of these and what is set for it alone, each.
        against: the name that the others are compared with; None for the random one.

    Raises:
        UserError: a wrong value; a file, data or a device that is not there; too few tiles for a
            batch; a folder with a grid of another config, other tiles, learning rates or weights.
    """
    check_numbers("--fractions", fractions, lambda value: 0 < value <= 1, "above 0 and at most 1")
    check_numbers("--seeds", seeds, lambda value: 0 <= value < 2**63, "0 to 2^63 - 1")
    if lrs is not None:
        check_numbers("--lrs", lrs, lambda value: 0 < value < math.inf, "above 0")
        lrs = sorted(lrs)
    require_plain(config)
    specs = read_inits(inits)
    choose_device(config["train_cfg"].get("device", "auto"))
    tiles, steps = measure(config)
    sets = read_init_sets(init_sets, specs, config)
    for name, settings in sets.items():
        if lrs is not None and any(text.startswith("train_cfg.optimizer") for text in settings):
            raise UserError(
                f"--init_set {name} {' '.join(settings)}: --lrs chooses the rate for all"
            )
    known_inits = {
        name: {"spec": spec, "sha256": spec_hash(spec), "set": sets.get(name, [])}
        for name, spec in specs.items()
    }
    grid = Grid(
        folder, config, specs, known_inits, sorted(fractions), list(seeds), lrs, tiles, steps, {}
    )
    read_grid(grid)
    if against is not None and against not in grid.known_inits:
        names = ", ".join(grid.known_inits)
        raise UserError(f"--against {against}: is no initialisation of the grid ({names})")
    grid.against = against
    return grid


def read_grid(grid: Grid) -> None:
    """Take over what the folder's grid.json knows, if there is one and it is of this grid."""
    file = grid.folder / "grid.json"
    record = read_json(file)
    if not record:
        if file.exists():
            raise UserError(f"{file}: damaged; restore it, or set another --output")
        if any(grid.folder.glob("cells/*/cell.json")):
            raise UserError(f"{file}: not there, but cells of a grid are; set another --output")
        return
    for entry in record["inits"].values():
        entry.setdefault("set", [])  # earlier versions knew no --init_set
    compare(grid.folder, record, identity(grid.config, grid.lrs, grid.tiles), grid.known_inits)
    grid.known_inits = record["inits"] | grid.known_inits
    grid.chosen = {(entry["init"], entry["fraction"]): entry["lr"] for entry in record["chosen"]}


@functools.cache
def count_labelled(tiles: int, fraction: float) -> int:
    return len(choose_fraction([str(i) for i in range(tiles)], fraction, 0))


def check_numbers(flag: str, values: Sequence[float], is_allowed, expected: str) -> None:
    for value in values:
        if not is_allowed(value):
            raise UserError(f"{flag} {value:g}: must be {expected}")
    names = [f"{value:.12g}" for value in values]
    duplicates = [name for name in names if names.count(name) > 1]
    if duplicates:
        raise UserError(f"{flag}: {duplicates[0]} stands there twice")


def read_inits(texts: Sequence[str]) -> dict[str, str]:
    """Name -> 'random', 'imagenet' or the absolute path of a file."""
    specs = {}
    for text in texts:
        name, equals, spec = text.partition("=")
        if not equals or not spec:
            raise UserError(f"--init {text}: write NAME=random, NAME=imagenet or NAME=FILE")
        if not NAME.fullmatch(name):
            raise UserError(
                f"--init {text}: a name is of letters, digits and _.+- and names folders"
            )
        if name.lower() in (other_name.lower() for other_name in specs):
            raise UserError(f"--init {text}: the name {name} stands there twice")
        if spec not in ("random", "imagenet"):
            if not Path(spec).is_file():
                raise UserError(f"--init {text}: no such file; or write random or imagenet")
            spec = str(Path(spec).absolute())
        specs[name] = spec
    return specs


def read_init_sets(
    texts: Sequence[Sequence[str]], specs: dict[str, str], config: dict
) -> dict[str, list[str]]:
    """Name -> what --init_set gives it; checked as keys of the config."""
    sets: dict[str, list[str]] = {}
    for name, *settings in texts:
        if name not in specs:
            raise UserError(f"--init_set {name}: is no name of --init ({', '.join(specs)})")
        if not settings:
            raise UserError(f"--init_set {name}: write the keys after it, as KEY=VALUE")
        for text in settings:
            key = text.partition("=")[0].strip()
            if not any(key == prefix or key.startswith(f"{prefix}.") for prefix in OWN):
                raise UserError(
                    f"--init_set {name} {text}: must be the same for all, so use --set; an "
                    f"initialisation's own are {', '.join(OWN)}"
                )
        sets.setdefault(name, []).extend(settings)
    for name, settings in sets.items():
        changed_config = copy.deepcopy(config)
        with about(f"--init_set {name}"):
            for text in settings:
                override(changed_config, text)
            check_segmentation(changed_config)
    return sets


def measure(config: dict) -> tuple[int, int]:
    """Tiles of the train split, and steps of a cell, the same at any fraction."""
    train_cfg = config["train_cfg"]
    settings = TileSettings(**train_cfg["train_data"] | {"fraction": 1.0})
    classes = list(config["classes"])
    bands = config["backbone_cfg"].get("in_channels", 3)
    with about("train_cfg.train_data"):
        tiles = len(SegmentationDataset(settings, len(classes), in_channels=bands, classes=classes))
    per_step = tiles_per_step(train_cfg)
    if per_step < 1 or tiles < per_step:
        raise UserError(
            f"train_cfg.batch_size: a step takes {per_step} of {tiles} train tiles; set a "
            f"batch_size of at least 1 and at most their number"
        )
    return tiles, steps_of(train_cfg, tiles)


def steps_of(train_cfg: dict, tiles: int) -> int:
    """The steps of a cell, of which `tiles` are the train split."""
    epochs, steps = train_cfg.get("num_epoch"), train_cfg.get("num_step")
    require_one_length(epochs, steps)
    steps = epochs * (tiles // tiles_per_step(train_cfg)) if steps is None else steps
    if steps < 1:
        raise UserError("train_cfg: num_epoch or num_step must be at least 1")
    return steps


def tiles_per_step(train_cfg: dict) -> int:
    return divide_batch(train_cfg)["batch_size"] * train_cfg.get("accumulate_steps", 1)


def identity(config: dict, lrs: Sequence[float] | None, tiles: int) -> dict:
    """What must not change within a grid, in JSON's types."""
    config = copy.deepcopy(config)
    of_cells = OF_CELLS if lrs is None else (*OF_CELLS, "train_cfg.optimizer.lr")
    for path in (*of_cells, *OF_MACHINES):
        *parents, last = path.split(".")
        owner = config
        for key in parents:
            owner = owner.get(key, {})
        owner.pop(last, None)
    contents = {"version": 1, "lrs": lrs, "config": config, "train_tiles": tiles}
    return json.loads(json.dumps(contents, default=str))


def compare(folder: Path, record: dict, ours: dict, inits: dict[str, dict]) -> None:
    """Raise a `UserError` that names what differs from the grid in `folder`."""
    changes = differences({key: record.get(key) for key in ours}, ours)
    if changes:
        path, before, now = changes[0]
        more = f" (and {len(changes) - 1} keys more)" if len(changes) > 1 else ""
        raise UserError(
            f"--output {folder}: holds another grid, its {path.removeprefix('config.')} is "
            f"{before!r}, now {now!r}{more}; set another --output"
        )
    for name, entry in inits.items():
        before = record["inits"].get(name, entry)
        same_kind = entry["sha256"] is not None or before["spec"] == entry["spec"]
        if before["sha256"] != entry["sha256"] or not same_kind:
            raise UserError(
                f"--init {name}={entry['spec']}: in {folder} that name is {before['spec']}"
                f"{' with other contents' if before['spec'] == entry['spec'] else ''}; give it "
                f"another name, or set another --output"
            )
        if before["set"] != entry["set"]:
            raise UserError(
                f"--init_set {name}: in {folder} that name goes with "
                f"{' '.join(before['set']) or 'nothing'}, now "
                f"{' '.join(entry['set']) or 'nothing'}; give it another name, or set another "
                f"--output"
            )


def require_plain(value, path: str = "") -> None:
    """Raise a `UserError` for what a config file written by `write_grid` could not hold."""
    if isinstance(value, dict):
        for key, child in value.items():
            require_plain(child, f"{path}.{key}" if path else str(key))
        return
    try:
        is_plain = ast.literal_eval(repr(value)) == value
    except (ValueError, SyntaxError):
        is_plain = False
    if not is_plain:
        raise UserError(f"{path}={value!r}: cannot be kept with the grid; write a plain value")


def write_grid(grid: Grid) -> None:
    """Write grid.json and config.py."""
    make_folder(grid.folder / "cells", "--output")
    text = pprint.pformat(grid.config, width=100, sort_dicts=False)
    write_text(grid.folder / "config.py", f"config = {text}\n")
    choices = [
        {"init": init, "fraction": fraction, "lr": lr}
        for (init, fraction), lr in grid.chosen.items()
    ]
    contents = identity(grid.config, grid.lrs, grid.tiles)
    contents |= {"inits": grid.known_inits, "chosen": choices}
    write_text(grid.folder / "grid.json", json.dumps(contents, indent=2) + "\n")


@contextlib.contextmanager
def locked(grid: Grid) -> Iterator[None]:
    """Keep a second command out of the folder as long as this one, or a cell of it, is running."""
    make_folder(grid.folder, "--output")
    try:
        file = open(grid.folder / ".lock", "w")  # noqa: SIM115, closed below
    except OSError as error:
        raise UserError(f"--output {grid.folder}: cannot be written ({error.strerror})") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"--output {grid.folder}: another command, or a cell that it left, is running there"
            ) from error
        except OSError as error:
            raise UserError(f"--output {grid.folder}: no locks here ({error.strerror})") from error
        grid.lock = file.fileno()
        yield
        grid.lock = None


def spec_hash(spec: str) -> str | None:
    """SHA-256 of the file that an initialisation names; None where it names none."""
    if spec in ("random", "imagenet"):
        return None
    try:
        return sha256(spec)
    except OSError as error:
        raise UserError(f"--init {spec}: cannot be read ({error.strerror})") from error
