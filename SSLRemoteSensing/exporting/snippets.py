"""Python that loads an exported file, for its model card; the tests run each."""

from SSLRemoteSensing.exporting.source import Source
from SSLRemoteSensing.models.backbones import VGG


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
        return {"SSLRemoteSensing": WHOLE.format(file=file)} | {
            name + ", backbone": code for name, code in ours.items()
        }
    return ours | state_dict_snippets(source, file)


WHOLE = """from SSLRemoteSensing import build_segmentation
from SSLRemoteSensing.checkpoint import read

contents = read({file!r})
net = build_segmentation(contents["card"]["config"])
net.load_state_dict(contents["model"])
net.backbone.set_normalization(contents["card"]["mean"], contents["card"]["std"])"""


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
        old, keywords = ("features[0]", "3, padding=1") if is_vgg else (
            "conv1", "7, stride=2, padding=3, bias=False")  # fmt: skip
        net += f"\nnet.{old} = torch.nn.Conv2d({bands}, 64, {keywords})"
        first = first if first.startswith("import torch\n") else first + "import torch\n"
    checked = "assert not found.unexpected_keys  # only its classifier is missing"
    channels = "" if bands == 3 else f", in_chans={bands}"
    return {
        "torchvision": f"{first}import torchvision\n\n{load}\n{net}\n"
        f"found = net.load_state_dict(state, strict=False)\n{checked}",
        "timm": f"{first}import timm\n\n{load}\n"
        f'net = timm.create_model("{name}", num_classes=0{channels})\n'
        f"found = net.load_state_dict(state, strict=False)\n"
        f"assert not found.unexpected_keys  # features = net.forward_features(images)",
        "segmentation_models_pytorch": f"{first}import segmentation_models_pytorch as smp\n\n"
        f"{load}\n"
        f'net = smp.Unet("{name}", encoder_weights=None, in_channels={bands}, classes=2)\n'
        f"net.encoder.load_state_dict(state)",
    }
