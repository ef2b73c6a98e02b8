"""The model card: `README.md` with a YAML head, in the form that model hubs read."""

import json
from dataclasses import dataclass
from pathlib import Path

from SSLRemoteSensing.export.layouts import mmseg_config
from SSLRemoteSensing.export.source import Source
from SSLRemoteSensing.models.backbones import VGG

MARK = "<!-- written by tools/export.py of SSLRemoteSensing; it may be written anew -->"
PAPER = "https://doi.org/10.1109/JSTARS.2021.3090418"
LIBRARIES = {"timm": "timm", "smp": "segmentation-models-pytorch", "onnx": "onnx"}
METRICS = {"miou": "mean_iou", "mf1": "f1", "oa": "accuracy", "kappa": "kappa"}


@dataclass(frozen=True, kw_only=True)
class Exported:
    """The file that a card is of.

    Attributes:
        file: its name.
        form: the --format.
        network: it holds decoder and classes too.
        preprocess, result: of a graph, see `Graph`.
        smp: the Python that builds the network of segmentation_models_pytorch.
        licence: as the hub names it ('apache-2.0'), None where nobody said.
        dataset: the data's name on the hub.
    """

    file: str
    form: str
    network: bool
    preprocess: bool = False
    result: str = "logits"
    smp: str | None = None
    licence: str | None = None
    dataset: str | None = None


def model_card(source: Source, exported: Exported) -> str:
    """The card of an exported file as text."""
    network, file, form = exported.network, exported.file, exported.form
    title = f"{source.backbone.name}, {'segmentation' if network else 'backbone'}"
    parts = [
        head(source, exported),
        MARK,
        f"# {title}",
        origin(source, network),
        "## What to feed it\n\n" + feeding(source, exported),
        "## How it was made\n\n" + "\n".join(f"- {line}" for line in training(source, exported)),
    ]
    if source.scores:
        parts.append("## Scores\n\n" + scores(source))
    parts.append("## How to load it")
    if form == "mmseg":
        parts.append(
            f"In a config of mmsegmentation 1.x:\n\n```text\n{mmseg_config(source, file)}\n```"
        )
    graph = exported.preprocess, exported.smp
    for name, code in snippets(source, file, form, network, *graph).items():
        parts.append(f"{name}:\n\n```python\n{code}\n```")
    citation = f"W. Li, H. Chen, Z. Shi, IEEE JSTARS 14, 2021, {PAPER}"
    parts.append(f"The method: {citation}. Code: SSLRemoteSensing.")
    return "\n\n".join(parts) + "\n"


def head(source: Source, exported: Exported) -> str:
    """The YAML between its lines of dashes. A text in JSON is a text in YAML."""
    licence, network = exported.licence, exported.network
    kind = "image-segmentation" if network else "image-feature-extraction"
    library = LIBRARIES.get(exported.form, "pytorch")
    # Hubs take a name of their list, or 'other' with the name beside it.
    lines = [f"license: {json.dumps(licence or 'other')}"]
    lines += [] if licence else ["license_name: unknown"]
    lines += [f"library_name: {library}", f"pipeline_tag: {kind}", "tags:"]
    tags = ["remote-sensing", "self-supervised-learning", "semantic-segmentation"]
    lines += [f"- {tag}" for tag in [*tags, source.backbone.name]]
    if exported.dataset:
        lines += ["datasets:", f"- {json.dumps(exported.dataset)}"]
    if network and source.scores:
        lines += ["metrics:", *(f"- {name}" for name in METRICS.values())]
    return "\n".join(["---", *lines, "---"])


def origin(source: Source, network: bool) -> str:
    pretext = [
        key for key in ("inpainting_head_cfg", "agr_head_cfg", "examplar_head_cfg")
        if source.card.get("config", {}).get(key)
    ]  # fmt: skip
    if network:
        names = ", ".join(source.classes)
        return (
            f"A {source.backbone.name} with the decoder {source.decoder_cfg['name']}, fine-tuned "
            f"to tell {len(source.classes)} classes in remote sensing images, in this order: "
            f"{names}."
        )
    if source.net is not None:
        return (
            f"The {source.backbone.name} backbone of a network fine-tuned for segmentation of "
            f"remote sensing images ({', '.join(source.classes)})."
        )
    if pretext:
        names = {"inpainting_head_cfg": "inpainting", "agr_head_cfg": "transform prediction",
                 "examplar_head_cfg": "exemplar contrast"}  # fmt: skip
        tasks = ", ".join(names[key] for key in pretext)
        return (
            f"A {source.backbone.name} pre-trained on remote sensing images without labels, by "
            f"self-supervised multitask learning ({tasks})."
        )
    return f"A {source.backbone.name} backbone; its file does not say how it was trained."


