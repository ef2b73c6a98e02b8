"""Save and read `.pth` files; nothing else in the package touches one. `read` takes `.safetensors`
too.

Checkpoints of a run carry a checksum. `backbone.pth`, the backbone alone under torchvision's names,
is a plain state_dict; its card `backbone.json` has the file's SHA-256.
"""

import hashlib
import json
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.core.files import atomic, sha256, write_bytes

MOST_VALUES = 2**20  # in one file; a dict that holds itself has no end
MOST_REPEATED = 2**30  # bytes of tensors beyond what the file has: one value can stand for many


class Damaged(UserError):
    """A file that is no checkpoint, or no longer what was written."""


def read(path: str | Path, sealed: bool = False) -> dict:
    """The contents of a `.pth` file, on the CPU, without running any code that a pickle may carry.

    A `.safetensors` file gives its tensors by name; one of ours dict(model=tensors, card).

    Args:
        sealed: take only a file with a checksum, as `write` makes them.

    Raises:
        Damaged: it cannot be read, is not a dict of tensors and plain values, claims more than it
            holds, or has not the checksum that it carries.
        UserError: no such file, or one that cannot be opened.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"weights {path}: {'is a folder' if path.is_dir() else 'no such file'}")
    try:
        path.open("rb").close()
    except OSError as error:  # no permission, a lost mount: the file may be whole
        raise UserError(f"weights {path}: cannot be opened ({error.strerror})") from error
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    try:
        require_own_size(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            contents = torch.load(path, map_location="cpu", weights_only=True)
        digest = checksum(contents, without="checksum")
    except Exception as error:  # bytes of any kind may stand in the file, and any error come of it
        is_foreign = "Unsupported global" in str(error) or "Unsupported class" in str(error)
        reason = (
            "holds Python objects besides weights" if is_foreign else "damaged or no checkpoint"
        )
        reason = str(error) if isinstance(error, Damaged) else reason
        raise Damaged(
            f"weights {path}: refused, {reason}; take another file, or an epoch_*.pth"
        ) from error
    if not isinstance(contents, dict):
        raise Damaged(f"weights {path}: holds a {type(contents).__name__}, expected a state_dict")
    if contents.pop("checksum", None if sealed else digest) != digest:
        raise Damaged(f"weights {path}: damaged, not what was written; take an epoch_*.pth")
    return contents


def require_own_size(path: Path) -> None:
    """Raise `Damaged` for an archive that would take more memory than it has bytes."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > path.stat().st_size:
                raise Damaged("claims more bytes than it has")


def read_safetensors(path: Path) -> dict:
    tensors, texts = read_tensors(path)
    card = card_of_texts(texts, path)
    if card is None:
        return tensors
    if texts["checksum"] != checksum(dict(sorted(tensors.items()))):
        raise Damaged(f"weights {path}: damaged, not what was written; take another copy")
    return {"model": tensors, "card": card}


def write_safetensors(path: Path, tensors: dict[str, Tensor], card: dict) -> None:
    """Write `tensors` and their `card`, in JSON's types, whole or not at all."""
    digest = checksum(dict(sorted(tensors.items())))
    write_bytes(path, pack_tensors(tensors, card, digest))


def checksum(contents, without: str | None = None) -> str:
    """A hash of all tensors and plain values in `contents`, at any depth.

    Args:
        without: a key of `contents` to leave out.

    Raises:
        Damaged: more values than a checkpoint has, or a tensor that is not plain memory.
    """
    if isinstance(contents, dict):
        contents = {key: value for key, value in contents.items() if key != without}
    hasher, count, repeated_bytes = hashlib.blake2b(digest_size=16), 0, 0
    stack = [contents]
    while stack:
        value = stack.pop()
        count += 1
        if count > MOST_VALUES:
            raise Damaged("holds itself, or too many values")
        if isinstance(value, Tensor):
            require_memory(value)
            size = value.numel() * value.element_size()
            repeated_bytes += max(0, size - value.untyped_storage().nbytes())
            if repeated_bytes > MOST_REPEATED:
                raise Damaged("claims more bytes than it has")
            hasher.update(f"{value.dtype} {tuple(value.shape)} {value.requires_grad}".encode())
            numbers = value.detach().cpu().contiguous().flatten()
            hasher.update(numbers.view(torch.uint8).numpy())
        elif isinstance(value, dict):
            hasher.update(f"dict {len(value)}".encode())
            stack += [part for pair in value.items() for part in pair]
        elif isinstance(value, list | tuple):
            hasher.update(f"list {len(value)}".encode())
            stack += value
        else:
            hasher.update(repr(value).encode())
    return hasher.hexdigest()


