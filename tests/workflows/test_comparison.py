"""What a grid of cells says: intervals, paired differences, the answer in words, tables, curves."""

import csv
import io
import math

import cv2
import numpy as np
import pytest

from SSLRemoteSensing.workflows.label_efficiency.comparison import (
    T_95,
    answer_sentence,
    estimate_interval,
    paired_gap,
    scores_of,
    t_quantile,
)
from SSLRemoteSensing.workflows.label_efficiency.curves import draw_curves, draw_panel
from SSLRemoteSensing.workflows.label_efficiency.tables import csv_text, markdown


def cell(init, fraction, seed, miou, **more) -> dict:
    """A row; `miou` in per cent, None for a cell that failed."""
    scores = dict(mf1=0.5, oa=0.5, kappa=0.5, per_class={"road": dict(iou=0.25)})
    done = dict(all=scores | dict(miou=None if miou is None else miou / 100))
    row = dict(init=init, fraction=fraction, seed=seed, lr=None, chosen=True, val_miou=None)
    row |= dict(status="done", error="", tiles=round(100 * fraction), steps=7, seconds=1.5)
    row |= dict(split="test", protocols=done, commit="abc", device="a GPU")
    if miou is None:
        row |= dict(status="failed", error="weights: no", protocols={}, split="")
    return row | more


def cells(init, values: dict) -> list[dict]:
    """Rows from fraction -> values of seeds 0, 1, 2..."""
    return [
        cell(init, fraction, seed, value)
        for fraction, of_seeds in values.items()
        for seed, value in enumerate(of_seeds)
    ]


RANDOM = cells("random", {0.1: [50, 52, 51], 1: [70, 71, 72]})


def told(*rows, baseline="random", metric="miou") -> str:
    return "\n".join(answer_sentence(rows, baseline, metric, "all"))


def fields(markdown_text: str) -> list[list[str]]:
    """The fields of all its tables, row by row."""
    rows = [line.split("|")[1:-1] for line in markdown_text.splitlines() if line.startswith("|")]
    return [[field.strip() for field in row] for row in rows]


def density(t: np.ndarray, df: int) -> np.ndarray:
    scale = math.lgamma((df + 1) / 2) - math.lgamma(df / 2) - math.log(df * math.pi) / 2
    return np.exp(scale - (df + 1) / 2 * np.log1p(t**2 / df))


@pytest.mark.parametrize(("df", "quantile"), T_95)
def test_95_percent_of_student_s_t_lie_within_the_quantile(df, quantile):
    t, step = np.linspace(0, quantile, 200_001, retstep=True)
    values = density(t, df)
    inside = 2 * step * (values.sum() - (values[0] + values[-1]) / 2)
    assert inside == pytest.approx(0.95, abs=1e-5)


def test_a_quantile_that_is_not_listed_is_on_the_safe_side():
    assert t_quantile(24) == t_quantile(20) > t_quantile(25)
    assert t_quantile(10_000) == 1.98 > 1.95996


def test_mean_and_interval_are_those_of_the_textbook():
    found = estimate_interval([0.50, 0.53, 0.56])
    assert found.mean == pytest.approx(0.53)
    assert found.half == pytest.approx(4.3027 * 0.03 / math.sqrt(3))
    assert found.count == 3


def test_one_seed_has_no_interval_and_none_no_mean():
    assert estimate_interval([0.4]).half is None
    assert not estimate_interval([0.4]).excludes_zero()
    assert estimate_interval([]) is None


def test_the_interval_covers_the_mean_95_times_in_100():
    rng = np.random.default_rng(0)
    draws = [estimate_interval(values) for values in rng.normal(2, 3, (4000, 3))]
    covered = np.mean([abs(one.mean - 2) <= one.half for one in draws])
    assert covered == pytest.approx(0.95, abs=0.012)


def test_differences_are_taken_seed_by_seed_over_the_seeds_of_both():
    """Seeds that are all hard or all easy for both do not widen the interval."""
    found = paired_gap({0: 0.50, 1: 0.60, 2: 0.70, 7: 0.1}, {2: 0.67, 0: 0.49, 1: 0.58, 3: 0.99})
    assert found.count == 3
    assert found.mean == pytest.approx(0.02)
    assert found.half == pytest.approx(4.3027 * 0.01 / math.sqrt(3))
    assert paired_gap({0: 0.5}, {1: 0.5}) is None


