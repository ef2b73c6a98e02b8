"""Judge what was counted in the scenes of a data set: what to warn of, what must not be used."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from SSLRemoteSensing.preparation.catalog import UNLABELLED, Catalog, listing

# Shares of a label's pixels. Lossy storage of dense labels (blocks of 25 pixels, random classes;
# JPEG quality 20 to 95, blurred, or resized) leaves up to 0.13 far from a pure colour, but no
# single colour on more than 0.004; a colour the palette does not have lies on all of its class.
MANY_FAR, ONE_COLOUR, FEW = 0.25, 0.01, 0.001
MOST_LINES = 60  # scenes in the printed table; audit.json has all
SPLIT_ORDER = ["train", "val", "test", UNLABELLED]
# Half the sum of the differences of shares. Train of Potsdam and of Vaihingen are 0.08 apart.
FAR_SHARES = 0.25


class Finding(NamedTuple):
    """A sentence about a scene, and whether it must not be used for that."""

    is_refusal: bool
    text: str


def check_scene(record: dict, collection: Catalog) -> None:
    """Add `warnings`, and `refused` where it must not be used, to a record of `tile_scene`."""
    masked = record.get("masked", 0) / (record.get("height", 1) * record.get("width", 1))
    fault, mask, apart = collection.faults.get(record["scene"]), *map(record.get, ("mask", "apart"))
    rules = [
        ("refused" in record, True, record.get("refused")),
        (fault, False, fault),
        (masked, False, f"{masked:.1%} of the pixels hold no data ({mask}); not scored"),
        (apart, False, f"{apart} lies at another place on the map than its image"),
    ]  # fmt: skip
    findings = [Finding(is_refusal, text) for applies, is_refusal, text in rules if applies]
    for kind, label in record["labels"].items():
        name = "" if len(record["labels"]) == 1 else f"{kind} label: "
        findings += [Finding(f[0], name + f.text) for f in check_label(label, kind, collection)]
    record["warnings"] = [text for is_refusal, text in findings if not is_refusal]
    refusals = [text for is_refusal, text in findings if is_refusal]
    record |= {"refused": "; ".join(refusals)} if refusals else {}


def check_label(label: dict, kind: str, collection: Catalog) -> list[Finding]:
    """What there is to say of one label map, from its `summary`."""
    total = all_pixels(label)
    unknown, far, inexact, unscored = (
        label[key] / total for key in ("unknown", "far", "inexact", "not_scored")
    )
    values = label.get("values")  # None of colours
    is_colour, content = values is None, "colours" if values is None else f"values {values}"
    families = None if is_colour else collection.coding.families
    is_mixed = families and not any(set(values) <= set(family) for family in families)
    colour, count = label.get("stranger", ((), 0))
    stranger = f"colour {tuple(colour)}, which is no class's, covers {count / total:.2%}"
    names = [name for name, n in zip(collection.classes, label["pixels"], strict=True) if n]
    rules = [
        (is_mixed, True, f"{content} mix the codes {' and '.join(map(str, families or ()))}"),
        (unknown > (ONE_COLOUR if is_colour else 0), True,
         f"{unknown:.2%} of the pixels are of no class ({content})"),
        (is_colour and 0 < unknown <= ONE_COLOUR, False,
         f"{label['unknown']} pixels have a colour of no class; not scored"),
        (count / total > ONE_COLOUR, True, f"wrong palette: {stranger}"),
        (FEW < count / total <= ONE_COLOUR, False, stranger),
        (far > MANY_FAR, True, f"wrong palette: {far:.0%} are far from any class colour"),
        (inexact, False, f"{label['inexact']} pixels ({inexact:.2%}) are not exactly a class "
                         "colour; decoded by threshold"),
        (unscored == 1, is_colour, "no pixel has a class"),
        (0.5 < unscored < 1, is_colour, f"{unscored:.0%} of the pixels are not scored"),
        (is_colour and kind == "full" and FEW < unscored <= 0.5, False,
         f"{unscored:.2%} are black, as in an eroded label, though this is a full one"),
        (is_colour and kind == "eroded" and not unscored, False,
         "nothing is black, so this is no eroded label"),
        (len(names) == 1 and unscored < 1, collection.one_value_is_wrong,
         f"the whole label is one single class, {''.join(names)}"),
    ]  # fmt: skip
    return [Finding(is_refusal, text) for applies, is_refusal, text in rules if applies]


def all_pixels(label: dict) -> int:
    """Pixels of a label's `summary`, at least 1."""
    return max(1, sum(label["pixels"]) + label["not_scored"] + label["unknown"])


