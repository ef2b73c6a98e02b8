"""Everything that the documentation says to type works: commands, Python, links, keys.

Each command of each Markdown file, and of the docstrings of scripts and configs, is of one kind:

    executed   those of the files in EXECUTED, in order, in one folder of drawn data; as they stand,
               with the small sizes of QUICK before and the words of SHORTER replaced
    checked    all others: the script's own parser takes the flags, a config with the `--set` of the
               command passes the check of every key, and the repository's files that it names exist
    known      of other programs: make, pip, git, source, tensorboard, docker; targets of the
               Makefile, extras of pyproject.toml and arguments of the Dockerfile exist

A command that is of no kind fails.
"""

import argparse
import ast
import contextlib
import importlib.util
import json
import re
import runpy
import shlex
import tomllib
from functools import cache
from pathlib import Path

import cv2
import make_configuration_docs
import nbformat
import numpy as np
import pytest
import rasterio
import torch
import yaml
from conftest import ROOT
from demo_scenes.town import draw_town
from documents import Command, anchors, blocks, commands, links, python_blocks, run
from drawn import PLACE

from SSLRemoteSensing.__main__ import COMMANDS as SUBCOMMANDS
from SSLRemoteSensing.core.config import Part, load_config
from SSLRemoteSensing.core.console import COMMANDS
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.models.losses import ExamplarLoss
from SSLRemoteSensing.workflows.pretraining import check_pretext
from SSLRemoteSensing.workflows.segmentation import check_segmentation

EXECUTED = ("docs/getting_started.md", "docs/faq.md", "docs/pretext_tasks.md")
# Of those files, what is only checked, and why.
NOT_EXECUTED = {
    "python tools/benchmark.py": "takes minutes; tests/tools/test_benchmark.py runs it",
    "python -m SSLRemoteSensing": "in running text; tests/commands/test_sslrs.py runs it",
    "python tools/doctor.py --config_file C": "in running text; stands as a block before",
    "python tools/label_efficiency.py --config_file my_cfg.py --dry_run --output runs/mine/grid "
    "--init random=random --init ours=runs/mine/pretrain/backbone.pth --fractions 0.5 1 "
    "--seeds 0 1": "times a cell, 20 s; tests/workflows/test_label_efficiency.py runs it",
}
PRETRAIN = "configs/demo_town_pretrain_resnet18_cfg.py"
SMALL = ["train_cfg.num_workers=0", "train_cfg.batch_size=4", "train_cfg.precision=fp32"]
PRETEXT = [*SMALL, "train_cfg.train_data.img_size=32", "train_cfg.train_data.crop_size=96"]
PRETEXT += ["train_cfg.train_data.post_transforms_cfg=None", "train_cfg.log.log_step=1"]
PRETEXT += ["train_cfg.optimizer={'name': 'SGD', 'lr': 0.0001}"]  # a third of Adam's checkpoints
PRETEXT += ["train_cfg.train_data.data_path=my/images", "train_cfg.train_data.data_format=**/*"]
# `--set` of executed commands, before their own.
QUICK = dict.fromkeys(("tools/doctor.py", "tools/show_pretext.py", "tools/probe.py"), PRETEXT) | {
    "train.py": [*PRETEXT, "train_cfg.num_epoch=None", "train_cfg.num_step=2"],
    "tools/label_efficiency.py": [*SMALL, "train_cfg.num_step=2"],
}
WINDOWS = ["train_cfg.train_data.crop_size=64", "scoring_cfg.overlap=0.0"]
QUICK["finetune_seg.py"] = [*QUICK["tools/label_efficiency.py"], *WINDOWS]
SHORTER = {"train_cfg.num_step=164": "train_cfg.num_step=3", "C": PRETRAIN, "600": "320"}
SHORTER["train_cfg.train_data.img_size=128"] = "train_cfg.train_data.img_size=32"  # of a VGG16
# Where a checked command leaves a word to the reader: what is taken.
PLACEHOLDERS = {
    "COMMAND": "doctor",
    "FORMAT": "onnx",
    "$heads": "agr_head_cfg=None",
    "ARGUMENTS": "--steps=6",
    "N": "4",
}
# The config of a checked command whose file is left to the reader.
CONFIGS = dict.fromkeys(
    ("train.py", "tools/doctor.py", "tools/show_pretext.py", "tools/probe.py"),
    "configs/vr_vgg16_inapinting_agr_examplar_cfg.py",
) | dict.fromkeys(
    ("tools/show_labels.py", "finetune_seg.py", "tools/label_efficiency.py"),
    "configs/seg_potsdam_vgg16_cfg.py",
)
FILES = [path.name for path in ROOT.glob("*.md")]
FILES = sorted([*FILES, *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))])
SCRIPTS = sorted(
    str(file.relative_to(ROOT))
    for folder in (".", "tools", "configs", "SSLRemoteSensing/commands")
    for file in (ROOT / folder).glob("*.py")
)


