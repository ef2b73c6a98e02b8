"""Which files count: endings as cameras and systems write them, hidden files, lists, brackets."""

import os
import pickle
import unicodedata
from pathlib import Path

import cv2
import numpy as np
import pytest
from drawn import write_png

from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.data.file_lists import EVERY_IMAGE, find_images, match_paths
from SSLRemoteSensing.data.path_list import PathList
from SSLRemoteSensing.data.segmentation import SegmentationDataset, TileSettings, find_pairs
from SSLRemoteSensing.inference.outputs import find_scenes
from SSLRemoteSensing.preparation.sources import list_files

NAMES = ["a.TIF", "b.tif", "c.Tiff", "d.PNG", "e.png", "f.jpg", "g.JPEG", "h.Jpg", "i.bmp"]
STRAY = ["._b.tif", ".e.png", "__MACOSX/._e.png", "@eaDir/f.jpg/SYNO.jpg", "#recycle/z.png"]
STRAY += [".ipynb_checkpoints/e-checkpoint.png", "k.txt", "k.tfw", "e.png.aux.xml", "Thumbs.db"]


@pytest.fixture
def mixed(tmp_path) -> Path:
    for name in (*NAMES, *STRAY):
        (tmp_path / "mixed" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mixed" / name).touch()
    return tmp_path / "mixed"


def names(files) -> str:
    return " ".join(Path(file).name for file in files)


@pytest.mark.parametrize(
    ("pattern", "found", "left_out"),
    [
        (EVERY_IMAGE, "a.TIF b.tif c.Tiff d.PNG e.png f.jpg g.JPEG h.Jpg", "1 of 9: .bmp"),
        ("**/*.tif", "a.TIF b.tif c.Tiff", "6 of 9: .JPEG .Jpg .PNG .bmp .jpg .png"),
        ("*.TIFF", "a.TIF b.tif c.Tiff", "6 of 9: .JPEG .Jpg .PNG .bmp .jpg .png"),
        (["*.JPG", "*.bmp"], "f.jpg g.JPEG h.Jpg i.bmp", "5 of 9: .PNG .TIF .Tiff .png .tif"),
        ("*.[tT]if", "b.tif", "8 of 9: .JPEG .Jpg .PNG .TIF .Tiff .bmp .jpg .png"),
        ("[a-c].tif*", "a.TIF b.tif c.Tiff", None),  # chosen by names
        ("*.*", "Thumbs.db a.TIF b.tif c.Tiff d.PNG e.png e.png.aux.xml f.jpg g.JPEG h.Jpg i.bmp "
         "k.tfw k.txt", None),
    ],
)  # fmt: skip
def test_endings_count_in_any_case_and_spelling_and_others_are_said(
    mixed, pattern, found, left_out, capsys
):
    assert names(find_images(mixed, pattern)) == found
    said = capsys.readouterr().err
    if left_out is None:
        assert said == ""
        return
    count, endings = left_out.split(": ")
    verb = "endings {} are" if " " in endings else "ending {} is"
    expected = verb.format(endings.replace(" ", ", "))
    assert said == (
        f"warning: data_path {mixed}: {count} images left out: {expected} not in data_format\n"
    )


def test_labels_and_previews_beside_images_are_no_images_left_out(tmp_path, capsys):
    for name in ("a.jpg", "b.jpg", "a.png", "b_mask.png", "labels/c.png", "x/gt/d.tif", "a.tif"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert names(find_images(tmp_path, "**/*.jpg")) == "a.jpg b.jpg"
    assert capsys.readouterr().err == ""


def test_preparation_and_mapping_pass_over_the_same_files(mixed):
    files = {file.name for file in list_files(mixed)}
    assert files == {*NAMES, "k.txt", "k.tfw", "e.png.aux.xml", "Thumbs.db"}
    assert names(find_scenes([f"{mixed}/**/*.png"])) == "d.PNG e.png"
    assert names(match_paths(f"{mixed}/**/*.tiff")) == "a.TIF b.tif c.Tiff"


def draw(path: Path, classes: int | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(str(path)))
    pixels = rng.integers(0, classes or 256, (8, 8) if classes else (8, 8, 3)).astype(np.uint8)
    path.write_bytes(cv2.imencode(path.suffix.lower(), pixels)[1].tobytes())


@pytest.mark.parametrize(
    ("label", "label_format"),
    [
        ("labels/t{}.PNG", "{stem}.png"),
        ("labels/t{}.png", "{stem}.PNG"),
        ("labels/t{}.TIFF", "{stem}.tif"),
        ("labels/t{}.tif", "{stem}.tiff"),
        ("labels/t{}_mask.Png", "{stem}_mask.png"),
        ("images/t{}.PNG", "{stem}.png"),  # beside the image
        ("images/labels/t{}.png", "{stem}.png"),  # in a folder among the images
    ],
)
def test_a_label_is_found_whatever_the_case_of_its_ending(tmp_path, label, label_format):
    for number in range(3):
        draw(tmp_path / f"images/t{number}.{('jpg', 'JPEG', 'Jpg')[number]}")
        draw(tmp_path / label.format(number), 2)
        (tmp_path / label.format(number)).with_name(f"._t{number}.png").write_bytes(b"Mac")
    folder = str((tmp_path / label).parent)
    settings = TileSettings(str(tmp_path / "images"), folder, label_format=label_format)
    tiles = SegmentationDataset(settings, 2)
    assert [Path(file).name for _, file in tiles.pairs] == [
        Path(label.format(number)).name for number in range(3)
    ]
    assert tiles.read(2)[1].shape == (8, 8)


def test_two_images_of_one_label_are_told(tmp_path, capsys):
    for name in ("images/a.jpg", "images/a.tif", "images/b.jpg"):
        draw(tmp_path / name)
    draw(tmp_path / "labels/a.png", 2)
    draw(tmp_path / "labels/b.png", 2)
    SegmentationDataset(TileSettings(str(tmp_path / "images"), str(tmp_path / "labels")), 2)
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    assert len(said) == 1
    assert "a.jpg" in said[0]
    assert "a.tif have one label" in said[0]


LINES = ["x/a.png", "x/b c.png", "x/Köln.png"]
LISTS = {
    "a mark": "\ufeff" + "\r\n".join(LINES),
    "old Mac": "\r".join(LINES),
    "comments": "# images\n\n   \n  # more\n" + "\n".join(LINES) + "\n\n",
    "backslashes": "\n".join(LINES).replace("/", "\\"),
    "quotes and blanks": "".join(f'"{line}"  \n' for line in LINES),
    "hidden files": "\n".join([*LINES, "x/._a.png", ".DS_Store"]),
    "letters apart": unicodedata.normalize("NFD", "\n".join(LINES)),
}
CODINGS = {"utf-8": "\n", "utf-16": "\r\n", "cp1252": "\r\n"}


@pytest.fixture
def listed(tmp_path) -> Path:
    for line in LINES:
        (tmp_path / line).parent.mkdir(exist_ok=True)
        (tmp_path / line).touch()
    return tmp_path / "list.txt"


@pytest.mark.parametrize("what", [*LISTS, *CODINGS])
def test_a_list_is_read_as_any_editor_writes_it(listed, what, capsys):
    text = LISTS.get(what) or CODINGS[what].join(LINES)
    listed.write_bytes(text.encode(what if what in CODINGS else "utf-8"))
    assert [*find_images(listed, "*")] == [str(listed.parent / line) for line in LINES]
    if what not in ("hidden files",):  # the same to leave images out
        (listed.parent / "x/d.png").touch()
        assert names(find_images(listed.parent, "**/*.png", listed)) == "d.png"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("x/a.png".encode("utf-16-le"), "no text file"),  # without a mark
        (b"\xff\xfe\0\0" + "x/a.png".encode("utf-32-le"), "no text file"),
        (b"\xef\xbb\xbf\r\n# x/a.png", "the list is empty"),
        (b"x/a.png\nx/A.png\n", "1 of 2 files do not exist, first .*x/A.png; write one path"),
        (b"a\nb\n", "2 of 2 files do not exist"),
        (b"x/._a.png\n", "0 of 0 files"),
    ],
)
def test_a_list_that_cannot_be_read_is_one_line(listed, data, said):
    listed.write_bytes(data)
    with pytest.raises(UserError, match=f"data_path {listed}: .*{said}"):
        find_images(listed, "*")


