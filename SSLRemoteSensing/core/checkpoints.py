"""Save and read `.pth` files; nothing else in the package touches one. `read` takes safetensors
too.

A torch file is a zip archive with a CRC of each member, by which damage shows. A checkpoint of a
run has the version of its format besides: 2; version 1 had a checksum instead. `backbone.pth`, the
backbone alone under torchvision's names, is a plain state_dict; its card `backbone.json` has the
file's SHA-256.
"""

import errno
import hashlib
import json
import re
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.core.files import atomic, sha256, write_bytes
from SSLRemoteSensing.core.foreign_files import (
    Holder,
    is_safetensors,
    is_zip,
    lines_to_save,
    read_outline,
    safe_globals,
    what_it_is,
)

VERSION = 2
MOST_VALUES = 2**20  # in one file; a list that holds itself has no end
MOST_REPEATED = 2**30  # bytes of tensors beyond what the file has: one value can stand for many
NO_CHECKPOINT, OTHER_FILE = "damaged or no checkpoint", "; take another file, or an epoch_*.pth"


class Damaged(UserError):
    """A file that is no checkpoint, or no longer what was written."""


def read(path: str | Path) -> dict:
    """The contents of a `.pth` file, on the CPU, without running any code that a pickle may carry.

    Objects of plain classes come out as `foreign_files.Holder`. A safetensors file gives its
    tensors by name; one of ours dict(model=tensors, card).

    Raises:
        Damaged: it is not a dict of tensors and plain values, claims more than it holds, or is not
            what was written.
        UserError: no such file, one that the system cannot read or has no memory for, or one of a
            later version.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"weights {path}: {'is a folder' if path.is_dir() else 'no such file'}")
    try:
        is_other = is_safetensors(path) or path.suffix == ".safetensors"
    except OSError as error:  # no permission, a lost mount: the file may be whole
        raise UserError(f"weights {path}: cannot be opened ({error.strerror})") from error
    if is_other:
        return read_safetensors(path)
    try:
        contents = load(path)
    except Exception as error:  # bytes of any kind may stand in the file, and any error come of it
        require_read(error, path)
        raise Damaged(f"weights {path}: refused, {reason_of(error, path)}") from error
    contents.pop("checksum", None)  # of version 1
    version = contents.pop("format_version", 1)
    if isinstance(version, int) and version > VERSION:  # another tool's may be anything
        raise UserError(
            f"weights {path}: format_version {version} is of a later release, this one reads "
            f"{VERSION}; install that release"
        )
    return contents


def require_read(error: Exception, path: Path) -> None:
    """Raise a `UserError` where an error of reading is one of the system, as of a lost mount or too
    little memory: the file may be whole."""
    allocation = re.search(r"you tried to allocate (\d+) bytes", str(error))
    is_of_memory = isinstance(error, MemoryError) or (
        # More than the file has is a claim of the file.
        allocation is not None and int(allocation[1]) <= path.stat().st_size
    )
    # Offsets that a damaged archive claims are invalid arguments.
    if isinstance(error, OSError) and error.errno != errno.EINVAL:
        reason = f"{error.strerror or error}); try again when the disk answers"
    elif is_of_memory:
        reason = "too little memory); end what else takes some, or raise the limit"
    else:
        return
    raise UserError(f"weights {path}: cannot be read ({reason}") from error


def load(path: Path) -> dict:
    if what_it_is(path):
        raise Damaged(NO_CHECKPOINT)
    check_archive(path)
    with warnings.catch_warnings(), torch.serialization.safe_globals(safe_globals()):
        warnings.simplefilter("ignore")
        contents = torch.load(path, map_location="cpu", weights_only=True)
    check_values(contents)
    if isinstance(contents, list | tuple) and any(isinstance(part, dict) for part in contents):
        contents = dict(enumerate(contents))
    if not isinstance(contents, dict):
        raise Damaged(f"holds a {type(contents).__name__}, expected a state_dict{OTHER_FILE}")
    return contents


def reason_of(error: Exception, path: Path) -> str:
    """Why a file is refused, and what to do."""
    reason = None
    if foreign_class := re.search(r"GLOBAL (\S+)", str(error)):
        name = foreign_class[1] if "." in foreign_class[1] else f"builtins.{foreign_class[1]}"
        reason = f"holds a {name}, whose code is not run"
    elif "Unsupported operand" in str(error) and read_outline(path) is not None:
        reason = "has another pickle_protocol than torch's own"
    if reason:
        return (
            f"{reason}; of a file you trust save the weights alone: import torch; "
            f"{lines_to_save(path)}"
        )
    if what := what_it_is(path):
        return f"{NO_CHECKPOINT}; it is {what}"
    return str(error) if isinstance(error, Damaged) else NO_CHECKPOINT + OTHER_FILE


def check_archive(path: Path) -> None:
    """Raise an error for an archive that is not what was written, or that would take more memory
    than it has bytes; torch's older format is none, and has no CRC."""
    if not is_zip(path):
        return
    with zipfile.ZipFile(path) as archive:
        if sum(member.file_size for member in archive.infolist()) > path.stat().st_size:
            raise Damaged(f"claims more bytes than it has{OTHER_FILE}")
        if archive.testzip() is not None:
            outline = read_outline(path)
            if isinstance(outline, dict) and "format_version" in outline:
                raise Damaged(f"damaged, not what was written{OTHER_FILE}")
            raise Damaged(
                "damaged, or saved by a torch that was told to write no CRC; take another copy, or "
                f"of a file you trust: import torch; {lines_to_save(path)}"
            )


