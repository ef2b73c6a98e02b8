"""Weights for other programs: a file in the form that they read, and a model card beside it.

    python tools/export.py --checkpoint runs/mine/backbone.pth --format timm --output out/vgg.pth
    python tools/export.py --checkpoint runs/seg/best.pth --format onnx --preprocess \\
        --output out/net.onnx --license cc-by-4.0
    python tools/export.py --checkpoint runs/mine/backbone.pth --format hub --output out/weights

Takes a backbone.pth, a checkpoint of train.py, or best.pth and latest.pth of finetune_seg.py (and
whatever else load_backbone reads). `torchvision`, `timm` and `mmseg` get the backbone; `smp` the
whole network where segmentation_models_pytorch has the same, or else the backbone; `safetensors`
what the checkpoint has; `onnx` a graph for images of any number and size, which is compared with
the network before it is written; `hub` a folder as model hubs hold it, with the backbone as a
network of timm, which is compared with ours. Beside the file come README.md, its model card, and,
where the format has no place for it, a .json that load_backbone takes mean and std from; use a
folder for each file. Nothing is sent anywhere. docs/use_the_weights.md has examples.
"""

from pathlib import Path

from SSLRemoteSensing.core.cli import Flags, parse
from SSLRemoteSensing.core.console import print_summary, shell_line

FORMATS = ("torchvision", "timm", "hub", "smp", "mmseg", "safetensors", "onnx")
RESULTS = ("logits", "probabilities", "classes")


def flags() -> Flags:
    # fmt: off
    flags = Flags(__doc__)
    add = flags.add_argument
    add("--checkpoint", required=True, type=Path, metavar="FILE",
        help="backbone.pth, or a checkpoint of train.py or finetune_seg.py")
    add("--format", required=True, choices=FORMATS, help="whose names or which graph the file has")
    add("--output", required=True, type=Path, metavar="FILE",
        help="the file to write, README.md beside it; of hub the folder for both")
    add("--overwrite", action="store_true", help="replace what is there")
    add = flags.add_argument_group("onnx").add_argument
    add("--preprocess", action="store_true",
        help="the graph takes uint8, and scales, takes out mean and std itself")
    add("--result", choices=RESULTS, default="logits",
        help="what the graph of a fine-tuned network gives")
    add = flags.add_argument_group("model card").add_argument
    add("--license", metavar="NAME", help="of the weights, as model hubs name it, e.g. cc-by-4.0")
    add("--dataset", metavar="NAME", help="the data's name on a model hub")
    return flags


def main() -> None:
    args = parse(flags())
    # Only now: torch takes seconds, which --help need not wait for.
    from SSLRemoteSensing.export.write import Request, write_export

    options = {key: getattr(args, key) for key in ("preprocess", "result", "overwrite", "dataset")}
    request = Request(args.checkpoint, args.format, args.output, licence=args.license, **options)
    contents, card = write_export(request)
    card = f"{card}, with the lines that load it"
    uploads = []
    if args.format == "hub":
        uploads.append(shell_line("hf", "upload", "NAME/REPOSITORY", args.output))
    print_summary({"weights": args.output, "holds": contents, "card": card}, uploads)
