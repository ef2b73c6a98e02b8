"""What a message advises works: flags and keys that it names exist, and what it says was tried.

The first part looks through every text of the package and the tools; the second provokes messages,
does what they advise, and sees that the command then ends well.
"""

import ast
import importlib
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from inspect import signature
from pathlib import Path

import cv2
import numpy as np
import pytest
import rasterio
import torch
from calls import command
from conftest import ROOT, draw_tiles

import SSLRemoteSensing
from SSLRemoteSensing.commands import shards
from SSLRemoteSensing.core import checkpoints
from SSLRemoteSensing.core.config import Chain, OneOf, Part, mark_of, parameters
from SSLRemoteSensing.core.console import COMMANDS
from SSLRemoteSensing.models.segmentation import build_segmentation
from SSLRemoteSensing.workflows.kinds import KINDS

FILES = [*(ROOT / "SSLRemoteSensing").rglob("*.py"), *(ROOT / "tools").rglob("*.py")]
FILES = sorted(file.relative_to(ROOT).as_posix() for file in FILES)
SCRIPTS = [*COMMANDS, *(f"tools/{x.name}" for x in (ROOT / "tools").glob("*.py"))]
OTHERS = re.compile(
    r"(tensorboard|torchrun|pip install|rio [a-z-]+|docker run)\b[^;]*|GTIFF\w+=YES"
    r"|--(?:nproc_per_node|junitxml)"
)
FLAG = re.compile(r"(?<![\w-])--([a-z]\w*)")
KEY = re.compile(r"(?<![\w./{-])([a-z]\w*(?:\.[a-z]\w*)*)=(?=[\w{'(\[*-])")
SET = re.compile(r"(?<![\w-])set ([a-z]+(?:[._]\w+)+)")  # a word with _ or . in it is a key
SCRIPT = re.compile(r"(?<![\w./])(tools/\w+\.py|train\.py|finetune_seg\.py)")


def texts(file: str) -> Iterator[tuple[int, str]]:
    """(line, text) of each string of a file but its docstrings; {} stands for what is filled in."""
    tree = ast.parse((ROOT / file).read_text())
    skipped = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef) and ast.get_docstring(
            node
        ):
            skipped.add(node.body[0].value)
        if isinstance(node, ast.JoinedStr):
            skipped |= set(ast.walk(node)) - {node}
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.JoinedStr):
            parts = [x.value if isinstance(x, ast.Constant) else "{}" for x in node.values]
            yield node.lineno, "".join(parts)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.lineno, node.value


@pytest.fixture(scope="module")
def flags_of() -> dict[str, set[str]]:
    """The flags of each command by its script."""
    flags = {}
    sys.path[:0] = [str(ROOT), str(ROOT / "tools")]
    for script in SCRIPTS:
        if re.search(r"def flags\(\)|import flags", (ROOT / script).read_text()):
            actions = importlib.import_module(Path(script).stem).flags()._actions
            actions += shards.flags()._actions if script == "tools/prepare.py" else []
            flags[script] = {flag[2:] for action in actions for flag in action.option_strings}
    del sys.path[:2]
    return flags


def keys_below(schema, prefix: str = "") -> Iterator[str]:
    """Every key of a config by its path."""
    mark = mark_of(schema)
    owners = [mark] if isinstance(mark, Part) else []
    if isinstance(mark, OneOf):
        owners = [Part(owner, mark.given) for owner in mark.table.values()]
        yield f"{prefix}name"
    if isinstance(mark, Chain):
        owners = [Part(owner) for owner in mark.table.values()]
    for owner in owners:
        for name, (annotation, _) in parameters(owner).items():
            yield f"{prefix}{name}"
            if prefix.count(".") < 4:  # a loss may be a sum of losses
                yield from keys_below(annotation, f"{prefix}{name}.")


@pytest.fixture(scope="module")
def keys() -> set[str]:
    """Of configs, by every end of their paths, and the parameters of the public functions."""
    paths = {path for kind in KINDS.values() for path in keys_below(Part(kind.schema))}
    ends = {".".join(path.split(".")[n:]) for path in paths for n in range(path.count(".") + 1)}
    names = [name for name in SSLRemoteSensing.__all__ if name != "UserError"]
    functions = [getattr(SSLRemoteSensing, name) for name in names]
    return ends | {name for x in functions if callable(x) for name in signature(x).parameters}


