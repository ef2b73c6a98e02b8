"""Make a downloaded data set ready: tiles, labels in our order, an audit, and dataset.json.

The folder holds `prepare.jsonl`, a line a finished scene, until all scenes are there; then
`dataset.json` takes its place, and only with it is the folder a data set.
"""

import json
import os
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from math import sqrt
from pathlib import Path

from SSLRemoteSensing.core.console import progress
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.core.files import make_folder, write_text
from SSLRemoteSensing.data.prepared import LABEL_FOLDERS, positions
from SSLRemoteSensing.preparation.audit import (
    SPLIT_ORDER,
    check_scene,
    check_scenes,
    class_shares,
    report,
)
from SSLRemoteSensing.preparation.catalog import UNLABELLED, Catalog, SourceScene, listing
from SSLRemoteSensing.preparation.tiling import Stopped, TilingSettings, is_png, tile_scene

TILE_NAME = re.compile(r".+_\d+_\d+\.(?:png|tif)")
STATE, CARD, AUDIT = "prepare.jsonl", "dataset.json", "audit.json"


def prepare(
    collection: Catalog,
    output: Path,
    settings: dict,
    tile: int,
    stride: int,
    workers: int,
    leave_out: Sequence[str] = (),
    check: bool = False,
    made_by: dict | None = None,
) -> bool:
    """Cut and audit the scenes of `collection`; print the audit; True where all may be used.

    Args:
        settings: what makes the tiles what they are; another run into the folder must agree.
        leave_out: names of scenes.
        check: audit only, write nothing.
        made_by: what to keep of the command and versions in `dataset.json`.

    Raises:
        UserError: a folder of other settings, one that cannot be written, an unknown scene.
    """
    names = {scene.name for scene in collection.scenes} | {name for name, _ in collection.problems}
    unknown_names = sorted(set(leave_out) - names)
    if unknown_names:
        raise UserError(
            f"--leave_out {unknown_names[0]}: no such scene; there are {listing(sorted(names), 12)}"
        )
    if not 0 < stride <= tile:
        raise UserError(f"--stride {stride}: must be 1 to --tile {tile}, so that nothing is left")
    scenes = [scene for scene in collection.scenes if scene.name not in leave_out]
    scenes.sort(key=lambda scene: SPLIT_ORDER.index(scene.split))
    problems = [(name, text) for name, text in collection.problems if name not in leave_out]
    if not scenes and not problems:
        raise UserError("no scene to prepare: none is of the splits asked for, or all are left out")

    # Found in the labels, the coding may change with them: scenes of two codings must not mix.
    settings = settings | {"coding": collection.coding and collection.coding.meaning()}
    records = {}
    if not check:
        make_folder(output, "--output")
        records = resume_records(output, settings, scenes)
        if len(records) == len(scenes) and (output / CARD).is_file() and not problems:
            print(f"{output} is prepared already: {len(scenes)} scenes, nothing left to do")
            return True
        (output / CARD).unlink(missing_ok=True)
        lines = [json.dumps({"settings": settings}), *map(json.dumps, records.values())]
        write_text(output / STATE, "\n".join(lines) + "\n")
        make_tile_folders(output, scenes)
        if records:
            print(f"going on: {len(records)} of {len(scenes)} scenes are done")

    job = TilingSettings(
        tile, stride, None if check else output, collection.coding, collection.scale
    )
    remaining = [scene for scene in scenes if scene.key not in records]
    for record in cut_scenes(remaining, job, workers):
        check_scene(record, collection)
        records[key_of(record)] = record
        if not check and "refused" in record:
            remove_tiles(output, record, settings)
        elif not check:
            add_line(output / STATE, json.dumps(record))

    entries = [records[scene.key] for scene in scenes]
    for record in [*refuse_other_bands(entries), *refuse_other_codes(entries, collection)]:
        if not check:
            remove_tiles(output, record, settings)
    entries += [
        {"scene": name, "split": "", "labels": {}, "warnings": [], "refused": text}
        for name, text in problems
    ]
    notes = check_scenes(entries, collection)
    if leave_out:
        notes.append(f"left out as asked: {', '.join(leave_out)}")
    print(report(entries, collection, notes, whole=check))
    is_ready = not any("refused" in record for record in entries)
    if not check:
        audit = {"settings": settings, "notes": notes, "scenes": entries}
        write_text(output / AUDIT, json.dumps(audit, indent=1) + "\n")
        if is_ready:
            card = describe(entries, collection, settings, leave_out) | {"made_by": made_by}
            write_text(output / CARD, json.dumps(card, indent=1) + "\n")
            (output / STATE).unlink()
            tiles = ", ".join(f"{split} {count}" for split, count in card["tiles"].items())
            print(f"{output / CARD}: tiles of {tile} x {tile}: {tiles}; audit in {output / AUDIT}")
        else:
            print(
                f"{output} is not ready: mend the scenes named above, or --leave_out them, and run "
                "the command again; what is done is kept"
            )
    return is_ready


