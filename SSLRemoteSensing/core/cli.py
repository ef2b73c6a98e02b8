"""What the commands share: flags, the config that they ask for, and which command to go on as."""

import argparse
import os
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from importlib import import_module, metadata
from typing import NoReturn

import SSLRemoteSensing
from SSLRemoteSensing.core.config import load_config, nearest
from SSLRemoteSensing.core.console import as_started, this_command
from SSLRemoteSensing.core.errors import UserError

# Keys of a run's folders, as flags -> what lies there.
PATHS = {
    "checkpoints_path": "the run's checkpoints and results",
    "log_path": "metrics.jsonl and TensorBoard's events",
}
# What --backbone, --init and the probe's weights may be but for files -> backbone_cfg.pretrained.
WEIGHTS = {"random": False, "imagenet": True}


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Defaults after each flag's meaning; paragraphs filled, indented lines left as they are."""

    def __init__(self, prog: str):
        columns = shutil.get_terminal_size((100, 24)).columns
        super().__init__(prog, max_help_position=30, width=max(60, min(100, columns)))

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        parts = text.strip().split("\n\n")
        for number, part in enumerate(parts):
            if not any(line.startswith(" ") for line in part.splitlines()):
                parts[number] = textwrap.fill(" ".join(part.split()), width)
        return "\n\n".join(parts)

    def _get_help_string(self, action: argparse.Action) -> str:
        text, default = action.help, action.default
        if isinstance(default, list | tuple) and default and "%(default)" not in text:
            text = f"{text} (default: {' '.join(map(str, default))})"
        # A switch that is off and an empty list are no defaults to tell of.
        elif default is not None and default is not False and default != []:
            text = super()._get_help_string(action)
        return as_started(text)


class Flags(argparse.ArgumentParser):
    """The flags of a command: --help and --version, and those that several commands share. Of the
    description, the command's docstring, indented lines are examples that can be copied.

        flags = Flags(__doc__).config().paths().dry_run()
    """

    def __init__(self, description: str):
        prog = os.path.basename(sys.argv[0])
        super().__init__(prog, description=as_started(description), formatter_class=Help)
        text = "print the versions of this package and of torch, and end"
        self.add_argument(
            "--version", action=Version, nargs=0, default=argparse.SUPPRESS, help=text
        )

    def error(self, message: str) -> NoReturn:
        """Raise what argparse finds wrong as any other mistake of the user."""
        text = message.removeprefix("argument ")
        places = [action for action in self._actions if not action.option_strings]
        words = [word for word in sys.argv[1:] if any(word in (x.choices or ()) for x in places)]
        raise UserError(f"{text}; see {this_command([*words, '--help'])}")

    def config(self, title: str = "config", required: bool = True) -> "Flags":
        """--config_file and --set, for `read_config`, in a group of that title."""
        self.of_config = self.add_argument_group(title)
        text = "a Python file as those of configs/"
        self.of_config.add_argument("--config_file", required=required, metavar="FILE", help=text)
        return self.keys(self.of_config)

    def keys(self, group: argparse._ArgumentGroup) -> "Flags":
        """--set alone, in a group of one's own."""
        text = "override any key; VALUE is a Python literal or else a string"
        group.add_argument(
            "--set", action="append", nargs="+", default=[], metavar="A.B.C=VALUE", help=text
        )
        return self

    def paths(self) -> "Flags":
        """The folders of a run, beside the config."""
        for key, what in PATHS.items():
            text = f"of {what}, in place of the config's"
            self.of_config.add_argument(f"--{key}", metavar="FOLDER", help=text)
        return self

    def dry_run(self) -> "Flags":
        text = "build all, run and describe one step, write nothing"
        self.add_argument("--dry_run", action="store_true", help=text)
        return self


class Version(argparse.Action):
    """Print what is installed, and end."""

    def __call__(self, parser, namespace, values, option_string=None):
        print_versions()
        parser.exit()


def print_versions() -> None:
    """The versions that `--version` names; torch is asked for its own without loading it."""
    print(f"SSLRemoteSensing {SSLRemoteSensing.__version__}")
    print(f"torch {metadata.version('torch')}")


def require_known(flags: Flags, words: Sequence[str]) -> None:
    """Raise a `UserError` for a misspelt flag of a command line. argparse would first miss the
    flags that are required, and so not name the one that stands for one of them."""
    known = flags._option_string_actions  # argparse has no public name for it
    for word in words[: words.index("--") if "--" in words else None]:
        flag, is_value = word.partition("=")[0], not word.startswith("-") or " " in word
        if is_value or word == "-" or is_number(word) or any(x.startswith(flag) for x in known):
            continue
        if not flag.startswith("--"):
            raise UserError(
                f"{word}: no such flag; a value that begins with a dash is written --FLAG={word}"
            )
        names = [name for name in known if name.startswith("--")]
        raise UserError(f"{flag}: no such flag, {nearest(flag, names)}")


