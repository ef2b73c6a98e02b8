"""The losses against plain loops, and against the same losses of torch and lightly."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from SSLRemoteSensing.errors import UserError
from SSLRemoteSensing.losses import ExamplarLoss, InpaintingLoss, SegmentationLoss


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


def test_inpainting_loss_equals_plain_loops():
    torch.manual_seed(0)
    prediction, anchor, occluded = (torch.rand(2, 3, 4, 5) for _ in range(3))
    occluded[:, :, 2:] = anchor[:, :, 2:]
    above = below = 0.0
    for n in range(2):
        for c in range(3):
            for y in range(4):
                for x in range(5):
                    at = (n, c, y, x)
                    weight = abs(anchor[at].item() - occluded[at].item())
                    above += abs(prediction[at].item() - anchor[at].item()) * weight
                    below += weight
    loss = InpaintingLoss()(prediction, anchor, occluded)
    assert loss.item() == pytest.approx(above / (below + 1e-6), rel=1e-5)


def test_inpainting_loss_asks_nothing_where_nothing_was_distorted():
    torch.manual_seed(0)
    anchor, occluded = torch.rand(1, 3, 4, 4), torch.rand(1, 3, 4, 4)
    occluded[:, :, 1:] = anchor[:, :, 1:]
    prediction = torch.rand(1, 3, 4, 4, requires_grad=True)
    (gradient,) = gradients(InpaintingLoss()(prediction, anchor, occluded), prediction)
    assert (gradient[:, :, 1:] == 0).all()
    assert (gradient[:, :, 0] != 0).all()


def test_inpainting_loss_of_an_image_without_distortion_is_zero():
    anchor = torch.rand(1, 3, 4, 4)
    prediction = torch.rand(1, 3, 4, 4, requires_grad=True)
    loss = InpaintingLoss()(prediction, anchor, anchor.clone())
    assert loss.item() == 0
    assert (gradients(loss, prediction)[0] == 0).all()


@pytest.mark.parametrize("temperature", [1.0, 0.5, 0.1])
@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_exemplar_loss_zero_equals_plain_loops_with_the_extra_exp_0(n, temperature):
    views = embeddings(n)
    loss, expected = ExamplarLoss(temperature)(*views), exemplar_by_loops(*views, temperature)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for ours, theirs in zip(gradients(loss, *views), gradients(expected, *views), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_exemplar_loss_has_the_value_worked_out_by_hand():
    # Both views alike, the two images at right angles: similarity 1 to the positive, 0 to the rest.
    view = torch.tensor([[3.0, 0.0], [0.0, 0.5]])
    assert ExamplarLoss()(view, view).item() == pytest.approx(math.log(math.e + 3) - 1)
    without = ExamplarLoss(self_similarity="exclude")(view, view)
    assert without.item() == pytest.approx(math.log(math.e + 2) - 1)


@pytest.mark.parametrize("temperature", [1.0, 0.5, 0.07])
@pytest.mark.parametrize("n", [2, 3, 7, 16])
def test_exemplar_loss_exclude_equals_lightly(n, temperature):
    from lightly.loss import NTXentLoss

    views = embeddings(n, d=8)
    loss = ExamplarLoss(temperature, self_similarity="exclude")(*views)
    expected = NTXentLoss(temperature=temperature)(*views)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for ours, theirs in zip(gradients(loss, *views), gradients(expected, *views), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


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


@pytest.mark.parametrize("temperature", [0, -1.0])
def test_exemplar_loss_refuses_a_temperature_that_is_not_above_0(temperature):
    with pytest.raises(UserError, match="temperature="):
        ExamplarLoss(temperature)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("class_weights", [None, (0.2, 1.0, 3.0, 0.5)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_segmentation_loss_equals_the_mean_of_torch(class_weights, label_smoothing, dtype):
    torch.manual_seed(0)
    logits = torch.randn(2, 4, 5, 6, requires_grad=True)
    label = torch.randint(0, 4, (2, 5, 6))
    label[torch.rand(2, 5, 6) < 0.3] = 255
    loss = SegmentationLoss(class_weights, label_smoothing)(logits, label.to(dtype))
    weight = None if class_weights is None else torch.tensor(class_weights)
    expected = F.cross_entropy(
        logits, label, weight, ignore_index=255, label_smoothing=label_smoothing
    )
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradients(loss, logits)[0], gradients(expected, logits)[0])


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("class_weights", [None, (0.2, 1.0, 3.0)])
def test_a_batch_without_a_label_gives_loss_0_and_gradient_0(class_weights, label_smoothing):
    logits = (100 * torch.randn(2, 3, 4, 4)).requires_grad_()
    label = torch.full((2, 4, 4), 255, dtype=torch.uint8)
    loss = SegmentationLoss(class_weights, label_smoothing)(logits, label)
    assert loss.item() == 0
    assert (gradients(loss, logits)[0] == 0).all()


def test_a_batch_of_a_class_of_weight_0_gives_loss_0_and_gradient_0():
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    loss = SegmentationLoss((0.0, 1.0, 1.0))(logits, torch.zeros(1, 4, 4, dtype=torch.uint8))
    assert loss.item() == 0
    assert (gradients(loss, logits)[0] == 0).all()


def test_class_weights_are_no_part_of_the_state_dict():
    assert SegmentationLoss((1.0, 2.0)).state_dict() == {}
