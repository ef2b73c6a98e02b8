"""What to run before a long run: what would fail, what to know, how long it will take.

    python tools/doctor.py --config_file configs/vr_vgg16_inapinting_agr_examplar_cfg.py
    python tools/doctor.py --config_file C --set train_cfg.batch_size=64 --output runs/doctor
    python train.py --config_file C --set train_cfg.train_data.exclude=runs/doctor/exclude.txt

Takes configs of train.py and of finetune_seg.py. Every image and label is opened, a step is run,
and nothing is written into the run's folders. With --output the images that training cannot use go
to `exclude.txt`, which `exclude` of train_data, val_data and test_data takes, and all findings to
`doctor.json`. Exit status 0: nothing would fail (there may be warnings); 1: the run would fail; 2:
a mistake in the config or the flags.
"""

import json
import sys
from pathlib import Path

from SSLRemoteSensing.command import config_parser, settings
from SSLRemoteSensing.doctor.examination import Examination, examine
from SSLRemoteSensing.doctor.images import default_workers
from SSLRemoteSensing.doctor.report import FAIL, Section, as_json, count, verdict
from SSLRemoteSensing.errors import UserError, run_command
from SSLRemoteSensing.writing import make_folder, write_text


def main() -> None:
    flags = config_parser(__doc__)
    flags.add_argument(
        "--backbone", metavar="random|imagenet|FILE", help="in place of backbone_cfg.pretrained"
    )
    flags.add_argument(
        "--output",
        help="folder of exclude.txt and doctor.json; or one file, the list (.txt) or all (.json)",
    )
    flags.add_argument("--workers", type=int, help="images read at a time; default one a core")
    args = flags.parse_args()
    workers = default_workers() if args.workers is None else args.workers
    if workers < 1:
        raise UserError(f"--workers {workers}: must be at least 1")
    config = settings(args)
    if args.backbone is not None and isinstance(config.get("backbone_cfg"), dict):
        named = {"random": False, "imagenet": True}
        config["backbone_cfg"]["pretrained"] = named.get(args.backbone, args.backbone)
    if args.output is not None:
        prepare_output(Path(args.output))
    done = examine(config, workers, tell)
    if args.output is not None:
        write_output(done, Path(args.output))
    print(verdict(done.sections))
    sys.exit(1 if count(done.sections, FAIL) else 0)


def tell(section: Section) -> None:
    print(f"{section}\n", flush=True)


def prepare_output(output: Path) -> None:
    """Make the folder that is asked for now: after hours of reading it would be too late."""
    folder = output.parent if output.suffix in (".txt", ".json") else output
    make_folder(folder, "--output")


def write_output(done: Examination, output: Path) -> None:
    """The list of images to exclude, the whole report, or both into a folder."""
    if output.suffix != ".json":
        file = output if output.suffix == ".txt" else output / "exclude.txt"
        lines = ["# images that training cannot use, written by tools/doctor.py"]
        for image, why in done.unusable.items():
            lines += [f"# {why}", str(Path(image).absolute())]
        write_text(file, "\n".join(lines) + "\n")
        print(f"{len(done.unusable)} images to exclude: {file}")
    if output.suffix != ".txt":
        file = output if output.suffix == ".json" else output / "doctor.json"
        write_text(file, json.dumps(as_json(done.sections), indent=2, default=str) + "\n")
        print(f"all findings: {file}")


if __name__ == "__main__":
    try:
        run_command(main)
    except KeyboardInterrupt:
        sys.exit(130)