def is_number(text: str) -> bool:
    """Whether a word that begins with a dash is a value all the same."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def parse(flags: Flags) -> argparse.Namespace:
    """The command line's flags. Of torchrun's processes the first alone says what is wrong.

    Raises:
        UserError: an unknown flag, with the nearest; one that is missing; a value of another type.
    """
    try:
        require_known(flags, sys.argv[1:])
        return flags.parse_args()
    except UserError:
        if os.environ.get("RANK", "0") != "0":
            sys.exit(2)
        raise


def overrides(args: argparse.Namespace) -> list[str]:
    """What --set was given, as `load_config` takes it; it may stand there several times."""
    return [text for group in args.set for text in group]


def start(program: str, commands: Mapping[str, tuple[str, str]], words: list[str]) -> None:
    """Go on as the command that the first of `words` names, or raise a `UserError`; without one,
    list them.

    Args:
        program: what stands before `words` on the command line.
        commands: name -> (the module of its `main`, a line of what it does).
    """
    name = words[0] if words else "--help"
    if name in commands:
        sys.argv = [f"{program} {name}", *words[1:]]
        # Only the one that is called for: others load more.
        import_module(f"SSLRemoteSensing.commands.{commands[name][0]}").main()
    elif name == "--version":
        print_versions()
    elif name in ("-h", "--help"):
        width = max(map(len, commands))
        lines = [f"  {command:<{width}}  {line}" for command, (_, line) in commands.items()]
        print(f"usage: {program} COMMAND ...\n", *lines, sep="\n")
        print(f"\n{program} COMMAND --help has the flags of each, and examples.")
    else:
        raise UserError(f"{program} {name}: no such command, {nearest(name, commands)}")


def config_words(args: argparse.Namespace, *names: str) -> list[str]:
    """The config's flags, and those of `names` that were given, for a command that goes with it."""
    words = []
    for name in ("config_file", *PATHS, *names):
        if (value := getattr(args, name, None)) is not None:
            is_like_flag = str(value).startswith("-")
            words += [f"--{name}={value}"] if is_like_flag else [f"--{name}", str(value)]
    return [*words, "--set", *overrides(args)] if overrides(args) else words


def read_config(
    args: argparse.Namespace, *schemas: object, pretrained: bool | str | None = None
) -> dict:
    """The config that the flags of `Flags.config` ask for, of one of `schemas`, with `pretrained`
    of `starting_weights` in place of backbone_cfg.pretrained. Raises as `load_config`."""
    folders = {key: getattr(args, key) for key in PATHS if getattr(args, key, None)}
    paths = [
        f"train_cfg.{key.removesuffix('_path')}.{key}={folder!r}" for key, folder in folders.items()
    ]
    config = load_config(args.config_file, [*overrides(args), *paths], schemas)
    # Without such a dict the check of the config says what is wrong.
    if pretrained is not None and isinstance(config.get("backbone_cfg"), dict):
        config["backbone_cfg"]["pretrained"] = pretrained
    return config


def choose_source(
    args: argparse.Namespace, source: str, others: Sequence[str], begins: bool = True
) -> bool:
    """Whether a run is asked for by --`source` and --output, rather than by --config_file.

    Args:
        others: flags that go with --`source` alone.
        begins: it is to run in --output; else that is another folder, and may be left out.

    Raises:
        UserError: neither is given, or both, or flags of the one with the other.
    """
    if getattr(args, source) is None:
        names = ("output", *others) if begins else others
        given = [name for name in names if getattr(args, name) is not None]
        if given:
            raise UserError(f"--{given[0]}: goes with --{source}, which is not given")
        if args.config_file is None:
            raise UserError(f"--config_file or --{source}: give one of them")
        return False
    words = ("config_file", *PATHS, "with_imagenet", "evaluate")
    given = [name for name in words if getattr(args, name, None) is not None]
    if given:
        raise UserError(f"--{given[0]}: does not go with --{source}; leave out one of them")
    if begins and args.output is None:
        raise UserError(f"--{source}: needs --output, the folder of the run")
    return True


def starting_weights(args: argparse.Namespace) -> bool | str | None:
    """What --backbone or --with_imagenet asks for, as backbone_cfg.pretrained has it."""
    if getattr(args, "with_imagenet", None) is not None:
        return args.with_imagenet == "true"
    weights = getattr(args, "backbone", None)
    return WEIGHTS.get(weights, weights)