FOLDERS = [
    "Flight [2] (3)",
    "[ab]",
    "a*b",
    "wh?t",
    "{x,y}",
    "it's 100%",
    "#7",
    "-x",
    "Größe; $HOME",
]


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_is_never_a_pattern(tmp_path, folder, monkeypatch):
    files = [tmp_path / folder / name for name in ("s0.tif", "s1.TIF")]
    for file in (*files, tmp_path / "a/s9.tif", tmp_path / "Flight 2 (3)/s9.tif"):
        file.parent.mkdir(exist_ok=True)
        file.touch()
    expected = list(map(str, files))
    assert [*find_images(tmp_path / folder, "*.tif")] == expected
    assert [*find_images(tmp_path, f"{folder}/*.tif")] == expected
    assert list(map(str, find_scenes([f"{tmp_path}/{folder}/*.tif"]))) == expected
    assert list(map(str, find_scenes(expected[:1]))) == expected[:1]
    monkeypatch.chdir(tmp_path)
    assert list(map(str, find_scenes([f"{folder}/*.tif"]))) == [
        f"{folder}/s0.tif",
        f"{folder}/s1.TIF",
    ]
    with pytest.raises(UserError) as refusal:
        find_scenes([folder])
    pattern = str(refusal.value).partition("give a pattern, ")[2].removesuffix(" say")
    assert pattern in (f"{folder}/*.tif", f"'{folder}/*.tif'", "'it'\"'\"'s 100%/*.tif'")


