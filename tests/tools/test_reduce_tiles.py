"""tools/reduce_tiles.py: pixels, ties, names and mistakes."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import reduce_tiles

from SSLRemoteSensing.core.errors import run_command


@pytest.fixture
def reduce(monkeypatch, tmp_path):
    """Runs the command in `tmp_path`, on images/ there."""
    monkeypatch.chdir(tmp_path)

    def call(*words) -> None:
        flags = ["--images", "images", "--output", "out", *map(str, words)]
        monkeypatch.setattr("sys.argv", ["reduce_tiles.py", *flags])
        run_command(reduce_tiles.main)

    return call


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), pixels)


def test_pixels_are_the_mean_and_labels_what_most_have(tmp_path, reduce):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (7, 9, 3), dtype=np.uint8)
    label = rng.choice(np.array([0, 1, 255], np.uint8), (7, 9))
    label[:3, :3] = [[1, 255, 0], [1, 255, 0], [1, 255, 0]]  # three of each: the smallest
    write(tmp_path / "images/a/b.png", image)
    reduce("--factor", 3)  # without labels
    assert [path.name for path in (tmp_path / "out").rglob("*.png")] == ["b.png"]
    write(tmp_path / "labels/a/b.png", label)
    reduce("--labels", "labels", "--factor", 3)
    small = cv2.imread(str(tmp_path / "out/images/a/b.png"))
    found = cv2.imread(str(tmp_path / "out/labels/a/b.png"), cv2.IMREAD_UNCHANGED)
    assert (small.shape, found.shape) == ((2, 3, 3), (2, 3))
    for y, x in np.ndindex(2, 3):
        block = np.s_[3 * y : 3 * y + 3, 3 * x : 3 * x + 3]
        assert np.abs(small[y, x] - image[block].mean((0, 1))).max() <= 0.5 + 1e-6
        values, counts = np.unique(label[block], return_counts=True)
        assert found[y, x] == values[counts.argmax()]
    assert found[0, 0] == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--factor", 1), "--factor 1"),
        (("--factor", 5), "smaller than --factor 5"),
        (("--output", "images/out"), "lies in --images"),
        (("--output", "."), "lies in --images"),
        (("--labels", "labels", "--output", "labels"), "lies in --labels"),
        (("--images", "list.txt"), "list.txt: no such folder"),
        (("--images", "twice"), "would both become a.png"),
        (("--images", "bare"), "--images bare: no image matches"),
        (("--labels", "nothing"), "nothing"),
        (("--labels", "labels"), "another size"),
    ],
)
def test_mistakes_end_in_one_line(tmp_path, reduce, capsys, words, said):
    for name in ("images/a.png", "twice/a.png", "twice/a.jpg"):
        write(tmp_path / name, np.zeros((4, 4, 3), np.uint8))
    write(tmp_path / "labels/a.png", np.zeros((6, 6), np.uint8))
    (tmp_path / "list.txt").write_text("images/a.png\n")
    (tmp_path / "bare").mkdir()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    with pytest.raises(SystemExit, match="2"):
        reduce(*words)
    assert all(path.read_bytes() == data for path, data in before.items())
    error = capsys.readouterr().err
    assert (error[:7], error.count("\n")) == ("error: ", 1)
    assert said in error
