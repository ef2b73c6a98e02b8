"""Named protocols: which classes and which labels a score is of.

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

import torch
from torch import Tensor

from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.evaluation.metrics import scores

AGAINST_REST = "_against_rest"
SUFFIXES = {"full": "", "eroded": "_eroded"}  # by kind of label


def class_protocols(
    classes: Sequence[str], clutter: str | None = None, one_against_rest: Sequence[str] = ()
) -> list[str]:
    """The names that `classes` allow, without their suffix for the kind of label.

    Args:
        clutter: the class that two of the protocols leave out; None, or no name of `classes`: none.
        one_against_rest: the classes to score on their own.
    """
    names = ["all"]
    if clutter in classes and len(classes) > 2:
        names += ["mean_of_foreground", "clutter_ignored"]
    return names + [f"{name}{AGAINST_REST}" for name in one_against_rest]


def protocol_names(
    classes: Sequence[str],
    clutter: str | None,
    one_against_rest: Sequence[str],
    kinds: Sequence[str] = tuple(SUFFIXES),
) -> list[str]:
    """All names that classes and kinds of labels allow."""
    names = class_protocols(classes, clutter, one_against_rest)
    return [f"{name}{SUFFIXES[kind]}" for kind in kinds for name in names]


def score_protocols(
    matrices: Mapping[str, Tensor],
    classes: Sequence[str],
    clutter: str | None = None,
    one_against_rest: Sequence[str] = (),
    wanted: Sequence[str] | None = None,
) -> dict[str, dict]:
    """Protocol -> its scores, see `scores`, with `classes` and `labels`, the parts of its name.

    Args:
        matrices: kind of label ('full', 'eroded') -> counts, int64 (K, K), rows label.
        wanted: names; None: all there are.

    Raises:
        UserError: a wanted protocol that these classes or labels do not allow.
    """
    require_protocols(wanted, classes, clutter, one_against_rest, list(matrices))
    results = {
        f"{name}{SUFFIXES[kind]}": {"classes": name, "labels": kind}
        | score_classes(name, counts, classes, clutter)
        for kind, counts in matrices.items()
        for name in class_protocols(classes, clutter, one_against_rest)
    }
    return results if wanted is None else {name: results[name] for name in wanted}


def require_protocols(
    wanted: Sequence[str] | None,
    classes: Sequence[str],
    clutter: str | None,
    one_against_rest: Sequence[str],
    kinds: Sequence[str] = tuple(SUFFIXES),
) -> None:
    """Raise a `UserError` for a protocol that classes and kinds of labels do not allow."""
    protocols = protocol_names(classes, clutter, one_against_rest, kinds)
    for name in wanted or ():
        if name not in protocols:
            reason = f"there are {', '.join(protocols)}"
            if name in protocol_names(classes, clutter, one_against_rest):
                reason = "no eroded labels are there; prepare the data set with --labels both"
            elif name.partition("_eroded")[0] in ("mean_of_foreground", "clutter_ignored"):
                reason = (
                    f"no class is named {clutter!r}; set scoring_cfg.clutter to one of the classes"
                )
            raise UserError(f"scoring_cfg.protocols: {name!r} is not to be had, {reason}")


def score_classes(name: str, counts: Tensor, classes: Sequence[str], clutter: str | None) -> dict:
    """Scores of one of `class_protocols` from a confusion matrix (K, K)."""
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
