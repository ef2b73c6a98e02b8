"""What a run would be refused for, and two steps of it, measured; nothing is written."""

import math
import time

from SSLRemoteSensing.core.console import warn
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.core.files import require_folder
from SSLRemoteSensing.core.machine import used_memory
from SSLRemoteSensing.core.workers import shared_memory_remark
from SSLRemoteSensing.training import run_folder
from SSLRemoteSensing.training.meters import STOPPED
from SSLRemoteSensing.training.plan import images_per_step, make_plan
from SSLRemoteSensing.training.resume import compare_cards, json_card
from SSLRemoteSensing.training.schedules import build_schedule
from SSLRemoteSensing.training.settings import LoopSettings
from SSLRemoteSensing.training.task import Task
from SSLRemoteSensing.training.train_step import TrainStep, named_memory


def rehearse(task: Task, settings: LoopSettings) -> None:
    """Run two steps of `task`; print sizes, losses, memory and what the second step took. What
    `engine.fit` refuses before it goes on from a checkpoint is refused."""
    images = len(task.dataset)
    per_step = images_per_step(images, settings)
    build_schedule(settings.lr_schedule)
    for key, folder in settings.folders().items():
        require_folder(folder, key)
        run_folder.require_free(folder, key)
    most = settings.checkpoints.max_keep
    run_folder.require_room(task.model, settings, min(most, settings.num_epoch or most))
    saved_run = run_folder.find_state(settings.folder)
    if saved_run is not None:
        compare_cards(saved_run.state["card"], json_card(task.card), saved_run.path, says=False)
    del saved_run  # its copy of all weights
    step = TrainStep(task.model, settings, task.param_groups)
    plan = make_plan(images, per_step, settings.num_epoch, settings.num_step, None)
    print(f"{images} images, {plan.describe()}, {step.describe()}")
    batch = task.collate([task.dataset[(0, index)] for index in range(settings.batch_size)])
    for key, value in step.to_device(batch).items():
        print(f"batch: {key} {tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}")
    if remark := shared_memory_remark(batch, settings.num_workers):
        warn(remark)
    with named_memory(settings):
        losses, seconds = measure_step(step, batch, settings.accumulate_steps)
    wrong = [name for name, value in losses.items() if not math.isfinite(value)]
    if wrong and not settings.max_skipped_steps:
        raise UserError(f"loss {wrong[0]} is not finite in the second step; {STOPPED}")
    print("losses: " + ", ".join(f"{name} {value:.4f}" for name, value in losses.items()))
    memory = f"peak memory {used_memory(step.device) / 2**30:.2f} GiB"
    print(f"one step: {seconds:.3f} s, {memory}; nothing is written")


def measure_step(
    step: TrainStep, batch: dict, accumulate_steps: int
) -> tuple[dict[str, float], float]:
    """Run two steps on `batch`; losses and seconds of the second: the first one is longer."""
    for _ in range(2):
        start = time.perf_counter()
        for number in range(accumulate_steps):
            is_last = number == accumulate_steps - 1
            losses, _ = step.forward_backward(batch, 1 / accumulate_steps, is_last)
        step.update()
        values = {name: float(loss) for name, loss in losses.items()}
        seconds = time.perf_counter() - start
    return values, seconds
