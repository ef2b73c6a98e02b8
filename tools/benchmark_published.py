"""The part of benchmark.py that compares with fp32, with what was published, with bare products."""

import contextlib
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from benchmark_ceilings import matmul_precision
from benchmark_loop import free_memory
from benchmark_steps import base_setting, build_step, run_step
from benchmark_timing import in_turn, say
from torch import Tensor, nn

from SSLRemoteSensing.models.losses import ExamplarLoss


class PublishedExemplarLoss(nn.Module):
    """The contrastive loss in the published way: similarities of a (2N, 2N, D) broadcast.

    Equal to `ExamplarLoss()`, with 2N x 2N x D values in memory; temperature 1, own similarity 0.
    """

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """first, second: embeddings (N, D) of the two views."""
        n = len(first)
        z = torch.cat([first, second]).float()
        similarity = F.cosine_similarity(z[:, None], z[None], dim=2)
        itself = torch.eye(2 * n, dtype=torch.bool, device=z.device)
        positive = torch.arange(2 * n, device=z.device).roll(n)
        return F.cross_entropy(similarity.masked_fill(itself, 0.0), positive)


def compare_with_fp32(
    config: dict, device: torch.device, batch: dict, run_fast: Callable[[], None], count: int
) -> dict:
    """Seconds of the fp32 and of the published step, each in turn with the fast one."""
    say("the fp32 step")
    slow_s, fast_s = in_turn([fp32_step(config, device, batch), run_fast], device, count)
    free_memory(device)
    say("the published step")
    published = fp32_step(config, device, batch, published=True)
    published_s, beside_s = in_turn([published, run_fast], device, count)
    return {
        "fp32_step_s": slow_s,
        "fast_step_s": fast_s,
        "speedup_over_fp32": slow_s / fast_s,
        "published_step_s": published_s,
        "fast_beside_published_step_s": beside_s,
        "speedup_over_published": published_s / beside_s,
    }


def fp32_step(
    config: dict, device: torch.device, batch: dict, published: bool = False
) -> Callable[[], None]:
    """A step in fp32 and contiguous memory under PyTorch's own settings of the device.

    These are: cuDNN's algorithms by its rules, not tried out, and TF32 in convolutions alone. Both
    steps have them, as cuDNN keeps what it once chose for a convolution, tried out or not.

    Args:
        published: as the published method would run it: its contrastive loss, no fused optimizer.
    """
    setting = base_setting("fp32", len(batch["index"])) | {"channels_last": False}
    step = build_step(config, device, setting | ({"fused": False} if published else {}))
    if published:
        step.model.losses["exemplar"] = PublishedExemplarLoss()

    def run() -> None:
        with torch_defaults():
            run_step(step, batch)

    return run


@contextlib.contextmanager
def torch_defaults() -> Iterator[None]:
    """PyTorch's own settings of cuDNN's benchmark mode and of matrix products, whatever is set."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = False
    try:
        with matmul_precision("highest"):
            yield
    finally:
        torch.backends.cudnn.benchmark = before


def measure_contrastive(
    device: torch.device, embeddings: int, count: int, length: int = 512
) -> dict:
    """ExamplarLoss, forward and backward, over its three matrix products alone, taken in turn.

    Of R = `embeddings` rows z of `length` numbers, half of them a view each, the products counted
    are z z^T of the forward pass and the two of its backward pass, G z and z^T G with the gradient
    G (R, R) of the similarities: 6 R^2 `length` operations. All in fp32, as the loss computes.
    """
    generator = torch.Generator().manual_seed(0)
    first, second = (
        torch.randn(embeddings // 2, length, generator=generator).to(device).requires_grad_()
        for _ in range(2)
    )
    loss = ExamplarLoss()
    z = F.normalize(torch.cat([first, second]).detach(), dim=1)
    gradient = torch.randn(len(z), len(z), generator=generator).to(device)

    def run_loss() -> None:
        first.grad = second.grad = None
        loss(first, second).backward()

    def run_products() -> None:
        z @ z.T
        gradient @ z
        z.T @ gradient

    loss_s, products_s = in_turn([run_loss, run_products], device, count)
    return {
        "contrastive_embeddings": len(z),
        "contrastive_s": loss_s,
        "contrastive_matmul_s": products_s,
        "contrastive_over_matmul": loss_s / products_s,
    }
