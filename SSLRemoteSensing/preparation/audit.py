"""Judge what was counted in the scenes of a data set: what to warn of, what must not be used."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence

from SSLRemoteSensing.data.prepared import UNLABELLED
from SSLRemoteSensing.preparation.catalog import TEST_UNLABELLED, Catalog, listing

# Shares of a label's pixels. Lossy storage of dense labels (blocks of 25 pixels, random classes;
# JPEG quality 20 to 95, blurred, or resized) leaves up to 0.13 far from a pure colour, but no
# single colour on more than 0.004; a colour the palette does not have lies on all of its class.
MANY_FAR, ONE_COLOUR, FEW = 0.25, 0.01, 0.001
MOST_CLIPPED = 0.5  # share of a scene's values outside the scale that is told of that scene
MOST_LINES = 60  # of the scenes' table, and of what is said of scenes alike; audit.json has all
FIGURES = re.compile(r"\d[\d.,]*")
SPLIT_ORDER = ["train", "val", "test", TEST_UNLABELLED, UNLABELLED]
# Half the sum of the differences of shares. Train of Potsdam and of Vaihingen are 0.08 apart.
FAR_SHARES = 0.25


def check_scene(record: dict, collection: Catalog) -> None:
    """Add `warnings`, and `refused` where it must not be used, to a record of `tile_scene`."""
    fault = collection.faults.get(record["scene"])
    warnings = [fault] if fault else []
    refusals = [record["refused"]] if "refused" in record else []
    if record.get("masked"):
        share = record["masked"] / (record["height"] * record["width"])
        text = f"{share:.1%} of the pixels hold no data ({record['mask']}); not scored"
        warnings.append(text)
    if "outside" in record and (share := clipped_share([record])) > MOST_CLIPPED:
        warnings.append(f"{share:.1%} of the values lie outside the scale; clipped")
    if record.get("apart"):
        warnings.append(f"{record['apart']} lies at another place on the map than its image")
    for kind, label in record["labels"].items():
        name = "" if len(record["labels"]) == 1 else f"{kind} label: "
        for is_refusal, text in check_label(label, kind, collection):
            (refusals if is_refusal else warnings).append(name + text)
    record["warnings"] = warnings
    record |= {"refused": "; ".join(refusals)} if refusals else {}


def check_label(label: dict, kind: str, collection: Catalog) -> Iterator[tuple[bool, str]]:
    """What there is to say of one label map, from its `summary`: (must it not be used, why)."""
    total = all_pixels(label)
    keys = ("unknown", "far", "inexact", "not_scored")
    unknown, far, inexact, unscored = (label[key] / total for key in keys)
    values = label.get("values")  # None of colours
    is_colour, content = values is None, "colours" if values is None else f"values {values}"
    families = None if is_colour else collection.coding.families
    if families and not any(set(values) <= set(family) for family in families):
        yield True, f"{content} mix the codes {' and '.join(map(str, families))}"
    if unknown > (ONE_COLOUR if is_colour else 0):
        yield True, f"{unknown:.2%} of the pixels are of no class ({content})"
    elif unknown:
        yield False, f"{label['unknown']} pixels have a colour of no class; not scored"
    colour, count = label.get("stranger", ((), 0))
    text = f"colour {tuple(colour)}, which is no class's, covers {count / total:.2%}"
    if count / total > ONE_COLOUR:
        yield True, f"wrong palette: {text}"
    elif count / total > FEW:
        yield False, text
    if far > MANY_FAR:
        yield True, f"wrong palette: {far:.0%} are far from any class colour"
    if inexact:
        text = f"{label['inexact']} pixels ({inexact:.2%}) are not exactly a class colour"
        yield False, f"{text}; decoded by threshold"
    if unscored == 1:
        yield is_colour, "no pixel has a class"
    elif unscored > 0.5:
        yield is_colour, f"{unscored:.0%} of the pixels are not scored"
    elif is_colour and kind == "full" and unscored > FEW:
        text = "are black, as in an eroded label, though this is a full one"
        yield False, f"{unscored:.2%} {text}"
    elif is_colour and kind == "eroded" and not unscored:
        yield False, "nothing is black, so this is no eroded label"
    names = [name for name, n in zip(collection.classes, label["pixels"], strict=True) if n]
    if len(names) == 1 and unscored < 1:
        yield collection.one_value_is_wrong, f"the whole label is one single class, {names[0]}"


def all_pixels(label: dict) -> int:
    """Pixels of a label's `summary`, at least 1."""
    return max(1, sum(label["pixels"]) + label["not_scored"] + label["unknown"])


