"""Which files are made of which scene, under which names."""

import glob
import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from SSLRemoteSensing.core.errors import UnreadableImage, UserError
from SSLRemoteSensing.core.files import is_half_named, make_folder
from SSLRemoteSensing.data.file_lists import is_hidden, is_image, match_paths
from SSLRemoteSensing.data.geotiff import open_tiff
from SSLRemoteSensing.data.remote import is_remote, remote_name, require_allowed

FILE_ENDING = re.compile(r"\.[A-Za-z]{2,}|\.jp2")  # but a folder may be called maps.v2
MAP_ENDINGS = (".tif", ".tiff", ".png")


@dataclass(frozen=True)
class Outputs:
    """The files of one scene; None: not asked for."""

    scene: Path
    map: Path
    probabilities: Path | None
    preview: Path | None
    vectors: Path | None

    @property
    def files(self) -> list[Path]:
        """The map last: where it stands under its name, all others do."""
        others = (self.probabilities, self.preview, self.vectors)
        return [*(path for path in others if path is not None), self.map]

    def renamed(self, files: Sequence[Path]) -> "Outputs":
        """These with other names for `files`, in that order."""
        names = dict(zip(self.files, files, strict=True))
        others = (self.probabilities, self.preview, self.vectors)
        return Outputs(self.scene, names[self.map], *(path and names[path] for path in others))

    def flag(self, path: Path) -> str:
        """The flag that one of the files goes by."""
        return "--vectors" if path == self.vectors else "--output"


def find_scenes(inputs: Sequence[str], allow_remote: bool = False) -> list[Path]:
    """The files that paths and patterns name, see `match_paths`, each once, in order; with
    `allow_remote` also the addresses of some that GDAL reads over the network.

    Raises:
        UserError: one that names no file, or another machine that is not allowed.
    """
    scenes: dict[str, Path] = {}
    for text in inputs:
        if is_remote(text):
            remedy = "pass --allow_remote to have GDAL read it over the network"
            require_allowed(f"--input {text}", allow_remote, remedy)
            scenes[text] = Path(remote_name(text))
            continue
        path = Path(text)
        if path.is_dir():
            images = (x for x in sorted(os.listdir(path)) if is_image(x) and not is_hidden(x))
            name = next((f"*{Path(image).suffix}" for image in images), "**/*.tif")
            pattern = shlex.quote(str(path / name))
            raise UserError(f"--input {text}: is a folder; give a pattern, {pattern} say")
        files = [path] if path.is_file() else list(map(Path, match_paths(text)))
        if not files:
            reason = "no file matches" if glob.has_magic(text) else "no such file"
            raise UserError(f"--input {text}: {reason}; give a scene or a pattern in quotes")
        for file in files:
            scenes.setdefault(os.path.realpath(file), file)
    return list(scenes.values())


def plan_outputs(
    scenes: Sequence[Path],
    output: str,
    probabilities: bool = False,
    preview: bool = False,
    vectors: str | None = None,
) -> list[Outputs]:
    """The files of each scene. Folders are made now: after hours of work it would be too late.

    Args:
        output: a file (.tif, .tiff, .png) for one scene; or a folder, of `<scene>.tif`.
        vectors: a file (.gpkg) for one scene; or a folder, of `<scene>.gpkg`.

    Raises:
        UserError: one file for several scenes, a file on a scene, a folder that is none.
    """
    maps = names_for(scenes, output, "--output", MAP_ENDINGS)
    polygons = names_for(scenes, vectors, "--vectors", (".gpkg",)) if vectors is not None else ()
    plan = []
    for scene, map_, polygon in zip_longest(scenes, maps, polygons):
        shares = map_.with_name(f"{map_.stem}_probabilities.tif") if probabilities else None
        picture = map_.with_name(f"{map_.stem}_preview.png") if preview else None
        plan.append(Outputs(scene, map_, shares, picture, polygon))
    refuse_collisions(plan)
    folders = {path.parent: outputs.flag(path) for outputs in plan for path in outputs.files}
    for folder, flag in folders.items():
        make_folder(folder, flag)
    return plan


