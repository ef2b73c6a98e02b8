"""Several processes compute what one with all their images does; and the step they share.

Starting a process takes seconds, so this file is also the script that a team of them runs once:
`work` computes what the tests below look at.
"""

import itertools
import os
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from teams import attempt, joined, start_team, team_results
from tiny_run import TinyNet, step_of
from torch import distributed as dist
from torch import nn

from SSLRemoteSensing import build_pretext, build_segmentation
from SSLRemoteSensing.core import distributed
from SSLRemoteSensing.core.config import load_config
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.core.machine import choose_device
from SSLRemoteSensing.models.losses import ExamplarLoss
from SSLRemoteSensing.training import settings
from SSLRemoteSensing.training.sampler import KeySampler

DEMO = ROOT / "configs/demo_oam_pretrain_resnet18_cfg.py"
VIEWS = ("occluded", "anchor", "transformed")
LABELS = ("uneven", "empty")  # hardly a labelled pixel on the first of two processes, and none


# How a team of processes is started, and what each of them does.


def own_part(x: torch.Tensor) -> torch.Tensor:
    return x.chunk(distributed.size())[distributed.rank()]


def contrastive() -> dict:
    """Loss and gradients of this process's part of twelve images, for each kind of the loss."""
    generator = torch.Generator().manual_seed(0)
    whole = [torch.randn(12, 8, generator=generator) for _ in range(2)]
    found = {}
    for kind in itertools.product((1.0, 0.2), ("zero", "exclude"), (True, False)):
        views = [own_part(view).clone().requires_grad_() for view in whole]
        loss = ExamplarLoss(*kind)(*views)
        found[kind] = loss.detach(), torch.autograd.grad(loss, views)
    return found


def frozen(model: nn.Module) -> nn.Module:
    """Without what depends on the other images of a batch, or on chance."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval().train = lambda mode=True, module=module: module
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def pretext_batch(count: int = 4) -> dict:
    """Images of their own brightness each: those alike have no gradient to speak of."""
    generator = torch.Generator().manual_seed(1)
    light = torch.linspace(0.1, 1.0, count).view(-1, 1, 1, 1)
    shape = (count, 3, 32, 32)
    images = [torch.randint(256, shape, generator=generator) * light for _ in VIEWS]
    batch = {name: values.to(torch.uint8) for name, values in zip(VIEWS, images, strict=True)}
    return batch | {"transform_label": torch.arange(count) % 6, "index": torch.arange(count)}


def pretext_net(**changes) -> nn.Module:
    config = load_config(DEMO)
    config["train_cfg"] |= changes
    config["train_cfg"]["losses"]["ExamplarLoss"]["temperature"] = 0.05
    torch.manual_seed(0)
    return frozen(build_pretext(config))


LOSSES = {
    "cross_entropy": dict(name="CrossEntropyLoss", class_weights=[0.3, 2.0], label_smoothing=0.1),
    "focal": dict(name="FocalLoss", class_weights=[0.3, 2.0]),
    "dice": dict(name="DiceLoss"),
}


def segmentation_net() -> nn.Module:
    config = load_config(ROOT / "configs/demo_oam_finetune_resnet18_cfg.py")
    config["train_cfg"]["loss"] = dict(name="SumLoss", losses=LOSSES)
    torch.manual_seed(0)
    return frozen(build_segmentation(config))


def segmentation_batch(labels: str) -> dict:
    image = pretext_batch()["anchor"]
    generator = torch.Generator().manual_seed(2)
    label = torch.randint(2, (4, 32, 32), generator=generator).to(torch.uint8)
    label[2:, :10] = 0
    label[:2].view(-1)[7 if labels == "uneven" else 0 :] = 255
    return {"image": image, "label": label, "index": torch.arange(4)}


NETWORKS = {"pretext": (pretext_net, pretext_batch)} | {
    labels: (segmentation_net, partial(segmentation_batch, labels)) for labels in LABELS
}


def gradients_of(name: str, **changes) -> tuple[dict, dict]:
    """Losses and gradients of a step on this process's part of the batch."""
    net, batch = NETWORKS[name]
    model = net(**changes)
    part = {key: own_part(value) for key, value in batch().items()}
    losses, _ = step_of(model).forward_backward(part)
    return losses, {key: weight.grad for key, weight in model.named_parameters()}