def check_agreement(records: Sequence[dict], collection: Catalog) -> None:
    """Mark as refused the records whose bands, values or codes few others have; what is usual is
    said by those with labels, however many others there are."""
    usable = [record for record in records if "refused" not in record]
    asked = [record for record in usable if record["split"] != UNLABELLED]
    counts = Counter((record["bands"], record["dtype"]) for record in asked)
    for (usual_bands, usual_dtype), _ in counts.most_common(1):
        for record in usable:
            bands, dtype = record["bands"], record["dtype"]
            if (bands, dtype) != (usual_bands, usual_dtype):
                record["refused"] = (
                    f"has {bands} bands of {dtype} where most scenes have {usual_bands} of "
                    f"{usual_dtype}; see tools/prepare.py --bands, or convert it"
                )
    families = getattr(collection.coding, "families", None) or ()
    remaining = [record for record in usable if "refused" not in record]
    codes = [
        {v for label in record["labels"].values() for v in label.get("values", ())}
        for record in remaining
    ]
    if families and not any(set().union(*codes) <= set(family) for family in families):
        usual = max(families, key=lambda family: sum(values <= set(family) for values in codes))
        for record, values in zip(remaining, codes, strict=True):
            if not values <= set(usual):
                record["refused"] = f"values {sorted(values)} where others have {usual}"


def check_scenes(records: Sequence[dict], collection: Catalog) -> Iterator[str]:
    """What the scenes show only together, a sentence each."""
    yield from collection.notes
    usable = [record for record in records if "refused" not in record]
    splits = {record["split"] for record in usable}
    odd_sizes = [
        f"{record['scene']} {record['height']} x {record['width']}"
        for record in usable
        if collection.sizes.get(record["scene"]) not in (None, (record["height"], record["width"]))
    ]
    if odd_sizes:
        yield f"{len(odd_sizes)} scenes are not of their published size: {listing(odd_sizes)}"
    if any("outside" in record for record in usable):
        yield f"{clipped_share(usable):.1%} of the values lie outside the scale; clipped"
    unplaced = [record["scene"] for record in usable if record["transform"] is None]
    if unplaced and len(unplaced) == len(usable):
        yield "no scene has a georeference; the tiles lie on no map"
    elif unplaced:
        yield f"no georeference: {listing(unplaced)}; their tiles lie on no map"
    unlabelled = [r["scene"] for r in usable if r["split"] == TEST_UNLABELLED]
    if unlabelled:
        text = f"{len(unlabelled)} test scenes have no label and are in {TEST_UNLABELLED}"
        yield f"{text}: {listing(unlabelled)}"
    shares = class_shares(usable, collection, ("train",))
    if usable and "train" not in splits:
        yield "no scene is in train, so there is no mean, std, class share"
    elif collection.classes and usable and "val" not in splits:
        yield "no scene is in val; name some with --splits train val=SCENE,SCENE test"
    if collection.coding and "train" in splits and not shares:
        yield "no pixel of train has a class"
    absent = [n for n, share in zip(collection.classes, shares, strict=False) if not share]
    if absent:
        yield f"no pixel of train is {' or '.join(absent)}"
    shares = class_shares(usable, collection, ("train", "val"))
    distances = {
        name: sum(abs(a - b) for a, b in zip(shares, reference, strict=True)) / 2
        for name, reference in (collection.shares if shares else {}).items()
    }
    name = min(distances, key=distances.get, default=None)
    if name and distances[name] > FAR_SHARES:
        measured, published = (
            ", ".join(f"{100 * share:.1f}" for share in row)
            for row in (shares, collection.shares[name])
        )
        yield (
            f"class shares {measured} % are far from the published ones of {name}, {published} % "
            f"({', '.join(collection.classes)})"
        )