def check_agreement(records: Sequence[dict], collection: Catalog) -> None:
    """Mark as refused the records whose bands, values or codes few others have."""

    def codes_of(record: dict) -> set[int]:
        return {v for label in record["labels"].values() for v in label.get("values", ())}

    usable = [record for record in records if "refused" not in record]
    kinds = Counter((record["bands"], record["dtype"]) for record in usable).most_common(1)
    for record in usable:
        if (record["bands"], record["dtype"]) != kinds[0][0]:
            record["refused"] = (
                f"has {record['bands']} bands of {record['dtype']} where most scenes have "
                f"{kinds[0][0][0]} of {kinds[0][0][1]}; see --bands, or convert it"
            )
    families = getattr(collection.coding, "families", None) or ()
    remaining = [record for record in usable if "refused" not in record]
    codes = list(map(codes_of, remaining))
    if families and not any(set().union(*codes) <= set(family) for family in families):
        usual = max(families, key=lambda family: sum(values <= set(family) for values in codes))
        for record, values in zip(remaining, codes, strict=True):
            if not values <= set(usual):
                record["refused"] = f"values {sorted(values)} where others have {usual}"


def check_scenes(records: Sequence[dict], collection: Catalog) -> list[str]:
    """What the scenes show only together, a sentence each."""
    usable = [record for record in records if "refused" not in record]
    splits = {record["split"] for record in usable}
    has_train = "train" in splits
    odd_sizes = []
    for record in usable:
        name, size = record["scene"], (record["height"], record["width"])
        if collection.sizes.get(name, size) != size:
            odd_sizes.append(f"{name} {size[0]} x {size[1]}")
    unplaced = [record["scene"] for record in usable if record["transform"] is None]
    on_no_map = f"no georeference: {listing(unplaced)}; their tiles lie on no map"
    if len(unplaced) == len(usable):
        on_no_map = "no scene has a georeference; the tiles lie on no map"
    unlabelled = [record["scene"] for record in usable if record["split"] == UNLABELLED]
    shares = class_shares(usable, collection, ("train",))
    absent = [n for n, share in zip(collection.classes, shares, strict=False) if not share]
    rules = [
        (odd_sizes, f"{len(odd_sizes)} scenes are not of their published size: "
                    f"{listing(odd_sizes)}"),
        (unplaced, on_no_map),
        (unlabelled, f"{len(unlabelled)} test scenes have no label and are in {UNLABELLED}: "
                     f"{listing(unlabelled)}"),
        (usable and not has_train, "no scene is in train, so there is no mean, std, class share"),
        (collection.classes and has_train and "val" not in splits,
         "no scene is in val; name some with --splits train val=SCENE,SCENE test"),
        (collection.coding and has_train and not shares, "no pixel of train has a class"),
        (absent, f"no pixel of train is {' or '.join(absent)}"),
    ]  # fmt: skip
    notes = [*collection.notes, *(text for applies, text in rules if applies)]
    return notes + check_shares(class_shares(usable, collection, ("train", "val")), collection)


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


def check_shares(shares: Sequence[float], collection: Catalog) -> list[str]:
    """Whether the shares of the classes are far from all that are published."""

    def distance(reference: Sequence[float]) -> float:
        return sum(abs(a - b) for a, b in zip(shares, reference, strict=True)) / 2

    if not shares or not collection.shares:
        return []
    name, reference = min(collection.shares.items(), key=lambda item: distance(item[1]))
    if distance(reference) <= FAR_SHARES:
        return []
    measured, expected = (", ".join(f"{100 * s:.1f}" for s in row) for row in (shares, reference))
    classes = ", ".join(collection.classes)
    text = f"class shares {measured} % are far from the published ones of {name}, {expected} %"
    return [f"{text} ({classes})"]


def report(records: Sequence[dict], collection: Catalog, notes: Sequence[str], whole: bool) -> str:
    """The audit as text: a table of the scenes, if `whole` or they are few, then what to tell."""
    lines = table(records, collection) if whole or len(records) <= MOST_LINES else []
    scenes_by_warning, sizes = defaultdict(list), Counter(r["split"] for r in records if r["split"])
    for record in records:
        for text in record["warnings"]:
            scenes_by_warning[text].append(record["scene"])
    lines += [f"warning: {listing(names)}: {text}" for text, names in scenes_by_warning.items()]
    lines += [f"note: {text}" for text in notes]
    lines += [
        f"must not be used: {record['scene']}: {record['refused']}"
        for record in records
        if "refused" in record
    ]
    for split in sorted(sizes, key=SPLIT_ORDER.index):
        shares = zip(collection.classes, class_shares(records, collection, (split,)), strict=False)
        text = ", ".join(f"{name} {100 * share:.2f}" for name, share in shares)
        lines.append(f"{split}: {sizes[split]} scenes" + (f"; pixels in %: {text}" if text else ""))
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
            numbers = [label["inexact"], label["unknown"] + label["not_scored"], *label["pixels"]]
            line += "".join(f"{n / all_pixels(label):>11.2%}" for n in numbers)
        lines.append(line)
    return lines
