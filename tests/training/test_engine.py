"""The loop: it learns, goes on exactly, and stops rather than going wrong."""

import itertools
import json
import math
import re
import signal
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from conftest import draw_tiles
from tiny_run import TinyNet, changing, entries, images_of, interrupt_at, moved, step_of, train
from torch import nn

from SSLRemoteSensing import build_pretext
from SSLRemoteSensing.core import checkpoints
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.core.machine import choose_device
from SSLRemoteSensing.data.pretext import collate
from SSLRemoteSensing.models.losses import SegmentationLoss
from SSLRemoteSensing.training import run_folder, train_step
from SSLRemoteSensing.training.rehearsal import rehearse
from SSLRemoteSensing.training.run import signals
from SSLRemoteSensing.training.sampler import KeySampler, epoch_order
from SSLRemoteSensing.training.schedules import SCHEDULES
from SSLRemoteSensing.training.settings import LoopSettings
from SSLRemoteSensing.training.task import Task
from SSLRemoteSensing.workflows.monitor import BatchMonitor


def loop_settings(config: dict) -> LoopSettings:
    others = ("losses", "train_data")
    return LoopSettings(**{k: v for k, v in config["train_cfg"].items() if k not in others})


def steps(config: dict) -> list[int]:
    return [entry["step"] for entry in entries(config)]


def test_thirty_steps_reduce_each_loss_on_one_batch(pretext_config):
    torch.manual_seed(0)
    model, dataset = build_pretext(pretext_config), images_of(pretext_config)
    batch = collate([dataset[(0, index)] for index in range(8)])
    step, curve = step_of(model, optimizer=dict(name="Adam", lr=5e-4)), []
    for _ in range(30):
        curve.append({k: float(v) for k, v in step.forward_backward(batch)[0].items()})
        step.update()
    for task in ("inpainting", "agr", "exemplar"):
        first, last = (sum(entry[task] for entry in part) for part in (curve[:5], curve[-5:]))
        assert last < 0.9 * first, task


# Going on.

WAYS = [
    (dict(), 3),  # mid-epoch
    (dict(), 6),  # the last step of the first epoch
    (dict(accumulate_steps=2), 3),  # between the two halves of a step
    (dict(clip_grad_norm=1.0, lr_schedule=dict(name="cosine", warmup_steps=3)), 8),
    (dict(precision="bf16", optimizer=dict(name="AdamW", lr=1e-3)), 4),
]
WHOLE_METHOD = (dict(build=build_pretext, num_epoch=1, batch_size=8), 2, 1)


@pytest.mark.parametrize(
    ("changes", "stop_call", "workers"),
    [*((*way, workers) for way in WAYS for workers in (0, 2)), WHOLE_METHOD],
)
def test_resume_equals_straight_run(pretext_config, tmp_path, changes, stop_call, workers):
    pretext_config["train_cfg"]["log"]["log_step"] = 1
    straight = train(pretext_config, **changes)
    halted = moved(pretext_config, tmp_path / "halted")
    with pytest.raises(SystemExit, match="130"):
        train(halted, interrupt_at(stop_call), **changes)
    resumed = train(halted, **changes, num_workers=workers).state_dict()
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed[name]), name
    keys = ("step", "epoch", "lr", "loss", "inpainting", "agr", "exemplar")
    ours, theirs = (
        [{key: entry[key] for key in keys} for entry in entries(config)]
        for config in (pretext_config, halted)
    )
    assert ours == theirs


def test_a_checkpoint_between_two_entries_of_the_log_has_an_entry_of_its_own(
    pretext_config, tmp_path
):
    """No loss is lost, and none counted twice: two entries are of the steps of one."""
    train(pretext_config)
    halted = moved(pretext_config, tmp_path / "halted")
    with pytest.raises(SystemExit):
        train(halted, interrupt_at(3))
    train(halted)
    assert steps(halted) == [2, 3, 4, 6, 8, 10, 12]
    both, (third, fourth) = entries(pretext_config)[1], entries(halted)[1:3]
    for key in ("loss", "agr", "gradient_norm"):
        assert both[key] == pytest.approx((third[key] + fourth[key]) / 2)
    assert entries(pretext_config)[2]["loss"] == entries(halted)[3]["loss"]


