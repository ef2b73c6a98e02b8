"""The whole examination of a config, section by section, whatever the sections before found."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from SSLRemoteSensing.doctor import labels, rehearsal, resources
from SSLRemoteSensing.doctor.continuing import judge_changes, judge_run_folder
from SSLRemoteSensing.doctor.duplicates import judge_duplicates
from SSLRemoteSensing.doctor.images import Facts, judge_images, scan
from SSLRemoteSensing.doctor.machine import judge_machine
from SSLRemoteSensing.doctor.report import FAIL, Section, count
from SSLRemoteSensing.doctor.subject import Split, find_splits, is_fine_tuning
from SSLRemoteSensing.doctor.task import Task, kept_config, open_task, open_without, require_keys
from SSLRemoteSensing.saving import CheckpointSettings


@dataclass
class Examination:
    """What was found: the sections in order, and each image that training cannot use with why."""

    config: dict
    workers: int
    tell: Callable[[Section], None]
    sections: list[Section] = field(default_factory=list)
    unusable: dict[str, str] = field(default_factory=dict)


def examine(config: dict, workers: int, tell: Callable[[Section], None]) -> Examination:
    """Examine a checked `config`; `tell` gets each section as soon as it is done.

    Args:
        workers: images read at a time.

    Raises:
        UserError: wrong keys in the config. All else that is wrong is a finding.
    """
    require_keys(config)
    done = Examination(config, workers, tell)
    section = Section("machine")
    judge_machine(config["train_cfg"], section)
    finish(done, section)
    section = Section("network")
    task = section.attempt(open_task, config)
    if task is not None:
        section.ok(f"{type(task.model).__name__} of {config['backbone_cfg']['name']} is built")
    finish(done, section)
    splits, scanned = examine_images(done)
    if is_fine_tuning(config) and splits:
        examine_labels(done, splits, scanned)
    if scanned:
        section = Section("duplicates")
        judge_duplicates(scanned, section)
        finish(done, section)
    state = examine_folder(done, task)
    if task is not None and splits and splits[0].name == "train":
        examine_step(done, task, state, len(splits[0].images))
    return done


def finish(done: Examination, section: Section) -> None:
    """Tell `section`, without the failures that were told before it."""
    before = {one.text for other in done.sections for one in other.findings if one.mark == FAIL}
    section.findings = [one for one in section.findings if one.text not in before]
    done.sections.append(section)
    done.tell(section)


def examine_images(done: Examination) -> tuple[list[Split], dict[str, list[Facts]]]:
    section = Section("images")
    splits = find_splits(done.config, section)
    scanned = {split.name: scan(split, done.workers) for split in splits}
    for split in splits:
        judge_images(split, scanned[split.name], section)
        done.unusable |= {f.file: f.fault for f in scanned[split.name] if f.fault is not None}
    finish(done, section)
    return splits, scanned


def examine_labels(done: Examination, splits: list[Split], scanned: dict[str, list[Facts]]) -> None:
    section, coding = Section("labels"), None
    classes = list(done.config["classes"])
    for split in splits:
        facts = labels.scan_labels(split, scanned[split.name], done.workers)
        if split.name == "train":
            coding = labels.settle_coding(split, facts, len(classes), section)
        own = split.coding or coding
        bad = labels.judge_labels(split, facts, own, classes, section)
        done.unusable |= {file: f"image {file}: its label" for file in bad} | done.unusable
    finish(done, section)


def examine_folder(done: Examination, task: Task | None) -> dict | None:
    """The run's folders and disk; the state that it would go on from."""
    train_cfg, section = done.config["train_cfg"], Section("folders")
    folder = train_cfg["checkpoints"]["checkpoints_path"]
    resources.judge_folder(folder, "checkpoints_path", section)
    resources.judge_folder(train_cfg["log"]["log_path"], "log_path", section)
    if task is not None:
        most = CheckpointSettings(**task.settings["checkpoints"]).max_keep
        kept = min(most, task.settings["num_epoch"] or most)
        needed, what = resources.checkpoint_bytes(
            task.model, task.settings["optimizer"], kept, is_fine_tuning(done.config)
        )
        resources.judge_disk(needed, what, folder, section)
    state = judge_run_folder(Path(folder), section)
    if state is not None and task is not None:
        judge_changes(state, kept_config(task), section)
    finish(done, section)
    return state


def examine_step(done: Examination, task: Task, state: dict | None, images: int) -> None:
    """Open the data as training does, run a step on it, and look ahead."""
    section = Section("a step")
    rehearsal.judge_batch(task.settings, images, task.model, section)
    sound = count(done.sections, FAIL) == 0
    if sound and task.open_scored is not None:
        section.attempt(task.open_scored)
    dataset = section.attempt(open_without, task, done.unusable)
    stepper = section.attempt(rehearsal.prepare_step, task, state)
    if stepper is None:  # the checkpoint is of another network, say; the step can still be tried
        state, stepper = None, Section("").attempt(rehearsal.prepare_step, task, None)
    loaded = None if dataset is None else section.attempt(rehearsal.load_batch, task, dataset)
    if stepper is not None and loaded is not None:
        batch, image = loaded
        seconds = rehearsal.judge_step(task, stepper, batch, section)
        if seconds is not None:
            rehearsal.judge_time(task.settings, len(dataset), seconds, image, state, section)
    else:
        section.warn("not measured: mend what is named above first")
    finish(done, section)
