"""Batch normalization of all processes: the network computes what it did."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from SSLRemoteSensing.core.batch_norm import separate, synchronized
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.models.backbones import ARCHITECTURES
from SSLRemoteSensing.models.timm_backbones import TimmBackbone

# timm's has dropout and activation in batch normalization.
NETWORKS = {
    "resnet18": lambda: ARCHITECTURES["resnet18"](),
    "mobilenetv3_small_050": lambda: TimmBackbone("mobilenetv3_small_050"),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_synchronized_network_computes_what_it_did_and_so_does_one_that_is_separate_again(name):
    torch.manual_seed(0)
    network, images = NETWORKS[name](), torch.rand(3, 3, 64, 64)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):  # else most of a map would be 0
            nn.init.normal_(module.bias)
    together = synchronized(deepcopy(network))
    norms = [part for part in together.modules() if isinstance(part, nn.BatchNorm2d)]
    assert not norms
    again = deepcopy(together)
    separate(again)
    assert not any(isinstance(part, nn.SyncBatchNorm) for part in again.modules())
    for training in (True, False):
        found = [net.train(training)(images) for net in (network, together, again)]
        for key, expected in found[0].items():
            assert torch.equal(found[1][key], expected), key
            assert torch.equal(found[2][key], expected), key
    states = [net.state_dict() for net in (network, together, again)]
    for key, expected in states[0].items():
        assert torch.equal(states[1][key], expected)
        assert torch.equal(states[2][key], expected)


def test_vectors_have_statistics_of_their_own_again():
    network = synchronized(nn.Sequential(nn.BatchNorm1d(4)))
    separate(network)
    rows = network(torch.rand(5, 4))
    assert torch.allclose(rows.mean(0), torch.zeros(4), atol=1e-6)


def test_batch_normalization_of_another_library_is_refused():
    class TheirNorm(nn.BatchNorm2d):
        """With something of its own, which a conversion would lose."""

    with pytest.raises(UserError, match=r"sync_bn=True: the network has TheirNorm, .* leave sync"):
        synchronized(nn.Sequential(nn.Conv2d(3, 4, 1), TheirNorm(4)))
