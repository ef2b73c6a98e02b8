"""A backbone or a network as one ONNX graph, for images of any number and size.

It comes of a trace, or, where a trace cannot carry the network, of `torch.export`, which takes half
a minute where a trace takes two seconds. A trace fails where ONNX 17 lacks an operator (position
embeddings of plain ViTs are resampled by one) or where it fixes a size (MobileViT).
"""

import copy
import io
import math
import re
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from SSLRemoteSensing.core.bars import progress
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.export.layouts import (
    TOLERANCE,
    largest_difference,
    without_normalization,
)
from SSLRemoteSensing.export.source import Source
from SSLRemoteSensing.models.backbones import BLOCKS
from SSLRemoteSensing.models.segmentation import STRIDE
from SSLRemoteSensing.models.timm_backbones import TimmBackbone

if TYPE_CHECKING:
    from onnx import ModelProto

OPSET, EXPORTED_OPSET = 17, 18  # of a trace, and of torch.export, whose least it is
ROUNDING = 10  # times its own by which a graph may differ, where that is above the tolerance
MISSING = {"aten::_upsample_bicubic2d_aa"}  # operators that no ONNX comes of by a trace
AXES = {0: "batch", 2: "height", 3: "width"}  # of images that are free
# Batch, height and width of the images that an export is compared on.
SIZES = ((1, 64, 96), (3, 45, 70), (2, 97, 33), (3, 20, 32))
WHOLE_SIZES = ((1, 64, 96), (3, 32, 64), (2, 96, 32))  # of a backbone that takes no others


class Graph(nn.Module):
    """What is exported: images (N, C, H, W) to the maps of a backbone, or to (N, K, H, W).

    Args:
        preprocess: images are uint8, and scaling to 0..1, mean and std are part of the graph. Else
            they are float, and all that is done already.
        result: of a network: logits, probabilities, or classes, uint8 (N, H, W).
    """

    def __init__(self, source: Source, preprocess: bool, result: str):
        super().__init__()
        # A copy: its pools will be replaced, and `source` is what the graph is compared with.
        if preprocess:
            module = copy.deepcopy(source.net or source.backbone)
        else:
            module = without_normalization(source)
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


