"""Segmentation scores against torchmetrics, and where there is nothing to score."""

import pytest
import torch
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassCohenKappa,
    MulticlassF1Score,
    MulticlassJaccardIndex,
    MulticlassPrecision,
    MulticlassRecall,
)

from SSLRemoteSensing.evaluation.metrics import ConfusionMatrix, scores

CLASSES = ("ground", "roof", "tree", "water", "car")


def maps(seed: int, k: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """A label map with a fifth of it unlabelled, and a prediction that is right half the time."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, k, (3, 20, 30), generator=generator)
    other = torch.randint(0, k, label.shape, generator=generator)
    prediction = torch.where(torch.rand(label.shape, generator=generator) < 0.5, label, other)
    label[torch.rand(label.shape, generator=generator) < 0.2] = 255
    return prediction, label


def counted(prediction, label, k: int) -> torch.Tensor:
    confusion = ConfusionMatrix(k)
    confusion.update(torch.as_tensor(prediction), torch.as_tensor(label))
    return confusion.counts


@pytest.mark.parametrize("seed", [0, 1])
def test_scores_equal_torchmetrics(seed):
    prediction, label = maps(seed)
    ours = scores(counted(prediction, label, 5), CLASSES)
    keys = dict(num_classes=5, ignore_index=255)
    by_class = {
        "iou": MulticlassJaccardIndex(average=None, **keys),
        "f1": MulticlassF1Score(average=None, **keys),
        "precision": MulticlassPrecision(average=None, **keys),
        "recall": MulticlassRecall(average=None, **keys),
    }
    for key, oracle in by_class.items():
        expected = oracle(prediction, label).tolist()
        assert [ours["per_class"][name][key] for name in CLASSES] == pytest.approx(expected)
    whole = {
        "miou": MulticlassJaccardIndex(average="macro", **keys),
        "mf1": MulticlassF1Score(average="macro", **keys),
        "oa": MulticlassAccuracy(average="micro", **keys),
        "kappa": MulticlassCohenKappa(**keys),
    }
    for key, oracle in whole.items():
        assert ours[key] == pytest.approx(oracle(prediction, label).item(), rel=1e-5), key
    labelled = [int((label == number).sum()) for number in range(5)]
    assert [ours["per_class"][name]["pixels"] for name in CLASSES] == labelled
    assert (ours["pixels"], ours["absent"]) == (sum(labelled), [])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_counts_are_int64_whatever_the_maps_are_and_batches_add_up(dtype):
    prediction, label = maps(0)
    confusion = ConfusionMatrix(5)
    for one in range(3):
        confusion.update(prediction[one].to(dtype), label[one].to(dtype))
    assert confusion.counts.dtype == torch.int64
    assert confusion.counts.tolist() == counted(prediction, label, 5).tolist()
    many = torch.tensor([19, 18, 0], dtype=dtype)  # 19 * 20 + 19 is more than 255
    counts = counted(many, many, 20)
    assert counts.diag().nonzero().ravel().tolist() == [0, 18, 19]
    assert counts.sum() == 3


def test_rows_are_labels_columns_predictions_and_ignored_pixels_count_nowhere():
    counts = counted([[0, 1, 1, 2, 255]], [[0, 0, 0, 1, 255]], 3)
    assert counts.tolist() == [[1, 2, 0], [0, 0, 1], [0, 0, 0]]
    prediction, label = maps(0)
    elsewhere = torch.where(label == 255, 0, prediction)
    counts = counted(prediction, label, 5)
    assert counts.sum() == (label != 255).sum()
    assert counts.tolist() == counted(elsewhere, label, 5).tolist()


@pytest.mark.parametrize(
    ("prediction", "label", "absent", "means"),
    [
        # miou, mf1, oa, kappa
        ([0, 0, 1], [0, 1, 1], ["c"], (1 / 2, 2 / 3, 2 / 3, 0.4)),
        ([0, 0, 2], [0, 0, 0], ["b"], (2 / 3 / 2, 0.8 / 2, 2 / 3, 0)),
        ([0, 1, 2], [255, 255, 255], ["a", "b", "c"], (None,) * 4),
        ([1, 1], [1, 1], ["a", "c"], (1, 1, 1, None)),  # chance is always right
    ],
)
def test_absent_classes_are_left_out_of_means_and_what_cannot_be_told_is_none(
    prediction, label, absent, means
):
    """A class that is predicted but not labelled is 0 and counts in the mean."""
    result = scores(counted(prediction, label, 3), ("a", "b", "c"))
    assert result["absent"] == absent
    values = [result[key] for key in ("miou", "mf1", "oa", "kappa")]
    assert values == [value if value is None else pytest.approx(value) for value in means]
    for name in absent:
        keys = ("iou", "f1", "precision", "recall")
        assert result["per_class"][name] == dict.fromkeys(keys) | {"pixels": 0}
    if absent == ["b"]:
        assert result["per_class"]["c"] == dict(iou=0, f1=0, precision=0, recall=None, pixels=0)


def test_scores_of_more_pixels_than_float32_can_count():
    result = scores(torch.tensor([[2**40, 1], [0, 2**40]]), ("a", "b"))
    assert result["pixels"] == 2**41 + 1
    assert 0 < 1 - result["oa"] < 1e-11
