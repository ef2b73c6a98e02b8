"""A backbone or a network as one ONNX graph, for images of any number and size.

It comes of a trace. `torch.onnx.export(dynamo=True)` would fix the batch of some decoders and
takes forty seconds where this takes two; that torch calls the older way deprecated is known.
"""

import io
import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from SSLRemoteSensing.core.bars import progress
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.export.layouts import TOLERANCE, without_normalization
from SSLRemoteSensing.export.source import Source
from SSLRemoteSensing.models.backbones import BLOCKS
from SSLRemoteSensing.models.segmentation import STRIDE

OPSET = 17
# Batch, height and width of the images that an export is compared on.
SIZES = ((1, 64, 96), (3, 45, 70), (2, 97, 33))


class Graph(nn.Module):
    """What is exported: images (N, C, H, W) to the maps of a backbone, or to (N, K, H, W).

    Args:
        preprocess: images are uint8, and scaling to 0..1, mean and std are part of the graph. Else
            they are float, and all that is done already.
        result: of a network: logits, probabilities, or classes, uint8 (N, H, W).
    """

    def __init__(self, source: Source, preprocess: bool, result: str):
        super().__init__()
        module = (source.net or source.backbone) if preprocess else without_normalization(source)
        self.backbone = getattr(module, "backbone", module)
        self.decoder = getattr(module, "decoder", None)
        self.preprocess, self.result = preprocess, result

    def forward(self, images: Tensor):
        x = images.float() / 255 if self.preprocess else images
        if self.decoder is None:
            maps = self.backbone(x)
            return tuple(maps[key] for key in BLOCKS if key in maps)
        height, width = x.shape[2:]
        x = pad_to_stride(x, height, width)
        logits = self.decoder(self.backbone(x))[:, :, :height, :width]
        return as_result(logits, self.result)


def pad_to_stride(x: Tensor, height, width) -> Tensor:
    """Repeat the last row and column up to a multiple of the stride, as SegmentationNet does.

    By indices, since a trace of F.pad keeps the width of the padding that it saw.
    """
    rows = counting((height + STRIDE - 1) // STRIDE * STRIDE, x).clamp(max=height - 1)
    columns = counting((width + STRIDE - 1) // STRIDE * STRIDE, x).clamp(max=width - 1)
    return x[:, :, rows][:, :, :, columns]


def counting(length, like: Tensor) -> Tensor:
    """0, 1, ... (length,), where `like` is: a trace of torch.arange keeps the device it saw."""
    return like.new_ones(length, dtype=torch.int64).cumsum(0) - 1


class AdaptiveMean(nn.Module):
    """nn.AdaptiveAvgPool2d as two products of matrices, since ONNX has it for one size alone."""

    def __init__(self, size):
        super().__init__()
        self.size = (size, size) if isinstance(size, int) else tuple(size)

    def forward(self, x: Tensor) -> Tensor:
        down, across = (
            mean_weights(count, length, x)
            for count, length in zip(self.size, x.shape[2:], strict=True)
        )
        return down @ x @ across.T


def mean_weights(count: int, length, like: Tensor) -> Tensor:
    """(count, length): row i takes the mean of the i-th of `count` parts."""
    part, place = counting(count, like)[:, None], counting(length, like)[None]
    first, end = part * length // count, ((part + 1) * length + count - 1) // count
    weights = ((place >= first) & (place < end)).to(like.dtype)
    return weights / weights.sum(1, keepdim=True)


def replace_adaptive_pools(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.AdaptiveAvgPool2d) and child.output_size not in (1, (1, 1)):
            setattr(module, name, AdaptiveMean(child.output_size))
        else:
            replace_adaptive_pools(child)


def onnx_model(
    source: Source, preprocess: bool, result: str, texts: dict[str, str]
) -> tuple[bytes, float]:
    """An ONNX file with free batch, height and width; how far onnxruntime is from torch with it.

    Args:
        texts: kept in the file's metadata.

    Raises:
        UserError: onnx or onnxruntime is not there, or gives other numbers.
    """
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise UserError(
            f"--format onnx: cannot import what it needs ({error}); pip install onnx onnxruntime"
        ) from error
    graph, file = Graph(source, preprocess, result).eval(), io.BytesIO()
    replace_adaptive_pools(graph)
    example = images(source, preprocess, (2, 70, 100))
    free_axes = {0: "batch", 2: "height", 3: "width"}
    if source.net is None:
        outputs = [key for key in BLOCKS if key in source.backbone.keep(source.backbone.channels)]
        axes = {key: {0: "batch", 2: f"{key}_height", 3: f"{key}_width"} for key in outputs}
    else:
        outputs = [result]
        axes = {result: {0: "batch", 1: "height", 2: "width"} if result == "classes" else free_axes}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecation, and sizes that a trace might fix: compared
        traced = torch.jit.trace(graph, (example,), check_trace=False)
        try:
            torch.onnx.export(
                traced, (example,), file, dynamo=False, opset_version=OPSET, input_names=["images"],
                output_names=outputs, dynamic_axes={"images": free_axes} | axes,
            )  # fmt: skip
        except torch.onnx.errors.UnsupportedOperatorError as error:
            raise UserError(
                f"--format onnx: {source.backbone.name} has operations that ONNX {OPSET} lacks "
                f"({str(error).partition(' to ONNX')[0]}); take --format safetensors"
            ) from error
    model = onnx.load_from_string(file.getvalue())
    onnx.helper.set_model_props(model, texts)
    onnx.checker.check_model(model)
    data = model.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])

    def run(x: Tensor) -> list[Tensor]:
        return [torch.from_numpy(np.asarray(y)) for y in session.run(None, {"images": x.numpy()})]

    return data, compare(source, preprocess, result, run)


def compare(
    source: Source, preprocess: bool, result: str, run: Callable[[Tensor], list[Tensor]]
) -> float:
    """The largest difference between `run(images)` and the network itself, over `SIZES`.

    Raises:
        UserError: above 1e-4 (of the largest value, where that is above 1), or more than 1 in
            1000 pixels of another class.
    """
    reference = (source.net or source.backbone) if preprocess else without_normalization(source)
    worst = 0.0
    for size in progress("comparing", SIZES, unit="size"):
        x = images(source, preprocess, size)
        with torch.no_grad():
            unit = x.float() / 255 if preprocess else x
            if source.net is None:
                expected = [maps for _, maps in sorted(reference(unit).items())]
            else:
                expected = [as_result(reference.logits(unit), result)]
            outputs = run(x)
        for target, output in zip(expected, outputs, strict=True):
            if target.shape != output.shape:
                worst = float("inf")
            elif result == "classes" and source.net is not None:
                worst = max(worst, float((target != output).float().mean()) * TOLERANCE / 1e-3)
            else:
                scale = max(1.0, float(target.abs().max()))
                worst = max(worst, float((target - output).abs().max()) / scale)
    if not worst <= TOLERANCE:
        raise UserError(
            f"--format onnx: gives other numbers than the network (by {worst:.1e} at one of "
            f"{SIZES}); nothing is written"
        )
    return worst


def as_result(logits: Tensor, result: str) -> Tensor:
    if result == "classes":
        return logits.argmax(1).to(torch.uint8)
    return logits.softmax(1) if result == "probabilities" else logits


def images(source: Source, preprocess: bool, size: tuple[int, int, int]) -> Tensor:
    """Drawn images of `size` (N, H, W), uint8 or float, the same on every call."""
    batch, height, width = size
    shape = (batch, source.backbone.in_channels, height, width)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    return pixels if preprocess else pixels.float() / 255
