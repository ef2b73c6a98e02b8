"""report.html: what it says, that nothing in it is taken for HTML, and how a browser shows it."""

import base64
import contextlib
import csv
import itertools
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote

import cv2
import numpy as np
import pytest
import torch
from conftest import ROOT, draw_tiles
from drawn import draw_potsdam, prepared

from SSLRemoteSensing.core.classes import IGNORE
from SSLRemoteSensing.core.config import load_config
from SSLRemoteSensing.core.errors import CannotWrite, UserError
from SSLRemoteSensing.evaluation.tile_errors import Place
from SSLRemoteSensing.inference.mapper import Mapped
from SSLRemoteSensing.inference.outputs import Outputs
from SSLRemoteSensing.reports import examples, results
from SSLRemoteSensing.reports.charts import histogram, line_chart, share_bars
from SSLRemoteSensing.reports.examples import Example, bands_shown, draw
from SSLRemoteSensing.reports.grid_report import CellEntry, GridTable, write_grid_report
from SSLRemoteSensing.reports.map_page import page_of, require_own_page, write_map_page
from SSLRemoteSensing.reports.run_report import read_log, start_of
from SSLRemoteSensing.workflows import finetuning
from SSLRemoteSensing.workflows.finetuning import is_scored, score_checkpoint, write_scores
from SSLRemoteSensing.workflows.segmentation import open_network

NAME = "report.html"
VOID = {"meta", "link", "img", "br"}
RGB = ["red", "green", "blue"]
EVIL_CLASSES = ["<script>alert(1)</script>", 'a"b&c $x_$ <img src=x onerror=alert(2)>']
EVIL_FILE = """t <b>&"'#%41? {n}é.png"""
LOG = [
    {"step": 2, "epoch": 0, "lr": 0.001, "loss": 1.5},
    {"step": 2, "epoch": 0, "val_miou": 0.25},
    {"step": 4, "epoch": 1, "lr": 0.0005, "loss": 0.75},
    {"step": 4, "epoch": 1, "val_miou": 0.5},
]


class Reader(HTMLParser):
    """Elements and text of a page; each that is opened must be closed in its turn."""

    def __init__(self, page: str | Path):
        super().__init__()
        self.open, self.found, self.texts = [], [], []
        self.feed(page.read_text() if isinstance(page, Path) else page)
        assert self.open == []

    def handle_starttag(self, name, attributes):
        self.found.append((name, dict(attributes)))
        if name not in VOID:
            self.open.append(name)

    def handle_endtag(self, name):
        assert name in VOID or self.open.pop() == name, name

    def handle_data(self, text):
        if self.open and self.open[-1] != "style":
            self.texts.append(text)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def all(self, name: str, key: str | None = None) -> list:
        found = [attributes for found, attributes in self.found if found == name]
        return found if key is None else [attributes.get(key) for attributes in found]


