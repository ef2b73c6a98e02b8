"""`sslrs` and `python -m SSLRemoteSensing`: which commands there are, and that they are the same as
the scripts."""

import json
import os
import re
import runpy
import signal
import subprocess
import sys
import sysconfig
import tomllib
import venv
from importlib import metadata
from importlib.metadata import version
from pathlib import Path

import pytest
from conftest import ROOT, draw_tiles
from packaging.requirements import Requirement

from SSLRemoteSensing import __version__
from SSLRemoteSensing.__main__ import COMMANDS, main
from SSLRemoteSensing.commands.show import PICTURES
from SSLRemoteSensing.core import console
from SSLRemoteSensing.core.cli import Flags, parse
from SSLRemoteSensing.core.errors import OF_TRAINING, run_command, stoppable
from SSLRemoteSensing.workflows.presets import FINETUNING, PRETRAINING

WORDS = {name: module for name, (module, _) in COMMANDS.items() if name != "show"}
WORDS |= {f"show {name}": module for name, (module, _) in PICTURES.items()}
SCRIPTS = {command: script for script, command in console.COMMANDS.items()}


@pytest.fixture
def sslrs(monkeypatch, capsys):
    """The program in this process: exit status, stdout, stderr."""

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["/somewhere/bin/sslrs", *words])
        status = 0
        try:
            main()
        except SystemExit as end:
            status = end.code or 0
        return status, *capsys.readouterr()

    return call


# The command line of a program whose package is that of the folder `site` alone.
OF_THE_WHEEL = """
import sys, SSLRemoteSensing
from SSLRemoteSensing.__main__ import main
assert "/env/" in SSLRemoteSensing.__file__, SSLRemoteSensing.__file__
sys.exit(main())
"""


def test_without_a_command_all_are_listed_with_a_line_each_and_versions_are_told(sslrs):
    status, listed, _ = sslrs()
    assert status == 0
    assert sslrs("--help") == sslrs("-h") == (0, listed, "")
    for name, (_, line) in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(line)}$", listed, re.MULTILINE)
    assert all(f"  {name} " in sslrs("show")[1] for name in PICTURES)
    versions = f"SSLRemoteSensing {__version__}\ntorch {version('torch')}\n"
    assert sslrs("--version") == (0, versions, "")


def test_an_unknown_command_is_one_line_with_the_nearest_name(sslrs):
    for words, said in (
        ("pretrian", "no such command, did you mean 'pretrain'?"),
        ("--sett", "no such command, known: "),
        ("show label", "no such command, did you mean 'labels'?"),
    ):
        status, out, error = sslrs(*words.split())
        assert (status, out, error.count("\n")) == (2, "", 1)
        assert error.startswith(f"error: sslrs {words}: {said}")


@pytest.mark.parametrize("words", [*WORDS, "prepare shards"])
def test_a_misspelt_flag_is_named_though_others_are_required(sslrs, words):
    flags = set(re.findall(r"--\w+", sslrs(*words.split(), "--help")[1].partition("\n\n")[0]))
    assert "--version" in flags
    for flag in flags - {"--version"}:
        misspelt = flag[:3] + flag[4:]
        status, out, error = sslrs(*words.split(), misspelt, "x")
        assert (status, out) == (2, "")
        assert error == f"error: {misspelt}: no such flag, did you mean {flag!r}?\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("predict --checkpoint a", "the following arguments are required: --input, --output"),
        ("pretrain --minutes soon", "--minutes: invalid float value: 'soon'"),
        ("pretrain --images", "--images: expected at least one argument"),
        ("pretrain --m 3", "ambiguous option: --m could match --minutes, --max_value"),
        ("prepare shards", "one of the arguments --images --index --check is required"),
        ("prepare shards --index a --check b", "--check: not allowed with argument --index"),
    ],
)
def test_what_argparse_finds_wrong_is_one_line(sslrs, words, said):
    status, out, error = sslrs(*words.split())
    command = " ".join(["sslrs", *(x for x in words.split() if x in (*WORDS, "prepare", "shards"))])
    assert (status, out, error) == (2, "", f"error: {said}; see {command} --help\n")


def test_a_value_with_a_dash_is_told_how_it_is_written(sslrs):
    status, out, error = sslrs("predict", "--scale", "-1,5")
    said = "error: -1,5: no such flag; a value that begins with a dash is written --FLAG=-1,5\n"
    assert (status, out, error) == (2, "", said)


def test_a_misspelt_set_is_told_the_nearest(sslrs):
    for word, known in (("fodler", "folder"), ("shrads", "shards")):
        line = f"error: {word}: no such set, did you mean {known!r}?\n"
        assert sslrs("prepare", word, "--source", "a") == (2, "", line)


