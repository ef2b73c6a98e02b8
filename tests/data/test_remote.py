"""Images on other machines: refused, unless they are asked for; then as the same files here."""

import gzip
import http.client
import shutil
import socket
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from conftest import ROOT
from mapped import draw, mapped, network, write

import SSLRemoteSensing as sslrs
from SSLRemoteSensing.core.errors import UnreadableImage, UserError
from SSLRemoteSensing.data.file_lists import find_images
from SSLRemoteSensing.data.geotiff import open_tiff
from SSLRemoteSensing.data.images import read_header, read_image
from SSLRemoteSensing.data.pretext import PretextDataset, PretextSettings
from SSLRemoteSensing.data.remote import is_remote, remote_name
from SSLRemoteSensing.data.vectors import open_layer
from SSLRemoteSensing.inference import preview
from SSLRemoteSensing.inference.mapper import MapSettings, map_scenes
from SSLRemoteSensing.inference.outputs import find_scenes, plan_outputs
from SSLRemoteSensing.preparation.polygons import list_images
from SSLRemoteSensing.preparation.sources import list_files
from SSLRemoteSensing.reports.map_page import write_map_page
from SSLRemoteSensing.training.plan import make_plan
from SSLRemoteSensing.training.sampler import load
from SSLRemoteSensing.workflows.own_images import look_at_images
from SSLRemoteSensing.workflows.pretraining import open_pretraining

ADDRESSES = ["https://host/a.tif", "http://host/a.tif", "s3://bucket/a.tif", "gs://bucket/a.tif"]
ADDRESSES += [
    "/vsis3/bucket/a.tif",
    "/vsicurl/https://host/a.tif",
    "/vsizip//vsicurl/http://h/a.zip",
    "/vsizip//vsicurl/https://host/a.zip/in/a.tif",
    "/vsitar//vsis3/bucket/a.tar/a.tif",
    "/vsigzip//vsicurl/https://host/a.tif.gz",
]
UNREACHABLE = "http://127.0.0.1:9/scene.tif"  # a port that nothing listens to
SIDE = 600


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """A scene in blocks with overviews, as cloud-optimized GeoTIFFs have it."""
    folder = tmp_path_factory.mktemp("served")
    place = dict(crs="EPSG:32633", transform=rasterio.Affine(0.5, 0, 366000, 0, -0.5, 5806000))
    blocks = dict(tiled=True, blockxsize=64, blockysize=64, interleave="pixel", photometric="rgb")
    plain = write(folder / "plain.tif", draw(SIDE, SIDE), **place, **blocks)
    with rasterio.open(plain, "r+") as file:
        file.build_overviews([2, 4])
    shutil.copy(plain, folder / "scene.tif")
    return folder


