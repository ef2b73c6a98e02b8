"""Save and read `.pth` files; nothing else in the package touches one.

A run folder holds `latest.pth`, all that going on needs; `epoch_0007.pth`, the same after an epoch;
and `backbone.pth` with its card `backbone.json`, the backbone alone under torchvision's names.
"""

import json
import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from SSLRemoteSensing.errors import UserError
from SSLRemoteSensing.writing import write_text

WRAPPERS = ("module.", "_orig_mod.", "model.")
RUN_KEYS = {"model", "optimizer", "step", "epoch", "offset", "per_step", "best", "images"}
RUN_KEYS |= {"processes", "card"}
EPOCH_FILE = re.compile(r"epoch_(\d+)\.pth")


def read(path: str | Path) -> dict:
    """The contents of a `.pth` file, on the CPU, without running any code that a pickle may carry.

    Raises:
        UserError: no such file, damaged, not a dict, or holding more than tensors and plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"weights {path}: {'is a folder' if path.is_dir() else 'no such file'}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            contents = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # bytes of any kind may stand in the file, and any error come of it
        foreign = "Unsupported global" in str(error) or "Unsupported class" in str(error)
        reason = "holds Python objects besides weights" if foreign else "damaged or no checkpoint"
        raise UserError(
            f"weights {path}: refused, {reason}; take another file, or an epoch_*.pth"
        ) from error
    if not isinstance(contents, dict):
        raise UserError(f"weights {path}: holds a {type(contents).__name__}, expected a state_dict")
    return contents


def write(path: str | Path, contents: dict) -> None:
    """Write `contents` to `path` whole or not at all: a temporary file, flushed, then renamed."""
    path = Path(path)
    part = path.with_name(f".{path.name}.part")
    try:
        with open(part, "wb") as file:
            torch.save(contents, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except (OSError, RuntimeError) as error:
        part.unlink(missing_ok=True)
        raise UserError(
            f"checkpoint {path}: cannot be written ({error}); is the disk full?"
        ) from error


def save_run(folder: Path, state: dict, finished_epoch: int | None, max_keep: int) -> None:
    """Write `latest.pth`; after an epoch `epoch_NNNN.pth` too, the newest `max_keep` kept."""
    if finished_epoch is None:
        write(folder / "latest.pth", state)
        return
    kept = folder / f"epoch_{finished_epoch:04d}.pth"
    write(kept, state)
    # One file under two names: written once, and neither name is ever absent or half there.
    link = folder / ".latest.pth.part"
    link.unlink(missing_ok=True)
    try:
        os.link(kept, link)
        os.replace(link, folder / "latest.pth")
    except OSError:  # a file system without hard links
        write(folder / "latest.pth", state)
    named = ((EPOCH_FILE.fullmatch(file.name), file) for file in folder.iterdir())
    epochs = sorted((int(match[1]), file) for match, file in named if match)
    # Files of later epochs are left by an earlier run; they must not push out this one.
    epochs = [file for number, file in epochs if number <= finished_epoch]
    for old in epochs[:-max_keep]:
        old.unlink()


def read_run(folder: str | Path) -> dict | None:
    """The contents of `latest.pth` in `folder`, or None where there is none."""
    path = Path(folder) / "latest.pth"
    if not path.exists():
        return None
    state = read(path)
    missing = RUN_KEYS - state.keys()
    if missing:
        earlier = {"model", "optimizer", "step"} <= state.keys()
        reason = "is of an earlier version of the code" if earlier else "is no checkpoint of a run"
        raise UserError(
            f"{path}: {reason}, lacks {', '.join(sorted(missing))}; move it away or set another "
            f"checkpoints_path"
        )
    return state


def read_network(path: str | Path, classes: Sequence[str]) -> dict:
    """The contents of a run's checkpoint, its network not yet in any module.

    Raises:
        UserError: no checkpoint of a network, or one of other classes.
    """
    contents = read(path)
    if "model" not in contents:
        raise UserError(
            f"weights {path}: no checkpoint of a network; a backbone.pth goes to --backbone"
        )
    known = contents.get("card", {}).get("classes", list(classes))
    if known != list(classes):
        raise UserError(
            f"weights {path}: trained on classes {known}, the config has {list(classes)}"
        )
    return contents


def load_network(model: nn.Module, contents: dict, source: str | Path) -> None:
    """Load what `read_network` read from `source` into `model`, every entry of it.

    Raises:
        UserError: it is of another network.
    """
    try:
        model.load_state_dict(contents["model"])
    except (KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"weights {source}: not of the config's network ({reason})") from error


def export_backbone(folder: Path, weights: dict[str, Tensor], card: dict) -> None:
    """Write `backbone.pth`, a plain state_dict, and its card `backbone.json`."""
    plain = {key: value.detach().cpu().contiguous() for key, value in weights.items()}
    write(folder / "backbone.pth", plain)
    write_text(folder / "backbone.json", json.dumps(card, indent=2, default=str) + "\n")


def read_card(path: Path, contents: dict) -> dict:
    """What is known of the weights: from a run's checkpoint or the `.json` beside the file."""
    if isinstance(contents.get("card"), dict):
        return contents["card"]
    beside = path.with_suffix(".json")
    try:
        card = json.loads(beside.read_text()) if beside.is_file() else {}
    except (OSError, ValueError) as error:
        raise UserError(f"card {beside}: cannot be read ({error}); mend or remove it") from error
    return card if isinstance(card, dict) else {}


