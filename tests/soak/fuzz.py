"""Damage what users hand in, at random: it must be read, or refused in one line, and nothing else.

    python tests/soak/fuzz.py --cases 20000 --output fuzz.json
    python tests/soak/fuzz.py --cases 50000 --output fuzz.json      # goes on from 20000
    python tests/soak/fuzz.py --case image:173                      # one again, with its traceback

Images, labels, configs (text and values), overrides and checkpoints are damaged by flipped bits, by
bytes cut off, put in and set to extremes, headers more often than the rest. Good outcomes are `ok`
and `refused` (a UserError). Bad ones: `error`, any other exception; `hang`, more than 20 seconds;
`crash`, the end of the process; `memory`, over 1 GiB more for a small file; `let in`, a checkpoint
of a run read as if nothing was wrong, with other contents, or (`foreign`) sound weights of another
tool, under keys and prefixes at random, not found as they are. A case depends on seed, kind and
number alone. Children do the work, so that a crash is seen and counted. Exit status 1: a bad
outcome.
"""

import copy
import json
import os
import re
import resource
import runpy
import shutil
import signal
import sys
import tempfile
import traceback
import zlib
from collections import Counter
from pathlib import Path

from harness import ROOT, differing, flags, in_child, require_no_thread, write

# isort: split
import cv2
import numpy as np
import torch
from foreign import draw_foreign, wrong_names
from PIL import Image

from SSLRemoteSensing.core import checkpoints
from SSLRemoteSensing.core.cli import Flags, read_config
from SSLRemoteSensing.core.config import build, load_config
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.data import images
from SSLRemoteSensing.data.pretext import PretextDataset, PretextSettings
from SSLRemoteSensing.data.scale import up_to
from SSLRemoteSensing.data.segmentation import SegmentationDataset, TileSettings
from SSLRemoteSensing.models.pretrained import backbone_weights, load_backbone
from SSLRemoteSensing.training import run_folder
from SSLRemoteSensing.training.schedules import SCHEDULES
from SSLRemoteSensing.training.settings import CheckpointSettings, LogSettings
from SSLRemoteSensing.workflows.pretraining import check_pretext
from SSLRemoteSensing.workflows.segmentation import check_segmentation

SECONDS = 20  # that a case may take; the machine may be busy
MEMORY = 2**30  # that a case may take more than its process has
LIMIT = 4 * 2**30  # where the system refuses more
CHUNK = 250  # cases of a child
BAD = ("error", "hang", "crash", "memory", "let in")
CONFIGS = ("demo_oam_pretrain_resnet18_cfg.py", "demo_oam_finetune_resnet18_cfg.py")