def draw(path: Path, number: int, size: int = 192) -> None:
    """A drawn town as an image, and where its buildings are as a label."""
    image, label = draw_town(np.random.default_rng([5, number]), size, size)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".tif":
        bands = image.transpose(2, 0, 1)[: 4 if path.parent.name == "four" else 3]
        kind = {"count": len(bands), "height": size, "width": size, "dtype": "uint8"}
        with rasterio.open(path, "w", driver="GTiff", **kind, **PLACE) as file:
            file.write(bands)
    else:
        cv2.imwrite(str(path), image[:, :, 2::-1])
    if "labelled" in path.parts:
        path = path.parents[1] / "labels" / f"{path.stem}.png"
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), np.uint8(label == 1))


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """A folder as the reader's: the repository's commands and configs, and drawn data in my/."""
    folder = tmp_path_factory.mktemp("reader")
    for name in ("train.py", "finetune_seg.py", "tools", "configs"):
        (folder / name).symlink_to(ROOT / name)
    for number in range(8):
        draw(folder / f"my/images/{number}.{('jpg', 'png', 'tif')[number % 3]}", number)
        name = f"area{number}.{('jpg', 'tif')[number % 2]}"
        draw(folder / "my/labelled/images" / name, number, 128)
        draw(folder / f"my/four/{number}.tif", number, 96)
    draw(folder / "my/scenes/north.tif", 9)
    return folder


def is_executed(command: Command) -> bool:
    ours = command.words[0] == "python" and command.file in EXECUTED
    return ours and command.text not in NOT_EXECUTED


def as_run(command: Command) -> list[str]:
    """The words of a command to execute."""
    script, *words = (SHORTER.get(word, word) for word in command.words[1:])
    if script not in QUICK:
        return [script, *words]
    # The published configs have more to make smaller.
    device = ["train_cfg.device=cpu"] if any("vr_" in word for word in words) else []
    return [script, "--set", *QUICK[script], *device, *words]


# The order is that of a reader: the answers of the FAQ use what getting started has made.
def test_the_commands_of_a_reader_run_one_after_another(reader, tmp_path, monkeypatch):
    monkeypatch.chdir(reader)
    count = 0
    for file in EXECUTED:
        named = {name: code for name, code in python_blocks(file) if name is not None}
        for name, code in named.items():
            (reader / name).write_text(code)
        for command in filter(is_executed, commands(file)):
            status, output = run(as_run(command), reader, tmp_path)
            assert status == 0, f"{command}\nended with status {status}:\n{output[-3000:]}"
            count += 1
        for name, code in python_blocks(file):
            if name is None:
                exec(compile(code, file, "exec"), {"images": torch.rand(1, 3, 64, 96)})
    assert count > 15
    results = json.loads((reader / "runs/mine/finetune/results.json").read_text())
    assert results["config"]["classes"] == ["other", "building"]
    text = "".join((ROOT / file).read_text() for file in EXECUTED)
    made = {*re.findall(r"`(runs/[\w./]+|data/mine)`", text), "runs/mine/finetune/report.html"}
    made |= {"runs/mine/maps/north.tif", "runs/mine/maps/north_preview.png"}
    assert [name for name in made if not (reader / name).exists()] == []
    assert not list(tmp_path.iterdir())


@cache
def main_of(script: str):
    return runpy.run_path(str(ROOT / script), run_name="documented")["main"]


def parse(command: Command, words: list[str], monkeypatch) -> argparse.Namespace:
    """The flags, by the script's own parser, before its `main` does anything."""
    original, parsed = argparse.ArgumentParser.parse_args, []

    def stop(self, args=None, namespace=None):
        parsed.append(original(self, args, namespace))
        raise SystemExit

    with monkeypatch.context() as patch, contextlib.suppress(SystemExit, UserError):
        patch.syspath_prepend(str((ROOT / words[0]).parent))
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        patch.setattr("sys.argv", words)
        main_of(words[0])()
    assert parsed, f"{command}: its flags are refused, or none is parsed"
    return parsed[0]


def check_keys(command: Command, script: str, flags: argparse.Namespace) -> None:
    """The config with what `--set` and the flags change passes the check of all keys."""
    named = Path(flags.config_file)
    if not (ROOT / named).exists():
        assert not str(named).startswith("configs/"), f"{command}: there is no {named}"
        named = Path(CONFIGS[script])
    overrides = [text for group in getattr(flags, "set", None) or [] for text in group]
    try:
        config = load_config(ROOT / named, overrides)
        (check_segmentation if "classes" in config else check_pretext)(config)
    except UserError as error:
        pytest.fail(f"{command}: {error}")


