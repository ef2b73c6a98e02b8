"""The model card: `README.md` with a YAML head, in the form that model hubs read."""

import json
from pathlib import Path

from SSLRemoteSensing.core.templates import render
from SSLRemoteSensing.export.hub import timm_call
from SSLRemoteSensing.export.layouts import lacks_dilation, mmseg_config
from SSLRemoteSensing.export.onnx import takes_strides
from SSLRemoteSensing.export.source import Request, Source
from SSLRemoteSensing.models.backbones import VGG
from SSLRemoteSensing.models.timm_backbones import TimmBackbone

MARK = "<!-- written by tools/export.py of SSLRemoteSensing; it may be written anew -->"
LIBRARIES = {"timm": "timm", "hub": "timm", "smp": "segmentation-models-pytorch", "onnx": "onnx"}
PRETEXT = {
    "inpainting_head_cfg": "inpainting",
    "agr_head_cfg": "transform prediction",
    "examplar_head_cfg": "exemplar contrast",
    "distillation_head_cfg": "distillation",
}


def model_card(source: Source, request: Request, network: bool, smp: str | None) -> str:
    """The card of an exported file as text. A text in JSON is a text in YAML.

    Args:
        network: the file holds decoder and classes too.
        smp: the Python that builds the network of segmentation_models_pytorch.
    """
    config, file, backbone = source.card.get("config") or {}, request.file.name, source.backbone
    is_timm = isinstance(backbone, TimmBackbone)
    return render(
        "export",
        "card.md",
        source=source,
        request=request,
        network=network,
        smp=smp,
        mark=MARK,
        file=repr(file),
        library=LIBRARIES.get(request.form, "pytorch"),
        # Hubs take a name of their list, or 'other' with the name beside it.
        licence=json.dumps(request.licence or "other"),
        dataset=json.dumps(request.dataset),
        tasks=[name for key, name in PRETEXT.items() if config.get(key)],
        bands=which_bands(source.card),
        scale=which_scale(source.card),
        numbers=lambda values: ", ".join(f"{value:g}" for value in values),
        facts=training_facts(source, request, config),
        mmseg=mmseg_config(source, file) if request.form == "mmseg" else None,
        is_vgg=isinstance(backbone, VGG),
        architecture=backbone.model if is_timm else backbone.name,
        timm_call=call_text(*timm_call(backbone)) if is_timm else None,
        classifier_call=call_text(*timm_call(backbone), 10) if request.form == "hub" else None,
        side=backbone.fixed_size or 64,
        takes_strides=takes_strides(source),
        stride=backbone.output_stride,
        lacks_dilation=lambda form: lacks_dilation(source, form),
    )


def call_text(model: str, arguments: dict, num_classes: int = 0) -> str:
    """What stands between the brackets of `timm.create_model`."""
    options = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
    return f'"{model}", num_classes={num_classes}, {options}'


def which_bands(card: dict) -> str:
    """'bands 4, 1, 2 of the files: near infrared, red, green', as far as that is known."""
    numbers, names = card.get("bands"), card.get("band_names") or []
    labels = ", ".join(name for name in names if not name.startswith("band "))  # 'band 1': unnamed
    if not numbers:
        return labels and f"bands {labels}"
    return f"bands {', '.join(map(str, numbers))} of the files" + (labels and f": {labels}")


def which_scale(card: dict) -> str | None:
    """Which values of the files become 0 and 1; None where no card says so, or their type does."""
    if isinstance(card.get("scale"), dict):
        ends = zip(card["scale"]["minimum"], card["scale"]["maximum"], strict=True)
        pairs = ", ".join(f"{low:g} to {high:g}" for low, high in ends)
        return f"{pairs} {'of each band become' if ',' in pairs else 'becomes'} 0 to 1"
    return f"{card['max_value']:g} becomes 1" if card.get("max_value") else None


def training_facts(source: Source, request: Request, config: dict) -> dict[str, object]:
    """What the run says of itself. No path, nor a part of one: it may be a user's name."""
    card, data = source.card, (config.get("train_cfg") or {}).get("train_data") or {}
    size = data.get("crop_size") if source.net else card.get("img_size", data.get("img_size"))
    tiles = card.get("train_tiles") or {}
    return {
        "Data": request.dataset or card.get("dataset"),
        "Labelled tiles": f"{tiles['used']} of {tiles['of']}" if tiles else None,
        "Images seen": card.get("images_seen"),
        "Image size in training": size,
        "Bands": source.backbone.in_channels,
        "Scale": which_scale(card),
        "Ground sampling distance": f"{card['gsd']:g} m" if card.get("gsd") else None,
        "Steps": source.step,
        "Epochs": card.get("epoch"),
        "Started from": starting_point(config),
        "Teacher": teacher_of(card),
        "Licence of the weights": request.licence or "unknown: whoever publishes them has to say",
    }


def starting_point(config: dict) -> str | None:
    if not isinstance(config.get("backbone_cfg"), dict):
        return None
    pretrained = config["backbone_cfg"].get("pretrained", False)
    words = {False: "random weights", True: "torchvision's ImageNet weights"}
    return words[pretrained] if isinstance(pretrained, bool) else Path(pretrained).name


def teacher_of(card: dict) -> str | None:
    """The teacher of a distillation, with its licence, which may bind the student's weights."""
    teacher = card.get("teacher")
    if not isinstance(teacher, dict):
        return None
    name, licence = teacher.get("model") or teacher["name"], teacher.get("license")
    return f"{name}, weights {teacher['weights']}, licence {licence or 'unknown'}"