def test_only_finished_and_chosen_cells_are_in_a_mean():
    rows = [
        cell("ours", 0.1, 0, 50), cell("ours", 0.1, 1, 60, chosen=False),
        cell("ours", 0.1, 2, 70, status="unscored"), cell("ours", 0.1, 3, None),
        cell("ours", 0.2, 4, 80),
    ]  # fmt: skip
    assert scores_of(rows, "ours", 0.1, "miou", "all") == {0: 0.5}


def test_the_smallest_fraction_as_good_as_random_with_all_labels_is_named():
    ours = cells("ours", {0.1: [69, 70.5, 70.5], 0.2: [71, 72.1, 73.2], 1: [75, 76, 77]})
    text = told(*RANDOM, *ours)
    assert "random with all labels: mIoU 71.00 ± 2.48 % (3 seeds)." in text
    # 71-70, 72.1-71, 73.2-72: mean 1.1, spread 0.1, half 4.3027 x 0.1 / sqrt 3 = 0.248
    assert (
        "ours needs 20 % of the labels to be as good as random with all: paired difference "
        "+1.10 ± 0.25 points over 3 seeds, the interval excludes 0." in text
    )
    # -1, -0.5, -1.5: mean -1, half 1.24: the upper end is above 0
    assert "cannot be told from 0 with as few as 10 % (-1.00 ± 1.24 points)" in text
    assert "as good as random with all holds here: with 20 % the whole interval is above 0." in text
    # 69-50, 70.5-52, 70.5-51; and 5 at all labels
    assert "ours minus random: +19.00 ± 1.24 (10 %), +5.00 ± 0.00 (100 %) points." in text


def test_a_difference_that_chance_may_make_is_told_as_that():
    ours = cells("ours", {0.5: [70.5, 70, 73]})  # +0.5, -1, +1: 0.17 ± 2.59
    text = told(*RANDOM, *ours)
    assert "ours needs at most 50 % of the labels" in text
    assert "+0.17 ± 2.59 points over 3 seeds, the interval includes 0." in text
    assert "neither shown nor refuted here: with 50 % the mean is above, while the" in text


def test_a_claim_that_fails_is_told():
    ours = cells("ours", {0.1: [60, 61.1, 62], 0.5: [68, 69.1, 70], 1: [69, 70.1, 71]})
    text = told(*RANDOM, *ours)
    assert "ours is at no fraction of the grid as good as random with all labels" in text
    assert "it comes nearest with 100 %: paired difference -0.97 ± 0.14 points" in text
    assert "cannot be told from 0" not in text
    assert "does not hold here: with 10 % and 50 % the whole interval is below 0." in text


def test_means_below_within_the_interval_neither_show_nor_refute():
    ours = cells("ours", {0.1: [60, 61.1, 62], 0.5: [69, 71.5, 70.5]})  # -1, 0.5, -1.5
    text = told(*RANDOM, *ours)
    assert "neither shown nor refuted here: with 50 % the mean is below, while the" in text
    assert "cannot be told from 0 with as few as 50 % (-0.67 ± 2.59 points)" in text


def test_a_curve_that_falls_again_is_told():
    ours = cells("ours", {0.1: [71, 72, 73], 0.2: [70, 70, 70], 0.5: [75, 75, 75]})
    assert "With 20 % its mean is below again." in told(*RANDOM, *ours)


def test_the_control_random_itself_with_fewer_labels_is_told():
    text = told(*RANDOM, *cells("random", {0.5: [70, 72, 72]}))
    assert "random itself needs 50 % of the labels to be as good as with all" in text
    assert "random itself is at no smaller fraction as good; it comes nearest" in told(*RANDOM)


def test_all_labels_are_named_as_such():
    text = told(*RANDOM, *cells("ours", {1: [71, 72, 73]}))
    assert "ours needs all labels to be as good as random with all" in text
    assert "is not tested: no such cell has finished" in text


def test_the_claim_is_about_10_to_50_percent():
    text = told(*RANDOM, *cells("ours", {0.05: [71, 72, 73], 0.6: [71, 72, 73]}))
    assert "ours needs at most 5 % of the labels" in text
    assert "is not tested" in text


def test_a_missing_seed_leaves_its_pair_out():
    """A mean over other seeds would be compared with another draw of tiles."""
    ours = cells("ours", {0.1: [71, 72, None]})
    assert "+1.00 ± 0.00 points over 2 seeds" in told(*RANDOM, *ours)


