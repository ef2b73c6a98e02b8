"""What is asked for, and what a checkpoint holds: a backbone, or a network with its classes."""

import json
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from SSLRemoteSensing.core import checkpoints
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.models.backbones import Backbone
from SSLRemoteSensing.models.pretrained import backbone_of
from SSLRemoteSensing.models.segmentation import SegmentationNet, parts_of, trained_network

HUB_WEIGHTS = "model.safetensors"  # as timm and the hubs have it


@dataclass(frozen=True)
class Request:
    """What is to be exported, as the flags of the command have it.

    Attributes:
        form: one of torchvision, timm, hub, smp, mmseg, safetensors, onnx.
        output: the file; of `hub` the folder.
        preprocess, result: of a graph, see `onnx.Graph`.
        licence, dataset: for the model card, None where nobody said.
        overwrite: replace what is there.
    """

    checkpoint: Path
    form: str
    output: Path
    preprocess: bool = False
    result: str = "logits"
    licence: str | None = None
    dataset: str | None = None
    overwrite: bool = False

    @property
    def file(self) -> Path:
        """Where the weights are written; the model card stands beside it."""
        return self.output / HUB_WEIGHTS if self.form == "hub" else self.output


@dataclass
class Source:
    """A checkpoint with its module, in evaluation mode on the CPU.

    Attributes:
        net: None where the file holds a backbone alone, or one with the heads of pre-training.
        card: what the run wrote of it.
        scores: the first protocol of the `results.json` beside a fine-tuned network, if it is of
            this checkpoint.
    """

    path: Path
    backbone: Backbone
    net: SegmentationNet | None
    card: dict
    step: int | None
    scores: dict | None

    @property
    def classes(self) -> list[str] | None:
        return None if self.net is None else list(self.card["classes"])

    @property
    def decoder_cfg(self) -> dict:
        return self.card.get("config", {}).get("decoder_cfg") or {"name": "Decoder"}

    def weights(self) -> dict[str, Tensor]:
        """The backbone's, under torchvision's names, which are timm's and those of smp's encoders
        too."""
        return plain(self.backbone.state_dict())

    def public_card(self) -> dict:
        """What must be known to use the weights: no paths, no machine, in JSON's types.

        Its `config` is enough for `build_segmentation`.
        """
        card = {key: self.card[key] for key in PUBLIC if self.card.get(key) is not None}
        card |= self.backbone.card() | {"step": self.step}
        card["output_stride"] = self.backbone.output_stride
        if self.net is not None:
            card["config"] = {"classes": self.classes} | parts_of(self.card["config"])
        return json.loads(json.dumps(card, default=str))


PUBLIC = ("bands", "band_names", "prepared", "dataset", "dtype", "max_value", "scale", "img_size")
PUBLIC += ("epoch", "images_seen", "classes", "palette", "train_tiles", "gsd", "teacher")


def plain(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.detach().cpu().contiguous() for key, value in state.items()}


def open_source(path: Path) -> Source:
    """Read a checkpoint and put its weights into the module that they are of.

    Raises:
        UserError: not a checkpoint, damaged, of no architecture of ours, or a fine-tuned network
            whose card does not say how to build it.
    """
    contents = checkpoints.read(path)
    card = checkpoints.read_card(path, contents)
    step = contents.get("step", card.get("step"))
    step = step if isinstance(step, int) else None
    if "classes" not in card or "model" not in contents:
        result = backbone_of(contents, path)
        print(result["summary"])
        return Source(path, result["model"].eval(), None, card, step, None)
    if not isinstance(card.get("config"), dict):
        raise UserError(
            f"weights {path}: a fine-tuned network without its config; take best.pth or latest.pth "
            f"of finetune_seg.py"
        )
    net = trained_network(contents, path)
    return Source(path, net.backbone, net, card, step, scores_of(path, step))


def scores_of(path: Path, step: int | None) -> dict | None:
    try:
        results = json.loads((path.parent / "results.json").read_text())
        if Path(results["checkpoint"]).name != path.name or results["step"] != step:
            return None
        name, scores = next(iter(results["protocols"].items()))
        return scores | {"protocol": name, "split": results["split"]}
    except (OSError, ValueError, KeyError, TypeError, StopIteration):
        return None  # not scored, or not by us
