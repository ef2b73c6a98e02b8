"""How scores are taken, and named protocols: which classes and which labels a score is of.

Published figures of one data set differ by ten points for no other reason. Of one confusion matrix
a label kind, `score_protocols` gives every score that the classes allow:

    all                  every class is predicted, scored, and part of the means
    mean_of_foreground   the same pixels; mIoU and mF1 are means without clutter (OA and kappa are
                         those of `all`: a pixel of clutter can be right or wrong)
    clutter_ignored      pixels labelled clutter are not scored; clutter predicted elsewhere is an
                         error of the class that is there
    NAME_against_rest    NAME against all other classes as one, 'rest'

each for the labels as they are, and with `_eroded` after the name for those whose boundaries are
not scored.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.evaluation.metrics import scores

AGAINST_REST = "_against_rest"
SUFFIXES = {"full": "", "eroded": "_eroded"}  # by kind of label


@dataclass
class ScoringSettings:
    """The `scoring_cfg` of a config.

    Attributes:
        on: 'scenes', put together from their tiles and predicted by overlapping windows, or
            'tiles', each on its own: quicker, and pixels of overlapping tiles count twice.
        window: side of a window in pixels.
        overlap: share of its side by which a window overlaps the next, 0 to below 1.
        batch_size: windows predicted at a time.
        tta: take the mean over the 8 turns and flips of each window.
        protocols: names of those to report, see docs/evaluation.md; None: all that apply.
        clutter: the class that some protocols leave out, where there is a class of that name.
        one_against_rest: classes to score on their own too; None: cloud and snow, where there are
            such classes and others besides.
    """

    on: Literal["scenes", "tiles"] = "scenes"
    window: int = 512
    overlap: float = 0.5
    batch_size: int = 8
    tta: bool = False
    protocols: Sequence[str] | None = None
    clutter: str | None = "clutter"
    one_against_rest: Sequence[str] | None = None

    def against_rest(self, classes: Sequence[str]) -> list[str]:
        """The classes to score on their own."""
        if self.one_against_rest is not None:
            return list(self.one_against_rest)
        return [name for name in ("cloud", "snow") if name in classes and len(classes) > 2]

    def check(self, classes: Sequence[str]) -> None:
        """Raise a `UserError` for values that cannot be, or a protocol that is not to be had."""
        names, rest = list(classes), self.one_against_rest or ()
        for key, is_good, expected in (
            ("window", self.window >= 32, "must be at least 32"),
            ("batch_size", self.batch_size >= 1, "must be at least 1"),
            ("overlap", 0 <= self.overlap < 1, "must be in 0 to below 1"),
            ("clutter", self.clutter in (None, "clutter", *names), f"is none of {names}"),
            ("one_against_rest", set(rest) <= set(names), f"must be some of {names}"),
            (
                "protocols",
                self.protocols is None or len(self.protocols),
                "names none; leave it out",
            ),
        ):
            if not is_good:
                raise UserError(f"scoring_cfg.{key}={getattr(self, key)!r}: {expected}")
        self.require_protocols(classes)

    def require_protocols(
        self, classes: Sequence[str], kinds: Sequence[str] = tuple(SUFFIXES)
    ) -> None:
        """Raise a `UserError` where a wanted protocol needs other classes or kinds of labels."""
        protocols = self.available(classes, kinds)
        for name in self.protocols or ():
            if name in protocols:
                continue
            reason = f"there are {', '.join(protocols)}"
            if name.endswith(SUFFIXES["eroded"]) and name in self.available(classes):
                reason = "no eroded labels are there; prepare the data set with --labels both"
            elif name.partition("_eroded")[0] in ("mean_of_foreground", "clutter_ignored"):
                fault = f"no class is named {self.clutter!r}"
                reason = f"{fault}; set scoring_cfg.clutter to one of the classes"
            raise UserError(f"scoring_cfg.protocols: {name!r} is not to be had, {reason}")

    def kinds(self, existing: Sequence[str]) -> list[str]:
        """The kinds of labels to read, of the `existing` ones: that of the first protocol first,
        since tile by tile errors are counted by it."""
        if self.protocols is None:
            return list(existing)
        eroded = SUFFIXES["eroded"]
        kinds = ["eroded" if name.endswith(eroded) else "full" for name in self.protocols]
        return list(dict.fromkeys(kinds))

    def available(
        self, classes: Sequence[str], kinds: Sequence[str] = tuple(SUFFIXES)
    ) -> list[str]:
        """The protocols that classes and kinds of labels allow."""
        names = ["all"]
        if self.clutter in classes and len(classes) > 2:
            names += ["mean_of_foreground", "clutter_ignored"]
        names += [f"{name}{AGAINST_REST}" for name in self.against_rest(classes)]
        return [f"{name}{SUFFIXES[kind]}" for kind in kinds for name in names]

    def names(self, classes: Sequence[str]) -> list[str]:
        """The protocols to report, as far as the classes tell."""
        return list(self.protocols or self.available(classes))


def score_protocols(
    matrices: Mapping[str, Tensor], classes: Sequence[str], settings: ScoringSettings
) -> dict[str, dict]:
    """Protocol to report -> its scores, see `scores`, with `classes` and `labels`, the parts of its
    name.

    Args:
        matrices: kind of label ('full', 'eroded') -> counts, int64 (K, K), rows label.
    """
    results = {
        f"{name}{SUFFIXES[kind]}": {"classes": name, "labels": kind}
        | score_classes(name, counts, classes, settings.clutter)
        for kind, counts in matrices.items()
        for name in settings.available(classes, ["full"])
    }
    return {name: results[name] for name in settings.protocols or results}


def score_classes(name: str, counts: Tensor, classes: Sequence[str], clutter: str | None) -> dict:
    """Scores of a protocol, without its suffix, from a confusion matrix (K, K)."""
    if name == "all":
        return scores(counts, classes)
    foreground = [class_name for class_name in classes if class_name != clutter]
    if name == "mean_of_foreground":
        return scores(counts, classes, mean_over=foreground)
    if name == "clutter_ignored":
        remaining = counts.clone()
        remaining[list(classes).index(clutter)] = 0
        result = scores(remaining, classes, mean_over=foreground)
        del result["per_class"][clutter]  # not scored; its row of the matrix is empty
        return result
    index = list(classes).index(name.removesuffix(AGAINST_REST))
    hit, label, prediction = counts[index, index], counts[index].sum(), counts[:, index].sum()
    rest = counts.sum() - label - prediction + hit
    cells = torch.stack([rest, prediction - hit, label - hit, hit])
    return scores(cells.view(2, 2), ["rest", classes[index]])
