"""Self-supervised multitask pre-training for remote sensing segmentation (Li, Chen, Shi 2021)."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from SSLRemoteSensing.core.config import load_config
    from SSLRemoteSensing.core.errors import UserError
    from SSLRemoteSensing.inference.mapper import MapSettings
    from SSLRemoteSensing.models.pretext import build_pretext
    from SSLRemoteSensing.models.pretrained import load_backbone
    from SSLRemoteSensing.models.segmentation import build_segmentation, load_segmentation
    from SSLRemoteSensing.workflows.calls import finetune, predict, pretrain
    from SSLRemoteSensing.workflows.own_labels import OwnLabels

__version__ = "0.1.0"
__all__ = [
    "MapSettings",
    "OwnLabels",
    "UserError",
    "build_pretext",
    "build_segmentation",
    "finetune",
    "load_backbone",
    "load_config",
    "load_segmentation",
    "predict",
    "pretrain",
]

HOMES = {
    "MapSettings": "inference.mapper",
    "OwnLabels": "workflows.own_labels",
    "UserError": "core.errors",
    "build_pretext": "models.pretext",
    "build_segmentation": "models.segmentation",
    "finetune": "workflows.calls",
    "load_backbone": "models.pretrained",
    "load_config": "core.config",
    "load_segmentation": "models.segmentation",
    "predict": "workflows.calls",
    "pretrain": "workflows.calls",
}


def __getattr__(name: str):
    # torch comes with the networks, on first use: what only reads images starts without it.
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = import_module(f"{__name__}.{HOMES[name]}")
    except ModuleNotFoundError as error:
        from SSLRemoteSensing.core.errors import NotInstalled, without_extra

        text = without_extra(error)
        if text is None:
            raise
        return NotInstalled(name, f"SSLRemoteSensing.{name}: {text}")
    return getattr(module, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
