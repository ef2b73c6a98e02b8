"""tools/predict.py as a user runs it: what comes out, what is refused, and what a stop leaves."""

import os
import re
import resource
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from conftest import ROOT
from mapped import CLASSES, PALETTE, PLACE, damaged, draw, read, write
from preloaded import python

import SSLRemoteSensing as sslrs
from SSLRemoteSensing.core import checkpoints
from SSLRemoteSensing.core.errors import run_command
from SSLRemoteSensing.inference.network import open_network
from SSLRemoteSensing.inference.windows import probabilities
from SSLRemoteSensing.models.segmentation import build_segmentation

CONFIG = dict(
    classes=CLASSES,
    palette=PALETTE,
    backbone_cfg=dict(name="resnet18", in_channels=3, pretrained=False),
    decoder_cfg=dict(name="Decoder"),
    train_cfg=dict(train_data=dict(image_path="gone", label_path="gone")),
)


@pytest.fixture(scope="module")
def best(tmp_path_factory) -> Path:
    """best.pth of a network that never learned anything."""
    torch.manual_seed(0)
    model = build_segmentation(CONFIG)
    card = dict(classes=CLASSES, palette=PALETTE, config=CONFIG, max_value=None)
    card |= dict(mean=[0.4, 0.4, 0.4], std=[0.2, 0.2, 0.2])
    path = tmp_path_factory.mktemp("run") / "best.pth"
    checkpoints.write(path, dict(model=model.state_dict(), step=1, card=card))
    return path


