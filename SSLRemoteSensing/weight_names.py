"""Find a backbone among the names of a state_dict, whoever wrote it."""

import re

from torch import Tensor

WRAPPERS = ("module.", "_orig_mod.", "model.")

# What stands before the names of a backbone's weights, first choice first: a network that was
# trained by its gradient comes before one without a name of its own, that before a running mean.
TRAINED = (
    "backbone",  # ours, lightly, solo-learn, mmsegmentation
    "encoder",  # segmentation_models_pytorch, SimSiam
    "encoder_q",  # MoCo
    "base_encoder",  # MoCo v3
    "student_backbone",  # lightly
    "student",
)
AVERAGED = (
    "encoder_k",
    "momentum_encoder",
    "momentum_backbone",
    "backbone_momentum",
    "teacher_backbone",
    "teacher",
)
# How the weights of a ResNet or VGG begin; the last two: its children in a nn.Sequential, and a VGG
# as timm's features_only has it.
BEGINNINGS = ("conv1.", "layer1.", "features.", "4.0.conv1.", "features_")
WORDS = "|".join([*TRAINED, *AVERAGED, *(wrapper[:-1] for wrapper in WRAPPERS)])
PLACE = re.compile(rf"((?:(?:{WORDS})\.)*)({'|'.join(map(re.escape, BEGINNINGS))})")
NUMBERS = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}


def backbone_weights(contents: dict) -> dict[str, Tensor]:
    """The backbone's tensors in `contents`, under torchvision's names.

    Found inside `model`, `state_dict`, `student` or `teacher`, and after `module.`, `_orig_mod.`,
    `model.` and the words of `TRAINED` and `AVERAGED` in any nesting; a ResNet's children may be
    numbered, as lightly's Lightning checkpoints have them (`backbone.0.` = conv1, `backbone.4.` =
    layer1). Where a file holds several networks, the first choice is taken: a student before its
    teacher, and neither momentum nor teacher if another is there.
    """
    return split_weights(contents)[0]


def split_weights(contents: dict) -> tuple[dict[str, Tensor], list[str]]:
    """`backbone_weights(contents)`, and the names of the other tensors of the network's file."""
    for key in ("model", "state_dict", "student", "teacher"):
        if isinstance(contents.get(key), dict):
            contents = contents[key]
    tensors = {k: v for k, v in contents.items() if isinstance(k, str) and isinstance(v, Tensor)}
    places = {found.group(1) for key in tensors if (found := PLACE.match(key))}
    prefix = min(places, key=preference, default="")
    state = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    others = [key for key in tensors if not key.startswith(prefix)]
    if "4.0.conv1.weight" in state:
        parts = ((key.partition("."), value) for key, value in state.items())
        state = {NUMBERS.get(n, n) + dot + rest: value for (n, dot, rest), value in parts}
    state = {re.sub(r"^features_(?=\d)", "features.", key): v for key, v in state.items()}
    return state, others


def preference(prefix: str) -> tuple:
    """What comes first is taken."""
    words = prefix.split(".")[:-1]
    rank = min((TRAINED.index(word) for word in words if word in TRAINED), default=len(TRAINED))
    return any(word in AVERAGED for word in words), rank, len(words), prefix


def unwrapped(contents: dict) -> dict[str, Tensor]:
    """The tensors of `contents`, without what wrappers put before their names."""
    state = {}
    for key, value in contents.items():
        if isinstance(value, Tensor):
            while key.startswith(WRAPPERS):
                key = key.split(".", 1)[1]
            state[key] = value
    return state
