"""What is wrong with the flags of a run without a config file: one line, status 2, and a remedy
that works."""

import dataclasses
import json
import re

import cv2
import numpy as np
import pytest
import rasterio
import torch
from calls import command
from conftest import draw_tiles

from SSLRemoteSensing.core import checkpoints
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.models.backbones import ARCHITECTURES
from SSLRemoteSensing.workflows.own_labels import OwnLabels, find_own, prepare_own

pyogrio, shapely = pytest.importorskip("pyogrio"), pytest.importorskip("shapely")
NORTH, WEST = 5_000_000, 500_000


def write_scene(path, bands=3, west=WEST, size=64):
    path.parent.mkdir(exist_ok=True)
    shape = dict(count=bands, height=size, width=size, dtype="uint8", crs="EPSG:32633")
    shape |= {} if bands == 3 else {"photometric": "minisblack"}
    place = rasterio.Affine(1, 0, west, 0, -1, NORTH)
    with rasterio.open(path, "w", driver="GTiff", transform=place, **shape) as file:
        file.write(np.random.default_rng(bands).integers(1, 255, (bands, size, size), np.uint8))


def write_roof(path, west, crs):
    outline = shapely.to_wkb(np.array([shapely.box(west + 8, NORTH - 60, west + 300, NORTH - 4)]))
    pyogrio.raw.write(
        path, outline, [np.array(["roof"], object)], ["kind"], geometry_type="Polygon", crs=crs,
        driver="GPKG",
    )  # fmt: skip


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """A user's folder: 12 images with labels in several codings, scenes, polygons, weights."""
    folder = draw_tiles(tmp_path_factory.mktemp("mine"), 12)
    for name in ("none", "coded", "colours"):
        (folder / name).mkdir()
    for file in sorted((folder / "labels").iterdir()):
        label = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
        cv2.imwrite(str(folder / "coded" / file.name), label * 77)
        red = np.dstack([label * 0, label * 0, label * 255])  # B, G, R
        cv2.imwrite(str(folder / "colours" / file.name), red)
    for number in range(3):
        write_scene(folder / f"mixed/three_{number}.tif")
        write_scene(folder / f"scenes/{number}.tif", west=WEST + 64 * number)
    write_scene(folder / "mixed/four.tif", bands=4)
    with pytest.warns(UserWarning, match="crs"):
        write_roof(folder / "lost.gpkg", WEST, None)
    write_roof(folder / "far.gpkg", WEST + 90_000, "EPSG:32633")
    for bands in (3, 4):
        torch.manual_seed(0)
        state = ARCHITECTURES["resnet18"](in_channels=bands).state_dict()
        checkpoints.write(folder / f"bands{bands}.pth", state)
    (folder / "text.pth").write_text("no weights")
    return folder


@pytest.fixture
def call(mine, tmp_path, monkeypatch, capsys):
    """Run a command in the user's folder, RUN being a new one; its status and lines on stderr."""
    monkeypatch.chdir(mine)

    def run(script, text):
        words = [word.replace("RUN", str(tmp_path / "run")) for word in text.split()]
        status = command(script, None, tmp_path, *words)
        lines = capsys.readouterr().err.splitlines()
        return status, [line for line in lines if not line.startswith("warning:")]

    return run


def refused(call, script, flags) -> str:
    """The one line with which a command refuses `flags`."""
    status, lines = call(script, flags)
    assert (status, len(lines)) == (2, 1), lines
    assert lines[0].startswith("error: ")
    return lines[0]


PRETRAIN = "--images images --output RUN --preset small --epochs 1"
SMALL = "--set train_cfg.batch_size=4 train_cfg.device=cpu train_cfg.precision=fp32"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--images none --output RUN", "--images none: no image matches"),
        ("--images mixed --output RUN", "3 with channels: 3 (mixed/three_0.tif), 1 with channels: "
         "4 (mixed/four.tif); name one kind by a pattern"),
        ("--images images --output RUN --preset publised", "did you mean 'published'?"),
        ("--images images --output RUN --minutes 0", "--minutes 0: must be above 0"),
        ("--images images --output RUN --minutes nan", "--minutes nan: must be above 0"),
        ("--images images --output RUN --minutes inf", "--minutes inf: must be above 0"),
        ("--images images --output RUN --max_value -1", "--max_value -1: must be above 0"),
        (f"{PRETRAIN} --size 33", "--size 33: must be a multiple of 32"),
        (f"{PRETRAIN} --bands 4", "--bands 4: the files have 3 bands"),
        (f"{PRETRAIN} --scale 5", "--scale 5: give percentile, or a minimum and a maximum"),
        (f"{PRETRAIN} --set nonsense=4", "config: unknown key 'nonsense'"),
        (f"{PRETRAIN} --set train_cfg.batch_size", "write it as key.key=VALUE"),
        ("--images images --output text.pth", "--output='text.pth': cannot write there"),
        ("--images images --output text.pth/run", "cannot write there (Not a directory)"),
    ],
)  # fmt: skip
def test_a_mistake_in_pretraining(call, flags, said):
    assert said in refused(call, "train.py", flags)


