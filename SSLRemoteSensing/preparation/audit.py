"""Judge what was counted in the scenes of a data set: what to warn of, what must not be used."""

import itertools
from collections.abc import Sequence

from SSLRemoteSensing.data.labels import ValueCoding
from SSLRemoteSensing.preparation.catalog import UNLABELLED, Catalog, listing

# Shares of a label's pixels. Lossy storage of dense labels (blocks of 25 pixels, random classes;
# JPEG quality 20 to 95, blurred, or resized) leaves up to 0.13 far from a pure colour, but no
# single colour on more than 0.004; a colour the palette does not have lies on all of its class.
MANY_FAR, ONE_COLOUR, FEW = 0.25, 0.01, 0.001
MOST_LINES = 60  # scenes in the printed table; audit.json has all
SPLIT_ORDER = ["train", "val", "test", UNLABELLED]
# Half the sum of the differences of shares. Train of Potsdam and of Vaihingen are 0.08 apart.
FAR_SHARES, ORDER_DOUBT = 0.25, 0.1


def check_scene(record: dict, collection: Catalog) -> None:
    """Add `warnings`, and `refused` where it must not be used, to a record of `cut_scene`."""
    warnings = record["warnings"] = []
    if record["scene"] in collection.faults:
        warnings.append(collection.faults[record["scene"]])
    if record.get("masked"):
        share = record["masked"] / (record["height"] * record["width"])
        warnings.append(f"{share:.1%} of the pixels hold no data ({record['mask']}); not scored")
    if record.get("apart"):
        warnings.append(f"{record['apart']} lies at another place on the map than its image")
    refusals = [record["refused"]] if "refused" in record else []
    for kind, label in record["labels"].items():
        label_warnings, label_refusals = check_label(label, kind, collection)
        name = "" if len(record["labels"]) == 1 else f"{kind} label: "
        warnings += [name + text for text in label_warnings]
        refusals += [name + text for text in label_refusals]
    if refusals:
        record["refused"] = "; ".join(refusals)


def check_label(label: dict, kind: str, collection: Catalog) -> tuple[list[str], list[str]]:
    """Warnings and refusals of one label map, from its `summary`."""
    warnings, refusals = [], []
    total = all_pixels(label)
    values = isinstance(collection.coding, ValueCoding)
    if values:
        families = collection.coding.families
        if families and not any(set(label["values"]) <= set(family) for family in families):
            refusals.append(
                f"values {label['values']} mix the codes {' and '.join(map(str, families))}"
            )
    share = label["unknown"] / total
    if share > (0 if values else ONE_COLOUR):
        content = f"values {label['values']}" if values else "colours"
        refusals.append(f"{share:.2%} of the pixels are of no class ({content})")
    elif share:
        warnings.append(f"{label['unknown']} pixels have a colour of no class; not scored")
    if "stranger" in label:
        colour, pixels = label["stranger"]
        text = f"colour {tuple(colour)}, which is no class's, covers {pixels / total:.2%}"
        if pixels / total > ONE_COLOUR:
            refusals.append(f"wrong palette: {text}")
        elif pixels / total > FEW:
            warnings.append(text)
    if label["far"] / total > MANY_FAR:
        refusals.append(f"wrong palette: {label['far'] / total:.0%} are far from any class colour")
    if label["inexact"]:
        warnings.append(
            f"{label['inexact']} pixels ({label['inexact'] / total:.2%}) are not exactly a class "
            "colour; decoded by threshold"
        )
    colours = not values
    unscored = label["not_scored"] / total
    if unscored == 1:
        (refusals if colours else warnings).append("no pixel has a class")
    elif unscored > 0.5:
        (refusals if colours else warnings).append(f"{unscored:.0%} of the pixels are not scored")
    elif colours and kind == "full" and unscored > FEW:
        warnings.append(
            f"{unscored:.2%} are black, as in an eroded label, though this is a full one"
        )
    elif colours and kind == "eroded" and not label["not_scored"]:
        warnings.append("nothing is black, so this is no eroded label")
    if sum(pixels > 0 for pixels in label["pixels"]) == 1 and unscored < 1:
        name = collection.classes[next(k for k, n in enumerate(label["pixels"]) if n)]
        messages = refusals if collection.one_value_is_wrong else warnings
        messages.append(f"the whole label is one single class, {name}")
    return warnings, refusals


def all_pixels(label: dict) -> int:
    """Pixels of a label's `summary`, at least 1."""
    return max(1, sum(label["pixels"]) + label["not_scored"] + label["unknown"])


