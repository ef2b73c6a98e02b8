"""Map whole scenes with a fine-tuned network, of any size, window by window.

    python tools/predict.py --checkpoint runs/seg/best.pth --input scene.tif --output map.tif
    python tools/predict.py --checkpoint runs/seg/best.pth --input 'scenes/**/*.tif' \\
        --output maps --preview --skip_existing
    python tools/predict.py --checkpoint runs/seg/best.pth --input scene.tif --output map.tif \\
        --vectors map.gpkg --min_area 4
    torchrun --nproc_per_node=4 tools/predict.py --checkpoint runs/seg/best.pth \\
        --input 'scenes/*.tif' --output maps

The map is a GeoTIFF of class indices with palette, overviews and class names, 255 where the scene
has no data, on the scene's coordinates; with --output NAME.png a PNG. Of several scenes each gets
its own; one that cannot be mapped does not stop the others. Files get their names when they are
whole. docs/predict.md has all of it. Exit status 0: all mapped; 1: some of several scenes are not;
2: a mistake, or the only scene cannot be mapped.
"""

import argparse
import itertools
import shlex
import signal
import sys
from pathlib import Path

from SSLRemoteSensing.core.cli import parse, plain_parser
from SSLRemoteSensing.core.console import print_summary, styled
from SSLRemoteSensing.core.errors import run_command

BATCH = {"cpu": 1, "cuda": 16}  # windows; a CPU gains nothing by more
THREADS = {"cpu": 1, "cuda": 4}


def flags() -> argparse.ArgumentParser:
    flags = plain_parser(__doc__)
    add = flags.add_argument
    add("--checkpoint", required=True, metavar="FILE",
        help="best.pth, latest.pth or epoch_*.pth of fine-tuning, or an export of it")  # fmt: skip
    add("--input", required=True, nargs="+", metavar="SCENE",
        help="scenes, or patterns of them in quotes")  # fmt: skip
    add("--output", required=True, metavar="PATH",
        help="a file (.tif, .png) for one scene, or a folder")  # fmt: skip
    add("--overwrite", action="store_true", help="replace files that are no maps of this command")
    add("--skip_existing", action="store_true", help="leave out scenes whose map is there")
    add = flags.add_argument_group("reading the scene").add_argument
    add("--bands", type=int, nargs="+", metavar="BAND",
        help="the scene's bands for the network, counted from 1 (default: those of the "
        "checkpoint's card)")  # fmt: skip
    add("--max_value", type=float, metavar="VALUE",
        help="the scene's value that becomes 255 (default: the checkpoint's)")  # fmt: skip
    add("--on_bad_block", default="fail", choices=("fail", "nodata"),
        help="nodata: leave what cannot be read empty in the map, and go on")  # fmt: skip
    add = flags.add_argument_group("predicting").add_argument
    add("--tile", type=int, default=512, metavar="PIXELS", help="side of a window, in pixels")
    add("--overlap", type=float, default=0.5, metavar="SHARE",
        help="share of its side by which a window overlaps the next, 0 to below 1")  # fmt: skip
    add("--tta", action="store_true", help="mean over 8 turns and flips of each window: 8 times "
        "the work")  # fmt: skip
    add("--device", default="auto", help="auto, cpu, cuda or cuda:1; auto is a GPU if there is one")
    add("--precision", default="auto", choices=("auto", "fp32", "bf16"),
        help="of the network; auto is bf16 where the hardware has it")  # fmt: skip
    add("--batch_size", type=int, metavar="N",
        help="windows predicted at a time (default: 1, on a GPU 16)")  # fmt: skip
    add("--workers", type=int, metavar="N",
        help="threads that decompress and compress (default: 1, with a GPU 4)")  # fmt: skip
    add = flags.add_argument_group("further results").add_argument
    add("--probabilities", action="store_true", help="also <map>_probabilities.tif, a band a class")
    add("--preview", action="store_true", help="also <map>_preview.png: scene, map and legend; "
        "and a page of them to open in a browser")  # fmt: skip
    add("--vectors", metavar="FILE.gpkg", help="also polygons; of several scenes a folder")
    add("--min_area", type=float, default=0.0, metavar="AREA",
        help="smallest polygon, in square metres (pixels without coordinates)")  # fmt: skip
    add("--simplify", type=float, metavar="METRES",
        help="how far outlines may move, in metres (default: one pixel)")  # fmt: skip
    add("--vector_classes", nargs="+", metavar="CLASS",
        help="classes to make polygons of (default: all)")  # fmt: skip
    return flags