OWN = "--images images --labels labels --classes other roof --output RUN --preset quick"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--images none --labels labels --classes a b --output RUN", "--images none: no image"),
        ("--labels labels --output RUN", "goes with --images, which is not given"),
        ("--images images --labels none --classes a b --output RUN", "no label was found"),
        ("--images scenes --labels far.gpkg --class_field kind --output RUN",
         "a third of the rows of one, 21, is less than a tile of 32; name whole images"),
        ("--images scenes --labels lost.gpkg --class_field kind --output RUN --splits val=0",
         "has no coordinate system"),
        ("--images scenes --labels far.gpkg --class_field kind --output RUN --splits val=0",
         "none of its 1 polygons lies in an image"),
        (f"{OWN} --preset quik", "--preset quik: unknown, did you mean 'quick'?"),
        (f"{OWN} --fraction 2", "--fraction 2: must be above 0 and at most 1"),
        (f"{OWN} --fraction nan", "--fraction nan: must be above 0 and at most 1"),
        (f"{OWN} --splits val=nomatch", "nomatch is no scene of train; write a share"),
        (f"{OWN} --splits val=tile_001 test=zz*", "zz* is no scene of train; write a share"),
        (f"{OWN} --splits val=0", "has no val tiles; prepare it with --splits val=0.1"),
        (f"{OWN} --tile 0", "--tile 0: must be at least 32, the network's stride"),
        (f"{OWN} --tile 96", "12 of 12 must not be used, the first is tile_000: "),
        (f"{OWN} --backbone imagnet", "--backbone imagnet: no such file; give one of weights, "
         "random or imagenet"),
        (f"{OWN} --backbone text.pth", "weights text.pth: refused, damaged or no checkpoint"),
        (f"{OWN} --backbone bands4.pth", "4 bands"),
        (f"{OWN} --set train_cfg.num_stepp=3", "did you mean 'num_step'?"),
        (f"{OWN} --label_offset 0 --label_codes 0 1", "label_codes"),
        ("--images images --labels labels --classes a b --output text.pth", "cannot write there"),
        ("--images images --labels labels --classes a b --output images/run",
         "lies in --images, whose images are scenes"),
    ],
)  # fmt: skip
def test_a_mistake_in_fine_tuning(call, flags, said):
    line = refused(call, "finetune_seg.py", flags)
    assert said in line
    assert "--source" not in line


def test_a_key_that_was_wrong_can_be_mended_in_the_same_folder(call, tmp_path):
    status, lines = call("train.py", f"{PRETRAIN} {SMALL} train_cfg.lr_shedule=None")
    assert status == 2
    assert "did you mean 'lr_schedule'?" in lines[0]
    assert not list((tmp_path / "run").iterdir())
    assert call("train.py", f"{PRETRAIN} {SMALL} train_cfg.lr_schedule=None") == (0, [])


def test_a_run_that_never_began_makes_room_for_another(call, tmp_path):
    tiles = f"{OWN} --tile 64 {SMALL} train_cfg.num_step=1 --splits val=tile_000"
    status, lines = call("finetune_seg.py", f"{tiles} --backbone bands4.pth")
    assert (status, (tmp_path / "run/command.json").exists()) == (2, True), lines
    assert call("finetune_seg.py", f"{tiles} --backbone bands3.pth") == (0, [])
    status, lines = call("finetune_seg.py", f"{tiles} --backbone random")
    assert status == 2
    assert "holds a run of other settings, its backbone is 'bands3.pth', now 'random'" in lines[0]


def test_tiles_of_other_settings_are_not_taken_for_these(call, tmp_path):
    assert call("finetune_seg.py", f"{OWN} --tile 64 --splits val=0")[0] == 2
    status, lines = call("finetune_seg.py", f"{OWN} --tile 32 --splits val=tile_000")
    assert status == 2
    assert "was begun with tile 64, now 32; name another folder, or remove this one" in lines[0]
    mended = f"{OWN} --tile 64 --splits val=tile_000 {SMALL} train_cfg.num_step=1"
    assert call("finetune_seg.py", mended) == (0, [])
    names = sorted(path.name for path in (tmp_path / "run/tiles/images/val").iterdir())
    assert names == ["tile_000_0_0.png"]


