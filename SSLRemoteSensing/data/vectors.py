"""Read layers of polygons: GeoPackage, GeoJSON, shapefile, FlatGeobuf, by pyogrio.

pyogrio and shapely are of the extra `vectors`, so they are imported where they are used.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from SSLRemoteSensing.core.config import nearest
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.data.remote import require_here

# Of GDAL's many drivers some follow addresses that a file names, whatever its ending. So it must
# begin as a GeoPackage, shapefile, FlatGeobuf or JSON does, and be read by one of these.
BEGINS = (b"SQLite format 3", b"\0\0\x27\x0a", b"fgb", b"{", b"\xef\xbb\xbf{")
DRIVERS = {"GPKG", "GeoJSON", "ESRI Shapefile", "FlatGeobuf"}
ENDINGS = (".gpkg", ".geojson", ".json", ".shp", ".fgb")
SIDECARS = (".shx", ".dbf", ".prj", ".cpg")  # of a shapefile


def require_vectors(flag: str = "--vectors") -> None:
    """Raise a `UserError` where a library that polygons take is not installed."""
    try:
        import pyogrio
        import shapely
    except ImportError as error:
        raise UserError(
            f"{flag}: needs {error.name}; pip install 'SSLRemoteSensing[vectors]'"
        ) from error
    if not hasattr(shapely, "coverage_simplify") or not hasattr(pyogrio, "raw"):
        raise UserError(f"{flag}: shapely is too old; pip install 'SSLRemoteSensing[vectors]'")


@dataclass(frozen=True)
class VectorLayer:
    """A layer of a file. `crs` is a rasterio CRS; `fields` are the names of its columns; `flag` is
    named in errors."""

    path: Path
    name: str
    crs: Any
    fields: tuple[str, ...]
    flag: str

    @property
    def files(self) -> list[Path]:
        """The file, and those of a shapefile that belong to it."""
        endings = SIDECARS if self.path.suffix.lower() == ".shp" else ()
        names = [self.path.with_suffix(case) for e in endings for case in (e, e.upper())]
        return [self.path, *(path for path in names if path.is_file())]

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Numbers (N,) of all features; left, bottom, right, top (4, N), NaN of null geometry."""
        import pyogrio

        with reading(self.path, self.flag):
            return pyogrio.read_bounds(self.path, layer=self.name)

    def column(self, field: str) -> np.ndarray:
        """The values (N,) of a field, of every feature."""
        import pyogrio

        with reading(self.path, self.flag):
            read = pyogrio.raw.read(
                self.path, layer=self.name, columns=[field], read_geometry=False
            )
        return read[3][0]

    def geometries(self, numbers: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        """The geometries of the features where `wanted` (N,) is true, as they are stored.

        Args:
            numbers: of all features, see `bounds`.
        """
        import pyogrio
        import shapely

        few = 2 * wanted.sum() < len(wanted)  # then each is looked up by its number
        with reading(self.path, self.flag):
            read = pyogrio.raw.read(
                self.path, layer=self.name, columns=[], fids=numbers[wanted] if few else None
            )
            stored = read[2] if few else read[2][wanted]
            return shapely.from_wkb(stored, on_invalid="fix")


def open_layer(text: str, flag: str) -> VectorLayer:
    """The layer that FILE or FILE:LAYER names.

    Raises:
        UserError: no such file or layer, several layers of which none is named, another format, no
            coordinate system. `flag` is what the command line calls the file.
    """
    import pyogrio
    from rasterio.crs import CRS

    require_here(text, flag)
    path, name = split_layer(text)
    if not path.is_file():
        what = "is a folder; name a file in it" if path.is_dir() else "no such file"
        raise UserError(f"{flag} {path}: {what}")
    if path.suffix.lower() not in ENDINGS:
        raise UserError(f"{flag} {path}: expected a file of polygons, {', '.join(ENDINGS)}")
    with reading(path, flag):
        with path.open("rb") as file:
            begin = file.read(64).lstrip()
        if not begin.startswith(BEGINS):
            raise ValueError("is no GeoPackage, GeoJSON, shapefile or FlatGeobuf")
        layers = [layer for layer, kind in pyogrio.list_layers(path).tolist() if kind]
    if name is None and len(layers) > 1:
        example = f"{flag} {path}:{layers[0]}"
        raise UserError(f"{flag} {path}: holds the layers {', '.join(layers)}; name one: {example}")
    if not layers:
        raise UserError(f"{flag} {path}: holds no layer of geometries")
    name = layers[0] if name is None else name
    if name not in layers:
        raise UserError(f"{flag} {path}:{name}: no such layer, {nearest(name, layers)}")
    with reading(path, flag):
        info = pyogrio.read_info(path, layer=name)
        crs = CRS.from_user_input(info["crs"]) if info["crs"] else None
    if info["driver"] not in DRIVERS:
        raise UserError(
            f"{flag} {path}: is {info['driver']}; convert it to GeoPackage or GeoJSON first"
        )
    if crs is None or not (crs.is_geographic or crs.is_projected):
        how = "put its .prj beside it" if path.suffix.lower() == ".shp" else "store it with one"
        raise UserError(
            f"{flag} {path}: has no coordinate system, so its polygons lie nowhere; {how}"
        )
    return VectorLayer(path, name, crs, tuple(info["fields"].tolist()), flag)


def split_layer(text: str) -> tuple[Path, str | None]:
    """The file and, where one is named, the layer of FILE[:LAYER]."""
    file, colon, layer = text.rpartition(":")
    is_whole = not colon or not layer or Path(text).exists()
    return (Path(text), None) if is_whole else (Path(file), layer)


@contextmanager
def reading(path: Path, flag: str) -> Iterator[None]:
    """Make a `UserError` of what pyogrio, shapely or rasterio say of a file."""
    from rasterio.errors import CRSError
    from shapely.errors import ShapelyError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of measures that are dropped, of encodings
            yield
    # pyogrio's own errors are RuntimeErrors and ValueErrors.
    except (RuntimeError, ValueError, OSError, CRSError, ShapelyError) as error:
        reason = " ".join(str(error).split()).partition("; It might help")[0]
        raise UserError(f"{flag} {path}: cannot be read ({reason}); store it again") from error
