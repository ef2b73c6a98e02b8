"""Labels that a network gives to tiles without, and the run that trains with them."""

import copy
import json
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import draw_tiles, small_config
from drawn import write_tiff
from teams import joined, start_team
from tiny_run import interrupt_at, moved

from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.data.reading import Reading
from SSLRemoteSensing.data.scale import up_to
from SSLRemoteSensing.evaluation.protocols import ScoringSettings
from SSLRemoteSensing.workflows import finetuning
from SSLRemoteSensing.workflows import pseudo_labels as pseudo
from SSLRemoteSensing.workflows.finetuning import finetune, label_tiles
from SSLRemoteSensing.workflows.pseudo_labels import (
    Labeller,
    Unlabelled,
    begin_labels,
    read_record,
    write_pseudo_labels,
)
from SSLRemoteSensing.workflows.segmentation import open_finetuning

CLASSES = ("ground", "roof")
CPU = torch.device("cpu")


def test_the_surest_of_each_class_are_kept():
    counts = np.zeros((3, 8), np.int64)
    counts[0, [1, 3, 6]] = 50, 30, 20  # 60 % are reached with those at 1 only
    counts[1, [2, 7]] = 4, 6  # and here with those at 7 alone
    assert pseudo.surest(counts, 0.6).tolist() == [1, 7, 7]
    assert pseudo.surest(counts, 0.5).tolist() == [3, 7, 7]
    assert pseudo.surest(counts, 0.2).tolist() == [6, 7, 7]
    assert pseudo.surest(counts, 1.0)[:2].tolist() == [1, 2]


def by_colour(images: torch.Tensor) -> torch.Tensor:
    """Roof where red is above 130; the surer, the farther from there."""
    red = images[:, 0].float()
    roof = torch.sigmoid((red - 130.25) / 40)
    return torch.stack([1 - roof, roof], 1)


@pytest.fixture(scope="module")
def tiles(tmp_path_factory) -> Unlabelled:
    """Seven images, the last of which has no data in its first ten rows, and is larger."""
    folder = draw_tiles(tmp_path_factory.mktemp("images"), 6, size=40, seed=5) / "images"
    image = draw_tiles(tmp_path_factory.mktemp("large"), 1, size=100, seed=6)
    image = cv2.imread(str(image / "images/tile_000.jpg"))
    image[:10] = 0
    cv2.imwrite(str(folder / "tile_999.png"), image)
    return Unlabelled(sorted(map(str, folder.iterdir())), Reading(None, None, "images"), 3)


def labeller(predict=by_colour) -> Labeller:
    return Labeller(predict, ScoringSettings(window=48, batch_size=4), CPU)


def labels_of(folder: Path) -> list[np.ndarray]:
    files = sorted((folder / "labels").iterdir())
    return [cv2.imread(str(file), cv2.IMREAD_UNCHANGED) for file in files]


def write(
    folder: Path, tiles: Unlabelled, by=None, labeller_of="a", begun=False, share=0.6
) -> dict:
    """As a run does it; what is there of the same origin stays."""
    origin = {"labeller": labeller_of, "share": share, "images": tiles.digest()}
    if not begin_labels(folder, origin, begun):
        by = by or labeller()
        return write_pseudo_labels(folder, tiles, by, CLASSES, share, 0, {"val_miou": 0.5})
    return read_record(folder)


def test_labels_are_the_classes_of_the_surest_pixels(tiles, tmp_path):
    record = write(tmp_path, tiles)
    everything, kept, sure = [], [], []
    for number, label in enumerate(labels_of(tmp_path)):
        image = tiles[number]
        roof = by_colour(torch.from_numpy(image).permute(2, 0, 1)[None])[0, 1].numpy()
        valid = image.any(2)
        assert (label[~valid] == 255).all()
        known = label != 255
        assert np.array_equal(label[known], (roof > 0.5)[known])
        everything.append((roof > 0.5)[valid])
        kept.append(label[valid])
        sure.append(np.maximum(roof, 1 - roof)[valid])
    everything, kept, sure = map(np.concatenate, (everything, kept, sure))
    for number, name in enumerate(CLASSES):
        own = everything == number
        is_kept = kept[own] != 255
        assert 0.6 <= is_kept.mean() < 0.65
        assert sure[own][is_kept].min() >= sure[own][~is_kept].max() - 2 / 65535
        entry = record["classes"][name]
        assert entry["pixels"] == pytest.approx(own.mean())
        assert entry["used"] == pytest.approx(is_kept.mean())
    assert not (tmp_path / "drafts").exists()
    assert tiles.labels(tmp_path) == sorted(map(str, (tmp_path / "labels").iterdir()))


