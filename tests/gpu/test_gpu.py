"""What only a GPU can show. `tools/gpu_day.py --only tests` runs these, and nothing else of tests/:
they import nothing that such a machine may lack.

With GPU_TESTS_ON=cpu those that are of a device and not of CUDA run on the CPU, which shows no more
than that they can run.
"""

import os

import numpy as np
import pytest
import torch
import torch.distributed as dist
from conftest import ROOT
from tiny_run import TinyNet, entries, interrupt_at, moved, step_of, train
from torch import nn

from SSLRemoteSensing import build_pretext, build_segmentation, load_config
from SSLRemoteSensing.core import distributed, machine
from SSLRemoteSensing.core.batch_norm import synchronized
from SSLRemoteSensing.inference.windows import predict_scene, probabilities
from SSLRemoteSensing.training.schedules import SCHEDULES

pytestmark = pytest.mark.gpu
CONFIG = ROOT / "configs/demo_oam_pretrain_resnet18_cfg.py"
ON_DEVICE = dict(precision="auto", channels_last=True, clip_grad_norm=1.0)


@pytest.fixture
def device() -> torch.device:
    if machine.gpu_count():
        return torch.device("cuda", 0)
    if os.environ.get("GPU_TESTS_ON") == "cpu":
        return torch.device("cpu")
    pytest.skip("needs a GPU")


@pytest.fixture
def gpu(device) -> torch.device:
    if device.type != "cuda":
        pytest.skip("needs a GPU")
    return device


@pytest.fixture
def repeatable():
    """Kernels that give the same bits each time."""
    with torch.backends.cudnn.flags(enabled=False):
        yield


def pretext_batches(count: int, size: int = 8) -> list[dict]:
    """Images of their own brightness each: those alike have no gradient to speak of."""
    generator = torch.Generator().manual_seed(1)
    light = torch.linspace(0.1, 1.0, size).view(-1, 1, 1, 1)
    shape, names = (size, 3, 32, 32), ("occluded", "anchor", "transformed")
    rest = {"transform_label": torch.arange(size) % 6, "index": torch.arange(size)}
    return [
        {name: (torch.randint(256, shape, generator=generator) * light).byte() for name in names}
        | rest
        for _ in range(count)
    ]


def pinned(batches: list[dict]) -> list[dict]:
    return [{key: value.pin_memory() for key, value in batch.items()} for batch in batches]


@pytest.mark.parametrize("teacher_bands", [None, (1, 2, 3), (3, 1, 2)])
def test_a_step_never_waits_for_the_gpu(device, teacher_bands):
    """Not for a loss, a gradient's norm, a teacher's bands or a copy; batches arrive whole from
    pinned memory."""
    on_gpu = device.type == "cuda"
    config = load_config(CONFIG)
    if teacher_bands is not None:
        teacher = dict(teacher=dict(name="resnet18"), teacher_bands=teacher_bands)
        config["distillation_head_cfg"] = dict(name="DistillationHead") | teacher
    torch.manual_seed(0)
    settings = ON_DEVICE | dict(device=device.type)
    step = step_of(build_pretext(config), optimizer=config["train_cfg"]["optimizer"], **settings)
    schedule = SCHEDULES["stepLR"](step_size=1, gamma=0.5)
    plain, arrived, losses = pretext_batches(5), [], []
    try:
        for number, batch in enumerate(step.ahead(pinned(plain) if on_gpu else plain)):
            step.set_lr(schedule(number, 5, number))
            losses.append(step.forward_backward(batch)[0])
            step.update()
            arrived.append(batch)
            if on_gpu:  # the first step chooses kernels, and makes the optimizer's state
                torch.cuda.set_sync_debug_mode("error")
    finally:
        if on_gpu:
            torch.cuda.set_sync_debug_mode("default")
    assert len(arrived) == len(plain)
    for ours, theirs in zip(arrived, plain, strict=True):
        for key, value in theirs.items():
            assert torch.equal(ours[key].cpu(), value), key
            assert key == "index" or ours[key].device.type == device.type
    assert all(loss.isfinite() for found in losses for loss in found.values())


