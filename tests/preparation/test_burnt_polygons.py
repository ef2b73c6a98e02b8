"""Polygons as labels: what they cover is burnt, whatever the file, CRS, strip or order."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from conftest import DATA
from drawn import card_of, draw_image, prepare, tiles_of, tree, write_png, write_tiff
from rasterio.warp import transform as moved

pyogrio = pytest.importorskip("pyogrio")
shapely = pytest.importorskip("shapely")

from mapped import CLASSES, mapped, network  # noqa: E402
from outlined import (  # noqa: E402
    METRE,
    SIZE,
    UTM,
    WGS84,
    assert_covered,
    blobs,
    centres,
    covered,
    labels_of,
    on_map,
    outlined,
    scene,
    store,
    to_map,
)

# ---------------------------------------------------------------------------- what is burnt


@pytest.mark.parametrize(
    ("ending", "crs"),
    [(".gpkg", UTM), (".geojson", WGS84), (".shp", WGS84), (".gpkg", "EPSG:3035")],
)
def test_a_pixel_has_the_class_of_the_last_polygon_that_covers_its_centre(tmp_path, ending, crs):
    scene(tmp_path)
    areas = blobs(40)
    kinds = [("roof", "road", "tree")[number % 3] for number in range(40)]
    file = store(tmp_path / f"roofs{ending}", on_map(areas, crs), crs, kind=kinds)
    outlined(tmp_path, file, "--class_field", "kind", "--classes", "roof", "road", "tree")
    values = [["roof", "road", "tree"].index(kind) + 1 for kind in kinds]
    assert_covered(labels_of(tmp_path), areas, values)
    card = card_of(tmp_path / "out")
    assert card["classes"] == ["background", "roof", "road", "tree"]


def test_flatgeobuf_gives_the_same_where_order_is_told(tmp_path):
    """It stores features in an order of its own."""
    scene(tmp_path)
    areas = blobs(40)
    ranks = np.random.default_rng(3).permutation(40)
    file = store(tmp_path / "roofs.fgb", on_map(areas), kind=list("ab" * 20), rank=ranks)
    outlined(tmp_path, file, "--class_field", "kind", "--order", "rank")
    order = np.argsort(ranks)
    assert_covered(labels_of(tmp_path), [areas[i] for i in order], [1 + i % 2 for i in order])


def test_polygons_of_a_map_give_the_map_back(tmp_path):
    """With outlines along the pixels' sides every pixel. Simplified by a pixel, as they are by
    default, only pixels that have a neighbour of another class may change."""
    path = scene(tmp_path, size=(150, 170))
    for simplify in (0.0, None):
        polygons = dict(vectors=str(tmp_path / "map.gpkg"))
        _, values = mapped(network(3), path, tmp_path / "map.tif", polygons, simplify=simplify)
        flags = ["--class_field", "name", "--classes", *CLASSES, "--background", "none"]
        outlined(tmp_path, tmp_path / "map.gpkg", *flags, output=f"out{simplify}")
        is_other = labels_of(tmp_path, output=f"out{simplify}") != values
        if simplify == 0:
            assert len(np.unique(values)) > 2
            assert not is_other.any()
        around = np.pad(values, 1, mode="edge")
        shifts = around[:-2, 1:-1], around[2:, 1:-1], around[1:-1, :-2], around[1:-1, 2:]
        assert not (is_other & np.all([values == shift for shift in shifts], 0)).any()
        for file in (tmp_path / "map.gpkg", tmp_path / "map.tif"):
            file.unlink()


@pytest.mark.skipif(not (DATA / "naip").is_dir(), reason=f"the real scenes are not at {DATA}")
def test_polygons_of_a_map_of_a_real_scene_give_it_back_in_any_crs(tmp_path):
    path = DATA / "naip/m_4709963_se_14_1_20090818.tif"
    polygons = dict(vectors=str(tmp_path / "map.gpkg"))
    _, values = mapped(network(4), path, tmp_path / "map.tif", polygons, simplify=0.0, tile=512)
    meta, _, stored, fields = pyogrio.raw.read(tmp_path / "map.gpkg")
    areas = shapely.transform(
        shapely.from_wkb(stored), lambda xy: np.stack(moved("EPSG:26914", WGS84, *xy.T), -1)
    )
    columns = dict(zip(meta["fields"], map(np.asarray, fields), strict=True))
    store(tmp_path / "degrees.gpkg", areas, WGS84, **columns)
    flags = ["--class_field", "name", "--classes", *CLASSES, "--background", "none"]
    for name in ("map", "degrees"):
        file = tmp_path / f"{name}.gpkg"
        outlined(tmp_path, file, *flags, source=[path], output=name, tile=700)
        assert np.array_equal(labels_of(tmp_path, path.stem, output=name), values)


def test_a_polygon_lies_in_all_strips_and_images_that_it_touches(tmp_path):
    right = METRE @ rasterio.Affine.translation(SIZE[1], 0)
    scene(tmp_path)
    scene(tmp_path, "b", transform=right)
    area = shapely.Polygon([(20, 3), (200, 70), (180, 149), (5, 120)])
    outlined(tmp_path, store(tmp_path / "roofs.gpkg", on_map([area])), "--stride", 20)
    both = np.concatenate([labels_of(tmp_path), labels_of(tmp_path, "b")], 1)
    assert both.any(0).sum() > SIZE[1] + 50
    assert_covered(both, [area], [1])


@pytest.mark.parametrize("angle", [0, 30])
def test_lines_that_are_straight_in_degrees_are_bent_on_the_map(tmp_path, angle):
    """A scene of 30 m pixels, turned or not, and a polygon with sides of 1000 km: the centres of
    the pixels are looked for in degrees."""
    place = rasterio.Affine(30, 0, 366000, 0, -30, 5806000) @ rasterio.Affine.rotation(angle)
    size = (1200, 1000)
    scene(tmp_path, size=size, transform=place)
    x, y = (part.ravel() for part in centres(size))
    degrees = np.array(moved(UTM, WGS84, *to_map(x, y, place).T))
    middle = np.median(degrees, 1)
    areas = np.array([shapely.box(middle[0] - 7, 45, middle[0] + 7, middle[1]),
                      shapely.box(-170, 60, 170, 89)], object)  # fmt: skip
    outlined(tmp_path, store(tmp_path / "land.gpkg", areas, WGS84), tile=500)
    expected = shapely.contains_xy(areas[0], *degrees).reshape(size)
    is_other = (labels_of(tmp_path) == 1) != expected
    rows_away = np.abs(degrees[1].reshape(size) - middle[1]) * 111_200 / 30
    assert 0.3 < expected.mean() < 0.7
    assert (rows_away[is_other] < 0.01).all()
    # A straight line between where the parallel comes in and goes out is pixels away.
    assert angle or np.ptp(expected.sum(0)[[0, 500, 999]]) > 1


def test_touched_takes_every_pixel_that_a_polygon_touches(tmp_path):
    scene(tmp_path)
    areas = blobs(12, radii=(3, 12))
    file = store(tmp_path / "roofs.gpkg", on_map(areas))
    outlined(tmp_path, file, "--touched")
    x, y = centres()
    pixels = shapely.box(x - 0.5, y - 0.5, x + 0.5, y + 0.5)
    expected = shapely.intersects(shapely.union_all(areas), pixels)
    assert np.array_equal(labels_of(tmp_path) == 1, expected)
    assert (expected & (covered(areas, [1] * 12) == 0)).sum() > 100


def test_outside_of_inside_and_on_nodata_nothing_is_scored(tmp_path):
    planes = np.maximum(draw_image(3, SIZE), 1)
    planes[:, 40:60, 30:50] = 0
    write_tiff(tmp_path / "source/a.tif", planes, nodata=0)
    areas = blobs(30)
    inside = [shapely.Point(50, 70).buffer(45), shapely.box(-5, 100, 40, 160)]
    store(tmp_path / "roofs.gpkg", on_map(areas), layer="roofs")
    store(tmp_path / "roofs.gpkg", on_map(inside, WGS84), WGS84, layer="mapped")
    outlined(tmp_path, tmp_path / "roofs.gpkg:roofs", "--inside", tmp_path / "roofs.gpkg:mapped")
    expected = covered(areas, [1] * 30)
    expected[covered(inside, [1, 1]) == 0] = 255
    expected[40:60, 30:50] = 255
    assert np.array_equal(labels_of(tmp_path), expected)
    assert set(card_of(tmp_path / "out")["sources"]) == {"a.tif", "roofs.gpkg", "inside/roofs.gpkg"}


@pytest.mark.parametrize("field", ["height", "day"])
def test_order_puts_the_highest_on_top_and_what_has_none_below(tmp_path, field):
    scene(tmp_path)
    areas = [shapely.box(10 + 9 * i, 10, 60 + 9 * i, 90) for i in range(4)]
    heights = np.array([3.0, np.nan, 7.0, 3.0])
    days = np.array(["2020-03-01", "NaT", "2024-01-01", "2020-03-01"], "datetime64[D]")
    columns = {"height": heights, "day": days.astype("datetime64[ms]")}
    file = store(tmp_path / "roofs.gpkg", on_map(areas), kind=list("abcd"), **columns)
    outlined(tmp_path, file, "--class_field", "kind", "--order", field)
    assert_covered(labels_of(tmp_path), [areas[i] for i in (1, 0, 3, 2)], [2, 1, 4, 3])


# ---------------------------------------------------------------------------- classes


@pytest.mark.parametrize(
    ("flags", "classes", "fill", "value"),
    [
        ([], ["background", "roofs"], 0, 1),
        (["--classes", "house"], ["background", "house"], 0, 1),
        (["--background", "other"], ["other", "roofs"], 0, 1),
        (["--background", "none"], ["roofs"], 255, 0),
        (["--classes", "house", "other", "--background", "other"], ["house", "other"], 1, 0),
    ],
)
def test_without_a_field_all_polygons_are_one_class(tmp_path, flags, classes, fill, value):
    scene(tmp_path)
    areas = blobs(9)
    outlined(tmp_path, store(tmp_path / "x.gpkg", on_map(areas)), *flags)
    assert card_of(tmp_path / "out")["classes"] == classes
    assert_covered(labels_of(tmp_path), areas, [value] * 9, fill)


def test_numbers_are_classes_in_their_order_and_what_has_none_is_not_scored(tmp_path):
    scene(tmp_path)
    areas = [shapely.box(12 * i, 5, 12 * i + 10, 140) for i in range(5)]
    file = store(tmp_path / "x.geojson", on_map(areas, WGS84), WGS84, code=[10, 9, np.nan, 10, 100])
    said = outlined(tmp_path, file, "--class_field", "code").stdout
    assert card_of(tmp_path / "out")["classes"] == ["background", "9", "10", "100"]
    assert_covered(labels_of(tmp_path), areas, [2, 1, 255, 2, 3])
    assert "x.geojson: 1 polygons have no code; what they cover is not scored" in said


def test_what_is_called_as_the_background_is_of_it(tmp_path):
    scene(tmp_path)
    areas = [shapely.box(10, 5, 90, 140), shapely.box(30, 30, 70, 60), shapely.box(0, 0, 5, 5)]
    file = store(tmp_path / "x.gpkg", on_map(areas), kind=["wood", "other", "attic"])
    outlined(tmp_path, file, "--class_field", "kind", "--background", "other")
    assert card_of(tmp_path / "out")["classes"] == ["other", "attic", "wood"]
    assert_covered(labels_of(tmp_path), areas, [2, 0, 1])


def test_kinds_that_are_not_named_are_left_out_and_classes_without_polygons_warned_of(tmp_path):
    scene(tmp_path)
    areas = [shapely.box(12 * i, 5, 12 * i + 14, 140) for i in range(4)]
    file = store(tmp_path / "x.gpkg", on_map(areas), kind=["shed", "roof", "tree ", "tent"])
    done = outlined(tmp_path, file, "--class_field", "kind", "--classes", "tree", "roof", "sheds")
    assert_covered(labels_of(tmp_path), areas[1:3], [2, 1])
    text = "warning: class sheds: no polygon of x.gpkg, field kind, is of it, did you mean 'shed'?"
    assert text in done.stderr
    assert "2 polygons are of none of the classes (shed, tent)" in done.stdout
    assert "what they alone cover is background" in done.stdout
    assert "no pixel of train is sheds" in done.stdout


# ---------------------------------------------------------------------------- shapes


def test_shapes_of_all_kinds_are_mended_taken_or_counted(tmp_path):
    scene(tmp_path)
    bow_tie = shapely.Polygon([(5, 5), (35, 25), (35, 5), (5, 25)])
    overlapping = shapely.MultiPolygon([shapely.box(40, 5, 60, 30), shapely.box(50, 10, 80, 25)])
    hole = shapely.box(5, 40, 50, 80) - shapely.box(15, 50, 30, 70)
    parts = [shapely.box(60, 40, 70, 60), shapely.LineString([(0, 0), (100, 149)]),
             shapely.GeometryCollection([shapely.box(80, 40, 90, 70)])]  # fmt: skip
    high = shapely.force_3d(shapely.box(5, 90, 30, 100), 412.5)
    areas = [bow_tie, overlapping, hole, shapely.GeometryCollection(parts), high,
             shapely.LineString([(0, 110), (90, 120)]), shapely.Point(50, 115), None,
             shapely.box(500, 500, 510, 510)]  # fmt: skip
    file = store(tmp_path / "x.gpkg", [area and on_map([area])[0] for area in areas], n=range(9))
    said = outlined(tmp_path, file).stdout
    lobes = [shapely.Polygon([(5, 5), (20, 15), (5, 25)]),
             shapely.Polygon([(35, 25), (20, 15), (35, 5)])]  # fmt: skip
    flat = [*lobes, *overlapping.geoms, hole, parts[0], *parts[2].geoms, shapely.force_2d(high)]
    assert_covered(labels_of(tmp_path), flat, [1] * len(flat))
    for text in (
        "x.gpkg: 9 polygons, of which 1 lie in no image",
        "x.gpkg: 1 have no geometry and are left out",
        "x.gpkg: 2 are lines, points or of no area and left out",
        "x.gpkg: 2 had invalid outlines, which were mended",
    ):
        assert f"note: {text}\n" in said
    assert card_of(tmp_path / "out")["polygons"]["notes"][0].startswith("x.gpkg: 9 polygons")


# ---------------------------------------------------------------------------- a prepared set


def test_the_card_says_what_the_labels_are_made_of(tmp_path):
    scene(tmp_path)
    file = store(tmp_path / "x.gpkg", on_map(blobs(9)), kind=list("abc" * 3))
    outlined(tmp_path, file, "--class_field", "kind")
    card = card_of(tmp_path / "out")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    polygons = card["polygons"]
    assert (polygons["file"], polygons["layer"], polygons["sha256"]) == ("x.gpkg", "roofs", digest)
    assert (polygons["class_field"], polygons["classes"]) == ("kind", ["background", *"abc"])
    assert card["sources"]["x.gpkg"] == digest
    assert card["settings"]["class_field"] == "kind"


def test_going_on_cuts_anew_what_other_polygons_change(tmp_path):
    scene(tmp_path)
    areas = blobs(9)
    file = store(tmp_path / "x.gpkg", on_map(areas))
    outlined(tmp_path, file)
    before = tree(tmp_path / "out")
    assert "nothing left to do" in outlined(tmp_path, file).stdout
    assert tree(tmp_path / "out") == before
    (tmp_path / "out/labels/train/a_0_0.png").unlink()
    outlined(tmp_path, file)
    assert tiles_of(tmp_path / "out") == {k: v for k, v in before.items() if "/" in k}
    file.unlink()
    store(file, on_map(areas[:4]))
    outlined(tmp_path, file)
    assert_covered(labels_of(tmp_path), areas[:4], [1] * 4)
    done = outlined(tmp_path, file, "--touched", status=2)
    assert "was begun with touched False, now True" in done.stderr


def test_a_shapefile_is_hashed_with_what_belongs_to_it(tmp_path):
    scene(tmp_path)
    outlined(tmp_path, store(tmp_path / "x.shp", on_map(blobs(3)), n=[1, 2, 3]))
    names = {f"x.{ending}" for ending in ("shp", "shx", "dbf", "prj", "cpg")}
    assert set(card_of(tmp_path / "out")["sources"]) == {"a.tif", *names}


def test_scenes_are_dealt_as_for_any_set_and_named_one_by_one(tmp_path):
    paths = [scene(tmp_path, name) for name in ("a", "b", "c")]
    (tmp_path / "list.csv").write_text("scene,split\na,train\nb,val\nc,test\n")
    file = store(tmp_path / "x.gpkg", on_map(blobs(9)))
    outlined(tmp_path, file, "--splits", tmp_path / "list.csv", source=paths)
    assert card_of(tmp_path / "out")["scenes"] == {"train": ["a"], "val": ["b"], "test": ["c"]}
    outlined(tmp_path, file, "--splits", "val=b", source=paths[:2], output="two")
    assert card_of(tmp_path / "two")["scenes"] == {"train": ["a"], "val": ["b"]}


def test_a_check_writes_nothing(tmp_path):
    scene(tmp_path)
    file = store(tmp_path / "x.gpkg", on_map(blobs(9)))
    done = prepare("polygons", "--source", tmp_path / "source", "--labels", file, "--check")
    assert done.returncode == 0
    assert "9 polygons, of which" in done.stdout
    assert not list(tmp_path.rglob("*.png"))


def test_an_image_without_a_place_keeps_no_other_from_being_cut(tmp_path):
    scene(tmp_path)
    lost = scene(tmp_path, "lost", crs=None)
    file = store(tmp_path / "x.gpkg", on_map(blobs(9)))
    said = outlined(tmp_path, file, status=1).stdout
    assert "must not be used: lost: lost.tif: has no coordinate system" in said
    outlined(tmp_path, file, "--leave_out", "lost")
    assert card_of(tmp_path / "out")["scenes"] == {"train": ["a"]}
    # What the message advises.
    rio = Path(sys.executable).with_name("rio")
    subprocess.run([rio, "edit-info", "--crs", UTM, lost], check=True)
    outlined(tmp_path, file, output="both")
    assert np.array_equal(labels_of(tmp_path, "lost", output="both"), labels_of(tmp_path))


def test_a_damaged_image_is_refused_as_in_any_set(tmp_path):
    scene(tmp_path)
    broken = scene(tmp_path, "broken")
    broken.write_bytes(broken.read_bytes()[:40])
    file = store(tmp_path / "x.gpkg", on_map(blobs(9)))
    said = outlined(tmp_path, file, status=1).stdout
    assert "must not be used: broken: image broken.tif: cannot be read" in said


# ---------------------------------------------------------------------------- bad input


def bad_inputs():
    """Of each: what is put beside scene `a` and `roofs.gpkg`, flags, and what is to be said."""
    two = dict(layer="other")
    return {
        "no file": (None, ["--labels", "no.gpkg"], "--labels no.gpkg: no such file"),
        "a folder": (None, ["--labels", "source"], "--labels source: is a folder"),
        "no polygons' file": (None, ["--labels", "source/a.tif"], "expected a file of polygons"),
        "damaged": (lambda f: (f / "x.gpkg").write_bytes(b"SQLite format 3\0"),
                    ["--labels", "x.gpkg"], "x.gpkg: cannot be read"),
        "no json": (lambda f: (f / "x.geojson").write_text("{"), ["--labels", "x.geojson"],
                    "x.geojson: cannot be read"),
        "no layer": (None, ["--labels", "roofs.gpkg:roof"],
                     "roofs.gpkg:roof: no such layer, did you mean 'roofs'?"),
        "two layers": (lambda f: store(f / "roofs.gpkg", on_map(blobs(2)), **two), [],
                       "holds the layers roofs, other; name one: --labels roofs.gpkg:roofs"),
        "no field": (None, ["--class_field", "knid"], "--class_field knid: roofs.gpkg has no such "
                     "field, did you mean 'kind'? (its fields: kind, size)"),
        "no order": (None, ["--order", "sise"], "--order sise: roofs.gpkg has no such field"),
        "order of text": (None, ["--order", "kind"], "--order kind: holds text in roofs.gpkg"),
        "no class": (None, ["--class_field", "kind", "--classes", "rooof"],
                     "--classes rooof: no polygon is of them; roofs.gpkg, field kind, has b, c"),
        "twice": (None, ["--class_field", "kind", "--classes", "b", "b"], "stands there twice"),
        "two classes, no field": (None, ["--classes", "b", "c"],
                                  "without --class_field all polygons are of one class"),
        "no CRS": (lambda f: store(f / "x.gpkg", on_map(blobs(2)), None), ["--labels", "x.gpkg"],
                   "--labels x.gpkg: has no coordinate system"),
        "no CRS of a shapefile": (lambda f: store(f / "x.shp", on_map(blobs(2)), None),
                                  ["--labels", "x.shp"], "put its .prj beside it"),
        "no CRS inside": (lambda f: store(f / "x.gpkg", on_map(blobs(2)), None),
                          ["--inside", "x.gpkg"], "--inside x.gpkg: has no coordinate system"),
        "image without CRS": (lambda f: scene(f, crs=None), [], "a.tif: has no coordinate system"),
        "image without place": (lambda f: (f / "source/a.tif").unlink() or write_png(
            f / "source/a.png", np.zeros((64, 64), np.uint8)), [], "a.png: has no georeference"),
        "elsewhere": (lambda f: store(f / "x.gpkg", on_map(blobs(2)) , "EPSG:32631"),
                      ["--labels", "x.gpkg"], "none of its 2 polygons lies in an image; they lie"),
        "nothing inside": (lambda f: store(f / "x.gpkg", on_map([shapely.box(900, 0, 950, 9)])),
                           ["--inside", "x.gpkg"], "no image lies inside any of its polygons"),
        "empty": (lambda f: store(f / "x.gpkg", on_map(blobs(1))[:0]), ["--labels", "x.gpkg"],
                  "the layer roofs holds no polygon"),
        "another format": (
            lambda f: (f / "x.gpkg").write_text("<OGRVRTDataSource></OGRVRTDataSource>"),
            ["--labels", "x.gpkg"],
            "x.gpkg: cannot be read (is no GeoPackage, GeoJSON, shapefile or FlatGeobuf)",
        ),
        "topologies": (
            lambda f: (f / "x.json").write_text(
                '{"type":"Topology","objects":{"a":{"type":"GeometryCollection","geometries":'
                '[{"type":"Polygon","arcs":[[0]]}]}},"arcs":[[[0,0],[1,0],[1,1],[0,0]]]}'
            ),
            ["--labels", "x.json"],
            "x.json: is TopoJSON; convert it",
        ),
        "null alone": (
            lambda f: store(f / "x.gpkg", [None, None], n=[1, 2]),
            ["--labels", "x.gpkg"],
            "the layer roofs holds no polygon",
        ),
        "no value": (
            lambda f: store(f / "x.gpkg", on_map(blobs(2)), kind=np.array([None, ""], object)),
            ["--labels", "x.gpkg", "--class_field", "kind"],
            "no classes; x.gpkg, field kind, has no value",
        ),
        "no labels": (None, ["--labels", "full"], "--labels: name the file of polygons"),
        "no scene": (None, ["--source", "b.tif", "c.tif"], "--source b.tif: is no image"),
        "of a folder": (None, ["--label_offset", "-1"], "--label_offset: is for"),
    }  # fmt: skip


@pytest.mark.parametrize("case", bad_inputs())
def test_bad_input_is_named_in_one_line_with_status_2(tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    scene(tmp_path)
    store(tmp_path / "roofs.gpkg", on_map(blobs(3)), kind=list("bcb"), size=[1, 2, 3])
    spoil, flags, text = bad_inputs()[case]
    if spoil:
        spoil(tmp_path)
    flags = [*(() if "--labels" in flags else ("--labels", "roofs.gpkg")), *flags]
    flags += [] if "--source" in flags else ["--source", "source"]
    done = prepare("polygons", *flags, "--output", "out", "--splits", "val=0", status=2)
    assert done.stderr.startswith("error: ")
    assert text in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out/dataset.json").exists()


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["folder", "--labels", "x.gpkg"], "--labels x.gpkg: expected full, eroded, both"),
        (
            ["folder", "--inside", "x.gpkg"],
            "--inside: is for tools/prepare.py polygons; its",
        ),
        (["potsdam", "--class_field", "k"], "--class_field: is for tools/prepare.py polygons"),
        (["potsdam", "--source", "a", "b"], "--source: potsdam is one folder or zip file"),
    ],
)
def test_flags_of_polygons_are_refused_elsewhere(tmp_path, flags, text):
    flags = flags if "--source" in flags else [*flags, "--source", tmp_path]
    assert text in prepare(*flags, "--output", tmp_path / "out", status=2).stderr


@pytest.mark.parametrize("library", ["pyogrio", "shapely"])
def test_a_missing_library_is_named(tmp_path, library, monkeypatch):
    scene(tmp_path)
    file = store(tmp_path / "x.gpkg", on_map(blobs(2)))
    monkeypatch.setitem(sys.modules, library, None)
    done = outlined(tmp_path, file, status=2)
    assert f"--labels: needs {library}; pip install 'SSLRemoteSensing[vectors]'" in done.stderr


def test_the_audit_counts_what_is_burnt(tmp_path):
    scene(tmp_path)
    areas = blobs(9)
    outlined(tmp_path, store(tmp_path / "x.gpkg", on_map(areas)))
    (record,) = json.loads((tmp_path / "out/audit.json").read_text())["scenes"]
    expected = np.bincount(covered(areas, [1] * 9).ravel())
    assert record["labels"]["full"]["pixels"] == expected.tolist()
