"""What the cells of a label-efficiency grid say together: means, intervals, and one sentence.

Cells of one seed are pairs: they share the draw of tiles and the start of the decoder. Differences
are therefore taken seed by seed, over the seeds that both sides have.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

FROZEN = ".frozen"  # ends the name of an initialisation whose backbone is not trained
UNLABELLED = ".unlabelled"  # and of one that tiles without labels train too
METRICS = {"miou": "mIoU", "mf1": "mF1", "oa": "overall accuracy", "kappa": "kappa"}

# Two-sided 95 % quantiles of Student's t by degrees of freedom. For one that is not listed the next
# smaller one stands, whose interval is a little wider.
T_95 = (
    (1, 12.7063), (2, 4.3027), (3, 3.1825), (4, 2.7765), (5, 2.5706), (6, 2.4470), (7, 2.3647),
    (8, 2.3061), (9, 2.2622), (10, 2.2282), (11, 2.2010), (12, 2.1789), (13, 2.1604), (14, 2.1448),
    (15, 2.1315), (16, 2.1200), (17, 2.1099), (18, 2.1010), (19, 2.0931), (20, 2.0860),
    (25, 2.0596), (30, 2.0423), (40, 2.0211), (60, 2.0003), (120, 1.9800),
)  # fmt: skip


@dataclass(frozen=True)
class Interval:
    """A mean over seeds.

    Attributes:
        half: half the width of its 95 % interval; None where there is one seed.
        count: number of seeds.
    """

    mean: float
    half: float | None
    count: int

    def excludes_zero(self) -> bool:
        return self.half is not None and abs(self.mean) > self.half

    def __format__(self, form: str) -> str:
        """Mean and half width in per cent, each number as `form` has it: '51.2 ± 3.0'."""
        text = f"{100 * self.mean:{form}}"
        return text if self.half is None else f"{text} ± {100 * self.half:{form.lstrip('+')}}"


def t_quantile(df: int) -> float:
    """The 97.5 % quantile of Student's t, at most a few per cent too large."""
    return next(quantile for degrees, quantile in reversed(T_95) if degrees <= df)


def estimate_interval(values: Sequence[float]) -> Interval | None:
    """Mean and 95 % interval of `values`, one a seed; None where there are none."""
    count = len(values)
    if count == 0:
        return None
    mean = math.fsum(values) / count
    if count == 1:
        return Interval(mean, None, 1)
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    return Interval(mean, t_quantile(count - 1) * spread / math.sqrt(count), count)


@dataclass(frozen=True)
class Results:
    """The rows of a grid, and the initialisation that the others are compared with.

    A row is a dict of one cell: init, fraction, seed, lr, status, error, tiles, steps, seconds,
    split, chosen, val_miou, protocols (name -> scores as in results.json, shares of one), and
    scenes (name -> confusion matrix), None where tiles were scored. In
    means stand the rows with status 'done' that are chosen: without a search for the learning rate,
    all; with one, those with the chosen rate.
    """

    rows: Sequence[dict]
    baseline: str | None

    @property
    def inits(self) -> list[str]:
        return list(dict.fromkeys(row["init"] for row in self.rows))

    def baseline_of(self, init: str) -> str | None:
        """The initialisation that `init` is set against: one with tiles without labels against the
        same without, frozen ones against the frozen baseline; None where that has no cells."""
        name = self.baseline and self.baseline + (FROZEN if init.endswith(FROZEN) else "")
        name = init.removesuffix(UNLABELLED) if init.endswith(UNLABELLED) else name
        return name if name in self.inits else None

    @property
    def tiles(self) -> dict[float, int]:
        """Number of tiles with labels by fraction, ascending."""
        return dict(sorted((row["fraction"], row["tiles"]) for row in self.rows))

    @property
    def finished(self) -> list[dict]:
        """The rows that stand in means."""
        return [row for row in self.rows if row["status"] == "done" and row["chosen"]]

    @property
    def protocols(self) -> list[str]:
        return list(dict.fromkeys(name for row in self.finished for name in row["protocols"]))

    def scores(self, init: str, fraction: float, metric: str, protocol: str) -> dict[int, float]:
        """`metric` of the finished cells of (init, fraction), by seed."""
        scores = {
            row["seed"]: row["protocols"].get(protocol, {}).get(metric)
            for row in rows_at(self.finished, init, fraction)
        }
        return {seed: value for seed, value in scores.items() if value is not None}

    def scene_counts(self, init: str, fraction: float) -> dict[int, dict[str, np.ndarray]]:
        """Confusion matrices by scene of the finished cells of (init, fraction), by seed."""
        rows = rows_at(self.finished, init, fraction)
        return {row["seed"]: row["scenes"] for row in rows if row.get("scenes")}


def plain_name(init: str) -> str:
    """The start that `init` is of, however it is trained."""
    return init.removesuffix(FROZEN).removesuffix(UNLABELLED)


def rows_at(rows: Sequence[dict], init: str, fraction: float) -> list[dict]:
    return [row for row in rows if (row["init"], row["fraction"]) == (init, fraction)]


def paired_gap(ours: dict[int, float], theirs: dict[int, float]) -> Interval | None:
    """Mean of ours - theirs over the seeds that both have; None where they share none."""
    return estimate_interval([ours[seed] - theirs[seed] for seed in ours if seed in theirs])


def equal_share(score: float, curve: dict[float, float]) -> float | None:
    """The smallest share of the labels at which `curve` (share -> score) reaches `score`.

    Between two measured shares the curve is taken as a straight line over the logarithm of the
    share. None where it does not reach it with any; the smallest measured share where that is as
    good already.
    """
    shares = sorted(curve)
    if shares and curve[shares[0]] >= score:
        return shares[0]
    for low, high in pairwise(shares):
        if curve[low] < score <= curve[high]:
            part = (score - curve[low]) / (curve[high] - curve[low])
            return low * (high / low) ** part
    return None


def answer_sentence(results: Results, metric: str, protocol: str) -> str:
    """The fewest labels with which each initialisation is as good as the baseline with all of them.

    As good means: the mean of the paired differences to it is at least 0. The baseline's own entry
    is the control: where it needs no more labels, the grid says nothing of the initialisations.
    """
    name = results.baseline or "random weights"
    full_scores = results.scores(results.baseline, 1.0, metric, protocol)
    level = estimate_interval(list(full_scores.values()))
    if level is None:
        return (
            f"There is no result of {name} with all labels to compare with; it takes --init "
            f"random=random, or --against NAME, and a cell of all labels (--fractions ... 1)."
        )
    entries = []
    for init in results.inits:
        gaps = {}
        for fraction in results.tiles:
            gap = paired_gap(results.scores(init, fraction, metric, protocol), full_scores)
            if gap is not None:
                gaps[format_percent(fraction)] = gap
        if not gaps:
            entries.append(f"{init} unknown (no finished cell shares a seed with them)")
            continue
        # The first without a deficit, or else that with the smallest.
        share, gap = min(gaps.items(), key=lambda entry: max(0, -entry[1].mean))
        is_good = gap.mean >= 0
        entries.append(
            f"{init} {share} ({gap:+.2f})"
            if is_good
            else f"{init} none (nearest with {share}: {gap:+.2f})"
        )
    seeds = "1 seed, so without intervals" if level.count == 1 else f"{level.count} seeds"
    return (
        f"Fewest labels of the grid with which each is as good as {name} with all "
        f"({METRICS[metric]} {level:.2f} %, {seeds}), with the paired difference in points: "
        f"{', '.join(entries)}."
    )


def format_percent(fraction: float) -> str:
    return f"{100 * fraction:.6g} %"
