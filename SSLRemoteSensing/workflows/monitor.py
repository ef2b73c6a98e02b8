"""What a pre-training run learns, told without labels: figures and pictures that change nothing.

Both are made by the first process alone. Training with them and without gives the same weights.
"""

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from SSLRemoteSensing.core.errors import UnreadableImage
from SSLRemoteSensing.core.machine import is_memory_full, wait
from SSLRemoteSensing.data.values import fault_of_values, levels
from SSLRemoteSensing.evaluation.embeddings import alignment, effective_rank, spread, uniformity
from SSLRemoteSensing.evaluation.linear_probe import LinearProbe
from SSLRemoteSensing.evaluation.task_gradients import task_gradients, unchanged
from SSLRemoteSensing.models.backbones import Backbone
from SSLRemoteSensing.models.pretext import PretextNet, count_pairs
from SSLRemoteSensing.reports import pretext_figures as figures
from SSLRemoteSensing.training.task import Place, Seen

COLLAPSED = 1e-3  # embedding_std; an untrained network has some 0.02
CALMING = "; lower the temperature of ExamplarLoss or the learning rate, or enlarge batches"
BANK = 128  # images, of whole batches
OWN_EPOCH = 2**32 - 1  # whose draws no epoch of training has
ROWS, NEIGHBOURS = 4, 5  # of the pictures


@dataclass
class BatchMonitor:
    """Sees the batch of each entry of the log.

    `embedding_std`: `spread` of the embeddings of the batch's anchors, which a low contrastive loss
    does not tell from success. `agr_accuracy` and `agr_accuracy_TRANSFORM`: of the training batches
    since the last entry, with dropout; a transform that none of them had is None.

    Attributes:
        transforms: names of the classes of the transform prediction, in order.
    """

    net: PretextNet
    transforms: Sequence[str]

    def is_due(self, place: Place) -> bool:
        return place.logs

    def observe(self, batch: dict[str, Tensor], counts: dict[str, Tensor], to_device) -> Seen:
        values, warnings = {}, {}
        confusion = counts.get("agr_confusion")  # (K, K), a row a true transform
        if confusion is not None and confusion.sum():
            values["agr_accuracy"] = float(confusion.trace() / confusion.sum())
            rows = zip(self.transforms, confusion.diag(), confusion.sum(1), strict=True)
            for name, hits, count in rows:
                values[f"agr_accuracy_{name}"] = float(hits / count) if count else None
        if self.net.exemplar_head is not None and len(batch["anchor"]) >= 2:
            with unchanged(self.net), torch.no_grad():
                self.net.eval()
                std = spread(self.net.embed(self.net.features(batch["anchor"])))
            values["embedding_std"] = std
            if std < COLLAPSED:
                text = f"the embeddings of all images are nearly the same (embedding_std {std:.1e})"
                fault = fault_of_values([levels(image) for image in pixels(batch["anchor"])])
                remedy = "set max_value or scale of train_data, or replace them"
                same = f", as the images are: {fault}; {remedy}"
                warnings["collapse"] = text + (same if fault else CALMING)
        return Seen(values, warnings)


