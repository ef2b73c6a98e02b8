"""Segmentation scores against torchmetrics and against a case worked out by hand."""

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


def test_scores_of_a_case_worked_out_by_hand():
    #                        prediction a  b  c
    counts = torch.tensor([[5, 1, 0], [2, 3, 1], [0, 0, 8]])
    result = scores(counts, ("a", "b", "c"))
    assert result["per_class"] == {
        "a": pytest.approx(dict(iou=5 / 8, f1=10 / 13, precision=5 / 7, recall=5 / 6, pixels=6)),
        "b": pytest.approx(dict(iou=3 / 7, f1=6 / 10, precision=3 / 4, recall=3 / 6, pixels=6)),
        "c": pytest.approx(dict(iou=8 / 9, f1=16 / 17, precision=8 / 9, recall=8 / 8, pixels=8)),
    }
    assert result["miou"] == pytest.approx((5 / 8 + 3 / 7 + 8 / 9) / 3)
    assert result["mf1"] == pytest.approx((10 / 13 + 6 / 10 + 16 / 17) / 3)
    assert result["oa"] == pytest.approx(16 / 20)
    chance = (6 * 7 + 6 * 4 + 8 * 9) / 20**2
    assert result["kappa"] == pytest.approx((16 / 20 - chance) / (1 - chance))
    assert result["pixels"] == 20
    assert result["absent"] == []
    assert result["confusion_matrix"] == [[5, 1, 0], [2, 3, 1], [0, 0, 8]]


def test_rows_are_labels_and_columns_predictions():
    counts = counted([[0, 1, 1, 2]], [[0, 0, 0, 1]], 3)
    assert counts.tolist() == [[1, 2, 0], [0, 0, 1], [0, 0, 0]]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_counts_are_int64_whatever_the_maps_are(dtype):
    prediction, label = maps(0)
    counts = counted(prediction.to(dtype), label.to(dtype), 5)
    assert counts.dtype == torch.int64
    assert counts.tolist() == counted(prediction, label, 5).tolist()


def test_uint8_maps_with_many_classes_do_not_wrap_around():
    label = torch.tensor([19, 18, 0], dtype=torch.uint8)
    counts = counted(label, label, 20)
    assert counts.diag().nonzero().ravel().tolist() == [0, 18, 19]
    assert counts.sum() == 3


def test_batches_add_up():
    prediction, label = maps(0)
    confusion = ConfusionMatrix(5)
    for one in range(3):
        confusion.update(prediction[one], label[one])
    assert confusion.counts.tolist() == counted(prediction, label, 5).tolist()


def test_ignored_pixels_count_nowhere():
    prediction, label = maps(0)
    elsewhere = torch.where(label == 255, 0, prediction)
    counts = counted(prediction, label, 5)
    assert counts.sum() == (label != 255).sum()
    assert counts.tolist() == counted(elsewhere, label, 5).tolist()


def test_an_absent_class_is_none_and_left_out_of_the_mean():
    result = scores(counted([0, 0, 1], [0, 1, 1], 3), ("a", "b", "c"))
    assert result["absent"] == ["c"]
    assert result["per_class"]["c"] == dict(
        iou=None, f1=None, precision=None, recall=None, pixels=0
    )
    assert result["miou"] == pytest.approx((1 / 2 + 1 / 2) / 2)
    assert result["mf1"] == pytest.approx((2 / 3 + 2 / 3) / 2)


def test_a_class_predicted_but_not_labelled_is_0_and_counts_in_the_mean():
    result = scores(counted([0, 0, 2], [0, 0, 0], 3), ("a", "b", "c"))
    assert result["absent"] == ["b"]
    assert result["per_class"]["c"] == dict(iou=0, f1=0, precision=0, recall=None, pixels=0)
    assert result["miou"] == pytest.approx(2 / 3 / 2)


def test_nothing_scored_gives_none():
    result = scores(counted([0, 1], [255, 255], 2), ("a", "b"))
    assert [result[key] for key in ("miou", "mf1", "oa", "kappa")] == [None] * 4
    assert result["absent"] == ["a", "b"]
    assert result["pixels"] == 0


def test_kappa_of_one_class_alone_is_none():
    result = scores(counted([1, 1], [1, 1], 2), ("a", "b"))
    assert result["kappa"] is None
    assert (result["oa"], result["miou"]) == (1, 1)


def test_scores_of_more_pixels_than_float32_can_count():
    result = scores(torch.tensor([[2**40, 1], [0, 2**40]]), ("a", "b"))
    assert result["pixels"] == 2**41 + 1
    assert 0 < 1 - result["oa"] < 1e-11