@pytest.mark.parametrize("times", [1, 2])
def test_sigterm_saves_and_ends_with_143(pretext_config, tmp_path, capsys, times):
    """Also where it comes twice: some batch systems signal a process and its parent."""

    def sabotage(model):
        for _ in range(times):
            interrupt_at(2, signal.SIGTERM)(model)

    with pytest.raises(SystemExit, match="143"):
        train(pretext_config, sabotage)
    assert "stopped after step 2; the same command goes on" in capsys.readouterr().out
    assert run_folder.read(tmp_path / "run")["step"] == 2


def test_a_last_step_that_does_not_fit_is_refused(pretext_config, tmp_path, capsys):
    """After 20 of 24 images there is no step of 8 left, and so no end of the epoch."""
    with pytest.raises(SystemExit):
        train(pretext_config, interrupt_at(5), num_epoch=1)
    with pytest.raises(UserError, match="less than a step of 8 images; go on with steps of 4"):
        train(pretext_config, num_epoch=1, batch_size=8)
    train(pretext_config, num_epoch=1, batch_size=2)
    assert "going on with steps of 2 images, so far 4: at image 20" in capsys.readouterr().out
    assert run_folder.read(tmp_path / "run")["step"] == 5 + 2


def test_a_finished_run_says_that_nothing_is_left(pretext_config, capsys):
    """Also one of more epochs than are asked for."""
    train(pretext_config, num_epoch=1)
    for _ in range(2):
        capsys.readouterr()
        train(pretext_config, num_epoch=1)
        assert "nothing is left to do" in capsys.readouterr().out
        with pytest.raises(SystemExit):
            train(pretext_config, interrupt_at(2))


def test_a_checkpoint_of_an_earlier_version_is_told_from_others(pretext_config, tmp_path):
    train(pretext_config, num_epoch=1)
    state = checkpoints.read(tmp_path / "run/latest.pth")
    del state["processes"]
    checkpoints.write(tmp_path / "run/latest.pth", state)
    with pytest.raises(UserError, match="earlier version of the code, lacks processes"):
        train(pretext_config)


def test_going_on_with_other_data_is_said(pretext_config, tmp_path, capsys):
    folder = draw_tiles(tmp_path / "drawn", 24) / "images"
    pretext_config["train_cfg"]["train_data"]["data_path"] = str(folder)
    with pytest.raises(SystemExit):
        train(pretext_config, interrupt_at(2))
    (folder / "tile_000.jpg").unlink()
    train(pretext_config)
    assert "going on with 23 images, so far 24" in capsys.readouterr().err


def test_a_changed_network_is_refused_and_a_changed_rate_is_said(pretext_config, tmp_path, capsys):
    for key, value in ((None, None), ("lr", 1e-4), ("weight_decay", 0.5)):
        if key:
            pretext_config["train_cfg"]["optimizer"][key] = value
        with pytest.raises(SystemExit):
            train(pretext_config, interrupt_at(2))
    assert "going on with train_cfg.optimizer.lr=0.0001, so far 0.0005" in capsys.readouterr().err
    state = run_folder.read(tmp_path / "run")
    assert state["optimizer"]["param_groups"][0]["weight_decay"] == 0.5
    pretext_config["agr_head_cfg"] = None
    pretext_config["train_cfg"]["optimizer"]["name"] = "SGD"
    pretext_config["train_cfg"]["log"]["log_step"] = 3
    refused = r"agr_head_cfg was .* and is now None, train_cfg.optimizer.name was"
    with pytest.raises(UserError, match=refused):
        train(pretext_config)
    assert "going on with train_cfg.log.log_step=3, so far 2" in capsys.readouterr().err


# What is written.


def test_the_newest_checkpoints_stay_and_the_one_of_the_highest_score(pretext_config, tmp_path):
    pretext_config["train_cfg"]["checkpoints"] |= dict(max_keep=2, save_step=1)
    scores = [0.2, 0.7, 0.7, 0.5]
    coming = iter(scores)
    train(pretext_config, num_epoch=4, evaluate=lambda: {"miou": next(coming)})
    names = sorted(path.name for path in (tmp_path / "run").glob("*.pth"))
    assert names == ["best.pth", "epoch_0003.pth", "epoch_0004.pth", "latest.pth"]
    assert not list((tmp_path / "run").glob(".*"))
    assert checkpoints.read(tmp_path / "run/best.pth")["step"] == 12
    assert run_folder.read(tmp_path / "run")["best"] == 0.7
    written = entries(pretext_config)
    assert [entry["val_miou"] for entry in written if "val_miou" in entry] == scores
    rates = [entry["lr"] for entry in written if "lr" in entry]  # as the schedule says
    assert rates == pytest.approx([5e-4] * 6 + [5e-4 * 0.95] * 6)


