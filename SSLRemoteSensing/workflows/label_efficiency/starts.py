"""What the cells of a grid start from: weights, and the network that they are of."""

import contextlib
import copy
import io
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from SSLRemoteSensing.core.cli import WEIGHTS
from SSLRemoteSensing.core.config import Part, override
from SSLRemoteSensing.core.errors import UserError, about
from SSLRemoteSensing.core.files import sha256
from SSLRemoteSensing.data.unlabelled import REST
from SSLRemoteSensing.models.segmentation import build_segmentation
from SSLRemoteSensing.workflows.label_efficiency.comparison import FROZEN, UNLABELLED
from SSLRemoteSensing.workflows.segmentation import SegmentationConfig, check_segmentation

INIT = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.+-]*)=(.+)")
# timm:MODEL, with timm's weights, or timm:MODEL@FILE, timm:MODEL@random.
TIMM = re.compile(r"timm:(?P<model>[^@]+)(?:@(?P<weights>.+))?")
TILE = 256  # side of the tile that a network is measured on where the config crops none
# What may differ between initialisations: how a network is trained, not on what or for how long.
OWN = ("decoder_cfg.transfer", "train_cfg.freeze_backbone", "train_cfg.norm_eval")
OWN += (
    "train_cfg.unlabelled",
    "train_cfg.backbone_lr_factor",
    "train_cfg.optimizer",
    "train_cfg.lr_schedule",
)
# And which network: the table has its size and time beside the scores.
OWN += ("backbone_cfg.name", "backbone_cfg.model", "backbone_cfg.img_size")
OWN += ("backbone_cfg.mean", "backbone_cfg.std", "decoder_cfg.feat_channels")
# The same start as a linear probe; the whole decoder is another.
PROBE = ["train_cfg.freeze_backbone=True", "decoder_cfg={'name': 'LinearProbe'}"]


def read_inits(texts: Sequence[str]) -> dict[str, dict]:
    """Name -> dict(spec, sha256, set) of each text of --init; set is what timm:MODEL stands for."""
    inits = {}
    for text in texts:
        match = INIT.fullmatch(text)
        if match is None:
            raise UserError(
                f"--init {text}: write NAME=random, NAME=imagenet, NAME=FILE or NAME=timm:MODEL; "
                f"a name is of letters, digits and _.+- and names folders"
            )
        name, spec = match.groups()
        for suffix in (FROZEN, UNLABELLED):
            if name.endswith(suffix):
                flag = f"--{suffix[1:]}"
                raise UserError(f"--init {text}: {suffix} ends the names that {flag} gives")
        if name.lower() in map(str.lower, inits):
            raise UserError(f"--init {text}: the name {name} stands there twice")
        own = []
        if match := TIMM.fullmatch(spec):
            own = ["backbone_cfg.name=timm", f"backbone_cfg.model={match['model']}"]
            spec = match["weights"] or "imagenet"
        spec = spec if spec in WEIGHTS else str(Path(spec).absolute())
        inits[name] = {"spec": spec, "sha256": weights_hash(name, spec), "set": own}
    return inits


def weights_hash(name: str, spec: str) -> str | None:
    """SHA-256 of the file that an initialisation names; None where it names none."""
    try:
        return None if spec in WEIGHTS else sha256(spec)
    except OSError as error:
        raise UserError(
            f"--init {name}={spec}: cannot be read ({error.strerror}); or write random or imagenet"
        ) from error


def read_init_sets(
    texts: Sequence[Sequence[str]],
    inits: dict[str, dict],
    config: dict,
    lrs: Sequence[float] | None,
) -> None:
    """Put what --init_set gives into `inits`; checked as keys of the config."""
    for name, *settings in texts:
        if name not in inits:
            raise UserError(f"--init_set {name}: is no name of --init ({', '.join(inits)})")
        if not settings:
            raise UserError(f"--init_set {name}: write the keys after it, as KEY=VALUE")
        for text in settings:
            key = text.partition("=")[0].strip()
            if not f"{key}.".startswith(tuple(f"{prefix}." for prefix in OWN)):
                raise UserError(
                    f"--init_set {name} {text}: must be the same for all, so use --set; an "
                    f"initialisation's own are {', '.join(OWN)}"
                )
            if lrs is not None and key.startswith("train_cfg.optimizer"):
                raise UserError(f"--init_set {name} {text}: --lrs chooses the rate for all")
        inits[name]["set"] += settings
    for name, entry in inits.items():
        with about(f"--init_set {name}"):
            check_segmentation(config_of(config, entry))


def frozen_inits(inits: dict[str, dict]) -> dict[str, dict]:
    """Of each of `inits`, under its name and `FROZEN`, the one that is read by a linear probe."""
    twins = {}
    for name, entry in inits.items():
        kept = [text for text in entry["set"] if not text.strip().startswith("decoder_cfg.")]
        twins[name + FROZEN] = entry | {"set": kept + PROBE}
    return twins


def unlabelled_inits(inits: dict[str, dict], source: str) -> dict[str, dict]:
    """Of each of `inits`, under its name and `UNLABELLED`, the one with tiles without labels too,
    'rest' or a folder."""
    path = source if source == REST else str(Path(source).absolute())
    own = f"train_cfg.unlabelled={ {'image_path': path}!r}"
    return {
        name + UNLABELLED: entry | {"set": [*entry["set"], own]} for name, entry in inits.items()
    }


def config_of(config: dict, entry: dict) -> dict:
    """A copy of `config` with what is set for the initialisation `entry` alone."""
    config = copy.deepcopy(config)
    for text in entry["set"]:
        override(config, text, [Part(SegmentationConfig)])
    return config


def of_start(config: dict, entry: dict) -> dict:
    """`config_of`, with the weights that the cells of `entry` start from."""
    config, spec = config_of(config, entry), entry["spec"]
    config["backbone_cfg"]["pretrained"] = WEIGHTS.get(spec, spec)
    return config


def network_size(config: dict, entry: dict) -> tuple[str, int, float]:
    """Of the network of an initialisation: its backbone's name, how many parameters it has, and
    how many multiplications and additions (MACs) it takes of one tile."""
    config = config_of(config, entry)
    config["backbone_cfg"]["pretrained"] = False
    with contextlib.redirect_stdout(io.StringIO()):  # that a decoder has nothing to transfer
        net = build_segmentation(config | {"train_cfg": {}}).eval()
    side = config["train_cfg"]["train_data"].get("crop_size") or TILE
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        net.logits(torch.zeros(1, net.backbone.in_channels, side, side))
    parameters = sum(weight.numel() for weight in net.parameters())
    return net.backbone.name, parameters, counter.get_total_flops() / 2
