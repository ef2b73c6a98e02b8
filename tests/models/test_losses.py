"""The losses against plain loops, and against the same losses of torch and lightly."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from SSLRemoteSensing.core.config import OneOf, build, check
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.models.losses import (
    PIXEL_LOSSES,
    SEGMENTATION_LOSSES,
    DiceLoss,
    ExamplarLoss,
    FocalLoss,
    InpaintingLoss,
    SegmentationLoss,
    segmentation_losses,
)


def embeddings(n: int, d: int = 6, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    return torch.randn(n, d, requires_grad=True), torch.randn(n, d, requires_grad=True)


def exemplar_by_loops(first, second, temperature: float) -> torch.Tensor:
    """The published loss as a sum over rows: every denominator carries an extra exp(0)."""
    rows = [*first.double(), *second.double()]
    n, losses = len(first), []
    for i, row in enumerate(rows):
        similarity = [
            (row @ other) / (row.norm() * other.norm()) / temperature if j != i else torch.zeros(())
            for j, other in enumerate(rows)
        ]
        denominator = sum(torch.exp(s) for s in similarity)
        losses.append(-similarity[(i + n) % (2 * n)] + torch.log(denominator))
    return sum(losses) / len(losses)


def gradients(loss: torch.Tensor, *inputs: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss, inputs))


def check_gradients(loss, expected, *inputs, rtol=None, atol=None) -> None:
    pairs = zip(gradients(loss, *inputs), gradients(expected, *inputs), strict=True)
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, rtol=rtol, atol=atol)


def test_inpainting_loss_equals_plain_loops():
    torch.manual_seed(0)
    prediction, anchor, occluded = (torch.rand(2, 3, 4, 5) for _ in range(3))
    occluded[:, :, 2:] = anchor[:, :, 2:]
    above = below = 0.0
    for at in np.ndindex(2, 3, 4, 5):
        weight = abs(anchor[at].item() - occluded[at].item())
        above += abs(prediction[at].item() - anchor[at].item()) * weight
        below += weight
    loss = InpaintingLoss()(prediction, anchor, occluded)
    assert loss.item() == pytest.approx(above / (below + 1e-6), rel=1e-5)


@pytest.mark.parametrize("rows", [0, 1])
def test_inpainting_loss_asks_nothing_where_nothing_was_distorted(rows):
    torch.manual_seed(0)
    anchor, occluded = torch.rand(1, 3, 4, 4), torch.rand(1, 3, 4, 4)
    occluded[:, :, rows:] = anchor[:, :, rows:]
    prediction = torch.rand(1, 3, 4, 4, requires_grad=True)
    loss = InpaintingLoss()(prediction, anchor, occluded)
    (gradient,) = gradients(loss, prediction)
    assert (gradient[:, :, rows:] == 0).all()
    assert (gradient[:, :, :rows] != 0).all()
    assert bool(loss) == bool(rows)


@pytest.mark.parametrize("temperature", [1.0, 0.5, 0.1])
@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_exemplar_loss_zero_equals_plain_loops_with_the_extra_exp_0(n, temperature):
    views = embeddings(n)
    loss, expected = ExamplarLoss(temperature)(*views), exemplar_by_loops(*views, temperature)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    check_gradients(loss, expected, *views, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 0.5, 0.07])
@pytest.mark.parametrize("n", [2, 3, 7, 16])
def test_exemplar_loss_exclude_equals_lightly(n, temperature):
    from lightly.loss import NTXentLoss

    views = embeddings(n, d=8)
    loss = ExamplarLoss(temperature, self_similarity="exclude")(*views)
    expected = NTXentLoss(temperature=temperature)(*views)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    check_gradients(loss, expected, *views, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("self_similarity", ["zero", "exclude"])
def test_exemplar_loss_is_finite_with_a_small_temperature_and_zero_embeddings(self_similarity):
    first, second = torch.zeros(3, 4, requires_grad=True), torch.ones(3, 4, requires_grad=True)
    loss = ExamplarLoss(0.01, self_similarity)(first, second)
    assert all(torch.isfinite(x).all() for x in (loss, *gradients(loss, first, second)))


def test_exemplar_loss_computes_in_float32_under_autocast():
    first, second = (view.detach() for view in embeddings(8, d=64))
    with torch.autocast("cpu", torch.bfloat16):
        low = ExamplarLoss(0.1)(first, second)
    assert low.dtype == torch.float32
    assert low.item() == pytest.approx(ExamplarLoss(0.1)(first, second).item(), rel=1e-6)


def test_exemplar_loss_makes_no_tensor_larger_than_its_similarities():
    n, d = 256, 64
    sizes = []

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            outs = out if isinstance(out, tuple | list) else [out]
            sizes.extend(x.numel() for x in outs if isinstance(x, torch.Tensor))
            return out

    views = embeddings(n, d)
    with Sizes():
        gradients(ExamplarLoss()(*views), *views)
    assert max(sizes) == (2 * n) ** 2  # not times d


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("class_weights", [None, (0.2, 1.0, 3.0, 0.5)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_segmentation_loss_equals_the_mean_of_torch(class_weights, label_smoothing, dtype):
    logits, label = pixels()
    loss = SegmentationLoss(class_weights, label_smoothing)(logits, label.to(dtype))
    weight = None if class_weights is None else torch.tensor(class_weights)
    options = dict(ignore_index=255, label_smoothing=label_smoothing)
    expected = F.cross_entropy(logits, label.long(), weight, **options)
    torch.testing.assert_close(loss, expected)
    check_gradients(loss, expected, logits)


def test_a_batch_of_a_class_of_weight_0_gives_loss_0_and_gradient_0():
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    loss = SegmentationLoss((0.0, 1.0, 1.0))(logits, torch.zeros(1, 4, 4, dtype=torch.uint8))
    assert loss.item() == 0
    assert (gradients(loss, logits)[0] == 0).all()


def test_class_weights_are_no_part_of_the_state_dict():
    assert SegmentationLoss((1.0, 2.0)).state_dict() == {}


def pixels(classes: int = 4, ignored: float = 0.3) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (2, classes, 5, 6) and a label of which a share is 255."""
    torch.manual_seed(0)
    label = torch.randint(0, classes, (2, 5, 6))
    label[torch.rand(2, 5, 6) < ignored] = 255
    return torch.randn(2, classes, 5, 6, requires_grad=True), label.to(torch.uint8)