def check_ours(command: Command, monkeypatch) -> None:
    words = [PLACEHOLDERS.get(word, word) for word in command.words]
    while words[1].startswith("--"):  # torchrun's own flags
        assert words[0] == "torchrun", command
        del words[1]
    script, *rest = words[1:]
    if script in ("-m", "-c"):
        assert importlib.util.find_spec(rest[0]), command
        return
    assert (ROOT / script).is_file(), f"{command}: there is no {script}"
    if not re.search(r"\bmain\b", (ROOT / script).read_text()):
        assert not rest, f"{command}: {script} takes no flags"
        return
    flags = parse(command, [script, *rest], monkeypatch)
    if script in CONFIGS and getattr(flags, "config_file", None) is not None:
        check_keys(command, script, flags)


def as_script(command: Command) -> Command:
    """`sslrs NAME ...` as the script, or else the module, of that name."""
    _, name, *rest = (PLACEHOLDERS.get(word, word) for word in command.words)
    if name == "show":
        name = f"show {rest.pop(0)}"
    assert name in COMMANDS.values() or name in SUBCOMMANDS, f"{command}: there is no such command"
    scripts = [script for script, other in COMMANDS.items() if other == name]
    script = scripts[0] if scripts else f"SSLRemoteSensing/commands/{SUBCOMMANDS[name][0]}.py"
    return Command(command.file, shlex.join(["python", script, *rest]))