@pytest.fixture
def predict(best, monkeypatch, capsys):
    """Run the command in this process; its exit status, stdout and stderr."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))

    def call(*arguments, file=best):
        line = ["predict.py", "--checkpoint", file, "--device", "cpu", "--precision", "fp32"]
        monkeypatch.setattr(sys, "argv", [str(word) for word in (*line, "--tile", 64, *arguments)])
        code = 0
        try:
            run_command(import_module("predict").main)
        except SystemExit as stop:
            code = stop.code
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return code, said.out, said.err

    return call


def refused(done) -> str:
    code, _, err = done
    assert code == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_scene_to_all_its_files(predict, best, tmp_path):
    planes = draw(96, 130)
    scene = write(tmp_path / "scene.tif", planes, **PLACE)
    asked = ("--preview", "--probabilities", "--vectors", tmp_path / "out/map.gpkg")
    code, out, err = predict("--input", scene, "--output", tmp_path / "out/map.tif", *asked)
    assert (code, err) == (0, "")
    assert "130 x 96, 0.01 megapixels in " in out
    assert all(name in out for name in CLASSES)
    files = ["map.gpkg", "map.tif", "map_preview.html", "map_preview.png", "map_probabilities.tif"]
    assert names(tmp_path / "out") == files
    page = (tmp_path / "out/map_preview.html").read_text()
    counts = np.bincount(read(tmp_path / "out/map.tif").ravel(), minlength=len(CLASSES))
    assert all(f">{count:,}<" in page for count in counts[: len(CLASSES)])
    assert all(f'href="{name}"' in page for name in files if not name.endswith(".html"))
    assert all(str(tmp_path / "out" / name) in out for name in files)
    # The card's mean and std count: in one window it is what the network says of the whole scene.
    code, *_ = predict("--input", scene, "--output", tmp_path / "one.tif", "--tile", 256)
    model = build_segmentation(CONFIG)
    model.load_state_dict(checkpoints.read(best)["model"])
    model.backbone.set_normalization([0.4] * 3, [0.2] * 3)
    whole = probabilities(model, torch.device("cpu"), "fp32", torch.from_numpy(planes)[None])[0]
    assert (read(tmp_path / "one.tif") == whole.argmax(0).numpy()).mean() > 0.999


def test_a_pattern_to_a_folder_and_one_bad_scene_does_not_stop_the_others(predict, tmp_path):
    (tmp_path / "in/below").mkdir(parents=True)
    for name in ("a.tif", "below/c.tif"):
        write(tmp_path / "in" / name, draw(64, 64), **PLACE)
    damaged(tmp_path / "in/b.tif")
    pattern = tmp_path / "in/**/*.tif"
    code, out, err = predict("--input", pattern, "--output", tmp_path / "maps", "--preview")
    assert code == 1
    page = (tmp_path / "maps/maps.html").read_text()
    assert f"page: {tmp_path / 'maps/maps.html'}\n" in out
    assert 'src="a_preview.png"' in page
    assert "b.tif: the block at columns 64 to 127, rows 128 to 191" in page
    assert err.count("error: ") == 1
    assert "b.tif: the block at columns 64 to 127, rows 128 to 191" in err
    assert "1 of 3 scenes are not mapped" in err
    assert "2 scenes, 0.0 megapixels" in out
    made = ["a.tif", "a_preview.png", "c.tif", "c_preview.png", "maps.html"]
    assert names(tmp_path / "maps") == made
    before = (tmp_path / "maps/a.tif").stat().st_mtime_ns
    write(tmp_path / "in/b.tif", draw(64, 64), **PLACE)
    code, out, _ = predict("--input", pattern, "--output", tmp_path / "maps", "--skip_existing")
    assert code == 0
    assert "2 of 3 scenes have their map already" in out
    assert names(tmp_path / "maps") == sorted([*made, "b.tif"])
    assert (tmp_path / "maps/a.tif").stat().st_mtime_ns == before
    # The page of these is not made one of another scene alone, but one of all of them.
    (tmp_path / "more").mkdir()
    more = write(tmp_path / "more/d.tif", draw(64, 64), **PLACE)
    second = write(tmp_path / "more/e.tif", draw(64, 64), **PLACE)
    asked = ("--output", tmp_path / "maps", "--preview")
    line = refused(predict("--input", more, second, *asked))
    assert "maps.html: is there already and shows other maps, a_preview.png first" in line
    code, *_ = predict("--input", pattern, more, second, *asked, "--skip_existing")
    assert code == 0
    page = (tmp_path / "maps/maps.html").read_text()
    assert [f'src="{name}_preview.png"' in page for name in "acde"] == [True] * 4


def test_no_remedy_mixes_old_maps_with_new_ones(predict, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "maps").mkdir()
    write(tmp_path / "in/a.tif", draw(64, 64), **PLACE)
    (tmp_path / "in/b.tif").write_bytes(b"no image")
    for name in "ab":
        (tmp_path / f"maps/{name}.tif").write_bytes(b"an old map")
    to_maps = ("--input", tmp_path / "in/*.tif", "--output", tmp_path / "maps")
    code, out, err = predict(*to_maps, "--overwrite")
    assert code == 1
    assert "1 of 2 scenes are not mapped" in err
    assert "next:" not in out
    assert (tmp_path / "maps/b.tif").read_bytes() == b"an old map"
    (tmp_path / "maps/b.tif").unlink()
    code, out, err = predict(*to_maps, "--skip_existing")
    assert (code, out.count("next:")) == (1, 1)
    assert "--skip_existing" in out.rpartition("next:")[2]


def test_mistakes_are_refused_in_one_line_before_any_work(predict, best, tmp_path):
    scene = write(tmp_path / "scene.tif", draw(64, 64), **PLACE)
    (tmp_path / "twin").mkdir()
    twin = write(tmp_path / "twin/scene.tif", draw(64, 64), **PLACE)
    (tmp_path / "link.tif").symlink_to(scene)
    os.link(scene, tmp_path / "hard.tif")
    (tmp_path / "file").write_text("text")
    folder = tmp_path / "folder.gpkg/scene.gpkg"
    folder.mkdir(parents=True)
    folder = folder.parent
    out = tmp_path / "map.tif"
    before = names(tmp_path)
    to_map = ("--input", scene, "--output", out)
    for message, *arguments in (
        ("no file matches", "--input", tmp_path / "*.jp2", "--output", out),
        ("no such file", "--input", tmp_path / "none.tif", "--output", out),
        ("is a folder; give a pattern", "--input", tmp_path, "--output", out),
        ("map.jpg: .jpg files are not", "--input", scene, "--output", tmp_path / "map.jpg"),
        ("--vectors", *to_map, "--vectors", tmp_path / "map.shp"),
        ("--vectors .*gpkg: is a folder", *to_map, "--vectors", folder),
        ("is the scene", "--input", scene, "--output", scene),
        ("is the scene", "--input", scene, "--output", tmp_path),
        ("is the scene", "--input", scene, "--output", tmp_path / "link.tif"),
        ("is the scene", "--input", scene, "--output", tmp_path / "hard.tif"),
        ("would both be", "--input", scene, twin, "--output", tmp_path / "maps"),
        ("one file for 2 scenes", "--input", scene, twin, "--output", out),
        ("is a file; name a folder", "--input", scene, "--output", tmp_path / "file"),
        ("cannot write there", "--input", scene, "--output", tmp_path / "file/map.tif"),
        ("both are given; leave one", *to_map, "--overwrite", "--skip_existing"),
        ("--tile 8: must be", *to_map, "--tile", 8),
        ("--batch_size 0: must be", *to_map, "--batch_size", 0),
        ("--workers 0: must be", *to_map, "--workers", 0),
        ("--overlap 1.0: must be", *to_map, "--overlap", 1),
        ("--overlap nan: must be", *to_map, "--overlap", "nan"),
        ("--min_area -1", *to_map, "--min_area", -1),
        ("--min_area nan", *to_map, "--min_area", "nan"),
        ("--simplify inf", *to_map, "--simplify", "inf"),
        ("--max_value nan", *to_map, "--max_value", "nan"),
        ("--max_value inf", *to_map, "--max_value", "inf"),
        ("--max_value 0", *to_map, "--max_value", 0),
        ("--gsd 0.0: must be a number of metres above 0, or native", *to_map, "--gsd", 0),
        ("--gsd nan: must be", *to_map, "--gsd", "nan"),
        ("'lake' is none of", *to_map, "--vector_classes", "lake"),
        ("--device 'tpu'", *to_map, "--device", "tpu"),
        ("image .*: has 3 bands, not band 9 of --bands", *to_map, "--bands", 1, 2, 9),
        ("cannot be read", "--input", tmp_path / "file", "--output", out),
    ):
        assert re.search(message, refused(predict(*arguments))), message
    assert names(tmp_path) == before


def test_what_a_scene_is_read_from_is_never_replaced(predict, tmp_path):
    tile = write(tmp_path / "tile.tif", draw(64, 80), **PLACE)
    scene = tmp_path / "scene.vrt"
    bands = "".join(
        f'<VRTRasterBand dataType="Byte" band="{n}"><SimpleSource><SourceFilename '
        f'relativeToVRT="1">tile.tif</SourceFilename><SourceBand>{n}</SourceBand></SimpleSource>'
        f"</VRTRasterBand>"
        for n in (1, 2, 3)
    )
    scene.write_text(f'<VRTDataset rasterXSize="80" rasterYSize="64">{bands}</VRTDataset>')
    content = tile.read_bytes()
    for flags in ((), ("--overwrite",)):
        line = refused(predict("--input", scene, "--output", tile, *flags))
        assert f"--output {tile}: is a part of the scene {scene}, which would be lost" in line
    assert tile.read_bytes() == content


@pytest.mark.parametrize("name", ["m.tif", "m_probabilities.tif", "m_preview.png", "m.gpkg"])
def test_a_file_that_is_there_is_replaced_only_where_the_flag_says_so(predict, tmp_path, name):
    scene, file = write(tmp_path / "scene.tif", draw(64, 80), **PLACE), tmp_path / name
    file.write_bytes(b"of someone")
    command = ["--input", scene, "--output", tmp_path / "m.tif", "--probabilities", "--preview"]
    command += ["--vectors", tmp_path / "m.gpkg"]
    flag = "--vectors" if name == "m.gpkg" else "--output"
    assert f"{flag} {file}: is there already" in (line := refused(predict(*command)))
    assert "--overwrite" in line
    assert (names(tmp_path), file.read_bytes()) == (sorted([name, "scene.tif"]), b"of someone")
    assert predict(*command, "--overwrite")[0] == 0
    assert file.read_bytes() != b"of someone"
    assert "--overwrite" in refused(predict(*command))  # a map of its own no less


def test_what_a_kill_between_two_names_left_is_replaced(predict, best, tmp_path):
    """But nothing that stands beside a map which was not yet ready then."""
    scene = write(tmp_path / "scene.tif", draw(64, 80), **PLACE)
    command = ["--input", scene, "--output", tmp_path / "m.tif", "--vectors", tmp_path / "m.gpkg"]
    for hidden in (".m.tif.part", ".m.tif.ready"):
        (tmp_path / hidden).write_bytes(b"of a run that was killed")
        (tmp_path / "m.gpkg").write_bytes(b"of it, or of someone")
        if hidden.endswith(".part"):
            assert "is there already" in refused(predict(*command))
    assert predict(*command, "--skip_existing")[0] == 0
    assert names(tmp_path) == ["m.gpkg", "m.tif", "scene.tif"]
    assert (tmp_path / "m.gpkg").read_bytes()[:6] == b"SQLite"
    (tmp_path / "m.gpkg").unlink()
    asked = dict(vectors=tmp_path / "m.gpkg", device="cpu", skip_existing=True)
    assert sslrs.predict(best, scene, tmp_path / "m.tif", **asked) == [tmp_path / "m.tif"]
    assert names(tmp_path) == ["m.tif", "scene.tif"]  # the map is there: nothing was made


def test_an_export_maps_as_its_checkpoint_does(predict, best, tmp_path, monkeypatch, capsys):
    """The bands of training in another order than the file's, and values of 16 bits."""
    contents = checkpoints.read(best)
    contents["card"] |= dict(bands=[4, 1, 2], band_names=["near infrared", "red", "green"])
    contents["card"] |= dict(prepared=True, dtype="uint16", max_value=1023, gsd=1.0)
    checkpoints.write(tmp_path / "best.pth", contents)
    line = ["export.py", "--checkpoint", tmp_path / "best.pth", "--format", "safetensors"]
    line += ["--output", tmp_path / "net.safetensors"]
    monkeypatch.setattr(sys, "argv", [str(word) for word in line])
    import_module("export").main()
    assert "- Ground sampling distance: 1 m\n" in (tmp_path / "README.md").read_text()
    capsys.readouterr()
    scene = write(tmp_path / "scene.tif", draw(64, 80, 4, dtype=np.uint16) * 4, **PLACE)
    maps = []
    for name in ("best.pth", "net.safetensors"):
        flags = ("--input", scene, "--output", tmp_path / "map.tif", "--overwrite")
        code, out, _ = predict(*flags, file=tmp_path / name)
        assert code == 0
        assert "bands 4, 1, 2 taken as near infrared, red, green" in out
        assert "pixels of 0.5 x 0.5 m, seen by the network at 1 m" in out
        maps.append(read(tmp_path / "map.tif"))
    predict(*flags, "--bands", 1, 2, 3, file=tmp_path / "best.pth")
    assert np.array_equal(*maps)
    assert not np.array_equal(maps[0], read(tmp_path / "map.tif"))