@pytest.mark.parametrize("count", [4, 30])
def test_of_many_scenes_what_is_alike_is_said_in_a_line(tmp_path, capsys, count):
    """A label of each is scored in a share of its own, and in one coding or in none."""
    folder, tiles = draw_tiles(tmp_path / "many", count), tmp_path / "tiles"
    files = sorted((folder / "labels").iterdir())
    for number, file in enumerate(files):
        label = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
        label[: 34 + number % 30] = 255
        cv2.imwrite(str(file), label)
    own = OwnLabels([str(folder / "images")], str(folder / "labels"), ("other", "roof"))
    own = dataclasses.replace(own, splits=("val=tile_000", "test=tile_001"))
    prepare_own(own, find_own(own), tiles)
    said = capsys.readouterr().out.splitlines()
    unscored = [line for line in said if "of the pixels are not scored" in line]
    assert len(unscored) == (4 if count == 4 else 1)
    if count > 4:
        assert re.fullmatch(r"warning: tile_\d+: \d+% .*; and \d+ more like this .*", unscored[0])
        assert len(said) < 12
    assert any(line.startswith("scene ") for line in said) == (count == 4)


def test_of_many_scenes_that_must_not_be_used_one_is_named(tmp_path, capsys):
    folder = draw_tiles(tmp_path / "many", 30)
    for number, file in enumerate(sorted((folder / "images").iterdir())):
        cv2.imwrite(str(file), np.full((64, 65 + number, 3), 90, np.uint8))
    own = OwnLabels([str(folder / "images")], str(folder / "labels"), ("other", "roof"))
    own = dataclasses.replace(own, splits=("val=tile_000",))
    with pytest.raises(UserError, match=r"30 of 30 must not be used, the first is tile_\d+: "):
        prepare_own(own, find_own(own), tmp_path / "tiles")
    said = capsys.readouterr().out
    assert said.count("must not be used") == 1
    assert "; and 29 more like this (audit.json has all)" in said
    scenes = json.loads((tmp_path / "tiles/audit.json").read_text())["scenes"]
    assert sum("refused" in scene for scene in scenes) == 30


def test_a_dry_run_of_images_with_labels_writes_nothing(call, tmp_path):
    assert call("finetune_seg.py", f"{OWN} --splits val=tile_000 {SMALL} --dry_run") == (0, [])
    assert not (tmp_path / "run").exists()


def test_codes_of_labels_are_stated_as_the_message_has_it(call, tmp_path):
    flags = OWN.replace("labels labels", "labels coded")
    status, lines = call("finetune_seg.py", flags)
    assert status == 2
    assert "value 77 where classes are 0 to 1" in lines[0]
    assert "--label_codes 0 255; look at labels/tile_000.png" in lines[0]
    flags += f" --label_codes 0 77 --splits val=tile_000 {SMALL} train_cfg.num_step=1"
    assert call("finetune_seg.py", flags) == (0, [])
    tile = cv2.imread(str(tmp_path / "run/tiles/labels/val/tile_000_0_0.png"), cv2.IMREAD_UNCHANGED)
    label = cv2.imread("labels/tile_000.png", cv2.IMREAD_UNCHANGED)
    assert np.array_equal(tile, label)


def test_a_flag_that_only_preparing_has_is_said_to_be_its(call, tmp_path):
    status, lines = call("finetune_seg.py", OWN.replace("labels labels", "labels colours"))
    assert status == 2
    assert "--palette is a flag of tools/prepare.py, whose tiles --tiles takes" in lines[0]
    prepare = f"folder --source images --labels colours --output {tmp_path}/set --tile 64"
    colours = "--classes other roof --palette 0,0,0 255,0,0 --splits val=tile_000"
    assert call("tools/prepare.py", f"{prepare} {colours}") == (0, [])
    flags = f"--tiles {tmp_path}/set --output RUN --preset quick {SMALL} train_cfg.num_step=1"
    assert call("finetune_seg.py", flags) == (0, [])


def test_one_kind_of_mixed_images_can_be_named_by_a_pattern(call):
    flags = f"--output RUN --preset small --epochs 1 {SMALL.replace('=4', '=3')}"
    assert call("train.py", f"--images mixed/three_*.tif {flags}") == (0, [])
