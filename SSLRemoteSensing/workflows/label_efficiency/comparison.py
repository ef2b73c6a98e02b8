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


def scores_of(
    rows: Sequence[dict], init: str, fraction: float, metric: str, protocol: str
) -> dict[int, float]:
    """`metric` of the finished cells of (init, fraction), by seed."""
    scores = {}
    for row in rows:
        if (row["init"], row["fraction"]) == (init, fraction) and counts(row):
            value = row["protocols"].get(protocol, {}).get(metric)
            if value is not None:
                scores[row["seed"]] = value
    return scores


def counts(row: dict) -> bool:
    return row["status"] == "done" and row["chosen"]


def paired_gap(ours: dict[int, float], theirs: dict[int, float]) -> Interval | None:
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
    sentences = [seed_sentence(rows, metric, protocol)]
    full_scores = scores_of(rows, baseline, 1.0, metric, protocol)
    mean = estimate_interval(list(full_scores.values()))
    if mean is None:
        in_grid = any((row["init"], row["fraction"]) == (baseline, 1.0) for row in rows)
        why = "has not finished" if in_grid else "is not in the grid (--fractions ... 1)"
        sentences.append(
            f"{baseline} with all labels {why}, so it cannot be said from which fraction on an "
            f"initialisation is as good."
        )
    else:
        sentences.append(
            f"{baseline} with all labels: {METRICS[metric]} {format_level(mean)} "
            f"({format_seeds(mean.count)})."
        )
    control = {} if mean is None else gaps_to(full_scores, rows, baseline, metric, protocol)
    control.pop(1.0, None)  # with itself
    for init in inits_of(rows):
        is_baseline = init == baseline
        if mean is not None:
            gaps = control if is_baseline else gaps_to(full_scores, rows, init, metric, protocol)
            fractions = {row["fraction"] for row in rows if row["init"] == init}
            sentences.append(when_as_good(init, baseline, gaps, sorted(fractions)))
            sentences.append("" if is_baseline else verdict_sentence(init, baseline, gaps, control))
        sentences.append("" if is_baseline else same_labels(rows, init, baseline, metric, protocol))
    return [text for text in sentences if text]


def gaps_to(
    full_scores: dict[int, float], rows: Sequence[dict], init: str, metric: str, protocol: str
) -> dict[float, Interval]:
    """Fraction -> paired difference of `init` to `full_scores`, the baseline's, all labels."""
    gaps = {
        fraction: paired_gap(scores_of(rows, init, fraction, metric, protocol), full_scores)
        for fraction in fractions_of(rows)
    }
    return {fraction: gap for fraction, gap in gaps.items() if gap is not None}


def seed_sentence(rows: Sequence[dict], metric: str, protocol: str) -> str:
    seed_counts = [
        len(scores_of(rows, init, fraction, metric, protocol))
        for init in inits_of(rows)
        for fraction in fractions_of(rows)
    ]
    if max(seed_counts, default=0) != 1:
        return ""
    return "There is one seed only: no interval can be given, and any difference may be chance."


def when_as_good(
    init: str, baseline: str, gaps: dict[float, Interval], fractions: Sequence[float]
) -> str:
    """The smallest fraction at which `init` is as good as `baseline` with all labels.

    As good means: the mean of the paired differences `gaps` to it is at least 0.

    Args:
        fractions: of the grid, also those that have not finished.
    """
    is_baseline = init == baseline
    if not gaps:
        return (
            ""
            if is_baseline
            else f"{init}: no finished cell shares a seed with {baseline}, all labels."
        )
    good_fractions = [fraction for fraction, gap in gaps.items() if gap.mean >= 0]
    tied_fractions = [
        fraction for fraction, gap in gaps.items() if gap.half is not None and gap.may_reach_zero()
    ]
    if good_fractions:
        first = good_fractions[0]
        needed_labels = f"{format_percent(first)} of the labels" if first < 1 else "all labels"
        needed_labels = f"at most {needed_labels}" if first == fractions[0] < 1 else needed_labels
        text = f"{init} needs {needed_labels} to be as good as {baseline} with all"
        if is_baseline:
            text = f"{init} itself needs {needed_labels} to be as good as with all"
        text += f": {gap_text(gaps[first])}."
        later_fractions = [
            format_percent(fraction)
            for fraction in gaps
            if fraction > first and gaps[fraction].mean < 0
        ]
        if later_fractions:
            text += f" With {' and '.join(later_fractions)} its mean is below again."
    else:
        best = max(gaps, key=lambda fraction: gaps[fraction].mean)
        text = f"{init} is at no fraction of the grid as good as {baseline} with all labels"
        if is_baseline:
            text = f"{init} itself is at no smaller fraction as good"
        text += f"; it comes nearest with {format_percent(best)}: {gap_text(gaps[best])}."
    if tied_fractions and (not good_fractions or tied_fractions[0] < good_fractions[0]):
        nearest = (
            f"{format_percent(tied_fractions[0])} ({format_signed(gaps[tied_fractions[0]])} points)"
        )
        text += f" Its deficit cannot be told from 0 with as few as {nearest}."
    unknown_fractions = [
        format_percent(fraction)
        for fraction in fractions
        if fraction not in gaps and not (is_baseline and fraction == 1)
    ]
    if unknown_fractions:
        text += f" With {' and '.join(unknown_fractions)} it is not known: cells have not finished."
    return text


