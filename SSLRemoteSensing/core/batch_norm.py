"""Batch normalization with the statistics of all processes, and back to those of one."""

import sys
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from SSLRemoteSensing.core.errors import UserError

PLAIN = {nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm}


class OwnBatchNorm(_BatchNorm):
    """Of one process, and as `nn.SyncBatchNorm` of maps of any number of dimensions."""

    def _check_input_dim(self, x: Tensor) -> None:
        pass


def synchronized(network: nn.Module) -> nn.Module:
    """`network` with `nn.SyncBatchNorm` for its batch normalization, under the same names.

    timm's `BatchNormAct2d` holds dropout and activation, which torch's conversion would leave out;
    timm's own keeps them.

    Raises:
        UserError: batch normalization of which no such form is known.
    """
    timm = sys.modules.get("timm.layers")  # it is loaded where a network has layers of it
    known = PLAIN | ({timm.BatchNormAct2d, timm.SyncBatchNormAct} if timm else set())
    for module in network.modules():
        if isinstance(module, _BatchNorm) and type(module) not in known:
            raise UserError(
                f"train_cfg.sync_bn=True: the network has {type(module).__name__}, whose "
                f"statistics cannot be those of all processes; leave sync_bn out"
            )
    convert = timm.convert_sync_batchnorm if timm else nn.SyncBatchNorm.convert_sync_batchnorm
    return convert(network)


def separate(network: nn.Module) -> None:
    """Let the batch normalization that `synchronized` made ask no other process any more."""
    for module in network.modules():
        if isinstance(module, nn.SyncBatchNorm):
            kind: Any = OwnBatchNorm
            if hasattr(module, "act"):
                kind = sys.modules["timm.layers"].BatchNormAct2d
            module.__class__ = kind
