"""Make a downloaded data set ready: tiles, labels in our order, an audit, and dataset.json.

The folder holds `prepare.jsonl`, a line a finished scene, until all scenes are there; then
`dataset.json` takes its place, and only with it is the folder a data set.
"""

import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from math import sqrt
from pathlib import Path

from SSLRemoteSensing.core.bars import progress
from SSLRemoteSensing.core.console import as_started
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.core.files import write_text
from SSLRemoteSensing.data.prepared import OWN, UNLABELLED
from SSLRemoteSensing.data.scale import Scale, up_to
from SSLRemoteSensing.preparation import audit
from SSLRemoteSensing.preparation.catalog import TEST_UNLABELLED, Catalog, SourceScene, listing
from SSLRemoteSensing.preparation.scaling import sees_bytes
from SSLRemoteSensing.preparation.tiling import (
    TILE_FOLDERS,
    TilingSettings,
    record_key,
    tile_files,
    tile_scene,
)

TILE_NAME = re.compile(r".+_\d+_\d+\.(?:png|tif)")
STATE, CARD, AUDIT = "prepare.jsonl", "dataset.json", "audit.json"


def prepare(
    collection: Catalog,
    output: Path,
    settings: dict,
    workers: int,
    leave_out: Sequence[str] = (),
    check: bool = False,
    made_by: dict | None = None,
    most_lines: int = audit.MOST_LINES,
) -> bool:
    """Cut and audit the scenes of `collection`; print the audit; True where all may be used.

    Args:
        output: a folder that no other process writes to.
        settings: 'tile', 'stride' and what else makes the tiles what they are; another run into the
            folder must agree.
        leave_out: names of scenes.
        check: audit only, write nothing.
        made_by: what to keep of the command and versions in `dataset.json`.
        most_lines: of scenes, and of what is alike of them, as `audit.report` has it; `check` has
            them all.

    Raises:
        UserError: a folder of other settings, an unknown scene, tiles that were removed meanwhile.
    """
    scenes, entries = chosen_scenes(collection, leave_out)
    # Found in the labels, the coding may change with them: scenes of two codings must not mix.
    settings = settings | {"coding": collection.coding and collection.coding.meaning()}
    sizes = settings["tile"], settings["stride"]
    records = {} if check else resume_records(output, settings, scenes)
    if not check:
        remove_others(output, records, *sizes)
        if len(records) == len(scenes) and (output / CARD).is_file() and not entries:
            print(f"{output} is prepared already: {len(scenes)} scenes, nothing left to do")
            return True
        (output / CARD).unlink(missing_ok=True)
        lines = [json.dumps({"settings": settings}), *map(json.dumps, records.values())]
        write_text(output / STATE, "\n".join(lines) + "\n")
        make_tile_folders(output, scenes)
    if records:
        print(f"going on: {len(records)} of {len(scenes)} scenes are done")

    output_or_none = None if check else output
    job = TilingSettings(
        *sizes, output_or_none, collection.coding, collection.scale, collection.name in OWN
    )
    remaining = [scene for scene in scenes if scene.key not in records]
    try:
        with closing(cut_scenes(remaining, job, workers)) as new_records:
            for record in new_records:
                audit.check_scene(record, collection)
                records[record_key(record)] = record
                if not check and "refused" not in record:
                    with (output / STATE).open("a") as file:
                        file.write(json.dumps(record) + "\n")
        entries = [*(records[scene.key] for scene in scenes), *entries]
        audit.check_agreement(entries, collection)
    finally:
        if not check:
            remove_others(output, records, *sizes)
    entries, lost = without_lost(entries)
    notes = [*audit.check_scenes(entries, collection), *lost]
    if leave_out:
        notes.append(f"left out as asked: {', '.join(leave_out)}")
    print(as_started(audit.report(entries, collection, notes, None if check else most_lines)))
    is_ready = not any("refused" in record for record in entries)
    if check:
        return is_ready
    contents = {"settings": settings, "notes": notes, "scenes": entries}
    write_text(output / AUDIT, json.dumps(contents, indent=1) + "\n")
    if not is_ready:
        return False
    require_tiles(output, entries, *sizes)
    card = describe(entries, collection, settings, leave_out) | {"made_by": made_by}
    write_text(output / CARD, json.dumps(card, indent=1) + "\n")
    (output / STATE).unlink()
    tiles = ", ".join(f"{split} {count}" for split, count in card["tiles"].items())
    side = settings["tile"]
    print(f"{output / CARD}: tiles of {side} x {side}: {tiles}; audit in {output / AUDIT}")
    return True


