"""What tools/show_pretext.py and tools/show_labels.py draw is what training sees."""

import re
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from calls import command
from conftest import draw_tiles
from drawn import Done, draw_levir, prepared, write_png, write_tiff
from torch.utils.data import DataLoader

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
def show(tmp_path, monkeypatch, capsys):
    """Call a tool in this process; `show.picture` is what it drew, R, G, B."""
    monkeypatch.setattr("signal.signal", lambda *_: None)  # run_command would keep its own

    def call(tool: str, config: dict | None, *given) -> Done:
        picture = tmp_path / "picture.png"
        picture.unlink(missing_ok=True)
        given = given if "--output" in given else [*given, "--output", picture]
        status = command(f"tools/show_{tool}.py", config, tmp_path, *given)
        call.picture = cv2.imread(str(picture))[:, :, ::-1] if picture.exists() else None
        return Done(status, *capsys.readouterr())

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


@pytest.mark.parametrize(("epoch", "seed"), [(0, 0), (1, 7)])
def test_the_rows_are_the_batches_of_training_pixel_for_pixel(show, pretext_config, epoch, seed):
    given = ["--samples", 6, "--epoch", epoch, *(["--seed", seed] if seed else [])]
    done = show("pretext", pretext_config, *given)
    assert done.returncode == 0, done.stderr
    batches = batches_of(pretext_config, epoch, seed=seed)
    transforms = pretext_config["train_cfg"]["train_data"]["agr_transforms_cfg"]["transforms_cfg"]
    drawn = [list(transforms)[label] for batch in batches for label in batch["transform_label"]][:6]
    counts = ", ".join(f"{name} {drawn.count(name)}" for name in transforms)
    assert f"transforms: {counts}\n" in done.stdout
    for row in range(6):
        batch, place = batches[row // 4], row % 4
        keys = ("occluded", "anchor", "transformed")
        images = [batch[key][place].permute(1, 2, 0).numpy() for key in keys]
        *shown, error = (panel(show.picture, pretext_grid(6), row, i, 8) for i in range(4))
        assert np.array_equal(shown, images)
        weight = np.abs(images[1].astype(float) - images[0]).mean(2)
        assert np.abs(error[:, :, 0] - 255 * weight / weight.max()).max() <= 0.51
        name = f"tile_{int(batch['index'][place]):03d}.jpg"
        assert f"batch {row // 4 + 1}, {place + 1}: {name}, {drawn[row]}," in done.stdout


def draw_images(config: dict, folder: Path, images: Sequence[np.ndarray]) -> None:
    """Write them as GeoTIFFs, of which `config` is to train."""
    folder.mkdir()
    for number, image in enumerate(images):
        write_tiff(folder / f"{number:02d}.tif", image.transpose(2, 0, 1))
    data = dict(data_path=str(folder), data_format="*.tif")
    config["train_cfg"]["train_data"] |= data


def test_a_global_batch_is_one_batch_of_the_rows(show, pretext_config):
    pretext_config["train_cfg"]["global_batch_size"] = 6
    said = show("pretext", pretext_config, "--samples", 7).stdout
    pretext_config["train_cfg"]["batch_size"] = 6
    second = int(batches_of(pretext_config, 0)[0]["index"][1])
    for line in ("batch 1, 6: ", "batch 2, 1: ", f"batch 1, 2: tile_{second:03d}"):
        assert line in said


def test_an_unreadable_image_shows_what_is_taken_in_its_place(show, pretext_config, tmp_path):
    folder = draw_tiles(tmp_path / "some", 4) / "images"
    (folder / "tile_002.jpg").write_bytes(b"")
    pretext_config["train_cfg"]["train_data"]["data_path"] = str(folder)
    done = show("pretext", pretext_config, "--samples", 4)
    assert done.returncode == 2
    assert "tile_002.jpg: is empty" in done.stderr
    pretext_config["train_cfg"]["train_data"]["on_bad_image"] = "skip"
    done = show("pretext", pretext_config, "--samples", 4)
    assert "tile_003.jpg (in place of tile_002.jpg, which cannot be read)" in done.stdout


@pytest.mark.parametrize("bands", [1, 4])
def test_16_bits_and_any_number_of_bands_are_shown_as_training_has_them(
    show, pretext_config, tmp_path, bands
):
    image = np.random.default_rng(0).integers(0, 1024, (64, 64, bands), dtype=np.uint16)
    draw_images(pretext_config, tmp_path / "drawn", [image] * 4)
    pretext_config["backbone_cfg"]["in_channels"] = bands
    pretext_config["inpainting_head_cfg"]["out_channels"] = bands
    data = pretext_config["train_cfg"]["train_data"]
    for max_value, top in ((1023, None), (65535, 4)):
        data["max_value"] = max_value
        done = show("pretext", pretext_config, "--samples", 2)
        assert done.returncode == 0, done.stderr
        anchors = batches_of(pretext_config, 0, in_channels=bands)[0]["anchor"][:2].numpy()
        for row, anchor in enumerate(anchors.transpose(0, 2, 3, 1)):
            shown = panel(show.picture, pretext_grid(2), row, 1, 8)
            assert np.array_equal(shown, anchor[:, :, [0, 1, 2] if bands > 2 else [0, 0, 0]])
        for band, values in enumerate(anchors.transpose(1, 0, 2, 3)):
            told = f"min {values.min()}, mean {values.mean():.1f}, max {values.max()} of 255"
            assert f"band {band + 1} of the anchors: {told}" in done.stdout
        assert ("warning" in done.stdout) == bool(top)
    assert f"warning: no value is above {anchors.max()} of 255; set max_value" in done.stdout


def test_an_image_of_one_colour_is_warned_of(show, pretext_config, tmp_path):
    draw_images(pretext_config, tmp_path / "drawn", [np.zeros((64, 64, 3), np.uint8)] * 4)
    done = show("pretext", pretext_config, "--samples", 3)
    assert "warning: M is 0 everywhere in 3 of 3 samples, first batch 1, 1" in done.stdout
    assert panel(show.picture, pretext_grid(3), 2, 3, 8).max() == 0


def test_the_block_s_share_is_that_of_the_square_it_changed(show, pretext_config):
    """12 to 21 of 64 pixels a side by the method, seen at 32 pixels, where edges may be shared."""
    pretext_config["train_cfg"]["train_data"]["img_size"] = 64
    said = show("pretext", pretext_config, "--samples", 24).stdout
    shares = [float(text) / 100 for text in re.findall(r"block ([\d.]+)%, M", said)]
    squares = np.array([side * side / 64**2 for side in range(10, 22)])
    # A block's outermost row may equal the anchor's by chance.
    assert 20 < sum(np.abs(squares - share).min() < 6e-4 for share in shares) <= len(shares) == 24
    assert max(shares) <= squares[-1] + 6e-4
    assert f"the block covers {min(shares):.1%} to {max(shares):.1%} of an image" in said


# ---- labels

INK = (100, 60, 20)


def label_grid(rows: int, lines: int = 6, side: int = 256) -> Grid:
    return Grid(side, side, rows, 3, header=lines, captions=2)


@pytest.fixture
def corner(tmp_path):
    """A tile with class 1 in the upper left, its last column not scored; and two of class 0."""
    label = np.zeros((8, 8), np.uint8)
    label[:4, :4], label[:, 7] = 1, 255
    for name, values in (("a", label), ("b", label * 0), ("c", label * 0)):
        write_png(tmp_path / f"corner/images/{name}.png", np.full((8, 8, 3), INK, np.uint8))
        write_png(tmp_path / f"corner/labels/{name}.png", values)
    return tmp_path / "corner"


def folders(where) -> list:
    classes = ["--classes", "ground", "roof"]
    return ["--images", where / "images", "--labels", where / "labels", *classes]


def test_image_label_and_overlay_have_the_colours_of_the_legend(show, corner):
    done = show("labels", None, *folders(corner))
    assert done.returncode == 0, done.stderr
    grid = label_grid(3)
    assert show.picture.shape == (*grid.shape, 3)
    assert (panel(show.picture, grid, 0, 0, 32) == INK).all()
    ground, roof = (225, 225, 225), (31, 119, 180)
    y, x = grid.corner(0, 1)
    assert (show.picture[y : y + 128, x : x + 128] == roof).all()
    assert (show.picture[y + 128 : y + 256, x : x + 224] == ground).all()
    y, x = grid.corner(0, 2)
    over = show.picture[y : y + 256 : 32, x : x + 256 : 32]
    for at, colour in (((1, 1), roof), ((6, 2), ground)):
        assert np.array_equal(over[at], np.rint(0.6 * np.array(INK) + 0.4 * np.array(colour)))
    for at, colour in (((3, 1), roof), ((1, 3), roof), ((4, 1), ground), ((1, 4), ground)):
        assert tuple(over[at]) == colour  # both sides of the border
    # Not scored: the image, hatched white and black.
    column = show.picture[y : y + 256, x + 224 : x + 256].reshape(-1, 3)
    assert {tuple(map(int, c)) for c in column} == {INK, (255,) * 3, (0,) * 3}
    swatches = show.picture[[12 + 2 * 20 + 10, 12 + 3 * 20 + 10], 12 + 7]
    assert swatches.tolist() == [list(ground), list(roof)]
    assert tuple(show.picture[grid.corner(1, 1)[0] - 1, grid.corner(1, 1)[1]]) == FRAME


def test_shares_are_of_the_whole_part_and_of_the_tiles_shown(show, corner):
    done = show("labels", None, *folders(corner), "--with", "roof")
    for name, part, shown, tiles in (
        ("ground", 168 / 184, 40 / 56, 3),
        ("roof", 16 / 184, 16 / 56, 1),
        ("not scored", 8 / 192, 8 / 64, 1),
    ):
        row = rf"^{name} +{part:.2%} +{shown:.2%} +{tiles} of 3$"
        assert re.search(row, done.stdout, re.MULTILINE), done
    assert done.stdout.startswith("images: 1 of 3 tiles\n")
    cv2.imwrite(str(corner / "labels/a.png"), np.zeros((8, 8), np.uint8))
    done = show("labels", None, *folders(corner), "--with", "roof")
    assert done.returncode == 2
    assert "--with roof: none of the 3 tiles has a pixel of it" in done.stderr


def test_a_config_s_parts_are_opened_as_fine_tuning_opens_them(show, seg_config):
    data = seg_config["train_cfg"]["train_data"]
    done = show("labels", seg_config, "--samples", 3, "--augmented")
    assert done.returncode == 0, done.stderr
    tiles = SegmentationDataset(TileSettings(**data), num_classes=2)
    palette = seg_config["palette"]
    for row, index in enumerate((0, (len(tiles) - 1) // 2, len(tiles) - 1)):
        sample = tiles[(0, index)]
        got = [panel(show.picture, label_grid(3), row, column, 8) for column in range(3)]
        assert np.array_equal(got[0], sample["image"])
        assert np.array_equal(got[1], np.array(palette, np.uint8)[sample["label"]])
        assert np.array_equal(got[2], overlay(sample["image"], sample["label"], palette))
    done = show("labels", seg_config, "--part", "test", "--samples", 1)
    assert "test_data: 1 of 4 tiles" in done.stdout
    test_settings = TileSettings(**seg_config["train_cfg"]["test_data"])
    whole = SegmentationDataset(test_settings, num_classes=2)
    assert np.array_equal(panel(show.picture, label_grid(1), 0, 0, 4), whole.read(1)[0])


def test_val_labels_mean_what_the_training_labels_show(show, seg_config, tmp_path):
    """Labels 1, 2 with 0 = not scored; of val, which has 0 and 1 alone, that could not be told."""
    folder = draw_tiles(tmp_path / "coded", 8)
    for number, file in enumerate(sorted((folder / "labels").iterdir())):
        label = cv2.imread(str(file), 0) + 1 if number < 4 else np.ones((64, 64), np.uint8)
        label[:4] = 0
        cv2.imwrite(str(file), label)
    paths = dict(image_path=str(folder / "images"), label_path=str(folder / "labels"))
    for split, numbers in (("train", "0-3"), ("val", "4-7")):
        data = paths | dict(data_format=f"tile_00[{numbers}].jpg")
        seg_config["train_cfg"].setdefault(f"{split}_data", {}).update(data)
    done = show("labels", seg_config, "--part", "val")
    assert re.search(r"^other +100.00%", done.stdout, re.MULTILINE), done
    assert re.search(rf"^not scored +{4 / 64:.2%}", done.stdout, re.MULTILINE)


def test_a_prepared_set_is_shown_with_its_classes_and_bands(show, tmp_path):
    source, tiles = tmp_path / "source", tmp_path / "out"
    draw_levir(source, size=(64, 64))
    prepared(tmp_path, "levir_cs")
    done = show("labels", None, "--tiles", tiles, "--part", "test", "--samples", 2)
    assert done.returncode == 0, done.stderr
    assert "out, test: 2 of 8 tiles" in done.stdout
    classes = ["background", "cloud", "snow"]
    assert [line.split()[0] for line in done.stdout.splitlines()[2:5]] == classes
    settings = TileSettings(f"{tiles}/images/test", f"{tiles}/labels/test")
    image = SegmentationDataset(settings, 3, in_channels=4).read(0)[0]
    shown = panel(show.picture, label_grid(2, lines=7), 0, 0, 8)
    assert np.array_equal(shown, image[:, :, :3])
    done = show("labels", None, "--tiles", source)
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
    ("tool", "change", "arguments", "said"),
    [
        ("pretext", {}, ["--samples", 0], "--samples 0: an epoch has 1 to 24 samples"),
        ("pretext", {}, ["--samples", 25], "--samples 25"),
        ("pretext", {}, ["--epoch", 2], "--epoch 2: the run has the epochs 0 to 1"),
        ("pretext", {}, ["--seed", -1], "train_cfg.seed=-1: must be at least 0"),
        ("pretext", {}, ["--output", "grid.jpg"], "--output grid.jpg"),
        ("pretext", {}, ["--output", "/proc/none/grid.png"], "--output='/proc/none'"),
        ("pretext", dict(batch_size=25), [], "only 24 images"),
        ("pretext", dict(batchsize=4), [], "did you mean 'batch_size'?"),
        ("pretext", {}, ["--set", "train_cfg.train_data.data_path=gone"], "data_path"),
        ("labels", {}, ["--with", "car"], "--with car: the classes are other, building"),
        ("labels", {}, ["--samples", 0], "--samples 0: must be 1 to 100"),
        ("labels", {}, ["--tiles", "x"], "give one of --config_file, --tiles, --images"),
        ("labels", {}, ["--augmented", "--part", "val"], "only train_data is augmented"),
        ("labels", {}, ["--labels", "here"], "--labels: goes with --images"),
        ("labels", {}, ["--seed", -3], "--seed -3: must be at least 0"),
        ("labels", {}, ["--set", "train_cfg.train_data.label_path=gone"], "label_path gone"),
        ("labels", dict(test_data=None), ["--part", "test"], "has no train_cfg.test_data"),
        ("labels", {}, ["--output", "labels"], "--output labels: the picture is a PNG"),
    ],
)
def test_mistakes_are_told_in_a_line(
    show, pretext_config, seg_config, tool, change, arguments, said
):
    config = pretext_config if tool == "pretext" else seg_config
    config["train_cfg"] |= change
    done = show(tool, config, *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(("tool", "other"), [("pretext", "labels"), ("labels", "pretext")])
def test_a_config_of_the_other_kind_names_the_other_tool(
    show, pretext_config, seg_config, tool, other
):
    done = show(tool, seg_config if tool == "pretext" else pretext_config)
    assert done.returncode == 2
    assert f"tools/show_{other}.py shows it" in done.stderr


# ---- panels


def test_bands_and_types_become_red_green_and_blue():
    ramp = np.array([[0, 512, 1023, 2000]], np.uint16)
    assert as_rgb(ramp, 1023)[0, :, 1].tolist() == [0, 128, 255, 255]
    assert as_rgb(np.array([[0, 65535]], np.uint16))[0, :, 0].tolist() == [0, 255]
    assert as_rgb(np.array([[-1.0, 0.25, 1.0, np.nan]]))[0, :, 2].tolist() == [0, 64, 255, 0]
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
    assert sized(np.arange(36).reshape(6, 6), -3).tolist() == [[7, 10], [25, 28]]


def test_text_that_is_too_wide_loses_its_middle():
    short = fitted(f"zanzibar_{'1' * 200}-21.jpg", 300)
    assert text_width(short) <= 300
    assert (short[:9], short[-7:]) == ("zanzibar_", "-21.jpg")
    assert fitted("Gebäude ☃\n", 300) == "Gebaude ??"


@pytest.mark.parametrize("value", [0, 255])
def test_hatching_is_seen_on_black_and_on_white(value):
    flat = np.full((40, 40, 3), value, np.uint8)
    lines = hatch(flat, np.arange(40) < np.full((40, 1), 20))
    assert 0.15 < (lines[:, :20] != value).any(2).mean() < 0.25
    assert (lines[:, 20:] == value).all()


@pytest.mark.parametrize("tool", ["pretext", "labels"])
def test_the_commands_run_as_commands(run, pretext_config, seg_config, tmp_path, tool):
    config, grid = (pretext_config, pretext_grid) if tool == "pretext" else (seg_config, label_grid)
    picture = tmp_path / "new/picture.png"
    done = run(f"tools/show_{tool}.py", config, "--output", str(picture), "--samples", "2")
    assert done.returncode == 0, done.stderr
    assert cv2.imread(str(picture)).shape == (*grid(2).shape, 3)
