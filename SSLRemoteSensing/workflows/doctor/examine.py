"""The whole examination of a config, section by section, whatever the sections before found."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from SSLRemoteSensing.core.config import Part, require
from SSLRemoteSensing.training.plan import require_images
from SSLRemoteSensing.workflows.doctor import images, labels, run
from SSLRemoteSensing.workflows.doctor.findings import FAIL, Section, count
from SSLRemoteSensing.workflows.finetuning import Finetuning, SegmentationConfig
from SSLRemoteSensing.workflows.pretraining import PretextConfig


@dataclass
class Examination:
    """What is examined, and what was found so far.

    Attributes:
        workers: images read at a time; None: one a core.
        processes: of the run, as torchrun would start them.
        tell: gets the examination after each section, the last of `sections`.
        sections: in order.
        bad_images: those that training cannot use, and why; all once `is_read`.
        misled: whether a fault of most files says that the config is what is wrong.
    """

    config: dict
    workers: int | None
    processes: int
    tell: Callable[["Examination"], None]
    sections: list[Section] = field(default_factory=list)
    bad_images: dict[str, str] = field(default_factory=dict)
    is_read: bool = False
    misled: bool = False

    def note(self, bad_images: dict[str, str] | None) -> None:
        """Keep bad images and why they are, None where the config is what is wrong."""
        self.misled |= bad_images is None
        self.bad_images = (bad_images or {}) | self.bad_images

    @contextlib.contextmanager
    def section(self, title: str) -> Iterator[Section]:
        """A section to fill in the block, told after it but for what others have told."""
        section = Section(title)
        yield section
        earlier = {finding.text for section in self.sections for finding in section.findings}
        section.findings = [x for x in section.findings if x.text not in earlier]
        self.sections.append(section)
        self.tell(self)


def examine(examination: Examination) -> None:
    """Examine the config of `examination`.

    Raises:
        UserError: wrong keys in the config. All else that is wrong is a finding.
    """
    config, state, coding = examination.config, None, None
    is_tuning = images.is_fine_tuning(config)
    require(Part(SegmentationConfig if is_tuning else PretextConfig), config)
    train_cfg = config["train_cfg"]
    with examination.section("machine") as section:
        run.check_machine(train_cfg, section)
    with examination.section("network") as section:
        opened = section.attempt(run.open_network, config, examination.processes)
        if opened is not None:
            name = config["backbone_cfg"]["name"]
            section.ok(f"{type(opened.model).__name__} of {name} is built")
    if opened is not None and train_cfg.get("probe") is not None:
        with examination.section("probe") as section:
            section.attempt(run.open_probe, opened)
    with examination.section("images") as section:
        splits = images.find_splits(config, section)
        facts = {split.name: images.scan(split, examination.workers) for split in splits}
        for split in splits:
            examination.note(images.check_images(split, facts[split.name], section))
        examination.is_read = not is_tuning
    if is_tuning:
        with examination.section("labels") as section:
            for split in splits:
                label_facts = labels.scan_labels(split, facts[split.name], examination.workers)
                bad_images, own_coding = labels.check_labels(split, label_facts, coding, section)
                examination.note(bad_images)
                coding = own_coding if split.name == "train" else coding
            examination.is_read = True
    if splits:
        with examination.section("duplicates") as section:
            images.check_duplicates(facts, section)
    with examination.section("folders") as section:
        folder = train_cfg["checkpoints"]["checkpoints_path"]
        run.check_folder(train_cfg["log"]["log_path"], "log_path", section)
        if run.check_folder(folder, "checkpoints_path", section):
            if opened is not None:
                run.check_disk(opened, section)
            state = run.check_run_folder(Path(folder), opened, section)
    if opened is not None and splits and splits[0].name == "train":
        with examination.section("a step") as section:
            examine_step(examination, opened, len(splits[0].images), state, section)


def examine_step(
    examination: Examination, opened: run.Opened, images: int, state: dict | None, section: Section
) -> None:
    """Open the data as training does, run a step on it, and look ahead."""
    loop, processes = opened.loop, examination.processes
    if processes > 1:
        section.ok(f"{processes} processes of batch_size {loop.batch_size} each; one is measured")
    section.attempt(require_images, images, loop.batch_size, loop.accumulate_steps, processes)
    per_step = loop.batch_size * loop.accumulate_steps * processes
    if images >= per_step:
        section.ok(f"{images} images, {images // per_step} steps of {per_step} an epoch")
    opening = None
    if not examination.misled:
        opening = section.attempt(run.open_task, opened, examination.bad_images)
    if opening is None:
        section.warn("not measured: mend what is named above first")
        return
    task, _ = opening
    if isinstance(opened, Finetuning) and count(examination.sections, FAIL) == 0:
        section.attempt(run.open_scoring, opened, task)
    run.check_step(task, loop, processes, state, section)
