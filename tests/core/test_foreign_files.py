"""Files of other tools: plain objects beside weights, and files that are no checkpoint at all."""

import argparse
import collections
import datetime
import decimal
import gzip
import io
import json
import pathlib
import pickle
import re
import tarfile
import types
import warnings
import zipfile

import numpy as np
import pytest
import torch
from lively import Code
from safetensors.torch import save_file

from SSLRemoteSensing.core import checkpoints
from SSLRemoteSensing.core.errors import UserError

WEIGHTS = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.ones(2)}
PLAIN = {
    "namespace": argparse.Namespace(lr=0.1, inner=argparse.Namespace(path=pathlib.Path("x"))),
    "simple": types.SimpleNamespace(a=1),
    "path": pathlib.PosixPath("runs/x"),
    "windows": pathlib.PureWindowsPath("c:/runs"),
    "time": datetime.datetime(2024, 5, 1, tzinfo=datetime.UTC),
    "duration": datetime.timedelta(hours=2),
    "number": np.float32(0.5),
    "flag": np.bool_(True),
    "array": np.arange(4),
    "objects": np.array([None, {}], dtype=object),
    "records": np.zeros(2, dtype=[("a", "f4")]),
    "type": np.dtype("uint16"),
    "random": np.random.RandomState(0).get_state(),
    "default": collections.defaultdict(dict, a={}),
    "queue": collections.deque([1, 2], maxlen=3),
    "counter": collections.Counter("aab"),
    "set": {1, frozenset([2])},
    "decimal": decimal.Decimal("1.5"),
    "version": torch.__version__,
    "torch": [torch.float16, torch.device("cpu"), torch.Size([1])],
    "slice": [slice(1, 2), range(3), complex(1, 2), b"x"],
}


@pytest.mark.parametrize("what", PLAIN)
@pytest.mark.parametrize("is_zip", [True, False])
def test_plain_objects_beside_weights_are_let_through(tmp_path, what, is_zip):
    path = tmp_path / "w.pth"
    contents = {"epoch": 3, "model": WEIGHTS, "more": [PLAIN[what]]}
    torch.save(contents, path, _use_new_zipfile_serialization=is_zip)
    found = checkpoints.read(path)
    assert found["epoch"] == 3
    assert all(torch.equal(found["model"][key], value) for key, value in WEIGHTS.items())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("cnumpy._core.multiarray\n", "cnumpy.core.multiarray\n"),
        ("cpathlib\nPosixPath\n", "cpathlib\nWindowsPath\n"),
        ("cpathlib\nPosixPath\n", "cpathlib._local\nPosixPath\n"),
    ],
)
def test_names_of_other_systems_and_versions_are_let_through(tmp_path, old, new):
    """As NumPy 1, Windows and Python 3.13 write them."""
    whole, path = tmp_path / "whole.pth", tmp_path / "w.pth"
    torch.save({"model": WEIGHTS, "a": np.float64(1), "b": pathlib.PosixPath("x")}, whole)
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, "w") as out:
        for name in source.namelist():
            data = source.read(name)
            assert not name.endswith("data.pkl") or old.encode() in data
            out.writestr(name, data.replace(old.encode(), new.encode()))
    assert torch.equal(checkpoints.read(path)["model"]["a.bias"], torch.ones(2))


class Settings:
    """A class of a tool that is not here."""


class Table(dict):
    """Likewise, a dict."""


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 2)


STRANGE = {
    "at the top": lambda: WEIGHTS | {"cfg": Settings()},
    "beside a dict": lambda: {"epoch": 3, "a": {"net": WEIGHTS}, "cfg": [Settings()]},
    "a dict": lambda: {"net": WEIGHTS, "cfg": Table(a=Table(b=1))},
    "in a list": lambda: [{"state_dict": WEIGHTS, "e": Settings()}],
    "in a tuple": lambda: (WEIGHTS, Settings()),
    "deep": lambda: {"a": {"b": {"c": {"d": {"e": WEIGHTS}}}}, "cfg": Settings()},
    "a network": Net,
    "a network within": lambda: {"epoch": 3, "model": Net()},
}


