"""The commands as functions, for notebooks and programs: pretrain, finetune, predict.

    import SSLRemoteSensing as sslrs

    run = sslrs.pretrain("data/mine", "runs/mine", preset="small", minutes=30)
    tuned = sslrs.finetune("data/prepared", "runs/tuned", backbone=run.backbone, preset="quick")
    maps = sslrs.predict(tuned.best, "scene.tif", "runs/map.tif")

What is wrong with an argument is a `UserError` with the command's own line. The same call goes on
where one was interrupted; the run's folder holds its `config.py`, see `workflows.own_runs`. The
program's random states, threads of OpenCV and settings of cuDNN are afterwards as they were.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import torch

from SSLRemoteSensing.core.config import Part, plain_value, require
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.core.files import read_json
from SSLRemoteSensing.data.scale import checked_scale
from SSLRemoteSensing.inference.mapper import MapSettings
from SSLRemoteSensing.workflows.finetuning import finetune as run_finetuning
from SSLRemoteSensing.workflows.mapping import map_planned, plan_maps
from SSLRemoteSensing.workflows.own_labels import OwnLabels
from SSLRemoteSensing.workflows.own_plans import CONFIG
from SSLRemoteSensing.workflows.own_requests import FinetuningRequest, PretrainingRequest
from SSLRemoteSensing.workflows.own_runs import requested_config
from SSLRemoteSensing.workflows.pretraining import pretrain as run_pretraining

AnyPath = str | os.PathLike[str]
NOTHING: Mapping[str, object] = {}
PATHS = ("checkpoint", "scenes", "output")  # of `predict`, which must be given


@dataclass(frozen=True)
class PretrainedRun:
    """A pre-training that has ended.

    Attributes:
        folder: of the run.
        config: the file that runs it, for --config_file.
        backbone: the weights; its card, `backbone.json`, lies beside.
        metrics: the log, a JSON object a line.
    """

    folder: Path
    config: Path
    backbone: Path
    metrics: Path


@dataclass(frozen=True)
class FinetunedRun:
    """A fine-tuning that has ended and was scored.

    Attributes:
        folder: of the run, with report.html.
        config: the file that runs it, for --config_file.
        best: the checkpoint that was best on validation, for `predict` and `load_segmentation`.
        results: what results.json holds, see docs/results.schema.json.
    """

    folder: Path
    config: Path
    best: Path
    results: dict

    @property
    def scores(self) -> dict:
        """The scores by protocol `all`, or the first there is: miou, oa, per_class..., as shares of
        one."""
        protocols = self.results["protocols"]
        return protocols.get("all", next(iter(protocols.values())))


@contextlib.contextmanager
def program_kept() -> Iterator[None]:
    """Put back what a run sets for the whole process, as a command that ends with it may: torch's
    random states, threads of OpenCV, cuDNN's search for the fastest kernels."""
    threads, benchmark = cv2.getNumThreads(), torch.backends.cudnn.benchmark
    # A GPU that nothing has used yet is not woken for its generator.
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    try:
        with torch.random.fork_rng(gpus):
            yield
    finally:
        cv2.setNumThreads(threads)
        torch.backends.cudnn.benchmark = benchmark


@program_kept()
def pretrain(
    images: AnyPath | Sequence[AnyPath],
    output: AnyPath,
    preset: str = "modern",
    *,
    epochs: int | None = None,
    minutes: float | None = None,
    size: int | None = None,
    bands: Sequence[int] | None = None,
    max_value: float | None = None,
    scale: Mapping[str, float | Sequence[float]] | str | None = None,
    settings: Mapping[str, object] = NOTHING,
) -> PretrainedRun:
    """Pre-train a backbone on images without labels, or go on with it.

    Args:
        images: a folder, a pattern, a text file with a path a line, or image files.
        output: the run's folder; it is made.
        preset: network and recipe, one of `workflows.presets.PRETRAINING`.
        epochs, minutes: length of the run, one of them; by default the preset's.
        size: side in pixels of what the network sees.
        bands: which bands of a file, counted from 1; by default all.
        max_value: the value that becomes white; by default by the values of some files.
        scale: in place of it, what becomes black and white in each band: {"minimum": (-25, -32),
            "maximum": (0, -5)}; or 'percentile', the 2nd and 98th.
        settings: keys of the config and their values: {"train_cfg.batch_size": 16}.

    Raises:
        UserError: as the command's line says it.
        KeyboardInterrupt: it was stopped, and has saved.
    """
    request = PretrainingRequest(
        tuple(paths(images, "images")), path_of(output, "output"), preset, epochs, minutes, size,
        bands, max_value, checked_scale(scale), as_texts(settings),
    )  # fmt: skip
    with interruptible(), requested_config(request) as config:
        run_pretraining(config)
    folder, log = folder_of(config), Path(config["train_cfg"]["log"]["log_path"])
    return PretrainedRun(
        folder, Path(output) / CONFIG, folder / "backbone.pth", log / "metrics.jsonl"
    )