def names_for(scenes: Sequence[Path], output: str, flag: str, endings: Sequence[str]) -> list[Path]:
    """A file for each scene; in a folder with the first of `endings`."""
    target, names = Path(output), ", ".join(sorted(endings))
    if target.suffix.lower() in endings and not target.is_dir():
        if len(scenes) > 1:
            raise UserError(f"{flag} {output}: one file for {len(scenes)} scenes; name a folder")
        return [target]
    if target.is_file():
        raise UserError(f"{flag} {output}: is a file; name a folder, or a file ending in {names}")
    if FILE_ENDING.fullmatch(target.suffix) and not target.is_dir() and not output.endswith("/"):
        raise UserError(
            f"{flag} {output}: {target.suffix} files are not written; name one ending in {names}, "
            f"or a folder, with / at its end"
        )
    return [target / f"{stem_of(scene)}{endings[0]}" for scene in scenes]


def public_path(scene: Path) -> str:
    """Where a scene lies; of an address without its query, which may hold a signature.

    >>> public_path(Path("/vsicurl/https://host/a.tif?sig=ab/cd"))
    '/vsicurl/https:/host/a.tif'
    """
    return str(scene).partition("?")[0] if is_remote(scene) else str(scene)


def scene_name(scene: Path) -> str:
    """The name of a scene's file in all that is made of it, see `public_path`."""
    return Path(public_path(scene)).name


def stem_of(scene: Path) -> str:
    return Path(scene_name(scene)).stem


def without_queries(text: str, scenes: Sequence[Path]) -> str:
    """`text` without the queries of the addresses among `scenes`, see `public_path`."""
    for scene in scenes:
        text = text.replace(str(scene)[len(public_path(scene)) :], "")
    return text


def refuse_collisions(plan: Sequence[Outputs]) -> None:
    """Raise a `UserError` where a file would be lost that a scene is read from, or a map."""
    here = [outputs for outputs in plan if not is_remote(outputs.scene)]
    inputs = {identity(outputs.scene): f"the scene {outputs.scene}" for outputs in here}
    files = [(outputs, path) for outputs in plan for path in outputs.files]
    # Only a file that is there can be lost; the scenes need not be opened for any other.
    if any(path.exists() for _, path in files):
        for outputs in here:
            for path in parts_of(outputs.scene):
                inputs.setdefault(identity(path), f"a part of the scene {outputs.scene}")
    scene_of: dict[Path, Path] = {}
    for outputs, path in files:
        flag, scene = outputs.flag(path), outputs.scene
        if path.exists() and identity(path) in inputs:
            raise UserError(
                f"{flag} {path}: is {inputs[identity(path)]}, which would be lost; name another "
                f"file or folder"
            )
        if path.is_dir():
            raise UserError(f"{flag} {path}: is a folder where a file is to be; remove it")
        other = scene_of.setdefault(Path(os.path.realpath(path.parent), path.name), scene)
        if other != scene:
            raise UserError(
                f"{flag}: {other} and {scene} would both be {path}; map them into different folders"
            )


def parts_of(scene: Path) -> list[Path]:
    """The files that a scene is read from: sources of a mosaic, a mask, overviews, metadata."""
    try:
        with open_tiff(scene, beside=True) as source:
            return [path for path in map(Path, source.source.files) if path.exists()]
    except UnreadableImage:  # which is told when its turn comes
        return []


def require_absent(plan: Sequence[Outputs]) -> None:
    """Raise a `UserError` where a file would be replaced that no killed run left half named."""
    for outputs in plan:
        for path in outputs.files:
            if path.exists() and not is_half_named(outputs.map):
                raise UserError(
                    f"{outputs.flag(path)} {path}: is there already; name another one, or pass "
                    f"--overwrite to replace it"
                )


def identity(path: Path) -> tuple[int, int]:
    """The same for every name of a file, links of both kinds included."""
    status = path.stat()
    return status.st_dev, status.st_ino
