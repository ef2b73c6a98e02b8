"""Reading a .pth file: of anybody, and so without trust in what it claims to hold."""

import random
import zipfile

import pytest
import torch

from SSLRemoteSensing.core import checkpoints
from SSLRemoteSensing.core.errors import UserError


def holds_itself() -> dict:
    inner = []
    inner.append(inner)
    return {"a": inner}


def grows_without_end() -> dict:
    """Thirteen lists of ten times the one before: few bytes in the file, 10^13 values."""
    value = [0]
    for _ in range(13):
        value = [value] * 10
    return {"a": value}


HOSTILE = {
    "a list that holds itself": holds_itself,
    "lists of lists": grows_without_end,
    "one value as ten thousand million": lambda: {"a": torch.zeros(1).expand(10**10)},
    "a sparse tensor": lambda: {"a": torch.eye(3).to_sparse()},
    "a tensor without memory": lambda: {"a": torch.zeros(10**12, device="meta")},
    "a conjugate view": lambda: {"a": torch.zeros(3, dtype=torch.complex64).conj()},
}


@pytest.mark.parametrize("what", HOSTILE)
@pytest.mark.filterwarnings("ignore:Sparse")
def test_a_file_that_claims_more_than_it_holds_is_refused(tmp_path, what):
    path = tmp_path / "w.pth"
    torch.save(HOSTILE[what](), path)
    assert path.stat().st_size < 10_000
    with pytest.raises(checkpoints.Damaged, match=r"w\.pth: refused, "):
        checkpoints.read(path)


def test_a_compressed_archive_is_refused_before_it_has_memory(tmp_path, monkeypatch):
    """A few kB that unpack to 64 MB."""
    whole, path = tmp_path / "whole.pth", tmp_path / "w.pth"
    torch.save({"a": torch.zeros(2**24)}, whole)
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        for name in source.namelist():
            out.writestr(name, source.read(name))
    assert path.stat().st_size < 2**17
    assert torch.load(path, weights_only=True)["a"].numel() == 2**24
    monkeypatch.setattr(torch, "load", None)
    with pytest.raises(checkpoints.Damaged, match="refused, claims more bytes than it has"):
        checkpoints.read(path)


def test_a_bit_that_is_flipped_anywhere_in_a_checkpoint_is_told(tmp_path):
    """Also where the setting that it hangs on was changed; torch.load alone tells none of them."""
    path, draws = tmp_path / "w.pth", random.Random(0)
    weights = {f"layer{number}.weight": torch.randn(64, 64) for number in range(20)}
    torch.serialization.set_crc32_options(False)
    checkpoints.write(path, {"model": weights, "step": 7})
    data = path.read_bytes()
    for _ in range(40):
        at = draws.randrange(len(data))
        path.write_bytes(data[:at] + bytes([data[at] ^ 1 << draws.randrange(8)]) + data[at + 1 :])
        with pytest.raises(checkpoints.Damaged, match=r"w\.pth: refused, "):
            checkpoints.read(path)


def test_a_file_of_a_later_version_is_refused_and_not_called_damaged(tmp_path):
    """Else it would be put aside, and the run go back to an epoch that the later one wrote."""
    path = tmp_path / "w.pth"
    torch.save({"a": torch.ones(3), "format_version": 3}, path)
    with pytest.raises(UserError, match="format_version 3 is of a later release") as error:
        checkpoints.read(path)
    assert not isinstance(error.value, checkpoints.Damaged)


@pytest.mark.parametrize("version", [torch.ones(2), "1.0", None])
def test_a_version_of_another_tool_is_none_of_ours(tmp_path, version):
    torch.save({"model": {}, "format_version": version}, tmp_path / "w.pth")
    assert checkpoints.read(tmp_path / "w.pth") == {"model": {}}


def test_weights_that_were_saved_without_a_crc_are_read_after_the_advised_lines(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"a": torch.arange(20.0)}, "w.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    with pytest.raises(checkpoints.Damaged, match="to write no CRC") as refusal:
        checkpoints.read("w.pth")
    exec(str(refusal.value).partition("of a file you trust: ")[2])
    assert torch.equal(checkpoints.read("weights.pth")["a"], torch.arange(20.0))


def test_a_file_of_version_1_is_read_by_its_crc(tmp_path):
    torch.save({"a": torch.ones(3), "checksum": "of another kind"}, tmp_path / "w.pth")
    assert checkpoints.read(tmp_path / "w.pth").keys() == {"a"}


def test_views_and_shared_memory_are_written_and_read(tmp_path):
    whole = torch.arange(12.0).view(3, 4)
    contents = {"turned": whole.T, "row": whole[1], "same": [whole, whole], "none": torch.zeros(0)}
    checkpoints.write(tmp_path / "w.pth", contents)
    found = checkpoints.read(tmp_path / "w.pth")
    assert found.keys() == contents.keys()
    assert torch.equal(found["turned"], whole.T)
    assert torch.equal(found["row"], whole[1])
