"""Trial: fine-tuning on few labels that learns from the unlabelled tiles too.

    python docs/measurements/unlabelled.py OUT.jsonl mumbai:0.05:0:supervised:400 ...

A cell is SET:SHARE:SEED:METHOD:STEPS; what stands in OUT.jsonl is not run again. The sets are those
of `make few_labels`, the start is runs/few_labels/pretrain/backbone.pth, and scores are of the
validation tiles, after the last step. Methods, each with 8 labelled tiles a step:

supervised  labels alone
pseudo      a network fine-tuned for 200 steps labels all other tiles (mean over four turns and
            flips; of each class the surer 60 % of its pixels), and a new one learns from both, 8
            and 8 tiles a step
frozen      the same, and the first network is a linear probe on the frozen backbone
teacher     a mean teacher (decay 0.99) labels 8 other tiles a step after 150 steps on labels
            alone; thresholds by class as in FreeMatch (Wang et al., ICLR 2023, equations 5 to 8),
            CutMix (French et al., BMVC 2020), no change of colour, batch statistics apart
"""

import copy
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from SSLRemoteSensing import load_config
from SSLRemoteSensing.data.segmentation import SegmentationDataset, TileSettings, collate
from SSLRemoteSensing.models.segmentation import SegmentationNet
from SSLRemoteSensing.training.sampler import KeySampler
from SSLRemoteSensing.training.task import Task
from SSLRemoteSensing.workflows.segmentation import open_network, open_task

BACKBONE = "runs/few_labels/pretrain/backbone.pth"
BATCH, RATE, WARMUP, FIRST = 8, 1e-3, 20, 200
SURE, ALONE, DECAY = 0.6, 150, 0.99


def open_cell(
    name: str, share: float, seed: int, frozen: bool = False
) -> tuple[Task, SegmentationDataset]:
    """A fine-tuning of the share's tiles, and the other tiles of the set; their labels are there to
    count how many pseudo labels are right."""
    config = load_config(f"configs/few_labels_{name}_cfg.py")
    config["backbone_cfg"]["pretrained"] = BACKBONE
    train_cfg = config["train_cfg"]
    train_cfg |= {"seed": seed} | ({"freeze_backbone": True} if frozen else {})
    train_cfg["backbone_lr_factor"] = 1.0 if frozen else 0.1
    train_cfg["train_data"] |= {"fraction": share, "fraction_seed": seed}
    if frozen:
        config["decoder_cfg"] = {"name": "LinearProbe"}
    opened = open_network(config)
    task, _ = open_task(opened)
    settings = TileSettings(**train_cfg["train_data"] | {"fraction": 1.0, "jitter": None})
    classes, coding = opened.classes, task.dataset.coding
    others = SegmentationDataset(settings, len(classes), 3, seed + 1000, coding, classes, True)
    known = set(task.dataset.pairs)
    others.pairs = [pair for pair in others.pairs if pair not in known]
    others.length = len(others.pairs)
    return task, others


