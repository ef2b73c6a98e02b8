"""What tools/show_pretext.py and tools/show_labels.py draw is what training sees."""

import contextlib
import io
import runpy
import sys
from unittest import mock

import cv2
import numpy as np
import pytest
import rasterio
import torch
from conftest import ROOT, draw_tiles
from drawn import Done, draw_levir, prepare
from torch.utils.data import DataLoader

from SSLRemoteSensing.core.errors import run_command
from SSLRemoteSensing.data.pretext import PretextDataset, PretextSettings, collate
from SSLRemoteSensing.data.segmentation import SegmentationDataset, TileSettings
from SSLRemoteSensing.reports.image_grid import (
    FRAME,
    Grid,
    as_rgb,
    fitted,
    panel_scale,
    sized,
    text_width,
)
from SSLRemoteSensing.reports.label_figures import choose_tiles, hatch, overlay
from SSLRemoteSensing.training.sampler import KeySampler


@pytest.fixture
def show(tmp_path, monkeypatch):
    """Call a tool's `main` in this process; `show.picture` is what it drew, R, G, B."""
    monkeypatch.setattr("signal.signal", lambda *_: None)  # run_command would keep its own

    def call(tool: str, config: dict | None, *arguments) -> Done:
        given = [str(argument) for argument in arguments]
        if config is not None:
            file = tmp_path / "config.py"
            file.write_text(f"config = {config!r}\n")
            given += ["--config_file", str(file)]
        if "--output" not in given:
            given += ["--output", str(tmp_path / "picture.png")]
        out, err, status = io.StringIO(), io.StringIO(), 0
        with (
            mock.patch.object(sys, "argv", [tool, *given]),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            try:
                run_command(runpy.run_path(str(ROOT / f"tools/{tool}.py"))["main"])
            except SystemExit as stop:
                status = stop.code
        call.picture = None
        if status == 0:
            call.picture = cv2.imread(given[given.index("--output") + 1])[:, :, ::-1]
        return Done(status, out.getvalue(), err.getvalue())

    return call


def panel(page: np.ndarray, grid: Grid, row: int, column: int, scale: int) -> np.ndarray:
    """The pixels of a panel, each once; each must be `scale` x `scale` pixels of the page."""
    y, x = grid.corner(row, column)
    shown = page[y : y + grid.height, x : x + grid.width]
    small = shown[::scale, ::scale]
    assert np.array_equal(shown, sized(small, scale))
    return small


def pretext_grid(rows: int, side: int = 256) -> Grid:
    return Grid(side, side, rows, 4, header=2, captions=2)


def batches_of(config: dict, epoch: int, **given) -> list[dict]:
    """The batches that engine.fit's loader gives in an epoch."""
    train_cfg = config["train_cfg"]
    dataset = PretextDataset(PretextSettings(**train_cfg["train_data"]), **given)
    per_epoch = len(dataset) // train_cfg["batch_size"]
    sampler = KeySampler(
        len(dataset), train_cfg["batch_size"], per_epoch, epoch * per_epoch,
        (epoch + 1) * per_epoch, given.get("seed", 0),
    )  # fmt: skip
    return list(DataLoader(dataset, batch_sampler=sampler, collate_fn=collate))


@pytest.mark.parametrize(("epoch", "seed"), [(0, None), (1, 7)])
def test_the_rows_are_the_batches_of_training_pixel_for_pixel(show, pretext_config, epoch, seed):
    arguments = ["--samples", 6, "--epoch", epoch] + ([] if seed is None else ["--seed", seed])
    done = show("show_pretext", pretext_config, *arguments)
    assert done.returncode == 0, done.stderr
    grid = pretext_grid(6)
    assert show.picture.shape == (*grid.shape, 3)
    first, second = batches_of(pretext_config, epoch, seed=seed or 0)[:2]
    for row in range(6):
        batch, place = (first, row) if row < 4 else (second, row - 4)
        images = {
            key: batch[key][place].permute(1, 2, 0).numpy()
            for key in ("occluded", "anchor", "transformed")
        }
        for column, image in enumerate(images.values()):
            assert np.array_equal(panel(show.picture, grid, row, column, 8), image)
        weight = np.abs(images["anchor"].astype(float) - images["occluded"]).mean(2)
        drawn = panel(show.picture, grid, row, 3, 8)
        assert np.abs(drawn[:, :, 0] - 255 * weight / weight.max()).max() <= 0.51
        assert drawn[weight == weight.max()].min() == 255
        assert drawn[weight == 0].max() == 0
        name = f"tile_{int(batch['index'][place]):03d}.jpg"
        number = int(batch["transform_label"][place])
        transforms = pretext_config["train_cfg"]["train_data"]["agr_transforms_cfg"]
        called = list(transforms["transforms_cfg"])[number]
        line = f"batch {1 if row < 4 else 2}, {place + 1}: {name}, {called},"
        assert line in done.stdout


def test_the_transform_named_is_the_transform_made(show, pretext_config, tmp_path):
    folder = tmp_path / "drawn"
    folder.mkdir()
    image = np.zeros((32, 32, 3), np.uint8)
    image[:8, :16], image[8:, 24:] = (250, 0, 0), (0, 90, 200)  # no two turns or flips are alike
    for number in range(16):
        cv2.imwrite(str(folder / f"{number:02d}.png"), image)
    data = pretext_config["train_cfg"]["train_data"]
    data |= dict(data_path=str(folder), data_format="*.png", pre_transforms_cfg={})
    data["agr_transforms_cfg"]["shortcut_cfg"] = {}
    done = show("show_pretext", pretext_config, "--samples", 16)
    undo = {
        "RandomHorizontalFlip": lambda x: x[:, ::-1],
        "RandomVerticalFlip": lambda x: x[::-1],
        "Rotate_0": lambda x: x,
        "Rotate_90": lambda x: np.rot90(x, -1),
        "Rotate_180": lambda x: np.rot90(x, -2),
        "Rotate_270": lambda x: np.rot90(x, -3),
    }
    named = [line.split(", ")[2] for line in done.stdout.splitlines() if line.startswith("batch")]
    assert len(named) == 16
    assert len(set(named)) >= 4
    for row, name in enumerate(named):
        anchor, made = (panel(show.picture, pretext_grid(16), row, i, 8) for i in (1, 2))
        assert np.array_equal(anchor, image[:, :, ::-1])
        assert np.array_equal(undo[name](made), anchor)
    counts = done.stdout.split("transforms: ")[1].splitlines()[0]
    assert counts == ", ".join(f"{name} {named.count(name)}" for name in undo)


def test_a_global_batch_is_one_batch_of_the_rows(show, pretext_config):
    pretext_config["train_cfg"]["global_batch_size"] = 6
    done = show("show_pretext", pretext_config, "--samples", 7)
    assert "batch 1, 6: " in done.stdout
    assert "batch 2, 1: " in done.stdout
    pretext_config["train_cfg"] |= dict(batch_size=6)
    assert (
        f"batch 1, 2: tile_{int(batches_of(pretext_config, 0)[0]['index'][1]):03d}" in done.stdout
    )


def test_an_unreadable_image_shows_what_is_taken_in_its_place(show, pretext_config, tmp_path):
    folder = draw_tiles(tmp_path / "some", 4) / "images"
    (folder / "tile_002.jpg").write_bytes(b"")
    pretext_config["train_cfg"]["train_data"]["data_path"] = str(folder)
    done = show("show_pretext", pretext_config, "--samples", 4)
    assert done.returncode == 2
    assert "tile_002.jpg: is empty" in done.stderr
    pretext_config["train_cfg"]["train_data"]["on_bad_image"] = "skip"
    done = show("show_pretext", pretext_config, "--samples", 4)
    assert "tile_003.jpg (in place of tile_002.jpg, which cannot be read)" in done.stdout


def write_scene(path, planes: np.ndarray) -> None:
    profile = dict(driver="GTiff", width=64, height=64, count=len(planes), dtype=planes.dtype)
    where = rasterio.Affine(10, 0, 5e5, 0, -10, 5e6)
    with rasterio.open(path, "w", transform=where, crs="EPSG:32633", **profile) as file:
        file.write(planes)


@pytest.mark.parametrize("bands", [1, 4])
def test_16_bits_and_any_number_of_bands_are_shown_as_training_has_them(
    show, pretext_config, tmp_path, bands
):
    planes = np.random.default_rng(0).integers(0, 1024, (bands, 64, 64), dtype=np.uint16)
    for number in range(4):
        write_scene(tmp_path / f"{number}.tif", planes)
    pretext_config["backbone_cfg"]["in_channels"] = bands
    pretext_config["inpainting_head_cfg"]["out_channels"] = bands
    data = pretext_config["train_cfg"]["train_data"]
    data |= dict(data_path=str(tmp_path), data_format="*.tif", max_value=1023)
    done = show("show_pretext", pretext_config, "--samples", 2)
    assert done.returncode == 0, done.stderr
    anchors = batches_of(pretext_config, 0, in_channels=bands)[0]["anchor"][:2]
    for row in range(2):
        shown = panel(show.picture, pretext_grid(2), row, 1, 8)
        expected = anchors[row].permute(1, 2, 0).numpy()
        assert np.array_equal(shown, as_rgb(expected))
        assert np.array_equal(shown[:, :, 0], expected[:, :, 0])
    for band in range(bands):
        low, high = (int(f(anchors[:, band])) for f in (torch.min, torch.max))
        mean = anchors[:, band].float().mean()
        told = f"band {band + 1} of the anchors: min {low}, mean {mean:.1f}, max {high} of 255"
        assert told in done.stdout
    assert "warning" not in done.stdout
    del data["max_value"]
    done = show("show_pretext", pretext_config, "--samples", 2)
    top = int(batches_of(pretext_config, 0, in_channels=bands)[0]["anchor"][:2].max())
    assert top in (3, 4)  # 1023 of 65535
    assert f"warning: no value is above {top} of 255; set max_value" in done.stdout


def test_an_image_of_one_colour_is_warned_of(show, pretext_config, tmp_path):
    for number in range(4):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.zeros((64, 64, 3), np.uint8))
    data = dict(data_path=str(tmp_path), data_format="*.png")
    pretext_config["train_cfg"]["train_data"] |= data
    done = show("show_pretext", pretext_config, "--samples", 3)
    assert "warning: M is 0 everywhere in 3 of 3 samples, first batch 1, 1" in done.stdout
    assert panel(show.picture, pretext_grid(3), 2, 3, 8).max() == 0


