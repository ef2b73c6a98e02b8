"""The whole examination of a config, section by section, whatever the sections before found."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from SSLRemoteSensing.data.labels import ValueCoding
from SSLRemoteSensing.workflows.doctor import labels, run
from SSLRemoteSensing.workflows.doctor.findings import FAIL, Section, count
from SSLRemoteSensing.workflows.doctor.images import (
    ImageFacts,
    check_duplicates,
    check_images,
    scan,
)
from SSLRemoteSensing.workflows.doctor.run import check_changes, check_machine, check_run_folder
from SSLRemoteSensing.workflows.doctor.subject import Split, find_splits, is_fine_tuning
from SSLRemoteSensing.workflows.doctor.trial import (
    Trial,
    kept_config,
    open_trial,
    open_without,
    require_keys,
)


@dataclass
class Examination:
    """What is examined, and what was found so far.

    Attributes:
        workers: images read at a time.
        processes: of the run, as torchrun would start them.
        tell: gets the examination after each section, the last of `sections`.
        sections: in order.
        unusable: each image that training cannot use, and why; None before all have been read.
        misled: whether a fault of most files says that the config is what is wrong.
        coding: that of the training labels.
    """

    config: dict
    workers: int
    processes: int
    tell: Callable[["Examination"], None]
    sections: list[Section] = field(default_factory=list)
    unusable: dict[str, str] | None = None
    misled: bool = False
    coding: ValueCoding | None = None


def examine(done: Examination) -> None:
    """Examine the config of `done`.

    Raises:
        UserError: wrong keys in the config, a number of processes that does not divide its batch.
            All else that is wrong is a finding.
    """
    require_keys(done.config)
    section = Section("machine")
    check_machine(done.config["train_cfg"], section)
    finish(done, section)
    section = Section("network")
    trial = section.attempt(open_trial, done.config, done.processes)
    if trial is not None:
        name = done.config["backbone_cfg"]["name"]
        section.ok(f"{type(trial.model).__name__} of {name} is built")
    finish(done, section)
    if trial is not None and trial.open_probe is not None:
        section = Section("probe")
        section.attempt(trial.open_probe)
        finish(done, section)
    splits, scanned = examine_files(done)
    if scanned:
        section = Section("duplicates")
        check_duplicates(scanned, section)
        finish(done, section)
    state = examine_folder(done, trial)
    if trial is not None and splits and splits[0].name == "train":
        examine_step(done, trial, state, len(splits[0].images))


def finish(done: Examination, section: Section) -> None:
    """Tell `section`, without the failures that were told before it."""
    before = {one.text for other in done.sections for one in other.findings if one.mark == FAIL}
    section.findings = [one for one in section.findings if one.text not in before]
    done.sections.append(section)
    done.tell(done)


def examine_files(done: Examination) -> tuple[list[Split], dict[str, list[ImageFacts]]]:
    """Read every image and label, and settle which of them training cannot use."""
    section, unusable = Section("images"), {}
    splits = find_splits(done.config, section)
    scanned = {split.name: scan(split, done.workers) for split in splits}
    for split in splits:
        bad = check_images(split, scanned[split.name], section)
        done.misled |= bad is None
        why = {one.file: one.fault for one in scanned[split.name]}
        unusable |= {file: why[file] for file in bad or ()}
    if not is_fine_tuning(done.config):
        done.unusable = unusable
        finish(done, section)
        return splits, scanned
    finish(done, section)
    section = Section("labels")
    for split in splits:
        facts = labels.scan_labels(split, scanned[split.name], done.workers)
        given = split.coding or done.coding
        bad, coding = labels.check_labels(
            split, facts, given, list(done.config["classes"]), section
        )
        done.misled |= bad is None
        if split.name == "train":
            done.coding = coding
        unusable = {file: f"image {file}: its label" for file in bad or ()} | unusable
    done.unusable = unusable
    finish(done, section)
    return splits, scanned


def examine_folder(done: Examination, trial: Trial | None) -> dict | None:
    """The run's folders and disk; the state that it would go on from."""
    train_cfg, section, state = done.config["train_cfg"], Section("folders"), None
    folder = train_cfg["checkpoints"]["checkpoints_path"]
    run.check_folder(train_cfg["log"]["log_path"], "log_path", section)
    if run.check_folder(folder, "checkpoints_path", section):
        if trial is not None:
            settings = trial.settings
            most = settings.checkpoints.max_keep
            most = min(most, settings.num_epoch or most)
            needed, what = run.checkpoint_bytes(
                trial.model, settings.optimizer, most, is_fine_tuning(done.config)
            )
            run.check_disk(needed, what, folder, section)
        state = check_run_folder(Path(folder), section)
        if state is not None and trial is not None:
            check_changes(state, kept_config(trial), section)
    finish(done, section)
    return state


def examine_step(done: Examination, trial: Trial, state: dict | None, images: int) -> None:
    """Open the data as training does, run a step on it, and look ahead."""
    section = Section("a step")
    run.check_batch(trial.settings, done.processes, images, trial.model, section)
    if done.misled:
        section.warn("not measured: mend what is named above first")
        finish(done, section)
        return
    if trial.open_scored is not None and count(done.sections, FAIL) == 0:
        section.attempt(trial.open_scored, done.coding)
    dataset = section.attempt(open_without, trial, done.unusable, done.coding)
    stepper = section.attempt(run.prepare_step, trial, state)
    if stepper is None:  # the checkpoint is of another network, say; the step can still be tried
        state, stepper = None, Section("").attempt(run.prepare_step, trial, None)
    loaded = None if dataset is None else section.attempt(run.load_batch, trial, dataset)
    seconds = None
    if stepper is not None and loaded is not None:
        batch, image = loaded
        seconds = run.check_step(trial, stepper, batch, section)
        if seconds is not None:
            run.check_time(
                trial.settings, done.processes, len(dataset), seconds, image, state, section
            )
    else:
        section.warn("not measured: mend what is named above first")
    finish(done, section)
