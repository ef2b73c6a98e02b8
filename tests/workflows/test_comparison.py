"""What a grid of cells says: intervals, paired differences, its one sentence, tables, curves."""

import csv
import io
import math

import cv2
import numpy as np
import pytest
from matplotlib.figure import Figure

from SSLRemoteSensing.workflows.label_efficiency.comparison import (
    T_95,
    Results,
    answer_sentence,
    estimate_interval,
    paired_gap,
    t_quantile,
)
from SSLRemoteSensing.workflows.label_efficiency.curves import draw_curves, draw_panel
from SSLRemoteSensing.workflows.label_efficiency.tables import (
    csv_text,
    markdown,
    network_table,
    score_tables,
)


def cell(init, fraction, seed, miou, **more) -> dict:
    """A row; `miou` in per cent, None for a cell that failed."""
    scores = dict(mf1=0.5, oa=0.5, kappa=0.5, per_class={"road": dict(iou=0.25)})
    done = dict(all=scores | dict(miou=None if miou is None else miou / 100))
    row = dict(init=init, fraction=fraction, seed=seed, lr=None, chosen=True, val_miou=None)
    row |= dict(status="done", error="", tiles=round(100 * fraction), steps=7, seconds=1.5)
    row |= dict(split="test", protocols=done, commit="abc", device="a GPU")
    row |= dict(step_ms=1250.0, weights="")
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


def answer(*rows, baseline="random", metric="miou") -> str:
    return answer_sentence(Results(rows, baseline), metric, "all")


def table_md(*rows, baseline="random") -> str:
    results = Results(rows, baseline)
    tables = score_tables(results, "miou", "all")
    networks = network_table(results, {"random": ("resnet18", 12_345_678, 2.5e9)})
    return markdown("demo", ["yes"], ["a fact"], results, tables, networks)


def fields(markdown_text: str) -> list[list[str]]:
    """The fields of all its tables, row by row."""
    lines = [line for line in markdown_text.splitlines() if line[:2] == "| " and line[2] != "-"]
    return [[field.strip() for field in line.split("|")[1:-1]] for line in lines]


@pytest.mark.parametrize(("df", "quantile"), T_95)
def test_95_percent_of_student_s_t_lie_within_the_quantile(df, quantile):
    """By the integral of its density, from Simpson's points."""
    t, step = np.linspace(0, quantile, 200_001, retstep=True)
    scale = math.lgamma((df + 1) / 2) - math.lgamma(df / 2) - math.log(df * math.pi) / 2
    values = np.exp(scale - (df + 1) / 2 * np.log1p(t**2 / df))
    inside = 2 * step * (values.sum() - (values[0] + values[-1]) / 2)
    assert inside == pytest.approx(0.95, abs=1e-5)


def test_a_quantile_that_is_not_listed_is_on_the_safe_side():
    assert t_quantile(24) == t_quantile(20) > t_quantile(25)
    assert t_quantile(10_000) == 1.98 > 1.95996


def test_mean_and_interval_are_those_of_the_textbook():
    interval = estimate_interval([0.50, 0.53, 0.56])
    assert (interval.mean, interval.count) == (pytest.approx(0.53), 3)
    assert interval.half == pytest.approx(4.3027 * 0.03 / math.sqrt(3))
    assert f"{interval:.1f}, {interval:+.2f}" == "53.0 ± 7.5, +53.00 ± 7.45"
    single = estimate_interval([0.4])
    assert (single.half, single.excludes_zero(), f"{single:.1f}") == (None, False, "40.0")
    assert estimate_interval([]) is None


def test_differences_are_taken_seed_by_seed_over_the_seeds_of_both():
    """Seeds that are all hard or all easy for both do not widen the interval."""
    gap = paired_gap({0: 0.50, 1: 0.60, 2: 0.70, 7: 0.1}, {2: 0.67, 0: 0.49, 1: 0.58, 3: 0.99})
    assert (gap.mean, gap.count) == (pytest.approx(0.02), 3)
    assert gap.half == pytest.approx(4.3027 * 0.01 / math.sqrt(3))
    assert paired_gap({0: 0.5}, {1: 0.5}) is None


def test_only_finished_and_chosen_cells_are_in_a_mean():
    rows = [cell("ours", 0.1, 0, 50), cell("ours", 0.1, 1, 60, chosen=False)]
    rows += [cell("ours", 0.1, 2, 70, status="unscored"), cell("ours", 0.1, 3, None)]
    results = Results([*rows, cell("ours", 0.2, 4, 80)], None)
    assert results.scores("ours", 0.1, "miou", "all") == {0: 0.5}


