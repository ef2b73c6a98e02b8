"""One training step: device, processes, precision, memory format, compilation, gradient, update."""

import contextlib
import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from SSLRemoteSensing.core import checkpoints, distributed, machine
from SSLRemoteSensing.core.batch_norm import synchronized
from SSLRemoteSensing.core.config import build
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.core.machine import choose_device, choose_precision, keep_freed_memory
from SSLRemoteSensing.training.meters import STOPPED
from SSLRemoteSensing.training.schedules import OPTIMIZERS
from SSLRemoteSensing.training.settings import LoopSettings

CUDA_GRAPHS = ("reduce-overhead", "max-autotune")  # modes of torch.compile


class TrainStep:
    """`model` on its device with an optimizer: forward, backward and update, without a wait for it;
    a `UserError` for settings that cannot be had.

    With several processes the gradient is the mean over them. `sync_bn` alone makes the CPU wait
    for the GPU, in each of its layers. `param_groups` are as torch's optimizers take them, with
    `lr_factor` besides.
    """

    def __init__(
        self, model: nn.Module, settings: LoopSettings, param_groups: list[dict] | None = None
    ):
        self.settings = settings
        self.device, compile = choose_device(settings.device), settings.compile
        is_cuda, is_distributed = self.device.type == "cuda", distributed.size() > 1
        if is_cuda and settings.accumulate_steps > 1 and compile in CUDA_GRAPHS:
            raise UserError(
                f"train_cfg.compile={compile!r}: its CUDA graphs cannot add up the gradients of "
                f"accumulate_steps={settings.accumulate_steps}; set compile=True"
            )
        self.precision = choose_precision(settings.precision, self.device)
        self.clip_grad_norm, last = settings.clip_grad_norm, settings.channels_last
        self.memory_format = torch.channels_last if last else torch.contiguous_format
        if is_cuda:
            torch.backends.cudnn.benchmark = True  # training's batches are all of one size
        if self.device.type == "cpu":
            keep_freed_memory()
        if settings.sync_bn and is_distributed:
            if not is_cuda:
                raise UserError("train_cfg.sync_bn=True: torch has it for GPUs only; leave it out")
            model = synchronized(model)
        self.model = model.to(self.device, memory_format=self.memory_format)
        # Compiled and distributed modules share the weights; the plain one keeps the plain names
        # for checkpoints.
        self.net, self.unsynced = self.model, contextlib.nullcontext
        if is_distributed:
            ids = [self.device] if is_cuda else None
            self.net = DistributedDataParallel(self.model, ids, gradient_as_bucket_view=True)
            self.unsynced = self.net.no_sync
            if compile:
                distributed.keep_out_of_graphs()
        mode = compile if isinstance(compile, str) else None
        try:
            self.net = torch.compile(self.net, mode=mode) if compile else self.net
        except RuntimeError as error:
            raise UserError(f"train_cfg.compile={compile!r}: {error}") from error
        groups = param_groups or [{"params": [p for p in model.parameters() if p.requires_grad]}]
        self.factors = [group.get("lr_factor", 1.0) for group in groups]
        params = [{k: v for k, v in group.items() if k != "lr_factor"} for group in groups]
        optimizer, key = with_fused(settings.optimizer), "train_cfg.optimizer"
        try:
            self.optimizer = build(OPTIMIZERS, optimizer, key, {"params": params})
        except UserError:
            raise
        except (TypeError, ValueError, RuntimeError) as error:  # torch's checks of its parameters
            raise UserError(f"{key}: {error}") from error
        self.base_lr = self.optimizer.defaults["lr"]

    def to_device(self, batch: dict) -> dict[str, Tensor]:
        """The batch's tensors on the device; images in the memory format of the weights."""
        moved = {}
        for key, value in batch.items():
            if isinstance(value, Tensor) and key != "index":
                moved[key] = value.to(self.device, non_blocking=True)
                if value.ndim == 4:
                    moved[key] = moved[key].contiguous(memory_format=self.memory_format)
        return moved

    def ahead(self, batches: Iterable[dict]) -> Iterator[dict]:
        """`batches` with their tensors on the device, copied there while the GPU works: each is
        fetched and its copy begun before the one before it is handed out."""
        if self.device.type != "cuda":
            yield from batches
            return
        stream, before = torch.cuda.Stream(self.device), None
        for batch in itertools.chain(batches, [None]):
            if batch is not None:
                with torch.cuda.stream(stream):
                    moved = self.to_device(batch)
                    begun = batch, moved, stream.record_event()
            if before is not None:
                batch_before, tensors, copied = before
                now = torch.cuda.current_stream(self.device)
                now.wait_event(copied)  # the stream waits, not the CPU
                for value in tensors.values():  # their memory is not free before it is done
                    value.record_stream(now)
                yield batch_before | tensors
            before = begun if batch is not None else None

    def autocast(self) -> torch.autocast:
        enabled = self.precision == "bf16"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=enabled)

    def observe(self, watch: Callable, *args):
        """`watch(*args)` in the precision of training, by the first process alone: nothing in it is
        put together with the others."""
        with distributed.alone(), self.autocast():
            return watch(*args)

    def forward_backward(
        self, batch: dict, share: float = 1.0, is_last: bool = True
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Add the gradient of `share` times the losses of `batch`; return the losses, detached, and
        what the network counted besides. With the last batch of an update the processes put their
        gradients together."""
        self.model.train()
        syncs = contextlib.nullcontext() if is_last else self.unsynced()
        with syncs, explained(self.settings):
            with self.autocast():
                losses = self.net(self.to_device(batch))
            (sum(losses.values()) * share).backward()
        # Cloned, as the memory of a CUDA graph's results is the next step's.
        detached = {name: loss.detach().clone() for name, loss in losses.items()}
        counts = {name: count.clone() for name, count in getattr(self.model, "counted", {}).items()}
        if counts:
            self.model.counted = {}  # a CUDA graph's results must not be held over its next run
        return detached, counts

    def gradient_norm(self) -> Tensor:
        """The norm of the whole gradient, left on the device; the same in all processes."""
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        return nn.utils.get_total_norm(gradients)

    def update(self, norm: Tensor | None = None) -> None:
        """Change the weights by the gradient gathered, clipped where `norm` is too large."""
        if self.clip_grad_norm is not None:
            norm = self.gradient_norm() if norm is None else norm
            nn.utils.clip_grads_with_norm_(self.model.parameters(), self.clip_grad_norm, norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def statistics(self) -> list[Tensor]:
        """A copy of the buffers, as the statistics of batch normalization."""
        return [buffer.clone() for buffer in self.model.buffers()]

    def undo(self, statistics: list[Tensor]) -> None:
        """Forget the gradient, and give the buffers back what `statistics` kept of them."""
        self.optimizer.zero_grad(set_to_none=True)
        for buffer, value in zip(self.model.buffers(), statistics, strict=True):
            buffer.copy_(value)

    def set_lr(self, factor: float) -> None:
        """Learning rate = the config's times `factor` times the group's `lr_factor`."""
        for group, own in zip(self.optimizer.param_groups, self.factors, strict=True):
            group["lr"] = self.base_lr * factor * own

    def lr(self) -> float:
        return self.optimizer.param_groups[-1]["lr"]

    def require_finite(self, step: int) -> None:
        """Raise a `UserError` if a weight or statistic is not finite; waits for the device."""
        values = [v for v in self.model.state_dict().values() if v.is_floating_point()]
        if not torch.stack([value.isfinite().all() for value in values]).all():
            raise UserError(f"step {step}: weights are not finite; {STOPPED}")

    def state_dict(self) -> dict:
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict, source: str | Path) -> None:
        groups = self.optimizer.param_groups
        ours = [{k: v for k, v in group.items() if k != "params"} for group in groups]
        checkpoints.check_finite(state["model"], source)
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"{source}: is of another network or optimizer than the config's ({reason}); "
                f"set another checkpoints_path (--output) or the old config"
            ) from error
        for group, settings in zip(self.optimizer.param_groups, ours, strict=True):
            # The moments are the checkpoint's; rate, decay and the like are the config's.
            group.update(settings)
            for weight in group["params"]:
                lay_out_moments(self.optimizer.state[weight], weight, group)

    def describe(self) -> str:
        device = str(self.device)
        if self.device.type == "cuda":
            device += f" ({machine.gpu_name(self.device)})"
        number = sum(p.numel() for p in self.model.parameters())
        processes = f", {distributed.size()} processes" if distributed.size() > 1 else ""
        return f"{number:,} parameters, device {device}, {self.precision}{processes}"


def named_memory(settings: LoopSettings) -> contextlib.AbstractContextManager[None]:
    """Raises a `UserError` where training by `settings`, in the block, finds its device's memory
    full."""
    size, count = settings.batch_size, settings.accumulate_steps
    remedy = "take smaller images, or a smaller network"
    if size >= 6:  # of 3 images every task can still learn
        remedy = (
            f"halve it: the same command with --set train_cfg.batch_size={size // 2} "
            f"train_cfg.accumulate_steps={2 * count}, or with half the global_batch_size"
        )
    return machine.enough_memory(f"train_cfg.batch_size={size}: a step", remedy)


def lay_out_moments(state: dict, weight: Tensor, group: dict) -> None:
    """Lay out what an optimizer remembers of a weight as the weight itself is: fused kernels go
    through both in memory's order, and would pair values of different places where a checkpoint was
    written in another memory format. They count steps on the device."""
    on_device = group.get("fused") or group.get("capturable")
    for key, value in state.items():
        if isinstance(value, Tensor) and value.shape == weight.shape:
            state[key] = torch.empty_like(weight, dtype=value.dtype).copy_(value)
        elif isinstance(value, Tensor):
            state[key] = value.to(weight.device if on_device else "cpu")


def with_fused(optimizer: dict) -> dict:
    """`optimizer` with torch's fused update, unless it asks for another one: one kernel for all
    weights on a GPU; on a CPU a vectorised loop in place of one a weight."""
    owner = OPTIMIZERS.get(optimizer.get("name"))
    others = {"fused", "foreach", "capturable", "differentiable"} & optimizer.keys()
    if owner is None or others or "fused" not in inspect.signature(owner).parameters:
        return optimizer
    return optimizer | {"fused": True}


@contextlib.contextmanager
def explained(settings: LoopSettings) -> Iterator[None]:
    """Raise a `UserError` that names the key for what a step cannot do with `settings`."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise UserError(
            "train_cfg.batch_size: batch normalization has a single value a channel; set a larger "
            "batch_size, or larger images"
        ) from error
    except RuntimeError as error:  # torch.compile compiles where the network is first called
        if "Expected to have finished reduction in the prior iteration" in str(error):
            raise UserError(
                "torchrun: some weights of the network are in no loss, as no head reads the maps "
                "that they make; train in one process, or give a head that reads all maps "
                "(inpainting_head_cfg)"
            ) from error
        if not type(error).__module__.startswith(("torch._dynamo.", "torch._inductor.")):
            raise
        text = str(error).partition("Set TORCHDYNAMO_VERBOSE")[0]  # advice to its developers
        reason = " ".join(text.split())[:200]
        raise UserError(
            f"train_cfg.compile={settings.compile!r}: the network cannot be compiled here "
            f"({reason}); leave it out"
        ) from error
