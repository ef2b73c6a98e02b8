"""3x3 convolutions whose gradient is quick on maps of a few pixels, on CPUs.

Of a map of 1 x 1 to 8 x 8 pixels, as a ResNet has them of tiles of 32 and 64, oneDNN takes up to
ten times as long for the gradient of the weights as for the convolution. One product of matrices is
the same sum, but for the order in which it is added up.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MOST_PIXELS = 64  # of a map; on larger ones oneDNN is as quick


class Conv2d(nn.Conv2d):
    """`nn.Conv2d`, the same numbers, weights and names."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not is_slow(self, x):
            return super()._conv_forward(x, weight, bias)
        x = TinyConvolution.apply(x, weight, self.stride, self.padding)
        return x if bias is None else x + bias.view(1, -1, 1, 1)


def is_slow(conv: nn.Conv2d, x: Tensor) -> bool:
    """Whether the gradient of `conv` at `x` is one that oneDNN is slow at."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.shape[2] * x.shape[3] <= MOST_PIXELS
        and conv.weight.requires_grad
        and torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not (torch.compiler.is_compiling() or torch.jit.is_tracing())
        and conv.kernel_size == (3, 3)
        and conv.dilation == (1, 1)
        and conv.groups == 1
        and conv.padding_mode == "zeros"
        and not isinstance(conv.padding, str)
    )


def quicken(module: nn.Module) -> None:
    """Make each 3x3 convolution of `module` one of this file; its weights stay as they are."""
    for part in module.modules():
        if type(part) is nn.Conv2d and part.kernel_size == (3, 3):
            part.__class__ = Conv2d


class TinyConvolution(torch.autograd.Function):
    """`F.conv2d(x, weight, stride, padding)` of a 3x3 kernel, with gradients by one product."""

    @staticmethod
    def forward(ctx, x, weight, stride, padding):
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight, stride=stride, padding=padding)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        of_x = of_weight = None
        if ctx.needs_input_grad[0]:
            place = ctx.stride, ctx.padding, (1, 1)
            of_x = torch.nn.grad.conv2d_input(x.shape, weight, gradient, *place)
        if ctx.needs_input_grad[1]:
            of_weight = weight_gradient(x, gradient, ctx.stride, ctx.padding)
        return of_x, of_weight, None, None


def weight_gradient(
    x: Tensor, gradient: Tensor, stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    """Of a 3x3 kernel (D, C, 3, 3), where `gradient` (N, D, h, w) is that of the result at `x` (N,
    C, H, W): of each tap the pixels that it meets, as rows, and one product for all taps."""
    rows, columns = (
        [k for k in range(3) if any(0 <= k + step * i - edge < side for i in range(count))]
        for step, edge, side, count in zip(
            stride, padding, x.shape[2:], gradient.shape[2:], strict=True
        )
    )  # on a map of one pixel only the middle of the kernel meets anything but padding
    (down, right), (top, left), (height, width) = stride, padding, gradient.shape[2:]
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, left, left, top, top))
    met = [
        padded[:, i : i + down * (height - 1) + 1 : down, j : j + right * (width - 1) + 1 : right]
        for i in rows
        for j in columns
    ]
    pixels = torch.cat(met, dim=3).flatten(0, 2)  # (N h w, taps C)
    product = gradient.permute(1, 0, 2, 3).flatten(1) @ pixels
    result = product.new_zeros(len(product), 3, 3, x.shape[1])
    shape = len(product), len(rows), len(columns), x.shape[1]
    result[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = product.view(shape)
    return result.permute(0, 3, 1, 2)