def check_known(command: Command) -> None:
    """A command of a program that is not ours."""
    program, *rest = command.words
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    if program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert rest[0] in targets, command
    elif program == "pip":
        for extra in re.findall(r"\[(\w+)\]", command.text):
            assert extra in project["optional-dependencies"], command
        for file in re.findall(r"-r (\S+)", command.text):
            assert (ROOT / file).is_file(), command
        pinned = (ROOT / "requirements.txt").read_text().split()
        assert {word for word in rest if "==" in word} <= {*pinned}, command
    elif program == "docker":
        arguments = re.findall(r"^ARG (\w+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
        assert set(re.findall(r"--build-arg (\w+)=", command.text)) <= {*arguments}, command
    else:
        assert program in ("git", "source", "tensorboard"), f"{command}: is of no kind"


@pytest.mark.parametrize("file", [*FILES, *SCRIPTS])
def test_every_command_has_the_flags_files_and_keys_that_it_names(file, monkeypatch):
    text = None
    if file.endswith(".py"):
        text = ast.get_docstring(ast.parse((ROOT / file).read_text())) or ""
    for command in commands(file, text):
        if command.words[:2] == ["docker", "run"]:  # the image's own command
            command = Command(file, f"sslrs {command.text.rpartition(' sslrs ')[2]}")
        if command.words[0] == "sslrs":
            script = as_script(command)
            if len(script.words) > 2:  # else it is named in running text
                check_ours(script, monkeypatch)
        elif command.words[0] in ("python", "torchrun"):
            check_ours(command, monkeypatch)
        else:
            check_known(command)


def test_a_misspelt_flag_key_or_file_would_be_found(monkeypatch):
    for text in (
        "python train.py --config_file C --sett a=1",
        "python train.py --config_file C --set train_cfg.optimizer.lrr=1",
        "python train.py --config_file configs/none_cfg.py",
        "python tools/none.py",
        "torchrun --nproc_per_node=2 train.py --config_file C --set train_cfg.batch_size=many",
    ):
        with pytest.raises((pytest.fail.Exception, AssertionError)):
            check_ours(Command("here", text), monkeypatch)
    wrong = (
        "make nothing",
        "pip install -e .[nothing]",
        "docker build --build-arg NO=1 .",
        "curl a",
    )
    for text in wrong:
        with pytest.raises(AssertionError):
            check_known(Command("here", text))


def test_commands_are_found_in_every_form_and_those_not_executed_are_there():
    texts = {command.text for file in EXECUTED for command in commands(file)}
    assert texts >= NOT_EXECUTED.keys()
    text = "Words, `python a.py --b` and `code`.\n\n    python one.py --set a=1 \\\n"
    text += "        b=2          # said\n    torchrun --nproc_per_node=2 two.py\n\n"
    text += "- an item:\n\n      python three.py\n\n"
    text += "```sh\nmake four\n```\n\n    results  no command\n"
    assert [command.words for command in commands("here", text)] == [
        ["python", "one.py", "--set", "a=1", "b=2"],
        ["torchrun", "--nproc_per_node=2", "two.py"],
        ["python", "three.py"],
        ["make", "four"],
        ["python", "a.py", "--b"],
    ]
    with pytest.raises(AssertionError, match="a block of commands and other lines"):
        commands("here", "\n    python one.py\n    python3 two.py\n")
    text = "Words\n    not a block, as it goes on.\n\n    a block\n\n    of two parts\n\nWords\n"
    assert blocks(text) == [("", "    a block\n\n    of two parts\n")]


@pytest.mark.parametrize("file", FILES)
def test_links_and_anchors_lead_somewhere_and_python_blocks_compile(file):
    for name, code in python_blocks(file):
        compile(code, f"{file}, {name}", "exec")
    for link in links(file):
        path, _, anchor = link.partition("#")
        if re.match(r"\w+:", path):
            continue
        target = (ROOT / file).parent / path if path else ROOT / file
        assert target.exists(), f"{file}: {link}"
        if anchor:
            assert anchor in anchors(target), f"{file}: {link}; there are {anchors(target)}"


def test_each_file_is_linked_from_the_index():
    there = {f"docs/{link}" for link in links("docs/README.md")}
    left = {file for file in FILES if file.startswith("docs/")} - {"docs/README.md"} - there
    assert not left
    assert "docs/README.md" in links("README.md")


def test_the_table_of_the_house_names_each_room_on_its_floor():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    layers = project["tool"]["importlinter"]["contracts"][0]["layers"]
    floors = [{name.strip() for name in layer.split("|")} for layer in layers]
    text = (ROOT / "docs/architecture.md").read_text().split("| floor | room |")[1]
    rows = re.findall(r"^\| (\d) \| `(\w+)` \|", text.split("\n\n")[0], re.MULTILINE)
    named = [{room for floor, room in rows if int(floor) == number} for number in range(7, 0, -1)]
    assert named == floors[1:]  # above them stand __main__ and checkpoint alone
    folders = {path.parent.name for path in (ROOT / "SSLRemoteSensing").glob("*/__init__.py")}
    assert folders == set().union(*named)


# docs/configuration.md is written from the code.


def test_the_page_of_keys_is_what_the_code_says():
    written = (ROOT / "docs/configuration.md").read_text()
    fresh = make_configuration_docs.page()
    assert written == fresh, "run: python tools/make_configuration_docs.py"


def test_the_page_has_each_key_of_both_trees():
    """By the keys as tests/golden finds them, without the page's own code."""
    page = (ROOT / "docs/configuration.md").read_text()
    trees = json.loads((ROOT / "tests/golden/expected/keys.json").read_text()).values()
    paths = {path for tree in trees for path, entry in tree.items() if "names" not in entry}
    rows = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    assert {path.rpartition(".")[2] for path in paths} == rows


def test_a_key_without_a_description_is_refused():
    def build(good: int = 1, bad: int = 2):
        """One thing.

        Args:
            good: of some size; a line
                and another.
            gone: was a parameter.
        """

    assert make_configuration_docs.descriptions(build) == {
        "good": "of some size; a line and another.",
        "gone": "was a parameter.",
    }
    assert make_configuration_docs.undescribed(Part(build)) == [
        "build: 'bad' has no entry under Args of its docstring; add it",
        "build: 'gone' is described, but no parameter",
    ]


# Figures that the documentation derives.


def test_the_table_of_the_contrastive_loss_is_what_the_loss_gives():
    text = (ROOT / "docs/pretext_tasks.md").read_text()
    rows = re.findall(r"^\| (\d+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|", text, re.MULTILINE)
    assert [int(row[0]) for row in rows] == [4, 8, 16, 64, 256]
    for row in rows:
        n = int(row[0])
        apart, loss = torch.eye(2 * n), ExamplarLoss()
        alike, corners = torch.ones(n, 8), torch.eye(n) - 1 / n  # of a simplex
        pairs = ((apart[:n], apart[n:]), (alike, alike), (corners, corners))
        assert [f"{loss(*pair):.3f}" for pair in pairs] == list(row[1:])
        lowest = np.log(1 + np.e + (2 * n - 2) * np.exp(-1 / (n - 1))) - 1  # as the FAQ has it
        assert float(row[3]) == pytest.approx(lowest, abs=5e-4)


# The notebook.


def test_the_notebook_runs(reader, tmp_path):
    path = ROOT / "docs/tutorial.ipynb"
    assert path.stat().st_size < 300_000
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    (reader / "tutorial.py").write_text("\n\n".join(code))
    status, output = run(["tutorial.py"], reader, tmp_path)
    assert status == 0, output[-3000:]
    assert "entries of resnet18 loaded" in output
    assert "missing_keys=['fc.weight', 'fc.bias'], unexpected_keys=[]" in output
    assert not list(tmp_path.iterdir())


def test_the_citation_names_this_version_and_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"]
    assert citation["preferred-citation"]["doi"] == "10.1109/JSTARS.2021.3090418"
    assert f"## [{project['version']}]" in (ROOT / "CHANGELOG.md").read_text()
