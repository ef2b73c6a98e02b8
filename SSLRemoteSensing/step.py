"""One training step: device, precision, memory format, compilation, gradient, update."""

import resource
import sys
import time

import torch
from torch import Tensor, nn

from SSLRemoteSensing.config import build
from SSLRemoteSensing.errors import UserError
from SSLRemoteSensing.schedules import OPTIMIZERS


def choose_device(name: str) -> torch.device:
    """'auto' takes CUDA where there is one, else the CPU.

    Raises:
        UserError: a device that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(
            f"train_cfg.device={name!r}: no such device; set auto, cpu or cuda"
        ) from error
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"train_cfg.device={name!r}: not supported; set auto, cpu or cuda")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= count:
        raise UserError(
            f"train_cfg.device={name!r}: this machine has {count} CUDA devices; "
            f"pass --set train_cfg.device=auto (or cpu)"
        )
    return device


def has_fast_bf16(device: torch.device) -> bool:
    """Whether bf16 is done in hardware; elsewhere it is emulated, hundreds of times slower."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def choose_precision(precision: str, device: torch.device) -> str:
    """'fp32' or 'bf16'; 'auto' is bf16 where the hardware has it. Warns where bf16 is emulated."""
    fast = has_fast_bf16(device)
    if precision == "bf16" and not fast:
        print(
            f"warning: train_cfg.precision='bf16' is emulated on this {device.type}, hundreds of "
            f"times "
            f"slower than fp32; set precision='auto'",
            file=sys.stderr,
        )
    return ("bf16" if fast else "fp32") if precision == "auto" else precision


class TrainStep:
    """`model` on its device with an optimizer: forward, backward and update, without waiting for
    it.

    Args:
        optimizer: an entry of `OPTIMIZERS` by `name`, with its parameters.
        precision: 'fp32'; 'bf16' (autocast); 'auto', bf16 where the hardware has it.
        compile: False, True, or a mode of torch.compile.
        param_groups: groups as torch's optimizers take them, with `lr_factor` besides.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: dict,
        device: torch.device,
        precision: str = "fp32",
        channels_last: bool = False,
        compile: bool | str = False,
        clip_grad_norm: float | None = None,
        param_groups: list[dict] | None = None,
    ):
        self.precision = choose_precision(precision, device)
        self.device, self.clip_grad_norm = device, clip_grad_norm
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.model = model.to(device, memory_format=self.memory_format)
        mode = compile if isinstance(compile, str) else None
        # The compiled module shares the weights; the plain one keeps the plain names for
        # checkpoints.
        try:
            self.net = torch.compile(model, mode=mode) if compile else model
        except RuntimeError as error:
            raise UserError(f"train_cfg.compile={compile!r}: {error}") from error
        groups = param_groups or [{"params": [p for p in model.parameters() if p.requires_grad]}]
        self.factors = [group.get("lr_factor", 1.0) for group in groups]
        given = [{k: v for k, v in group.items() if k != "lr_factor"} for group in groups]
        try:
            self.optimizer = build(OPTIMIZERS, optimizer, "train_cfg.optimizer", {"params": given})
        except UserError:
            raise
        except (TypeError, ValueError) as error:  # torch's own checks of its own parameters
            raise UserError(f"train_cfg.optimizer: {error}") from error
        self.base_lr = self.optimizer.defaults["lr"]

    def to_device(self, batch: dict) -> dict[str, Tensor]:
        """The batch's tensors on the device; images in the memory format of the weights."""
        moved = {}
        for key, value in batch.items():
            if isinstance(value, Tensor) and key != "index":
                value = value.to(self.device, non_blocking=True)
                if value.ndim == 4:
                    value = value.contiguous(memory_format=self.memory_format)
                moved[key] = value
        return moved

    def forward(self, batch: dict) -> dict[str, Tensor]:
        enabled = self.precision == "bf16"
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=enabled):
            return self.net(batch)

    def forward_backward(self, batch: dict, share: float = 1.0) -> dict[str, Tensor]:
        """Add the gradient of `share` times the losses of `batch`; return the losses, detached."""
        self.model.train()
        losses = self.forward(self.to_device(batch))
        (sum(losses.values()) * share).backward()
        return {name: loss.detach() for name, loss in losses.items()}

    def update(self) -> None:
        """Change the weights by the gradient gathered, and clear it."""
        if self.clip_grad_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def set_lr(self, factor: float) -> None:
        """Learning rate = the config's times `factor` times the group's `lr_factor`."""
        for group, own in zip(self.optimizer.param_groups, self.factors, strict=True):
            group["lr"] = self.base_lr * factor * own

    def lr(self) -> float:
        return self.optimizer.param_groups[-1]["lr"]

    def finite(self) -> bool:
        """Whether all weights and statistics are finite; waits for the device."""
        values = [v for v in self.model.state_dict().values() if v.is_floating_point()]
        return bool(torch.stack([value.isfinite().all() for value in values]).all())

    def state_dict(self) -> dict:
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict, source: str) -> None:
        try:
            self.model.load_state_dict(state["model"])
            # The moments are the checkpoint's; rate, decay and the like are the config's.
            ours = [
                {k: v for k, v in g.items() if k != "params"} for g in self.optimizer.param_groups
            ]
            self.optimizer.load_state_dict(state["optimizer"])
            for group, settings in zip(self.optimizer.param_groups, ours, strict=True):
                group.update(settings)
        except (RuntimeError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"{source}: is of another network or optimizer than the config's ({reason}); "
                f"set another checkpoints_path or the old config"
            ) from error

    def describe(self) -> str:
        device = str(self.device)
        if self.device.type == "cuda":
            device += f" ({torch.cuda.get_device_name(self.device)})"
        number = sum(p.numel() for p in self.model.parameters())
        return f"{number:,} parameters, device {device}, {self.precision}"

    def rehearse(self, batch: dict, accumulate_steps: int) -> None:
        """Run two steps on `batch`, and say sizes, losses, memory and what the second step took."""
        for key, value in self.to_device(batch).items():
            kind = str(value.dtype).removeprefix("torch.")
            print(f"batch: {key} {tuple(value.shape)} {kind}")
        for _ in range(2):
            start = time.perf_counter()
            for _ in range(accumulate_steps):
                losses = self.forward_backward(batch, 1 / accumulate_steps)
            self.update()
            values = {name: float(loss) for name, loss in losses.items()}
            seconds = time.perf_counter() - start
        print("losses: " + ", ".join(f"{name} {value:.4f}" for name, value in values.items()))
        if self.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self.device)
        else:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(f"one step: {seconds:.3f} s, peak memory {peak / 2**30:.2f} GiB; nothing is written")