def scored_run(folder: Path, config: dict) -> Path:
    """The folder of a run that was scored with an untrained network."""
    run = folder / "run"
    (run / "log").mkdir(parents=True)
    (run / "log/metrics.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in LOG))
    config["backbone_cfg"]["name"] = "resnet18"
    small = dict(batch_size=4, num_workers=0, device="cpu", precision="fp32")
    paths = dict(checkpoints=dict(checkpoints_path=str(run)), log=dict(log_path=str(run / "log")))
    config["train_cfg"] |= small | paths
    task = open_network(config, trains=False)
    card = task.model.backbone.card() | {"classes": task.classes, "config": task.config}
    shares = np.arange(1, len(task.classes) + 1) / sum(range(len(task.classes) + 1))
    card |= {"label_shares": {"tiles": 5, "shares": shares.tolist()}}
    card |= {"train_tiles": {"used": 5, "of": 50}}
    contents = {"model": task.model.state_dict(), "step": 4}
    torch.save(contents | {"card": json.loads(json.dumps(card))}, run / "best.pth")
    with pytest.MonkeyPatch.context() as patch:  # figures take seconds, and are test_results.py's
        for name in ("draw_confusion_matrix", "draw_examples"):
            patch.setattr(results, name, draw_grey)
        write_scores(task, run / "best.pth")
    return run


def draw_grey(*arguments) -> None:
    cv2.imwrite(str(arguments[-1]), np.full((300, 500, 3), 99, np.uint8))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    """A report of two scenes of six classes, scored by windows."""
    folder = tmp_path_factory.mktemp("scenes")
    draw_potsdam(folder / "source", ("2_10", "2_13", "2_14"), size=(300, 270))
    prepared(folder, "potsdam", "--labels", "both", tile=128)
    config = load_config(ROOT / "configs/seg_potsdam_resnet50_cfg.py")
    for split in ("train", "val", "test"):
        for kind in ("image", "label"):
            path = f"{folder}/out/{kind}s/{split}"
            config["train_cfg"][f"{split}_data"][f"{kind}_path"] = path
    config["scoring_cfg"] = dict(window=128, overlap=0)
    return scored_run(folder, config)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> Path:
    """A report of tiles, classes and a run with names that are HTML."""
    folder = tmp_path_factory.mktemp("hostile <i>&'")
    draw_tiles(folder, 7)
    for part in ("images", "labels"):
        for n, file in enumerate(sorted((folder / part).iterdir())):
            file.rename(file.with_name(EVIL_FILE.format(n=n)))
    config = load_config(ROOT / "configs/demo_oam_finetune_resnet18_cfg.py")
    config |= dict(name="</title><script>alert(3)</script>", classes=EVIL_CLASSES)
    data = dict(image_path=f"{folder}/images", label_path=f"{folder}/labels", data_format="*.png")
    config["train_cfg"] |= dict(train_data=dict(data), val_data=dict(data), test_data=dict(data))
    return scored_run(folder, config)


@pytest.fixture(scope="module")
def grid(scenes, tmp_path_factory) -> Path:
    """The report of a grid with one cell that has a report, and one that failed."""
    folder = tmp_path_factory.mktemp("grid")
    shutil.copytree(scenes, folder / "cells/random_f1_s0")
    shutil.copy(scenes / "confusion_matrix.png", folder / "curves.png")
    (folder / "table.md").write_text("# table")
    head, rows = ["labels", "10 % (5 tiles)"], [["ours - <b>", "**+1.5 ± 0.2**"]]
    asked = itertools.product(("all", "all_eroded"), ("mIoU", "mF1"))
    tables = [GridTable(f"{name} in %, protocol {p}", head, rows, p) for p, name in asked]
    cells = [
        CellEntry("random, 100 %, seed 0", folder / "cells/random_f1_s0", "done", 0.4321),
        CellEntry("ours, 10 %, seed 0", folder / "cells/ours_f0.1_s0", "failed <oom>", None),
    ]
    told = ["ours needs 10 % of the labels & no more."]
    write_grid_report(folder, "demo", told, ["30 steps"], "key", tables, cells, "mIoU in %")
    return folder


def outputs_of(folder: Path, name: str) -> Outputs:
    files = folder / f"{name}.tif", folder / f"{name}_preview.png"
    return Outputs(Path(f"in/{name}.tif"), files[0], None, files[1], None)


@pytest.fixture(scope="module")
def maps(scenes, tmp_path_factory) -> Path:
    """The page of two mapped scenes, one of them by an earlier command, and of one that failed,
    whose files are those of an earlier map."""
    folder = tmp_path_factory.mktemp("maps") / "a b"
    folder.mkdir()
    plan = []
    for name in ("one <i>", "two", "three"):
        plan.append(outputs_of(folder, name))
        plan[-1].map.write_bytes(b"map")
        shutil.copy(scenes / "examples.png", plan[-1].preview)
    names = ["other", "building"]
    network = SimpleNamespace(classes=names, palette=[(255, 255, 255), (200, 60, 50)])
    made, page = [Mapped(plan[0], 20, 25, 1.0, [300, 100], names)], folder / "maps.html"
    said, remaining = ["in/three.tif: <damaged>"], [plan[0], plan[2]]
    write_map_page(page, scenes / "best.pth", network, plan, remaining, made, said)
    return folder


PAGES = [("scenes", "report.html"), ("hostile", "report.html"), ("grid", "report.html"),
         ("maps", "maps.html")]  # fmt: skip


@pytest.fixture(params=PAGES, ids=lambda page: page[0])
def page(request) -> Path:
    folder, name = request.param
    return request.getfixturevalue(folder) / name


def test_a_page_is_well_formed_small_and_links_to_files_that_are_there(page):
    """And asks for nothing else."""
    reader, text = Reader(page), page.read_text()
    assert page.stat().st_size < 5e6
    assert reader.all("script") == reader.all("link")[1:] == []
    for attributes in reader.all("img"):
        embedded = attributes["src"].startswith("data:image/")
        beside = page.parent / unquote(attributes["src"])
        assert embedded or (page.name == "maps.html" and beside.is_file())
        assert attributes["alt"].strip()
    for name, attributes in reader.found:  # nothing that runs, whatever names there are
        assert not any(key.startswith("on") for key in attributes), name
    assert not re.search(r"url\(|@import|https?://", text)
    assert set(reader.all("th", "scope")) <= {"col", "row"}
    assert len(reader.all("h1")) == 1
    ids = re.findall(r'\sid="([^"]*)"', text)
    assert len(ids) == len(set(ids))
    assert reader.all("a")
    for target in reader.all("a", "href"):
        assert not target.startswith(("/", "file:"))
        assert (page.parent / unquote(target)).is_file(), target


def test_every_score_of_results_json_is_in_the_report(scenes):
    results, reader = json.loads((scenes / "results.json").read_text()), Reader(scenes / NAME)
    assert next(iter(results["protocols"])) == "all"
    assert len(results["protocols"]) == 6
    for name, scores in results["protocols"].items():
        row = " ".join(f"{100 * scores[key]:.2f}" for key in ("miou", "mf1", "oa", "kappa"))
        assert f"{name} {row} {scores['pixels']:,}" in reader.text
        for of_class, entry in scores["per_class"].items():
            keys = ("iou", "f1", "precision", "recall")
            values = ["none" if entry[k] is None else f"{100 * entry[k]:.2f}" for k in keys]
            assert f"{of_class} {' '.join(values)} {entry['pixels']:,}" in reader.text
    matrix = np.array(results["protocols"]["all"]["confusion_matrix"])
    titles = filter(None, reader.all("td", "title"))
    told = [int(title.split()[0].replace(",", "")) for title in titles]
    assert told == matrix.ravel().tolist()
    for counts in (100 * matrix / matrix.sum(1, keepdims=True)).round(1), matrix:
        assert f"impervious surface {' '.join(f'{count:,}' for count in counts[0])}" in reader.text
    assert "5 of 50 train tiles (10 %)" in reader.text
    assert "random weights" in reader.text
    assert "best.pth, step 4, chosen by miou on val_data" in reader.text
    # Data are those that were scored, not those of the training.
    assert "Data test of potsdam: 2 scenes (" in reader.text


def test_all_tiles_are_counted_and_the_best_and_worst_of_them_shown(scenes):
    with open(scenes / "tile_errors.csv") as file:
        rows = list(csv.DictReader(file))
    scores = json.loads((scenes / "results.json").read_text())["protocols"]["all"]
    matrix = np.array(scores["confusion_matrix"])
    assert sum(int(row["scored"]) for row in rows) == scores["pixels"]
    assert sum(int(row["wrong"]) for row in rows) == matrix.sum() - matrix.trace()
    assert {row["scene"] for row in rows} == {"2_13", "2_14"}
    shares = sorted(int(row["wrong"]) / int(row["scored"]) for row in rows)
    reader = Reader(scenes / NAME)
    texts = re.findall(r"([\d.]+) % of [\d,]+ scored pixels", reader.text)
    assert len(rows) == 8  # of two scenes, each in four
    expected = shares[:2] + shares[3:5] + shares[:-3:-1]
    assert [float(text) / 100 for text in texts] == pytest.approx(expected, abs=5e-5)
    assert len(reader.all("img")) == 6 * 4


def test_names_stay_text(hostile):
    reader = Reader(hostile / NAME)
    for name in (*EVIL_CLASSES, "</title><script>alert(3)</script>"):
        assert " ".join(name.split()) in reader.text
    wanted = re.compile(re.escape(EVIL_FILE).replace(r"\{n\}", r"\d"))
    assert len(reader.all("img")) == 6 * 4  # two of each of seven tiles
    assert all(wanted.search(alt) for alt in reader.all("img", "alt"))
    assert reader.all("i") == reader.all("script") == []


def test_curves_come_of_the_log_with_the_chosen_step_marked(scenes):
    reader = Reader(scenes / NAME)
    labels = reader.all("svg", "aria-label")
    assert labels[0] == "Training loss: from 1.5 to 0.75 over 4 steps"
    assert labels[1] == "Validation mIoU: from 25 to 50 over 4 steps; dot: 50 at step 4"
    assert labels[2] == "Learning rate: from 0.001 to 0.0005 over 4 steps"
    assert "training labels impervious surface 4.76 %" in labels[4]  # 1 / 21
    for numbers in ("step Training loss 2 1.5 4 0.75", "step Validation mIoU 2 25 4 50"):
        assert numbers in reader.text


VALUES = [[0.5], [0.5, 0.5, 0.5], [0, 0], [-2, 3], [1e-7, 3e-7], [5e-5, 2e-4]]


@pytest.mark.parametrize("values", VALUES)
def test_any_values_make_a_chart_with_its_numbers(values):
    chart = line_chart("loss", list(enumerate(values)), "")
    assert "nan" not in chart.svg
    assert [float(row[1]) for row in chart.rows] == pytest.approx(values)
    texts = [text.replace("\N{MINUS SIGN}", "-") for text in Reader(chart.svg).texts]
    heights = [float(text) for text in texts[texts.index("step 0") + 1 :] if text.strip()]
    assert len(heights) == len(set(heights))


def test_long_curves_are_drawn_as_means():
    chart = line_chart("loss", [(step, float(step % 2)) for step in range(2400)], "")
    assert (len(chart.rows), chart.rows[0]) == (240, ["4.5", "0.5"])


def test_bars_and_histograms_have_all_their_numbers():
    chart = histogram("errors", [0.01, 0.02, 0.26, 1.0], "tiles")
    assert {row[0]: row[1] for row in chart.rows if row[1] != "0"} == {
        "0 to 5 %": "2", "25 to 30 %": "1", "95 to 100 %": "1",
    }  # fmt: skip
    names = ["a" * 50, "$x_$ 漢\a", "<i>"]  # too long, no mathematics, no glyph, no XML
    chart = share_bars("shares", names, {"labels": [0.5, 0.25, 0.25], "map": [0, 0, 1]})
    assert chart.rows[2] == ["<i>", "25.00 %", "100.00 %"]
    reader = Reader(chart.svg)
    assert "$x_$ 漢? " in reader.text + " "
    assert not reader.all("i")


def test_results_of_another_checkpoint_or_scoring_are_no_end_of_a_run(scenes, tmp_path):
    results = json.loads((scenes / "results.json").read_text())
    config, path = results["config"], tmp_path / "results.json"
    assert not is_scored(path, config)
    for change, whole in (({"checkpoint": "run/epoch_0007.pth"}, False), ({}, True)):
        path.write_text(json.dumps(results | change))
        assert is_scored(path, config) == whole
    assert not is_scored(path, config | {"scoring_cfg": {"tta": True}})


def test_the_scenes_beside_the_results_sum_up_to_them(scenes, tmp_path):
    contents = json.loads((scenes / "scenes.json").read_text())
    expected = json.loads((scenes / "results.json").read_text())["protocols"]["all"]
    matrices = [np.array(scene["confusion_matrix"]) for scene in contents["scenes"]]
    assert sum(matrices).tolist() == expected["confusion_matrix"]
    assert contents["classes"] == list(expected["per_class"])
    assert (contents["split"], contents["kind"]) == ("test", "full")
    assert len({scene["name"] for scene in contents["scenes"]}) == 2
    stale = tmp_path / "scenes.json"
    stale.write_text("of an earlier scoring")
    results.write_scenes(SimpleNamespace(source=tmp_path / "best.pth", scored=None, by_scene=None))
    assert not stale.exists()  # tiles were scored


def test_a_config_that_could_not_train_can_be_scored(scenes):
    config = json.loads((scenes / "results.json").read_text())["config"]
    config["train_cfg"] |= {"num_epoch": None, "num_step": None, "batch_size": 0}
    config["train_cfg"]["log"] |= {"with_vis": True}
    opened = open_network(config, trains=False)
    assert opened.loop is None
    with pytest.raises(UserError):
        open_network(config)


def fill_disk(scoring):
    scoring.source.with_name("results.json").write_text("those of the new scoring")
    raise CannotWrite("report.html: the disk is full")


def refuse(path, key):
    raise UserError(f"{key}={path}: cannot write there")


@pytest.mark.parametrize(
    ("name", "failing", "kept"),
    [("write_results", fill_disk, False), ("make_folder", refuse, True)],
)
def test_a_page_is_never_beside_results_of_another_scoring(
    scenes, tmp_path, monkeypatch, name, failing, kept
):
    """A folder that cannot be written to is told before anything is scored."""
    scored = []
    monkeypatch.setattr(finetuning, "score", lambda *_: scored.append(1))
    monkeypatch.setattr(finetuning, name, failing)
    folder = Path(shutil.copytree(scenes, tmp_path / "run"))
    config = json.loads((folder / "results.json").read_text())["config"]
    with pytest.raises((UserError, CannotWrite)):
        score_checkpoint(config, folder / "best.pth")
    assert (folder / NAME).exists() == kept == (not scored)


@pytest.mark.parametrize(
    ("names", "count", "told"),
    [
        *((names, len(names), "") for names in (RGB, [*RGB, "infrared"], ["grey"] * 3)),
        (["band 1", "band 2", "band 3"], 3, ""),
        (["infrared", "red", "green"], 3, "Infrared, red, green are shown as red, green, blue."),
        (None, 4, "Of 4 bands the first three are shown as red, green, blue."),
        (None, 3, ""),
        (None, 2, "Of two bands the first is shown."),
        (None, 1, ""),
    ],
)
def test_bands_that_are_shown_as_other_colours_are_told(names, count, told):
    assert bands_shown(names, count).strip() == told


def test_a_log_that_is_cut_off_or_not_there_does_no_harm(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2}\n[3]\n{"step": 2, "lo')
    assert read_log(tmp_path / "metrics.jsonl") == [{"step": 1, "loss": 2}]
    assert read_log(tmp_path / "no.jsonl") == []


def test_where_a_backbone_comes_from_is_told_by_its_card(tmp_path):
    card = {"epoch": 13, "images_seen": 12345, "config": {"inpainting_head_cfg": {"name": "x"}}}
    (tmp_path / "backbone.json").write_text(json.dumps(card))
    file, facts = tmp_path / "backbone.pth", "epoch 13, 12,345 images seen, pre-trained on inpaint"
    for pretrained, told in (
        (False, "random weights"), (True, "ImageNet"), ("gone <b>.pth", "gone <b>.pth"),
        (str(file), f"{file}: {facts}"),
    ):  # fmt: skip
        assert start_of({"pretrained": pretrained}).startswith(told)


@pytest.mark.parametrize(("most", "side"), [(10**6, 300), (200_000, 256), (133_000, 128)])
def test_pictures_shrink_until_all_fit(monkeypatch, most, side):
    monkeypatch.setattr(examples, "BYTES", most)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (300, 200, 4), dtype=np.uint8)  # noise: nothing takes more
    label = rng.integers(0, 6, (300, 200), dtype=np.uint8)
    place = Place(0, 0, 0, 300, 200, 1, 0)
    example = Example(place, "x", image, label, label)
    found = draw([example], [(i, i, i) for i in range(6)])[place].values()
    assert sum(map(len, found)) <= most
    files = [base64.b64decode(source.split(",")[1]) for source in found]
    shapes = {cv2.imdecode(np.frombuffer(data, np.uint8), 1).shape for data in files}
    assert shapes == {(side, round(side * 2 / 3), 3)}


def test_the_mistake_that_is_told_is_the_most_frequent_one():
    label = np.array([[0, 0, 1, IGNORE]], np.uint8)
    place, image = Place(0, 0, 0, 1, 4, 3, 3), np.zeros((1, 4, 3), np.uint8)
    for classes, told in ((1 - label, ", 66.67 % of them road taken for roof"), (label, "")):
        example = Example(place, "x", image, label, classes)
        text = f"100.00 % of 3 scored pixels wrong{told}"
        assert example.describe(["road", "roof"]) == text


def test_a_grid_says_its_answer_and_links_each_cell_that_has_a_report(grid):
    reader = Reader(grid / NAME)
    assert "ours needs 10 % of the labels & no more." in reader.text
    assert "random, 100 %, seed 0 43.21 done" in reader.text
    assert "ours, 10 %, seed 0 none failed <oom>" in reader.text
    assert "ours - <b> +1.5 ± 0.2" in reader.text
    assert "Protocol all mF1 in %, protocol all labels" in reader.text
    assert len(reader.all("details")) == 2  # a protocol each
    targets = reader.all("a", "href")
    assert targets[:2] == ["curves.png", "cells/random_f1_s0/report.html"]
    assert not any("ours" in target for target in targets)


def test_a_page_of_maps_has_shares_errors_and_the_networks_report(maps, scenes):
    reader = Reader(maps / "maps.html")
    assert "other 75.00 300 building 25.00 100 no data 100" in reader.text
    assert "in/three.tif: <damaged>" in reader.text
    report = reader.all("a", "href")[0]
    assert (maps / unquote(report)).resolve() == (scenes / NAME).resolve()
    assert len(reader.all("table")) == 1  # of the other scene no shares are known
    names = [unquote(name) for name in reader.all("img", "src")]
    assert names == ["one <i>_preview.png", "two_preview.png"]


def test_a_page_of_somebody_else_is_not_replaced(tmp_path):
    planned, page = [outputs_of(tmp_path, name) for name in "ab"], tmp_path / "maps.html"
    assert page_of(planned[:1]) == tmp_path / "a_preview.html"
    assert page_of(planned) == page
    require_own_page(page, planned)
    network = SimpleNamespace(classes=[], palette=[])
    write_map_page(page, Path("best.pth"), network, [], [], [], [])
    require_own_page(page, planned)
    page.write_text("<html>my own</html>")
    with pytest.raises(UserError, match=r"maps\.html: is there already"):
        require_own_page(page, planned)
    page.unlink()
    page.mkdir()
    with pytest.raises(UserError, match=r"maps\.html: is there already"):
        require_own_page(page, planned)


def test_a_page_that_shows_other_maps_is_not_replaced(tmp_path):
    planned, page = [outputs_of(tmp_path, name) for name in ("a &b", "c")], tmp_path / "maps.html"
    for outputs in planned:
        outputs.preview.write_bytes(b"picture")
    network = SimpleNamespace(classes=[], palette=[])
    write_map_page(page, Path("best.pth"), network, planned, [], [], [])
    others = [outputs_of(tmp_path, name) for name in "cd"]
    with pytest.raises(UserError, match=r"maps\.html: is there already and shows .*a &b_preview"):
        require_own_page(page, others)
    for known in (planned, [*others, *planned]):
        require_own_page(page, known)


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("no chromium here; apt-get install chromium")
    flags = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync"
    flags += " --disable-background-networking --disable-component-update"
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=path, args=flags.split())
        with contextlib.closing(opened):
            yield opened