# What looks like a key and is a name of the flag beside it, of GDAL, or of a torch that is too old;
# or of a function of torch or tifffile in a line of Python.
NO_KEYS = {"val", "test", "train", "random", "ours", "imagenet", "key.key"}
NO_KEYS |= {"map_location", "weights_only", "planarconfig"}


@pytest.mark.parametrize("file", FILES)
def test_flags_keys_and_commands_that_a_text_names_exist(file, flags_of, keys):
    every_flag = set().union(*flags_of.values())
    for line, text in texts(file):
        text, where = OTHERS.sub("", text), f"{file}:{line}: {text}"
        scripts = SCRIPT.findall(text)
        assert set(scripts) <= set(SCRIPTS), where
        named = [flags_of[script] for script in scripts if script in flags_of]
        known = set().union(*named) if named and "\n" not in text else every_flag
        assert set(FLAG.findall(text)) <= (known | every_flag if "; " in text else known), where
        if file.startswith("SSLRemoteSensing") and "{" in text:  # a message, of something
            unknown = {*KEY.findall(text), *SET.findall(text)} - keys - every_flag - NO_KEYS
            assert not unknown, f"{where}: {unknown}"


# ---------------------------------------------------------------------------- followed


@dataclass(frozen=True)
class Case:
    """A command, what it says, and the flags that it advises; `{}` is the folder of the test.

    `of` is the config, 'pretrain' or 'finetune', whose dry run is tried; '' for none. The advice
    is added, or takes the place of the flags where `instead` says so.
    """

    script: str
    flags: str
    said: str
    advice: str
    spoil: Callable[[Path], None] = lambda folder: None
    of: str = ""
    instead: bool = False


def resize(folder: Path) -> None:
    cv2.imwrite(str(folder / "images/tile_003.jpg"), np.zeros((80, 72, 3), np.uint8))
    cv2.imwrite(str(folder / "labels/tile_003.png"), np.zeros((80, 72), np.uint8))


def relabel(table: dict[int, int], pattern: str = "{}.png") -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        for file in sorted((folder / "labels").iterdir()):
            label = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
            lookup = np.array([table.get(value, value) for value in range(256)], np.uint8)
            file.unlink()
            cv2.imwrite(str(file.with_name(pattern.format(file.stem))), lookup[label])

    return spoil


def deepen(dtype: str) -> Callable[[Path], None]:
    """The images become TIFFs of another type."""

    def spoil(folder: Path) -> None:
        for file in sorted((folder / "images").iterdir()):
            pixels = cv2.imread(str(file)).astype(dtype).transpose(2, 0, 1)
            file.unlink()
            with rasterio.open(
                file.with_suffix(".tif"), "w", driver="GTiff", count=3, dtype=dtype,
                height=pixels.shape[1], width=pixels.shape[2], transform=PLACE,
            ) as output:  # fmt: skip
                output.write(pixels)

    return spoil


PLACE = rasterio.Affine(0.5, 0, 1000, 0, -0.5, 2000)
T, V, E = (f"train_cfg.{part}_data" for part in ("train", "val", "test"))
FOLDER = "folder --source {}/images --output {}/out --tile 64"
OWN = "folder --source {} --output {0}_out --tile 64"
TWO = "--classes other roof"
MAP = "--checkpoint {}/best.pth --device cpu --tile 64 --input {}/images/tile_000.jpg"
DEEP = "--checkpoint {}/best.pth --device cpu --tile 64 --input {}/images/tile_000.tif"
EXPORT = "--checkpoint {}/best.pth --format"
SHOW = "--images {0}/images --labels {0}/labels --classes a b"


def of_config(which: str, said: str, sets: str, advice: str, spoil=None) -> Case:
    script = "train.py" if which == "pretrain" else "finetune_seg.py"
    options = {"spoil": spoil} if spoil else {}
    return Case(script, f"--set {sets}", said, f"--set {advice}", of=which, **options)


