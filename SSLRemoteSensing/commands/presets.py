"""List the presets: network and recipe by name, for pre-training and fine-tuning without a config.

sslrs presets
sslrs pretrain --images data/mine --output runs/mine --preset small
"""

from SSLRemoteSensing.core.cli import Flags, parse


def main() -> None:
    parse(Flags(__doc__))
    from SSLRemoteSensing.workflows.presets import FINETUNING, PRETRAINING

    for task, presets in (("pretrain", PRETRAINING), ("finetune", FINETUNING)):
        print(f"sslrs {task} --preset NAME")
        for preset in presets.values():
            print(f"  {preset.name:<20}{preset.text}")
