"""Images that are large or want more than to be read: memory, other files, the network, pipes."""

import http.server
import os
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import rasterio
from conftest import ROOT
from drawn import PLACE, png_chunk, write_tiff

from SSLRemoteSensing.core.errors import UnreadableImage, UserError
from SSLRemoteSensing.data.geotiff import open_tiff
from SSLRemoteSensing.data.images import read_header, read_image, read_label
from SSLRemoteSensing.data.labels import count_values
from SSLRemoteSensing.data.scale import up_to

SIDE = 20_000
READ = """
import sys
from pathlib import Path
import cv2, rasterio, rasterio.io, rasterio.enums
from SSLRemoteSensing.data.images import read_image
def peak():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
before = peak()
image = read_image(sys.argv[1], int(sys.argv[2]))
print(image.shape, image.nbytes, peak() - before)
"""


def sparse(path: Path, side: int, count: int, dtype: str, **profile) -> Path:
    """A TIFF none of whose pixels is stored."""
    size = dict(height=side, width=side, count=count, dtype=dtype)
    with rasterio.open(path, "w", driver="GTiff", sparse_ok=True, **size, **PLACE, **profile):
        return path


def peak_of_reading(path: Path, in_channels: int) -> tuple[int, int]:
    """Bytes of the image, and the most that reading it took in a process of its own."""
    command = [sys.executable, "-c", READ, str(path), str(in_channels)]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=os.environ | {"GDAL_CACHEMAX": "64"}
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"({SIDE}, {SIDE}, {in_channels})")
    image, peak = map(int, done.stdout.split()[-2:])
    return image, peak


@pytest.mark.parametrize(("dtype", "bands"), [("uint8", 3), ("uint16", 2)])
def test_a_large_tiff_takes_the_room_of_its_pixels(tmp_path, dtype, bands):
    """Above the result: a strip as it is stored and as it is converted, and GDAL's cache."""
    path = sparse(tmp_path / "large.tif", SIDE, bands, dtype, blockysize=64)
    assert path.stat().st_size < 2**20
    image, peak = peak_of_reading(path, bands)
    assert image == SIDE * SIDE * bands
    assert peak < image + 2**28