def test_one_seed_is_told():
    one = [row for row in RANDOM if row["seed"] == 0]
    text = told(*one, *cells("ours", {0.1: [71]}))
    assert "There is one seed only: no interval" in text
    assert "random with all labels: mIoU 70.00 % (1 seed)." in text
    assert "paired difference +1.00 points, one seed, no interval" in text
    assert "cannot be judged by one seed; by this one it is above with 10 %." in text
    assert "ours minus random: +21.00 (10 %) points" in text
    below = told(*one, *cells("ours", {0.1: [60]}))
    assert "cannot be judged by one seed; by this one it is below." in below
    assert "cannot be told from 0" not in below


def test_what_cannot_be_answered_is_told():
    ours = cells("ours", {0.1: [60, 61, 62]})
    said = told(*ours, baseline=None)
    assert "No initialisation of the grid is random" in said
    assert "--against NAME" in said
    few = [row for row in RANDOM if row["fraction"] < 1]
    text = told(*few, *ours)
    assert "random with all labels is not in the grid (--fractions ... 1)" in text
    assert "ours minus random: +10.00 ± 2.48 (10 %) points" in text  # 10, 9, 11
    text = told(*few, cell("random", 1, 0, None), *ours)
    assert "random with all labels has not finished" in text


def test_seeds_that_share_nothing_are_told():
    text = told(*RANDOM, cell("ours", 0.1, 9, 75))
    assert "ours: no finished cell shares a seed with random" in text
    assert "is not tested" in text


def test_another_metric_and_its_name():
    assert "random with all labels: kappa 50.00 ± 0.00 %" in told(*RANDOM, metric="kappa")


def test_the_table_of_cells_reads_back():
    rows = [cell("ours", 0.1, 0, 50), cell("random", 1, 0, None)]
    ours, failed = csv.DictReader(io.StringIO(csv_text(rows)))
    assert (ours["init"], ours["fraction"], ours["status"]) == ("ours", "0.1", "done")
    assert float(ours["all.miou"]) == 0.5
    assert float(ours["all.iou.road"]) == 0.25
    assert (ours["tiles"], ours["steps"], ours["seconds"], ours["split"]) == (
        "10",
        "7",
        "1.5",
        "test",
    )
    assert (failed["status"], failed["error"], failed["all.miou"]) == ("failed", "weights: no", "")


def test_the_table_of_means_marks_failed_cells_and_surely_different_ones():
    ours = cells("ours", {0.1: [61, 64, None], 1: [None, None, None]})
    text = markdown("demo", ["the answer"], ["a fact"], [*RANDOM, *ours], "random")
    lines = text.splitlines()
    assert lines[:3] == ["# Label efficiency: demo", "", "- the answer"]
    assert "- a fact" in lines
    assert "- ours, 10 %, seed 2: weights: no" in lines
    table = fields(text)
    assert table[0] == ["labels", "10 % (10 tiles)", "100 % (100 tiles)"]
    assert table[2] == ["random", "51.0 ± 2.5", "71.0 ± 2.5"]
    assert table[3] == ["ours", "62.5 ± 19.1 (2 of 3)", "failed"]
    assert table[4] == ["random - random with all", "**-20.0 ± 2.5**", ""]
    assert "bold where the interval excludes 0" in text
    assert table[5] == ["ours - random", "**+11.5 ± 6.4**", ""]
    assert table[6][0] == "ours - random with all"
    for heading in ("mIoU", "mF1", "overall accuracy", "kappa"):
        assert f"### {heading} in %, protocol `all`" in lines


def test_the_tables_do_not_repeat_what_two_protocols_share_by_definition():
    rows = [cell("random", 1, 0, 50)]
    rows[0]["protocols"]["mean_of_foreground_eroded"] = rows[0]["protocols"]["all"]
    text = markdown("demo", [], [], rows, "random")
    assert "mF1 in %, protocol `mean_of_foreground_eroded`" in text
    assert "kappa in %, protocol `mean_of_foreground_eroded`" not in text
    assert "random - random" not in text  # one fraction: nothing to set it against


