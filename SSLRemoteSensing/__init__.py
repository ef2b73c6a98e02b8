"""Self-supervised multitask pre-training for remote sensing segmentation (Li, Chen, Shi 2021)."""

from SSLRemoteSensing.config import load_config
from SSLRemoteSensing.models.pretext import build_pretext
from SSLRemoteSensing.models.segmentation import build_segmentation
from SSLRemoteSensing.models.weights import load_backbone

__version__ = "0.1.0"
__all__ = ["build_pretext", "build_segmentation", "load_backbone", "load_config"]