class RollsByIndex(TorchFunctionMode):
    """Within it torch.roll takes rows by their index: the ONNX of a roll is two slices, which give
    the map back as it was where it is shorter than the shift (shifted windows of small maps)."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in (torch.roll, Tensor.roll):
            return roll(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))


def roll(x: Tensor, shifts, dims=()) -> Tensor:
    """torch.roll, by index along each of `dims`."""
    if dims == ():
        return torch.roll(x, shifts)
    shifts, dims = ((value,) if isinstance(value, int) else value for value in (shifts, dims))
    for shift, dim in zip(shifts, dims, strict=True):
        places = counting(x.shape[dim], x)
        x = x.index_select(dim, (places - shift) % (places[-1:] + 1))
    return x


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
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, RuntimeException

    refusals = (Fail, InvalidArgument, RuntimeException)  # of a graph that does not run

    def compared(model: "ModelProto") -> tuple[bytes, float]:
        onnx.helper.set_model_props(model, texts)
        onnx.checker.check_model(model)
        data = model.SerializeToString()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what it cannot run is told once, here
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])

        def run(x: Tensor) -> list[Tensor]:
            outputs = session.run(None, {"images": x.numpy()})
            return [torch.from_numpy(np.asarray(y)) for y in outputs]

        return data, compare(source, preprocess, result, run)

    graph = Graph(source, preprocess, result).eval()
    replace_adaptive_pools(graph)
    side = source.backbone.fixed_size
    size = (2, side, side) if side else (2, 64, 96) if takes_strides(source) else (2, 70, 100)
    example = images(source, preprocess, size)
    if source.net is None:
        outputs = [key for key in BLOCKS if key in source.backbone.keep(source.backbone.channels)]
    else:
        outputs = [result]
    with torch.no_grad(), RollsByIndex(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecation, and sizes that a trace might fix: compared
        try:
            return compared(traced(graph, example, outputs, side is not None))
        except (torch.onnx.errors.UnsupportedOperatorError, *refusals) as error:
            reason = " ".join(str(error).partition(" to ONNX")[0].split())[:120]
            print(f"no trace of {source.backbone.name} ({reason}): by torch.export, which is slow")
        failures = (torch.onnx.errors.OnnxExporterError, torch._dynamo.exc.UserError, *refusals)
        try:
            return compared(exported(graph, example, outputs, side is not None))
        except failures as error:
            reason = " ".join(str(error).split())[:160]
            raise UserError(
                f"--format onnx: torch cannot write {source.backbone.name} as ONNX ({reason}); "
                f"take --format safetensors"
            ) from error


def traced(graph: Graph, example: Tensor, outputs: list[str], is_fixed: bool) -> "ModelProto":
    """`graph` by a trace at `example`, with a free batch and, unless `is_fixed`, free sizes.

    Raises:
        UnsupportedOperatorError: of torch.onnx: ONNX lacks an operator.
    """
    import onnx

    def free(name: str) -> dict[int, str]:
        if is_fixed:
            return {0: "batch"}
        if name == "classes":
            return {0: "batch", 1: "height", 2: "width"}
        return {0: "batch", 2: f"{name}_height", 3: f"{name}_width"} if name in BLOCKS else AXES

    program, file = torch.jit.trace(graph, (example,), check_trace=False), io.BytesIO()
    for name in {node.kind() for node in program.inlined_graph.nodes()} & MISSING:
        # The exporter would find out as well, and print the whole graph first.
        raise torch.onnx.errors.UnsupportedOperatorError(name, OPSET, None)
    torch.onnx.export(
        program, (example,), file, dynamo=False, opset_version=OPSET, input_names=["images"],
        output_names=outputs, dynamic_axes={name: free(name) for name in ("images", *outputs)},
    )  # fmt: skip
    return onnx.load_from_string(file.getvalue())


def exported(graph: Graph, example: Tensor, outputs: list[str], is_fixed: bool) -> "ModelProto":
    """As `traced`, by `torch.export`.

    Raises:
        OnnxExporterError: of torch.onnx: ONNX lacks an operator.
        torch._dynamo.exc.UserError: the network asks for one size.
        UserError: onnxscript is not there, which torch.onnx needs.
    """
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"--format onnx: no trace carries this network, and torch.export needs what cannot be "
            f"imported ({error}); pip install onnxscript"
        ) from error
    axes = {0: "batch"} if is_fixed else AXES
    shapes = dict.fromkeys(axes, torch.export.Dim.DYNAMIC)
    program = torch.export.export(graph, (example,), dynamic_shapes=(shapes,))
    model = torch.onnx.export(
        program, (example,), dynamo=True, opset_version=EXPORTED_OPSET, input_names=["images"],
        output_names=outputs, verbose=False,
    ).model_proto  # fmt: skip
    dims = model.graph.input[0].type.tensor_type.shape.dim
    names = {dims[axis].dim_param: name for axis, name in axes.items()}
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                text = re.sub(r"\w+", lambda word: names.get(word[0], word[0]), dim.dim_param)
                dim.dim_param = text
        value.ClearField("metadata_props")
    for node in model.graph.node:
        node.ClearField("metadata_props")  # lines of code, with their paths
    return model


def takes_strides(source: Source) -> bool:
    """Whether images must have sides of a multiple of 32, as a plain ViT alone asks for."""
    backbone = source.backbone
    return source.net is None and isinstance(backbone, TimmBackbone) and bool(backbone.pyramid)


def compare(
    source: Source, preprocess: bool, result: str, run: Callable[[Tensor], list[Tensor]]
) -> float:
    """The largest difference between `run(images)` and the network itself, over some sizes.

    Where a network enlarges rounding, no graph can give its numbers: a difference that is no more
    than `ROUNDING` times that of its own float32 to float64 does not count.

    Raises:
        UserError: above 1e-4 (of the largest value, where that is above 1), or more than 1 in
            1000 pixels of another class.
    """
    reference = (source.net or source.backbone) if preprocess else without_normalization(source)
    side, worst = source.backbone.fixed_size, 0.0
    is_classes = result == "classes" and source.net is not None
    sizes = SIZES if source.net else SIZES[:-1]
    if side or takes_strides(source):
        sizes = ((1, side, side), (3, side, side)) if side else WHOLE_SIZES
    for size in progress("comparing", sizes, unit="size"):
        x = images(source, preprocess, size)
        with torch.no_grad():
            unit = x.float() / 255 if preprocess else x
            expected, outputs = answers(reference, unit, result), run(x)
            if is_classes:
                share = float((expected[0] != outputs[0]).float().mean())
                worst = max(worst, share * TOLERANCE / 1e-3)
                continue
            error = largest_difference(expected, outputs)
            if TOLERANCE < error < math.inf:
                exact = answers(copy.deepcopy(reference).double(), unit.double(), result)
                if error <= ROUNDING * largest_difference(exact, expected):
                    continue
        worst = max(worst, error)
    if not worst <= TOLERANCE:
        raise UserError(
            f"--format onnx: gives other numbers than the network (by {worst:.1e} at one of "
            f"{sizes}); nothing is written"
        )
    return worst


def answers(module: nn.Module, images: Tensor, result: str) -> list[Tensor]:
    """What a network says of float images in 0..1, or a backbone's maps, from the finest on."""
    if hasattr(module, "decoder"):
        return [as_result(module.logits(images), result)]
    return [maps for _, maps in sorted(module(images).items())]


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
