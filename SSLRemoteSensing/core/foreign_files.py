"""Files of other tools: what a file is that is no checkpoint, and what may stand beside weights.

Nothing of another tool is imported, called or run: a `Holder` stands for each object.
"""

import pickle
import re
import zipfile
from collections import Counter, OrderedDict
from pathlib import Path

# Classes that hold settings, numbers, names or dates.
HOLDERS = {
    "argparse": "Namespace",
    "types": "SimpleNamespace",
    "builtins": "bool bytes dict float frozenset int list range slice str tuple",
    "datetime": "date datetime time timedelta timezone",
    "decimal": "Decimal",
    "fractions": "Fraction",
    "uuid": "UUID",
    "typing": "Any",
    "torch.torch_version": "TorchVersion",
    "numpy": "ndarray dtype bool bool_ str_ float16 float32 float64 int8 int16 int32 int64 uint8 "
    "uint16 uint32 uint64",
    "omegaconf.base": "ContainerMetadata Metadata",
    "omegaconf.dictconfig": "DictConfig",
    "omegaconf.listconfig": "ListConfig",
    "omegaconf.nodes": "AnyNode BooleanNode FloatNode IntegerNode StringNode",
    "mmengine.logging.history_buffer": "HistoryBuffer",
}
for module in ("pathlib", "pathlib._local"):  # the latter: Python 3.13
    HOLDERS[module] = "Path PosixPath WindowsPath PurePath PurePosixPath PureWindowsPath"
for module in ("numpy.core", "numpy._core"):  # before NumPy 2, and since
    HOLDERS[f"{module}.multiarray"] = "_reconstruct scalar"
    HOLDERS[f"{module}.numeric"] = "_frombuffer"
# Those that are dicts.
MAPPINGS = {
    "collections": "defaultdict",
    "addict.addict": "Dict",
    "easydict": "EasyDict",
    "yacs.config": "CfgNode",
    "mmcv.utils.config": "ConfigDict",
    "mmengine.config.config": "ConfigDict",
    "pytorch_lightning.utilities.parsing": "AttributeDict",
    "lightning_fabric.utilities.data": "AttributeDict",
    "lightning.fabric.utilities.data": "AttributeDict",
}


class Holder:
    """An object of a class that is not imported; `state` is what the file has in it."""

    state = ()

    def __init__(self, *args):
        self.state = args

    def __setstate__(self, state):
        self.state = state


class Mapping:
    """Stands for the class of a dict; its objects become plain ones."""

    def __new__(cls, *args):
        return OrderedDict()


class Sequence:
    """Stands for the class of a list; its objects become plain ones."""

    def __new__(cls, *args):
        return []


def safe_globals() -> list[tuple[type, str]]:
    """What `torch.serialization.safe_globals` takes."""
    return [
        (stand_in, f"{module}.{name}")
        for stand_in, table in (
            (Holder, HOLDERS),
            (Mapping, MAPPINGS),
            (Sequence, {"collections": "deque"}),
        )
        for module, names in table.items()
        for name in names.split()
    ]


DEPTH = 16  # of dicts within dicts
ZIP_END = 2**16 + 22  # bytes, in the last of which a zip archive says that it is one

# How files begin that people take for weights, and what these are.
TORCH_MAGIC = rb"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"  # the first number in torch's older format
WEB_PAGE = rb"(?i)(\xef\xbb\xbf)?\s*<(!doctype|html|head|body|script|\?xml|!--)"
BEGINNINGS = {
    rb"\Z": "empty: copy or download it again",
    rb"version https://git-lfs": "a Git LFS pointer of {size} bytes, not the weights: git lfs pull",
    WEB_PAGE: "a web page, not the weights: open it in a browser to see what it wants",
    rb"PK\x03\x04": "cut off after {size} bytes: copy or download it again",
    rb"\x1f\x8b|BZh|\xfd7zXZ|7z\xbc\xaf|Rar!|\x28\xb5\x2f\xfd": "compressed: unpack it first",
    rb".{257}ustar": "a tar archive: unpack it first",
    rb"\x89HDF": "an HDF5 file, as Keras writes them: take weights of PyTorch",
    rb"\x93NUMPY": "a NumPy array: take weights of PyTorch",
    rb"\x08[\x01-\x20][\x12\x1a:B]": "an ONNX or TensorFlow graph: take weights of PyTorch",
    rb"GGUF|....TFL3": "a file of a network for small machines: take weights of PyTorch",
    rb"\x89PNG|\xff\xd8\xff|II\*\0|MM\0\*": "an image: take another file",
    rb"%PDF": "a PDF document: take another file",
    rb"\x80[\x02-\x05](?!.{0,9}" + TORCH_MAGIC + rb")": (
        "a pickle that torch.save did not write; of a file you trust: import pathlib, pickle, "
        "torch; torch.save(pickle.loads(pathlib.Path({path!r}).read_bytes()), 'weights.pth')"
    ),
    rb"[\t\n\r\x20-\x7e]+\Z": "a text of {size} bytes, not the weights: take another file",
}


