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

import sys
from dataclasses import fields

from SSLRemoteSensing.core.cli import Flags, parse
from SSLRemoteSensing.core.console import print_summary, this_command
from SSLRemoteSensing.core.errors import stoppable


def flags() -> Flags:
    # fmt: off
    flags = Flags(__doc__)
    add = flags.add_argument
    add("--checkpoint", required=True, metavar="FILE",
        help="best.pth, latest.pth or epoch_*.pth of fine-tuning, or an export of it")
    add("--input", required=True, nargs="+", metavar="SCENE",
        help="scenes, or patterns of them in quotes")
    add("--output", required=True, metavar="PATH",
        help="a file (.tif, .png) for one scene, or a folder")
    add("--overwrite", action="store_true", help="replace files that are there")
    add("--skip_existing", action="store_true", help="leave out scenes whose map is there, "
        "whatever it was made with; not together with --overwrite")
    add = flags.add_argument_group("reading the scene").add_argument
    add("--allow_remote", action="store_true", help="scenes may be addresses (https://, s3://, "
        "gs://, az://, /vsicurl/...) that GDAL reads over the network")
    add("--bands", type=int, nargs="+", metavar="BAND", help="the scene's bands for the network, "
        "counted from 1 (default: those of the checkpoint's card)")
    add("--max_value", type=float, metavar="VALUE",
        help="the scene's value that becomes 255 (default: the checkpoint's)")
    add("--scale", nargs="+", metavar="MIN MAX",
        help="in place of it, what becomes 0 and 255: a pair of numbers for each band that the "
        "network takes, or for all")
    add("--gsd", type=metres, metavar="METRES|native", help="size of the pixels in which the "
        "network sees the scene, whose map lies on its own pixels all the same; native: these "
        "(default: the checkpoint's)")
    add = flags.add_argument_group("predicting").add_argument
    add("--tile", type=int, metavar="PIXELS", help="side of a window, in pixels (default: 512, or "
        "the one size that the network takes)")
    add("--overlap", type=float, default=0.5, metavar="SHARE",
        help="share of its side by which a window overlaps the next, 0 to below 1")
    add("--tta", action="store_true",
        help="mean over 8 turns and flips of each window: 8 times the work")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:1; auto is a GPU if there is one")
    add("--precision", default="auto", choices=("auto", "fp32", "bf16"),
        help="of the network; auto is bf16 where the hardware has it")
    add("--batch_size", type=int, metavar="N",
        help="windows predicted at a time (default: 1, on a GPU 16)")
    add("--workers", type=int, metavar="N",
        help="threads that decompress and compress (default: 1, with a GPU 4)")
    add = flags.add_argument_group("further results").add_argument
    add("--probabilities", action="store_true", help="also <map>_probabilities.tif, a band a class")
    add("--preview", action="store_true", help="also <map>_preview.png: scene, map and legend; "
        "and a page of them to open in a browser")
    add("--vectors", metavar="FILE.gpkg", help="also polygons; of several scenes a folder")
    add("--min_area", type=float, default=0.0, metavar="AREA",
        help="smallest polygon, in square metres (pixels without coordinates)")
    add("--simplify", type=float, metavar="METRES",
        help="how far outlines may move, in metres (default: one pixel)")
    add("--vector_classes", nargs="+", metavar="CLASS",
        help="classes to make polygons of (default: all)")
    return flags


def metres(text: str) -> float | str:
    return text if text == "native" else float(text)


def main() -> None:
    args = parse(flags())
    # Only now: torch takes seconds, which --help need not wait for.
    from SSLRemoteSensing.core.distributed import processes
    from SSLRemoteSensing.data.scale import read_scale
    from SSLRemoteSensing.inference.mapper import MapSettings
    from SSLRemoteSensing.workflows.mapping import map_planned, plan_maps, print_outcome

    message = "stopped; finished maps are kept, "
    if args.overwrite:  # of the maps that are there nothing tells which are new
        message += "the same command makes all of them anew"
    else:
        message += "with --skip_existing the command goes on"
    with processes(), stoppable(message):
        outputs = (args.probabilities, args.preview, args.vectors)
        args.scale = read_scale(args.scale, takes_percentile=False)
        settings = MapSettings(**{key.name: vars(args)[key.name] for key in fields(MapSettings)})
        replacing = (args.skip_existing, args.overwrite)
        plan = plan_maps(args.input, args.output, *outputs, *replacing, settings.allow_remote)
        results = map_planned(plan, args.checkpoint, settings, args.device, args.precision)
        failures = print_outcome(plan, results)
        if failures and len(plan.outputs) == 1:
            sys.exit(2)
        again = sys.argv[1:] + ([] if args.skip_existing else ["--skip_existing"])
        goes_on = failures and not args.overwrite
        print_summary({"maps": args.output}, [this_command(again)] if goes_on else [])
    sys.exit(1 if failures else 0)
