"""List the presets: network and recipe by name, for pre-training and fine-tuning without a config.

sslrs presets
sslrs pretrain --images data/mine --output runs/mine --preset small
"""

import textwrap
from collections.abc import Sequence

from SSLRemoteSensing.core.cli import Flags, parse

TITLES = ("network", "pixels", "a step", "memory", "a second")
WIDTHS = (27, 28, 11, 11, 10, 10)


def main() -> None:
    parse(Flags(__doc__))
    from SSLRemoteSensing.workflows.presets import FINETUNING, MEASURED, PRETRAINING

    for task, presets, what in (
        ("pretrain", PRETRAINING, "images"),
        ("finetune", FINETUNING, "tiles"),
    ):
        print(line([f"sslrs {task} --preset", *TITLES]).rstrip())
        for preset in presets.values():
            side, cost = getattr(preset, "img_size", "the set's"), preset.cost
            spent = ("", "") if cost is None else (f"{cost.memory:.1f} GiB", f"{cost.rate:.2g}")
            batch = f"{preset.batch_size} {what}"
            print(line([f"  {preset.name}", preset.backbone, side, batch, *spent]) + preset.text)
    print(textwrap.fill(MEASURED, 100))


def line(cells: Sequence[object]) -> str:
    """Of the table."""
    return "".join(f"{cell:<{width}}" for cell, width in zip(cells, WIDTHS, strict=True))
