"""COCO's JSON as labels: polygons and run-length codes, crowds, files by name."""

import json
from pathlib import Path

import numpy as np
import pytest
from drawn import assemble, card_of, draw_image, tree, write_png
from PIL import Image

pytest.importorskip("pyogrio")
shapely = pytest.importorskip("shapely")

from outlined import UTM, assert_covered, covered, labels_of, on_map, outlined, scene, store  # noqa: E402

from SSLRemoteSensing.preparation.coco import decode_counts, decode_runs  # noqa: E402

SIZE = (70, 90)
CATEGORIES = [{"id": 7, "name": "roof"}, {"id": 3, "name": "car"}]


def picture(folder: Path, name: str = "a.png", size=SIZE) -> Path:
    return write_png(folder / "source" / name, draw_image(3, size).transpose(1, 2, 0))


def annotated(folder: Path, annotations, images=None, categories=CATEGORIES, **others) -> Path:
    """A COCO file of `annotations`; a number, image 1 and category 7 unless they say."""
    images = images or [{"id": 1, "file_name": "a.png", "height": SIZE[0], "width": SIZE[1]}]
    entries = [{"id": n, "image_id": 1, "category_id": 7} | x for n, x in enumerate(annotations)]
    file = folder / "annotations.json"
    contents = {"images": images, "annotations": entries, "categories": categories} | others
    file.write_text(json.dumps(contents))
    return file


def ring(area) -> list[float]:
    return shapely.get_coordinates(area)[:-1].ravel().tolist()


def run_lengths(mask: np.ndarray) -> list[int]:
    """Of 0, 1, 0, ... in turn, down one column after the other, pixel by pixel."""
    counts, current = [0], False
    for value in mask.T.ravel().tolist():
        if value != current:
            counts.append(0)
            current = value
        counts[-1] += 1
    return counts


def as_text(counts: list[int]) -> str:
    """Numbers, from the fourth on less the one two before, in the fewest groups of five bits of
    their two's complement, the lowest first; 32 is added to all but the last, 48 to all."""
    text = ""
    for number, count in enumerate(counts):
        value = count - (counts[number - 2] if number > 2 else 0)
        bits = next(n for n in range(5, 99, 5) if -(2 ** (n - 1)) <= value < 2 ** (n - 1))
        value %= 2**bits
        groups = [value >> shift & 31 for shift in range(0, bits, 5)]
        text += "".join(chr(48 + group + 32) for group in groups[:-1]) + chr(48 + groups[-1])
    return text


def blob_mask(seed: int = 0, size=SIZE) -> np.ndarray:
    """Some discs, with a hole, with parts that touch at a corner, and one pixel at each corner."""
    rng, mask = np.random.default_rng(seed), np.zeros(size, bool)
    y, x = np.ogrid[: size[0], : size[1]]
    for radius in (12, 9, 5):
        middle = rng.uniform(10, 60, 2)
        mask |= (y - middle[0]) ** 2 + (x - middle[1]) ** 2 < radius**2
    mask[30:33, 30:33] = False
    mask[60:62, 4:6] = mask[62:64, 6:8] = True
    mask[[0, 0, -1, -1], [0, -1, 0, -1]] = True
    return mask


# ---------------------------------------------------------------------------- run-length codes


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("231", [2, 3, 1]),
        ("1232", [1, 2, 3, 4]),  # the fourth is 2 more than the second
        ("591I", [5, 9, 1, 2]),  # -7 is 11001 in five bits: 25 + 48, 'I'
        ("T3", [100]),  # 100 is 00011 00100: 4 + 32 + 48, 'T', and 3 + 48, '3'
        ("`0", [16]),  # 10000 alone would be -16
        ("", []),
    ],
)
def test_text_is_decoded_as_by_hand(text, counts):
    assert decode_counts(text) == counts