def test_the_block_s_share_is_that_of_the_square_it_changed(show, pretext_config):
    """12 to 21 of 64 pixels a side by the method, seen at 32 pixels, where edges may be shared."""
    pretext_config["train_cfg"]["train_data"]["img_size"] = 64
    done = show("show_pretext", pretext_config, "--samples", 24)
    lines = [line for line in done.stdout.splitlines() if line.startswith("batch")]
    shares = [float(line.split("block ")[1].split("%")[0]) / 100 for line in lines]
    squares = np.array([side * side / 64**2 for side in range(10, 22)])
    assert len(shares) == 24
    exact = [np.abs(squares - share).min() < 6e-4 for share in shares]
    assert sum(exact) > 20  # a block's outermost row may equal the anchor's by chance
    assert max(shares) <= 21 * 21 / 64**2 + 6e-4
    told = done.stdout.split("the block covers ")[1]
    assert told.startswith(f"{min(shares):.1%} to {max(shares):.1%} of an image")


@pytest.mark.parametrize(
    ("change", "arguments", "said"),
    [
        ({}, ["--samples", 0], "--samples 0: an epoch has 1 to 24 samples"),
        ({}, ["--samples", 25], "--samples 25"),
        ({}, ["--epoch", 2], "--epoch 2: the run has the epochs 0 to 1"),
        ({}, ["--seed", -1], "train_cfg.seed=-1: must be at least 0"),
        ({}, ["--output", "grid.jpg"], "--output grid.jpg: the picture is a PNG"),
        ({}, ["--output", "/proc/none/grid.png"], "--output='/proc/none': cannot write there"),
        (dict(batch_size=25), [], "only 24 images"),
        (dict(batchsize=4), [], "did you mean 'batch_size'?"),
        ({}, ["--set", "train_cfg.train_data.data_path=gone"], "train_cfg.train_data: data_path"),
    ],
)
def test_mistakes_are_told_in_a_line(show, pretext_config, change, arguments, said):
    pretext_config["train_cfg"] |= change
    done = show("show_pretext", pretext_config, *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_config_of_the_other_kind_names_the_other_tool(show, pretext_config, seg_config):
    for tool, other, config in (
        ("show_pretext", "show_labels", seg_config),
        ("show_labels", "show_pretext", pretext_config),
    ):
        done = show(tool, config)
        assert done.returncode == 2
        assert f"tools/{other}.py shows it" in done.stderr


# ---- labels


def label_grid(rows: int, lines: int = 6, side: int = 256) -> Grid:
    return Grid(side, side, rows, 3, header=lines, captions=2)


@pytest.fixture
def corner(tmp_path):
    """A tile 4 x 4 whose upper left quarter is class 1, its last column not scored; and more."""
    for kind in ("images", "labels"):
        (tmp_path / "corner" / kind).mkdir(parents=True)
    image = np.full((8, 8, 3), (100, 60, 20), np.uint8)
    label = np.zeros((8, 8), np.uint8)
    label[:4, :4], label[:, 7] = 1, 255
    for name, values in (("a", label), ("b", label * 0), ("c", label * 0)):
        cv2.imwrite(str(tmp_path / f"corner/images/{name}.png"), image[:, :, ::-1])
        cv2.imwrite(str(tmp_path / f"corner/labels/{name}.png"), values)
    return tmp_path / "corner"


def folders(where) -> list:
    classes = ["--classes", "ground", "roof"]
    return ["--images", where / "images", "--labels", where / "labels", *classes]


def test_image_label_and_overlay_have_the_colours_of_the_legend(show, corner):
    done = show("show_labels", None, *folders(corner))
    assert done.returncode == 0, done.stderr
    grid = label_grid(3)
    assert show.picture.shape == (*grid.shape, 3)
    image = panel(show.picture, grid, 0, 0, 32)
    assert (image == (100, 60, 20)).all()
    y, x = grid.corner(0, 1)
    label = show.picture[y : y + 256, x : x + 224]  # without the column that is hatched
    ground, roof = (225, 225, 225), (31, 119, 180)
    assert (label[:128, :128] == roof).all()
    assert (label[128:] == ground).all()
    y, x = grid.corner(0, 2)
    over = show.picture[y : y + 256 : 32, x : x + 256 : 32]
    mixed = {
        colour: tuple(
            int(0.6 * a + 0.4 * b + 0.5) for a, b in zip((100, 60, 20), colour, strict=True)
        )
        for colour in (ground, roof)
    }
    assert tuple(over[1, 1]) == mixed[roof]
    assert tuple(over[6, 2]) == mixed[ground]
    for at, colour in (((3, 1), roof), ((1, 3), roof), ((4, 1), ground), ((1, 4), ground)):
        assert tuple(over[at]) == colour  # both sides of the border
    # Not scored: the image, hatched white and black.
    column = show.picture[y : y + 256, x + 224 : x + 256].reshape(-1, 3)
    assert {tuple(map(int, c)) for c in column} == {(100, 60, 20), (255,) * 3, (0,) * 3}
    swatches = show.picture[[12 + 2 * 20 + 10, 12 + 3 * 20 + 10], 12 + 7]
    assert [tuple(map(int, swatch)) for swatch in swatches] == [ground, roof]
    assert tuple(show.picture[grid.corner(1, 1)[0] - 1, grid.corner(1, 1)[1]]) == FRAME


def test_shares_are_of_the_whole_part_and_of_the_tiles_shown(show, corner):
    done = show("show_labels", None, *folders(corner), "--with", "roof")
    rows = {
        line.split("  ")[0].strip(): line.split()[-5:] for line in done.stdout.splitlines()[2:5]
    }
    assert rows["ground"] == [f"{168 / 184:.2%}", f"{40 / 56:.2%}", "3", "of", "3"]
    assert rows["roof"] == [f"{16 / 184:.2%}", f"{16 / 56:.2%}", "1", "of", "3"]
    assert rows["not scored"] == [f"{8 / 192:.2%}", f"{8 / 64:.2%}", "1", "of", "3"]
    assert done.stdout.startswith("images: 1 of 3 tiles\n")


def test_a_config_s_parts_are_opened_as_fine_tuning_opens_them(show, seg_config):
    data = seg_config["train_cfg"]["train_data"]
    done = show("show_labels", seg_config, "--samples", 3, "--augmented")
    assert done.returncode == 0, done.stderr
    tiles = SegmentationDataset(TileSettings(**data), num_classes=2)
    palette = seg_config["palette"]
    for row, index in enumerate((0, (len(tiles) - 1) // 2, len(tiles) - 1)):
        sample = tiles[(0, index)]
        got = [panel(show.picture, label_grid(3), row, column, 8) for column in range(3)]
        assert np.array_equal(got[0], sample["image"])
        assert np.array_equal(got[1], np.array(palette, np.uint8)[sample["label"]])
        assert np.array_equal(got[2], overlay(sample["image"], sample["label"], palette))
    done = show("show_labels", seg_config, "--part", "test", "--samples", 1)
    assert "test_data: 1 of 4 tiles" in done.stdout
    test_settings = TileSettings(**seg_config["train_cfg"]["test_data"])
    whole = SegmentationDataset(test_settings, num_classes=2)
    assert np.array_equal(panel(show.picture, label_grid(1), 0, 0, 4), whole.read(1)[0])


def test_val_labels_mean_what_the_training_labels_show(show, seg_config, tmp_path):
    """Labels 1, 2 with 0 = not scored; of val, which has 0 and 1 alone, that could not be told."""
    folder = draw_tiles(tmp_path / "coded", 8)
    for file in sorted((folder / "labels").iterdir()):
        label = cv2.imread(str(file), 0)
        number = int(file.stem[-3:])
        label[:] = label + 1 if number < 4 else 1  # 1, 2: 0 is not scored, in val class 0 alone
        label[:4] = 0
        cv2.imwrite(str(file), label)
    paths = dict(image_path=str(folder / "images"), label_path=str(folder / "labels"))
    train_cfg = seg_config["train_cfg"]
    train_cfg["train_data"] |= paths | dict(data_format="tile_00[0-3].jpg")
    train_cfg["val_data"] = paths | dict(data_format="tile_00[4-7].jpg")
    done = show("show_labels", seg_config, "--part", "val")
    assert done.returncode == 0, done.stderr
    rows = {line.split("  ")[0]: line for line in done.stdout.splitlines()}
    assert "100.00%" in rows["other"]
    assert f"{4 / 64:.2%}" in rows["not scored"]


def test_a_prepared_set_is_shown_with_its_classes_and_bands(show, tmp_path):
    draw_levir(tmp_path / "source", size=(64, 64))
    assert (
        prepare(
            "levir_cs", "--source", tmp_path / "source", "--output", tmp_path / "set"
        ).returncode
        == 0
    )
    done = show("show_labels", None, "--tiles", tmp_path / "set", "--part", "test", "--samples", 2)
    assert done.returncode == 0, done.stderr
    assert "set, test: 2 of 8 tiles" in done.stdout
    classes = ["background", "cloud", "snow"]
    assert [line.split()[0] for line in done.stdout.splitlines()[2:5]] == classes
    folders = (str(tmp_path / "set/images/test"), str(tmp_path / "set/labels/test"))
    tiles = SegmentationDataset(TileSettings(*folders), 3, in_channels=4)
    assert np.array_equal(
        panel(show.picture, label_grid(2, lines=7), 0, 0, 8), tiles.read(0)[0][:, :, :3]
    )
    done = show("show_labels", None, "--tiles", tmp_path / "source")
    assert done.returncode == 2
    assert "has no dataset.json of tools/prepare.py" in done.stderr


def test_tiles_are_evenly_spread_or_drawn_by_the_seed():
    counts = np.ones((101, 3), np.int64)
    counts[:, 1] = np.arange(101) % 50 == 7
    assert choose_tiles(counts, 5, None, None) == [0, 25, 50, 75, 100]
    assert choose_tiles(counts, 1, None, None) == [50]
    assert choose_tiles(counts, 5, None, 1) == [7, 57]
    drawn = choose_tiles(counts, 5, 3, None)
    assert drawn == choose_tiles(counts, 5, 3, None) != choose_tiles(counts, 5, 4, None)
    assert len(set(drawn)) == 5


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--with", "car"], "--with car: the classes are other, building"),
        (["--samples", 0], "--samples 0: must be 1 to 100"),
        (["--tiles", "somewhere"], "give one of --config_file, --tiles, --images"),
        (["--augmented", "--part", "val"], "only train_data is augmented"),
        (["--labels", "here"], "--labels: goes with --images, not with --config_file"),
        (["--seed", -3], "--seed -3: must be at least 0"),
        (
            ["--set", "train_cfg.train_data.label_path=gone"],
            "train_cfg.train_data: label_path gone",
        ),
        (["--part", "test", "--set", "train_cfg.test_data=None"], "has no train_cfg.test_data"),
        (["--output", "labels"], "--output labels: the picture is a PNG"),
    ],
)
def test_mistakes_with_labels_are_told_in_a_line(show, seg_config, arguments, said):
    done = show("show_labels", seg_config, *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_class_that_no_tile_holds_is_told(show, corner):
    cv2.imwrite(str(corner / "labels/a.png"), np.eye(8, dtype=np.uint8) * 0)
    done = show("show_labels", None, *folders(corner), "--with", "roof")
    assert done.returncode == 2
    assert "--with roof: none of the 3 tiles has a pixel of it" in done.stderr


# ---- panels


def test_bands_and_types_become_red_green_and_blue():
    ramp = np.array([[0, 512, 1023, 2000]], np.uint16)
    assert as_rgb(ramp, 1023)[0, :, 1].tolist() == [0, 128, 255, 255]
    assert as_rgb(np.array([[0, 65535]], np.uint16))[0, :, 0].tolist() == [0, 255]
    floats = np.array([[-1.0, 0.25, 1.0, np.nan]])
    assert as_rgb(floats)[0, :, 2].tolist() == [0, 64, 255, 0]
    five = np.arange(5, dtype=np.uint8).reshape(1, 1, 5)
    assert as_rgb(five)[0, 0].tolist() == [0, 1, 2]
    assert as_rgb(five[:, :, 3:])[0, 0].tolist() == [3, 3, 3]


@pytest.mark.parametrize(
    ("shape", "scale", "shown"),
    [((32, 20), 8, (256, 160)), ((256, 256), 1, (256, 256)), ((1025, 9), -2, (512, 4))],
)
def test_a_panel_s_scale_is_a_whole_number(shape, scale, shown):
    assert panel_scale(*shape) == scale
    assert sized(np.zeros(shape), scale).shape == shown


def test_thinning_takes_each_nth_pixel():
    pixels = np.arange(36).reshape(6, 6)
    assert sized(pixels, -3).tolist() == [[7, 10], [25, 28]]


def test_text_that_is_too_wide_loses_its_middle():
    text = "zanzibar_" + "1" * 200 + "-21.jpg"
    short = fitted(text, 300)
    assert text_width(short) <= 300
    assert short.startswith("zanzibar_")
    assert short.endswith("-21.jpg")
    assert fitted("Gebäude ☃\n", 300) == "Gebaude ??"


def test_hatching_is_seen_on_black_and_on_white():
    for value in (0, 255):
        flat = np.full((40, 40, 3), value, np.uint8)
        where = np.zeros((40, 40), bool)
        where[:, :20] = True
        lines = hatch(flat, where)
        assert 0.15 < (lines[:, :20] != value).any(2).mean() < 0.25
        assert (lines[:, 20:] == value).all()


@pytest.mark.parametrize("tool", ["show_pretext", "show_labels"])
def test_the_commands_run_as_commands(run, pretext_config, seg_config, tmp_path, tool):
    config = pretext_config if tool == "show_pretext" else seg_config
    picture = tmp_path / "new/picture.png"
    done = run(f"tools/{tool}.py", config, "--output", str(picture), "--samples", "2")
    assert done.returncode == 0, done.stderr
    grid = pretext_grid(2) if tool == "show_pretext" else label_grid(2)
    assert cv2.imread(str(picture)).shape == (*grid.shape, 3)