@pytest.mark.parametrize(
    ("ours", "entry"),
    [
        # 71-70, 72.1-71, 73.2-72: mean 1.1, spread 0.1, half 4.3027 x 0.1 / sqrt 3 = 0.248
        ({0.1: [69, 70.5, 70.5], 0.2: [71, 72.1, 73.2], 1: [75, 76, 77]}, "20 % (+1.10 ± 0.25)"),
        ({0.5: [70.5, 70, 73]}, "50 % (+0.17 ± 2.59)"),  # which chance may make
        ({0.1: [71, 72, 73], 0.2: [70, 70, 70]}, "10 % (+1.00 ± 0.00)"),
        ({0.1: [60, 61, 62], 1: [69, 70.1, 71]}, "none (nearest with 100 %: -0.97 ± 0.14)"),
        ({1: [71, 72, 73]}, "100 % (+1.00 ± 0.00)"),
        ({0.1: [71, 72, None]}, "10 % (+1.00 ± 0.00)"),  # a seed without its pair is left out
        ({0.1: [71, None, None]}, "10 % (+1.00)"),
        ({0.1: [None] * 3, 0.2: [71, 72, 73]}, "20 % (+1.00 ± 0.00)"),
        ({0.1: [None, None, None, 75]}, "unknown (no finished cell shares a seed with them)"),
    ],
)
def test_the_smallest_fraction_as_good_as_random_with_all_labels_is_named(ours, entry):
    text = answer(*RANDOM, *cells("ours", ours))
    assert "as good as random with all (mIoU 71.00 ± 2.48 %, 3 seeds)" in text
    assert text.endswith(f"points: random 100 % (+0.00 ± 0.00), ours {entry}.")


def test_the_sentence_is_of_the_metric_has_a_control_and_no_intervals_of_one_seed():
    assert "random 50 % (+0.33 ± 1.43)" in answer(*RANDOM, *cells("random", {0.5: [70, 72, 72]}))
    assert "kappa 50.00 ± 0.00 %" in answer(*RANDOM, metric="kappa")
    rows = [row for row in RANDOM if row["seed"] == 0]
    text = answer(*rows, *cells("ours", {0.1: [71]}))
    assert "(mIoU 70.00 %, 1 seed, so without intervals)" in text
    assert "ours 10 % (+1.00)." in text


@pytest.mark.parametrize(
    ("rows", "baseline", "name"),
    [
        ([], None, "random weights"),
        ([row for row in RANDOM if row["fraction"] < 1], "random", "random"),
        ([cell("random", 1, 0, None)], "random", "random"),
    ],
)
def test_without_the_baseline_with_all_labels_nothing_is_answered(rows, baseline, name):
    text = answer(*rows, *cells("ours", {0.1: [60, 61, 62]}), baseline=baseline)
    assert text.startswith(f"There is no result of {name} with all labels")
    assert "--against NAME" in text
    assert "--fractions ... 1" in text


def test_the_table_of_cells_reads_back():
    rows = [cell("ours", 0.1, 0, 50), cell("random", 1, 0, None)]
    ours, failed = csv.DictReader(io.StringIO(csv_text(rows)))
    expected = {"init": "ours", "fraction": "0.1", "status": "done", "tiles": "10", "steps": "7"}
    expected |= {"seconds": "1.5", "split": "test", "all.miou": "0.5", "all.iou.road": "0.25"}
    assert expected.items() <= ours.items()
    assert (failed["status"], failed["error"], failed["all.miou"]) == ("failed", "weights: no", "")


def test_the_table_of_means_marks_failed_cells_and_surely_different_ones():
    text = table_md(*RANDOM, *cells("ours", {0.1: [61, 64, None], 1: [None, None, None]}))
    lines = text.splitlines()
    assert lines[:3] == ["# Label efficiency: demo", "", "- yes"]
    assert {"- a fact", "- ours, 10 %, seed 2: weights: no"} <= set(lines)
    assert "bold where the interval excludes 0" in text
    assert fields(text)[:6] == [
        ["labels", "10 % (10 tiles)", "100 % (100 tiles)"],
        ["random", "51.0 ± 2.5", "71.0 ± 2.5"],
        ["ours", "62.5 ± 19.1 (2 of 3)", "failed"],
        ["random - random with all", "**-20.0 ± 2.5**", ""],
        ["ours - random", "**+11.5 ± 6.4**", ""],
        ["ours - random with all", "-8.0 ± 12.7", ""],
    ]
    for heading in ("mIoU", "mF1", "overall accuracy", "kappa"):
        assert f"### {heading} in %, protocol `all`" in lines


