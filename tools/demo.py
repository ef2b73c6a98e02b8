"""The whole way in some minutes: draw scenes, prepare, pre-train, fine-tune twice, compare.

    python tools/demo.py
    python tools/demo.py --output runs/quick --size 600 --pretrain_steps 20 --finetune_steps 20

Each step is one of the repository's commands, printed before it runs. The same command again goes
on where it was stopped.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from SSLRemoteSensing.core.cli import Flags, parse
from SSLRemoteSensing.core.console import command_line, print_summary, shell_line, styled
from SSLRemoteSensing.core.errors import run_command

ROOT = Path(__file__).resolve().parents[1]
PRETRAIN = "configs/demo_town_pretrain_resnet18_cfg.py"
FINETUNE = "configs/demo_town_finetune_resnet18_cfg.py"
STARTS = ("random", "pre-trained")


def flags() -> argparse.ArgumentParser:
    flags = Flags(__doc__)
    add = flags.add_argument
    add("--output", default="runs/demo", metavar="FOLDER", help="folder of all that it makes")
    add("--size", type=int, default=1500, metavar="PIXELS", help="side of a drawn scene, in pixels")
    add("--scenes", type=int, default=6, metavar="N", help="scenes to draw, at least 3")
    add("--pretrain_steps", type=int, default=160, metavar="N", help="steps of the pre-training")
    add("--finetune_steps", type=int, default=78, metavar="N", help="steps of each fine-tuning")
    return flags


def main() -> None:
    args = parse(flags())
    start, output = time.monotonic(), Path(args.output).resolve()
    os.chdir(ROOT)
    output = output.relative_to(ROOT) if output.is_relative_to(ROOT) else output
    scenes, tiles = output / "scenes", output / "tiles"
    size = ["--scenes", str(args.scenes), "--size", str(args.size)]
    run("tools/make_demo_scenes.py", "--output", scenes, "--seed", "0", *size)
    run("tools/prepare.py", "potsdam", "--source", scenes, "--output", tiles)
    pretrained = output / "pretrain"
    run(
        "train.py", "--config_file", PRETRAIN,
        "--checkpoints_path", pretrained, "--log_path", pretrained / "log",
        "--set", f"train_cfg.train_data.data_path={tiles}/images/train",
        f"train_cfg.num_step={args.pretrain_steps}",
    )  # fmt: skip
    data = [
        f"train_cfg.{split}_data.{kind}_path={tiles}/{kind}s/{split}"
        for split in ("train", "val", "test")
        for kind in ("image", "label")
    ]
    folders = [output / "finetune_random", output / "finetune_pretrained"]
    for folder, backbone in zip(folders, ("random", pretrained / "backbone.pth"), strict=True):
        run(
            "finetune_seg.py", "--config_file", FINETUNE, "--backbone", backbone,
            "--checkpoints_path", folder, "--log_path", folder / "log",
            "--set", *data, f"train_cfg.num_step={args.finetune_steps}",
        )  # fmt: skip
    print(compare(folders))
    draw(folders, output / "comparison.png")
    print_summary(
        {
            "pictures": f"{output / 'comparison.png'}: image, label and both maps of test tiles",
            "results": ", ".join(str(folder / "results.json") for folder in folders),
            "backbone": pretrained / "backbone.pth",
            "curves": shell_line("tensorboard", "--logdir", output),
            "scenes": f"{scenes}, tiles {tiles}",
            "time": f"{(time.monotonic() - start) / 60:.1f} minutes in all",
        }
    )


def run(script: str, *arguments) -> None:
    """Run a command of the repository as a user would; end with its exit status if it fails."""
    command = [script, *map(str, arguments)]
    print(styled(f"\n$ {command_line(*command)}", "bold"), flush=True)
    done = subprocess.run([sys.executable, *command])
    if done.returncode:
        print(f"stopped: {script} ended with status {done.returncode}", file=sys.stderr)
        sys.exit(done.returncode)


def compare(folders: list[Path]) -> str:
    """A table of the test scores of both starts."""
    results = [json.loads((folder / "results.json").read_text()) for folder in folders]
    config = results[0]["config"]
    both = [result["protocols"]["all"] for result in results]
    keys = {"mIoU": "miou", "mF1": "mf1", "overall accuracy": "oa", "kappa": "kappa"}
    rows = {name: [scores[key] for scores in both] for name, key in keys.items()}
    for name in config["classes"]:
        rows[f"IoU {name}"] = [scores["per_class"][name]["iou"] for scores in both]
    labels = f"{config['train_cfg']['train_data']['fraction']:.0%} of the labels"
    tiles = len((folders[0] / "train_tiles.txt").read_text().splitlines())
    lines = [f"\nTest scores in %, fine-tuned with {labels}, {tiles} tiles:"]
    lines.append("{:<22}{:>14}{:>14}".format("", *STARTS))
    for name, values in rows.items():
        texts = ("none" if value is None else f"{100 * value:.1f}" for value in values)
        lines.append("{:<22}{:>14}{:>14}".format(name, *texts))
    lines.append("One seed, drawn scenes, minutes of training: it shows that all parts work, not")
    lines.append("how much pre-training helps; docs/results.md has what was measured of that.\n")
    return "\n".join(lines)


def draw(folders: list[Path], path: Path) -> None:
    """Image, label and the maps of both networks for some test tiles."""
    from SSLRemoteSensing import load_segmentation
    from SSLRemoteSensing.core.machine import choose_device
    from SSLRemoteSensing.data.segmentation import SegmentationDataset, TileSettings
    from SSLRemoteSensing.inference.windows import probabilities
    from SSLRemoteSensing.reports.figures import draw_examples

    device = choose_device("auto")

    def classify(net, images):
        return probabilities(net, device, "fp32", images).argmax(1).byte()

    nets = [load_segmentation(folder / "best.pth").to(device) for folder in folders]
    predicts = {name: partial(classify, net) for name, net in zip(STARTS, nets, strict=True)}
    config = json.loads((folders[0] / "results.json").read_text())["config"]
    settings = TileSettings(**config["train_cfg"]["test_data"])
    tiles = SegmentationDataset(settings, num_classes=len(config["classes"]))
    draw_examples(predicts, tiles, config["classes"], config["palette"], path, count=5)


if __name__ == "__main__":
    run_command(main, "stopped; what is done is kept, the same command goes on")
