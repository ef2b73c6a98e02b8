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

from SSLRemoteSensing.evaluation.metrics import scores

AGAINST_REST = "_against_rest"
SUFFIXES = {"full": "", "eroded": "_eroded"}  # by kind of label


def protocol_names(
    classes: Sequence[str],
    clutter: str | None,
    one_against_rest: Sequence[str],
    kinds: Sequence[str],
) -> list[str]:
    """All names that classes and kinds of labels allow.

    Args:
        clutter: the class that two of the protocols leave out; None, or no name of `classes`: none.
        one_against_rest: the classes to score on their own.
    """
    names = ["all"]
    if clutter in classes and len(classes) > 2:
        names += ["mean_of_foreground", "clutter_ignored"]
    names += [f"{name}{AGAINST_REST}" for name in one_against_rest]
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
        wanted: names of those that there are; None: all.
    """
    results = {
        f"{name}{SUFFIXES[kind]}": {"classes": name, "labels": kind}
        | score_classes(name, counts, classes, clutter)
        for kind, counts in matrices.items()
        for name in protocol_names(classes, clutter, one_against_rest, ["full"])
    }
    return results if wanted is None else {name: results[name] for name in wanted}


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