def test_frozen_starts_are_set_against_the_frozen_baseline():
    probed = cells("random.frozen", {0.1: [30, 30, 31]}) + cells("ours.frozen", {0.1: [40, 39, 41]})
    table = fields(table_md(*RANDOM, *cells("ours", {0.1: [49, 51, 50]}), *probed))
    end = table.index(table[0], 1)  # of the first table, mIoU's
    gaps = {line[0]: line[1] for line in table[:end] if line[0].startswith("ours")}
    assert gaps["ours - random"] == "**-1.0 ± 0.0**"
    assert gaps["ours.frozen - random.frozen"] == "**+9.7 ± 1.4**"
    assert gaps["ours.frozen: as random.frozen with"] == "> 10 %"
    assert "ours.frozen - random" not in gaps
    # Without a frozen baseline there is nothing to set it against.
    alone = fields(table_md(*RANDOM, *cells("ours.frozen", {0.1: [40, 39, 41]})))
    assert not any(line[0].startswith("ours.frozen ") for line in alone)


def test_starts_with_unlabelled_tiles_are_set_against_themselves_without():
    rows = RANDOM + cells("ours", {0.1: [40, 39, 41]})
    rows += cells("random.unlabelled", {0.1: [41, 41, 42]})
    rows += cells("ours.unlabelled", {0.1: [43, 42, 44]})
    table = fields(table_md(*rows))
    end = table.index(table[0], 1)  # of the first table, mIoU's
    gaps = {line[0]: line[1] for line in table[:end]}
    assert gaps["ours.unlabelled - ours"] == "**+3.0 ± 0.0**"
    assert gaps["random.unlabelled - random"].startswith("**-9")
    assert not any(name.startswith("ours.unlabelled - random") for name in gaps)


def test_a_start_and_its_frozen_self_share_a_colour():
    rows = [*RANDOM, *cells("ours", {0.1: [69, 70, 71]}), *cells("other", {0.1: [60, 61, 62]})]
    rows += cells("random.frozen", {0.1: [30, 30, 31]}) + cells("ours.frozen", {0.1: [40, 39, 41]})
    axes = Figure().subplots()
    draw_panel(axes, Results(rows, "random"), "miou", "all")
    lines = {line.get_label(): (line.get_color(), line.get_linestyle()) for line in axes.lines}
    colours = [lines[name][0] for name in ("ours", "other", "random")]
    assert len(set(colours)) == 3
    for name in ("ours", "random"):
        assert (lines[name][1], lines[f"{name}.frozen"]) == ("-", (lines[name][0], ":"))


def test_the_tables_do_not_repeat_what_two_protocols_share_by_definition():
    row = cell("random", 1, 0, 50)
    row["protocols"]["mean_of_foreground_eroded"] = row["protocols"]["all"]
    text = table_md(row)
    assert "mF1 in %, protocol `mean_of_foreground_eroded`" in text
    assert "kappa in %, protocol `mean_of_foreground_eroded`" not in text
    assert "random - random" not in text  # one fraction: nothing to set it against


def test_the_table_of_learning_rates_shows_the_chosen_one_bold():
    rows = [
        cell("ours", 0.1, seed, 50, lr=lr, chosen=lr == 0.01, val_miou=10 * lr + seed / 100)
        for lr in (0.01, 0.001)
        for seed in (0, 1)
    ]
    table = fields(table_md(*rows, baseline=None))
    assert table[0] == ["mIoU on validation", "lr 0.001", "lr 0.01"]
    assert table[1] == ["ours, 10 %", "1.5 ± 6.4", "**10.5 ± 6.4**"]


def test_a_panel_has_a_log_axis_and_an_interval_an_initialisation():
    rows = [*RANDOM, *cells("ours", {0.1: [69, 70, 71], 1: [71, 72, 76]})]
    axes = Figure().subplots()
    draw_panel(axes, Results(rows, "random"), "miou", "all")
    assert axes.get_xscale() == "log"
    shaded = [shape.get_paths()[0].vertices for shape in axes.collections]
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
    draw_curves(Results(rows, "random"), "miou", "all", "demo", tmp_path / "curves.png")
    picture = cv2.imread(str(tmp_path / "curves.png"))
    assert picture.shape[0] > 500
    for colour in ((0xB2, 0x72, 0x00), (0x55, 0x55, 0x55)):  # blue, grey
        assert (np.abs(picture.astype(int) - colour).max(2) < 12).sum() > 200


@pytest.mark.parametrize("name", ["ours {}", "with weights of the images' statistics, frozen {}"])
def test_a_legend_of_many_or_long_names_is_not_cut_off(tmp_path, name):
    ours = [cells(name.format(number), {0.1: [60, 61, 62]}) for number in range(12)]
    results = Results(sum(ours, RANDOM), "random")
    draw_curves(results, "miou", "all", "demo", tmp_path / "curves.png")
    legend = cv2.imread(str(tmp_path / "curves.png"), 0)[-60:]
    assert legend.min() < 100
    assert legend[:, :4].min() == legend[:, -4:].min() == 255


def test_networks_stand_beside_the_scores_with_size_and_time():
    """A gain may only be that of a bigger network."""
    text = table_md(*RANDOM)
    assert "| random | resnet18 | 12.3 M     | 2.5          | 1,250     |" in text