def feeding(source: Source, exported: Exported) -> str:
    backbone, card, form = source.backbone, source.card, exported.form
    preprocess = exported.preprocess
    bands = which_bands(card)
    lines = [f"Images (N, {backbone.in_channels}, H, W)" + (f" ({bands})" if bands else "")]
    if form in ("onnx", "torchscript") and preprocess:
        lines[0] += " as uint8, 0 to 255; scaling, mean and deviation are part of the graph."
    else:
        lines[0] += " as float, scaled to 0..1."
    if card.get("max_value"):
        lines.append(
            f"Files of more than 8 bits were scaled first: {card['max_value']:g} became 255."
        )
    if backbone.mean is None:
        has_mean = "mean" in card
        lines.append(
            "No mean and no standard deviation are taken out."
            if has_mean
            else "No card says whether a mean and standard deviation were taken out."
        )
    elif not (preprocess and form in ("onnx", "torchscript")):
        mean, std = (
            ", ".join(f"{x:g}" for x in values) for values in (backbone.mean, backbone.std)
        )
        lines.append(f"Then take out mean ({mean}) and divide by standard deviation ({std}).")
        if form == "mmseg":
            lines.append("(The lines of the config below do so, in units of 0..255.)")
    if form in ("onnx", "torchscript"):
        maps = "maps block2 to block6 at 1/2 to 1/32, as far as the backbone returns them"
        outputs = exported.result if exported.network else maps
        lines.append(f"Any batch, height and width; gives {outputs}.")
    return "\n".join(lines)


def which_bands(card: dict) -> str:
    """'bands 4, 1, 2 of the files: near infrared, red, green', as far as that is known."""
    numbers, names = card.get("bands"), card.get("band_names") or []
    labels = ", ".join(name for name in names if not name.startswith("band "))  # 'band 1': unnamed
    if not numbers:
        return labels and f"bands {labels}"
    return f"bands {', '.join(map(str, numbers))} of the files" + (labels and f": {labels}")


def training(source: Source, exported: Exported) -> list[str]:
    """What the run says of itself. No path, nor a part of one: it may be a user's name."""
    card, config = source.card, source.card.get("config") or {}
    data = (config.get("train_cfg") or {}).get("train_data") or {}
    size = data.get("crop_size") if source.net else card.get("img_size", data.get("img_size"))
    tiles = card.get("train_tiles") or {}
    facts = {
        "Data": exported.dataset or card.get("dataset"),
        "Labelled tiles": f"{tiles['used']} of {tiles['of']}" if tiles else None,
        "Images seen": card.get("images_seen"),
        "Image size in training": size,
        "Bands": source.backbone.in_channels,
        "Scale": f"{card['max_value']:g} becomes 1" if card.get("max_value") else None,
        "Steps": source.step,
        "Epochs": card.get("epoch"),
        "Started from": starting_point(config),
        "Licence of the weights": exported.licence or "unknown: whoever publishes them has to say",
    }
    return [f"{name}: {value}" for name, value in facts.items() if value is not None]


def starting_point(config: dict) -> str | None:
    if not isinstance(config.get("backbone_cfg"), dict):
        return None
    pretrained = config["backbone_cfg"].get("pretrained", False)
    words = {False: "random weights", True: "torchvision's ImageNet weights"}
    return words[pretrained] if isinstance(pretrained, bool) else Path(pretrained).name


def scores(source: Source) -> str:
    results = source.scores
    lines = [
        f"In %, on the {results['split']} data, protocol {results['protocol']}:\n",
        "| mIoU | mean F1 | overall accuracy | kappa |",
        "|---|---|---|---|",
        "| " + " | ".join(percent(results.get(key)) for key in METRICS) + " |",
        "\n| class | IoU | F1 |",
        "|---|---|---|",
    ]
    for name, entry in results["per_class"].items():
        lines.append(f"| {name} | {percent(entry.get('iou'))} | {percent(entry.get('f1'))} |")
    return "\n".join(lines)