def check_values(contents) -> None:
    """Raise an error for more values than a checkpoint has, or a tensor that is not numbers in
    memory of its own."""
    values, count, repeated_bytes = [contents], 0, 0
    while values:
        value = values.pop()
        if isinstance(value, Tensor):
            if value.layout != torch.strided or value.is_meta or value.is_conj():
                raise Damaged(f"holds a tensor that is not plain memory{OTHER_FILE}")
            repeated_bytes += max(0, value.nbytes - value.untyped_storage().nbytes())
        elif isinstance(value, dict | list | tuple):
            values += value.values() if isinstance(value, dict) else value
        elif isinstance(value, Holder):
            values.append(value.state)
        count += 1
        if count > MOST_VALUES or repeated_bytes > MOST_REPEATED:
            raise Damaged(f"claims more than it holds{OTHER_FILE}")


def write(path: str | Path, contents: dict) -> None:
    """Write a checkpoint of a run, whole or not at all (`CannotWrite`)."""
    with atomic(path) as part:
        save(part, contents | {"format_version": VERSION})


def save(path: Path, contents: dict) -> None:
    """torch.save, which tells its own surprise at an error of the system: that one is raised."""
    torch.serialization.set_crc32_options(True)  # torch's default, by which `read` finds damage
    try:
        with path.open("wb") as file:
            torch.save(contents, file)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from error
        raise


def read_network(path: str | Path, classes: Sequence[str]) -> dict:
    """The contents of a run's checkpoint, its network not yet in any module; a `UserError` for one
    of no network, or of other classes."""
    contents = read(path)
    if not isinstance(contents.get("model"), dict):
        raise UserError(
            f"weights {path}: no checkpoint of a network; a backbone.pth goes to --backbone"
        )
    card = contents.get("card")
    card_classes = card.get("classes", list(classes)) if isinstance(card, dict) else list(classes)
    if card_classes != list(classes):
        raise UserError(
            f"weights {path}: trained on classes {card_classes}, the config has {list(classes)}"
        )
    return contents


def load_network(model: nn.Module, contents: dict, source: str | Path) -> None:
    """Load what `read_network` read from `source` into `model`, every entry of it; a `UserError`
    where it is of another network, or not finite."""
    check_finite(contents["model"], source)
    try:
        model.load_state_dict(contents["model"])
    except (KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"weights {source}: not of the config's network ({reason})") from error