def batches(tiles: SegmentationDataset, steps: int, seed: int) -> Iterator[dict]:
    sampler = KeySampler(len(tiles), BATCH, len(tiles) // BATCH, 0, steps, seed)
    return (collate([tiles[key] for key in keys]) for keys in sampler)


def steps_of(task: Task, steps: int) -> Iterator[torch.optim.Optimizer]:
    """The optimizer at each step, with its rate: linear warm-up, then a cosine."""
    groups = [
        {"params": group["params"], "lr": RATE * group["lr_factor"]} for group in task.param_groups
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01, fused=True)
    rates = [group["lr"] for group in optimizer.param_groups]
    for step in range(steps):
        rise, fall = (step + 1) / WARMUP, (step - WARMUP) / max(1, steps - WARMUP)
        factor = rise if step < WARMUP else 0.5 * (1 + np.cos(np.pi * fall))
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * factor
        optimizer.zero_grad(set_to_none=True)
        yield optimizer
        optimizer.step()


def cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    return F.cross_entropy(logits, label.long(), ignore_index=255)


def supervised(task: Task, steps: int, seed: int) -> None:
    model = task.model.train()
    for _, batch in zip(steps_of(task, steps), batches(task.dataset, steps, seed), strict=True):
        cross_entropy(model.logits(batch["image"]), batch["label"]).backward()
    model.eval()


@torch.no_grad()
def probabilities(model: SegmentationNet, images: Tensor) -> Tensor:
    """(N, K, H, W), the mean over a quarter turn, a flip, both and neither."""
    total = torch.zeros(())
    for turns in (0, 1):
        for axes in ([], [3]):
            view = torch.rot90(images, turns, (2, 3)).flip(axes)
            shares = model.logits(view).softmax(1)
            total = total + torch.rot90(shares.flip(axes), -turns, (2, 3))
    return total / 4


def label_all(model: SegmentationNet, others: SegmentationDataset) -> tuple[Tensor, dict]:
    """Pseudo labels uint8 (tiles, H, W), 255 where the network is less sure; how many are right."""
    samples = [others.read(index) for index in range(len(others))]
    images = torch.stack([torch.from_numpy(image).permute(2, 0, 1) for image, _ in samples])
    truth = torch.stack([torch.from_numpy(label) for _, label in samples])
    shares = torch.cat([probabilities(model, part) for part in images.split(32)])
    confidence, label = shares.max(1)
    chosen = label.clone()
    for value in label.unique():
        is_class = label == value
        limit = np.quantile(confidence[is_class].numpy(), 1 - SURE)
        chosen[is_class & (confidence < limit)] = 255
    known, used = truth != 255, (truth != 255) & (chosen != 255)
    right = label == truth
    accuracies = {"accuracy": right[known], "used_accuracy": right[used]}
    return chosen.byte(), {name: float(part.float().mean()) for name, part in accuracies.items()}


def with_pseudo_labels(
    task: Task, others: SegmentationDataset, labels: Tensor, steps: int, seed: int
) -> None:
    tiles = copy.copy(others)
    tiles.jitter = task.dataset.jitter
    tiles.read = lambda index: (others.read(index)[0], labels[index % len(others)].numpy())
    model = task.model.train()
    both = batches(task.dataset, steps, seed), batches(tiles, steps, seed + 7)
    for _, known, pseudo in zip(steps_of(task, steps), *both, strict=True):
        logits = model.logits(torch.cat([known["image"], pseudo["image"]]))
        loss = cross_entropy(logits[:BATCH], known["label"])
        (loss + cross_entropy(logits[BATCH:], pseudo["label"])).backward()
    model.eval()


def mean_teacher(task: Task, others: SegmentationDataset, steps: int, seed: int) -> nn.Module:
    """The teacher after training; the model is its student."""
    model, rng = task.model.train(), np.random.default_rng([seed, 99])
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta, teacher, shares = [norm.momentum for norm in norms], model, None
    both = batches(task.dataset, steps, seed), batches(others, steps, seed + 7)
    for step, (_, known, other) in enumerate(zip(steps_of(task, steps), *both, strict=True)):
        if step > ALONE:
            follow(teacher, model, step - ALONE)
        loss = cross_entropy(model.logits(known["image"]), known["label"])
        if step >= ALONE:
            if step == ALONE:
                teacher = copy.deepcopy(model).eval().requires_grad_(False)
            with torch.no_grad():
                found = teacher.logits(other["image"]).softmax(1)
            confidence, label = found.max(1)
            now = torch.cat([confidence.mean()[None], found.mean((0, 2, 3))])
            shares = now if shares is None else 0.95 * shares + 0.05 * now
            is_sure = confidence >= (shares[0] * shares[1:] / shares[1:].max())[label]
            image, label, is_sure = cut_and_mix(other["image"], label, is_sure, rng)
            for norm in norms:  # running statistics are those of the labelled tiles
                norm.momentum = 0.0
            lost = F.cross_entropy(model.logits(image), label, reduction="none")
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
            loss = loss + min(1, (step - ALONE + 1) / (0.2 * steps)) * (lost * is_sure).mean()
        loss.backward()
    follow(teacher, model, steps - ALONE)
    model.eval()
    return teacher


@torch.no_grad()
def follow(teacher: nn.Module, model: nn.Module, count: int) -> None:
    """The teacher's mean of weights and statistics, once the student has gone `count` steps on."""
    decay = min(DECAY, 1 - 1 / (count + 1))
    states = teacher.state_dict(), model.state_dict()
    for mean, value in zip(*(state.values() for state in states), strict=True):
        mean.copy_(torch.lerp(value, mean, decay) if mean.is_floating_point() else value)


def cut_and_mix(
    image: Tensor, label: Tensor, is_sure: Tensor, rng: np.random.Generator
) -> list[Tensor]:
    """Each tile with a box of the next one, of a tenth to half of its area."""
    count, height, width = label.shape
    box = torch.zeros(count, height, width, dtype=torch.bool)
    for number in range(count):
        area, stretch = rng.uniform(0.1, 0.5) * height * width, np.exp(rng.uniform(-0.35, 0.35))
        rows = min(height, int(area**0.5 * stretch))
        columns = min(width, int(area**0.5 / stretch))
        y, x = rng.integers(0, height - rows + 1), rng.integers(0, width - columns + 1)
        box[number, y : y + rows, x : x + columns] = True
    parts = (image, box[:, None]), (label, box), (is_sure, box)
    return [torch.where(mask, part.roll(1, 0), part) for part, mask in parts]


def run(name: str, share: float, seed: int, method: str, steps: int) -> dict:
    torch.manual_seed(seed)
    found: dict = {}
    labels = None
    if method in ("pseudo", "frozen"):
        first, others = open_cell(name, share, seed, method == "frozen")
        supervised(first, FIRST, seed)
        found["first"] = first.evaluate()["miou"]
        labels, accuracies = label_all(first.model, others)
        found |= accuracies
    task, others = open_cell(name, share, seed)
    if labels is not None:
        with_pseudo_labels(task, others, labels, steps, seed)
    elif method == "teacher":
        teacher = mean_teacher(task, others, steps, seed)
        found["student"] = task.evaluate()["miou"]
        task.model.load_state_dict(teacher.state_dict())
    else:
        supervised(task, steps, seed)
    return {"miou": task.evaluate()["miou"]} | found


def main() -> None:
    output, cells = Path(sys.argv[1]), sys.argv[2:]
    lines = output.read_text().splitlines() if output.exists() else []
    done = {json.loads(line)["cell"] for line in lines}
    for cell in dict.fromkeys(cells):
        if cell in done:
            continue
        name, share, seed, method, steps = cell.split(":")
        begin = time.monotonic()
        found = run(name, float(share), int(seed), method, int(steps))
        line = json.dumps({"cell": cell, "seconds": round(time.monotonic() - begin)} | found)
        with output.open("a") as file:
            file.write(f"{line}\n")
        print(line, flush=True)


if __name__ == "__main__":
    main()