def test_where_random_needs_no_more_labels_the_claim_says_nothing():
    """Whatever the weights: the grid's labels are not what limits it."""
    random = cells("random", {0.1: [71.5, 72.6, 73.5], 1: [70, 71, 72]})
    text = told(*random, *cells("ours", {0.1: [71, 72.1, 73]}))
    assert (
        "holds here: with 10 % the whole interval is above 0. But random itself needs no more "
        in text
    )
    assert "than 10 %: more labels are of no use in this grid" in text
    below = told(*random, *cells("ours", {0.1: [60, 61.1, 62]}))
    assert "does not hold here" in below
    assert "no use in this grid" not in below


def test_fractions_that_have_not_finished_are_told_to_be_unknown():
    ours = cells("ours", {0.1: [None] * 3, 0.2: [71, 72.1, 73]})
    text = told(*RANDOM, *ours)
    assert "ours needs 20 % of the labels" in text
    assert "With 10 % it is not known: cells have not finished." in text


def test_one_seed_decides_nothing_where_others_have_intervals():
    falls = cells("ours", {0.1: [51], 0.5: [60, 61.1, 62]})
    assert "does not hold here: with 50 % the whole interval is below 0." in told(*RANDOM, *falls)
    rises = cells("ours", {0.1: [71], 0.5: [60, 61.1, 62]})
    assert "does not hold here: with 50 % the whole interval is below 0." in told(*RANDOM, *rises)


def test_no_finished_cell_is_not_one_seed():
    none = [cell(init, f, s, None) for init in ("random", "ours") for f in (0.1, 1) for s in (0, 1)]
    assert "one seed" not in told(*none)


def test_the_table_of_learning_rates_shows_the_chosen_one_bold():
    rows = [
        cell("ours", 0.1, seed, 50, lr=lr, chosen=lr == 0.01, val_miou=10 * lr + seed / 100)
        for lr in (0.01, 0.001)
        for seed in (0, 1)
    ]
    table = fields(markdown("demo", [], [], rows, None))
    assert table[0] == ["mIoU on validation", "lr 0.001", "lr 0.01"]
    assert table[2] == ["ours, 10 %", "1.5 ± 6.4", "**10.5 ± 6.4**"]


def test_a_panel_has_a_log_axis_and_an_interval_an_initialisation():
    from matplotlib.figure import Figure

    rows = [*RANDOM, *cells("ours", {0.1: [69, 70, 71], 1: [71, 72, 76]})]
    axes = Figure().subplots()
    draw_panel(axes, rows, "random", "miou", "all")
    assert axes.get_xscale() == "log"
    shaded = [one.get_paths()[0].vertices for one in axes.collections]
    assert len(shaded) == 2
    # 51 ± 2.48, 71 ± 2.48; and 70 ± 2.48, 73 ± 6.57
    ranges = [(48.516, 73.484), (66.427, 79.573)]
    for vertices, (low, high) in zip(shaded, ranges, strict=True):
        assert vertices[:, 1].min() == pytest.approx(low, abs=0.01)
        assert vertices[:, 1].max() == pytest.approx(high, abs=0.01)


@pytest.mark.parametrize("protocols", [["all"], ["all", "eroded", "foreground", "clutter"]])
def test_curves_are_drawn_with_intervals_on_a_log_axis(tmp_path, protocols):
    rows = [*RANDOM, *cells("ours", {0.01: [40, 41, None], 0.1: [None] * 3, 1: [71, 73, 72]})]
    for row in rows:
        if row["protocols"]:
            row["protocols"] = dict.fromkeys(protocols, row["protocols"]["all"])
    draw_curves(rows, "random", "miou", "all", "demo", tmp_path / "curves.png")
    picture = cv2.imread(str(tmp_path / "curves.png"))
    assert picture.shape[0] > 500
    blue, grey = np.array([0xB2, 0x72, 0x00]), np.array([0x55, 0x55, 0x55])
    for colour in (blue, grey):
        assert (np.abs(picture.astype(int) - colour).max(2) < 12).sum() > 200


@pytest.mark.parametrize("name", ["ours {}", "with weights of the images' statistics, frozen {}"])
def test_a_legend_of_many_or_long_names_is_not_cut_off(tmp_path, name):
    rows = list(RANDOM)
    for number in range(12):
        rows += cells(name.format(number), {0.1: [60, 61, 62]})
    draw_curves(rows, "random", "miou", "all", "demo", tmp_path / "curves.png")
    legend = cv2.imread(str(tmp_path / "curves.png"), 0)[-60:]
    assert legend.min() < 100
    assert legend[:, :4].min() == legend[:, -4:].min() == 255