def test_the_network_sees_the_metres_of_its_card_or_of_the_flag(predict, best, tmp_path):
    contents = checkpoints.read(best)
    contents["card"] |= dict(gsd=1.0)
    checkpoints.write(tmp_path / "best.pth", contents)
    scene = write(tmp_path / "scene.tif", draw(96, 130), **PLACE)  # of half a metre
    flags = ("--input", scene, "--output", tmp_path / "map.tif", "--overwrite")
    text = "pixels of 0.5 x 0.5 m, seen by the network at"
    for more, metres in (((), "1"), (("--gsd", 2), "2"), (("--gsd", "native"), None)):
        code, out, err = predict(*flags, *more, file=tmp_path / "best.pth")
        assert (code, err) == (0, "")
        assert f"{text} {metres} m" in out if metres else text not in out
        assert read(tmp_path / "map.tif").shape == (96, 130)
    code, _, err = predict(*flags, "--gsd", "coarse")
    assert code == 2
    assert "--gsd: invalid metres value: 'coarse'" in err


def test_a_card_of_an_earlier_version_has_the_bands_in_its_config(best, tmp_path):
    contents = checkpoints.read(best)
    contents["card"]["config"]["train_cfg"]["train_data"]["bands"] = (5, 1, 2)
    checkpoints.write(tmp_path / "best.pth", contents)
    net = open_network(tmp_path / "best.pth", torch.device("cpu"), "bf16")
    assert (net.bands, net.band_names, net.prepared, net.dtype) == ((5, 1, 2), None, False, "uint8")
    weight = next(net.model.backbone.parameters())
    assert weight.is_contiguous(memory_format=torch.channels_last)  # as bf16 likes it


