"""The whole examination of a config, section by section, whatever the sections before found."""

from functools import partial
from pathlib import Path

from SSLRemoteSensing.core.bars import map_files
from SSLRemoteSensing.core.config import Part, require
from SSLRemoteSensing.workflows.doctor import images, labels, run, scenes
from SSLRemoteSensing.workflows.doctor.findings import FAIL, Report
from SSLRemoteSensing.workflows.kinds import KINDS, kind_of


def examine(config: dict, report: Report, processes: int, workers: int | None) -> None:
    """Examine `config` and fill `report`.

    Args:
        processes: of the run, as torchrun would start them.
        workers: images read at a time; None: one a core.

    Raises:
        UserError: wrong keys in the config. All else that is wrong is a finding.
    """
    kind = kind_of(config)
    is_tuning = kind is KINDS["finetune"]
    require(Part(kind.schema), config)
    config = run.with_scale(config)
    train_cfg, state, coding, facts = config["train_cfg"], None, None, {}
    with report.section("machine") as section:
        run.check_machine(train_cfg, section)
    with report.section("network") as section:
        opened = section.attempt(run.open_network, config, processes)
        if opened is not None:
            name = config["backbone_cfg"]["name"]
            section.ok(f"{type(opened.model).__name__} of {name} is built")
    if opened is not None and train_cfg.get("probe") is not None:
        with report.section("probe") as section:
            section.attempt(run.open_probe, opened)
    with report.section("images") as section:
        names = [x for x in ("train", "val", "test") if train_cfg.get(f"{x}_data") is not None]
        splits, train = [], None
        for name in names:
            split = section.attempt(images.find_split, config, name, train)
            splits += [] if split is None else [split]
            train = split and split.reading if name == "train" else train
        for split in splits:
            section.ok(f"{split.name}: {len(split.images)} images")
            is_windowed, what = split.settings.windows is not None, f"reading {split.name} images"
            examine_one = scenes.examine_scene if is_windowed else images.examine_image
            read = partial(examine_one, split=split)
            facts[split.name] = list(map_files(read, split.images, what, workers))
            report.note(images.check_images(split, facts[split.name], section))
            if is_windowed:
                scenes.check_windows(split, facts[split.name], section)
    if is_tuning:
        with report.section("labels") as section:
            for split in splits:
                pairs = zip(facts[split.name], split.labels, strict=True)
                what = f"reading {split.name} labels"
                label_facts = list(map_files(labels.examine_label, pairs, what, workers))
                bad_images, own_coding = labels.check_labels(split, label_facts, coding, section)
                report.note(bad_images)
                coding = own_coding if split.name == "train" else coding
    report.write_list(images.listed_before(splits))
    if splits:
        with report.section("duplicates") as section:
            images.check_duplicates(facts, section)
    with report.section("folders") as section:
        folder, log = Path(train_cfg["checkpoints"]["checkpoints_path"]), train_cfg["log"]
        run.check_folder(Path(log["log_path"]), "log_path", section)
        if log.get("with_vis") and log.get("vis_path"):
            run.check_folder(Path(log["vis_path"]), "vis_path", section)
        if run.check_folder(folder, "checkpoints_path", section):
            if opened is not None:
                run.check_disk(opened, section)
            state = run.check_run_folder(folder, opened, section)
    if opened is None or "train" not in facts:
        return
    with report.section("a step") as section:
        task = None
        if not report.misled:
            task = section.attempt(run.open_task, opened, report.bad_images, coding)
        if task is None:
            section.warn("not measured: mend what is named above first")
            return
        if is_tuning and report.count(FAIL) == 0:
            section.attempt(run.open_scoring, opened, coding)
        run.check_step(task, opened.loop, processes, state, section)