ALL_LOSSES = {
    "cross_entropy": SegmentationLoss(),
    "weighted": SegmentationLoss((0.2, 1.0, 3.0, 0.5), label_smoothing=0.1),
    "dice": DiceLoss(),
    "dice_bare": DiceLoss(smooth=0.0),
    "focal": FocalLoss(),
    "focal_low": FocalLoss(gamma=0.5),
    "focal_weighted": FocalLoss(2.0, (0.2, 1.0, 3.0, 0.5)),
}


def dice_by_loops(logits, label, smooth: float) -> float:
    chances = logits.detach().double().softmax(1)
    terms = []
    for c in range(logits.shape[1]):
        overlap = likely = true = 0.0
        for n, y, x in np.ndindex(*label.shape):
            if label[n, y, x] != 255:
                p, g = chances[n, c, y, x].item(), float(label[n, y, x] == c)
                overlap, likely, true = overlap + p * g, likely + p, true + g
        if true:
            terms.append(1 - (2 * overlap + smooth) / (likely + true + smooth))
    return sum(terms) / len(terms)


@pytest.mark.parametrize("smooth", [0.0, 1.0, 10.0])
def test_dice_loss_equals_plain_loops(smooth):
    logits, label = pixels()
    label[label == 2] = 255  # a class that no pixel has
    loss = DiceLoss(smooth)(logits, label)
    assert loss.item() == pytest.approx(dice_by_loops(logits, label, smooth), rel=1e-5)


def test_dice_loss_equals_smps_where_every_class_is_there():
    from segmentation_models_pytorch.losses import DiceLoss as Theirs

    logits, label = pixels(classes=3)
    expected = Theirs("multiclass", smooth=1.0, ignore_index=255)(logits, label.long())
    loss = DiceLoss(smooth=2.0)(logits, label)
    torch.testing.assert_close(loss, expected)
    check_gradients(loss, expected, logits)