@program_kept()
def finetune(
    tiles: AnyPath | OwnLabels,
    output: AnyPath,
    backbone: AnyPath = "random",
    preset: str = "standard",
    *,
    frozen: bool = False,
    fraction: float = 1.0,
    epochs: int | None = None,
    unlabelled: AnyPath | None = None,
    settings: Mapping[str, object] = NOTHING,
) -> FinetunedRun:
    """Fine-tune and score a network on tiles, or go on with it.

    Args:
        tiles: a set that tools/prepare.py made, or images with labels, which make one in the run:
            `OwnLabels("images", "labels", ["other", "road"])`.
        output: the run's folder; it is made.
        backbone: 'random', 'imagenet' or a file of weights, which brings its architecture.
        preset: length, one of `workflows.presets.FINETUNING`.
        frozen: the features of the backbone as they are, read by a linear probe, in place of
            fine-tuning.
        fraction: share of the labels that is used, above 0 to 1.
        epochs: length of the run in place of the preset's.
        unlabelled: tiles to train on too, by labels that a network gives them: 'rest', those that
            `fraction` leaves out and those of images without a label, or a folder of images.
        settings: keys of the config and their values.

    Raises:
        UserError: as the command's line says it.
        KeyboardInterrupt: it was stopped, and has saved.
    """
    if isinstance(tiles, OwnLabels):
        images, labels = tuple(paths(tiles.images, "images")), path_of(tiles.labels, "labels")
        tiles = replace(tiles, images=images, labels=labels)
    else:
        tiles = path_of(tiles, "tiles")
    request = FinetuningRequest(
        tiles, path_of(output, "output"), path_of(backbone, "backbone"), preset, frozen, fraction,
        epochs, None if unlabelled is None else path_of(unlabelled, "unlabelled"),
        as_texts(settings),
    )  # fmt: skip
    with interruptible(), requested_config(request) as config:
        run_finetuning(config)
    run = folder_of(config)
    results = read_json(run / "results.json")
    return FinetunedRun(run, Path(output) / CONFIG, run / "best.pth", results)


@program_kept()
def predict(
    checkpoint: AnyPath,
    scenes: AnyPath | Sequence[AnyPath],
    output: AnyPath,
    *,
    probabilities: bool = False,
    preview: bool = False,
    vectors: AnyPath | None = None,
    overwrite: bool = False,
    skip_existing: bool = False,
    settings: MapSettings | Mapping[str, object] | None = None,
    device: str | torch.device = "auto",
    precision: str = "auto",
) -> list[Path]:
    """Map scenes with a fine-tuned network; the maps' files, in the order of the scenes.

    Args:
        checkpoint: best.pth of fine-tuning, or an export of it.
        scenes: files, or patterns of them; with `settings.allow_remote` also addresses.
        output: a file for one scene, or a folder.
        probabilities, preview, vectors: what else is written, as the flags of tools/predict.py.
        overwrite: replace files that are there.
        skip_existing: leave out scenes whose map is there, whatever it was made with: a call that
            was stopped goes on.
        settings: how the network is applied, `MapSettings(tile=1024, tta=True)` say, or a dict of
            the same.

    Raises:
        UserError: as the command's line says it; of several scenes, after the others are mapped.
    """
    options = {"probabilities": probabilities, "preview": preview, "overwrite": overwrite}
    options |= {"skip_existing": skip_existing}
    require(Part(predict, PATHS), plain_value(options | {"precision": precision}))
    weights, applied = path_of(checkpoint, "checkpoint"), map_settings(settings)
    polygons = None if vectors is None else path_of(vectors, "vectors")
    plan = plan_maps(
        paths(scenes, "scenes"), path_of(output, "output"), probabilities, preview, polygons,
        skip_existing, overwrite, allow_remote=applied.allow_remote,
    )  # fmt: skip
    errors = [
        line
        for _, lines in map_planned(plan, weights, applied, str(device), precision)
        for line in lines
    ]
    if errors:
        raise UserError("; ".join(errors))
    return [Path(files.map) for files in plan.outputs]


def path_of(given: AnyPath, name: str) -> str:
    if not isinstance(given, str | os.PathLike):
        raise UserError(f"{name}: expected a path, not {given!r}")
    return os.fspath(given)


def paths(given: AnyPath | Sequence[AnyPath], name: str) -> list[str]:
    if isinstance(given, str | os.PathLike) or not isinstance(given, Iterable):
        return [path_of(given, name)]
    files = [path_of(path, name) for path in given]
    if not files:
        raise UserError(f"no {name} are given: an empty list; name a folder, a pattern or files")
    return files


def map_settings(given: MapSettings | Mapping[str, object] | None) -> MapSettings:
    if isinstance(given, MapSettings):
        return given
    values = {} if given is None else plain_value(given)
    require(Part(MapSettings), values, "settings")
    return MapSettings(**values)


def folder_of(config: dict) -> Path:
    """Where a run's results lie: its --output, unless `settings` name another folder."""
    return Path(config["train_cfg"]["checkpoints"]["checkpoints_path"])


def as_texts(settings: Mapping[str, object]) -> tuple[str, ...]:
    """As --set is given them; text that reads as a number stays text where the key wants text."""
    values = plain_value(settings)
    require(dict, values, "settings")
    return tuple(f"{key}={x if isinstance(x, str) else repr(x)}" for key, x in values.items())


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """A run that ends by a signal raises KeyboardInterrupt, in place of ending the program."""
    try:
        yield
    except SystemExit as error:
        raise KeyboardInterrupt("stopped; the run has saved, the same call goes on") from error