def test_values_that_begin_with_a_dash_are_no_flags(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["sslrs", "--scale", "-1", "-.5", "--set=-a", "--", "--x"])
    flags = Flags("")
    flags.add_argument("--scale", nargs=2, type=float)
    flags.add_argument("--set")
    flags.add_argument("rest")
    args = parse(flags)
    assert (args.scale, args.set, args.rest) == ([-1, -0.5], "-a", "--x")


def test_every_script_that_users_know_has_a_command():
    assert set(console.COMMANDS.values()) | {"presets", "report"} == WORDS.keys()


@pytest.mark.parametrize("words", WORDS)
def test_a_command_has_the_flags_of_its_script(sslrs, words, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "100")
    status, text, _ = sslrs(*words.split(), "--help")
    assert status == 0
    assert text.startswith(f"usage: sslrs {words} ")
    assert "python" not in text
    if words not in SCRIPTS:
        return
    monkeypatch.setattr(sys, "argv", [SCRIPTS[words], "--help"])
    script = runpy.run_path(str(ROOT / SCRIPTS[words]))
    with pytest.raises(SystemExit) as end:
        script["main"]()
    assert end.value.code == 0
    known = capsys.readouterr().out
    assert known.startswith(f"usage: {SCRIPTS[words].rpartition('/')[2]} ")
    assert f"    python {SCRIPTS[words]} " in known
    assert re.findall(r"--\w+", known) == re.findall(r"--\w+", text)
    assert f"The same as `sslrs {words}`" in script["__doc__"]
    assert not re.search(r"(?<![\w/.])(tools/\w+|train|finetune_seg)\.py", text)  # a wheel has none


@pytest.mark.parametrize("words", WORDS)
def test_help_loads_neither_torch_nor_the_other_commands(words):
    code = """if True:
        import atexit, runpy, sys
        atexit.register(lambda: print(*sys.modules))
        runpy.run_module('SSLRemoteSensing', run_name='__main__')"""
    command = [sys.executable, "-c", code, *words.split(), "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    expected = {WORDS[words]} | ({"show"} if words.startswith("show ") else set())
    expected |= {"pretrain"} if words == "doctor" else set()  # whose flags it takes
    room = "SSLRemoteSensing.commands."
    assert {name for name in loaded if name.startswith(room)} == {f"{room}{x}" for x in expected}
    assert "torch" not in loaded


def test_presets_have_what_was_measured_of_them_and_nothing_else(sslrs):
    """Figures are those of the file; full takes the steps of standard."""
    file = ROOT / "docs/measurements/benchmark_presets.json"
    figures = json.loads(file.read_text())
    status, out, error = sslrs("presets")
    assert (status, error) == (0, "")
    presets = PRETRAINING | FINETUNING
    for name, preset in presets.items():
        (line,) = (x for x in out.splitlines() if x.startswith(f"  {name} "))
        assert f" {preset.backbone} " in line
        assert re.search(rf" {preset.batch_size} (images|tiles) ", line)
        assert line.endswith(preset.text)
        entry = figures["presets"].get("standard" if name == "full" else name)
        assert ("GiB" in line) == (entry is not None)
        if entry is not None:
            assert (entry["network"], entry["batch_size"]) == (preset.backbone, preset.batch_size)
            memory, rate = entry["peak_memory_gib"], entry["samples_per_second"]
            assert re.search(rf" {memory:.1f} GiB +{rate:.2g} ", line)
    for words in (figures["date"], figures["machine"].partition(",")[0], "not measured"):
        assert words in " ".join(out.split())


def test_weights_load_without_what_draws_or_logs():
    code = "import sys, SSLRemoteSensing; SSLRemoteSensing.load_backbone; print(*sys.modules)"
    line = [sys.executable, "-c", code]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True)
    assert {"tensorboard", "matplotlib", "jinja2"}.isdisjoint(done.stdout.split())


# Begins a program as where `pip install .` found an empty environment.
SMALL = """if True:
    import sys
    sys.modules |= dict.fromkeys({names})
"""


