"""Read and write `.safetensors`: tensors and a few texts, no code. The library comes on first use.

Files of ours carry their card (JSON) and a checksum of the tensors in the header's texts.
"""

import json
from pathlib import Path

from torch import Tensor

from SSLRemoteSensing.errors import UserError


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a file by name, on the CPU, and the texts of its header.

    Raises:
        UserError: damaged, no such file, no safetensors, or the library is not there.
    """
    safetensors = library(f"weights {path}")
    try:
        with safetensors.safe_open(str(path), framework="pt", device="cpu") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except Exception as error:  # the library's own error, or one of the system's or of torch
        raise UserError(
            f"weights {path}: refused, damaged or no safetensors file "
            f"({' '.join(str(error).split())[:120]}); take another copy"
        ) from error


def packed(tensors: dict[str, Tensor], card: dict, checksum: str) -> bytes:
    """The bytes of a file with the tensors and what `read` gives back of the rest."""
    library("--format safetensors")
    from safetensors.torch import save

    # A tensor each, with memory of its own: the format knows no views.
    plain = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
    return save(plain, {"format": "pt", "card": json.dumps(card), "checksum": checksum})


def card_of(texts: dict[str, str], path: Path) -> dict | None:
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


def library(what: str):
    try:
        import safetensors
    except ImportError as error:
        raise UserError(
            f"{what}: safetensors cannot be imported ({error}); pip install safetensors"
        ) from error
    return safetensors
