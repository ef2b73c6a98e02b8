"""Checkpoints as commit fda07bf wrote them, to be gone on from, mapped with and scored for ever.

No code of the package writes here: names, types and order of what a file holds, and its checksum,
are copied. The package gives the network, and the first steps' batches, as weights and moments must
come from somewhere and may not be kept in the repository; the steps themselves are plain torch.

That it is what that commit wrote was checked there. A run of `train.py` on the same config was
copied after steps 4 and 5, and `best.pth` of `finetune_seg.py`: `structure` of the files was equal
at every depth, and is kept in expected/version1.json, which nothing writes anew; all tensors of
weights, moments, history and generators were equal bit by bit; the commit read the files with
`run_folder.read` and `checkpoint.read(sealed=True)`, and ended the run with the weights of one that
was never interrupted.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from SSLRemoteSensing import build_pretext, build_segmentation
from SSLRemoteSensing.data.pretext import PretextDataset, PretextSettings, collate

VERSIONS = {
    "python": "3.11.7",
    "commit": "fda07bf",
    "SSLRemoteSensing": "0.1.0",
    "torch": "2.14.1",
    "torchvision": "0.29.1",
    "numpy": "2.4.6",
    "opencv-python-headless": "5.0.0.93",
}
PER_EPOCH = 4  # steps of runs.pretraining_config
IMAGES = 16
LOG_STEP = 3
RATE = 0.0001


def seal(contents: dict) -> str:
    """The checksum of a version-1 file."""
    digest, waiting = hashlib.blake2b(digest_size=16), [contents]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor):
            digest.update(f"{value.dtype} {tuple(value.shape)} {value.requires_grad}".encode())
            plain = value.detach().cpu().contiguous().flatten()
            digest.update(plain.view(torch.uint8).numpy())
        elif isinstance(value, dict):
            digest.update(f"dict {len(value)}".encode())
            waiting += [part for pair in value.items() for part in pair]
        elif isinstance(value, list | tuple):
            digest.update(f"list {len(value)}".encode())
            waiting += value
        else:
            digest.update(repr(value).encode())
    return digest.hexdigest()


def write(path: Path, contents: dict) -> None:
    torch.save(contents | {"checksum": seal(contents)}, path)


def pretraining_state(config: dict, steps: int) -> dict:
    """All that going on needs after the first `steps` of a run, the checksum apart."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_pretext(config)
        optimizer = torch.optim.Adam([{"params": [*model.parameters()]}], lr=RATE, fused=True)
        dataset = PretextDataset(PretextSettings(**config["train_cfg"]["train_data"]))
        history = {"entries": [], "gradients": [], "counts": [], "skipped": [], "left_out": 0}
        for step in range(1, steps + 1):
            epoch, place = divmod(step - 1, PER_EPOCH)
            order = np.random.default_rng([0, epoch]).permutation(IMAGES)[4 * place : 4 * place + 4]
            batch = collate([dataset[(epoch, int(index))] for index in order])
            optimizer.param_groups[0]["lr"] = RATE * 0.95**epoch
            losses, norm, counts = train(model, optimizer, batch)
            history["entries"].append((step, batch["index"], losses))
            history["gradients"].append((step, norm))
            history["counts"].append((step, counts))
            if step % LOG_STEP == 0:  # the log has taken what there was
                history |= {"entries": [], "gradients": [], "counts": []}
        generator = torch.get_rng_state()
    epoch, place = divmod(steps, PER_EPOCH)
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": steps,
        "epoch": epoch,
        "offset": 4 * place,
        "per_step": 4,
        "best": None,
        "images": IMAGES,
        "pending": False,
        "processes": [{"random": {"cpu": generator, "cuda": None}, "history": history}],
        "card": pretraining_card(config),
    }


def train(model: nn.Module, optimizer: torch.optim.Optimizer, batch: dict) -> tuple:
    """A step. What the log says of it: losses, norm of the gradient and counts."""
    tensors = {key: value for key, value in batch.items() if isinstance(value, Tensor)}
    images = {key: value.contiguous() for key, value in tensors.items() if value.ndim == 4}
    model.train()
    losses = model({key: value for key, value in (tensors | images).items() if key != "index"})
    sum(losses.values()).backward()
    norm = nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    losses = {name: loss.detach().clone() for name, loss in losses.items()}
    counts = {name: count.clone() for name, count in model.counted.items()}
    optimizer.step()
    optimizer.zero_grad()
    return losses, norm, counts


def pretraining_card(config: dict) -> dict:
    return {
        "name": "resnet18",
        "in_channels": 3,
        "mean": None,
        "std": None,
        "bands": [1, 2, 3],
        "band_names": None,
        "prepared": False,
        "dataset": None,
        "max_value": None,
        "img_size": 64,
        "config": json.loads(json.dumps(config)),
        "versions": VERSIONS,
    }


def write_run(folder: Path, config: dict, steps: int, entries: list[dict], name: str) -> Path:
    """The folder of a run that was stopped after `steps`, with a checkpoint of that name, which it
    gives; of the `entries` of metrics.jsonl those until `steps` were written."""
    (folder / "log").mkdir(parents=True)
    write(folder / name, pretraining_state(config, steps))
    written = [json.dumps(entry) + "\n" for entry in entries if entry["step"] <= steps]
    (folder / "log/metrics.jsonl").write_text("".join(written))
    run = {
        "started": "2026-11-29 08:33:18 +0000",
        "command": "train.py --config_file cfg.py",
        "versions": VERSIONS,
        "device": "AMD EPYC, 1 threads",
        "processes": 1,
        "config": config,
    }
    (folder / "run.json").write_text(json.dumps({"runs": [run]}, indent=2) + "\n")
    return folder / name


def write_best(path: Path, config: dict, images: Tensor) -> None:
    """best.pth of a fine-tuning: a network that was not trained, but tells dark from bright.

    Args:
        images: uint8 (N, 3, H, W); both classes are given to half of their pixels.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = build_segmentation(config)
        for norm in model.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.momentum = None
        model.train().logits(images)  # the statistics of batch normalization
        logits = model.eval().logits(images)
        bias = [*model.decoder.parameters()][-1]
        bias[1] -= (logits[:, 1] - logits[:, 0]).median()
    card = {
        "name": "resnet18",
        "in_channels": 3,
        "mean": None,
        "std": None,
        "classes": list(config["classes"]),
        "config": json.loads(json.dumps(config)),
        "palette": [[120, 160, 90], [200, 60, 50]],
        "train_tiles": {"used": 24, "of": 27},
        "label_table": [0, 1, *[-1] * 253, 255],
        "max_value": None,
        "label_shares": {"tiles": 24, "shares": [0.79, 0.21]},
        "bands": [1, 2, 3],
        "band_names": ["band 1", "band 2", "band 3"],
        "prepared": True,
        "dataset": None,
        "dtype": "uint8",
    }
    write(path, {"model": model.state_dict(), "step": 8, "card": card})


def structure(value):
    """Keys, types and shapes at every depth; of a config, and of what torch's release keeps of an
    optimizer's settings, only that it is there."""
    if isinstance(value, Tensor):
        return f"{value.dtype} {tuple(value.shape)}"
    if isinstance(value, dict):
        return {
            str(key): key if key in ("config", "param_groups") else structure(entry)
            for key, entry in value.items()
        }
    if isinstance(value, list | tuple):
        kinds = [structure(entry) for entry in value]
        short = kinds[:1] if kinds and all(kind == kinds[0] for kind in kinds) else kinds
        return [type(value).__name__, *short]
    return type(value).__name__
