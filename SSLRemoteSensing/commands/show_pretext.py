"""Before pre-training: see the samples it begins with.

    python tools/show_pretext.py --config_file configs/vr_vgg16_inapinting_agr_examplar_cfg.py \\
        --output pretext.png
    python tools/show_pretext.py --config_file C --output pretext.png --samples 16 --epoch 3

A row a sample: occluded, anchor, transformed with the name of its transform, and the weight M of
the inpainting loss. They are the samples of train.py with that config: the same files, crops,
blocks and transforms, in the order in which training takes them, so the first rows are its first
batch. Under torchrun the first batches of all processes, one after another, are those rows.
"""

from SSLRemoteSensing.core.bars import print_line
from SSLRemoteSensing.core.cli import Flags, config_words, parse, read_config
from SSLRemoteSensing.core.config import Part
from SSLRemoteSensing.core.console import command_line, print_summary


def flags() -> Flags:
    flags = Flags(__doc__).config().paths()
    add = flags.add_argument
    add("--output", required=True, metavar="PNG", help="the picture to write")
    add("--samples", type=int, default=8, metavar="N", help="rows")
    add("--epoch", type=int, default=0, metavar="N", help="whose first samples, from 0")
    add("--seed", type=int, metavar="N", help="in place of train_cfg.seed")
    return flags


def main() -> None:
    args = parse(flags())
    # Only now: they load torch, which takes seconds that --help need not wait for.
    from SSLRemoteSensing.data.images import write_png
    from SSLRemoteSensing.reports import pretext_figures as figures
    from SSLRemoteSensing.reports.image_grid import COMPRESSION, png_path
    from SSLRemoteSensing.training.settings import split
    from SSLRemoteSensing.workflows.kinds import require_kind
    from SSLRemoteSensing.workflows.pretraining import (
        PretextConfig,
        PretextData,
        check_pretext,
        open_images,
    )
    from SSLRemoteSensing.workflows.settled_scale import settle_scale

    config = read_config(args, Part(PretextConfig))
    require_kind(config, "pretrain", args.config_file, to_see=True)
    check_pretext(config)
    if args.seed is not None:
        config["train_cfg"]["seed"] = args.seed
    output = png_path(args.output, "--output")
    _, settings = split(config["train_cfg"], PretextData)
    channels = config["backbone_cfg"].get("in_channels", 3)
    data = settle_scale(config, channels)["train_cfg"]["train_data"]
    dataset = open_images(data, channels, settings.seed)
    samples = figures.first_samples(dataset, settings, args.epoch, args.samples)
    title = f"{config['name']}: {len(dataset)} images, epoch {args.epoch}, seed {dataset.seed}"
    page = figures.draw_samples(samples, channels, f"{title}, from the first batch on")
    write_png(output, page, COMPRESSION)
    for line in [title, *figures.describe(samples, dataset)]:
        print_line(line)
    print_summary({"picture": output}, [command_line("train.py", *config_words(args))])
