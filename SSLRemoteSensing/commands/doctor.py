"""What to run before a long run: what would fail, what to know, how long it will take.

    python tools/doctor.py --images data/mine --preset small --minutes 30
    python tools/doctor.py --config_file configs/vr_vgg16_inapinting_agr_examplar_cfg.py
    python tools/doctor.py --config_file configs/seg_potsdam_vgg16_cfg.py \\
        --set train_cfg.batch_size=64 --output runs/doctor
    python train.py --config_file configs/vr_vgg16_inapinting_agr_examplar_cfg.py \\
        --set train_cfg.train_data.exclude=runs/doctor/exclude.txt

Takes configs of train.py and of finetune_seg.py, or the images of a pre-training without one, with
the flags that it will be given. Every image and label is opened, a step is run,
and nothing is written into the run's folders. With --output a folder gets `exclude.txt`, the images
that training cannot use, as `exclude` of train_data, val_data and test_data takes them, and
`doctor.json`, all findings, both as soon as they are known. Exit status 0: nothing would fail
(there may be warnings); 1: the run would fail; 2: a mistake in the config or the flags.
"""

import argparse
import contextlib
import sys

from SSLRemoteSensing.commands.pretrain import OWN, planning_flags, request_of
from SSLRemoteSensing.core.bars import print_line
from SSLRemoteSensing.core.cli import (
    Flags,
    choose_source,
    config_words,
    parse,
    read_config,
    starting_weights,
)
from SSLRemoteSensing.core.config import Part
from SSLRemoteSensing.core.console import command_line, print_summary
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.core.files import make_folder


def flags() -> Flags:
    # fmt: off
    flags = Flags(__doc__).config(required=False).paths()
    add = flags.add_argument_group("own images, without a config file").add_argument
    add("--images", nargs="+", metavar="DIR|LIST|PATTERN|FILE", help="the images, any of these")
    add("--run", default="RUN", metavar="RUN", help="folder of the run, --output of train.py")
    planning_flags(add)
    add = flags.add_argument
    add("--backbone", metavar="random|imagenet|FILE",
        help="as finetune_seg.py will be given it, in place of backbone_cfg.pretrained")
    add("--with_imagenet", choices=("true", "false"), help="as train.py will be given it")
    add("--output", metavar="FOLDER", help="of exclude.txt and doctor.json")
    add("--workers", type=int, metavar="N", help="images read at a time (default: one a core)")
    add("--processes", type=int, default=1, metavar="N",
        help="as many as torchrun will start, on all machines")
    return flags


def main() -> None:
    args = parse(flags())
    # Only now: they load torch, which takes seconds that --help need not wait for.
    from SSLRemoteSensing.workflows.doctor.examine import examine
    from SSLRemoteSensing.workflows.doctor.findings import FAIL, Report
    from SSLRemoteSensing.workflows.kinds import KINDS, kind_of
    from SSLRemoteSensing.workflows.own_runs import requested_config

    for name in ("workers", "processes"):
        if vars(args)[name] is not None and vars(args)[name] < 1:
            raise UserError(f"--{name} {vars(args)[name]}: must be at least 1")
    schemas = [Part(kind.schema) for kind in KINDS.values()]
    is_own = choose_source(args, "images", OWN, begins=False)
    if is_own and args.backbone is not None:
        raise UserError("--backbone: does not go with --images; leave out one of them")
    with contextlib.ExitStack() as stack:
        if is_own:
            request = request_of(args, args.run)
            config = stack.enter_context(requested_config(request, writes=False))
        else:
            config = read_config(args, *schemas, pretrained=starting_weights(args))
        # Made now: after hours of reading it would be too late to learn that it cannot be.
        report = Report(None if args.output is None else make_folder(args.output, "--output"))
        examine(config, report, args.processes, args.workers)
    report.write(complete=True)
    if report.output is not None:
        listed = report.output / "exclude.txt"
        print_line(f"{len(report.bad_images)} images to exclude: {listed}")
        print_line(f"all findings: {report.output / 'doctor.json'}")
    print_line(report.verdict())
    if report.count(FAIL):
        sys.exit(1)
    # What to run next: the run that was examined, without the images that it could not use.
    kind = kind_of(config)
    words = own_words(args) if is_own else []
    words += config_words(args, "backbone" if kind is KINDS["finetune"] else "with_imagenet")
    if report.bad_images and report.output is not None:
        words += [] if "--set" in words else ["--set"]
        for key, part in config["train_cfg"].items():
            if key.endswith("_data") and part:
                words.append(f"train_cfg.{key}.exclude={listed}")
    print_summary({}, [command_line(kind.script, *words)])


def own_words(args: argparse.Namespace) -> list[str]:
    """The flags with which train.py begins the run of --images that was examined."""
    words = ["--images", *args.images, "--output", args.run]
    for name in OWN:
        if (given := getattr(args, name)) is not None:
            words += [f"--{name}", *map(str, given if isinstance(given, list) else [given])]
    return words