def test_checkpoints_that_are_no_fine_tuned_network_are_refused_by_name(predict, best, tmp_path):
    scene = write(tmp_path / "scene.tif", draw(64, 64), **PLACE)
    contents = checkpoints.read(best)
    backbone = {key.removeprefix("backbone."): v for key, v in contents["model"].items()}
    pretext = dict(model={}, card=dict(name="resnet18", config=dict(backbone_cfg={})))
    other = contents | dict(card=contents["card"] | dict(classes=["a", "b"]))
    for message, file in (
        ("a backbone alone", backbone),
        ("has no card", dict(model=contents["model"])),
        ("is of a pre-training", pretext),
        ("not of the config's network", other),
    ):
        torch.save(file, tmp_path / "file.pth")
        flags = ("--input", scene, "--output", tmp_path / "m.tif")
        line = refused(predict(*flags, file=tmp_path / "file.pth"))
        assert message in line
        assert "file.pth" in line


def command(best: Path, *arguments) -> list[str]:
    line = [str(ROOT / "tools/predict.py"), "--checkpoint", best, "--device", "cpu"]
    return [str(word) for word in (*line, *arguments)]


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> Path:
    """A scene that takes a minute and more."""
    planes = np.tile(draw(500, 500), (1, 6, 4))
    return write(tmp_path_factory.mktemp("large") / "large.tif", planes, **PLACE)


