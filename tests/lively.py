"""Networks whose weights and statistics are none of the usual ones."""

import os

import torch
from torch import nn

MEAN, STD = (0.4, 0.5, 0.3), (0.2, 0.1, 0.25)


def lively(net: nn.Module) -> nn.Module:
    """Give batch normalization statistics that do something, so that a slip there shows."""
    torch.manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.1)
    return net.eval()


class Code:
    """Pickles as a call that makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)