@pytest.fixture(scope="module")
def small() -> str:
    """SMALL without any module that the package's own dependencies do not bring."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    brought, left = {"sslremotesensing"}, [Requirement(line) for line in project["dependencies"]]
    while left:
        wanted = left.pop()
        name, extras = wanted.name.lower().replace("_", "-"), ("", *wanted.extras)
        if brought.issuperset({name, *(f"{name}[{extra}]" for extra in wanted.extras)}):
            continue
        brought |= {name, *(f"{name}[{extra}]" for extra in wanted.extras)}
        for needed in map(Requirement, metadata.requires(name) or ()):
            marker = needed.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras):
                left.append(needed)
    homes = metadata.packages_distributions().items()
    others = {
        module for module, found in homes
        if brought.isdisjoint(name.lower().replace("_", "-") for name in found)
    }  # fmt: skip
    assert others > {"cv2", "rasterio", "timm", "onnx", "pytest", "segmentation_models_pytorch"}
    return SMALL.format(names=sorted(others))


def test_a_small_installation_loads_weights_and_says_what_else_it_takes(
    run, seg_config, tmp_path, small
):
    """torch, torchvision, numpy and safetensors; torchvision brings Pillow, torch Jinja2."""
    seg_config["train_cfg"]["num_step"] = 1
    done = run("finetune_seg.py", seg_config, "--backbone", "random")
    assert done.returncode == 0, done.stderr
    code = """
    import torch, SSLRemoteSensing as sslrs
    image = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    print(sslrs.load_segmentation(sys.argv[1]).logits(image).shape[2:])
    print(sslrs.load_backbone(None, sys.argv[1])["summary"])"""
    line = [sys.executable, "-c", small + code, str(tmp_path / "seg/best.pth")]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "torch.Size([64, 64])" in done.stdout
    assert "entries of" in done.stdout
    code = """
    import runpy
    runpy.run_module("SSLRemoteSensing", run_name="__main__")"""
    words = ["pretrain", "--images", str(ROOT), "--output", str(tmp_path / "new")]
    line = [sys.executable, "-c", small + code, *words]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "pip install '.[train]'" in done.stderr


def test_a_small_installation_can_be_looked_at_and_a_call_says_what_it_takes(small):
    """`inspect` asks each name of the package, as notebooks and type checkers do."""
    code = """
    import inspect, pydoc, SSLRemoteSensing as sslrs
    members = dict(inspect.getmembers(sslrs))
    assert set(sslrs.__all__) <= members.keys() and hasattr(sslrs, "pretrain")
    assert not hasattr(sslrs, "pretrian")
    inspect.signature(sslrs.load_backbone).bind(None, "backbone.pth")
    pydoc.render_doc(sslrs)
    from SSLRemoteSensing import OwnLabels, finetune, predict, pretrain
    for use in (OwnLabels, finetune, predict, pretrain):
        assert str(use) == f"<{use.__doc__}>"
        try:
            use("images", output="run")
        except ImportError as error:
            print(error)"""
    line = [sys.executable, "-c", small + code]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names = ("OwnLabels", "finetune", "predict", "pretrain")
    text = r"SSLRemoteSensing\.{}: \w+ is not installed: .* pip install '\.\[train\]'"
    for name, said in zip(names, done.stdout.splitlines(), strict=True):
        assert re.fullmatch(text.format(name), said)


def test_the_extra_of_training_has_what_its_error_names():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.match(r"[\w-]+", line)[0] for line in project["optional-dependencies"]["train"]}
    modules = {"opencv-python-headless": "cv2", "pillow": "PIL"}
    assert {modules.get(name, name) for name in names} == OF_TRAINING
    base = {re.match(r"[\w-]+", line)[0] for line in project["dependencies"]}
    assert base == {"torch", "torchvision", "numpy", "safetensors"}


MODULE = "python -m SSLRemoteSensing"


@pytest.mark.parametrize(
    ("start", "train", "this"),
    [
        ("tools/predict.py", "python train.py", "python tools/predict.py"),
        ("sslrs show labels", "sslrs pretrain", "sslrs show labels"),
        (f"{MODULE} predict", f"{MODULE} pretrain", f"{MODULE} predict"),
    ],
)
def test_the_next_command_is_named_as_this_one_was_started(monkeypatch, start, train, this):
    monkeypatch.setattr(sys, "argv", [start, "--input", "a b.tif"])
    assert console.command_line("train.py", "--set", "a=1") == f"{train} --set a=1"
    assert console.this_command() == f"{this} --input 'a b.tif'"
    assert console.this_command(["--help"]) == f"{this} --help"
    sentence = "not finished; run tools/prepare.py, /my/train.py is left"
    prepare = "tools/prepare.py" if start.endswith(".py") else "sslrs prepare"
    assert console.as_started(sentence) == sentence.replace("tools/prepare.py", prepare)


def test_a_notebook_is_called_so(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/site/ipykernel_launcher.py", "-f", "/run/kernel-1.json"])
    assert console.this_command() == "a notebook"


def test_sigterm_stops_as_ctrl_c_and_says_what_is_kept(capsys):
    before = signal.getsignal(signal.SIGTERM)

    def work(number: int) -> None:
        with stoppable("stopped; half is kept"):
            os.kill(os.getpid(), number)

    for number in (signal.SIGINT, signal.SIGTERM):
        with pytest.raises(SystemExit) as end:
            run_command(lambda number=number: work(number))
        assert end.value.code == 128 + number
        assert capsys.readouterr().err == "stopped; half is kept\n"
    signal.signal(signal.SIGTERM, before)
    with stoppable("stopped"):
        pass
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """A virtual environment in which the wheel is installed, beside what the tests' own has."""
    pytest.importorskip("setuptools", minversion="77", reason="builds the wheel")
    # A copy: setuptools would leave its build folder in the checkout.
    tmp_path = tmp_path_factory.mktemp("wheel")
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("SSLRemoteSensing", "pyproject.toml", "README.md", "LICENSE", "tools"):
        (tree / name).symlink_to(ROOT / name)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet"]
    command += ["--wheel-dir", str(tmp_path), str(tree)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    folder = tmp_path / "env"
    venv.create(folder, with_pip=False)
    command = [sys.executable, "-m", "pip", "--python", str(folder / "bin/python"), "install"]
    command += [
        "--no-deps",
        "--no-index",
        "--no-compile",
        "--quiet",
        str(next(tmp_path.glob("*.whl"))),
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    others = sysconfig.get_path("purelib")  # whose own .pth files count for nothing here
    (packages(folder) / "of_the_tests.pth").write_text(f"{others}\n")
    return folder


def packages(environment: Path) -> Path:
    return next(environment.glob("lib/*/site-packages"))


def in_wheel(environment: Path, program: str, *words: object) -> str:
    """What a program of the environment prints in an empty folder."""
    folder = environment.parent / "empty"
    folder.mkdir(exist_ok=True)
    own = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [environment / "bin" / program, *map(str, words)], cwd=folder, env=own,
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def by_wheel(environment: Path, code: str, *words: object) -> str:
    """Run `code` in an empty folder, with the package of the wheel alone."""
    return in_wheel(environment, "python", "-P", "-W", "error::ImportWarning", "-c", code, *words)


def test_a_wheel_has_the_commands_and_templates_and_no_tools(wheel, run, seg_config, tmp_path):
    site = packages(wheel)
    names = [path.relative_to(site).as_posix() for path in site.rglob("*") if path.is_file()]
    assert in_wheel(wheel, "sslrs", "--version").startswith(f"SSLRemoteSensing {__version__}\n")
    assert in_wheel(wheel, "sslrs") == in_wheel(wheel, "sslrs", "--help")
    assert {f"SSLRemoteSensing/commands/{module}.py" for module in WORDS.values()} <= set(names)
    assert {"SSLRemoteSensing/__main__.py", "SSLRemoteSensing/py.typed"} <= set(names)
    assert not [name for name in names if name.startswith(("tools", "tests", "configs"))]

    seg_config["train_cfg"]["num_step"] = 1
    done = run("finetune_seg.py", seg_config, "--backbone", "random")
    assert done.returncode == 0, done.stderr
    folder, card = tmp_path / "seg", tmp_path / "card/README.md"
    (folder / "report.html").unlink()
    card.parent.mkdir()
    export = ["--checkpoint", folder / "best.pth", "--format", "torchvision", "--output"]
    for words in (["report", folder], ["export", *export, card.parent / "backbone.pth"]):
        by_wheel(wheel, OF_THE_WHEEL, *words)
    assert "<h1>" in (folder / "report.html").read_text()
    assert "load_state_dict" in card.read_text()


THREE_COMMANDS = OF_THE_WHEEL.replace(
    "sys.exit(main())",
    """
tiny = "train_cfg.batch_size=10 train_cfg.precision=fp32 train_cfg.device=cpu".split()
for words in (
    "pretrain --images images --output pretrained --preset small --epochs 1 --set",
    "finetune --images images --labels labels --classes land roof --output tuned --preset quick "
    "--backbone pretrained/backbone.pth --set train_cfg.num_step=2",
    "predict --checkpoint tuned/best.pth --input images/tile_000.jpg --output map.tif",
):
    sys.argv = ["sslrs", *words.split(), *(tiny if "--set" in words else ())]
    try:
        main()
    except SystemExit as end:
        assert not end.code, end.code
""",
)


def test_a_wheel_goes_the_whole_way_in_an_empty_folder(wheel):
    """Twenty images, their labels, and three commands."""
    folder = draw_tiles(wheel.parent / "empty", 20)
    by_wheel(wheel, THREE_COMMANDS)
    results = json.loads((folder / "tuned/results.json").read_text())
    assert list(results["protocols"]["all"]["per_class"]) == ["land", "roof"]
    assert (folder / "map.tif").is_file()
    assert (folder / "pretrained/config.py").is_file()
