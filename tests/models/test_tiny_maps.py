"""3x3 convolutions on maps of a few pixels: the gradients of `nn.Conv2d`, by another way."""

import copy
import pickle

import pytest
import torch
from torch import nn

from SSLRemoteSensing.models import tiny_maps
from SSLRemoteSensing.models.backbones import ARCHITECTURES


@pytest.fixture
def counted(monkeypatch):
    """How often the quick way was taken."""
    calls, original = [], tiny_maps.weight_gradient

    def weight_gradient(*args):
        calls.append(args[0].shape)
        return original(*args)

    monkeypatch.setattr(tiny_maps, "weight_gradient", weight_gradient)
    return calls


@pytest.mark.parametrize("size", [(1, 1), (1, 3), (2, 2), (3, 5), (8, 8)])
@pytest.mark.parametrize("settings", [{}, dict(stride=2), dict(stride=(1, 2)), dict(bias=False)])
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_result_and_gradients_are_those_of_torch(size, settings, memory_format, counted):
    torch.manual_seed(0)
    expected = nn.Conv2d(5, 7, kernel_size=3, padding=1, **settings)
    conv = copy.deepcopy(nn.Sequential(expected))
    tiny_maps.quicken(conv)
    values = []
    for module in (expected, conv):
        x = torch.randn(4, 5, *size, generator=torch.Generator().manual_seed(1))
        x = x.contiguous(memory_format=memory_format).requires_grad_()
        result = module.to(memory_format=memory_format)(x)
        (result * torch.arange(result.numel()).view_as(result).sin()).sum().backward()
        values.append([result, x.grad, *(p.grad for p in module.parameters())])
    for ours, theirs in zip(values[1], values[0], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert counted == [(4, 5, *size)]


@pytest.mark.parametrize("padding", [0, (2, 1)])
def test_other_paddings_are_those_of_torch(padding, counted):
    expected = nn.Conv2d(2, 3, kernel_size=3, padding=padding)
    conv = copy.deepcopy(nn.Sequential(expected))
    tiny_maps.quicken(conv)
    x = torch.randn(3, 2, 4, 6)
    for module in (expected, conv):
        module(x).square().sum().backward()
    torch.testing.assert_close(conv[0].weight.grad, expected.weight.grad, rtol=1e-4, atol=1e-4)
    assert len(counted) == 1


def test_what_it_is_not_for_goes_the_way_of_torch(counted):
    cases = [
        (nn.Conv2d(2, 2, 3, padding=1), torch.randn(1, 2, 9, 9)),
        (nn.Conv2d(2, 2, 3, padding=2, dilation=2), torch.randn(1, 2, 4, 4)),
        (nn.Conv2d(2, 2, 3, padding=1, groups=2), torch.randn(1, 2, 4, 4)),
        (nn.Conv2d(2, 2, 3, padding="same"), torch.randn(1, 2, 4, 4)),
        (nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"), torch.randn(1, 2, 4, 4)),
        (nn.Conv2d(2, 2, 3, padding=1).double(), torch.randn(1, 2, 4, 4).double()),
        (nn.Conv2d(2, 2, 1), torch.randn(1, 2, 4, 4)),
    ]
    for conv, x in cases:
        net = nn.Sequential(conv)
        tiny_maps.quicken(net)
        net(x).sum().backward()
    frozen = tiny_maps.Conv2d(2, 2, 3, padding=1).requires_grad_(False)
    frozen(torch.randn(1, 2, 4, 4, requires_grad=True)).sum().backward()
    with torch.no_grad():
        assert not tiny_maps.Conv2d(2, 2, 3)(torch.randn(1, 2, 4, 4)).requires_grad
    assert counted == []


@pytest.mark.parametrize("name", ["resnet18", "vgg11"])
def test_a_network_keeps_its_weights_names_and_copies(name):
    torch.manual_seed(0)
    net = ARCHITECTURES[name]().eval()
    quick = [m for m in net.modules() if isinstance(m, tiny_maps.Conv2d)]
    assert len(quick) == sum(
        isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3) for m in net.modules()
    )
    x = torch.rand(2, 3, 64, 64)
    copies = [copy.deepcopy(net), pickle.loads(pickle.dumps(net))]
    for other in copies:
        assert other.state_dict().keys() == net.state_dict().keys()
        torch.testing.assert_close(other(x)["block6"], net(x)["block6"])