def test_mid_epoch_checkpoints_come_by_the_clock(pretext_config, tmp_path):
    pretext_config["train_cfg"]["checkpoints"] |= dict(save_step=100, save_minutes=1e-9)
    seen = []

    def look(number, losses, model):
        seen.append((tmp_path / "run/latest.pth").exists())
        return losses

    train(pretext_config, changing(look), num_epoch=1)
    assert seen[:2] == [False, True]


def test_metrics_hold_the_contract_s_keys_and_event_files_the_same_scalars(pretext_config):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(pretext_config)
    written = entries(pretext_config)
    assert steps(pretext_config) == [2, 4, 6, 8, 10, 12]
    keys = ["step", "epoch", "lr", "loss", "inpainting", "agr", "exemplar"]
    keys += ["gradient_norm", "share_inpainting", "share_agr", "share_exemplar"]
    keys += ["images_per_second", "data_wait", "watching", "memory_gb"]
    assert list(written[0]) == keys
    total = sum(written[0][task] for task in ("inpainting", "agr", "exemplar"))
    assert written[0]["loss"] == pytest.approx(total)
    assert 0 <= written[0]["data_wait"] < 1
    events = EventAccumulator(pretext_config["train_cfg"]["log"]["log_path"])
    events.Reload()
    points = [(event.step, event.value) for event in events.Scalars("losses/agr")]
    assert points == [(entry["step"], pytest.approx(entry["agr"])) for entry in written]


def test_the_backbone_is_exported_before_the_checkpoint_that_says_so(pretext_config, tmp_path):
    """A crash in between repeats the export; the other way round would lose it."""
    seen = []

    def export(place):
        latest = run_folder.read(tmp_path / "run")
        reached = place.step, place.epoch + 1, place.images
        seen.append((*reached, latest and latest["step"]))

    train(pretext_config, export=export)
    assert seen == [(6, 1, 24, None), (12, 2, 48, 6)]


def test_a_validation_without_labels_is_an_error(pretext_config, tmp_path):
    with pytest.raises(UserError, match="val_data: no pixel"):
        train(pretext_config, evaluate=lambda: {"miou": None})
    assert not (tmp_path / "run/best.pth").exists()


