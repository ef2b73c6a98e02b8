"""What the run would compute with: versions, device, precision."""

import torch

from SSLRemoteSensing.command import device_name, versions
from SSLRemoteSensing.doctor.report import Section
from SSLRemoteSensing.step import choose_device, has_fast_bf16


def judge_machine(train_cfg: dict, section: Section) -> None:
    """Versions, device and precision of a config's `train_cfg`."""
    section.ok(", ".join(f"{name} {version}" for name, version in versions().items()))
    cuda = f"CUDA {torch.version.cuda}" if torch.version.cuda else "torch without CUDA"
    section.ok(f"{device_name()}; {cuda}, {torch.cuda.device_count()} GPUs to be seen")
    device = section.attempt(choose_device, train_cfg.get("device", "auto"))
    if device is None:
        return
    if device.type == "cpu" and torch.cuda.is_available():
        section.warn("train_cfg.device is the CPU, and there is a GPU; set train_cfg.device=auto")
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        text = f"{device}: {free / 2**30:.1f} of {total / 2**30:.1f} GiB are free"
        (section.ok if free > 0.8 * total else section.warn)(text)
    asked, fast = train_cfg.get("precision", "fp32"), has_fast_bf16(device)
    taken = ("bf16" if fast else "fp32") if asked == "auto" else asked
    section.ok(f"device {device}, precision {asked}" + (f": {taken}" if asked == "auto" else ""))
    if taken == "bf16" and not fast:
        section.warn(f"bf16 is emulated on this {device.type}, very slowly; set precision='auto'")
    if taken == "fp32" and device.type == "cuda" and fast:
        section.warn("this GPU computes faster in bf16; set train_cfg.precision=auto")
