"""Images of one's own of which few have a label: left out, or cut to train beside the others."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from calls import command
from conftest import draw_tiles
from drawn import read_tile, write_tiff

from SSLRemoteSensing import OwnLabels
from SSLRemoteSensing.commands.finetune import flags
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.data.unlabelled import UnlabelledSettings
from SSLRemoteSensing.workflows.own_labels import find_own, prepare_own
from SSLRemoteSensing.workflows.own_requests import FinetuningRequest
from SSLRemoteSensing.workflows.own_runs import requested_config
from SSLRemoteSensing.workflows.segmentation import open_network, unlabelled_tiles

CLASSES = ("ground", "roof")
SPLITS = ("val=tile_000", "test=tile_001")


def draw_few(folder: Path, labelled: int, count: int = 12) -> OwnLabels:
    """`count` JPEGs of 64 x 64 pixels, of which the first have a label."""
    draw_tiles(folder, count)
    for number in range(labelled, count):
        (folder / f"labels/tile_{number:03d}.png").unlink()
    return OwnLabels((f"{folder}/images",), f"{folder}/labels", CLASSES, splits=SPLITS)


def asked(own: OwnLabels, folder: Path, **more) -> FinetuningRequest:
    settings = ("train_cfg.batch_size=2", "train_cfg.device=cpu", "train_cfg.num_workers=0")
    return FinetuningRequest(own, str(folder), preset="quick", settings=settings, **more)


def card_of(run: Path) -> dict:
    return json.loads((run / "tiles/dataset.json").read_text())


def names_in(folder: Path) -> set[str]:
    """Stems of the scenes of the tiles in a folder."""
    return {path.stem.rsplit("_", 2)[0] for path in folder.iterdir()}


# ---------------------------------------------------------------------------- left out


@pytest.mark.parametrize("labelled", [5, 9])
def test_images_without_a_label_are_left_out_and_that_is_said(tmp_path, capsys, labelled):
    own, run = draw_few(tmp_path / "mine", labelled), tmp_path / "run"
    with requested_config(asked(own, run)):
        said = capsys.readouterr()
    others = 12 - labelled
    line = f"labels: of {labelled} of 12 images; the {others} others are left out (--unlabelled "
    assert [text for text in said.out.splitlines() if text.startswith(line)] != []
    assert card_of(run)["tiles"] == {"train": labelled - 2, "val": 1, "test": 1}
    assert not (run / "tiles/images/unlabelled").exists()
    warned = f"{labelled} of 12 images have a label, the first without is tile_005.jpg; a label has"
    assert (warned in said.err) == (labelled == 5)  # more than half have none


def test_labels_whose_names_do_not_fit_are_named(tmp_path, capsys):
    own = draw_few(tmp_path / "mine", 12)
    for file in sorted((tmp_path / "mine/labels").iterdir()):
        file.rename(file.with_stem(f"{file.stem}_truth"))
    said = r"no label was found for 12 images .*first is tile_000\.jpg; of its 12, the first is "
    with pytest.raises(UserError, match=said + r"tile_000_truth\.png: a label has the name of its"):
        find_own(own)
    for number in (0, 1, 2):
        file = tmp_path / f"mine/labels/tile_{number:03d}_truth.png"
        file.rename(file.with_stem(f"tile_{number:03d}_mask"))
    assert [Path(file.name).stem for file in find_own(own).labelled] == [
        "tile_000", "tile_001", "tile_002",
    ]  # fmt: skip
    assert "9 labels fit no image, the first is tile_003_truth.png" in capsys.readouterr().err


def test_few_labelled_scenes_are_cut_by_rows_however_many_others_there_are(tmp_path):
    own = draw_few(tmp_path / "mine", 2, 9)
    rng = np.random.default_rng(0)
    for number in (0, 1):
        image, label = (tmp_path / f"mine/{x}" for x in ("images", "labels"))
        cv2.imwrite(str(image / f"tile_{number:03d}.jpg"), rng.integers(1, 255, (192, 64, 3)))
        cv2.imwrite(str(label / f"tile_{number:03d}.png"), rng.integers(0, 2, (192, 64)))
    own = dataclasses.replace(own, splits=())
    with requested_config(asked(own, tmp_path / "run", unlabelled="rest")):
        pass
    tiles = {"train": 2, "val": 2, "test": 2, "unlabelled": 7}
    assert card_of(tmp_path / "run")["tiles"] == tiles


# ---------------------------------------------------------------------------- cut beside


def draw_deep(folder: Path, count: int, labelled: int) -> OwnLabels:
    """GeoTIFFs of four bands of 16 bits, up to 3000 and one without a label up to 60000, whose
    first rows hold no data."""
    rng = np.random.default_rng(3)
    for number in range(count):
        top = 60_000 if number == count - 1 else 3000
        planes = rng.integers(1, top, (4, 70, 90), dtype=np.uint16)
        planes[:, :9] = 0
        write_tiff(folder / f"images/s{number}.tif", planes, nodata=0, photometric="minisblack")
        if number < labelled:
            write_tiff(folder / f"labels/s{number}.tif", rng.integers(0, 2, (70, 90), np.uint8))
    splits = ("val=s0", "test=s1")
    return OwnLabels((f"{folder}/images",), f"{folder}/labels", CLASSES, splits=splits, tile=64)


def test_the_rest_is_read_as_the_labelled_ones_are(tmp_path, capsys):
    own = draw_deep(tmp_path / "mine", 8, 4)
    with requested_config(asked(own, tmp_path / "alone")):
        pass
    with requested_config(asked(own, tmp_path / "both", unlabelled="rest")) as config:
        said = capsys.readouterr().out
        alone, both = card_of(tmp_path / "alone"), card_of(tmp_path / "both")
        for key in ("scale", "mean", "std", "tile", "bands", "source_bands", "class_shares"):
            assert both[key] == alone[key], key
        assert both["tiles"] == {"train": 8, "val": 4, "test": 4, "unlabelled": 16}
        opened = open_network(config)
        train = opened.open_split("train")
        tiles = unlabelled_tiles(opened, UnlabelledSettings("rest"), train)
    assert "labels: of 4 of 8 images; of the 4 others 4 train beside (--unlabelled)" in said
    assert tiles.reading == train.reading
    assert names_in(tmp_path / "both/tiles/images/unlabelled") == {"s4", "s5", "s6", "s7"}
    assert len(tiles.images) == 16
    for place, file in enumerate(tiles.images):
        stored = read_tile(Path(file)).astype(float)
        expected = np.clip(np.rint(stored * 255 / both["scale"]), 0, 255)
        image = np.asarray(tiles[place]).transpose(2, 0, 1).astype(float)
        assert np.abs(image - expected).max() <= 1
        assert not image[(stored == 0)].any()
    bright = [file for file in tiles.images if "/s7_" in file]
    assert (tiles[tiles.images.index(bright[-1])] == 255).mean() > 0.8  # clipped as training is


def test_with_a_fraction_the_rest_is_both(tmp_path):
    own = draw_few(tmp_path / "mine", 8)
    run = asked(own, tmp_path / "run", unlabelled="rest", fraction=0.5)
    with requested_config(run) as config:
        opened = open_network(config)
        train = opened.open_split("train")
        images = unlabelled_tiles(opened, UnlabelledSettings("rest"), train).images
    folders = [Path(image).parent.name for image in images]
    assert (folders.count("train"), folders.count("unlabelled")) == (3, 4)
    assert len(train.pairs) == 3


def test_what_is_of_test_or_cannot_be_used_is_no_rest(tmp_path, capsys):
    """A copy of a test image, a neighbouring tile of a test scene, a folder and a name that say so,
    and a damaged file."""
    folder = tmp_path / "mine"
    draw_few(folder, 6, 8)
    images = folder / "images"
    for number in range(8):
        image = images / f"tile_{number:03d}.jpg"
        image.rename(image.with_name(f"area{number}_0_0.jpg"))
        label = folder / f"labels/tile_{number:03d}.png"
        if label.exists():
            label.rename(label.with_name(f"area{number}_0_0.png"))
    shutil.copy(images / "area1_0_0.jpg", images / "copy.jpg")
    for name in ("area1_0_64", "held_7", "good"):
        rng = np.random.default_rng(len(name))
        cv2.imwrite(str(images / f"{name}.jpg"), rng.integers(1, 255, (64, 64, 3)))
    (images / "test").mkdir()
    shutil.move(images / "area7_0_0.jpg", images / "test/area7_0_0.jpg")
    (images / "damaged.jpg").write_bytes(b"\xff\xd8\xff no image")
    splits = ("val=area0,held_*", "test=area1")
    (folder / "labels/held_1.png").write_bytes((folder / "labels/area0_0_0.png").read_bytes())
    shutil.copy(images / "area6_0_0.jpg", images / "held_1.jpg")
    own = OwnLabels((str(images),), f"{folder}/labels", CLASSES, splits=splits)
    with requested_config(asked(own, tmp_path / "run", unlabelled="rest")):
        said = capsys.readouterr().out
    assert card_of(tmp_path / "run")["scenes"]["val"] == ["area0_0_0", "held_1"]
    assert card_of(tmp_path / "run")["scenes"]["unlabelled"] == ["good"]  # area6 is held_1's copy
    assert "labels: of 7 of 14 images; of the 7 others 1 train beside (--unlabelled)" in said
    assert "1 of 2 images without a label cannot be used and are left out, the first is dam" in said
    assert "3 others, of validation or test, are left out; 2 copies of labelled images are" in said


def test_a_list_of_splits_may_hold_images_without_a_label(tmp_path):
    own, lines = draw_few(tmp_path / "mine", 5, 12), ["scene,split"]
    for number in range(12):
        split = {0: "val", 1: "test", 7: "val", 8: "test"}.get(number, "train")
        lines.append(f"tile_{number:03d},{split}")
    (tmp_path / "scenes.csv").write_text("\n".join(lines))
    own = dataclasses.replace(own, splits=(str(tmp_path / "scenes.csv"),))
    with requested_config(asked(own, tmp_path / "run", unlabelled="rest")):
        pass
    scenes = card_of(tmp_path / "run")["scenes"]
    assert scenes["train"] == ["tile_002", "tile_003", "tile_004"]
    assert (scenes["val"], scenes["test"]) == (["tile_000"], ["tile_001"])
    assert scenes["unlabelled"] == [f"tile_{number:03d}" for number in (5, 6, 9, 10, 11)]
    own = dataclasses.replace(own, splits=("val=tile_007,tile_009", "test=tile_001"))
    with pytest.raises(UserError, match="--splits val: none of its 2 scenes has a label"):
        prepare_own(own, find_own(own), tmp_path / "tiles")


def test_images_of_one_name_in_two_folders_both_train_beside(tmp_path):
    own = draw_few(tmp_path / "mine", 4, 6)
    images = tmp_path / "mine/images"
    for number, name in ((4, "a"), (5, "b")):
        (images / name).mkdir()
        shutil.move(images / f"tile_{number:03d}.jpg", images / name / "one.jpg")
    with requested_config(asked(own, tmp_path / "run", unlabelled="rest")):
        pass
    assert names_in(tmp_path / "run/tiles/images/unlabelled") == {"a_one", "b_one"}


def test_the_few_with_labels_say_which_bands_are_usual(tmp_path, capsys):
    own = draw_few(tmp_path / "mine", 3, 3)
    for number in range(5):
        grey = np.full((64, 64), 40 + number, np.uint8)
        cv2.imwrite(str(tmp_path / f"mine/images/grey_{number}.png"), grey)
    with (
        pytest.raises(UserError, match=r"all labels are used, and .*tiles has no tiles without"),
        requested_config(asked(own, tmp_path / "run", unlabelled="rest")),
    ):
        pass
    assert (
        "5 of 5 images without a label cannot be used and are left out" in capsys.readouterr().out
    )
    assert card_of(tmp_path / "run")["tiles"] == {"train": 1, "val": 1, "test": 1}


def test_asking_for_the_rest_later_cuts_the_rest_alone(tmp_path, capsys):
    own, tiles = draw_few(tmp_path / "mine", 4, 6), tmp_path / "tiles"
    prepare_own(own, find_own(own), tiles)
    before = {path: path.stat().st_mtime_ns for path in tiles.glob("images/*/*")}
    prepare_own(own, find_own(own), tiles, keeps_others=True)
    assert "going on: 4 of 6 scenes are done" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert names_in(tiles / "images/unlabelled") == {"tile_004", "tile_005"}
    of_tiles = FinetuningRequest(str(tiles), str(tmp_path / "run"), unlabelled="rest")
    with requested_config(of_tiles) as config:  # the set has them for other runs too
        assert config["train_cfg"]["unlabelled"] == {"image_path": "rest"}
    prepare_own(own, find_own(own), tiles)
    assert not list(tiles.glob("images/unlabelled/*"))


def test_a_run_of_images_trains_with_the_rest(tmp_path, capsys):
    draw_few(tmp_path / "mine", 4, 7)
    words = f"--images {tmp_path}/mine/images --labels {tmp_path}/mine/labels --classes ground roof"
    words += f" --splits {' '.join(SPLITS)} --unlabelled rest --output {tmp_path}/run"
    words += (
        " --preset quick --set train_cfg.num_step=2 train_cfg.batch_size=2 train_cfg.device=cpu"
    )
    assert command("finetune_seg.py", None, tmp_path, *words.split()) == 0
    said = capsys.readouterr().out
    assert "3 tiles without labels, to be labelled by the network" in said
    assert len(list((tmp_path / "run/pseudo_labels/labels").iterdir())) == 3
    assert "cross_entropy_pseudo" in (tmp_path / "run/log/metrics.jsonl").read_text()


# ---------------------------------------------------------------------------- remedies


def spoil_deep(images: Path) -> None:
    planes = np.full((3, 64, 64), 900, np.uint16)
    write_tiff(images / "tile_002.tif", planes)


def spoil_float(images: Path) -> None:
    write_tiff(images / "tile_002.tif", np.full((3, 64, 64), 0.5, np.float32))


def spoil_bands(images: Path) -> None:
    planes = np.full((5, 64, 64), 90, np.uint8)
    write_tiff(images / "tile_002.tif", planes, photometric="minisblack")


def spoil_size(images: Path) -> None:
    cv2.imwrite(str(images / "tile_002.png"), np.full((40, 64, 3), 90, np.uint8))
    cv2.imwrite(str(images.with_name("labels") / "tile_002.png"), np.zeros((40, 64), np.uint8))


def spoil_alpha(images: Path) -> None:
    for number in range(4):
        image = cv2.imread(str(images / f"tile_{number:03d}.jpg"))
        (images / f"tile_{number:03d}.jpg").unlink()
        alpha = np.full((64, 64, 1), 255, np.uint8)
        alpha[:9] = 0
        cv2.imwrite(str(images / f"tile_{number:03d}.png"), np.dstack([image, alpha]))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (spoil_deep, "set tools/prepare.py --max_value"),
        (spoil_float, "or state what it holds by tools/prepare.py --scale"),
        (spoil_bands, "see tools/prepare.py --bands, or convert it"),
        (spoil_size, "smaller than a tile; set --tile 40 or less, or leave it out"),
        (spoil_alpha, "a band called alpha; tools/prepare.py --bands rgbir"),
    ],
)
def test_flags_that_preparing_advises_are_those_of_the_command(tmp_path, capsys, spoil, said):
    own = draw_few(tmp_path / "mine", 4, 4)
    if spoil is not spoil_alpha:
        (tmp_path / "mine/images/tile_002.jpg").unlink()
    spoil(tmp_path / "mine/images")
    text, own = "", dataclasses.replace(own, tile=64)
    try:
        prepare_own(own, find_own(own), tmp_path / "tiles")
    except UserError as error:
        text = str(error)
    text = " ".join((text + "".join(capsys.readouterr())).split())
    assert said in text
    known = {option[2:] for action in flags()._actions for option in action.option_strings}
    named = re.findall(r"(?<!tools/prepare\.py )--([a-z]\w*)\b(?! is a flag of tools/)", text)
    assert set(named) <= known, set(named) - known