def distance(ours: dict, theirs: dict) -> float:
    """The largest difference of any tensor, as a share of its largest value."""
    assert ours.keys() == theirs.keys()
    pairs = ((ours[key], theirs[key]) for key in ours)
    return max(float((a - b).abs().max() / b.abs().max().clamp(min=1e-12)) for a, b in pairs)


class ContrastiveNet(TinyNet):
    """With a loss that asks the other processes, and without dropout."""

    def __init__(self):
        super().__init__()
        self.body[3].p, self.contrast = 0.0, ExamplarLoss(0.2)

    def forward(self, batch):
        maps = (
            self.body(batch[key].float() / 255).mean((2, 3)) for key in ("anchor", "transformed")
        )
        return super().forward(batch) | {"contrast": self.contrast(*maps)}


def updated(compiled: bool) -> dict:
    """The weights after three updates of two batches each, in bf16."""
    torch.manual_seed(0)
    step = step_of(ContrastiveNet(), precision="bf16", compile=compiled)
    batch = {key: own_part(value) for key, value in pretext_batch().items()}
    for _ in range(3):
        step.forward_backward(batch, 0.5, is_last=False)
        step.forward_backward(batch | dict(anchor=batch["occluded"]), 0.5)
        step.update()
    return step.state_dict()["model"]


def matched(compiled: bool) -> dict:
    """The weights before and after an update of pre-training with MatchingHead."""
    config = load_config(DEMO)
    config["agr_head_cfg"] = dict(name="MatchingHead", num_classes=6)
    config["train_cfg"]["joint_pass"] = True
    torch.manual_seed(0)
    step = step_of(build_pretext(config), optimizer=dict(name="SGD", lr=0.01), compile=compiled)
    before = {key: value.clone() for key, value in step.state_dict()["model"].items()}
    batch = {key: own_part(value) for key, value in pretext_batch(6).items()}
    for key in VIEWS:  # 64 x 64, as one cell has no turns
        batch[key] = batch[key].repeat_interleave(2, 2).repeat_interleave(2, 3)
    step.forward_backward(batch)
    step.update()
    return {"before": before, "after": step.state_dict()["model"]}


def refusals() -> dict:
    return {
        "divided": attempt(lambda: settings.divide_batch(dict(global_batch_size=8, seed=3))),
        "odd": attempt(lambda: settings.divide_batch(dict(global_batch_size=3))),
        "sync_bn": attempt(lambda: step_of(TinyNet(), sync_bn=True)),
        "unequal": attempt(lambda: distributed.require_equal("x", distributed.rank(), "help")),
        "mean": distributed.all_mean({"a": 1.0 + distributed.rank(), "b": 4.0}),
        "together": distributed.all_gather_object(f"of {distributed.rank()}"),
        "asked": distributed.ask(lambda: (distributed.rank(), 5 - distributed.rank()))(),
    }


def of_two(first: bool, alone: dict) -> dict:
    found = {"contrastive 2": attempt(contrastive)}
    for name in NETWORKS:
        losses, gradients = gradients_of(name)
        found[name] = {"losses": losses}
        if first:
            found[name] |= {"alone": alone[name][0]}
            found[name] |= {"distance": distance(gradients, alone[name][1])}
    found["refusals"] = attempt(refusals)
    found["eager"] = attempt(lambda: updated(compiled=False))
    found["matching eager"] = attempt(lambda: matched(compiled=False))
    # Inductor takes half a minute for its first graph: all of torch.compile but that.
    torch.compile = partial(torch.compile, backend="aot_eager")
    found["compiled"] = attempt(lambda: updated(compiled=True))
    found["matching compiled"] = attempt(lambda: matched(compiled=True))
    return found


def work(folder: Path) -> None:
    rank, found = int(os.environ["RANK"]), {}
    alone = {name: gradients_of(name) for name in NETWORKS} if rank == 0 else {}
    if rank < 2:
        with joined(2):
            found |= of_two(rank == 0, alone)
    with joined(3):
        found["contrastive 3"] = attempt(contrastive)
    torch.save(found, folder / f"found.{rank}.pt")


@pytest.fixture(scope="session")
def found(tmp_path_factory) -> list[dict]:
    """What each process of `work` found."""
    start = partial(start_team, __file__, groups=[2, 3])
    return team_results("distributed", tmp_path_factory, start)[1]