def verdict_sentence(
    init: str, baseline: str, gaps: dict[float, Interval], control: dict[float, Interval]
) -> str:
    """What the grid says of the claim that 10 to 50 % of the labels are enough.

    Only fractions with an interval decide. Where the baseline itself needs no more labels
    (`control`, its own differences), the claim is true of any initialisation and says nothing.
    """
    tested_gaps = {
        fraction: gap for fraction, gap in gaps.items() if CLAIMED[0] <= fraction <= CLAIMED[1]
    }
    claim = f"That {init} with 10 to 50 % of the labels is as good as {baseline} with all"
    if not tested_gaps:
        return f"{claim} is not tested: no such cell has finished."
    measured_gaps = {fraction: gap for fraction, gap in tested_gaps.items() if gap.half is not None}
    fractions_above = [
        fraction for fraction, gap in (measured_gaps or tested_gaps).items() if gap.mean >= 0
    ]
    fractions_within = [fraction for fraction, gap in measured_gaps.items() if gap.may_reach_zero()]
    winners = [fraction for fraction in fractions_above if tested_gaps[fraction].excludes_zero()]
    if not measured_gaps:
        side = (
            f"above with {' and '.join(map(format_percent, fractions_above))}"
            if fractions_above
            else "below"
        )
        text = f"{claim} cannot be judged by one seed; by this one it is {side}."
    elif winners:
        text = (
            f"{claim} holds here: with {format_percent(winners[0])} the whole interval is above 0."
        )
    elif not fractions_within:
        shares_below = " and ".join(map(format_percent, measured_gaps))
        return f"{claim} does not hold here: with {shares_below} the whole interval is below 0."
    else:
        shares = " and ".join(map(format_percent, fractions_above or fractions_within))
        text = (
            f"{claim} is neither shown nor refuted here: with {shares} the mean is "
            f"{'above' if fractions_above else 'below'}, while the interval includes 0."
        )
    controls = [
        fraction for fraction, gap in control.items() if fraction <= CLAIMED[1] and gap.mean >= 0
    ]
    if fractions_above and controls:
        text += (
            f" But {baseline} itself needs no more than {format_percent(controls[0])}: more labels "
            f"are of no use in this grid, and it shows nothing of the initialisation."
        )
    return text


def same_labels(rows: Sequence[dict], init: str, baseline: str, metric: str, protocol: str) -> str:
    differences = []
    for fraction in fractions_of(rows):
        gap = paired_gap(
            scores_of(rows, init, fraction, metric, protocol),
            scores_of(rows, baseline, fraction, metric, protocol),
        )
        if gap is not None:
            differences.append(f"{format_signed(gap)} ({format_percent(fraction)})")
    if not differences:
        return ""
    return f"With the same labels, {init} minus {baseline}: {', '.join(differences)} points."


def gap_text(gap: Interval) -> str:
    if gap.half is None:
        return f"paired difference {format_signed(gap)} points, one seed, no interval"
    verb = "excludes" if gap.excludes_zero() else "includes"
    seeds = format_seeds(gap.count)
    return f"paired difference {format_signed(gap)} points over {seeds}, the interval {verb} 0"


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
