"""What the commands share: flags, settings, the run's card."""

import argparse
import json
import platform
import shlex
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

from SSLRemoteSensing.config import load_config
from SSLRemoteSensing.writing import write_text

PACKAGES = ("torch", "torchvision", "numpy", "opencv-python-headless")


def parser(description: str) -> argparse.ArgumentParser:
    """The flags that both commands take."""
    flags = config_parser(description)
    flags.add_argument(
        "--dry_run", action="store_true", help="build all, run and describe one step, write nothing"
    )
    return flags


def config_parser(description: str) -> argparse.ArgumentParser:
    """The flags that choose a config, for `settings`."""
    flags = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("--config_file", required=True, help="a Python file of configs/")
    flags.add_argument("--checkpoints_path", help="in place of the config's")
    flags.add_argument("--log_path", help="in place of the config's")
    flags.add_argument(
        "--set",
        action="append",
        nargs="+",
        default=[],
        metavar="A.B.C=VALUE",
        help="override any key; VALUE is a Python literal or else a string",
    )
    return flags


def settings(args: argparse.Namespace) -> dict:
    """The config that the flags of `config_parser` ask for."""
    overrides = [text for group in args.set for text in group]
    if args.checkpoints_path:
        overrides.append(f"train_cfg.checkpoints.checkpoints_path={args.checkpoints_path}")
    if args.log_path:
        overrides.append(f"train_cfg.log.log_path={args.log_path}")
    return load_config(args.config_file, overrides)


def write_run_card(config: dict) -> None:
    """Add what makes this run to `run.json`: config, versions, command, processes, device."""
    from SSLRemoteSensing.distributed import size  # loads torch, as device_name does

    path = Path(config["train_cfg"]["checkpoints"]["checkpoints_path"]) / "run.json"
    try:
        runs = json.loads(path.read_text())["runs"]
    except (OSError, ValueError, KeyError, TypeError):
        runs = []
    runs.append(
        {
            "started": time.strftime("%Y-%m-%d %H:%M:%S %z"),
            "command": shlex.join(sys.argv),
            "versions": versions(),
            "device": device_name(),
            "processes": size(),
            "config": config,
        }
    )
    write_text(path, json.dumps({"runs": runs}, indent=2, default=str) + "\n")


def versions() -> dict[str, str | None]:
    """Versions of Python, this code (with its commit in a checkout) and what it computes with."""
    root = Path(__file__).resolve().parents[1]  # installed elsewhere, it has no .git
    command = ["git", "-C", str(root), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        commit = done.stdout.strip() if (root / ".git").exists() else None
    except (OSError, subprocess.CalledProcessError):
        commit = None
    found = {"python": platform.python_version(), "commit": commit}
    for name in ("SSLRemoteSensing", *PACKAGES):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def device_name() -> str:
    """The machine's processor, and its GPU where there is one."""
    import torch  # here, so that tools which only read images start without it

    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [
            line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        name = models[0].partition(":")[2].strip() if models else name
    name = f"{name}, {torch.get_num_threads()} threads"
    if torch.cuda.is_available():
        name = f"{torch.cuda.get_device_name()} ({name})"
    return name