@pytest.mark.parametrize(
    ("number", "fresh"), [(signal.SIGINT, True), (signal.SIGTERM, False), (signal.SIGKILL, False)]
)
def test_a_stopped_run_leaves_nothing_under_the_final_names(
    predict, best, large, tmp_path, number, fresh
):
    output = tmp_path / "maps"
    flags = ("--input", large, "--output", output, "--probabilities", "--tile", "128")
    program = [sys.executable if fresh else python(), "-m", "SSLRemoteSensing", "predict"]
    line = [*program, *command(best, *flags)[1:]]
    run = subprocess.Popen(line, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    part, end = output / ".large.tif.part", time.monotonic() + 100
    while not part.exists() and time.monotonic() < end:
        assert run.poll() is None
        time.sleep(0.05)
    time.sleep(0.5)  # into the scene
    run.send_signal(number)
    start = time.monotonic()
    said = run.communicate(timeout=30)[1]
    assert time.monotonic() - start < 15
    assert run.returncode == (-number if number == signal.SIGKILL else 128 + number)
    assert "Traceback" not in said
    parts = [".large.tif.part", ".large_probabilities.tif.part"]
    assert names(output) == (parts if number == signal.SIGKILL else [])
    # The next run for that scene replaces them; the name is what counts.
    if number == signal.SIGKILL:
        small = write(tmp_path / "large.tif", draw(64, 64), **PLACE)
        assert predict("--input", small, "--output", output, "--probabilities")[0] == 0
        assert names(output) == ["large.tif", "large_probabilities.tif"]


@pytest.mark.parametrize("what", ["map", "probabilities", "preview", "vectors", "png"])
def test_a_disk_that_fills_leaves_no_half_file(predict, tmp_path, what):
    """The system cuts each file off at a size that the file in question does not fit in."""
    planes = np.random.default_rng(0).integers(1, 256, (3, 300, 300), np.uint8)
    scene = write(tmp_path / "scene.tif", planes, **PLACE)
    (tmp_path / "out").mkdir()
    name, flags, size = {
        "map": ("m.tif", (), 3_000),
        "probabilities": ("m.tif", ("--probabilities",), 60_000),
        "preview": ("m.tif", ("--preview",), 60_000),
        "vectors": ("m.tif", ("--vectors", tmp_path / "out/m.gpkg"), 60_000),
        "png": ("m.png", (), 3_000),
    }[what]
    old = tmp_path / "out" / name
    old.write_bytes(b"what was there before")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        flags = (*flags, "--overwrite", "--tile", 320)
        done = predict("--input", scene, "--output", old, *flags)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    line = refused(done)
    assert "cannot be written" in line
    assert "is the disk full?" in line
    assert names(tmp_path / "out") == [name]
    assert old.read_bytes() == b"what was there before"


def test_two_processes_share_the_scenes(best, tmp_path):
    (tmp_path / "in").mkdir()
    for number in range(5):
        write(tmp_path / f"in/{number}.tif", draw(64, 64 + number, seed=number), **PLACE)
    (tmp_path / "in/3.tif").write_bytes(b"no image")
    launch = [python(), "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    flags = ("--input", tmp_path / "in/*.tif", "--output", tmp_path / "out")
    done = subprocess.run(
        [*launch, *command(best, *flags)], capture_output=True, text=True, cwd=ROOT, timeout=120
    )
    assert done.returncode == 1, done.stderr
    assert names(tmp_path / "out") == ["0.tif", "1.tif", "2.tif", "4.tif"]
    for number in (0, 1, 2, 4):
        assert done.stdout.count(f"{number}.tif: {64 + number} x 64") == 1
        with rasterio.open(tmp_path / f"out/{number}.tif") as file:
            assert file.shape == (64, 64 + number)
    assert "4 scenes" in done.stdout
    assert done.stderr.count("3.tif: cannot be read") == 1  # of the second process
    assert "1 of 5 scenes are not mapped" in done.stderr