def test_lists_and_text_of_any_mask_are_decoded():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        size = tuple(rng.integers(1, 60, 2).tolist())
        mask = rng.random(size) < rng.choice([0.02, 0.5, 0.98, 0, 1])
        counts = run_lengths(mask)
        assert decode_counts(as_text(counts)) == counts
        for code in (counts, as_text(counts)):
            assert np.array_equal(decode_runs({"size": list(size), "counts": code}, size), mask)


# ---------------------------------------------------------------------------- labels


@pytest.mark.parametrize("touched", [False, True])
@pytest.mark.parametrize("code", [list, as_text])
def test_masks_come_out_as_they_went_in(tmp_path, code, touched):
    """Touched or not: they are whole pixels."""
    picture(tmp_path)
    roof, car = blob_mask(0), blob_mask(1)
    entries = [
        {"segmentation": {"size": SIZE, "counts": code(run_lengths(roof))}},
        {"segmentation": {"size": SIZE, "counts": code(run_lengths(car))}, "category_id": 3},
    ]
    flags = ["--touched"] if touched else []
    outlined(tmp_path, annotated(tmp_path, entries), *flags)
    expected = np.where(car, 2, np.where(roof, 1, 0))
    assert np.array_equal(labels_of(tmp_path), expected)
    assert card_of(tmp_path / "out")["classes"] == ["background", "roof", "car"]


def test_polygons_cover_pixels_by_their_centres_and_parts_are_one(tmp_path):
    picture(tmp_path)
    disc, box = shapely.Point(30.2, 40.7).buffer(20.3), shapely.box(20.4, 3.2, 44.7, 30.9)
    bow_tie = [50, 5, 80, 25, 80, 5, 50, 25]
    entries = [
        {"segmentation": [ring(disc), ring(box)]},  # they overlap
        {"segmentation": [bow_tie], "category_id": 3},
        {"segmentation": [[1, 1, 5, 5]]},
        {"segmentation": []},
        {"bbox": [1, 1, 5, 5]},
    ]
    said = outlined(tmp_path, annotated(tmp_path, entries)).stdout
    lobes = [shapely.Polygon([(50, 5), (65, 15), (50, 25)]),
             shapely.Polygon([(80, 25), (65, 15), (80, 5)])]  # fmt: skip
    assert_covered(labels_of(tmp_path), [disc, box, *lobes], [1, 1, 2, 2])
    for text in (
        "5 outlines, of which 0 lie in none of the images; 0 images have none",
        "2 have no geometry and are left out",
        "1 are lines, points or of no area and left out",
        "2 had invalid outlines, which were mended",
    ):
        assert f"note: annotations.json: {text}\n" in said


def test_crowds_are_not_scored_and_lie_below_what_is_outlined(tmp_path):
    picture(tmp_path)
    box, crowd = shapely.box(10, 10, 30, 30), blob_mask()
    code = {"size": SIZE, "counts": as_text(run_lengths(crowd))}
    entries = [{"segmentation": [ring(box)]}, {"segmentation": code, "iscrowd": 1}]
    said = outlined(tmp_path, annotated(tmp_path, entries)).stdout
    expected = np.where(covered([box], [1], size=SIZE) == 1, 1, np.where(crowd, 255, 0))
    assert np.array_equal(labels_of(tmp_path), expected)
    assert "1 crowds are not scored" in said
    flags = ["--classes", "car", "--background", "none"]
    done = outlined(tmp_path, annotated(tmp_path, entries), *flags, output="no", status=2)
    assert "--classes car: no polygon is of them" in done.stderr


def test_order_and_classes_are_as_for_polygons(tmp_path):
    picture(tmp_path)
    areas = [shapely.box(5 + 8 * i, 5, 40 + 8 * i, 60) for i in range(4)]
    scores = [0.9, 0.2, None, 0.5]
    entries = [
        {"segmentation": [ring(area)], "score": score, "category_id": number}
        for area, score, number in zip(areas, scores, (7, 3, 7, 9), strict=True)
    ]
    categories = [*CATEGORIES, {"id": 9, "name": "tree"}]
    file = annotated(tmp_path, entries, categories=categories)
    flags = ["--order", "score", "--classes", "car", "roof", "--background", "other"]
    said = outlined(tmp_path, file, *flags).stdout
    assert card_of(tmp_path / "out")["classes"] == ["other", "car", "roof"]
    assert_covered(labels_of(tmp_path), [areas[2], areas[1], areas[0]], [2, 1, 2])
    assert "1 polygons are of none of the classes (tree) and left out" in said