def percent(value: float | None) -> str:
    return "none" if value is None else f"{100 * value:.2f}"


def snippets(
    source: Source, file: str, form: str, network: bool, preprocess: bool, smp: str | None
) -> dict[str, str]:
    """Library -> lines that load `file`, which stands in the present folder."""
    bands = source.backbone.in_channels
    kind = "torch.uint8" if preprocess else "torch.float32"
    example = f"images = torch.zeros(1, {bands}, 64, 64, dtype={kind})"
    if form == "onnx":
        return {
            "onnxruntime": f"import numpy, onnxruntime\n\n"
            f"session = onnxruntime.InferenceSession({file!r})\n"
            f"images = numpy.zeros((1, {bands}, 64, 64), "
            f"{'numpy.uint8' if preprocess else 'numpy.float32'})\n"
            f'results = session.run(None, {{"images": images}})'
        }
    if form == "torchscript":
        return {
            "torch": f"import torch\n\nnet = torch.jit.load({file!r})\n{example}\n"
            f"results = net(images)"
        }
    if smp is not None:
        load = f"state = torch.load({file!r}, weights_only=True)\nnet.load_state_dict(state)"
        code = f"import segmentation_models_pytorch as smp, torch\n\nnet = {smp}\n{load}\n{example}"
        return {"segmentation_models_pytorch": f"{code}\nlogits = net.eval()(images)"}
    ours = {
        "SSLRemoteSensing": "from SSLRemoteSensing import load_backbone\n\n"
        f'backbone = load_backbone(None, {file!r})["model"].eval()'
    }
    if form == "mmseg":
        return {} if isinstance(source.backbone, VGG) else ours
    if form == "safetensors" and network:
        sizes = {"bands": bands, "classes": len(source.classes)}
        return {"SSLRemoteSensing": WHOLE.format(file=file, **sizes)} | {
            name + ", backbone": code for name, code in ours.items()
        }
    return ours | state_dict_snippets(source, file)


WHOLE = """from SSLRemoteSensing import load_segmentation

net = load_segmentation({file!r})  # in evaluation mode; net.classes has the names
# logits = net.logits(images), images (N, {bands}, H, W) in 0..1 -> (N, {classes}, H, W)"""


def state_dict_snippets(source: Source, file: str) -> dict[str, str]:
    """For the weights of a backbone under torchvision's names."""
    name, bands, is_vgg = source.backbone.name, source.backbone.in_channels, isinstance(
        source.backbone, VGG
    )  # fmt: skip
    load = f"state = torch.load({file!r}, weights_only=True)"
    first = "import torch\n"
    if file.endswith(".safetensors"):
        load = f"state = load_file({file!r})"
        first = "from safetensors.torch import load_file\n"
    net = f"net = torchvision.models.{name}(weights=None)"
    if bands != 3:
        layer, keywords = ("features[0]", "3, padding=1") if is_vgg else (
            "conv1", "7, stride=2, padding=3, bias=False")  # fmt: skip
        net += f"\nnet.{layer} = torch.nn.Conv2d({bands}, 64, {keywords})"
        first = first if first.startswith("import torch\n") else first + "import torch\n"
    assertion = "assert not found.unexpected_keys  # only its classifier is missing"
    channels = "" if bands == 3 else f", in_chans={bands}"
    return {
        "torchvision": f"{first}import torchvision\n\n{load}\n{net}\n"
        f"found = net.load_state_dict(state, strict=False)\n{assertion}",
        "timm": f"{first}import timm\n\n{load}\n"
        f'net = timm.create_model("{name}", num_classes=0{channels})\n'
        f"found = net.load_state_dict(state, strict=False)\n"
        f"assert not found.unexpected_keys  # features = net.forward_features(images)",
        "segmentation_models_pytorch": f"{first}import segmentation_models_pytorch as smp\n\n"
        f"{load}\n"
        f'net = smp.Unet("{name}", encoder_weights=None, in_channels={bands}, classes=2)\n'
        f"net.encoder.load_state_dict(state)",
    }