def clipped_share(records: Sequence[dict]) -> float:
    """The share of the values that hold data and that the scale clips."""
    pixels = [record["height"] * record["width"] - record["masked"] for record in records]
    values = sum(n * record["bands"] for n, record in zip(pixels, records, strict=True))
    return sum(record.get("outside", 0) for record in records) / max(1, values)


def class_shares(
    records: Sequence[dict], collection: Catalog, splits: Sequence[str]
) -> list[float]:
    """Shares of the scored pixels of `splits`, in the full labels where there are such."""
    pixels = [0] * len(collection.classes)
    for record in records:
        kind = "full" if "full" in record["labels"] else "eroded"
        if record["split"] in splits and kind in record["labels"]:
            counts = record["labels"][kind]["pixels"]
            pixels = [a + b for a, b in zip(pixels, counts, strict=True)]
    return [count / sum(pixels) for count in pixels] if sum(pixels) else []


def report(
    records: Sequence[dict], collection: Catalog, notes: Sequence[str], most: int | None
) -> str:
    """The audit as text: a table of the scenes, then what to tell.

    Args:
        most: lines of the table, and of warnings or refusals that differ in their figures alone;
            where it would have more the table is left out, and the first of these stands for all.
            None: all of it.
    """
    limit = math.inf if most is None else most
    lines = table(records, collection) if len(records) <= limit else []
    scenes_by_warning, sizes = defaultdict(list), Counter(r["split"] for r in records if r["split"])
    for record in records:
        for text in record["warnings"]:
            scenes_by_warning[text].append(record["scene"])
    warnings = [(listing(names), text) for text, names in scenes_by_warning.items()]
    lines += shortened("warning", warnings, limit)
    lines += [f"note: {text}" for text in notes]
    refused = [(record["scene"], record["refused"]) for record in records if "refused" in record]
    lines += shortened("must not be used", refused, limit)
    for split in sorted(sizes, key=SPLIT_ORDER.index):
        shares = zip(collection.classes, class_shares(records, collection, (split,)), strict=False)
        text = ", ".join(f"{name} {100 * share:.2f}" for name, share in shares)
        lines.append(f"{split}: {sizes[split]} scenes" + (f"; pixels in %: {text}" if text else ""))
    return "\n".join(lines)


def shortened(what: str, told: Iterable[tuple[str, str]], most: float) -> Iterator[str]:
    """Lines of what is told of scenes; of more than `most` that differ in figures alone, one."""
    kinds = defaultdict(list)
    for scene, text in told:
        alike = re.sub(rf"(?<!\w){re.escape(scene)}(?!\w)", "#", text)
        kinds[FIGURES.sub("#", alike)].append(f"{scene}: {text}")
    for lines in kinds.values():
        if len(lines) > most:
            lines = [f"{lines[0]}; and {len(lines) - 1:,} more like this (audit.json has all)"]
        yield from (f"{what}: {line}" for line in lines)


def table(records: Sequence[dict], collection: Catalog) -> list[str]:
    """A line a scene: size, tiles, shares of inexact colours, of what is not scored, of classes."""
    width = max(5, *(len(record["scene"]) for record in records)) + 2
    heads = ["inexact", "unscored", *(name.split()[0][:9] for name in collection.classes)]
    lines = [
        f"{'scene':<{width}}{'split':<17}{'height x width':>15}{'tiles':>7}"
        + "".join(f"{head:>11}" for head in heads if collection.classes)
    ]
    for record in records:
        size = f"{record.get('height', '?')} x {record.get('width', '?')}"
        line = f"{record['scene']:<{width}}{record['split']:<17}{size:>15}"
        line += f"{record.get('tiles', 0):>7}"
        for label in list(record["labels"].values())[:1]:
            numbers = [label["inexact"], label["unknown"] + label["not_scored"], *label["pixels"]]
            line += "".join(f"{n / all_pixels(label):>11.2%}" for n in numbers)
        lines.append(line)
    return lines