class Served:
    """The server's address, and what it was asked for since the last look."""

    def __init__(self, folder: Path):
        command = [sys.executable, str(ROOT / "tests/ranged_server.py"), str(folder)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.address = f"http://127.0.0.1:{int(self.process.stdout.readline())}"
        self.lines: list[str] = []
        self.thread = threading.Thread(target=self.note)
        self.thread.start()

    def note(self) -> None:
        for line in self.process.stdout:
            self.lines.append(line.strip())

    def all_lines(self) -> list[str]:
        """Up to now: of a request of its own, too, which no other is like."""
        count, own = len(self.lines), http.client.HTTPConnection(self.address[7:])
        own.request("HEAD", "/plain.tif")
        own.getresponse().close()
        own.close()
        while not any("/plain.tif" in line for line in self.lines[count:]):
            time.sleep(0.01)
        return self.lines[:]

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()
        self.thread.join()
        self.process.stdout.close()


@pytest.fixture(scope="module")
def served(scenes):
    server = Served(scenes)
    yield server
    server.close()


def pretext_settings(config: dict, **changes) -> PretextSettings:
    return PretextSettings(**config["train_cfg"]["train_data"] | changes)


@pytest.mark.parametrize("address", ADDRESSES)
def test_addresses_are_refused_in_a_line_where_they_are_not_asked_for(
    address, pretext_config, tmp_path
):
    listed = tmp_path / "list.txt"
    listed.write_text(f"{address}\n")
    for path in (address, str(listed)):
        settings = pretext_settings(pretext_config, data_path=path)
        with pytest.raises(UserError, match=r"another machine, .*; set allow_remote=True") as error:
            PretextDataset(settings)
        assert address in str(error.value)
    with pytest.raises(UserError, match=r"another machine, .*; pass --allow_remote"):
        find_scenes([address])
    with pytest.raises(UserError, match=r"^--images .* another machine"):
        look_at_images([address], tmp_path)
    for listed_files in (list_files, lambda source: list_images([source])):
        with pytest.raises(UserError, match=r"another machine, .*; copy it to a disk") as error:
            listed_files(address)
        assert str(error.value).startswith(f"--source {address}: ")
    with pytest.raises(UserError, match=r"^image_path .* another machine"):
        find_images(address, "*.tif", keys=("image_path", "data_format"))


def test_polygons_on_another_machine_are_refused_as_images_are():
    pytest.importorskip("pyogrio")
    with pytest.raises(UserError, match=r"^--labels https://host/a.gpkg: lies on another machine"):
        open_layer("https://host/a.gpkg", "--labels")


def test_paths_of_this_machine_are_no_addresses():
    paths = ["a.tif", "C:/images/a.tif", "d:\\a.tif", "https/a.tif", "/vsizip/{a.zip}/a.tif"]
    assert [path for path in paths if is_remote(path)] == []


def test_a_path_object_keeps_the_address():
    for address in ADDRESSES:
        assert remote_name(Path(remote_name(address)).as_posix()) == remote_name(address)


def test_a_mosaic_here_leads_to_no_other_machine(served, scenes, tmp_path):
    name = remote_name(f"{served.address}/scene.tif")
    mosaic = tmp_path / "mosaic.vrt"
    band = f"<SimpleSource><SourceFilename>{name}</SourceFilename></SimpleSource>"
    mosaic.write_text(
        f'<VRTDataset rasterXSize="{SIDE}" rasterYSize="{SIDE}"><VRTRasterBand dataType="Byte" '
        f'band="1">{band}</VRTRasterBand></VRTDataset>'
    )
    before = len(served.all_lines())
    with pytest.raises(UnreadableImage, match="cannot be read"):
        read_image(mosaic)
    assert len(served.all_lines()) == before + 1


def test_an_image_is_that_of_the_file(served, scenes):
    (name,) = find_images(f"{served.address}/scene.tif", "*.tif", allow_remote=True)
    assert np.array_equal(read_image(name), read_image(scenes / "scene.tif"))
    assert read_header(name) == read_header(scenes / "scene.tif")


PACKED = [
    "/vsizip/{}/scenes.zip/in/a.tif",
    "/vsizip/{}/scenes.zip",
    "/vsitar/{}/scenes.tar/in/a.tif",
]
PACKED += ["/vsizip/{{{}/scenes.zip}}/in/a.tif", "/vsitar/{}/scenes.tar.gz/in/a.tif"]
PACKED += ["/vsigzip/{}/scene.tif.gz"]


@pytest.fixture(scope="module")
def packed(scenes):
    """The scene in archives beside it."""
    for name, mode in (("scenes.tar", "w"), ("scenes.tar.gz", "w:gz")):
        with tarfile.open(scenes / name, mode) as archive:
            archive.add(scenes / "plain.tif", "in/a.tif")
    with zipfile.ZipFile(scenes / "scenes.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(scenes / "plain.tif", "in/a.tif")
    (scenes / "scene.tif.gz").write_bytes(gzip.compress((scenes / "plain.tif").read_bytes()))


@pytest.mark.parametrize("name", PACKED)
def test_an_image_in_an_archive_is_that_of_the_file(served, packed, scenes, name, tmp_path):
    address = name.format(f"/vsicurl/{served.address}")
    (found,) = find_images(address, "*.tif", allow_remote=True)
    assert np.array_equal(read_image(found), read_image(scenes / "plain.tif"))
    (scene,) = find_scenes([address], allow_remote=True)
    assert read_header(scene) == read_header(scenes / "plain.tif")


def test_of_an_archive_only_what_is_packed_once_is_read():
    for name in (
        "/vsizip/{/vsizip/{/vsicurl/https://host/a.zip}/b.zip}/c.tif",
        "/vsisubfile/0_100,/vsicurl/https://host/a.tif",
    ):
        with pytest.raises(UserError, match="; copy it to a disk and unpack it"):
            find_images(name, "*.tif", allow_remote=True)
        with pytest.raises(UserError, match=r"another machine, .*; pass --allow_remote"):
            find_scenes([name])


def test_windows_of_training_are_those_of_the_file(served, scenes, pretext_config, tmp_path):
    lists = [tmp_path / "remote.txt", tmp_path / "here.txt"]
    lists[0].write_text(f"{served.address}/scene.tif\n{scenes}/plain.tif\n")
    lists[1].write_text(f"{scenes}/scene.tif\n{scenes}/plain.tif\n")
    changes = dict(windows=dict(size=64, per_scene=2, gsd=0.75), allow_remote=True)
    remote, here = (
        PretextDataset(pretext_settings(pretext_config, data_path=str(path), **changes))
        for path in lists
    )
    assert len(remote) == 4
    for index in range(4):
        for kind in ("anchor", "occluded", "transformed"):
            assert np.array_equal(remote[(0, index)][kind], here[(0, index)][kind])


def test_workers_have_connections_of_their_own(served, scenes, pretext_config, tmp_path):
    """One that they had in common by fork would give a worker the answer to another's request."""
    data = pretext_config["train_cfg"]["train_data"]
    data |= dict(data_path=f"{served.address}/scene.tif", allow_remote=True)
    data |= dict(windows=dict(size=64, per_scene=4))
    task, settings = open_pretraining(pretext_config)
    expected = task.dataset[(0, 3)]["anchor"]  # now this process is connected
    before = len(served.all_lines())
    settings = replace(settings, batch_size=4, num_workers=1)
    (batch,) = load(task, settings, make_plan(4, 4, 1, None, None), pins=False)
    place = batch["index"].tolist().index(3)
    assert np.array_equal(batch["anchor"][place].permute(1, 2, 0), expected)
    ports = [line.split()[3] for line in served.all_lines()]
    assert len(ports) > before + 1
    assert set(ports[before:]).isdisjoint(ports[:before])


def test_of_a_window_a_part_of_the_file_is_asked_for(served, scenes):
    shutil.copy(scenes / "plain.tif", scenes / "other.tif")
    with open_tiff(remote_name(f"{served.address}/other.tif")) as source:
        source.rows([1, 2, 3], 0, 64, 0, 64)
    sent = [int(line.split()[2]) for line in served.all_lines() if "/other.tif" in line]
    assert 0 < sum(sent) < (scenes / "other.tif").stat().st_size / 4


def test_maps_are_those_of_the_file(served, scenes, tmp_path):
    (scene,) = find_scenes([f"{served.address}/scene.tif"], allow_remote=True)
    done, remote = mapped(network(), scene, tmp_path / "remote/scene.tif")
    _, here = mapped(network(), scenes / "scene.tif", tmp_path / "here/scene.tif")
    assert np.array_equal(remote, here)
    assert (done.height, done.width) == (SIDE, SIDE)
    with rasterio.open(tmp_path / "remote/scene.tif") as file:
        assert file.crs.to_epsg() == 32633


def test_a_map_is_called_as_its_scene_is_and_not_as_the_signature_of_the_address(tmp_path):
    addresses = [f"https://host/{name}.tif?sig=ab%2Fcd/e%3D&se=2030" for name in ("a", "b")]
    plan = plan_outputs(find_scenes(addresses, allow_remote=True), f"{tmp_path}/maps/")
    assert [outputs.map.name for outputs in plan] == ["a.tif", "b.tif"]


def test_nothing_that_is_made_of_a_scene_has_the_signature_of_its_address(
    served, tmp_path, monkeypatch, capsys
):
    pyogrio = pytest.importorskip("pyogrio")
    titles, query, net = [], "?sig=SECRET/ab%3D&se=2030", network()
    draw_legend = preview.legend
    monkeypatch.setattr(preview, "legend", lambda *x: (titles.append(x[0]), draw_legend(*x))[1])
    addresses = [f"{served.address}/{name}.tif{query}" for name in ("scene", "none")]
    scenes = find_scenes(addresses, allow_remote=True)
    plan = plan_outputs(scenes, f"{tmp_path}/maps/", preview=True, vectors=f"{tmp_path}/maps/")
    maps, failures = map_scenes(net, plan, MapSettings(tile=256, overlap=0))
    assert (len(maps), len(failures)) == (1, 1)
    assert "SECRET" not in capsys.readouterr().out
    write_map_page(tmp_path / "maps/maps.html", Path("best.pth"), net, plan, plan, maps, failures)
    files = {path.name: path.read_bytes() for path in (tmp_path / "maps").iterdir()}
    assert {*files} == {"scene.tif", "scene.gpkg", "scene_preview.png", "maps.html"}
    assert not [name for name, content in files.items() if b"SECRET" in content]
    assert b"/none.tif: cannot be read" in files["maps.html"]
    assert titles == ["scene.tif"]
    with rasterio.open(tmp_path / "maps/scene.tif") as file:
        assert file.tags()["scene"] == "scene.tif"
    assert pyogrio.list_layers(tmp_path / "maps/scene.gpkg")[0, 0] == "scene"


def test_a_machine_that_cannot_be_reached_is_an_unreadable_image(served):
    (name,) = find_images(UNREACHABLE, "*.tif", allow_remote=True)
    for address in (name, remote_name(f"{served.address}/none.tif")):
        with pytest.raises(UnreadableImage, match="cannot be read") as error:
            read_image(address)
        assert len(str(error.value).splitlines()) == 1


def test_a_server_that_does_not_answer_is_not_waited_for_for_ever(monkeypatch):
    monkeypatch.setenv("GDAL_HTTP_LOW_SPEED_TIME", "1")  # where 60 would be taken
    with socket.create_server(("127.0.0.1", 0)) as silent:
        name = remote_name(f"http://127.0.0.1:{silent.getsockname()[1]}/a.tif")
        with pytest.raises(UnreadableImage, match="cannot be read"):
            read_header(name)


def test_python_allows_addresses_by_the_settings_of_maps(tmp_path):
    asked = (tmp_path / "none.pth", UNREACHABLE, tmp_path / "map.tif")
    with pytest.raises(UserError, match="pass --allow_remote"):
        sslrs.predict(*asked)
    with pytest.raises(UserError, match=r"none\.pth: no such file"):  # which comes after it
        sslrs.predict(*asked, settings=sslrs.MapSettings(allow_remote=True))


def test_prediction_says_in_a_line_that_a_machine_cannot_be_reached(run, tmp_path):
    words = ("--checkpoint", str(tmp_path / "none.pth"), "--output", str(tmp_path / "maps"))
    refused = run("tools/predict.py", None, *words, "--input", UNREACHABLE)
    assert refused.returncode == 2
    assert "pass --allow_remote" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
