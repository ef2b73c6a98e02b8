"""What the cells of a label-efficiency grid say together: means, intervals, and an answer in words.

A row is a dict of one cell: init, fraction, seed, lr, status, error, tiles, steps, seconds, split,
chosen, val_miou, and protocols (name -> scores as in results.json, shares of one). In means stand
the rows with status 'done' that are chosen: without a search for the learning rate, all; with one,
those with the chosen rate.

Cells of one seed are pairs: they share the draw of tiles and the start of the decoder. Differences
are therefore taken seed by seed, over the seeds that both sides have.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

METRICS = {"miou": "mIoU", "mf1": "mF1", "oa": "overall accuracy", "kappa": "kappa"}
CLAIMED = (0.1, 0.5)  # the claim under test: with 10 to 50 % of the labels as good as with all

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

    def may_reach_zero(self) -> bool:
        """Whether the upper end of the interval is at least 0."""
        return self.mean + (self.half or 0) >= 0


def t_quantile(df: int) -> float:
    """The 97.5 % quantile of Student's t, at most a few per cent too large."""
    return next(value for known, value in reversed(T_95) if known <= df)


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


def scores_of(
    rows: Sequence[dict], init: str, fraction: float, metric: str, protocol: str
) -> dict[int, float]:
    """`metric` of the finished cells of (init, fraction), by seed."""
    found = {}
    for row in rows:
        if (row["init"], row["fraction"]) == (init, fraction) and counts(row):
            value = row["protocols"].get(protocol, {}).get(metric)
            if value is not None:
                found[row["seed"]] = value
    return found


def counts(row: dict) -> bool:
    return row["status"] == "done" and row["chosen"]


def paired(ours: dict[int, float], theirs: dict[int, float]) -> Interval | None:
    """Mean of ours - theirs over the seeds that both have; None where they share none."""
    return estimate_interval([ours[seed] - theirs[seed] for seed in ours if seed in theirs])


def inits_of(rows: Sequence[dict]) -> list[str]:
    return list(dict.fromkeys(row["init"] for row in rows))


def fractions_of(rows: Sequence[dict]) -> list[float]:
    return sorted({row["fraction"] for row in rows})


def protocols_of(rows: Sequence[dict]) -> list[str]:
    return list(dict.fromkeys(name for row in rows if counts(row) for name in row["protocols"]))


def answer_sentence(
    rows: Sequence[dict], baseline: str | None, metric: str, protocol: str
) -> list[str]:
    """The grid's answer, a sentence or some an entry.

    Each initialisation is set against `baseline` (the one with random weights) with all labels, by
    paired differences, and against `baseline` with as many labels.
    """
    if baseline is None:
        return [
            "No initialisation of the grid is random (--init random=random), so it cannot be said "
            "from which fraction on one is as good as random with all labels, nor what the "
            "difference to random is. `--against NAME` sets the others against one of those here."
        ]
    told = [seed_sentence(rows, metric, protocol)]
    full = scores_of(rows, baseline, 1.0, metric, protocol)
    mean = estimate_interval(list(full.values()))
    if mean is None:
        there = any((row["init"], row["fraction"]) == (baseline, 1.0) for row in rows)
        why = "has not finished" if there else "is not in the grid (--fractions ... 1)"
        told.append(
            f"{baseline} with all labels {why}, so it cannot be said from which fraction on an "
            f"initialisation is as good."
        )
    else:
        told.append(
            f"{baseline} with all labels: {METRICS[metric]} {format_level(mean)} "
            f"({format_seeds(mean.count)})."
        )
    control = {} if mean is None else gaps_to(full, rows, baseline, metric, protocol)
    control.pop(1.0, None)  # with itself
    for init in inits_of(rows):
        itself = init == baseline
        if mean is not None:
            gaps = control if itself else gaps_to(full, rows, init, metric, protocol)
            asked = {row["fraction"] for row in rows if row["init"] == init}
            told.append(when_as_good(init, baseline, gaps, sorted(asked)))
            told.append("" if itself else verdict_sentence(init, baseline, gaps, control))
        told.append("" if itself else same_labels(rows, init, baseline, metric, protocol))
    return [text for text in told if text]


def gaps_to(
    full: dict[int, float], rows: Sequence[dict], init: str, metric: str, protocol: str
) -> dict[float, Interval]:
    """Fraction -> paired difference of `init` to `full`, the baseline's scores, all labels."""
    found = {
        f: paired(scores_of(rows, init, f, metric, protocol), full) for f in fractions_of(rows)
    }
    return {fraction: gap for fraction, gap in found.items() if gap is not None}


def seed_sentence(rows: Sequence[dict], metric: str, protocol: str) -> str:
    found = [
        len(scores_of(rows, init, fraction, metric, protocol))
        for init in inits_of(rows)
        for fraction in fractions_of(rows)
    ]
    if max(found, default=0) != 1:
        return ""
    return "There is one seed only: no interval can be given, and any difference may be chance."