def test_what_was_stopped_goes_on_and_labels_nothing_twice(tiles, tmp_path, monkeypatch):
    straight, counts = write(tmp_path / "straight", tiles), []

    def stopping(images):
        counts.append(len(images))
        if len(counts) == 2:
            raise KeyboardInterrupt
        return by_colour(images)

    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        write(run, tiles, by=labeller(stopping))
    assert tiles.labels(run) is None
    assert len(list((run / "drafts").iterdir())) == counts[0] == 4
    with monkeypatch.context() as patch:  # and once more while the labels themselves are written
        patch.setattr(pseudo, "write_png", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            write(run, tiles, by=labeller(stopping))
    labelled = len(counts)
    # Had a kill come in the midst of a block, it would be labelled whole again: the same stacks.
    (run / "drafts" / f"{tiles.names()[1]}.npz").unlink()
    assert write(run, tiles, by=labeller(stopping)) == straight
    assert counts[labelled:] == [4]
    labelled = len(counts)
    assert write(run, tiles, by=labeller(stopping)) == straight
    assert len(counts) == labelled
    pairs = zip(labels_of(run), labels_of(tmp_path / "straight"), strict=True)
    assert all(np.array_equal(*pair) for pair in pairs)


def test_processes_that_divide_the_tiles_write_what_one_does(tiles, tmp_path):
    record = write(tmp_path / "one", tiles)
    (tmp_path / "tiles.json").write_text(json.dumps(tiles.images))
    start_team(__file__, tmp_path, [2])
    assert json.loads((tmp_path / "two/record.json").read_text()) == record
    names = {file.name for file in (tmp_path / "two/labels").iterdir()}
    assert names == {file.name for file in (tmp_path / "one/labels").iterdir()}
    pairs = zip(labels_of(tmp_path / "two"), labels_of(tmp_path / "one"), strict=True)
    assert all(np.array_equal(*pair) for pair in pairs)


def work(folder: Path) -> None:
    images = json.loads((folder / "tiles.json").read_text())
    with joined(2):
        write(folder / "two", Unlabelled(images, Reading(None, None, "images"), 3))


CHANGES = {"labeller": {"labeller_of": "b"}, "share": {"share": 0.3}, "images": {}}


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_of_something_else_is_made_anew_until_the_run_has_begun(
    tiles, tmp_path, change, capsys
):
    write(tmp_path, tiles)
    (tmp_path / "labels/of_before.png").touch()
    (tmp_path / "examples.png").touch()
    (tmp_path / "labeller").mkdir()
    others = Unlabelled(tiles.images[1:], tiles.reading, 3) if change == "images" else tiles
    with pytest.raises(UserError, match=f"has begun with labels of another {change} than"):
        write(tmp_path, others, begun=True, **CHANGES[change])
    assert (tmp_path / "labels/of_before.png").exists()
    write(tmp_path, others, **CHANGES[change])
    assert f"of another {change} than is asked for now, made anew" in capsys.readouterr().out
    assert not (tmp_path / "labels/of_before.png").exists()
    assert not (tmp_path / "examples.png").exists()
    assert (tmp_path / "labeller").exists() == (change != "labeller")
    assert len(others.labels(tmp_path)) == len(labels_of(tmp_path))


def test_other_scales_are_other_images(tiles):
    other = Unlabelled(tiles.images, Reading(up_to(100), None, "images"), 3)
    assert other.digest() != tiles.digest()


def test_what_has_other_contents_is_another_image_wherever_it_lies(tmp_path):
    files = [str(tmp_path / f"{number}.tif") for number in range(3)]
    for number, file in enumerate(files):
        write_tiff(Path(file), np.full((3, 8, 8), number, np.uint8))
    before = Unlabelled(files, Reading(None, None, "images"), 3).digest()
    shutil.copytree(tmp_path, tmp_path / "moved")
    moved = [str(tmp_path / "moved" / Path(file).name) for file in files]
    assert Unlabelled(moved, Reading(None, None, "images"), 3).digest() == before
    size = Path(files[1]).stat().st_size
    write_tiff(Path(files[1]), np.full((3, 8, 8), 77, np.uint8))
    assert Path(files[1]).stat().st_size == size
    assert Unlabelled(files, Reading(None, None, "images"), 3).digest() != before


def begun(folder: Path, name: str) -> bool:
    """Begin labels of the labeller `name`, which leaves its mark; whether they are done."""
    is_done = begin_labels(folder, {"version": 2, "labeller": name, "images": "i"}, False)
    (folder / "labeller").mkdir(exist_ok=True)
    (folder / f"labeller/of_{name}").touch()
    return is_done


@pytest.mark.parametrize("call", range(1, 6))
@pytest.mark.parametrize("then", ["a", "b"])
def test_wherever_a_change_is_stopped_no_other_labeller_is_taken(tmp_path, call, then, monkeypatch):
    folder = tmp_path / "pseudo_labels"
    begun(folder, "a")
    (folder / "labels").mkdir()
    record = json.loads((folder / "record.json").read_text()) | {"classes": {}}
    (folder / "record.json").write_text(json.dumps(record))
    calls = []

    def stopping(function):
        def stops(*arguments, **keys):
            calls.append(function)
            if len(calls) == call:
                raise KeyboardInterrupt
            return function(*arguments, **keys)

        return stops

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", stopping(Path.rename))
        patch.setattr(pseudo.shutil, "rmtree", stopping(shutil.rmtree))
        patch.setattr(pseudo, "write_text", stopping(pseudo.write_text))
        if call < 5:
            with pytest.raises(KeyboardInterrupt):
                begun(folder, "b")
        else:
            begun(folder, "b")
            assert len(calls) == 4
    is_done = begun(folder, then)
    assert {file.name for file in (folder / "labeller").iterdir()} == {f"of_{then}"}
    assert not is_done or (folder / "labels").exists()
    assert not folder.with_name("pseudo_labels.old").exists()


def test_lost_and_collapsed_classes_are_warned_of(capsys, tmp_path):
    record = {"classes": {"ground": {"pixels": 0.99}, "roof": {"pixels": 0.01}}}
    pseudo.warn_of_lost_classes(record, (0.7, 0.3), tmp_path)
    said = capsys.readouterr().err
    assert "class ground takes 99.0% of the pseudo labels, 70.0% of the labels" in said
    assert "class roof has 30.0% of the labels and 1.00% of the pseudo labels" in said
    pseudo.warn_of_lost_classes(record, (0.98, 0.02), tmp_path)
    assert not capsys.readouterr().err


@pytest.fixture
def config(tmp_path) -> dict:
    """Four labelled tiles of twelve, and eight others, random weights."""
    folder = draw_tiles(tmp_path / "tiles", 20, size=32)
    config = small_config("finetune", num_step=4)
    paths = dict(image_path=str(folder / "images"), label_path=str(folder / "labels"))
    train = paths | dict(data_format=["tile_00*.jpg", "tile_01[01].jpg"], crop_size=32)
    config["train_cfg"]["train_data"] |= train | dict(hash_range=(0, 1), fraction=1 / 3)
    config["train_cfg"]["val_data"] = paths | dict(data_format="tile_01[2-5].jpg")
    config["train_cfg"]["test_data"] = paths | dict(data_format="tile_01[6-9].jpg")
    config["train_cfg"]["unlabelled"] = dict(image_path="rest")
    config["train_cfg"]["optimizer"] = dict(name="SGD", lr=0.01)
    config["backbone_cfg"]["pretrained"] = False
    return moved(config, tmp_path / "run")


def weights_of(config: dict) -> dict:
    folder = Path(config["train_cfg"]["checkpoints"]["checkpoints_path"])
    return torch.load(folder / "best.pth", weights_only=True)["model"]


def same(first: dict, second: dict) -> bool:
    return all(torch.equal(first[key], second[key]) for key in first)


def test_a_run_labels_the_rest_and_trains_with_both(config, capsys, tmp_path):
    finetune(config)
    said, run = capsys.readouterr().out, tmp_path / "run"
    assert "8 tiles without labels, to be labelled by the network as labels alone train it" in said
    assert "pseudo labels of 8 tiles, " in said
    assert "cross_entropy_pseudo" in (run / "log/metrics.jsonl").read_text()
    assert len(list((run / "pseudo_labels/labels").iterdir())) == 8
    assert (run / "pseudo_labels/examples.png").exists()
    page = (run / "report.html").read_text()
    for text in ("Unlabelled tiles", "labelled by network (mIoU on validation ", "8 pseudo labels"):
        assert text in page
    best = torch.load(run / "best.pth", weights_only=True)
    assert best["card"]["pseudo_labels"]["tiles"] == 8
    labels = torch.load(run / "pseudo_labels/labeller/best.pth", weights_only=True)
    assert not same(best["model"], labels["model"])
    before = (run / "pseudo_labels/record.json").read_text()
    shutil.rmtree(run / "pseudo_labels/labeller")  # which nothing needs any more
    finetune(config)
    assert not (run / "pseudo_labels/labeller").exists()
    assert (run / "pseudo_labels/record.json").read_text() == before


def test_labels_of_the_rest_are_not_used(config, tmp_path):
    finetune(config)
    used = (tmp_path / "run/train_tiles.txt").read_text().split()
    assert len(used) == 4
    folder = Path(config["train_cfg"]["train_data"]["label_path"])
    for number in range(12):
        if f"tile_{number:03d}.jpg" not in used:
            cv2.imwrite(str(folder / f"tile_{number:03d}.png"), np.ones((32, 32), np.uint8))
    other = moved(config, tmp_path / "other")
    finetune(other)
    assert same(weights_of(config), weights_of(other))


PLACES = ("labeller", "labelling", "drawing", "training", "scoring")


def test_wherever_it_is_stopped_it_goes_on_to_the_same_weights(config, tmp_path, monkeypatch):
    finetune(config)
    straight, other = weights_of(config), moved(config, tmp_path / "stopped")
    for place in PLACES:
        with monkeypatch.context() as patch:
            stopped = stop_at(place, patch)
            with pytest.raises((KeyboardInterrupt, SystemExit)):
                finetune(other)
            assert stopped == [place]
    finetune(other)
    assert same(straight, weights_of(other))


def stop_at(place: str, patch) -> list[str]:
    """Have the next run stopped at `place`, which the list holds once it was."""
    stopped, fit = [], finetuning.fit

    def stop(*_, **__):
        stopped.append(place)
        raise KeyboardInterrupt

    def interrupted(task, settings):
        is_labeller = settings.folder.name == "labeller"
        if is_labeller == (place == "labeller"):
            stopped.append(place)
            interrupt_at(2)(task.model)
        return fit(task, settings)

    if place in ("labeller", "training"):
        patch.setattr(finetuning, "fit", interrupted)
    elif place == "labelling":
        patch.setattr(pseudo, "surest", stop)
    elif place == "drawing":
        patch.setattr(finetuning, "draw_pseudo_labels", stop)
    else:
        patch.setattr(finetuning, "write_scores", stop)
    return stopped


def test_a_probe_labels_where_the_backbone_is_pre_trained(config, tmp_path, capsys):
    finetune(copy.deepcopy(config) | {"name": "first"})
    # Its own best network is a backbone as good as any.
    config["backbone_cfg"]["pretrained"] = str(tmp_path / "run/best.pth")
    other = moved(config, tmp_path / "probe")
    label_tiles(other)
    assert "to be labelled by a linear probe on the frozen backbone" in capsys.readouterr().out
    labeller = tmp_path / "probe/pseudo_labels/labeller/best.pth"
    card = torch.load(labeller, weights_only=True)["card"]
    assert card["config"]["decoder_cfg"]["name"] == "LinearProbe"
    assert card["config"]["train_cfg"]["freeze_backbone"] is True


def test_a_checkpoint_labels_if_it_is_asked_to(config, tmp_path):
    plain = copy.deepcopy(config)
    del plain["train_cfg"]["unlabelled"]
    finetune(moved(plain, tmp_path / "teacher"))
    config["train_cfg"]["unlabelled"]["labelled_by"] = str(tmp_path / "teacher/best.pth")
    label_tiles(config)
    assert not (tmp_path / "run/pseudo_labels/labeller").exists()
    record = json.loads((tmp_path / "run/pseudo_labels/record.json").read_text())
    assert record["by"] == config["train_cfg"]["unlabelled"]["labelled_by"]
    other = copy.deepcopy(moved(config, tmp_path / "third"))
    other["train_cfg"]["train_data"]["max_value"] = 100.0
    with pytest.raises(UserError, match=r"labelled_by=.*best\.pth'.*100"):
        label_tiles(other)
    with pytest.raises(UserError, match="lies in the run's own folder"):
        label_tiles(moved(config, tmp_path / "teacher"))
    config["classes"] = ("ground", "house")
    with pytest.raises(UserError, match=r"trained on classes \['other', 'building'\]"):
        label_tiles(moved(config, tmp_path / "fourth"))


@pytest.mark.parametrize("part", ["train_data", "val_data"])
def test_other_labels_in_place_of_the_first_are_another_labeller(config, part, monkeypatch):
    origins = []

    def begin(_, origin, __):
        origins.append(origin)
        raise KeyboardInterrupt

    monkeypatch.setattr(finetuning, "begin_labels", begin)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            label_tiles(config)
        pattern = {"train_data": "tile_0[01]*", "val_data": "tile_01[2-5]*"}[part]
        for file in Path(config["train_cfg"][part]["label_path"]).glob(pattern):
            cv2.imwrite(str(file), 1 - cv2.imread(str(file), cv2.IMREAD_UNCHANGED))
    first, second = origins
    assert first.pop("labeller") != second.pop("labeller")
    assert first == second


@pytest.mark.parametrize("change", ["fraction_seed", "labelled_by"])
def test_a_labeller_of_other_settings_labels_nothing(config, tmp_path, change, monkeypatch):
    """Stopped before the run itself began, and asked for something else."""
    with monkeypatch.context() as patch:
        stop_at("drawing", patch)
        with pytest.raises(KeyboardInterrupt):
            finetune(config)
    first = json.loads((tmp_path / "run/pseudo_labels/record.json").read_text())
    before = torch.load(tmp_path / "run/pseudo_labels/labeller/best.pth", weights_only=True)
    if change == "fraction_seed":
        config["train_cfg"]["train_data"]["fraction_seed"] = 5
    else:
        config["train_cfg"]["unlabelled"]["labelled_by"] = "probe"
    finetune(config)
    second = json.loads((tmp_path / "run/pseudo_labels/record.json").read_text())
    after = torch.load(tmp_path / "run/pseudo_labels/labeller/best.pth", weights_only=True)
    assert second["labeller"] != first["labeller"]
    assert after["card"]["config"] != before["card"]["config"]
    config["train_cfg"]["train_data"]["fraction_seed"] = 6
    with pytest.raises(UserError, match="the run has begun with labels of another labeller than"):
        finetune(config)


def test_a_dry_run_writes_nothing_and_has_both_parts(config, tmp_path, capsys):
    finetune(config, dry_run=True)
    assert "cross_entropy_pseudo" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


def test_before_there_are_pseudo_labels_the_labelled_tiles_stand_for_them(config):
    task, _ = open_finetuning(config)
    names = {Path(image).name for image, _ in task.dataset.unlabelled.pairs}
    assert len(names) == 4


def test_labels_that_begin_at_1_stand_for_pseudo_labels_too(config, capsys):
    train_data = config["train_cfg"]["train_data"]
    for file in Path(train_data["label_path"]).iterdir():
        cv2.imwrite(str(file), 1 + cv2.imread(str(file), cv2.IMREAD_UNCHANGED))
    train_data["label_offset"] = -1
    finetune(config, dry_run=True)
    assert "cross_entropy_pseudo" in capsys.readouterr().out
    stand_in = open_finetuning(config)[0].dataset.unlabelled
    assert set(np.unique(stand_in[0, 0]["label"])) <= {0, 1, 255}


if __name__ == "__main__":
    work(Path(sys.argv[1]))