@pytest.mark.parametrize("options", [{}, dict(_use_new_zipfile_serialization=False)])
@pytest.mark.parametrize("what", [*STRANGE, "protocol 4"])
def test_another_class_is_refused_by_name_and_the_lines_advised_save_the_weights(
    tmp_path, monkeypatch, what, options
):
    path = tmp_path / "w.pth"
    said = "holds a test_foreign_files.(Settings|Net|Table), whose code is not run"
    if what == "protocol 4":
        torch.save({"epoch": 3, "net": WEIGHTS}, path, pickle_protocol=4, **options)
        said = "has another pickle_protocol"
    else:
        torch.save(STRANGE[what](), path, **options)
    with pytest.raises(checkpoints.Damaged, match=rf"w\.pth: refused, {said}") as error:
        checkpoints.read(path)
    text = str(error.value)
    assert "\n" not in text
    monkeypatch.chdir(tmp_path)
    exec(text[text.index("import torch; ") :], {})
    assert len(checkpoints.read(tmp_path / "weights.pth")) == 2


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("is_zip", [True, False])
def test_code_does_not_run_while_it_is_told_what_the_file_holds(tmp_path, protocol, is_zip):
    path = tmp_path / "w.pth"
    contents = {"model": WEIGHTS, "args": argparse.Namespace(a=Code(tmp_path / "ran"))}
    options = dict(pickle_protocol=protocol, _use_new_zipfile_serialization=is_zip)
    torch.save(contents, path, **options)
    with pytest.raises(checkpoints.Damaged, match="refused, "):
        checkpoints.read(path)
    assert not (tmp_path / "ran").exists()


def written(write) -> bytes:
    file = io.BytesIO()
    write(file)
    return file.getvalue()


def zipped(file) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("models/resnet.pth", b"x")


def tarred(file) -> None:
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("resnet.pth"))


def scripted(file) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), file)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 46830571\n"
NO_CHECKPOINTS = {
    "pointer": (POINTER, f"is a Git LFS pointer of {len(POINTER)} bytes, .*: git lfs pull"),
    "page": (b"\n<!DOCTYPE html><title>Sign in</title>", "is a web page"),
    "page with a mark": (b"\xef\xbb\xbf<html lang=en>", "is a web page"),
    "answer of a store": (b'<?xml version="1.0"?><Error>', "is a web page"),
    "json": (json.dumps({"weight_map": {}}).encode(), "is a text of"),
    "words": (b"Not Found", "is a text of 9 bytes"),
    "nothing": (b"", "is empty"),
    "cut off": (written(lambda f: torch.save(WEIGHTS, f))[:900], "cut off after 900 bytes"),
    "gzip": (gzip.compress(b"<html>"), "is compressed: unpack it"),
    "tar": (written(tarred), "is a tar archive: unpack it"),
    "zip": (written(zipped), "is a zip archive that holds models/resnet.pth: unpack it"),
    "npz": (written(lambda f: np.savez(f, a=np.zeros(3))), r"is NumPy arrays \(.npz\)"),
    "npy": (written(lambda f: np.save(f, np.zeros(3))), "is a NumPy array"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(90), "is an HDF5 file"),
    "onnx": (b"\x08\x07\x12\x07pytorch\x1a\x051.13.0", "is an ONNX or TensorFlow graph"),
    "image": (b"\x89PNG\r\n\x1a\n" + bytes(90), "is an image"),
    "script": (written(scripted), "is a TorchScript archive"),
    "pickle": (pickle.dumps({"a": 1}), "is a pickle that torch.save did not write"),
}


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
@pytest.mark.parametrize("what", NO_CHECKPOINTS)
def test_a_file_that_is_no_checkpoint_is_told_to_be_what_it_is(tmp_path, what, ending):
    data, said = NO_CHECKPOINTS[what]
    path = tmp_path / f"w{ending}"
    path.write_bytes(data)
    with pytest.raises(checkpoints.Damaged, match=rf"w\{ending}: refused, damaged or no .*{said}"):
        checkpoints.read(path)


@pytest.mark.parametrize("what", ["script", "pickle"])
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_the_lines_advised_for_a_script_and_a_pickle_save_their_weights(
    tmp_path, monkeypatch, what
):
    path = tmp_path / "w.pth"
    path.write_bytes(written(scripted) if what == "script" else pickle.dumps(WEIGHTS))
    with pytest.raises(checkpoints.Damaged) as error:
        checkpoints.read(path)
    monkeypatch.chdir(tmp_path)
    exec(re.search("import .*", str(error.value))[0], {})
    assert len(checkpoints.read(tmp_path / "weights.pth")) == 2


@pytest.mark.parametrize("name", ["w.pth", "pytorch_model.bin", "w.SAFETENSORS"])
def test_safetensors_are_read_under_any_ending(tmp_path, name):
    save_file(WEIGHTS, tmp_path / name)
    found = checkpoints.read(tmp_path / name)
    assert torch.equal(found["a.weight"], WEIGHTS["a.weight"])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e300])
def test_weights_that_are_not_finite_are_named(value):
    dtype = torch.float64 if value == 1e300 else torch.bfloat16
    weights = {"a": torch.full((3,), 3e38), "b": torch.zeros(9, dtype=dtype)}
    checkpoints.check_finite(weights | {"n": torch.tensor(3)}, "w.pth")
    weights["b"][4] = value
    with pytest.raises(UserError, match=r"w\.pth: b holds values that are not finite"):
        checkpoints.check_finite(weights, "w.pth")