# Losses and gradients.


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("temperature", [1.0, 0.2])
@pytest.mark.parametrize("own", ["zero", "exclude"])
def test_the_contrastive_loss_of_several_processes_is_that_of_all_images(
    found, size, temperature, own
):
    """DDP takes the mean of the gradients, so each is `size` times its share of the whole. Without
    gather the negatives are those of the process."""
    loss, gradients = contrastive()[temperature, own, True]
    parts = [one[f"contrastive {size}"][temperature, own, True] for one in found[:size]]
    torch.testing.assert_close(sum(part[0] for part in parts) / size, loss, rtol=1e-5, atol=1e-5)
    for number, gradient in enumerate(gradients):
        theirs = torch.cat([part[1][number] for part in parts]) / size
        torch.testing.assert_close(theirs, gradient, rtol=1e-5, atol=1e-6)
    generator = torch.Generator().manual_seed(0)
    whole = [torch.randn(12, 8, generator=generator) for _ in range(2)]
    for rank, one in enumerate(found[:size]):
        views = [view.chunk(size)[rank].clone().requires_grad_() for view in whole]
        expected = ExamplarLoss(temperature, own)(*views)
        loss, gradients = one[f"contrastive {size}"][temperature, own, False]
        torch.testing.assert_close(loss, expected.detach())
        for ours, theirs in zip(gradients, torch.autograd.grad(expected, views), strict=True):
            torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name", NETWORKS)
def test_two_processes_equal_one_with_the_double_batch(found, name):
    """The whole network's gradient, through DistributedDataParallel, and each loss."""
    first, second = (one[name] for one in found[:2])
    assert first["distance"] < 1e-4
    for key, loss in first["alone"].items():
        mean = (first["losses"][key] + second["losses"][key]) / 2
        torch.testing.assert_close(mean, loss, rtol=1e-5, atol=1e-6)
        assert loss > 0