def main() -> None:
    parser = flags(__doc__, "soak_fuzz.json")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=int, default=20000, help="in all, those in OUTPUT included")
    parser.add_argument("--case", metavar="KIND:NUMBER", help="only this one, its traceback shown")
    args = parser.parse_args()
    require_no_thread()
    with tempfile.TemporaryDirectory(prefix="fuzz_", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        if args.case:
            kind, _, number = args.case.partition(":")
            draw(folder)
            os.chdir(folder)
            outcome = judge(kind, int(number), args.seed, folder, show=True)
            print(json.dumps(outcome, indent=1))
            return
        in_child(draw, folder)  # no thread of OpenCV or torch may start in this process
        found = fuzz(args.cases, args.seed, folder, args.output)
    print(json.dumps(found["figures"], indent=1))
    sys.exit(int(any(found["figures"]["outcomes"].get(bad) for bad in BAD)))


def fuzz(cases: int, seed: int, folder: Path, output: Path) -> dict:
    """Run what is missing of `cases` cases, each kind its share of them; all that is known."""
    found = json.loads(output.read_text()) if output.exists() else {"seed": seed, "kinds": {}}
    assert found["seed"] == seed, f"{output} is of --seed {found['seed']}"
    new = {"done": 0, "outcomes": {}, "bad": [], "most_mb": 0, "most_seconds": 0}
    for kind, (share, _) in KINDS.items():
        entry = found["kinds"].setdefault(kind, copy.deepcopy(new))
        while entry["done"] < round(cases * share):
            last = min(round(cases * share), entry["done"] + CHUNK)
            outcomes = chunk(kind, entry["done"], last, seed, folder)
            entry["done"] += len(outcomes)
            counts = Counter(case["outcome"] for case in outcomes)
            entry["outcomes"] = dict(counts + Counter(entry["outcomes"]))
            entry["bad"] += [case for case in outcomes if case["outcome"] in BAD]
            for key in ("mb", "seconds"):
                entry[f"most_{key}"] = max(entry[f"most_{key}"], *(c[key] for c in outcomes))
            found["figures"] = figures(found["kinds"], seed)
            write(output, found)
    return found


def figures(kinds: dict[str, dict], seed: int) -> dict:
    bad = [case for entry in kinds.values() for case in entry["bad"]]
    times = Counter(case["what"] for case in bad)
    # One of each kind of defect, with the command that shows it.
    again = {case["what"]: f"--seed {seed} --case {case['case']}" for case in bad}
    return {
        "cases": sum(entry["done"] for entry in kinds.values()),
        "outcomes": dict(sum((Counter(entry["outcomes"]) for entry in kinds.values()), Counter())),
        "by_kind": {k: {**entry, "bad": len(entry["bad"])} for k, entry in kinds.items()},
        "defects": {what: {"times": times[what], "again": again[what]} for what in times},
    }


def chunk(kind: str, first: int, last: int, seed: int, folder: Path) -> list[dict]:
    """The outcomes of the cases `first` to `last`, less those after one that ended the child."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)  # decoders write their warnings to the terminal
        os.dup2(nowhere, 2)
        os.chdir(folder)
        cv2.setNumThreads(0)
        held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + LIMIT, held + LIMIT))
        with os.fdopen(writer, "w", buffering=1) as file:
            for number in range(first, last):
                file.write(json.dumps(judge(kind, number, seed, folder)) + "\n")
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        outcomes = [json.loads(line) for line in file.read().splitlines()]
    _, status = os.waitpid(child, 0)
    if len(outcomes) < last - first:
        code = os.waitstatus_to_exitcode(status)
        # What cannot be interrupted, a loop in a decoder, ends by the second alarm.
        outcome = "hang" if code == -signal.SIGALRM else "crash"
        case = {"case": f"{kind}:{first + len(outcomes)}", "outcome": outcome, "mb": 0}
        outcomes.append(case | {"what": f"{kind}: {outcome}, status {code}", "seconds": 0})
    return outcomes


class Hang(BaseException):
    """A case took too long."""


def judge(kind: str, number: int, seed: int, folder: Path, show: bool = False) -> dict:
    """Run one case; its outcome, with what it took."""

    def late(*_):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(SECONDS)
        raise Hang

    rng = np.random.default_rng([seed, list(KINDS).index(kind), number])
    Path("/proc/self/clear_refs").write_text("5")  # the peak below begins anew
    before = peak()
    began = os.times().elapsed
    signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    what = None
    try:
        what = KINDS[kind][1](rng, folder)
        outcome = "let in" if what else "ok"
    except Hang:
        outcome, what = "hang", f"{kind}: more than {SECONDS} s"
    except BaseException as error:  # SystemExit too: only the commands may end the process
        refused = isinstance(error, UserError)
        outcome, what = ("refused", None) if refused else ("error", signature(error))
        if show:
            traceback.print_exc()
    finally:
        signal.alarm(0)
    took = peak() - before
    if took > MEMORY and outcome in ("ok", "refused"):
        outcome, what = "memory", f"{kind}: {took >> 20} MB"
    result = {"case": f"{kind}:{number}", "outcome": outcome, "mb": took >> 20}
    return result | {"what": what, "seconds": round(os.times().elapsed - began, 2)}


def peak() -> int:
    """The most memory this process had at a time, in bytes, since clear_refs."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024


def signature(error: BaseException) -> str:
    """What tells one defect from another: the type, and where in our code it came out."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "SSLRemoteSensing/" in frame.filename]
    where = f"{Path(ours[-1].filename).name}:{ours[-1].name}" if ours else "outside"
    said = re.sub(r"/\S+|0x\w+|\d+", "_", " ".join(str(error).split()))
    return f"{type(error).__name__} in {where}: {said[:100]}"


# What is damaged.


def draw(folder: Path) -> None:
    """Whole files of every kind, small, in `folder`."""
    from conftest import draw_tiles
    from drawn import write_tiff

    draw_tiles(folder / "tiles", 8, size=48)
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 256, (40, 52, 3), np.uint8)
    colour[5:30, 10:40] = (90, 120, 60)  # something that compresses
    deep = colour.astype(np.uint16) * 257
    images, labels = folder / "images", folder / "labels"
    images.mkdir()
    labels.mkdir()
    grey, alpha = colour[:, :, 0], np.dstack([colour, colour[:, :, :1]])
    written = {"colour.jpg": colour, "grey.jpg": grey, "colour.png": colour, "grey.png": grey}
    for name, pixels in (written | {"deep.png": deep, "alpha.png": alpha}).items():
        cv2.imwrite(str(images / name), pixels)
    photograph = Image.fromarray(colour)
    photograph.convert("CMYK").save(images / "cmyk.jpg")
    photograph.save(images / "progressive.jpg", progressive=True)
    photograph.quantize(16).save(images / "palette.png")
    photograph.quantize(16).save(images / "palette.tif")
    planes = colour.transpose(2, 0, 1)
    write_tiff(images / "plain.tif", planes)
    write_tiff(images / "packed.tif", planes, compress="deflate", predictor=2)
    write_tiff(images / "lzw.tif", deep.transpose(2, 0, 1), compress="lzw")
    write_tiff(images / "tiled.tif", planes, tiled=True, blockxsize=16, blockysize=16)
    write_tiff(images / "jpeg.tif", planes, compress="jpeg", interleave="pixel")
    write_tiff(images / "float.tif", planes.astype(np.float32))
    classes = (grey // 64).astype(np.uint8)
    Image.fromarray(classes).save(labels / "grey.png")
    Image.fromarray(classes > 1).save(labels / "one_bit.png")
    Image.fromarray(classes).quantize(4).save(labels / "palette.png")
    cv2.imwrite(str(labels / "deep.png"), classes.astype(np.uint16))
    write_tiff(labels / "label.tif", classes)
    write_tiff(labels / "packed.tif", classes, compress="deflate")

    torch.manual_seed(0)
    weights = {"features.0.weight": torch.randn(8, 3, 3, 3), "features.0.bias": torch.randn(8)}
    moments = {0: {"step": torch.tensor(3.0), "exp_avg": torch.randn(8, 3, 3, 3)}}
    state = {
        "model": {f"backbone.{key}": value for key, value in weights.items()},
        "optimizer": {"state": moments, "param_groups": [{"lr": 0.1, "params": [0, 1]}]},
        "best": 0.5,
        "images": 24,
        "processes": [{"random": {"cpu": torch.get_rng_state(), "cuda": None}, "history": {}}],
        "card": {"name": "vgg16", "config": {"a": [1, 2.5, None, "x"]}},
        **{"step": 7, "epoch": 1, "offset": 8, "per_step": 4},
    }
    (folder / "whole").mkdir()
    checkpoints.write(folder / "whole/latest.pth", state)
    checkpoints.export_backbone(folder / "whole", weights, {"name": "vgg16", "epoch": 1})


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """`data` with one to four changes; half of them within the first 200 bytes, the header."""
    data = bytearray(data)
    for _ in range(int(rng.choice([1, 1, 1, 2, 3, 4]))):
        end = len(data) if rng.random() < 0.5 else min(len(data), 200)
        at = int(rng.integers(max(1, end)))
        change = int(rng.integers(7))
        if not data:
            break
        if change == 0:
            data[at] ^= 1 << int(rng.integers(8))
        elif change == 1:
            data[at] = int(rng.integers(256))
        elif change == 2:
            del data[int(rng.integers(len(data))) :]
        elif change == 3:
            data[at:at] = rng.bytes(int(rng.integers(1, 40)))
        elif change == 4:
            del data[at : at + int(rng.integers(1, 40))]
        elif change == 5:  # what sizes and offsets are: the extremes of two or four bytes
            size = int(rng.choice([2, 4]))
            number = int(rng.choice([0, 1, 0x7F, 0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFFFFFF]))
            order = str(rng.choice(["big", "little"]))
            data[at : at + size] = (number & (1 << 8 * size) - 1).to_bytes(size, order)
        else:
            other = int(rng.integers(len(data)))
            piece = data[other : other + int(rng.integers(1, 64))]
            data[at : at + len(piece)] = piece
    return bytes(data)


def damaged_file(folder: Path, kind: str, rng: np.random.Generator) -> Path:
    whole = sorted((folder / kind).iterdir())
    chosen = whole[int(rng.integers(len(whole)))]
    data = bytearray(damaged(chosen.read_bytes(), rng))
    if chosen.suffix == ".png" and rng.random() < 0.5 and len(data) > 33:
        # The header's checksum is mended, as a decoder would stop there otherwise.
        data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    path = folder / f"damaged{chosen.suffix}"
    path.write_bytes(data)
    return path


ARGUMENTS = (
    *(dict(in_channels=3), dict(in_channels=3, scale=up_to(1023.0))),
    *(dict(in_channels=1, bands=(1,)), dict(in_channels=4)),
)


def read_image(rng: np.random.Generator, folder: Path) -> None:
    path = damaged_file(folder, "images", rng)
    images.read_header(path)
    image = images.read_image(path, **ARGUMENTS[int(rng.choice(4, p=[0.6, 0.2, 0.1, 0.1]))])
    assert (image.dtype, image.ndim) == (np.uint8, 3)


def read_label(rng: np.random.Generator, folder: Path) -> None:
    path = damaged_file(folder, "labels", rng)
    images.read_header(path)
    label = images.read_label(path)
    assert (label.dtype, label.ndim) == (np.uint8, 2)


def read_config_text(rng: np.random.Generator, folder: Path) -> None:
    name = CONFIGS[int(rng.integers(2))]
    text = (ROOT / "configs" / name).read_bytes()
    start = text.index(b'"""\n\n') + 4  # behind the docstring
    path = folder / name
    path.write_bytes(damaged_text(text, start, rng))
    (check_pretext if "pretrain" in name else check_segmentation)(load_config(path))


def damaged_text(text: bytes, start: int, rng: np.random.Generator) -> bytes:
    """`text` with words swapped, left out and replaced, or bytes damaged, after `start`."""
    head, body = text[:start], text[start:]
    if rng.random() < 0.3:
        return head + damaged(body, rng)
    words = re.split(rb"(\W)", body)
    for _ in range(int(rng.integers(1, 4))):
        at, other = (int(i) for i in rng.integers(len(words), size=2))
        strange = [b"", b"None", b"-1", b"[", b"1e999", b"0", b"''", b"{}", words[other]]
        words[at] = strange[int(rng.integers(len(strange)))]
    return head + b"".join(words)


STRANGE = [
    *(None, True, False, 0, -1, 1, 2, 3, 7, 33, 64, 2**31, 2**63, 10**30),
    *(0.0, -0.5, 0.5, 1.0, 1.5, 2.5, 1e-320, 1e308),
    *(float("nan"), float("inf"), float("-inf"), 1j, b"bytes", {1, 2}, object, range(3)),
    *("", "x", "\x00", "a" * 5000, "\ud800", "nowhere/at/all", "random", "**", "[", "../x", "~"),
    *([], (), {}, [[]], [None], [0], [-1, 2.5], (0.5, 0.1), (1, 2, 3, 4), [{}], {"name": "x"}),
    *({"name": None}, {None: None}, {1: 2}, {"name": ["x"]}, [1] * 1000, ["a", "b"], [["x"]]),
]


def damage_values(config: dict, rng: np.random.Generator) -> None:
    """One to three values at any depth replaced, left out, renamed or put in.

    Half of them stay of their type, so that they come past the check of types.
    """
    for _ in range(int(rng.choice([1, 1, 2, 3]))):
        owners, waiting = [], [config]
        while waiting:
            part = waiting.pop()
            if isinstance(part, dict) and part:
                owners.append(part)
                waiting += part.values()
        if not owners:
            return
        owner = owners[int(rng.integers(len(owners)))]
        key = list(owner)[int(rng.integers(len(owner)))]
        way = int(rng.integers(8))
        alike = [value for value in STRANGE if type(value) is type(owner[key])]
        pool = alike if way > 3 and alike else STRANGE
        value = copy.deepcopy(pool[int(rng.integers(len(pool)))])
        if way == 0:
            del owner[key]
        elif way == 1:
            owner[f"{key}s"] = owner.pop(key)
        elif way == 2:
            owner[str(rng.choice(["name", "extra", "device", "seed", "bands"]))] = value
        else:
            owner[key] = value


def strange_config(rng: np.random.Generator, folder: Path) -> tuple[dict, bool]:
    pretrains = bool(rng.integers(2))
    config = load_config(ROOT / "configs" / CONFIGS[0 if pretrains else 1])
    train, tiles = config["train_cfg"], folder / "tiles"
    train |= {"device": "cpu", "precision": "fp32", "batch_size": 2, "num_workers": 0}
    images, labels = str(tiles / "images"), str(tiles / "labels")
    if pretrains:
        train["train_data"] |= {"data_path": images, "data_format": "*.jpg", "img_size": 32}
    else:
        paths = {"image_path": images, "label_path": labels, "data_format": "*.jpg"}
        train["train_data"] |= paths | {"hash_range": (0, 1), "crop_size": 32}
        train["val_data"] |= paths | {"hash_range": (0, 1)}
        train["test_data"] |= paths
    damage_values(config, rng)
    return config, pretrains


def use_config(rng: np.random.Generator, folder: Path) -> None:
    """Check a config and build what of it takes no time: data, a sample, schedule, settings."""
    config, pretrains = strange_config(rng, folder)
    (check_pretext if pretrains else check_segmentation)(config)
    train = config["train_cfg"]
    CheckpointSettings(**train["checkpoints"])
    LogSettings(**train["log"])
    if train.get("lr_schedule"):
        build(SCHEDULES, train["lr_schedule"], "train_cfg.lr_schedule")(3, 10, 1)
    if pretrains:
        data = PretextDataset(PretextSettings(**train["train_data"]), in_channels=3, seed=0)
    else:
        settings, classes = TileSettings(**train["train_data"]), len(config["classes"])
        data = SegmentationDataset(settings, classes, in_channels=3, seed=0)
    data[(0, int(rng.integers(len(data))))]


def run_config(rng: np.random.Generator, folder: Path) -> None:
    """One rehearsed step of a command with a strange config."""
    config, pretrains = strange_config(rng, folder)
    if "/dev" in repr(config) or not isinstance(config, dict):
        return
    path = folder / "strange.py"
    try:
        path.write_text(f"config = {config!r}\n")
    except UnicodeEncodeError:
        return
    sys.argv = ["x.py", "--config_file", str(path), "--dry_run"]
    runpy.run_path(str(ROOT / ("train.py" if pretrains else "finetune_seg.py")))["main"]()


def override_config(rng: np.random.Generator, folder: Path) -> None:
    sound = ["train_cfg.batch_size=4", "backbone_cfg.mean=(0.1,0.2,0.3)", "train_cfg.log.x={'a':1}"]
    given = []
    for _ in range(int(rng.integers(1, 4))):
        text = damaged(sound[int(rng.integers(len(sound)))].encode(), rng)
        given.append(text.decode(errors="surrogateescape").replace("\0", "0"))
    words = ["--config_file", str(ROOT / "configs" / CONFIGS[0]), "--set=" + given[0]]
    args = Flags("fuzz").config().parse_args(words)
    args.set += [given[1:]]
    check_pretext(read_config(args))


def read_latest(rng: np.random.Generator, folder: Path) -> str | None:
    """A checkpoint of a run is what was written, or it is refused."""
    whole, at = folder / "whole/latest.pth", folder / "run"
    shutil.rmtree(at, ignore_errors=True)
    at.mkdir()
    data = bytearray(whole.read_bytes())
    if rng.random() < 0.3:  # one bit alone: in a tensor's bytes no decoder would notice
        data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
    else:
        data = damaged(data, rng)
    (at / "latest.pth").write_bytes(data)
    state, expected = run_folder.read(at), checkpoints.read(whole)
    return "latest.pth: read with other contents" if differing(state, expected) else None


def read_backbone(rng: np.random.Generator, folder: Path) -> str | None:
    """So is a backbone beside its card; without the card it has no checksum."""
    at = folder / "exported"
    path, card = at / "backbone.pth", at / "backbone.json"
    shutil.rmtree(at, ignore_errors=True)
    shutil.copytree(folder / "whole", at)
    path.write_bytes(damaged(path.read_bytes(), rng))
    if rng.random() >= 0.5:
        card.unlink()
    elif rng.random() < 0.3:
        card.write_bytes(damaged(card.read_bytes(), rng))
    contents = checkpoints.read(path)
    checkpoints.read_card(path, contents)
    state = backbone_weights(contents)[0]
    expected = backbone_weights(checkpoints.read(folder / "whole/backbone.pth"))[0]
    intact = card.exists() and "sha256" in json.loads(card.read_text())
    if intact and differing(state, expected):
        return "backbone.pth: read with other contents beside its card"
    load_backbone(None, path, strict=False)
    return None


def find_foreign(rng: np.random.Generator, folder: Path) -> str | None:
    """Sound weights of another tool are found, whatever stands before their names."""
    path = folder / "foreign.pth"
    weights = draw_foreign(rng, path)
    try:
        names = wrong_names(path, weights)
    except UserError as error:
        return f"foreign: {error}"
    return f"foreign: {names[0]} is not as it was" if names else None


# kind -> its share of the cases, and what runs one. The order numbers the random generators.
KINDS = {
    "image": (0.35, read_image),
    "label": (0.15, read_label),
    "config_text": (0.1, read_config_text),
    "config_values": (0.1, use_config),
    "override": (0.045, override_config),
    "latest": (0.13, read_latest),
    "backbone": (0.07, read_backbone),
    "dry_run": (0.005, run_config),
    "foreign": (0.05, find_foreign),
}


if __name__ == "__main__":
    main()