def check_scenes(records: Sequence[dict], collection: Catalog) -> list[str]:
    """What the scenes show only together, a sentence each."""
    notes = list(collection.notes)
    usable = [record for record in records if "refused" not in record]
    odd_sizes = [
        f"{record['scene']} {record['height']} x {record['width']}"
        for record in usable
        if collection.sizes.get(record["scene"], (record["height"], record["width"]))
        != (record["height"], record["width"])
    ]
    if odd_sizes:
        notes.append(
            f"{len(odd_sizes)} scenes are not of their published size: {listing(odd_sizes)}"
        )
    unplaced_scenes = [record["scene"] for record in usable if record["transform"] is None]
    if unplaced_scenes and len(unplaced_scenes) < len(usable):
        notes.append(f"no georeference: {listing(unplaced_scenes)}; their tiles lie on no map")
    elif unplaced_scenes:
        notes.append("no scene has a georeference; the tiles lie on no map")
    unlabelled_scenes = [record["scene"] for record in usable if record["split"] == UNLABELLED]
    if unlabelled_scenes:
        notes.append(
            f"{len(unlabelled_scenes)} test scenes have no label and are in {UNLABELLED}: "
            + listing(unlabelled_scenes)
        )
    splits = {record["split"] for record in usable}
    if usable and "train" not in splits:
        notes.append("no scene is in train, so there is no mean, std, class share")
    if collection.classes and "train" in splits and "val" not in splits:
        notes.append("no scene is in val; name some with --splits train val=SCENE,SCENE test")
    shares = class_shares(usable, collection, ("train",))
    if collection.coding and "train" in splits and not shares:
        notes.append("no pixel of train has a class")
    absent = [n for n, share in zip(collection.classes, shares, strict=False) if not share]
    if absent:
        notes.append(f"no pixel of train is {' or '.join(absent)}")
    shares = class_shares(usable, collection, ("train", "val"))
    if collection.shares and shares:
        notes += check_order(shares, collection)
    return notes


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


def check_order(shares: Sequence[float], collection: Catalog) -> list[str]:
    """Whether the shares of the classes look like another order of classes."""

    def distance(order: Sequence[int], reference: Sequence[float]) -> float:
        return sum(abs(shares[k] - reference[i]) for i, k in enumerate(order)) / 2

    own = range(len(shares))
    name, reference = min(collection.shares.items(), key=lambda item: distance(own, item[1]))
    deviation = distance(own, reference)
    # Colours cannot be out of order, values can.
    if isinstance(collection.coding, ValueCoding) and deviation > ORDER_DOUBT:
        best_order, (other, their) = min(
            itertools.product(itertools.permutations(own), collection.shares.items()),
            key=lambda pair: distance(pair[0], pair[1][1]),
        )
        if distance(best_order, their) < deviation / 2:
            ranks = sorted(enumerate(best_order), key=lambda pair: pair[1])
            order = ", ".join(f"{value} = {collection.classes[k]}" for k, value in ranks)
            return [f"{comparison(shares, other, their, collection)}: the labels look like another "
                    f"order of classes, perhaps {order}"]  # fmt: skip
    return [comparison(shares, name, reference, collection)] if deviation > FAR_SHARES else []


def comparison(
    shares: Sequence[float], name: str, reference: Sequence[float], collection: Catalog
) -> str:
    measured, expected = (", ".join(f"{100 * s:.1f}" for s in row) for row in (shares, reference))
    return (
        f"class shares {measured} % are far from the published ones of {name}, {expected} % "
        f"({', '.join(collection.classes)})"
    )


def report(records: Sequence[dict], collection: Catalog, notes: Sequence[str], whole: bool) -> str:
    """The audit as text: a table of the scenes, if `whole` or they are few, then what to tell."""
    lines = table(records, collection) if whole or len(records) <= MOST_LINES else []
    warnings: dict[str, list[str]] = {}
    for record in records:
        for text in record["warnings"]:
            warnings.setdefault(text, []).append(record["scene"])
    lines += [f"warning: {listing(scenes)}: {text}" for text, scenes in warnings.items()]
    lines += [f"note: {text}" for text in notes]
    lines += [
        f"must not be used: {record['scene']}: {record['refused']}"
        for record in records
        if "refused" in record
    ]
    for split in sorted({record["split"] for record in records} - {""}, key=SPLIT_ORDER.index):
        count = sum(record["split"] == split for record in records)
        shares = class_shares(records, collection, (split,))
        text = ", ".join(
            f"{name} {100 * s:.2f}" for name, s in zip(collection.classes, shares, strict=False)
        )
        lines.append(f"{split}: {count} scenes" + (f"; pixels in %: {text}" if text else ""))
    return "\n".join(lines)


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
            total = all_pixels(label)
            numbers = [label["inexact"], label["unknown"] + label["not_scored"], *label["pixels"]]
            line += "".join(f"{n / total:>11.2%}" for n in numbers)
        lines.append(line)
    return lines
