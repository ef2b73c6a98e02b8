"""Images with polygons for labels, of a file of vectors or of COCO, as a data set."""

from collections.abc import Sequence
from pathlib import Path

from SSLRemoteSensing.core.classes import IGNORE
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.data.file_lists import stem
from SSLRemoteSensing.data.labels import value_coding
from SSLRemoteSensing.data.remote import require_here
from SSLRemoteSensing.data.scale import Scale
from SSLRemoteSensing.data.vectors import open_layer, require_vectors, split_layer
from SSLRemoteSensing.preparation.burning import BurntLabel, Frame, Polygons
from SSLRemoteSensing.preparation.catalog import BAND_NAMES, Catalog, SourceScene
from SSLRemoteSensing.preparation.coco import coco_outlines, read_coco
from SSLRemoteSensing.preparation.folder import BANDS, ENDINGS, other_formats
from SSLRemoteSensing.preparation.layers import layer_inside, layer_outlines
from SSLRemoteSensing.preparation.outlines import (
    NO_BACKGROUND,
    Outlines,
    PolygonSettings,
    read_frames,
)
from SSLRemoteSensing.preparation.sources import SourceFile, linked, list_files, names_beside
from SSLRemoteSensing.preparation.splits import assign_folders


def read_polygons(
    files: Sequence[SourceFile],
    bands: str | None,
    splits: Sequence[str],
    scale: Scale | None,
    settings: PolygonSettings,
) -> Catalog:
    """Every image of `files` with what polygons cover in it, burnt while it is cut.

    Splits are those of `folder.read_folder`.

    Args:
        bands: 'rgb', 'irrg', 'rgbir' of files in the order R, G, B, near infrared; None: all.
        scale: of the images; needed for those of more than 8 bits.

    Raises:
        UserError: no images, a file, layer, field or class that is not there, no coordinate system,
            no polygon in any image.
    """
    require_vectors("--labels")
    images = [file for file in files if file.ending in ENDINGS]
    if not images:
        raise UserError(f"no image ({', '.join(ENDINGS)}) among {len(files)} files of --source")
    area = None if settings.inside is None else open_layer(settings.inside, "--inside")
    outlines = read_outlines(images, settings)
    parts, problems = ({}, {}) if area is None else layer_inside(area, outlines.frames)
    problems |= outlines.problems
    sources = [single_file(path) for path in outlines.paths]
    sources += [single_file(path, "inside/") for path in (area.files if area else ())]
    hashes = {name: digest for file in sources for name, digest in file.digests().items()}
    classes, background = outlines.classes, settings.background
    fill = IGNORE if background == NO_BACKGROUND else classes.index(background)
    catalog = Catalog("polygons", classes, None, BAND_NAMES.get(bands), scale, None)
    catalog.coding = value_coding(len(classes))
    catalog.notes = [*outlines.notes, *other_formats(files)]
    images = [image for image in images if image.name in outlines.frames]
    split_of = assign_folders([image.name for image in images], splits, catalog.notes)
    nothing = Polygons.none()  # of images that cannot be read, which is told when they are cut
    for image in (image for image in images if image.name in split_of):
        name, split, frame = image.name, split_of[image.name], outlines.frames[image.name]
        if name in problems:
            catalog.problems.append((stem(name), problems[name]))
        else:
            polygons = outlines.polygons.get(name, nothing)
            inside = None if area is None else parts.get(name, nothing)
            label = BurntLabel(
                sources[0].name, tuple(sources), hashes, frame or Frame(0, 0), polygons, inside,
                fill, settings.touched,
            )  # fmt: skip
            own = {"full": label}
            catalog.add_scene(SourceScene(stem(name), split, image, own, BANDS.get(bands)), own)
    if catalog.problems and not catalog.scenes:
        raise UserError(catalog.problems[0][1])
    catalog.require_own_names()
    catalog.polygons = {
        "file": sources[0].name,
        "layer": outlines.layer,
        "sha256": hashes[sources[0].name],
        "class_field": settings.class_field,
        "classes": list(classes),
        "background": None if background == NO_BACKGROUND else background,
        "notes": outlines.notes,
    }
    return catalog


def read_outlines(images: Sequence[SourceFile], settings: PolygonSettings) -> Outlines:
    """The polygons of each image: of COCO or of a layer, as what the file holds says."""
    path, layer = split_layer(settings.labels)
    if path.is_file() and path.suffix.lower() in (".json", ".geojson"):
        contents = read_coco(path)
        if contents is not None and layer is not None:
            raise UserError(f"--labels {path}:{layer}: is COCO, which has no layers")
        if contents is not None:
            return coco_outlines(contents, path, images, settings)
    layer = open_layer(settings.labels, "--labels")
    return layer_outlines(layer, read_frames(images), settings)


def list_images(sources: Sequence[str]) -> list[SourceFile]:
    """The files of a folder or zip file, or the scenes that are named by themselves.

    Raises:
        UserError: as `list_files`; a scene that is not there.
    """
    for source in sources:
        require_here(source, "--source")
    names = [Path(source) for source in sources]
    if len(names) == 1 and (names[0].suffix.lower() == ".zip" or not names[0].is_file()):
        return list_files(names[0])
    for path in names:
        if not path.is_file() or path.suffix.lower() not in ENDINGS:
            raise UserError(
                f"--source {path}: is no image ({', '.join(ENDINGS)}); name one folder, one zip "
                "file, or images"
            )
    paths = [*dict.fromkeys(names)]
    beside = [
        other
        for path in paths
        for other in path.parent.iterdir()
        if other.name.lower() in names_beside(path.name)
    ]
    return linked(list(map(single_file, [*paths, *beside])))[: len(paths)]


def single_file(path: Path, prefix: str = "") -> SourceFile:
    """A file that is named by itself."""
    status = path.stat()
    stamp = status.st_size, status.st_mtime_ns
    return SourceFile(prefix + path.name, path, None, stamp)