def test_images_are_matched_by_name_and_those_that_are_not_named_are_left_out(tmp_path):
    for name in ("train/a.png", "val/a.png", "val/b.png", "val/c.png"):
        picture(tmp_path, name)
    size = dict(height=SIZE[0], width=SIZE[1])
    images = [
        {"id": "x", "file_name": "train/a.png"} | size,
        {"id": "y", "file_name": "data\\val\\a.png"} | size,
        {"id": "z", "file_name": "b.png"},
        {"id": "w", "file_name": "gone.png"} | size,
    ]
    images[1]["file_name"] = "val\\a.png"
    boxes = {name: shapely.box(9, 9, 20 + 10 * i, 50) for i, name in enumerate("xzw")}
    entries = [{"segmentation": [ring(box)], "image_id": name} for name, box in boxes.items()]
    file = annotated(tmp_path, [*entries, entries[0] | {"image_id": "?"}], images)
    said = outlined(tmp_path, file, "--splits", "train", "val").stdout
    assert card_of(tmp_path / "out")["scenes"] == {"train": ["a"], "val": ["a", "b"]}
    assert_covered(labels_of(tmp_path), [boxes["x"]], [1])
    assert not assemble(tmp_path / "out/labels/val", "a").any()
    assert_covered(assemble(tmp_path / "out/labels/val", "b"), [boxes["z"]], [1])
    for text in (
        "4 outlines, of which 2 lie in none of the images; 1 images have none",
        "1 of its images are not there",
        "1 images are not in it and left out",
    ):
        assert f"note: annotations.json: {text}\n" in said


def test_geojson_is_told_apart_by_what_it_holds(tmp_path):
    path = scene(tmp_path)
    file = store(tmp_path / "x.geojson", on_map([shapely.box(9, 9, 50, 90)]))
    file = file.rename(tmp_path / "x.json")
    outlined(tmp_path, file, source=[path])
    assert_covered(labels_of(tmp_path), [shapely.box(9, 9, 50, 90)], [1])
    coco = annotated(tmp_path, [{"segmentation": [[9, 9, 50, 9, 50, 90, 9, 90]]}],
                     [{"id": 1, "file_name": "a.tif"}])  # fmt: skip
    outlined(tmp_path, coco.rename(tmp_path / "y.geojson"), source=[path], output="coco")
    assert np.array_equal(labels_of(tmp_path, output="coco"), labels_of(tmp_path))


def test_what_was_mapped_may_be_named_for_coco_too(tmp_path):
    path = scene(tmp_path)
    inside = store(tmp_path / "in.gpkg", on_map([shapely.box(20, 20, 70, 100)]), UTM)
    file = annotated(tmp_path, [{"segmentation": [[9, 9, 50, 9, 50, 90, 9, 90]]}],
                     [{"id": 1, "file_name": "a.tif", "height": 150, "width": 110}])  # fmt: skip
    outlined(tmp_path, file, "--inside", inside, source=[path])
    expected = np.full((150, 110), 255)
    expected[20:100, 20:70] = 0
    expected[20:90, 20:50] = 1
    assert np.array_equal(labels_of(tmp_path), expected)