def test_batches_copied_ahead_give_the_losses_of_those_that_are_not(device, repeatable):
    """Many small steps: a batch whose memory were taken too early would show."""
    found = []
    for ahead in (False, True):
        torch.manual_seed(0)
        step = step_of(TinyNet(), device=device.type)
        batches = pretext_batches(50)
        batches = pinned(batches) if device.type == "cuda" else batches
        torch.manual_seed(1)  # dropout
        rows = []
        for batch in step.ahead(batches) if ahead else batches:
            rows.append(step.forward_backward(batch)[0])
            step.update()
        found.append([{name: float(loss) for name, loss in row.items()} for row in rows])
    assert found[0] == found[1]


def test_a_run_that_goes_on_equals_a_straight_one(device, repeatable, pretext_config, tmp_path):
    """To the bit, dropout included, whose numbers are the GPU's own generator's."""
    pretext_config["train_cfg"]["log"]["log_step"] = 1
    changes = dict(device=device.type)
    straight = train(pretext_config, **changes).state_dict()
    halted = moved(pretext_config, tmp_path / "halted")
    with pytest.raises(SystemExit, match="130"):
        train(halted, interrupt_at(3), **changes)
    for name, value in train(halted, **changes).state_dict().items():
        assert torch.equal(value, straight[name]), name
    assert [row["loss"] for row in entries(halted)] == [
        row["loss"] for row in entries(pretext_config)
    ]


def test_a_run_of_the_gpu_goes_on_on_the_cpu(device, pretext_config):
    with pytest.raises(SystemExit, match="130"):
        train(pretext_config, interrupt_at(3), device=device.type)
    train(pretext_config, device="cpu")
    assert entries(pretext_config)[-1]["step"] > 3


def test_the_memory_that_a_log_tells_is_the_gpus(gpu, pretext_config):
    torch.cuda.reset_peak_memory_stats()
    train(pretext_config, device="cuda")
    told = entries(pretext_config)[-1]["memory_gb"] * 1e9
    assert told == pytest.approx(machine.used_memory(gpu), rel=0.01)
    free, total = machine.gpu_memory(gpu)
    assert 0 < free < total
    assert 0 < told < total


def test_a_map_of_the_gpu_is_the_cpus(device):
    """Blended windows of a scene; classes may differ where two are as likely."""
    config = load_config(ROOT / "configs/demo_oam_finetune_resnet18_cfg.py")
    config["backbone_cfg"]["pretrained"] = False
    torch.manual_seed(0)
    net = build_segmentation(config)
    scene = np.random.default_rng(0).integers(0, 256, (200, 150, 3), np.uint8)
    allowed, maps = torch.backends.cudnn.allow_tf32, []
    torch.backends.cudnn.allow_tf32 = False
    try:
        for place in (torch.device("cpu"), device):
            net.to(place)

            def predict(images, place=place):
                return probabilities(net, place, "fp32", images)

            def rows(y, count):
                return scene[y : y + count]

            strips = predict_scene(predict, rows, *scene.shape[:2], 64, 0.5, 4, place)
            maps.append(torch.cat([strip.cpu() for _, strip in strips], dim=1))
    finally:
        torch.backends.cudnn.allow_tf32 = allowed
    torch.testing.assert_close(*maps, atol=1e-3, rtol=0)
    same = maps[0].argmax(0) == maps[1].argmax(0)
    assert same.float().mean() > 0.999


def test_the_collectives_of_one_gpu_and_its_cpu_run(device, tmp_path):
    """A group of one, so that NCCL and gloo side by side are tried where there is a single GPU."""
    on_gpu = device.type == "cuda"
    backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
    dist.init_process_group(backend, init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        for place in (device, torch.device("cpu")):
            x = torch.arange(4.0, device=place, requires_grad=True)
            distributed._all_sum(x).square().sum().backward()  # all_sum leaves one process alone
            assert x.grad.tolist() == [0, 2, 4, 6]
        values = [None]
        dist.all_gather_object(values, {"a": 1})
        assert values == [{"a": 1}]
        config = load_config(CONFIG)
        net = build_pretext(config)
        net = synchronized(net) if on_gpu else net
        settings = ON_DEVICE | dict(device=device.type)
        step = step_of(net, optimizer=config["train_cfg"]["optimizer"], **settings)
        ids = [device] if on_gpu else None
        step.net = nn.parallel.DistributedDataParallel(
            step.model, device_ids=ids, gradient_as_bucket_view=True
        )
        for batch in pretext_batches(3):
            losses, _ = step.forward_backward(batch)
            step.update()
        dist.broadcast(next(step.model.buffers()), 0)
        assert all(loss.isfinite() for loss in losses.values())
    finally:
        dist.destroy_process_group()