def when_as_good(
    init: str, baseline: str, gaps: dict[float, Interval], asked: Sequence[float]
) -> str:
    """The smallest fraction at which `init` is as good as `baseline` with all labels.

    As good means: the mean of the paired differences `gaps` to it is at least 0.

    Args:
        asked: the fractions of the grid, also those that have not finished.
    """
    itself = init == baseline
    if not gaps:
        return (
            "" if itself else f"{init}: no finished cell shares a seed with {baseline}, all labels."
        )
    reached = [fraction for fraction, gap in gaps.items() if gap.mean >= 0]
    tied = [f for f, gap in gaps.items() if gap.half is not None and gap.may_reach_zero()]
    if reached:
        first = reached[0]
        enough = f"{format_percent(first)} of the labels" if first < 1 else "all labels"
        enough = f"at most {enough}" if first == asked[0] < 1 else enough
        text = f"{init} needs {enough} to be as good as {baseline} with all"
        if itself:
            text = f"{init} itself needs {enough} to be as good as with all"
        text += f": {gap_text(gaps[first])}."
        again = [format_percent(f) for f in gaps if f > first and gaps[f].mean < 0]
        if again:
            text += f" With {' and '.join(again)} its mean is below again."
    else:
        best = max(gaps, key=lambda fraction: gaps[fraction].mean)
        text = f"{init} is at no fraction of the grid as good as {baseline} with all labels"
        if itself:
            text = f"{init} itself is at no smaller fraction as good"
        text += f"; it comes nearest with {format_percent(best)}: {gap_text(gaps[best])}."
    if tied and (not reached or tied[0] < reached[0]):
        near = f"{format_percent(tied[0])} ({format_signed(gaps[tied[0]])} points)"
        text += f" Its deficit cannot be told from 0 with as few as {near}."
    unknown = [format_percent(f) for f in asked if f not in gaps and not (itself and f == 1)]
    if unknown:
        text += f" With {' and '.join(unknown)} it is not known: cells have not finished."
    return text


def verdict_sentence(
    init: str, baseline: str, gaps: dict[float, Interval], control: dict[float, Interval]
) -> str:
    """What the grid says of the claim that 10 to 50 % of the labels are enough.

    Only fractions with an interval decide. Where the baseline itself needs no more labels
    (`control`, its own differences), the claim is true of any initialisation and says nothing.
    """
    tested = {f: gap for f, gap in gaps.items() if CLAIMED[0] <= f <= CLAIMED[1]}
    claim = f"That {init} with 10 to 50 % of the labels is as good as {baseline} with all"
    if not tested:
        return f"{claim} is not tested: no such cell has finished."
    measured = {f: gap for f, gap in tested.items() if gap.half is not None}
    above = [f for f, gap in (measured or tested).items() if gap.mean >= 0]
    within = [f for f, gap in measured.items() if gap.may_reach_zero()]
    surely = [f for f in above if tested[f].excludes_zero()]
    if not measured:
        side = f"above with {' and '.join(map(format_percent, above))}" if above else "below"
        text = f"{claim} cannot be judged by one seed; by this one it is {side}."
    elif surely:
        text = (
            f"{claim} holds here: with {format_percent(surely[0])} the whole interval is above 0."
        )
    elif not within:
        below = " and ".join(map(format_percent, measured))
        return f"{claim} does not hold here: with {below} the whole interval is below 0."
    else:
        where = " and ".join(map(format_percent, above or within))
        text = (
            f"{claim} is neither shown nor refuted here: with {where} the mean is "
            f"{'above' if above else 'below'}, while the interval includes 0."
        )
    alone = [f for f, gap in control.items() if f <= CLAIMED[1] and gap.mean >= 0]
    if above and alone:
        text += (
            f" But {baseline} itself needs no more than {format_percent(alone[0])}: more labels "
            f"are of no use in this grid, and it shows nothing of the initialisation."
        )
    return text


def same_labels(rows: Sequence[dict], init: str, baseline: str, metric: str, protocol: str) -> str:
    told = []
    for fraction in fractions_of(rows):
        gap = paired(
            scores_of(rows, init, fraction, metric, protocol),
            scores_of(rows, baseline, fraction, metric, protocol),
        )
        if gap is not None:
            told.append(f"{format_signed(gap)} ({format_percent(fraction)})")
    if not told:
        return ""
    return f"With the same labels, {init} minus {baseline}: {', '.join(told)} points."


def gap_text(gap: Interval) -> str:
    if gap.half is None:
        return f"paired difference {format_signed(gap)} points, one seed, no interval"
    sees = "excludes" if gap.excludes_zero() else "includes"
    seeds = format_seeds(gap.count)
    return f"paired difference {format_signed(gap)} points over {seeds}, the interval {sees} 0"


def format_signed(gap: Interval) -> str:
    """'+1.20 ± 0.40', in points of a hundred."""
    text = f"{100 * gap.mean:+.2f}"
    return text if gap.half is None else f"{text} ± {100 * gap.half:.2f}"


def format_level(value: Interval) -> str:
    text = f"{100 * value.mean:.2f}"
    return f"{text} %" if value.half is None else f"{text} ± {100 * value.half:.2f} %"


def format_percent(fraction: float) -> str:
    return f"{100 * fraction:.6g} %"


def format_seeds(count: int) -> str:
    return "1 seed" if count == 1 else f"{count} seeds"