def main() -> None:
    args = parse(flags())
    # Only now, as in `run`: torch takes seconds, which --help need not wait for.
    from SSLRemoteSensing.core.distributed import processes

    with processes():
        run(args)


def run(args: argparse.Namespace) -> None:
    from SSLRemoteSensing.core import distributed
    from SSLRemoteSensing.core.machine import choose_device, choose_precision
    from SSLRemoteSensing.inference.mapper import MapSettings, map_scenes
    from SSLRemoteSensing.inference.network import open_network
    from SSLRemoteSensing.inference.outputs import find_scenes, plan_outputs, require_own
    from SSLRemoteSensing.inference.polygons import require_vectors
    from SSLRemoteSensing.reports.map_page import page_of, require_own_page, write_page_of

    if args.vectors is not None:
        require_vectors()
    scenes = find_scenes(args.input)
    asked = args.probabilities, args.preview, args.vectors
    planned = plan_outputs(scenes, args.output, *asked)
    left = [one for one in planned if not (args.skip_existing and one.map.exists())]
    if not args.overwrite:
        require_own(left)
        if args.preview:
            require_own_page(page_of(planned))
    distributed.barrier()  # all have looked at what is there before one writes
    device = choose_device(args.device, "--device ")
    precision = choose_precision(args.precision, device, "--precision ")
    settings = MapSettings(
        tile=args.tile,
        overlap=args.overlap,
        batch_size=BATCH[device.type] if args.batch_size is None else args.batch_size,
        tta=args.tta,
        bands=args.bands,
        max_value=args.max_value,
        on_bad_block=args.on_bad_block,
        workers=THREADS[device.type] if args.workers is None else args.workers,
        min_area=args.min_area,
        simplify=args.simplify,
        vector_classes=args.vector_classes,
    )
    settings.check()
    network = open_network(Path(args.checkpoint), device, precision)
    settings.check_classes(network.classes)
    if len(left) < len(planned):
        print(f"{len(planned) - len(left)} of {len(planned)} scenes have their map already")
    done, failed = map_scenes(network, left, settings)
    results = distributed.all_gather_object((done, failed))
    if args.preview and distributed.rank() == 0:
        mapped, errors = ([*itertools.chain(*parts)] for parts in zip(*results, strict=True))
        page = page_of(planned)
        print(write_page_of(page, Path(args.checkpoint), network, planned, mapped, errors))
    report(results, len(planned) == 1, args)


def report(results: list[tuple[list, list[str]]], single: bool, args: argparse.Namespace) -> None:
    """Say what the other processes could not, the sum, and where the maps are; end with 1 where
    scenes failed, or with 2 where the only one did."""
    for done, failed in results[1:]:
        for one in done:
            print(one)
        for line in failed:
            print(styled("error:", "red", sys.stderr), line, file=sys.stderr)
    failed = [line for _, lines in results for line in lines]
    mapped = [one for done, _ in results for one in done]
    if single and failed:
        sys.exit(2)
    seconds = max(sum(one.seconds for one in done) for done, _ in results)
    pixels = sum(one.pixels for one in mapped)
    if len(mapped) > 1:
        rate = pixels / 1e6 / seconds
        sizes = f"{len(mapped)} scenes, {pixels / 1e6:.1f} megapixels in {seconds:.1f} s"
        print(f"{sizes}, {rate:.3g} megapixels a second")
    if failed:
        print(
            f"{len(failed)} of {len(mapped) + len(failed)} scenes are not mapped", file=sys.stderr
        )
    again = [] if args.skip_existing else ["--skip_existing"]
    print_summary(
        {"maps": args.output}, [shlex.join(["python", *sys.argv, *again])] if failed else []
    )
    if failed:
        sys.exit(1)


def terminated(number: int, frame) -> None:
    """SIGTERM as Ctrl-C; a second one, as some batch systems send it, does not end the cleaning."""
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt(number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, terminated)
    run_command(main, "stopped; finished maps are kept, with --skip_existing the command goes on")