def test_a_new_run_puts_the_metrics_of_another_aside(pretext_config, tmp_path):
    train(pretext_config, num_epoch=1)
    first = entries(pretext_config)
    other = moved(pretext_config, tmp_path / "other")
    other["train_cfg"]["log"] = pretext_config["train_cfg"]["log"]
    train(other, num_epoch=1)
    aside = (tmp_path / "run/log/metrics.1.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in aside] == first
    assert len(entries(pretext_config)) == 3


def test_compiled_training_keeps_plain_keys(pretext_config, tmp_path, monkeypatch):
    """`compile` goes to torch.compile with its mode; the checkpoint has no `_orig_mod.`."""
    modes = []

    def compiled(module, mode):
        modes.append(mode)
        return nn.Sequential(module)  # another module around the same weights

    monkeypatch.setattr(torch, "compile", compiled)
    train(pretext_config, num_epoch=1, compile="max-autotune")
    assert modes == ["max-autotune"]
    assert set(run_folder.read(tmp_path / "run")["model"]) == set(TinyNet().state_dict())


def test_a_machine_that_cannot_compile_is_told_with_the_key(pretext_config, monkeypatch):
    def backend(graph, inputs):
        raise RuntimeError("No working C++ compiler\nfound")

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    step, settings = step_of(TinyNet(), compile=True), dict(batch_size=4)
    dataset = images_of(pretext_config)
    batch = collate([dataset[(0, index)] for index in range(settings["batch_size"])])
    with pytest.raises(
        UserError, match=r"train_cfg.compile=True: .*compiler found.*; leave it out"
    ):
        step.forward_backward(batch)


# What is not finite, and what cannot be read.


def spoiled(*numbers: int, task: str | None = None, by: float = math.nan):
    """Losses of these calls, of one task or of all, that are no numbers."""

    def change(number, losses, model):
        hit = number in numbers
        return {k: v + by if hit and task in (None, k) else v for k, v in losses.items()}

    return changing(change)


def test_a_loss_that_is_not_finite_stops_and_names_step_and_files(pretext_config, tmp_path):
    with pytest.raises(UserError, match=r"step 9: loss inpainting.*tile_\d+\.jpg"):
        train(pretext_config, spoiled(9))
    state = checkpoints.read(tmp_path / "run/latest.pth")
    assert state["step"] == 6
    assert all(value.isfinite().all() for value in state["model"].values())


def test_a_step_that_is_not_finite_is_left_out_where_that_is_allowed(pretext_config, capsys):
    """Weights and statistics, which such images spoil as well, stay as they were before it; step,
    tasks and files are named."""

    def sabotage(model):
        numbers = itertools.count(1)

        def spoil(module, inputs) -> dict:
            anchor = inputs[0]["anchor"].float()
            factor = torch.nan if next(numbers) == 3 else 1.0
            return inputs[0] | {"anchor": anchor * factor}

        model.register_forward_pre_hook(spoil)

    model = train(pretext_config, sabotage, max_skipped_steps=1)
    said = capsys.readouterr().out
    assert "step 3: loss inpainting, agr, exemplar is not finite, left out (1 of at most 1)" in said
    assert said.count("tile_") >= 4
    assert all(value.isfinite().all() for value in model.state_dict().values())
    assert model.body[1].num_batches_tracked == 2 * (12 - 1)
    assert steps(pretext_config) == [2, 4, 6, 8, 10, 12]


def test_more_such_steps_than_are_allowed_stop_the_run(pretext_config, tmp_path, capsys):
    """Those before a stop count too, and infinite losses of a finite gradient."""
    with pytest.raises(UserError, match=r"step 8: .* max_skipped_steps=1 are left out already"):
        train(pretext_config, spoiled(3, 8, task="agr", by=math.inf), max_skipped_steps=1)
    assert "step 3: loss agr is not finite, left out (1 of at most 1)" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"step 7: .* max_skipped_steps=1 are left out already"):
        train(pretext_config, spoiled(1), max_skipped_steps=1)
    assert run_folder.read(tmp_path / "run")["step"] == 6


def test_weights_that_are_not_finite_are_never_saved(pretext_config, tmp_path):
    """Statistics too, which no loss or gradient of training shows."""

    def spoil(number, losses, model):
        if number == 12:
            model.body[1].running_mean.data.fill_(torch.nan)
        return losses

    with pytest.raises(UserError, match="step 12: weights are not finite"):
        train(pretext_config, changing(spoil))
    assert checkpoints.read(tmp_path / "run/latest.pth")["step"] == 6


def test_a_gradient_that_is_not_finite_is_named_with_its_step_and_files(pretext_config):
    """Not the next step's losses, which it spoils."""

    def spoil(number, losses, model):
        if number == 7:
            weight = model.agr.weight
            handle = weight.register_hook(lambda gradient: gradient * math.inf)
            weight.register_post_accumulate_grad_hook(lambda _: handle.remove())
        return losses

    pretext_config["train_cfg"]["log"]["log_step"] = 6
    with pytest.raises(UserError, match="step 7: the gradient is not finite") as error:
        train(pretext_config, changing(spoil))
    keys = list(KeySampler(24, 4, 6, 0, 12, seed=0))[6]
    files = {f"tile_{index:03d}.jpg" for _, index in keys}
    assert set(re.findall(r"tile_\d+\.jpg", str(error.value))) == files


def test_embeddings_all_alike_are_warned_of_once(pretext_config, capsys):
    torch.manual_seed(0)
    dataset, model = images_of(pretext_config), build_pretext(pretext_config)
    monitor = BatchMonitor(model, list("abcdef"))
    seen = monitor.observe(collate([dataset[(0, i)] for i in range(8)]), {}, None)
    assert seen.figures["embedding_std"] > 0.005
    assert not seen.warnings
    assert model.training
    nn.init.zeros_(model.exemplar_head.fc[-1].weight)  # every image has the bias as its embedding
    model.exemplar_head.requires_grad_(False)
    train(pretext_config, build=lambda config: model, num_epoch=1, monitors=[monitor])
    said = capsys.readouterr().err
    assert said.count("warning: the embeddings of all images are nearly the same") == 1
    assert all(entry["embedding_std"] < 1e-3 for entry in entries(pretext_config))