def require_memory(value: Tensor) -> None:
    """Raise `Damaged` for a tensor that is not numbers in memory."""
    if value.layout != torch.strided or value.device.type == "meta" or value.is_conj():
        raise Damaged("holds a tensor that is not plain memory")


def write(path: str | Path, contents: dict) -> None:
    """Write `contents` to `path` with a checksum, whole or not at all.

    Raises:
        CannotWrite: the disk is full, say; what was there before is still there.
    """
    with atomic(path) as part:
        save(part, contents | {"checksum": checksum(contents)})


def save(path: Path, contents: dict) -> None:
    """torch.save, which tells its own surprise at an error of the system: that one is raised."""
    try:
        with path.open("wb") as file:
            torch.save(contents, file)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from error
        raise


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
    card_classes = contents.get("card", {}).get("classes", list(classes))
    if card_classes != list(classes):
        raise UserError(
            f"weights {path}: trained on classes {card_classes}, the config has {list(classes)}"
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
    """Write `backbone.pth`, a plain state_dict, and its card `backbone.json` with its SHA-256."""
    state = {key: value.detach().cpu().contiguous() for key, value in weights.items()}
    write_plain(folder / "backbone.pth", state, card)


def write_plain(path: Path, contents: dict, card: dict) -> None:
    """Write `contents` to `path` without a checksum; the `.json` beside is its card, which has it.

    Both are written before either takes its name.
    """
    with atomic(path.with_suffix(".json")) as card_part, atomic(path) as part:
        save(part, contents)
        full_card = card | {"sha256": sha256(part)}
        card_part.write_text(json.dumps(full_card, indent=2, default=str) + "\n")


def read_card(path: Path, contents: dict) -> dict:
    """What is known of the weights: from a run's checkpoint or the `.json` beside the file.

    Raises:
        UserError: a card that cannot be read.
        Damaged: one that has the SHA-256 of another file.
    """
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


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a file by name, on the CPU, and the texts of its header.

    Raises:
        UserError: damaged, no such file, no safetensors, or the library is not there.
    """
    safetensors = safetensors_library(f"weights {path}")
    try:
        with safetensors.safe_open(str(path), framework="pt", device="cpu") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except Exception as error:  # the library's own error, or one of the system's or of torch
        raise UserError(
            f"weights {path}: refused, damaged or no safetensors file "
            f"({' '.join(str(error).split())[:120]}); take another copy"
        ) from error


def pack_tensors(tensors: dict[str, Tensor], card: dict, checksum: str) -> bytes:
    """The bytes of a file with the tensors and what `read` gives back of the rest."""
    safetensors_library("--format safetensors")
    from safetensors.torch import save

    # A tensor each, with memory of its own: the format knows no views.
    copies = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
    return save(copies, {"format": "pt", "card": json.dumps(card), "checksum": checksum})


def card_of_texts(texts: dict[str, str], path: Path) -> dict | None:
    """The card among the header's `texts`; None in a file that is not ours.

    Raises:
        UserError: a card that is no JSON.
    """
    if "card" not in texts or "checksum" not in texts:
        return None
    try:
        card = json.loads(texts["card"])
    except ValueError as error:
        raise UserError(f"weights {path}: its card is damaged ({error}); take another") from error
    return card if isinstance(card, dict) else None


def safetensors_library(what: str):
    try:
        import safetensors
    except ImportError as error:
        raise UserError(
            f"{what}: safetensors cannot be imported ({error}); pip install safetensors"
        ) from error
    return safetensors