def is_safetensors(path: Path) -> bool:
    """Whether a file begins as safetensors do: the header's length, and a JSON object."""
    with path.open("rb") as file:
        start = file.read(9)
    return start[8:] == b"{" and int.from_bytes(start[:8], "little") <= path.stat().st_size - 8


def is_zip(path: Path) -> bool:
    """As `zipfile.is_zipfile`, which takes an error of reading for a no: that one is raised."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - ZIP_END))
        file.read()
        return zipfile.is_zipfile(file)


def what_it_is(path: Path) -> str | None:
    """What a file is that torch.save did not write, and what to do; None: not known."""
    if is_zip(path):
        try:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
        except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile):
            return None
        inside = [name.rpartition("/")[2] for name in names]
        if "constants.pkl" in inside:
            text = "a TorchScript archive: import torch; torch.save(torch.jit.load({path!r}, "
            text += "'cpu').state_dict(), 'weights.pth')"
        elif "data.pkl" in inside:
            return None
        else:
            examples = ", ".join(names[:3]) or "nothing"
            text = f"a zip archive that holds {examples}: unpack it first"
            if names and all(name.endswith(".npy") for name in names):
                text = "NumPy arrays (.npz): take weights of PyTorch"
            return text
    else:
        with path.open("rb") as file:
            start = file.read(512)
        texts = (text for key, text in BEGINNINGS.items() if re.match(key, start, re.DOTALL))
        text = next(texts, None)
    return text and text.format(size=path.stat().st_size, path=str(path))


class OutlineHolder(Holder):
    """Of any class, also one of dicts or lists, or of a function."""

    def __call__(self, *args):
        return self

    def __setitem__(self, key, value):
        pass

    def append(self, value):
        pass


class Outline(pickle.Unpickler):
    """Reads a pickle of any protocol as dicts, lists and holders; no tensor has its numbers."""

    def find_class(self, module: str, name: str) -> type:
        if (module, name) == ("collections", "OrderedDict"):
            return Mapping
        return type(name, (OutlineHolder,), {"__module__": module})

    def persistent_load(self, key):
        """The class of a module, which the older format has here; of a tensor, nothing."""
        return key[1] if key[0] in ("module", b"module") else None


def lines_to_save(path: Path) -> str:
    """The two lines of Python that save the weights in `path` alone, by running what it holds."""
    outline = read_outline(path)
    weights = f"contents{place_of_weights(outline)}"
    values = outline.values() if isinstance(outline, dict) else ()
    if weights == "contents" and any(map(is_tensor, values)):
        weights = "{k: v for k, v in contents.items() if isinstance(v, torch.Tensor)}"
    return (
        f"contents = torch.load({str(path)!r}, map_location='cpu', weights_only=False); "
        f"torch.save({weights}, 'weights.pth')"
    )


def read_outline(path: Path):
    """What is in a file of torch.save, without its numbers; None where it cannot be read."""
    try:
        if is_zip(path):
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
                member = next(name for name in names if name.rpartition("/")[2] == "data.pkl")
                with archive.open(member) as file:
                    return Outline(file).load()
        with path.open("rb") as file:
            for _ in range(3):  # the older format: a magic number, a version, the system's sizes
                Outline(file).load()
            return Outline(file).load()
    except Exception:  # bytes of any kind may stand there
        return None


def place_of_weights(outline) -> str:
    """Where in `outline` most tensors stand, as Python writes it, or a module, for its
    state_dict."""
    places, parts = Counter({"": 0}), [("", outline)]
    for _ in range(DEPTH):
        inner_parts = []
        for place, part in parts:
            suffix = "[{!r}]"
            if isinstance(part, Holder) and not is_tensor(part):
                part, suffix = part.state, ".{}"
                if not isinstance(part, dict):
                    continue
                if "_modules" in part:  # a network that was saved whole
                    places[f"{place}.state_dict()"] += 2 + len(part["_modules"])
                    continue
            if isinstance(part, list | tuple):
                part = dict(enumerate(part))
            if isinstance(part, dict):
                places[place] += sum(map(is_tensor, part.values()))
                inner_parts += [(place + suffix.format(k), value) for k, value in part.items()]
        parts = inner_parts[:10_000]
    return max(places, key=places.get)


def is_tensor(value) -> bool:
    return isinstance(value, Holder) and type(value).__module__ in ("torch._utils", "torch._tensor")