def test_a_large_png_takes_the_room_of_its_pixels(tmp_path):
    pack, row = zlib.compressobj(1), bytes(1 + SIDE)
    data = b"".join(pack.compress(row * 100) for _ in range(SIDE // 100)) + pack.flush()
    header = SIDE.to_bytes(4, "big") * 2 + bytes([8, 0, 0, 0, 0])
    parts = [png_chunk(b"IHDR", header), png_chunk(b"IDAT", data), png_chunk(b"IEND", b"")]
    (tmp_path / "large.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    image, peak = peak_of_reading(tmp_path / "large.png", 1)
    assert peak < 2 * image + 2**27  # OpenCV's decoder holds a second one


def test_values_of_large_labels_are_counted_exactly_under_a_mask():
    wide = np.ones((1, 2**24 + 3), np.uint8)  # more than 2^24 pixels of one value
    mask = np.zeros_like(wide)
    mask[:, 1:] = 1
    assert count_values(wide, 2, mask).tolist() == [0, 2**24 + 2]


@pytest.mark.parametrize("bands", [None, (1, 2, 3)])
def test_bytes_are_limited_before_any_is_taken(tmp_path, bands):
    path = sparse(tmp_path / "a.tif", 30_000, 200, "float64", blockysize=30_000 // 4)
    assert path.stat().st_size < 2**20
    said = "200 bands where 3 are expected" if bands is None else "30000 x 30000 .* bytes"
    with pytest.raises(UserError, match=said):
        read_image(path, 3, bands, scale=up_to(1))


def test_no_memory_is_one_line_that_names_the_file(tmp_path):
    """A limit of the system, as a container has it."""
    sparse(tmp_path / "a.tif", SIDE, 3, "uint8", blockysize=64)
    code = (
        "import resource, sys, rasterio.io, rasterio.enums\n"
        "from SSLRemoteSensing.data.images import read_image\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))\n"
        f"read_image({str(tmp_path / 'a.tif')!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    last = done.stderr.splitlines()[-1]
    assert "UnreadableImage: image" in last
    assert "a.tif: there is no memory to decode it" in last


# ---------------------------------------------------------------------------- other files, network


@pytest.fixture
def server():
    """The address of a server on this machine, and what was asked of it."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
        thread.join()


def vrt(source: str, mask: bool = False) -> str:
    flags = '<Metadata><MDI key="INTERNAL_MASK_FLAGS_1">2</MDI></Metadata>' if mask else ""
    return (
        f'<VRTDataset rasterXSize="8" rasterYSize="8">{flags}<VRTRasterBand dataType="Byte" '
        f'band="1"><SimpleSource><SourceFilename relativeToVRT="0">{source}</SourceFilename>'
        f"<SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"
    )


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_the_server_would_be_asked_if_gdal_were_free_to(server, tmp_path):
    address, asked = server
    name = f"/vsicurl/{address}/free.tif"
    (tmp_path / "a.tif").write_text(vrt(name))
    fails = pytest.raises(rasterio.RasterioIOError)
    with rasterio.open(tmp_path / "a.tif") as source, fails:
        source.read(1)
    assert asked


@pytest.mark.parametrize("read", [read_image, read_label, read_header])
def test_a_vrt_called_tif_asks_no_server_and_reads_no_other_file(server, tmp_path, read):
    address, asked = server
    (tmp_path / "secret").write_bytes(bytes(range(64)))
    file = (
        '<VRTDataset rasterXSize="8" rasterYSize="8"><VRTRasterBand dataType="Byte" band="1" '
        'subClass="VRTRawRasterBand"><SourceFilename relativetoVRT="0">'
        f"{tmp_path}/secret</SourceFilename></VRTRasterBand></VRTDataset>"
    )
    for text in (vrt(f"/vsicurl/{address}/{read.__name__}.tif"), file):
        (tmp_path / "a.tif").write_text(text)
        with pytest.raises(UserError, match=r"a\.tif: cannot be read") as caught:
            read(tmp_path / "a.tif")
        assert "\n" not in str(caught.value)
    assert asked == []


@pytest.mark.parametrize("name", ["a.tif.msk", "a.tif.MSK", "a.tif.ovr"])
def test_a_mask_beside_a_tiff_asks_no_server(server, tmp_path, name):
    address, asked = server
    path = write_tiff(tmp_path / "a.tif", np.full((3, 8, 8), 7, np.uint8))
    (tmp_path / name).write_text(vrt(f"/vsicurl/{address}/{name}", mask=True))
    if name != "a.tif.ovr":
        with pytest.raises(UnreadableImage, match="beside it is no TIFF"):
            read_image(path)
    else:
        assert (read_image(path) == 7).all()
        (tmp_path / "a.tif.aux.xml").write_text("<PAMDataset/>")
        with pytest.raises(UnreadableImage, match="beside it is no TIFF"):
            read_image(path)
    with pytest.raises(UnreadableImage, match="beside it is no TIFF"), open_tiff(path, beside=True):
        pass
    assert asked == []


# ------------------------------------------------------------------------------ no regular files


@pytest.mark.parametrize("read", [read_image, read_label, read_header])
@pytest.mark.parametrize("ending", ["jpg", "png", "tif"])
def test_a_pipe_or_device_is_refused_and_not_waited_for(tmp_path, ending, read):
    pipe, device = tmp_path / f"pipe.{ending}", tmp_path / f"device.{ending}"
    os.mkfifo(pipe)
    device.symlink_to("/dev/zero")
    for path in (pipe, device):
        with pytest.raises(UserError, match=rf"{path.name}: is no regular file"):
            read(path)


def test_a_name_that_is_no_utf8_is_read(tmp_path):
    for ending, read in (("png", read_image), ("png", read_label), ("tif", read_image)):
        path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff." + ending.encode())
        Path(path).write_bytes(
            cv2.imencode(f".{ending}", np.full((8, 8), 3, np.uint8))[1].tobytes()
        )
        if ending == "tif":  # GDAL has no such names
            with pytest.raises(UnreadableImage):
                read(path)
        else:
            assert read(path).max() == 3


def test_a_jpeg_with_junk_between_its_segments_has_a_header(tmp_path):
    data = cv2.imencode(".jpg", np.full((20, 30, 3), 99, np.uint8))[1].tobytes()
    at = data.index(b"\xff\xdb")
    path = tmp_path / "a.jpg"
    path.write_bytes(data[:at] + b"junk" + data[at:])
    assert read_image(path).shape == (20, 30, 3)
    header = read_header(path)
    assert (header.shape, header.bands, header.dtype) == ((20, 30), 3, "uint8")