def test_classes_absent_from_the_labels_do_not_count_in_dice():
    logits, label = pixels()
    label[label == 3] = 0
    wider = torch.cat([logits, torch.full((2, 2, 5, 6), -1e4)], dim=1)
    torch.testing.assert_close(DiceLoss()(wider, label), DiceLoss()(logits, label))


@pytest.mark.parametrize("class_weights", [None, (0.2, 1.0, 3.0, 0.5)])
def test_focal_loss_with_gamma_0_is_the_cross_entropy(class_weights):
    logits, label = pixels()
    loss = FocalLoss(0.0, class_weights)(logits, label)
    expected = SegmentationLoss(class_weights)(logits, label)
    torch.testing.assert_close(loss, expected)
    check_gradients(loss, expected, logits)


@pytest.mark.parametrize("class_weights", [None, (0.2, 1.0, 3.0, 0.5)])
@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_loss_equals_plain_loops(gamma, class_weights):
    logits, label = pixels()
    chances = logits.detach().double().softmax(1)
    above = below = 0.0
    for n, y, x in np.ndindex(*label.shape):
        k = int(label[n, y, x])
        if k != 255:
            p, w = chances[n, k, y, x].item(), 1.0 if class_weights is None else class_weights[k]
            above -= w * (1 - p) ** gamma * math.log(p)
            below += w
    loss = FocalLoss(gamma, class_weights)(logits, label)
    assert loss.item() == pytest.approx(above / below, rel=1e-5)


@pytest.mark.parametrize("loss", ALL_LOSSES.values(), ids=ALL_LOSSES)
def test_ignored_pixels_change_nothing(loss):
    logits, label = pixels()
    changed = logits.detach().clone()
    changed[(label == 255)[:, None].expand_as(logits)] = 50.0
    assert loss(changed, label).item() == pytest.approx(loss(logits, label).item(), rel=1e-6)
    (gradient,) = gradients(loss(logits, label), logits)
    assert (gradient[(label == 255)[:, None].expand_as(logits)] == 0).all()
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("loss", ALL_LOSSES.values(), ids=ALL_LOSSES)
def test_losses_and_gradients_are_finite_where_the_network_is_certain_and_0_without_a_label(loss):
    _, label = pixels()
    right = 200.0 * F.one_hot(label.long().clamp(max=3), 4).permute(0, 3, 1, 2)
    for logits in (right, -right, torch.zeros_like(right), 100 * torch.randn(2, 4, 5, 6)):
        logits = logits.clone().requires_grad_()
        value = loss(logits, label)
        assert torch.isfinite(value)
        assert torch.isfinite(gradients(value, logits)[0]).all()
        nothing = loss(logits, torch.full_like(label, 255))
        assert nothing.item() == 0
        assert (gradients(nothing, logits)[0] == 0).all()


@pytest.mark.parametrize("loss", ALL_LOSSES.values(), ids=ALL_LOSSES)
def test_losses_compute_in_float32_under_autocast(loss):
    logits, label = pixels()
    low = logits.detach().bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(low, label)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(loss(low.float(), label).item(), rel=1e-6)


@pytest.mark.parametrize("loss", ALL_LOSSES.values(), ids=ALL_LOSSES)
def test_no_loss_waits_for_the_device(loss):
    waiting = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal")
    names = set()

    class Names(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            names.add(function.overloadpacket.__name__)
            masks = args[1] if function.overloadpacket.__name__ == "index" else ()
            assert all(mask is None or mask.dtype != torch.bool for mask in masks)
            return function(*args, **(kwargs or {}))

    logits, label = pixels()
    with Names():
        gradients(loss(logits, label), logits)
    assert not names.intersection(waiting)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: ExamplarLoss(temperature=0), "temperature="),
        (lambda: ExamplarLoss(temperature=-1.0), "temperature="),
        (lambda: DiceLoss(smooth=-1.0), "smooth="),
        (lambda: FocalLoss(gamma=-1.0), "gamma="),
        (lambda: FocalLoss(class_weights=[]), "class_weights="),
        (lambda: FocalLoss(class_weights=[0.0, 0.0]), "class_weights="),
        (lambda: SegmentationLoss([1.0, -1.0]), "class_weights="),
        (lambda: SegmentationLoss("median_frequency"), "dataset.json.*give numbers"),
        (lambda: FocalLoss(class_weights="median_frequency"), "dataset.json.*give numbers"),
    ],
)
def test_values_that_make_no_loss_are_refused(make, named):
    with pytest.raises(UserError, match=named):
        make()


