"""Weights for other programs: a file in the form that they read, and a model card beside it.

    python tools/export.py --checkpoint runs/mine/backbone.pth --format timm --output out/vgg.pth
    python tools/export.py --checkpoint runs/seg/best.pth --format onnx --preprocess \\
        --output out/net.onnx --license cc-by-4.0

Takes a backbone.pth, a checkpoint of train.py, or best.pth and latest.pth of finetune_seg.py (and
whatever else load_backbone reads). `torchvision`, `timm` and `mmseg` get the backbone; `smp` the
whole network where segmentation_models_pytorch has the same, or else the backbone; `safetensors`
what the checkpoint has; `onnx` and `torchscript` a graph for images of any number and size, which
is compared with the network before it is written. Beside the file come README.md, its model card,
and, where the format has no place for it, a .json that load_backbone takes mean and std from; use a
folder for each file. docs/use_the_weights.md has examples.
"""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from SSLRemoteSensing.core.cli import parse, plain_parser
from SSLRemoteSensing.core.console import print_summary
from SSLRemoteSensing.core.errors import UserError, run_command
from SSLRemoteSensing.core.files import make_folder, write_bytes, write_text

# What loads torch is imported where it is used: it takes seconds that --help need not wait for.
if TYPE_CHECKING:
    from SSLRemoteSensing.export.source import Source

FORMATS = ("torchvision", "timm", "smp", "mmseg", "safetensors", "onnx", "torchscript")
GRAPHS = ("onnx", "torchscript")
RESULTS = ("logits", "probabilities", "classes")


def flags() -> argparse.ArgumentParser:
    flags = plain_parser(__doc__)
    flags.add_argument(
        "--checkpoint",
        required=True,
        type=Path,
        metavar="FILE",
        help="backbone.pth, or a checkpoint of train.py or finetune_seg.py",
    )
    flags.add_argument(
        "--format", required=True, choices=FORMATS, help="whose names or which graph the file has"
    )
    flags.add_argument(
        "--output",
        required=True,
        type=Path,
        metavar="FILE",
        help="the file to write; README.md is written beside it",
    )
    flags.add_argument("--overwrite", action="store_true", help="replace what is there")
    graphs = flags.add_argument_group("onnx and torchscript")
    graphs.add_argument(
        "--preprocess",
        action="store_true",
        help="the graph takes uint8, and scales, takes out mean and std itself",
    )
    graphs.add_argument(
        "--result",
        choices=RESULTS,
        default="logits",
        help="what the graph of a fine-tuned network gives",
    )
    card = flags.add_argument_group("model card")
    card.add_argument(
        "--license", metavar="NAME", help="of the weights, as model hubs name it, e.g. cc-by-4.0"
    )
    card.add_argument("--dataset", metavar="NAME", help="the data's name on a model hub")
    return flags


def main() -> None:
    args = parse(flags())
    check(args)
    from SSLRemoteSensing.export.model_card import Exported, model_card
    from SSLRemoteSensing.export.source import open_source

    source = open_source(args.checkpoint)
    if args.result != "logits" and source.net is None:
        raise UserError(
            f"--result {args.result}: {args.checkpoint} has no classes, only a backbone"
        )
    make_folder(args.output.parent, "--output")
    said, network, smp = export(source, args)
    exported = Exported(
        file=args.output.name,
        form=args.format,
        network=network,
        preprocess=args.preprocess,
        result=args.result,
        smp=smp,
        licence=args.license,
        dataset=args.dataset,
    )
    write_text(args.output.parent / "README.md", model_card(source, exported))
    card = args.output.parent / "README.md"
    print_summary(
        {"weights": args.output, "holds": said, "card": f"{card}, with the lines that load it"}
    )


def check(args: argparse.Namespace) -> None:
    """Refuse before anything is read what could not be written."""
    from SSLRemoteSensing.export.model_card import MARK

    for name, given in (("--preprocess", args.preprocess), ("--result", args.result != "logits")):
        if given and args.format not in GRAPHS:
            raise UserError(f"{name}: only for --format onnx and torchscript, which hold a graph")
    if args.output.suffix == ".json" or args.output.is_dir() or args.output.name == "README.md":
        raise UserError(
            f"--output {args.output}: name a file for the weights, not a folder or card"
        )
    if args.output.exists() and args.checkpoint.exists() and args.output.samefile(args.checkpoint):
        raise UserError(f"--output {args.output}: is the checkpoint itself; name another file")
    if (args.format == "safetensors") != (args.output.suffix == ".safetensors"):
        raise UserError(
            f"--output {args.output}: files of --format safetensors, and no others, end with "
            f".safetensors"
        )
    if args.overwrite:
        return
    written = [args.output]
    if args.format not in (*GRAPHS, "safetensors"):
        written.append(args.output.with_suffix(".json"))
    for file in written:
        if file.exists():
            raise UserError(f"--output {file}: is there already; pass --overwrite to replace it")
    card = args.output.parent / "README.md"
    if card.exists() and MARK not in card.read_text(errors="replace"):
        raise UserError(
            f"--output {args.output}: the {card.name} beside it was not written by this command; "
            f"choose another folder, or pass --overwrite to replace it"
        )


def export(source: "Source", args: argparse.Namespace) -> tuple[str, bool, str | None]:
    """Write the file: what was written in words, whether it is a whole network, and smp's call."""
    from SSLRemoteSensing.core import checkpoints
    from SSLRemoteSensing.export import layouts, onnx

    output, fine_tuned = args.output, source.net is not None
    decoder = f" with {source.decoder_cfg['name']}" if fine_tuned else ""
    what = source.backbone.name + decoder
    only = f"the backbone alone, {source.backbone.name}"
    if args.format in ("torchvision", "timm"):
        write_weights(output, layouts.torchvision_weights(source), source)
        return only, False, None
    if args.format == "smp":
        weights, call = layouts.smp_weights(source)
        write_weights(output, weights, source)
        return (call or f"{only}, an encoder"), call is not None, call
    if args.format == "mmseg":
        write_weights(output, layouts.mmseg_weights(source), source)
        print(layouts.mmseg_config(source, output.name))
        return only, False, None
    if args.format == "safetensors":
        weights = source.net.state_dict() if fine_tuned else source.weights()
        checkpoints.write_safetensors(output, layouts.plain(weights), source.public_card())
        return what, fine_tuned, None
    if args.format == "torchscript":
        write_bytes(output, onnx.torchscript(source, args.preprocess, args.result))
        return f"{what}, equal to the network at {len(onnx.SIZES)} sizes", fine_tuned, None
    texts = {"card": json.dumps(source.public_card())}
    data, worst = onnx.onnx_model(source, args.preprocess, args.result, texts)
    write_bytes(output, data)
    return f"{what}, within {worst:.1e} of the network in onnxruntime", fine_tuned, None


def write_weights(output: Path, contents: dict, source: "Source") -> None:
    from SSLRemoteSensing.core import checkpoints

    checkpoints.write_plain(output, contents, source.public_card())


if __name__ == "__main__":
    run_command(main)