def test_skipped_files_are_counted_logged_and_limited(pretext_config, tmp_path, capsys):
    folder = draw_tiles(tmp_path / "broken", 24) / "images"
    pretext_config["train_cfg"]["train_data"] |= dict(data_path=str(folder), on_bad_image="skip")
    (folder / "tile_003.jpg").write_bytes(b"")
    train(pretext_config)
    said = capsys.readouterr().out
    assert said.count("skipped, cannot be read") == 1
    assert "tile_003.jpg" in said
    (folder / "tile_004.jpg").write_bytes(b"")
    with pytest.raises(UserError, match="2 files cannot be read, more than 1 %"):
        train(moved(pretext_config, tmp_path / "second"))


# Settings.


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (dict(optimizer=dict(name="Adam", lr=-1.0)), "train_cfg.optimizer: Invalid learning rate"),
        (dict(num_workers=-1), "num_workers=-1"),
        (dict(seed=-1), "seed=-1"),
        (dict(clip_grad_norm=0.0), "clip_grad_norm=0.0"),
        (dict(seed=2**63), "train_cfg.seed=9223372036854775808: must be 0 to 2^63 - 1"),
        (dict(device="tpu"), "not supported; set auto, cpu, cuda or mps"),
        (dict(num_step=3), "either num_epoch or num_step"),
        (dict(log=dict(log_path="x", log_step=0)), "log.log_step=0"),
        (dict(log=dict(log_path="x", vis_step=-1)), "log.vis_step=-1"),
        (dict(checkpoints=dict(checkpoints_path="x", max_keep=0)), "checkpoints.max_keep=0"),
        (dict(checkpoints=dict(checkpoints_path="x", save_minutes=0)), "save_minutes=0"),
        (dict(lr_schedule=dict(name="stepLR", step_size=0)), "train_cfg.lr_schedule: step_size=0"),
        (dict(batch_size=32), "batch_size=32 (x accumulate_steps=1, x 1 processes): only"),
        (dict(batch_size=8, accumulate_steps=4), "only 24 images"),
        (dict(device="cuda", compile="reduce-overhead", accumulate_steps=2), "cannot add up"),
    ],
)
def test_settings_that_cannot_train_are_named_and_leave_nothing(
    pretext_config, tmp_path, monkeypatch, changes, said
):
    monkeypatch.chdir(tmp_path)
    if "compile" in changes:
        monkeypatch.setattr(train_step, "choose_device", torch.device)
    with pytest.raises(UserError) as error:
        train(pretext_config, **changes)
    assert said in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_settings_can_be_copied_with_another_value(pretext_config):
    settings = loop_settings(pretext_config)
    changed = replace(settings, batch_size=2)
    assert (changed.batch_size, changed.log) == (2, settings.log)
    with pytest.raises(UserError, match="batch_size=0"):
        replace(settings, batch_size=0)


def test_a_folder_that_cannot_be_written_is_named(pretext_config, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"checkpoints_path=.*cannot write there"):
        train(moved(pretext_config, tmp_path / "file/run"))


def test_a_dry_run_writes_nothing(pretext_config, tmp_path, capsys):
    task = Task(TinyNet(), images_of(pretext_config), collate)
    rehearse(task, loop_settings(pretext_config))
    assert "one step:" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


def test_a_dry_run_whose_loss_is_not_finite_is_refused(pretext_config):
    task = Task(TinyNet(), images_of(pretext_config), collate)
    nn.init.constant_(next(task.model.parameters()), math.nan)
    with pytest.raises(UserError, match="is not finite in the second step"):
        rehearse(task, loop_settings(pretext_config))


def test_a_run_leaves_the_caller_s_alarm():
    signal.setitimer(signal.ITIMER_REAL, 100)
    with signals():
        pass
    assert signal.setitimer(signal.ITIMER_REAL, 0)[0] > 0