def test_brackets_after_a_wildcard_stand_for_themselves_too(tmp_path):
    for name in ("x/p [1]/a.png", "x/p 1/b.png", "x/p [1]/t[1]_0.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert names(match_paths(f"{tmp_path}/*/p [1]/a*")) == "a.png"
    assert names(find_images(tmp_path, "**/t[1]*.png")) == "t[1]_0.png"
    assert os.path.basename(find_images(tmp_path, "x/p [1]/a.png")[0]) == "a.png"


def test_a_line_that_leads_through_dots_is_no_hidden_file(tmp_path):
    for name in "abc":
        write_png(tmp_path / f"k/images/{name}.png", np.zeros((8, 8)))
    lines = ["images/a.png", ".\\images\\b.png", "../k/images/c.png"]
    (tmp_path / "k/list.txt").write_text("\n".join(lines))
    files = find_images(tmp_path / "k/list.txt", ())
    assert [Path(file).name for file in files] == ["a.png", "b.png", "c.png"]


@pytest.mark.parametrize("link", [False, True])
def test_labels_in_a_folder_of_the_images_are_no_images(tmp_path, link):
    for name in "ab":
        write_png(tmp_path / f"k/{name}.png", np.zeros((8, 8, 3)))
        write_png(tmp_path / f"k/labels/{name}.png", np.zeros((8, 8)))
    images = tmp_path / "k"
    if link:
        images = tmp_path / "link"
        images.symlink_to(tmp_path / "k")
    pairs, _ = find_pairs(TileSettings(str(images), str(tmp_path / "k/labels")))
    assert [Path(label).parent.name for _, label in pairs] == ["labels"] * 2


def test_labels_of_a_list_lie_as_its_images_do_or_all_in_one_folder(tmp_path, monkeypatch):
    files = ["a/1.png", "b/1.png", "b/2.png", "../elsewhere/3.png", "c/4.png"]
    root = tmp_path / "set"
    for file in files:
        write_png(root / file, np.zeros((8, 8, 3)))
    (root / "list.txt").write_text("\n".join(files))
    for file in ("a/1.png", "b/1.png", "b/2.PNG", "1.png", "3.png"):
        write_png(root / "labels" / file, np.zeros((8, 8)))
    monkeypatch.chdir(root)
    for base in (f"{root}/", ""):
        pairs, absent = find_pairs(TileSettings(f"{base}list.txt", f"{base}labels"))
        found = [label.removeprefix(f"{base}labels/") for _, label in pairs]
        assert found == ["a/1.png", "b/1.png", "b/2.PNG", "3.png", "4.png"]
        assert absent == {f"{base}labels/4.png"}


def test_images_that_are_their_own_labels_are_told(tmp_path):
    for name in "abc":
        write_png(tmp_path / f"{name}.png", np.zeros((8, 8, 3)))
        write_png(tmp_path / f"{name}_mask.png", np.zeros((8, 8)))
    said = r"is image_path, and by label_format='{stem}.png' each image is its own .*_mask\.png"
    with pytest.raises(UserError, match=said):
        find_pairs(TileSettings(str(tmp_path), str(tmp_path)))
    settings = TileSettings(str(tmp_path), str(tmp_path), label_format="{stem}_mask.png")
    assert [Path(image).name for image, _ in find_pairs(settings)[0]] == ["a.png", "b.png", "c.png"]


def test_images_that_all_lie_among_the_labels_are_told(tmp_path):
    write_png(tmp_path / "set/labels/a.png", np.zeros((8, 8)))
    with pytest.raises(
        UserError, match=r"its images all lie in label_path .*/labels; name the fol"
    ):
        find_pairs(TileSettings(f"{tmp_path}/set", f"{tmp_path}/set/labels"))


def test_a_list_of_paths_is_one_block_of_memory_and_reads_as_a_list():
    paths = ["a/b.png", "", "é/Ω.tif", "lone\udcff.jpg", "x" * 3000]
    packed = PathList(iter(paths))
    assert (len(packed), [*packed], packed[-2], packed[1:4]) == (5, paths, paths[3], paths[1:4])
    assert [*pickle.loads(pickle.dumps(packed))] == paths
    assert packed.text.nbytes + packed.ends.nbytes == 3027 + 5 * 8
    assert not PathList([])
    for place in (5, -6):
        with pytest.raises(IndexError):
            packed[place]


def test_a_link_that_leads_nowhere_costs_no_image(tmp_path):
    (tmp_path / "a.png").touch()
    (tmp_path / "itself").symlink_to("itself")
    (tmp_path / "gone").symlink_to("nowhere")
    assert [*find_images(tmp_path, "*.png")] == [str(tmp_path / "a.png")]


def test_images_come_in_the_order_of_their_paths_wherever_folders_lie(tmp_path):
    """Folders between files, a name that begins with another, and what sorts before a slash."""
    names = [
        "a.png",
        "a/b.png",
        "a-b/x.png",
        "a/b/c.png",
        "a/b0.png",
        "a0.png",
        "b.png",
        "a/.x/y.png",
    ]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    expected = sorted(str(tmp_path / name) for name in names[:-1])
    assert [*find_images(tmp_path, "**/*.png")] == expected
    assert [*find_images(tmp_path, ["*.png", "a/*.png"])] == [
        path for path in expected if "/b/" not in path and "-b/" not in path
    ]
