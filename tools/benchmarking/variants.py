"""The fast step beside fp32, the published step and each switch; the loss beside its products."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarking.bench import Bench, run_step
from benchmarking.timing import allocated_bytes, free_memory, in_turn, peak_gib, say, untuned
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.core.machine import has_fast_bf16
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


def measure_published(bench: Bench) -> Iterator[dict]:
    """Seconds of the fp32 and of the published step, each in turn with the fast one.

    Both slow ones are in fp32 and contiguous memory under PyTorch's own settings of the device:
    cuDNN's algorithms by its rules, not tried out, and TF32 in convolutions alone. As published are
    also the contrastive loss, and the optimizer, which is not fused.
    """
    batch, fast = bench.batch(), bench.step()
    plain = {"precision": "fp32", "channels_last": False, "compile": False}
    for name, beside in (("fp32", "fast"), ("published", "fast_beside_published")):
        say(f"the {name} step")
        step = bench.step(plain | ({"fused": False} if name == "published" else {}))
        if name == "published":
            step.model.losses["exemplar"] = PublishedExemplarLoss()
        run_slow = untuned()(partial(run_step, step, batch))
        runs = [run_slow, partial(run_step, fast, batch)]
        slow_s, fast_s = in_turn(runs, bench.device, bench.args.steps)
        yield {f"{name}_step_s": slow_s, f"{beside}_step_s": fast_s}
        yield {f"speedup_over_{name}": slow_s / fast_s}
        del step, runs, run_slow
        free_memory()


def measure_contrastive(bench: Bench) -> Iterator[dict]:
    """ExamplarLoss, forward and backward, over its three matrix products alone, taken in turn.

    Of R = `embeddings` rows z of 512 numbers, half of them a view each, the products counted are
    z z^T of the forward pass and the two of its backward pass, G z and z^T G with the gradient
    G (R, R) of the similarities. All in fp32, as the loss computes.
    """
    say("the contrastive loss")
    rows, device, loss = bench.args.embeddings // 2 * 2, bench.device, ExamplarLoss()
    z = F.normalize(torch.randn(rows, 512, device=device), dim=1)
    views, gradient = z.chunk(2), torch.randn(rows, rows, device=device)
    runs = (
        lambda: loss(*(view.detach().requires_grad_() for view in views)).backward(),
        lambda: (z @ z.T, gradient @ z, z.T @ gradient),
    )
    loss_s, products_s = in_turn(runs, device, bench.args.steps)
    yield {"contrastive_embeddings": rows, "contrastive_s": loss_s}
    yield {"contrastive_matmul_s": products_s, "contrastive_over_matmul": loss_s / products_s}


def measure_switches(bench: Bench) -> Iterator[dict]:
    """Each switch alone, steps on a ready batch taken in turn.

    An entry has `from` and `to`, and either
        images_per_second_ratio: images a second with the switch turned, over the base's of that
            turn, from step_s and base_step_s,
        peak_memory_gib, base_peak_memory_gib: on CUDA, what the step alone allocates at most,
    or `not_measured`, the reason.
    """
    device, others = bench.device, allocated_bytes(bench.device)
    step = bench.step()
    base = bench.settings | {"joint_pass": False}
    base["fused"] = bool(step.optimizer.defaults.get("fused"))
    run_base = partial(run_step, step, bench.batch())
    run_base()
    peak = {}
    if device.type == "cuda":
        peak = {"base_peak_memory_gib": peak_gib(run_base, device, others)}
    turned = {key: not value for key, value in base.items() if isinstance(value, bool)}
    turned["batch_size"] = 2 * base["batch_size"]
    turned["precision"] = "fp32" if base["precision"] == "bf16" else "bf16"
    entries: dict[str, dict] = {}
    for key in bench.args.switches:
        entry = {"from": base[key], "to": turned[key]}
        say(f"switch {key}: {entry['from']} -> {entry['to']}")
        try:
            entry |= compare(bench, {key: entry["to"]}, run_base) | peak
        except (RuntimeError, UserError) as error:  # out of memory, no compiler, not supported
            entry["not_measured"] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        entries = entries | {key: entry}
        yield {"switches": entries}
        if key == "compile":
            torch.compiler.reset()
        free_memory()


def compare(bench: Bench, change: dict, run_base: Callable[[], None]) -> dict:
    """Seconds and peak memory of a step with `change` and of the base's, taken in turn."""
    device, size = bench.device, bench.args.batch_size
    if change.get("precision") == "bf16" and not has_fast_bf16(device):
        raise UserError(f"this {device.type} has no bf16 instructions; emulated, it takes minutes")
    changed_size, others = change.get("batch_size", size), allocated_bytes(device)
    run_changed = partial(run_step, bench.step(change), bench.batch(changed_size))
    run_changed()  # first alone: where it cannot run, it is told at once
    base_s, changed_s = in_turn([run_base, run_changed], device, bench.args.steps)
    ratio = base_s / changed_s * changed_size / size
    figures = {"images_per_second_ratio": ratio, "base_step_s": base_s, "step_s": changed_s}
    if device.type == "cuda":
        figures |= {"peak_memory_gib": peak_gib(run_changed, device, others)}
    return figures
