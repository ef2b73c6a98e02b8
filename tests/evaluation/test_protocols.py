"""Named protocols against torchmetrics on the pixels that each of them scores."""

import pytest
import torch
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_cohen_kappa,
    multiclass_f1_score,
    multiclass_jaccard_index,
)

from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.evaluation.metrics import ConfusionMatrix
from SSLRemoteSensing.evaluation.protocols import ScoringSettings, score_protocols

CITY = ("ground", "roof", "clutter")
#                      prediction: ground roof clutter
MATRIX = torch.tensor([[50, 6, 4], [5, 20, 5], [3, 1, 6]])


def test_which_pixels_and_classes_count_in_each_protocol():
    before = MATRIX.clone()
    found = score_protocols({"full": MATRIX}, CITY, ScoringSettings(one_against_rest=("roof",)))
    assert torch.equal(MATRIX, before)
    assert list(found) == ["all", "mean_of_foreground", "clutter_ignored", "roof_against_rest"]
    means = found["mean_of_foreground"]  # every pixel counts; only the means leave clutter out
    assert (means["mean_over"], means["pixels"], means["oa"]) == (["ground", "roof"], 100, 0.76)
    assert list(means["per_class"]) == list(CITY)
    # The 10 pixels labelled clutter do not count; 9 others predicted as clutter are errors.
    ignored = found["clutter_ignored"]
    assert (ignored["pixels"], ignored["absent"]) == (90, [])
    assert list(ignored["per_class"]) == ["ground", "roof"]
    assert ignored["per_class"]["ground"]["iou"] == pytest.approx(50 / (60 + 55 - 50))
    assert ignored["confusion_matrix"] == [[50, 6, 4], [5, 20, 5], [0, 0, 0]]
    roof = found["roof_against_rest"]
    assert roof["confusion_matrix"] == [[50 + 4 + 3 + 6, 6 + 1], [5 + 5, 20]]
    assert list(roof["per_class"]) == ["rest", "roof"]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_each_protocol_equals_torchmetrics_on_the_pixels_it_scores(seed):
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, 4, (40, 50), generator=generator)
    other = torch.randint(0, 4, label.shape, generator=generator)
    prediction = torch.where(torch.rand(label.shape, generator=generator) < 0.6, label, other)
    label[torch.rand(label.shape, generator=generator) < 0.1] = 255
    confusion = ConfusionMatrix(4)
    confusion.update(prediction, label)
    classes = ("ground", "roof", "tree", "clutter")
    settings = ScoringSettings(one_against_rest=("tree",))
    found = score_protocols({"full": confusion.counts}, classes, settings)
    keys = dict(num_classes=4, ignore_index=255)
    without = torch.where(label == 3, 255, label)
    for name, target in (("mean_of_foreground", label), ("clutter_ignored", without)):
        for key, oracle in (("miou", multiclass_jaccard_index), ("mf1", multiclass_f1_score)):
            shares = oracle(prediction, target, average=None, **keys)
            assert found[name][key] == pytest.approx(shares[:3].mean().item())
    ours = found["clutter_ignored"]
    oa = multiclass_accuracy(prediction, without, average="micro", **keys)
    assert ours["oa"] == pytest.approx(oa.item())
    kappa = multiclass_cohen_kappa(prediction, without, **keys)
    assert ours["kappa"] == pytest.approx(kappa.item(), rel=1e-5)

    tree = torch.where(label == 255, 255, (label == 2).long())
    keys = dict(num_classes=2, ignore_index=255)
    iou = multiclass_jaccard_index((prediction == 2).long(), tree, average=None, **keys)
    ours = found["tree_against_rest"]["per_class"]
    assert [ours["rest"]["iou"], ours["tree"]["iou"]] == pytest.approx(iou.tolist())


def test_a_foreground_class_that_never_occurs_is_left_out_and_named():
    counts = torch.tensor([[5, 0, 1], [0, 0, 0], [2, 0, 2]])
    found = score_protocols({"full": counts}, CITY, ScoringSettings())
    for name in ("mean_of_foreground", "clutter_ignored"):
        assert found[name]["absent"] == ["roof"]
        assert found[name]["miou"] == found[name]["per_class"]["ground"]["iou"]
    assert found["clutter_ignored"]["per_class"]["ground"]["iou"] == pytest.approx(5 / 6)


def test_labels_of_clutter_alone_leave_nothing_to_score():
    counts = torch.tensor([[0, 0, 0], [0, 0, 0], [4, 1, 2]])
    found = score_protocols({"full": counts}, CITY, ScoringSettings())["clutter_ignored"]
    assert found["pixels"] == 0
    assert (found["miou"], found["oa"], found["kappa"]) == (None, None, None)


def test_names_say_classes_and_labels():
    found = score_protocols({"full": MATRIX, "eroded": MATRIX // 2}, CITY, ScoringSettings())
    assert list(found) == [
        "all", "mean_of_foreground", "clutter_ignored",
        "all_eroded", "mean_of_foreground_eroded", "clutter_ignored_eroded",
    ]  # fmt: skip
    eroded = found["clutter_ignored_eroded"]
    assert (eroded["classes"], eroded["labels"]) == ("clutter_ignored", "eroded")
    assert eroded["pixels"] < found["clutter_ignored"]["pixels"]


@pytest.mark.parametrize(
    ("classes", "clutter", "names"),
    [
        (("ground", "roof"), "clutter", ["all"]),
        (CITY, None, ["all"]),
        (("roof", "clutter"), "clutter", ["all"]),  # one class cannot be scored
        (CITY, "clutter", ["all", "mean_of_foreground", "clutter_ignored"]),
    ],
)
def test_only_what_the_classes_allow_is_there(classes, clutter, names):
    assert ScoringSettings(clutter=clutter).available(classes, ["full"]) == names


def test_only_what_is_wanted_is_given():
    both = {"full": MATRIX, "eroded": MATRIX}
    wanted = ["clutter_ignored_eroded", "all"]
    assert list(score_protocols(both, CITY, ScoringSettings(protocols=wanted))) == wanted


@pytest.mark.parametrize(
    ("protocol", "kinds", "message"),
    [("all", ["eroded"], "there are all_eroded"), ("all_eroded", ["full"], "--labels both")],
)
def test_a_protocol_of_labels_that_are_not_there_is_told_with_those_that_are(
    protocol, kinds, message
):
    with pytest.raises(UserError, match=message):
        ScoringSettings(protocols=[protocol]).require_protocols(["a", "b"], kinds)