def test_photographs_that_are_turned_or_of_another_size_are_refused(tmp_path):
    picture(tmp_path)
    exif = Image.Exif()
    exif[274] = 6
    (tmp_path / "source").mkdir(exist_ok=True)
    Image.fromarray(draw_image(3, SIZE).transpose(1, 2, 0)).save(
        tmp_path / "source/b.jpg", exif=exif
    )
    images = [{"id": 1, "file_name": "a.png", "height": 90, "width": 70},
              {"id": 2, "file_name": "b.jpg", "height": SIZE[0], "width": SIZE[1]}]  # fmt: skip
    entries = [{"segmentation": [[9, 9, 50, 9, 50, 50]], "image_id": n} for n in (1, 2)]
    said = outlined(tmp_path, annotated(tmp_path, entries, images), status=1).stdout
    assert "must not be used: a: annotations.json is 90 x 70 pixels (height x width), its" in said
    assert "must not be used: b: b.jpg: has orientation 6" in said


# ---------------------------------------------------------------------------- bad input

BOX = {"segmentation": [[9, 9, 50, 9, 50, 50]]}
NAMED = {"id": 1, "file_name": "a.png"}
RUNS = {"size": list(SIZE), "counts": [6300]}
BAD = {
    "code of another size": ([{"segmentation": RUNS | {"size": [9, 9]}}], {}, [],
                             "segmentation of annotation 0: is of 9 x 9 pixels, its image 70 x 90"),
    "code cut short": ([{"segmentation": RUNS | {"counts": "5a"}}], {}, [], "are cut short"),
    "no code": ([{"segmentation": RUNS | {"counts": "5\n"}}], {}, [], "none of its characters"),
    "too few pixels": ([{"segmentation": RUNS | {"counts": [5, 9]}}], {}, [], "do not add up"),
    "no points": ([{"segmentation": [["a", "b"]]}], {}, [], "segmentation of annotation 0"),
    "odd points": ([{"segmentation": [[1, 2, 3, 4, 5, 6, 7]]}], {}, [], "x, y, x, y"),
    "no category": ([BOX | {"category_id": 1}], {}, [], "is of category 1, which is not among the"),
    "no image": ([BOX], {"images": [{"id": 1, "file_name": "b.png"}]}, [], "none of its 1 images"),
    "no name": ([BOX], {"images": [{"id": 1}]}, [], "images: 1 has no file_name"),
    "two alike": ([BOX], {"images": [NAMED, NAMED | {"id": 2, "file_name": "x/a.png"}]}, [],
                  "two images are a.png"),
    "one id": ([BOX], {"images": [NAMED, NAMED | {"file_name": "b.png"}]}, [],
               "two images have the id 1"),
    "no list": ([BOX], {"categories": {"a": 1}}, [], "categories is not a list of objects"),
    "no COCO": ([BOX], {"images": "a.png"}, [], "images is not a list"),
    "a field": ([BOX], {}, ["--class_field", "name"], "--class_field: the classes of COCO"),
    "no order": ([BOX], {}, ["--order", "area"], "--order area: no annotation of"),
    "order of text": ([BOX | {"rank": "b"}], {}, ["--order", "rank"], "which is no number"),
    "no class": ([BOX], {}, ["--classes", "ruff"], "--classes ruff: no polygon is of them; "
                 "annotations.json, categories, has roof"),
    "no place": ([BOX], {}, ["--inside", "in.gpkg"], "a.png: has no georeference"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named_in_one_line_with_status_2(tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    picture(tmp_path)
    store(tmp_path / "in.gpkg", on_map([shapely.box(0, 0, 9, 9)]))
    annotations, others, flags, text = BAD[case]
    done = outlined(tmp_path, annotated(tmp_path, annotations, **others), *flags, status=2)
    assert done.stderr.startswith("error: ")
    assert text in done.stderr
    assert done.stderr.count("\n") == 1
    assert not tree(tmp_path / "out")


@pytest.mark.parametrize("text", ["", "[1]", '{"a": 1}', "\x00", "[" * 100_000])
def test_json_that_is_neither_is_named(tmp_path, text):
    picture(tmp_path)
    (tmp_path / "x.json").write_text(text)
    done = outlined(tmp_path, tmp_path / "x.json", status=2)
    assert "x.json: " in done.stderr
    assert done.stderr.count("\n") == 1
