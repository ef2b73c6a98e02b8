"""A GPU for some minutes: all that has to be measured there, in order of worth, stopped in time.

    python tools/gpu_day.py pack --data data                       # beforehand, where rasterio is
    python tools/gpu_day.py --minutes 9 --out gpu_day
    python tools/gpu_day.py --minutes 5 --out gpu_day --only throughput maps
    python tools/gpu_day.py --list
    python tools/gpu_day.py --toy --out runs/toy_day               # on the CPU, to see that it runs

`pack` writes the tiles of a day to runs/gpu_pack, below 58 MiB, which is all that has to travel
with the repository. A day needs torch, torchvision, OpenCV and what else the extra `train` names
but rasterio; the package need not be installed. Each part is one or more commands; what they find
stands in OUT/PART.json as they find it, a table of all in OUT/summary.md. The same command again
goes on: what is done is not run again. Exit status 1: a command failed.
"""

import argparse
import os
import sys
import time
from pathlib import Path

# The package need not be installed where a GPU is at hand for minutes.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from SSLRemoteSensing.core.cli import Flags, parse
from SSLRemoteSensing.core.errors import UserError, run_command
from SSLRemoteSensing.core.files import make_folder, write_text

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("smoke", "tests", "throughput", "nccl", "maps", "evidence")


def flags() -> argparse.ArgumentParser:
    flags = Flags(__doc__)
    add = flags.add_argument
    add("action", nargs="?", default="run", choices=("run", "pack"), help="run a day, or pack it")
    add("--out", default="gpu_day", metavar="FOLDER", help="gets PART.json and summary.md")
    add("--minutes", type=float, default=9.0, metavar="M", help="after which all has ended")
    add("--only", nargs="+", choices=NAMES, metavar="PART", help=f"of {', '.join(NAMES)}")
    add("--list", action="store_true", help="print the commands and their state; run none")
    add("--toy", action="store_true", help="on the CPU, as small as can be")
    add("--pack", default="runs/gpu_pack", metavar="FOLDER", help="the packed tiles")
    add("--work", metavar="FOLDER", help="what the commands write (default: OUT_work)")
    add("--data", default="data", metavar="FOLDER", help="of pack: the open data sets")
    return flags


def main() -> None:
    start = time.monotonic()
    args = parse(flags())
    if args.action == "pack":
        from gpu_parts.packing import pack

        pack(Path(args.data), Path(args.pack))
        return
    if args.minutes <= 0:
        raise UserError(f"--minutes {args.minutes}: must be above 0")
    from gpu_parts.day import Day
    from gpu_parts.packing import QUALITY, packed_sets
    from gpu_parts.parts import Place, parts_of

    out = make_folder(args.out, "--out").resolve()
    work = make_folder(args.work or f"{out}_work", "--work").resolve()
    pack = Path(args.pack).resolve()
    if not any(packed_sets(pack, side) for side in QUALITY):
        raise UserError(f"--pack {args.pack}: has no tiles; python tools/gpu_day.py pack")
    names = args.only or NAMES
    parts = [part for part in parts_of(Place(pack, work, args.toy)) if part.name in names]
    day = Day(parts, out, work, start + 60 * args.minutes, environment())
    if not args.list:
        day.run()
        write_text(out / "summary.md", heading(args.toy) + day.summary())
    print(day.summary(), end="")
    if day.signals:
        raise KeyboardInterrupt(day.signals[0])
    if day.has_failed():
        sys.exit(1)


def environment() -> dict[str, str]:
    """That of the commands: they find the package and its tools, and print at once."""
    paths = [str(ROOT), str(ROOT / "tools"), os.environ.get("PYTHONPATH", "")]
    own = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONUNBUFFERED": "1"}
    # Workers with as many threads as cores each would wait for one another.
    return {"OMP_NUM_THREADS": "4"} | os.environ | own


def heading(toy: bool) -> str:
    """Date, machine and versions; they stand above the table in summary.md."""
    from SSLRemoteSensing.core.machine import device_name, versions

    numbers = ", ".join(f"{name} {number}" for name, number in versions().items() if number)
    note = "\n\nToy size, on the CPU: it shows that all of it runs, and measures nothing." * toy
    return f"{time.strftime('%Y-%m-%d')}, {device_name()}; {numbers}{note}\n\n"


if __name__ == "__main__":
    run_command(main, "stopped; what was found is kept, the same command goes on")