def check_finite(weights: dict[str, Tensor], source: str | Path) -> None:
    """Raise a `UserError` that names the first entry of `weights` with NaN or infinity."""
    for name, value in weights.items():
        # As the networks have them: what is too large for their type is infinite there.
        numbers = value.float() if isinstance(value, Tensor) else torch.zeros(0)
        if not numbers.sum().isfinite() and not numbers.isfinite().all():  # a sum can overflow
            raise UserError(
                f"weights {source}: {name} holds values that are not finite; take other weights, "
                f"or an epoch_*.pth from before that"
            )


def export_backbone(folder: Path, weights: dict[str, Tensor], card: dict) -> None:
    """Write `backbone.pth`, a plain state_dict, and its card `backbone.json` with its SHA-256."""
    state = {key: value.detach().cpu().contiguous() for key, value in weights.items()}
    write_plain(folder / "backbone.pth", state, card)


def write_plain(path: Path, contents: dict, card: dict) -> None:
    """Write `contents` to `path`, and its card with its SHA-256 to the `.json` beside; both are
    written before either takes its name."""
    with atomic(path.with_suffix(".json")) as card_part, atomic(path) as part:
        save(part, contents)
        full_card = card | {"sha256": sha256(part)}
        card_part.write_text(json.dumps(full_card, indent=2, default=str) + "\n")


def read_card(path: Path, contents: dict) -> dict:
    """What is known of the weights: from a run's checkpoint or the `.json` beside the file. Raises
    a `UserError` for a card that cannot be read, `Damaged` for the SHA-256 of another file."""
    if isinstance(contents.get("card"), dict):
        return contents["card"]
    card_path = path.with_suffix(".json")
    try:
        card = json.loads(card_path.read_text()) if card_path.is_file() else {}
    except (OSError, ValueError) as error:
        raise UserError(f"card {card_path}: cannot be read ({error}); mend or remove it") from error
    card = card if isinstance(card, dict) else {}
    if "sha256" in card and card["sha256"] != sha256(path):
        raise Damaged(
            f"weights {path}: damaged, or not the file of its card {card_path.name} (another "
            f"SHA-256); take another copy, or remove the card"
        )
    return card


def write_safetensors(path: Path, tensors: dict[str, Tensor], card: dict) -> None:
    """Write `tensors` and their `card`, in JSON's types, whole or not at all."""
    # A tensor each, with memory of its own: the format knows no views.
    copies = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
    texts = {"format": "pt", "card": json.dumps(card), "checksum": checksum(copies)}
    write_bytes(path, safetensors.torch.save(copies, texts))


def read_safetensors(path: Path) -> dict:
    try:
        with safetensors.safe_open(str(path), framework="pt", device="cpu") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            texts = file.metadata() or {}
        card = json.loads(texts["card"]) if {"card", "checksum"} <= texts.keys() else None
    except Exception as error:  # the library's own error, or one of the system's or of torch
        require_read(error, path)
        what = f"; it is {what_it_is(path)}" if what_it_is(path) else "; take another copy"
        if is_zip(path) and not what_it_is(path):
            what = f"; it is one of torch.save: rename it to {path.stem}.pth"
        reason = " ".join(str(error).split())[:120]
        raise Damaged(
            f"weights {path}: refused, damaged or no safetensors file ({reason}){what}"
        ) from error
    if not isinstance(card, dict):  # not one of ours
        return tensors
    if texts["checksum"] != checksum(tensors):
        raise Damaged(f"weights {path}: damaged, not what was written; take another copy")
    return {"model": tensors, "card": card}


def checksum(tensors: dict[str, Tensor]) -> str:
    """A hash of names, types, shapes and numbers: safetensors files have none of their own."""
    hasher = hashlib.blake2b(f"dict {len(tensors)}".encode(), digest_size=16)
    for name, tensor in sorted(tensors.items(), reverse=True):
        hasher.update(f"{tensor.dtype} {tuple(tensor.shape)} {tensor.requires_grad}".encode())
        hasher.update(tensor.flatten().view(torch.uint8).numpy())
        hasher.update(repr(name).encode())
    return hasher.hexdigest()
