"""How much each task pulls at the backbone, and whether the tasks pull the same way."""

import contextlib
from collections.abc import Iterator
from itertools import combinations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextlib.contextmanager
def unchanged(net: nn.Module) -> Iterator[None]:
    """Whatever the block does to modes and buffers of `net`, they are after it as they were."""
    modes = [(module, module.training) for module in net.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in net.buffers()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        with torch.no_grad():
            for buffer, values in buffers:
                buffer.copy_(values)


def task_gradients(net: nn.Module, batch: dict[str, Tensor]) -> dict[str, float]:
    """Norms of the gradients that each of the losses of `net(batch)` gives `net.backbone`.

    `gradient_norm_TASK` for each, `gradient_cosine_ONE_OTHER` for each two: -1 where they undo each
    other, 0 where they have nothing to do with each other. A task without a gradient (of weight 0,
    say) has norm 0 and no cosine; a backbone that is frozen gives no figures.

    Batch normalization uses the statistics of the batch, as in training (synchronized over
    processes it uses the running ones, as the others are not asked), dropout is left out, so that
    nothing is drawn. Weights, their `.grad`, statistics and generators stay as they are.
    """
    weights = [weight for weight in net.backbone.parameters() if weight.requires_grad]
    if not weights:
        return {}
    with unchanged(net):
        net.eval()
        for module in net.modules():
            if isinstance(module, _BatchNorm) and not isinstance(module, nn.SyncBatchNorm):
                module.train()
        with torch.enable_grad():
            losses = net(batch)
        device = next(iter(losses.values())).device.type
        with torch.autocast(device, enabled=False):
            gradients = {
                task: torch.autograd.grad(loss, weights, retain_graph=True, materialize_grads=True)
                for task, loss in losses.items()
                if loss.requires_grad
            }
    pairs = [*((task, task) for task in gradients), *combinations(gradients, 2)]
    if not pairs:
        return {}
    dots = torch.stack([products(gradients[first], gradients[second]) for first, second in pairs])
    dots = dots.cpu().double().sum(1)  # there, as MPS has no float64
    figures, norms = {}, {}
    for (first, second), value in zip(pairs, dots.tolist(), strict=True):
        if first == second:
            figures[f"gradient_norm_{first}"] = norms[first] = value**0.5
        elif norms[first] and norms[second]:
            figures[f"gradient_cosine_{first}_{second}"] = value / (norms[first] * norms[second])
    return figures


def products(first: tuple[Tensor, ...], second: tuple[Tensor, ...]) -> Tensor:
    """Scalar products, weight by weight, of gradients of the same weights."""
    return torch.stack([(a.float() * b.float()).sum() for a, b in zip(first, second, strict=True)])
