"""What is told of a run while it trains: entries of the log and pictures, and what they take."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from SSLRemoteSensing import distributed
from SSLRemoteSensing.clock import Clock
from SSLRemoteSensing.history import History
from SSLRemoteSensing.log import Log, LogSettings, Silent
from SSLRemoteSensing.step import TrainStep

MOST = 0.03  # share of the time for pictures, above which it is said what to set


@dataclass
class Entries:
    """Tells of each step that is due. All processes call it, the first one watches and writes."""

    settings: LogSettings
    total: int
    stepper: TrainStep
    history: History
    clock: Clock
    writer: Log | Silent
    watch: Callable[[dict, dict], tuple[dict, dict]] | None
    look: Callable[[Callable], tuple[dict, dict, dict]] | None
    looked: tuple[int, float] | None = None  # the last look: its step, and when it had ended

    def after(self, step: int, epoch: int, batch: dict) -> None:
        """Write what is due after `step`, whose last batch was `batch`."""
        last = step == self.total
        entry = last or step % self.settings.log_step == 0
        every = self.settings.vis_step
        look = self.look is not None and every > 0 and (last or step % every == 0)
        if not entry and not look:
            return
        if not entry:
            self.history.check(self.writer.say)  # what is not finite is nothing to look at
        figures = self.history.take(self.writer.say) if entry else {}
        counts = self.history.take_counts() if entry else {}
        seen = {}
        self.stepper.wait()  # else the time of steps still under way would count as watching
        with self.clock.watching():
            if distributed.rank() == 0 and entry and self.watch is not None:
                moved = self.stepper.to_device(batch)
                found, remarks = self.stepper.observe(self.watch, moved, counts)
                self.writer.warn(remarks)
                seen |= found
            if distributed.rank() == 0 and look:
                started = time.perf_counter()
                found, remarks, pictures = self.stepper.observe(self.look, self.stepper.to_device)
                self.writer.warn(remarks)
                seen |= found
                self.writer.show(pictures, step)
                self.writer.warn(self.cost(step, started))
            distributed.barrier()  # the others' time until here is no time of training either
        if entry:
            figures |= distributed.all_mean(self.clock.lap())
            figures["memory_gb"] = self.stepper.peak_memory() / 1e9
            figures = {"lr": self.stepper.lr()} | figures
        if figures | seen:
            self.writer.write({"step": step, "epoch": epoch} | figures | seen)

    def cost(self, step: int, started: float) -> dict[str, str]:
        """A remark where a look takes too much of the time from one to the next.

        The first one is not judged: it reads the images.
        """
        now, before, every = time.perf_counter(), self.looked, self.settings.vis_step
        self.looked = step, now
        if before is None or step - before[0] != every:
            return {}
        share = (now - started) / (now - before[1])
        if share <= MOST:
            return {}
        # With n times as many steps in between, a share s becomes s / (s + n (1 - s)).
        enough = math.ceil(every * share * (1 - MOST) / (MOST * (1 - share)))
        told = f"figures and pictures of fixed samples take {share:.0%} of the time"
        return {"cost": f"{told}; below {MOST:.0%} from train_cfg.log.vis_step={enough}"}
