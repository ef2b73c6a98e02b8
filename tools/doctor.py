"""What to run before a long run: what would fail, what to know, how long it will take.

    python tools/doctor.py --config_file configs/vr_vgg16_inapinting_agr_examplar_cfg.py
    python tools/doctor.py --config_file configs/seg_potsdam_vgg16_cfg.py \\
        --set train_cfg.batch_size=64 --output runs/doctor
    python train.py --config_file configs/vr_vgg16_inapinting_agr_examplar_cfg.py \\
        --set train_cfg.train_data.exclude=runs/doctor/exclude.txt

Takes configs of train.py and of finetune_seg.py. Every image and label is opened, a step is run,
and nothing is written into the run's folders. With --output a folder gets `exclude.txt`, the images
that training cannot use, as `exclude` of train_data, val_data and test_data takes them, and
`doctor.json`, all findings, both as soon as they are known. Exit status 0: nothing would fail
(there may be warnings); 1: the run would fail; 2: a mistake in the config or the flags.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from SSLRemoteSensing.core.cli import config_parser, config_words, parse, read_config
from SSLRemoteSensing.core.console import command_line, print_line, print_summary
from SSLRemoteSensing.core.errors import CannotWrite, UserError, run_command
from SSLRemoteSensing.core.files import make_folder, write_text
from SSLRemoteSensing.data.file_lists import as_listed
from SSLRemoteSensing.workflows.doctor.findings import FAIL, as_json, count, verdict

if TYPE_CHECKING:
    from SSLRemoteSensing.workflows.doctor.examine import Examination


def flags() -> argparse.ArgumentParser:
    flags = config_parser(__doc__)
    flags.add_argument(
        "--backbone",
        metavar="random|imagenet|FILE",
        help="as finetune_seg.py will be given it, in place of backbone_cfg.pretrained",
    )
    flags.add_argument(
        "--with_imagenet", choices=("true", "false"), help="as train.py will be given it"
    )
    flags.add_argument("--output", metavar="FOLDER", help="of exclude.txt and doctor.json")
    flags.add_argument(
        "--workers", type=int, metavar="N", help="images read at a time (default: one a core)"
    )
    flags.add_argument(
        "--processes",
        type=int,
        default=1,
        metavar="N",
        help="as many as torchrun will start, on all machines",
    )
    return flags


def main() -> None:
    args = parse(flags())
    # Only now: they load torch, which takes seconds that --help need not wait for.
    from SSLRemoteSensing.workflows.doctor.examine import Examination, examine
    from SSLRemoteSensing.workflows.doctor.images import default_workers

    workers = default_workers() if args.workers is None else args.workers
    for name, value in (("workers", workers), ("processes", args.processes)):
        if value < 1:
            raise UserError(f"--{name} {value}: must be at least 1")
    config = read_config(args)
    pretrained = {"random": False, "imagenet": True}.get(args.backbone, args.backbone)
    if args.with_imagenet is not None:
        pretrained = args.with_imagenet == "true"
    if pretrained is not None and isinstance(config.get("backbone_cfg"), dict):
        config["backbone_cfg"]["pretrained"] = pretrained
    # Made now: after hours of reading it would be too late to learn that it cannot be.
    output = None if args.output is None else make_folder(args.output, "--output")

    def tell(done: "Examination") -> None:
        print_line(f"{done.sections[-1]}\n")
        if output is not None:
            write_report(done, output, complete=False)

    done = Examination(config, workers, args.processes, tell)
    examine(done)
    if output is not None:
        write_report(done, output, complete=True)
        if done.unusable is not None:
            print_line(f"{len(done.unusable)} images to exclude: {output / 'exclude.txt'}")
        print_line(f"all findings: {output / 'doctor.json'}")
    print_line(verdict(done.sections))
    fails = count(done.sections, FAIL)
    print_summary({}, [] if fails else [next_command(args, config, done, output)])
    sys.exit(1 if fails else 0)


def next_command(
    args: argparse.Namespace, config: dict, done: "Examination", output: Path | None
) -> str:
    """The run that was examined, without the images that it could not use."""
    script = "finetune_seg.py" if "classes" in config else "train.py"
    words = config_words(args, "backbone" if "classes" in config else "with_imagenet")
    if done.unusable and output is not None:
        parts = config["train_cfg"].items()
        data = [f"train_cfg.{name}" for name, part in parts if name.endswith("_data") and part]
        words += [] if "--set" in words else ["--set"]
        words += [f"{where}.exclude={output / 'exclude.txt'}" for where in data]
    return command_line(script, *words)


def write_report(done: "Examination", output: Path, complete: bool) -> None:
    """What is known so far: a part that crashes, or the system, must not lose the parts before."""
    report = json.dumps(as_json(done.sections, complete), indent=2, default=str)
    write_text(output / "doctor.json", report + "\n")
    if done.unusable is not None:
        write_list(done.unusable, output / "exclude.txt")


def write_list(unusable: dict[str, str], path: Path) -> None:
    lines = ["# images that training cannot use, written by tools/doctor.py"]
    for image, why in unusable.items():
        lines.append(f"# {why}")
        full = os.path.abspath(image)
        lines.append(full if as_listed(full) else f"# no line can hold {full!r}; rename it")
    text = "\n".join(line if as_listed(line) else repr(line) for line in lines)
    try:
        path.write_bytes(f"{text}\n".encode("utf-8", "surrogateescape"))
    except OSError as error:
        raise CannotWrite(f"{path}: cannot be written ({error.strerror})") from error


if __name__ == "__main__":
    run_command(main)
