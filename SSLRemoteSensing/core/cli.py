"""What the commands share: flags, settings, the run's card."""

import argparse
import contextlib
import os
import shutil
import textwrap
from importlib import metadata
from pathlib import Path

import SSLRemoteSensing
from SSLRemoteSensing.core.config import load_config


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Defaults after each flag's meaning; paragraphs filled, indented lines left as they are."""

    def __init__(self, prog: str):
        columns = shutil.get_terminal_size((100, 24)).columns
        super().__init__(prog, max_help_position=30, width=max(60, min(100, columns)))

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        parts = []
        for paragraph in text.strip().split("\n\n"):
            kept = any(line.startswith(" ") for line in paragraph.splitlines())
            parts.append(paragraph if kept else textwrap.fill(" ".join(paragraph.split()), width))
        return "\n\n".join(parts)

    def _get_help_string(self, action: argparse.Action) -> str:
        # A switch that is off and an empty list are no defaults to tell of.
        if action.default is None or action.default is False or action.default == []:
            return action.help
        if isinstance(action.default, list | tuple) and "%(default)" not in action.help:
            return f"{action.help} (default: {' '.join(map(str, action.default))})"
        return super()._get_help_string(action)


def plain_parser(description: str) -> argparse.ArgumentParser:
    """A parser with --help and --version alone; `description` is a command's docstring, with
    examples as indented lines that can be copied."""
    flags = argparse.ArgumentParser(description=description, formatter_class=Help)
    flags.add_argument(
        "--version",
        action=Version,
        help="print the versions of this package and of torch, and end",
    )
    return flags


class Version(argparse.Action):
    """Print what is installed; torch is asked for its version without loading it."""

    def __init__(self, option_strings, dest, help):
        super().__init__(option_strings, argparse.SUPPRESS, 0, default=argparse.SUPPRESS, help=help)

    def __call__(self, parser, namespace, values, option_string=None):
        print(f"SSLRemoteSensing {SSLRemoteSensing.__version__}")
        print(f"torch {metadata.version('torch')}")
        parser.exit()


def config_parser(description: str) -> argparse.ArgumentParser:
    """The flags that choose a config, for `settings`."""
    flags = plain_parser(description)
    add_config_flags(flags.add_argument_group("config"), paths=True)
    return flags


def add_config_flags(group: argparse._ArgumentGroup, paths: bool) -> None:
    """--config_file and --set; with `paths` also those of the checkpoints and the log."""
    group.add_argument(
        "--config_file", required=True, metavar="FILE", help="a Python file as those of configs/"
    )
    add_set(group)
    if not paths:
        return
    group.add_argument(
        "--checkpoints_path",
        metavar="FOLDER",
        help="of the run's checkpoints and results, in place of the config's",
    )
    group.add_argument(
        "--log_path",
        metavar="FOLDER",
        help="of metrics.jsonl and TensorBoard's events, in place of the config's",
    )


def add_set(group: argparse._ArgumentGroup) -> None:
    """--set, for `overrides`."""
    group.add_argument(
        "--set",
        action="append",
        nargs="+",
        default=[],
        metavar="A.B.C=VALUE",
        help="override any key; VALUE is a Python literal or else a string",
    )


def overrides(args: argparse.Namespace) -> list[str]:
    """What --set was given, as `load_config` takes it; it may stand there several times."""
    return [text for group in args.set for text in group]


def parser(description: str) -> argparse.ArgumentParser:
    """The flags that train.py and finetune_seg.py share."""
    flags = config_parser(description)
    flags.add_argument(
        "--dry_run", action="store_true", help="build all, run and describe one step, write nothing"
    )
    return flags


def parse(flags: argparse.ArgumentParser) -> argparse.Namespace:
    """The command line's flags. Of torchrun's processes the first alone says what is wrong."""
    if os.environ.get("RANK", "0") == "0":
        return flags.parse_args()
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        return flags.parse_args()


def config_words(args: argparse.Namespace, *names: str) -> list[str]:
    """The config's flags, and those of `names` that were given, for a command that goes with it."""
    words = ["--config_file", args.config_file]
    for name in ("checkpoints_path", "log_path", *names):
        if getattr(args, name, None) is not None:
            words += [f"--{name}", str(getattr(args, name))]
    return [*words, "--set", *overrides(args)] if overrides(args) else words


def fine_tuning_config(config_file: str) -> str:
    """The file beside a pre-training config that by its name goes with it, or else 'CONFIG'."""
    path = Path(config_file)
    network = path.name.removeprefix("vr_").partition("_")[0]
    pair = path.name.replace("pretrain", "finetune")
    names = (pair, pair.replace("_modern", "")) if pair != path.name else ()
    for name in (*names, f"seg_potsdam_{network}_cfg.py"):
        if path.with_name(name).is_file():
            return str(path.with_name(name))
    return "CONFIG"


def read_config(args: argparse.Namespace) -> dict:
    """The config that the flags of `config_parser` ask for."""
    asked = overrides(args)
    if args.checkpoints_path:
        asked.append(f"train_cfg.checkpoints.checkpoints_path={args.checkpoints_path}")
    if args.log_path:
        asked.append(f"train_cfg.log.log_path={args.log_path}")
    return load_config(args.config_file, asked)