def without_lost(records: Sequence[dict]) -> tuple[list[dict], list[str]]:
    """The records but those of images without labels that must not be used, which no score needs;
    and a sentence on these, if there are any."""
    is_lost = [r["split"] == UNLABELLED and "refused" in r for r in records]
    lost = [record for record, is_bad in zip(records, is_lost, strict=True) if is_bad]
    if not lost:
        return list(records), []
    count = sum(record["split"] == UNLABELLED for record in records)
    text = f"{len(lost)} of {count} images without a label cannot be used and are left out"
    first = f"the first is {lost[0]['scene']}: {lost[0]['refused']}"
    kept = [record for record, is_bad in zip(records, is_lost, strict=True) if not is_bad]
    return kept, [f"{text}, {first}"]


def chosen_scenes(
    collection: Catalog, leave_out: Sequence[str]
) -> tuple[list[SourceScene], list[dict]]:
    """The scenes of `collection` but those to leave out, train first; records of its problems."""
    names = {scene.name for scene in collection.scenes} | {name for name, _ in collection.problems}
    for name in sorted(set(leave_out) - names):
        raise UserError(
            f"--leave_out {name}: no such scene; there are {listing(sorted(names), 12)}"
        )
    scenes = [scene for scene in collection.scenes if scene.name not in leave_out]
    problems = [
        {"scene": name, "split": "", "labels": {}, "warnings": [], "refused": text}
        for name, text in collection.problems
        if name not in leave_out
    ]
    if not scenes and not problems:
        raise UserError("no scene to prepare: none is of the splits asked for, or all are left out")
    return sorted(scenes, key=lambda scene: audit.SPLIT_ORDER.index(scene.split)), problems


def resume_records(output: Path, settings: dict, scenes: Sequence[SourceScene]) -> dict[str, dict]:
    """Records of an earlier run whose scene is unchanged and whose tiles are all as written."""
    old, records = read_state(output)
    names = {record["scene"] for record in records.values()}
    if (output / CARD).is_file() and names == {scene.name for scene in scenes}:
        # The same scenes in other splits: those that change theirs are cut anew.
        old = old | {"splits": settings["splits"]}
    for kind in TILE_FOLDERS.values() if old is None else ():
        if any((output / kind).glob("*")):
            raise UserError(f"--output {output}: has {kind}, but not by this tool; name another")
    for key in settings | old if records else ():  # of scenes refused alone no tile is there
        if old.get(key) != settings.get(key):
            raise UserError(
                f"--output {output}: was begun with {key} {old.get(key)!r}, now "
                f"{settings.get(key)!r}; name another folder, or remove this one"
            )
    sizes = settings["tile"], settings["stride"]
    existing, current = existing_tiles(output), {}
    for scene in scenes:
        record = records.get(scene.key, {})
        state = sorted(scene.labels), scene.stamps
        is_same = (record.get("kinds"), record.get("stamps")) == state
        if is_same and is_whole(record, existing, *sizes):
            current[scene.key] = record
    if len(current) < len(records):
        (output / CARD).unlink(missing_ok=True)
    return current


def read_state(output: Path) -> tuple[dict | None, dict[str, dict]]:
    """Settings and usable records of an earlier run, None where there was none."""
    try:
        if (output / STATE).is_file():
            # What follows the last line was being written when the run was stopped.
            first, *lines = (output / STATE).read_text().split("\n")[:-1]
            settings, entries = json.loads(first)["settings"], map(json.loads, lines)
        elif (output / CARD).is_file():
            contents = json.loads((output / AUDIT).read_text())
            settings, entries = contents["settings"], contents["scenes"]
        else:
            return None, {}
        return settings, {record_key(r): r for r in entries if "refused" not in r}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"--output {output}: what an earlier run left there is damaged ({error}); remove it"
        ) from error


def existing_tiles(output: Path) -> dict[str, int]:
    """What could be a tile below images/ and the folders of labels, relative to `output`, and how
    many bytes it has."""
    return {
        f"{kind}/{folder.name}/{file.name}": file.stat().st_size
        for kind in TILE_FOLDERS.values()
        for folder in (output / kind).glob("*/")
        for file in os.scandir(folder)
        if TILE_NAME.fullmatch(file.name)
    }


def is_whole(record: dict, existing: dict[str, int], tile: int, stride: int) -> bool:
    """Whether all tiles of a scene are there, with as many bytes as were written; of scenes that an
    earlier version cut these are not known."""
    files = tile_files(record, tile, stride)
    if not files <= existing.keys():
        return False
    return record.get("bytes") in (None, sum(existing[name] for name in files))