@dataclass
class SampleMonitor:
    """Sees a bank of fixed samples every `every` steps, and after the last one.

    The bank is as many whole batches of training's size, for which kernels are already chosen, as
    128 images make, at least one; spread evenly over the data set, each image as (occluded, anchor,
    transformed) by draws of its own: the same in every run of a seed, and after every restart.

    `effective_rank`, `alignment`, `uniformity` of the bank's embeddings, in evaluation mode (of the
    exemplar head, or where that is not trained of the pooled last map); the figures of
    `task_gradients` of its first batch. Pictures: inpainting, transforms, neighbours.

    Attributes:
        dataset: samples of `dataset[(epoch, index)]`, names of `dataset.name(index)`.
        collate: samples to a batch.
        batch_size: of training.
        transforms: names of the classes of the transform prediction, in order.
    """

    net: PretextNet
    dataset: Dataset
    collate: Callable[[list[dict]], dict]
    batch_size: int
    transforms: Sequence[str]
    every: int = 1
    bank: list[dict] | None = None  # read when it is first looked at

    def is_due(self, place: Place) -> bool:
        return place.is_last or place.step % self.every == 0

    def observe(self, batch: dict[str, Tensor], counts: dict[str, Tensor], to_device) -> Seen:
        try:
            return self.look(to_device)
        except RuntimeError as error:
            if not is_memory_full(error):
                raise
            return blind("the GPU's memory is full; set a smaller batch_size, or log.vis_step=0")

    def look(self, to_device: Callable[[dict], dict[str, Tensor]]) -> Seen:
        self.bank = self.read_bank() if self.bank is None else self.bank
        if sum(len(batch["index"]) for batch in self.bank) < 2:
            return blind("too few images, or too few to be read")
        first, restored = to_device(self.bank[0]), None
        with unchanged(self.net), torch.no_grad():
            self.net.eval()
            views, confusion = self.embed(to_device)
            if self.net.inpainting_head is not None:
                restored = self.net.inpainting_head(self.net.features(first["occluded"]))[:ROWS]
        if not torch.stack(views).isfinite().all():
            return blind("their embeddings are not finite")
        values = {"effective_rank": effective_rank(views[0]), "alignment": alignment(*views)}
        values |= {"uniformity": uniformity(views[0])} | task_gradients(self.net, first)
        values = {key: value for key, value in values.items() if math.isfinite(value)}
        return Seen(values, pictures=self.draw(views[0], confusion, restored))

    def read_bank(self) -> list[dict]:
        """Whole batches of fixed samples, each of them from all over the data set; files that
        cannot be read are passed over."""
        size = self.batch_size
        batches = max(1, min(BANK, len(self.dataset)) // size)
        indices = np.linspace(0, len(self.dataset) - 1, batches * size).round().astype(int)
        samples = []
        for index in indices.reshape(size, batches).T.ravel():
            with contextlib.suppress(UnreadableImage):
                samples.append(self.dataset[(OWN_EPOCH, int(index))])
        whole = range(0, len(samples) - size + 1, size)
        return [self.collate(samples[start : start + size]) for start in whole]

    def embed(self, to_device) -> tuple[list[Tensor], np.ndarray]:
        """Embeddings (N, D) of anchors and transformed images of the bank, on the CPU, and the
        confusion matrix of their transforms; 0 where they are not told."""
        views, confusion = ([], []), np.array(0)
        for batch in map(to_device, self.bank):
            maps = [self.net.features(batch[key]) for key in ("anchor", "transformed")]
            for embeddings, pyramid in zip(views, maps, strict=True):
                embeddings.append(self.net.embed(pyramid).float().cpu())
            if self.net.agr_head is not None:
                logits = self.net.agr_head(*maps).float()
                confusion = confusion + count_pairs(batch["transform_label"], logits).cpu().numpy()
        return [torch.cat(view) for view in views], confusion

    def draw(
        self, embeddings: Tensor, confusion: np.ndarray, restored: Tensor | None
    ) -> dict[str, np.ndarray]:
        """The pictures by name."""
        names = [self.dataset.name(int(i)).name for batch in self.bank for i in batch["index"]]
        pictures, remark = {}, f"of {len(names)} fixed images, in evaluation mode"
        if restored is not None:
            occluded, anchor = (pixels(self.bank[0][key][:ROWS]) for key in ("occluded", "anchor"))
            panels = (occluded, pixels(restored.float()), anchor)
            pictures["inpainting"] = figures.inpainting_page(*panels, names[: len(anchor)])
        if confusion.any():
            header = f"transforms {remark}"
            pictures["transforms"] = figures.transforms_page(confusion, self.transforms, header)
        images = np.concatenate([pixels(batch["anchor"]) for batch in self.bank])
        pictures["neighbours"] = figures.neighbours_page(
            images, *neighbours(embeddings, ROWS, NEIGHBOURS), names, f"nearest {remark}"
        )
        return pictures


@dataclass
class EpochProbe:
    """Scores a linear probe before the first step, after every `every` epochs and at the end.

    `probe_miou`, `probe_oa`, `probe_iou_<class>` (None for a class in neither label nor
    prediction), `probe_seconds`; from the second time on `probe_share`, the seconds over those of
    training since the time before. It computes as training does.
    """

    probe: LinearProbe
    net: Backbone
    precision: str = "fp32"
    channels_last: bool = False
    ended: float | None = None  # when the last score was there

    def is_due(self, place: Place) -> bool:
        at_end = place.ends_epoch and (place.epoch + 1) % self.probe.settings.every == 0
        return place.step == 0 or place.is_last or at_end

    def measure(self, place: Place) -> Seen:
        wait(next(self.net.parameters()).device)  # what training has left to do is not the probe's
        begun = time.perf_counter()
        scores = self.probe.score(self.net, self.precision, self.channels_last)
        now = time.perf_counter()
        values = {"probe_miou": scores["miou"], "probe_oa": scores["oa"]}
        for name, of_class in scores["per_class"].items():
            values[f"probe_iou_{'_'.join(name.split())}"] = of_class["iou"]
        values["probe_seconds"] = now - begun
        if self.ended is not None:
            values["probe_share"] = (now - begun) / (begun - self.ended)
        self.ended = now
        return Seen(values)


def blind(reason: str) -> Seen:
    return Seen(warnings={"watching": f"no figures and pictures of fixed samples: {reason}"})


def pixels(images: Tensor) -> np.ndarray:
    """(N, C, H, W) as (N, H, W, C) on the CPU."""
    return images.permute(0, 2, 3, 1).cpu().numpy()


def neighbours(embeddings: Tensor, queries: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers and cosines (queries, 1 + count) of rows spread evenly over (N, D), each followed by
    the `count` rows most similar to it, best first; less where there are not so many."""
    unit = F.normalize(embeddings.double(), dim=1)
    chosen = torch.linspace(0, len(unit) - 1, min(queries, len(unit))).round().long()
    similarity = unit[chosen] @ unit.T
    itself = torch.arange(len(chosen))
    similarity[itself, chosen] = torch.inf  # before all that are its equals
    cosines, numbers = similarity.sort(dim=1, descending=True, stable=True)
    cosines[:, 0] = 1
    return numbers[:, : count + 1].numpy(), cosines[:, : count + 1].numpy()