# Before the names of a backbone's weights, first choice first: a network that was trained by its
# gradient comes before the running mean of one.
PREFIXES = (
    "backbone.",  # ours, lightly, solo-learn, mmsegmentation
    "encoder.",  # segmentation_models_pytorch, SimSiam
    "encoder_q.",  # MoCo
    "base_encoder.",  # MoCo v3
    "student_backbone.",  # lightly
    "student.backbone.",
    "",  # torchvision, timm
    "encoder_k.",
    "momentum_encoder.",
    "momentum_backbone.",
    "backbone_momentum.",
    "teacher_backbone.",
    "teacher.backbone.",
)
# How the weights of a ResNet or VGG begin; the last, where its children stand in a nn.Sequential.
BEGINNINGS = ("conv1.", "layer1.", "features.", "4.0.conv1.")
NUMBERS = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}


def backbone_weights(contents: dict) -> dict[str, Tensor]:
    """The backbone's tensors in `contents`, under torchvision's names.

    Found inside `model`, `state_dict`, `student` or `teacher`, and after any of `PREFIXES`; a
    ResNet's children may be numbered, as lightly's Lightning checkpoints have them (`backbone.0.` =
    conv1, `backbone.4.` = layer1). Where a file holds several, the first of `PREFIXES` is taken: a
    student before its teacher, and neither momentum nor teacher if another is there.
    """
    for key in ("model", "state_dict", "student", "teacher"):
        if isinstance(contents.get(key), dict):
            contents = contents[key]
    state = unwrapped(contents)
    for prefix in PREFIXES:
        if any(key.startswith(tuple(prefix + begin for begin in BEGINNINGS)) for key in state):
            state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            break
    if "4.0.conv1.weight" in state:
        parts = ((key.partition("."), value) for key, value in state.items())
        return {NUMBERS.get(n, n) + dot + rest: value for (n, dot, rest), value in parts}
    return state


def decoder_weights(path: str | Path) -> dict[str, Tensor]:
    """The inpainting decoder's tensors in a checkpoint of a pre-training run, under its own names.

    Raises:
        UserError: no such file, or one without that decoder, as a backbone.pth is.
    """
    contents = read(path)
    state = unwrapped(contents["model"] if isinstance(contents.get("model"), dict) else contents)
    prefix = "inpainting_head."
    state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    if not state:
        raise UserError(
            f"weights {path}: holds no inpainting decoder ({prefix}*) for decoder_cfg.transfer; "
            f"pass latest.pth or an epoch_*.pth of that pre-training run"
        )
    return state


def unwrapped(contents: dict) -> dict[str, Tensor]:
    """The tensors of `contents`, without what wrappers put before their names."""
    state = {}
    for key, value in contents.items():
        if isinstance(value, Tensor):
            while key.startswith(WRAPPERS):
                key = key.split(".", 1)[1]
            state[key] = value
    return state