def add_line(path: Path, line: str) -> None:
    try:
        with path.open("a") as file:
            file.write(line + "\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error


def resume_records(output: Path, settings: dict, scenes: Sequence[SourceScene]) -> dict[str, dict]:
    """Records of an earlier run whose scene is unchanged and whose tiles are all there.

    Tiles of scenes that are to be made again, or are no longer wanted, are removed.
    """
    old, records = read_state(output)
    if old is None:
        if (output / "images").exists() and any((output / "images").iterdir()):
            raise UserError(f"--output {output}: has images, but not by this tool; name another")
        return {}
    changes = [key for key in settings | old if old.get(key) != settings.get(key)]
    if changes:
        key = changes[0]
        raise UserError(
            f"--output {output}: was begun with {key} {old.get(key)!r}, now {settings.get(key)!r}; "
            "name another folder, or remove this one"
        )
    existing = tile_names(output)
    scene_by_key = {scene.key: scene for scene in scenes}
    current_records, current_files = {}, set()
    for key, record in records.items():
        files = tile_files(record, settings)
        if key in scene_by_key and is_current(record, scene_by_key[key]) and files <= existing:
            current_records[key] = record
            current_files |= files
    # What else is there is of scenes that changed, are no longer wanted, or were half done.
    leftovers = [name for name in existing - current_files if TILE_NAME.fullmatch(name)]
    if leftovers or len(current_records) < len(records):
        (output / CARD).unlink(missing_ok=True)
    for name in leftovers:
        (output / name).unlink()
    return current_records


def is_current(record: dict, scene: SourceScene) -> bool:
    files = [scene.image, *scene.labels.values()]
    return (
        record["split"] == scene.split
        and record["kinds"] == sorted(scene.labels)
        and record["stamps"] == {file.name: list(file.stamp) for file in files}
    )


def read_state(output: Path) -> tuple[dict | None, dict[str, dict]]:
    """Settings and usable records of an earlier run, None where there was none."""
    try:
        if (output / STATE).is_file():
            lines = (output / STATE).read_text().splitlines()
            settings = json.loads(lines[0])["settings"]
            entries = []
            for line in lines[1:]:
                try:
                    entries.append(json.loads(line))
                except ValueError:  # the line that was being written when the run was stopped
                    break
        elif (output / CARD).is_file():
            audit = json.loads((output / AUDIT).read_text())
            settings, entries = audit["settings"], audit["scenes"]
        else:
            return None, {}
        return settings, {key_of(r): r for r in entries if "refused" not in r}
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise UserError(
            f"--output {output}: what an earlier run left there is damaged ({error}); remove it"
        ) from error


def tile_files(record: dict, settings: dict) -> set[str]:
    """The files of a scene, relative to the data set's folder."""
    tile, stride = settings["tile"], settings["stride"]
    ending = "png" if is_png(record["dtype"], record["bands"]) else "tif"
    files = set()
    for y in positions(record["height"], tile, stride):
        for x in positions(record["width"], tile, stride):
            name = f"{record['split']}/{record['scene']}_{y}_{x}"
            files.add(f"images/{name}.{ending}")
            files.update(f"{LABEL_FOLDERS[kind]}/{name}.png" for kind in record["kinds"])
    return files


def tile_names(output: Path) -> set[str]:
    """Every file below images/ and the folders of labels, relative to `output`."""
    names = set()
    for kind in ("images", *LABEL_FOLDERS.values()):
        for folder in (output / kind).glob("*/"):
            names.update(f"{kind}/{folder.name}/{name}" for name in os.listdir(folder))
    return names


def remove_tiles(output: Path, record: dict, settings: dict) -> None:
    if "tiles" in record:  # or else it was not cut to the end, and has removed its own
        for name in tile_files(record, settings):
            (output / name).unlink(missing_ok=True)


def refuse_other_bands(records: Sequence[dict]) -> list[dict]:
    """Mark and return the records whose bands or values are not of the kind that most have."""
    kinds = Counter((r["bands"], r["dtype"]) for r in records if "refused" not in r)
    if len(kinds) < 2:
        return []
    (count, dtype), _ = kinds.most_common(1)[0]
    others = [
        r for r in records if "refused" not in r and (r["bands"], r["dtype"]) != (count, dtype)
    ]
    for record in others:
        record["refused"] = (
            f"has {record['bands']} bands of {record['dtype']} where most scenes have {count} of "
            f"{dtype}; see --bands, or convert it"
        )
    return others


def refuse_other_codes(records: Sequence[dict], collection: Catalog) -> list[dict]:
    """Mark and return the records whose labels are coded otherwise than those of the most."""
    families = getattr(collection.coding, "families", None) or ()
    candidates = [r for r in records if "refused" not in r and r["labels"]]
    values = {r["scene"]: {v for label in r["labels"].values() for v in label["values"]}
              for r in candidates} if families else {}  # fmt: skip
    if not values or any(set().union(*values.values()) <= set(family) for family in families):
        return []
    usual_codes = max(families, key=lambda f: sum(codes <= set(f) for codes in values.values()))
    others = [r for r in candidates if not values[r["scene"]] <= set(usual_codes)]
    for record in others:
        record["refused"] = (
            f"values {sorted(values[record['scene']])} where others have {usual_codes}"
        )
    return others


def key_of(record: dict) -> str:
    return f"{record['split']}/{record['scene']}"


def make_tile_folders(output: Path, scenes: Sequence[SourceScene]) -> None:
    for scene in scenes:
        for folder in ["images", *(LABEL_FOLDERS[kind] for kind in scene.labels)]:
            (output / folder / scene.split).mkdir(parents=True, exist_ok=True)


def cut_scenes(scenes: Sequence[SourceScene], job: TilingSettings, workers: int) -> Iterator[dict]:
    """Records as they come. Threads: reading, encoding and counting all release Python's lock.

    Raises:
        KeyboardInterrupt: after the strips at work are done and unfinished scenes removed.
    """
    pool = ThreadPoolExecutor(max(1, workers))
    try:
        futures = [pool.submit(tile_scene, scene, job) for scene in scenes]
        for future in progress("preparing", as_completed(futures), len(futures), "scene"):
            yield future.result()
    except Stopped:
        raise KeyboardInterrupt from None
    finally:
        job.stop.set()
        pool.shutdown(cancel_futures=True)


def describe(
    records: Sequence[dict], collection: Catalog, settings: dict, leave_out: Sequence[str]
) -> dict:
    """The contents of `dataset.json`."""
    splits: dict[str, list[str]] = {}
    tiles = Counter()
    for record in records:
        splits.setdefault(record["split"], []).append(record["scene"])
        tiles[record["split"]] += record["tiles"]
    count = records[0]["bands"]
    scale = collection.scale or 255
    mean, std = band_statistics([r for r in records if r["split"] == "train"], scale)
    shares = class_shares(records, collection, ("train",))
    return {
        "version": 1,
        "name": collection.name,
        "classes": list(collection.classes),
        "palette": collection.palette and [list(colour) for colour in collection.palette],
        "bands": list(collection.bands or [f"band {i + 1}" for i in range(count)]),
        "source_bands": agreed_bands(records),
        "scale": scale,
        "mean": mean or None,
        "std": std or None,
        "class_shares": dict(zip(collection.classes, shares, strict=True)) if shares else None,
        "tile": settings["tile"],
        "stride": settings["stride"],
        "labels": sorted({kind for record in records for kind in record["kinds"]}),
        "scenes": splits,
        "without_labels": splits.get(UNLABELLED, []),
        "left_out": list(leave_out),
        "tiles": dict(tiles),
        "places": {
            split: {
                r["scene"]: {key: r[key] for key in ("height", "width", "crs", "transform")}
                for r in records
                if r["split"] == split
            }
            for split in splits
        },
        "sources": {name: digest for r in records for name, digest in sorted(r["sources"].items())},
        "settings": settings,
        "made": time.strftime("%Y-%m-%d %H:%M:%S %z"),
    }


def agreed_bands(records: Sequence[dict]) -> list[int] | None:
    """Which bands of its file every scene gave, in order; None where they differ or are not known,
    as of a palette, or of scenes that an earlier version cut.
    """
    first = records[0].get("source_bands")
    return first if all(record.get("source_bands") == first for record in records) else None


def band_statistics(records: Sequence[dict], scale: float) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each band in 0..1, from exact sums over the scenes' pixels."""
    means, stds = [], []
    for sums in zip(*(record["sums"] for record in records), strict=True):
        count, total, squares = (sum(column) for column in zip(*sums, strict=True))
        mean = total / max(1, count)
        means.append(mean / scale)
        stds.append(sqrt(max(0.0, squares / max(1, count) - mean**2)) / scale)
    return means, stds