def test_cuda_without_cuda_says_what_to_set():
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    with pytest.raises(UserError, match=r"--set train_cfg\.device=auto"):
        choose_device(f"cuda:{count}")
    with pytest.raises(UserError, match=r"train_cfg\.device='gpu'"):
        choose_device("gpu")
    assert choose_device("auto").type == ("cuda" if count else "cpu")


# Steps and schedules.


def test_accumulated_steps_see_all_their_batches(pretext_config):
    """Two halves of a step give the gradient of their mean loss."""
    model, dataset = TinyNet(), images_of(pretext_config)
    model.body[3].p = 0.0
    halves = [collate([dataset[(0, i)] for i in part]) for part in ((0, 1), (2, 3))]
    step, weight = step_of(model), next(model.parameters())
    for half in halves:
        step.forward_backward(half, 0.5)
    accumulated = weight.grad.clone()
    expected = sum(torch.autograd.grad(sum(model(half).values()), weight)[0] for half in halves)
    torch.testing.assert_close(accumulated, expected / 2)


class Biases(nn.Module):
    """The same logits at each pixel."""

    def __init__(self):
        super().__init__()
        self.logits, self.loss = nn.Parameter(torch.zeros(2)), SegmentationLoss()

    def forward(self, batch):
        label = batch["label"]
        logits = self.logits.view(1, 2, 1, 1).expand(len(label), 2, *label.shape[1:])
        return {"cross_entropy": self.loss(logits, label)}


def test_accumulated_batches_count_alike_however_few_of_their_pixels_have_a_label():
    """The gradient of a bias at 0 is 1/2 less the share of its class: those of 7 pixels of the one
    class and of 500 of the other undo each other."""
    step, labels = step_of(Biases()), torch.full((2, 30, 30), 255, dtype=torch.uint8)
    labels[0].view(-1)[:7] = 0
    labels[1].view(-1)[:500] = 1
    for label in labels:
        step.forward_backward({"label": label[None]}, 0.5)
    torch.testing.assert_close(step.model.logits.grad, torch.zeros(2))
    step.optimizer.zero_grad()
    step.forward_backward({"label": labels})
    large = (500 - 7) / 507 / 2
    torch.testing.assert_close(step.model.logits.grad, torch.tensor([large, -large]))


def test_schedules_are_what_their_formulas_say():
    step_lr = SCHEDULES["stepLR"](step_size=2, gamma=0.95)
    factors = [step_lr(0, 100, epoch) for epoch in range(6)]
    assert factors == pytest.approx([1, 1, 0.95, 0.95, 0.95**2, 0.95**2])
    cosine = SCHEDULES["cosine"](warmup_steps=4, min_factor=0.1)
    values = [cosine(step, 24, 0) for step in (0, 3, 4, 14, 24)]
    assert values == pytest.approx([0.25, 1, 1, 0.55, 0.1])
    poly = SCHEDULES["poly"](power=0.9)
    assert [poly(step, 10, 0) for step in (0, 5, 10)] == pytest.approx([1, 0.5**0.9, 0])


READINGS = ("item", "tolist", "__bool__", "__float__", "__int__", "cpu", "numpy")


def test_no_step_reads_a_value_off_the_device(pretext_config, tmp_path, monkeypatch):
    """On a GPU each reading is a wait. Runs of 4 and of 12 steps, one entry and one save each, read
    as often."""
    calls = []
    for name in READINGS:
        method = getattr(torch.Tensor, name)

        def counting(tensor, *args, method=method, name=name, **options):
            calls.append(name)
            return method(tensor, *args, **options)

        monkeypatch.setattr(torch.Tensor, name, counting)
    counts = []
    for number in (4, 12):
        calls.clear()
        config = moved(pretext_config, tmp_path / str(number))
        config["train_cfg"]["log"] |= dict(log_step=100)
        config["train_cfg"]["checkpoints"] |= dict(save_step=100)
        train(config, num_epoch=None, num_step=number)
        counts.append(len(calls))
    assert counts[0] == counts[1] > 0


@pytest.mark.parametrize("size", [1, 2, 1000, 70_001])
def test_an_epoch_s_order_is_numpy_s_permutation_in_half_the_memory(size):
    """Of which checkpoints of before have seen a part."""
    order = epoch_order(3, 5, size)
    assert np.array_equal(order, np.random.default_rng([3, 5]).permutation(size))
    assert order.nbytes == 4 * size