@pytest.mark.parametrize("which", ["eager", "compiled"])
def test_processes_keep_the_same_weights_under_plain_names(found, which):
    """With two batches an update, the first of which sends nothing."""
    assert isinstance(found[0][which], dict), found[0][which]
    ours, theirs = (one[which] for one in found[:2])
    for key, weight in TinyNet().named_parameters():
        assert torch.equal(ours[key], theirs[key]), key
        assert not torch.equal(ours[key], weight)
    model = ContrastiveNet()
    model.load_state_dict(ours)  # no `module.`, no `_orig_mod.`
    assert ours["body.0.weight"].dtype == torch.float32
    for key, weight in found[0]["eager"].items():
        torch.testing.assert_close(ours[key], weight, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("which", ["matching eager", "matching compiled"])
def test_processes_that_match_transforms_keep_the_same_weights(found, which):
    """Each process centres its own images' maps, so only the weights can be the same."""
    assert isinstance(found[0][which], dict), found[0][which]
    # No statistics, and no biases, some of which normalization takes away again.
    learned = ("weight", "log_scale")
    ours, theirs, eager = (
        {key: after - before[key] for key, after in one["after"].items() if key.endswith(learned)}
        for one in (found[0][which], found[1][which], found[0]["matching eager"])
        for before in [one["before"]]
    )
    assert distance(ours, theirs) == 0
    assert distance(ours, eager) < 1e-2
    assert all(change.any() for change in ours.values())


def test_what_several_processes_cannot_do_is_refused_in_one_line(found):
    for part in found[:2]:
        said = part["refusals"]
        assert said["divided"] == dict(batch_size=4, seed=3)
        assert said["odd"].startswith("train_cfg.global_batch_size=3: must be a multiple of the 2 ")
        assert said["sync_bn"].startswith("train_cfg.sync_bn=True: ")
        assert said["unequal"] == "x: the processes have [0, 1]; help"
        assert said["mean"] == {"a": 1.5, "b": 4.0}
        assert said["together"] == ["of 0", "of 1"]
        assert said["asked"] == [1, 5]


def test_one_process_divides_nothing_and_waits_for_nobody():
    assert settings.divide_batch(dict(global_batch_size=3)) == dict(batch_size=3)
    assert settings.divide_batch(dict(batch_size=5)) == dict(batch_size=5)
    x = torch.ones(2, 3)
    assert distributed.all_gather(x) is x
    assert distributed.all_sum(x) is x
    distributed.require_equal("x", 1, "")


# Samples.


@pytest.mark.parametrize("first", [0, 3])
@pytest.mark.parametrize("processes", [1, 2, 3, 4])
def test_each_step_has_the_same_images_whatever_the_number_of_processes(processes, first):
    size, whole, per_epoch = 50, 12, 4
    single = list(KeySampler(size, whole, per_epoch, first, 11, seed=5))
    parts = [
        list(KeySampler(size, whole // processes, per_epoch, first, 11, 5, rank, processes))
        for rank in range(processes)
    ]
    seen = []
    for alone, *shares in zip(single, *parts, strict=True):
        assert set(alone) == {key for share in shares for key in share}
        assert {len(share) for share in shares} == {whole // processes}
        seen += [key for share in shares for key in share]
    assert len(seen) == len(set(seen)) == (11 - first) * whole


# The step.


def test_a_joint_pass_gives_the_losses_and_gradients_of_three():
    losses, gradients = gradients_of("pretext")
    joint_losses, joint_gradients = gradients_of("pretext", joint_pass=True)
    assert losses.keys() == {"inpainting", "agr", "exemplar"}
    assert distance(joint_losses, losses) < 1e-5
    assert distance(joint_gradients, gradients) < 1e-5


def test_a_joint_pass_takes_the_statistics_over_all_three_images():
    batch = pretext_batch()
    means, counts = [], []
    for joint in (False, True):
        config = load_config(DEMO)
        config["train_cfg"]["joint_pass"] = joint
        torch.manual_seed(0)
        model = build_pretext(config)
        conv, norm = model.backbone.conv1, model.backbone.bn1
        model.train()(batch)
        means.append(norm.running_mean.clone())
        counts.append(int(norm.num_batches_tracked))
    assert counts == [3, 1]
    images = [batch[key].float() / 255 for key in VIEWS]
    with torch.no_grad():
        expected = 0.1 * conv(torch.cat(images)).mean((0, 2, 3))
    torch.testing.assert_close(means[1], expected)
    assert not torch.allclose(means[0], expected, rtol=1e-2)


@pytest.mark.parametrize("name", ["Adam", "AdamW", "SGD"])
def test_updates_are_fused_unless_the_config_asks_for_others(name):
    def chosen(**changes) -> tuple:
        step = step_of(TinyNet(), optimizer=dict(name=name, lr=0.1) | changes)
        return step.optimizer.defaults["fused"], step.optimizer.defaults["foreach"]

    assert chosen() == (True, None)
    assert chosen(fused=False) == (False, None)
    assert not chosen(foreach=True)[0]
    assert chosen(foreach=True)[1]


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("optimizer", [dict(name="Adam"), dict(name="SGD", momentum=0.9)])
def test_going_on_in_another_memory_format_equals_a_run_that_is_not_fused(optimizer, before):
    """A fused update goes through weight and moments in memory's order."""
    ends = []
    for fused in (True, False):
        cfg = optimizer | dict(lr=0.01, fused=fused)
        torch.manual_seed(0)
        step = step_of(frozen(TinyNet()), optimizer=cfg, channels_last=before)
        for number in range(6):
            if number == 3:
                state = step.state_dict()
                step = step_of(frozen(TinyNet()), optimizer=cfg, channels_last=not before)
                step.load_state_dict(state, "here")
            step.forward_backward(pretext_batch())
            step.update()
        ends.append(step.state_dict()["model"])
    assert distance(*ends) < 1e-4


@pytest.mark.parametrize("name", ["auto", "cuda", "cuda:0"])
def test_a_gpu_is_chosen_by_its_number(name, monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch._C, "_cuda_setDevice", chosen.append, raising=False)
    assert choose_device(name) == torch.device("cuda:0")
    assert chosen == [0]


def test_only_lost_connections_pass_for_the_end_of_another_process():
    for text in ("gloo/tcp/pair.cc:545] Read error: Connection reset by peer", "Timed out waiting"):
        assert distributed.LOST.search(text)
    assert not distributed.LOST.search("/data/igloo/x: op.preamble.length <= op.nbytes. 8 vs 4")


class HalfInNoLoss(TinyNet):
    def __init__(self):
        super().__init__()
        self.unread = nn.Linear(3, 3)


def test_weights_that_are_in_no_loss_are_told_in_the_second_step(tmp_path):
    """Of a network of timm, of which that is not known beforehand."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        step = step_of(HalfInNoLoss())
        step.net = nn.parallel.DistributedDataParallel(step.model)
        step.forward_backward(pretext_batch())
        with pytest.raises(UserError, match=r"torchrun: some weights .* are in no loss"):
            step.forward_backward(pretext_batch())
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    work(Path(sys.argv[1]))