LOADED = "[...document.images].every(one => one.complete && one.naturalWidth > 0)"
SMALL = """[...document.querySelectorAll('body *')].filter(e => e.textContent.trim() &&
    parseFloat(getComputedStyle(e).fontSize) < 12).map(e => e.tagName)"""
CONTRAST = (Path(__file__).parent / "contrast.js").read_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [(1366, 768), (390, 844)], ids=["laptop", "phone"])
def test_a_browser_shows_a_page_whole(browser, page, size, scheme):
    viewport = {"width": size[0], "height": size[1]}
    context = browser.new_context(viewport=viewport, color_scheme=scheme)
    with contextlib.closing(context):
        tab = context.new_page()
        said, asked = [], []
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("dialog", lambda dialog: (said.append("dialog"), dialog.dismiss()))
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(page.as_uri())
        for picture in tab.locator("img").all():  # those that are loaded when they are seen
            picture.scroll_into_view_if_needed()
        tab.wait_for_function(LOADED, timeout=20000)
        for _ in range(2):  # folded, then with all that was folded
            assert tab.evaluate("document.documentElement.scrollWidth") <= size[0]
            assert tab.evaluate(CONTRAST) == []
            assert tab.evaluate(SMALL) == []
            tab.evaluate("document.querySelectorAll('details').forEach(e => e.open = true)")
        assert said == []
        assert all(url.startswith(("file:", "data:")) for url in asked)