def break_one(folder: Path) -> None:
    (folder / "images/tile_001.jpg").write_bytes(b"\xff\xd8 no more")


TUNE, PRE = "finetune", "pretrain"
CASES = [
    of_config(TUNE, r"set data_format, '\*\*/\*.jpg'", f"{T}.data_format=*.tif",
              f"{T}.data_format=**/*.jpg"),
    of_config(TUNE, "set a smaller batch_size", "train_cfg.batch_size=99",
              "train_cfg.batch_size=4"),
    of_config(PRE, "make them equal", "agr_head_cfg.num_classes=5", "agr_head_cfg.num_classes=6"),
    of_config(PRE, "set at least 2, or examplar_head_cfg=None",
              f"train_cfg.batch_size=1 {T}.img_size=64",
              "examplar_head_cfg=None"),
    of_config(TUNE, "set auto, cpu, cuda or mps", "train_cfg.device=gpu", "train_cfg.device=cpu"),
    of_config(PRE, f"the same command with --set {T}.on_bad_image=skip", f"{T}.crop_size=None",
              f"{T}.on_bad_image=skip", break_one),
    Case("train.py", "--images {}/images --output {}/run --preset small --epochs 1 --dry_run",
         f"--images: .*the same command with --set {T}.on_bad_image=skip",
         f"--set {T}.on_bad_image=skip", break_one),
    of_config(TUNE, "set max_value", f"{T}.data_format=*.tif",
              f"{T}.max_value=300 {V}.max_value=300", deepen("int16")),
    of_config(TUNE, "or scale='percentile'", f"{T}.data_format=*.tif", f"{T}.scale=percentile",
              deepen("int16")),
    Case("tools/prepare.py", FOLDER, r"or state what it holds by tools/prepare\.py --scale",
         "--scale 0 255", deepen("float32")),
    of_config(TUNE, r"label_codes=\(0, 255\) or label_offset=0", f"{T}.flips=False",
              f"{T}.label_codes=(0,255) {V}.label_codes=(0,255)", relabel({1: 255})),
    of_config(TUNE, "set label_path and label_format", f"{T}.flips=False",
              " ".join(f"{part}.label_format={{stem}}_x.png" for part in (T, V, E)),
              relabel({}, "{}_x.png")),
    of_config(TUNE, "set crop_size", f"{T}.crop_size=None", f"{T}.crop_size=32", resize),
    of_config(TUNE, "norm_eval=False", "train_cfg.norm_eval=True", "train_cfg.norm_eval=False"),
    of_config(TUNE, "leave it out", "train_cfg.log.with_vis=True", "train_cfg.log.with_vis=False"),
    of_config(TUNE, "expected str, not None", f"{T}.image_path=None",
              f"{T}.image_path={{}}/images"),
    Case("tools/prepare.py", OWN, "--classes A B", TWO),
    Case("tools/prepare.py", "folder --source {}/images --tile 64",
         "--output: name the folder of the tiles, or --check", "--check"),
    Case("tools/prepare.py", FOLDER, r"set tools/prepare\.py --max_value, the value",
         "--max_value 300", deepen("uint16")),
    Case("tools/prepare.py", f"{FOLDER} --tile 90", "set --tile 64 or less", "--tile 64"),
    Case("tools/prepare.py", f"{FOLDER} --stride 90", "must be 1 to --tile 64", "--stride 64"),
    Case("tools/prepare.py", f"{OWN} {TWO}", "--label_codes 0 255", "--label_codes 0 77",
         relabel({1: 77})),
    Case("tools/prepare.py", f"{OWN} {TWO} --splits val=0.00001", "name some",
         "--splits val=tile_003"),
    Case("tools/prepare.py", f"{OWN} {TWO} --leave_out tile_9", "there are tile_000",
         "--leave_out tile_000"),
    Case("tools/predict.py", f"{MAP} --input {{}}/images --output {{}}/maps",
         r"give a pattern, '\S*\*.jpg' say", "--input {}/images/*.jpg"),
    Case("tools/predict.py", f"{MAP} --output {{}}/old.tif", "pass --overwrite", "--overwrite",
         lambda folder: (folder / "old.tif").touch()),
    Case("tools/predict.py", f"{MAP} --output {{}}/map.jpg", "or a folder, with / at its end",
         "--output {}/map.jpg/"),
    Case("tools/predict.py", f"{MAP} {{}}/images/tile_001.jpg --output {{}}/map.tif",
         "name a folder", "--output {}/maps"),
    Case("tools/predict.py", f"{MAP} --output {{}}/map.tif --bands 1 2 9", "not band 9 of --bands",
         "--bands 1 2 3"),
    Case("tools/predict.py", f"{DEEP} --output {{}}/map.tif", "pass --max_value", "--max_value 300",
         deepen("int16")),
    Case("tools/export.py", f"{EXPORT} timm --output {{}}/old.pth", "pass --overwrite",
         "--overwrite", lambda folder: (folder / "old.pth").touch()),
    Case("tools/export.py", f"{EXPORT} safetensors --output {{}}/x/net.pth",
         "end with .safetensors", "--output {}/x/net.safetensors"),
    Case("tools/export.py", f"{EXPORT} timm --output {{}}/x/net.pth --preprocess",
         "only for --format onnx", f"{EXPORT} timm --output {{}}/x/net.pth", instead=True),
    Case("tools/show_labels.py", "--tiles {}/images --output {}/a.png", "use --images and --labels",
         f"{SHOW} --output {{}}/a.png", instead=True),
    Case("tools/show_labels.py", "--images {}/images --output {}/a.png",
         "give --labels and --classes too", "--labels {}/labels --classes a b"),
    Case("tools/show_labels.py", f"{SHOW} --output {{}}/a.jpg", "name it like pictures.png",
         "--output {}/pictures.png"),
    Case("tools/show_labels.py", f"{SHOW} --output {{}}/a.png --with c", "the classes are a, b",
         "--with b"),
]  # fmt: skip


