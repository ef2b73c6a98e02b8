"""The whole examination of a config, section by section, whatever the sections before found."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from SSLRemoteSensing.data.labels import ValueCoding
from SSLRemoteSensing.workflows.doctor import labels, machine, step
from SSLRemoteSensing.workflows.doctor.findings import FAIL, Section, count
from SSLRemoteSensing.workflows.doctor.images import (
    ImageFacts,
    check_duplicates,
    check_images,
    scan,
)
from SSLRemoteSensing.workflows.doctor.machine import check_changes, check_machine, check_run_folder
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


def examine(examination: Examination) -> None:
    """Examine the config of `examination`.

    Raises:
        UserError: wrong keys in the config, a number of processes that does not divide its batch.
            All else that is wrong is a finding.
    """
    require_keys(examination.config)
    section = Section("machine")
    check_machine(examination.config["train_cfg"], section)
    finish(examination, section)
    section = Section("network")
    trial = section.attempt(open_trial, examination.config, examination.processes)
    if trial is not None:
        name = examination.config["backbone_cfg"]["name"]
        section.ok(f"{type(trial.model).__name__} of {name} is built")
    finish(examination, section)
    if trial is not None and trial.open_probe is not None:
        section = Section("probe")
        section.attempt(trial.open_probe)
        finish(examination, section)
    splits, image_facts = examine_files(examination)
    if image_facts:
        section = Section("duplicates")
        check_duplicates(image_facts, section)
        finish(examination, section)
    state = examine_folder(examination, trial)
    if trial is not None and splits and splits[0].name == "train":
        examine_step(examination, trial, state, len(splits[0].images))


def finish(examination: Examination, section: Section) -> None:
    """Tell `section`, without the failures that were told before it."""
    failures = {
        finding.text
        for told_section in examination.sections
        for finding in told_section.findings
        if finding.mark == FAIL
    }
    section.findings = [finding for finding in section.findings if finding.text not in failures]
    examination.sections.append(section)
    examination.tell(examination)


def examine_files(examination: Examination) -> tuple[list[Split], dict[str, list[ImageFacts]]]:
    """Read every image and label, and settle which of them training cannot use."""
    section, unusable = Section("images"), {}
    splits = find_splits(examination.config, section)
    image_facts = {split.name: scan(split, examination.workers) for split in splits}
    for split in splits:
        bad_files = check_images(split, image_facts[split.name], section)
        examination.misled |= bad_files is None
        faults = {image.file: image.fault for image in image_facts[split.name]}
        unusable |= {file: faults[file] for file in bad_files or ()}
    if not is_fine_tuning(examination.config):
        examination.unusable = unusable
        finish(examination, section)
        return splits, image_facts
    finish(examination, section)
    section = Section("labels")
    for split in splits:
        facts = labels.scan_labels(split, image_facts[split.name], examination.workers)
        known_coding = split.coding or examination.coding
        bad_files, coding = labels.check_labels(
            split, facts, known_coding, list(examination.config["classes"]), section
        )
        examination.misled |= bad_files is None
        if split.name == "train":
            examination.coding = coding
        unusable = {file: f"image {file}: its label" for file in bad_files or ()} | unusable
    examination.unusable = unusable
    finish(examination, section)
    return splits, image_facts


def examine_folder(examination: Examination, trial: Trial | None) -> dict | None:
    """The run's folders and disk; the state that it would go on from."""
    train_cfg, section, state = examination.config["train_cfg"], Section("folders"), None
    folder = train_cfg["checkpoints"]["checkpoints_path"]
    machine.check_folder(train_cfg["log"]["log_path"], "log_path", section)
    if machine.check_folder(folder, "checkpoints_path", section):
        if trial is not None:
            settings = trial.settings
            max_keep = settings.checkpoints.max_keep
            max_keep = min(max_keep, settings.num_epoch or max_keep)
            needed_bytes, breakdown = machine.checkpoint_bytes(
                trial.model, settings.optimizer, max_keep, is_fine_tuning(examination.config)
            )
            machine.check_disk(needed_bytes, breakdown, folder, section)
        state = check_run_folder(Path(folder), section)
        if state is not None and trial is not None:
            check_changes(state, kept_config(trial), section)
    finish(examination, section)
    return state


def examine_step(examination: Examination, trial: Trial, state: dict | None, images: int) -> None:
    """Open the data as training does, run a step on it, and look ahead."""
    section = Section("a step")
    step.check_batch(trial.settings, examination.processes, images, trial.model, section)
    if examination.misled:
        section.warn("not measured: mend what is named above first")
        finish(examination, section)
        return
    if trial.open_scored is not None and count(examination.sections, FAIL) == 0:
        section.attempt(trial.open_scored, examination.coding)
    dataset = section.attempt(open_without, trial, examination.unusable, examination.coding)
    stepper = section.attempt(step.prepare_step, trial, state)
    if stepper is None:  # the checkpoint is of another network, say; the step can still be tried
        state, stepper = None, Section("").attempt(step.prepare_step, trial, None)
    timed_batch = None if dataset is None else section.attempt(step.load_batch, trial, dataset)
    seconds = None
    if stepper is not None and timed_batch is not None:
        batch, image = timed_batch
        seconds = step.check_step(trial, stepper, batch, section)
        if seconds is not None:
            step.check_time(
                trial.settings, examination.processes, len(dataset), seconds, image, state, section
            )
    else:
        section.warn("not measured: mend what is named above first")
    finish(examination, section)
