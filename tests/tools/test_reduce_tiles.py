"""tools/reduce_tiles.py: pixels, ties, names and mistakes."""

import runpy
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def reduce_tiles(monkeypatch):
    """Runs the command; gives its exit status."""

    def run(*words) -> int:
        monkeypatch.setattr(sys, "argv", ["reduce_tiles.py", *map(str, words)])
        try:
            runpy.run_path(str(ROOT / "tools/reduce_tiles.py"), run_name="__main__")
        except SystemExit as error:
            return error.code or 0
        return 0

    return run


def tile(folder: Path, name: str, image: np.ndarray, label: np.ndarray) -> None:
    for kind, pixels in (("images", image), ("labels", label)):
        path = folder / kind / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), pixels)


def test_pixels_are_the_mean_and_labels_what_most_have(tmp_path, reduce_tiles):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (7, 9, 3), dtype=np.uint8)
    label = rng.choice(np.array([0, 1, 255], np.uint8), (7, 9))
    label[:3, :3] = [[1, 255, 0], [1, 255, 0], [1, 255, 0]]  # three of each: the smallest
    tile(tmp_path, "a/b", image, label)
    folders = ("--images", tmp_path / "images", "--labels", tmp_path / "labels")
    assert reduce_tiles(*folders, "--factor", 3, "--output", tmp_path / "out") == 0
    small = cv2.imread(str(tmp_path / "out/images/a/b.png"))
    found = cv2.imread(str(tmp_path / "out/labels/a/b.png"), cv2.IMREAD_UNCHANGED)
    assert (small.shape, found.shape) == ((2, 3, 3), (2, 3))
    for y in range(2):
        for x in range(3):
            block = np.s_[3 * y : 3 * y + 3, 3 * x : 3 * x + 3]
            assert np.abs(small[y, x] - image[block].mean((0, 1))).max() <= 0.5 + 1e-6
            values, counts = np.unique(label[block], return_counts=True)
            assert found[y, x] == values[counts.argmax()]
    assert found[0, 0] == 0


def test_images_without_labels(tmp_path, reduce_tiles):
    tile(tmp_path, "a", np.full((4, 4, 3), 7, np.uint8), np.zeros((4, 4), np.uint8))
    assert reduce_tiles("--images", tmp_path / "images", "--output", tmp_path / "out") == 0
    assert [path.name for path in (tmp_path / "out").rglob("*.png")] == ["a.png"]


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
        (("--images", "bare"), "--images bare: no image of ("),
        (("--labels", "nothing"), "nothing"),
        (("--labels", "labels"), "another size"),
    ],
)
def test_mistakes_end_in_one_line(tmp_path, reduce_tiles, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    tile(tmp_path, "a", np.zeros((4, 4, 3), np.uint8), np.zeros((6, 6), np.uint8))
    (tmp_path / "list.txt").write_text("images/a.png\n")
    (tmp_path / "twice").mkdir()
    (tmp_path / "bare").mkdir()
    for ending in ("png", "jpg"):
        cv2.imwrite(str(tmp_path / f"twice/a.{ending}"), np.zeros((4, 4, 3), np.uint8))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    assert reduce_tiles("--images", "images", "--output", "out", *words) == 2
    assert all(path.read_bytes() == data for path, data in before.items())
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert said in error