@pytest.fixture(scope="module")
def best() -> dict:
    """A fine-tuned network that never learned anything."""
    backbone = dict(name="resnet18", in_channels=3, pretrained=False)
    data = dict(image_path="gone", label_path="gone")
    config = dict(name="tiny", classes=["a", "b"], backbone_cfg=backbone)
    config |= dict(decoder_cfg=dict(name="Decoder"), train_cfg=dict(train_data=data))
    torch.manual_seed(0)
    card = dict(classes=["a", "b"], palette=[[0, 0, 0], [9, 9, 9]], config=config, max_value=None)
    state = build_segmentation(config).state_dict()
    return dict(model=state, step=1, card=card | dict(mean=[0.4] * 3, std=[0.2] * 3))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.script}: {case.said}")
def test_what_is_advised_ends_without_the_message(
    case, best, tmp_path, pretext_config, seg_config, capsys
):
    folder = draw_tiles(tmp_path / "mine", 6)
    if "best.pth" in case.flags:
        checkpoints.write(folder / "best.pth", best)
    case.spoil(folder)
    config = {PRE: pretext_config, TUNE: seg_config, "": None}[case.of]
    if config is not None:
        paths = dict(image_path=f"{folder}/images", label_path=f"{folder}/labels")
        paths = paths if case.of == TUNE else dict(data_path=f"{folder}/images")
        for key in ("train_data", "val_data", "test_data"):
            if config["train_cfg"].get(key):
                config["train_cfg"][key] |= paths | dict(data_format=["*.jpg", "*.tif"])
        config["backbone_cfg"]["pretrained"] = False

    def call(flags: str) -> tuple[int, str]:
        flags = [word.replace("{0}", "{}").replace("{}", str(folder)) for word in flags.split()]
        status = command(case.script, config, tmp_path, *flags, *(["--dry_run"] if config else []))
        return status, "".join(capsys.readouterr())

    status, said = call(case.flags)
    assert status in (1, 2)
    assert re.search(case.said, said), said
    status, said = call(case.advice if case.instead else f"{case.flags} {case.advice}")
    assert status == 0, said
    assert not re.search(case.said, said), said