def remove_others(output: Path, records: dict[str, dict], tile: int, stride: int) -> None:
    """Remove tiles of scenes that are refused, have changed, are not wanted, or are half done."""
    good = [record for record in records.values() if "refused" not in record]
    files = set().union(*(tile_files(record, tile, stride) for record in good))
    for name in existing_tiles(output).keys() - files:
        (output / name).unlink()


def require_tiles(output: Path, records: Sequence[dict], tile: int, stride: int) -> None:
    """Raise a `UserError` where tiles that were written are not there any more as they were."""
    existing = existing_tiles(output)
    scenes = [r["scene"] for r in records if not is_whole(r, existing, tile, stride)]
    if scenes:
        raise UserError(
            f"--output {output}: tiles of {listing(scenes)} that were written are gone or changed; "
            "run the command again, which cuts them anew, and let nothing else change the folder"
        )


def make_tile_folders(output: Path, scenes: Sequence[SourceScene]) -> None:
    for scene in scenes:
        for kind in ("image", *scene.labels):
            (output / TILE_FOLDERS[kind] / scene.split).mkdir(parents=True, exist_ok=True)


def cut_scenes(scenes: Sequence[SourceScene], job: TilingSettings, workers: int) -> Iterator[dict]:
    """Records as they come, so that a slow scene keeps no other from being noted as finished.

    Threads: reading, encoding and counting all release Python's lock.

    Raises:
        KeyboardInterrupt: after the strips at work are done and unfinished scenes removed.
    """
    pool = ThreadPoolExecutor(max(1, workers))
    try:
        futures = [pool.submit(tile_scene, scene, job) for scene in scenes]
        for future in progress("preparing", as_completed(futures), len(futures), "scene"):
            yield future.result()
    finally:
        job.stop.set()
        pool.shutdown(cancel_futures=True)


def describe(
    records: Sequence[dict], collection: Catalog, settings: dict, leave_out: Sequence[str]
) -> dict:
    """The contents of `dataset.json`."""
    splits: dict[str, list[dict]] = {}
    for record in records:
        splits.setdefault(record["split"], []).append(record)
    scenes = {split: [r["scene"] for r in group] for split, group in splits.items()}
    scale = collection.scale or up_to(255)
    mean, std = band_statistics(splits.get("train", []), scale)
    with_labels = [record for record in records if record["split"] != UNLABELLED] or records
    shares = audit.class_shares(records, collection, ("train",))
    place = ("height", "width", "crs", "transform")
    return {
        "version": 1,
        "name": collection.name,
        "classes": list(collection.classes),
        "palette": collection.palette and [list(colour) for colour in collection.palette],
        "bands": list(collection.bands or [f"band {i + 1}" for i in range(records[0]["bands"])]),
        "source_bands": agreed_bands(with_labels),
        "scale": scale.numbers() if scale.max_value is None else scale.max_value,
        "mean": mean or None,
        "std": std or None,
        "class_shares": dict(zip(collection.classes, shares, strict=True)) if shares else None,
        "tile": settings["tile"],
        "stride": settings["stride"],
        "labels": sorted({kind for record in records for kind in record["kinds"]}),
        "scenes": scenes,
        "without_labels": scenes.get(TEST_UNLABELLED, []),
        "left_out": list(leave_out),
        "tiles": {split: sum(r["tiles"] for r in group) for split, group in splits.items()},
        "places": {
            split: {r["scene"]: {key: r[key] for key in place} for r in group}
            for split, group in splits.items()
        },
        "sources": {name: digest for r in records for name, digest in sorted(r["sources"].items())},
        "settings": settings,
        "made": time.strftime("%Y-%m-%d %H:%M:%S %z"),
    } | ({"polygons": collection.polygons} if collection.polygons else {})


def agreed_bands(records: Sequence[dict]) -> list[int] | None:
    """Which bands of its file every scene gave, in order; None where they differ or are not known,
    as of a palette, or of scenes that an earlier version cut.
    """
    first = records[0].get("source_bands")
    return first if all(record.get("source_bands") == first for record in records) else None


def band_statistics(records: Sequence[dict], scale: Scale) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each band in 0..1, from exact sums over the scenes' pixels."""
    means, stds = [], []
    top = 255 if records and sees_bytes(records[0]["dtype"], scale) else scale.max_value
    for sums in zip(*(record["sums"] for record in records), strict=True):
        count, total, squares = map(sum, zip(*sums, strict=True))
        mean = total / max(1, count)
        means.append(mean / top)
        stds.append(sqrt(max(0.0, squares / max(1, count) - mean**2)) / top)
    return means, stds
