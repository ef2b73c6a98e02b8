"""Judge what was counted in the scenes of a data set: what to warn of, what must not be used."""

from collections.abc import Sequence
from itertools import permutations

from SSLRemoteSensing.datasets.labels import ValueCoding
from SSLRemoteSensing.datasets.scenes import UNLABELLED, Collection

# Shares of a label's pixels. Lossy storage of dense labels (blocks of 25 pixels, random classes;
# JPEG quality 20 to 95, blurred, or resized) leaves up to 0.13 far from a pure colour, but no
# single colour on more than 0.004; a colour the palette does not have lies on all of its class.
MANY_FAR, ONE_COLOUR, FEW = 0.25, 0.01, 0.001
OTHER_ORDER = 0.25  # half the sum of differences of shares


def judge(record: dict, collection: Collection) -> None:
    """Add `warnings`, and `refused` where it must not be used, to a record of `cut_scene`."""
    warnings = record["warnings"] = []
    if record["scene"] in collection.faults:
        warnings.append(collection.faults[record["scene"]])
    refusals = [record["refused"]] if "refused" in record else []
    for kind, label in record["labels"].items():
        told, refused = judge_label(label, kind, collection)
        name = "" if len(record["labels"]) == 1 else f"{kind} label: "
        warnings += [name + text for text in told]
        refusals += [name + text for text in refused]
    if refusals:
        record["refused"] = "; ".join(refusals)


def judge_label(label: dict, kind: str, collection: Collection) -> tuple[list[str], list[str]]:
    """Warnings and refusals of one label map, from its `summary`."""
    warnings, refusals = [], []
    total = max(1, sum(label["pixels"]) + label["not_scored"] + label["unknown"])
    values = isinstance(collection.coding, ValueCoding)
    if values:
        families = collection.coding.families
        if families and not any(set(label["values"]) <= set(family) for family in families):
            refusals.append(
                f"values {label['values']} mix the codes {' and '.join(map(str, families))}"
            )
    share = label["unknown"] / total
    if share > (0 if values else ONE_COLOUR):
        what = f"values {label['values']}" if values else "colours"
        refusals.append(f"{share:.2%} of the pixels are of no class ({what})")
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
    left = label["not_scored"] / total
    if left == 1:
        refusals.append("no pixel has a class")
    elif left > 0.5:
        (refusals if colours else warnings).append(f"{left:.0%} of the pixels are not scored")
    elif colours and kind == "full" and left > FEW:
        warnings.append(f"{left:.2%} are black, as in an eroded label, though this is a full one")
    elif colours and kind == "eroded" and not label["not_scored"]:
        warnings.append("nothing is black, so this is no eroded label")
    if sum(pixels > 0 for pixels in label["pixels"]) == 1 and left < 1:
        only = collection.classes[next(k for k, n in enumerate(label["pixels"]) if n)]
        wrong = refusals if collection.one_value_is_wrong else warnings
        wrong.append(f"the whole label is one single class, {only}")
    return warnings, refusals


def judge_all(records: Sequence[dict], collection: Collection) -> list[str]:
    """What the scenes show only together, a sentence each."""
    told = list(collection.notes)
    used = [record for record in records if "refused" not in record]
    odd = [
        f"{r['scene']} {r['height']} x {r['width']}"
        for r in used
        if collection.sizes.get(r["scene"], (r["height"], r["width"])) != (r["height"], r["width"])
    ]
    if odd:
        told.append(f"{len(odd)} scenes are not of their published size: {', '.join(odd)}")
    unplaced = [record["scene"] for record in used if record["transform"] is None]
    if unplaced and len(unplaced) < len(used):
        told.append(f"no georeference: {', '.join(unplaced)}; their tiles lie on no map")
    elif unplaced:
        told.append("no scene has a georeference; the tiles lie on no map")
    unlabelled = [record["scene"] for record in used if record["split"] == UNLABELLED]
    if unlabelled:
        told.append(
            f"{len(unlabelled)} test scenes have no label and are in {UNLABELLED}: "
            + ", ".join(unlabelled)
        )
    shares = class_shares(used, collection, ("train", "val"))
    if collection.shares and shares:
        told += judge_order(shares, collection)
    return told


def class_shares(
    records: Sequence[dict], collection: Collection, splits: Sequence[str]
) -> list[float]:
    """Shares of the scored pixels of `splits`, in the full labels where there are such."""
    pixels = [0] * len(collection.classes)
    for record in records:
        kind = "full" if "full" in record["labels"] else "eroded"
        if record["split"] in splits and kind in record["labels"]:
            counts = record["labels"][kind]["pixels"]
            pixels = [a + b for a, b in zip(pixels, counts, strict=True)]
    return [count / sum(pixels) for count in pixels] if sum(pixels) else []


def judge_order(shares: Sequence[float], collection: Collection) -> list[str]:
    """Whether the shares of the classes look like another order of classes."""

    def distance(order: Sequence[int], published: Sequence[float]) -> float:
        return sum(abs(shares[k] - published[i]) for i, k in enumerate(order)) / 2

    own = range(len(shares))
    name, published = min(collection.shares.items(), key=lambda item: distance(own, item[1]))
    off = distance(own, published)
    if off <= OTHER_ORDER:
        return []
    best = min(permutations(own), key=lambda order: distance(order, published))
    measured, expected = (", ".join(f"{100 * s:.1f}" for s in row) for row in (shares, published))
    text = (
        f"class shares {measured} % are far from the published ones of {name}, {expected} % "
        f"({', '.join(collection.classes)})"
    )
    if distance(best, published) < off / 2:
        order = ", ".join(f"{k} = {collection.classes[i]}" for i, k in sorted(
            enumerate(best), key=lambda pair: pair[1]))  # fmt: skip
        return [f"{text}: the labels look like another order of classes, perhaps {order}"]
    return [text]


def report(records: Sequence[dict], collection: Collection, told: Sequence[str]) -> str:
    """The audit as text: a line a scene (of many, only those with something to say)."""
    lines = []
    many = len(records) > 60
    columns = [name.split()[0][:8] for name in collection.classes]
    lines.append(
        f"{'scene':<16}{'split':<12}{'height x width':>16}{'tiles':>7}{'inexact':>10}"
        f"{'no class':>10}" + "".join(f"{name:>10}" for name in columns)
    )
    for record in records:
        if many and not record["warnings"] and "refused" not in record:
            continue
        label = next(iter(record["labels"].values()), None)
        size = f"{record.get('height', '?')} x {record.get('width', '?')}"
        line = f"{record['scene']:<16}{record['split']:<12}{size:>16}{record.get('tiles', 0):>7}"
        if label:
            total = max(1, sum(label["pixels"]) + label["not_scored"] + label["unknown"])
            numbers = [label["inexact"], label["unknown"] + label["not_scored"], *label["pixels"]]
            line += "".join(f"{n / total:>10.2%}" for n in numbers)
        lines.append(line)
    if many:
        lines.append(f"{len(records)} scenes in all; those with nothing to tell are left out here")
    for record in records:
        lines += [f"warning: {record['scene']}: {text}" for text in record["warnings"]]
    lines += [f"note: {text}" for text in told]
    lines += [
        f"must not be used: {record['scene']}: {record['refused']}"
        for record in records
        if "refused" in record
    ]
    return "\n".join(lines)