def summed(**changes) -> dict:
    losses = dict(ce=dict(name="CrossEntropyLoss"), dice=dict(name="DiceLoss"))
    return dict(name="SumLoss", losses=losses) | changes


def test_a_sum_keeps_its_losses_apart_with_their_factors():
    logits, label = pixels()
    built = segmentation_losses(summed(factors=(1, 0.5)), 4)
    assert [entry[:2] for entry in built] == [("ce", 1), ("dice", 0.5)]
    assert torch.equal(built[1][2](logits, label), DiceLoss()(logits, label))
    assert [factor for _, factor, _ in segmentation_losses(summed(), 4)] == [1.0, 1.0]


@pytest.mark.parametrize(
    ("name", "key"),
    [("CrossEntropyLoss", "cross_entropy"), ("DiceLoss", "dice"), ("FocalLoss", "focal")],
)
def test_a_loss_alone_is_logged_under_its_name(name, key):
    assert [entry[:2] for entry in segmentation_losses(dict(name=name), 4)] == [(key, 1.0)]
    assert [entry[0] for entry in segmentation_losses(None, 4)] == ["cross_entropy"]


@pytest.mark.parametrize(
    ("cfg", "said"),
    [
        (
            summed(losses=dict(f=dict(name="FocalLoss", gama=2))),
            "train_cfg.loss.losses.f: unknown key 'gama', did you mean 'gamma'?",
        ),
        (
            summed(losses=dict(d=dict(name="DiseLoss"))),
            "train_cfg.loss.losses.d.name: unknown name 'DiseLoss', did you mean 'DiceLoss'?",
        ),
        (summed(factor=(1, 1)), "unknown key 'factor', did you mean 'factors'?"),
        (summed(losses=dict(s=summed())), "losses.s.name: unknown name 'SumLoss'"),
        (dict(name="FocalLoss", class_weights="median"), "train_cfg.loss.class_weights: expected"),
    ],
)
def test_a_misspelt_key_at_any_depth_is_named(cfg, said):
    (line,) = check(OneOf(SEGMENTATION_LOSSES), cfg, "train_cfg.loss")
    assert said in line
    with pytest.raises(UserError) as error:
        build(SEGMENTATION_LOSSES, cfg, "train_cfg.loss")
    assert said in str(error.value)


def test_median_frequency_is_a_value_of_the_config_for_every_loss_with_weights():
    for name, loss in PIXEL_LOSSES.items():
        if name != "DiceLoss":
            cfg = dict(name=name, class_weights="median_frequency")
            assert check(OneOf(SEGMENTATION_LOSSES), cfg, "train_cfg.loss") == [], loss
            assert check(OneOf(SEGMENTATION_LOSSES), summed(losses=dict(a=cfg)), "loss") == []


@pytest.mark.parametrize(
    ("cfg", "said"),
    [
        (summed(losses={}), "at least one"),
        (summed(factors=(1,)), "expected 2 weights"),
        (summed(factors=(1, -1)), "none negative"),
        (summed(losses=dict(lr=dict(name="DiceLoss"))), "'lr' cannot stand in the log"),
        (
            summed(losses=dict(f=dict(name="FocalLoss", class_weights=[1, 2, 3]))),
            r"train_cfg\.loss\.losses\.f\.class_weights: 3 weights for 4 classes",
        ),
        (
            dict(name="FocalLoss", class_weights=[1, 2, 3]),
            r"train_cfg\.loss\.class_weights: 3 weights for 4 classes",
        ),
    ],
)
def test_a_sum_that_does_not_add_up_is_refused(cfg, said):
    with pytest.raises(UserError, match=said):
        segmentation_losses(cfg, 4)
