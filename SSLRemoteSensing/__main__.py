"""`sslrs COMMAND ...` and `python -m SSLRemoteSensing COMMAND ...`."""

import sys

from SSLRemoteSensing.core.cli import start
from SSLRemoteSensing.core.console import PROGRAMS
from SSLRemoteSensing.core.errors import run_command

# Name -> its module in `commands`, and what it does.
COMMANDS = {
    "prepare": ("prepare", "make a data set ready: tiles, checked labels, dataset.json"),
    "show": ("show", "see the samples of pre-training, or tiles with their labels"),
    "doctor": ("doctor", "what would fail in a long run, and how long it will take"),
    "presets": ("presets", "networks and recipes by name, for runs without a config file"),
    "pretrain": ("pretrain", "pre-train a backbone on images without labels"),
    "probe": ("probe", "what a linear classifier reads off a backbone"),
    "finetune": ("finetune", "fine-tune and score a segmentation network on labelled tiles"),
    "label_efficiency": ("label_efficiency", "how few labels do, from several starts"),
    "report": ("report", "write the reports of a run or of a grid again"),
    "predict": ("predict", "map whole scenes with a fine-tuned network"),
    "export": ("export", "weights for other programs, with a model card"),
}


def main() -> None:
    console, module = PROGRAMS
    program = module if sys.argv[0].endswith("__main__.py") else console
    run_command(lambda: start(program, COMMANDS, sys.argv[1:]))


if __name__ == "__main__":
    main()
