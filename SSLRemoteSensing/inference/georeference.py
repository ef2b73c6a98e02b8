"""Where a map lies: in its header, and in the file beside it what no GeoTIFF's header can hold."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path

from SSLRemoteSensing.inference.scene import InputScene
from SSLRemoteSensing.inference.writer import quiet, writing


def side_car(path: Path) -> Path:
    """The file beside `path` whose place on the map GDAL takes before that of the header."""
    return Path(f"{path}.aux.xml")


@contextmanager
def side_files(path: Path, part: Path) -> Iterator[None]:
    """What lies beside `part` gets its name beside `path` at the end of the block; what an earlier
    map left there goes: GDAL would take it for the new map's.

    Raises:
        CannotWrite: the disk is full, say.
    """
    part_side_car = side_car(part)
    try:
        yield
        with writing(path):
            for ending in (".aux.xml", ".ovr", ".msk"):
                Path(f"{path}{ending}").unlink(missing_ok=True)
            if part_side_car.exists():
                os.replace(part_side_car, side_car(path))
    finally:
        part_side_car.unlink(missing_ok=True)


def keep_place(path: Path, scene: InputScene) -> list[str]:
    """See that the map at `path` lies where `scene` does, with a side car where its header cannot
    tell; what is lost all the same.

    Raises:
        CannotWrite: the disk is full, say.
    """
    if lost_parts(path, scene):
        crs = "" if scene.crs is None else escape(scene.crs.to_wkt(version="WKT2_2019"))
        points = "".join(
            f'<GCP Id="" Pixel="{column!r}" Line="{row!r}" X="{x!r}" Y="{y!r}" Z="{z!r}"/>'
            for row, column, x, y, z in numbers(scene.gcps)
        )
        place = f'<GCPList Projection="{crs}">{points}</GCPList>' if points else ""
        place += f"<SRS>{crs}</SRS>" if scene.source.crs else ""
        with writing(path):
            side_car(path).write_text(f"<PAMDataset>{place}</PAMDataset>\n", encoding="utf-8")
    lost = lost_parts(path, scene)
    return [f"lost, as a GeoTIFF cannot keep it: {', '.join(lost)}"] if lost else []


def lost_parts(path: Path, scene: InputScene) -> list[str]:
    """What a reader of the map at `path` would not find as `scene` has it."""
    import rasterio

    transform = scene.transform or rasterio.Affine.identity()
    with quiet(), rasterio.open(path) as file:
        points, points_crs = file.gcps
        is_there = {
            "coordinate system": (file.crs or points_crs) == scene.crs,
            "transform": file.transform.almost_equals(transform),
            "ground control points": numbers(points) == numbers(scene.gcps),
            "RPCs": file.rpcs == scene.rpcs,
        }
    return [name for name, is_so in is_there.items() if not is_so]


def numbers(points: Sequence | None) -> list[tuple[float, ...]]:
    """(row, column, x, y, z) of ground control points."""
    return [(p.row, p.col, p.x, p.y, p.z or 0.0) for p in points or ()]
