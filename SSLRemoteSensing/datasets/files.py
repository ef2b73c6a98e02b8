"""Find the images that a config names."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from SSLRemoteSensing.errors import UserError


def find_images(data_path: str | Path, data_format: str | Sequence[str]) -> list[Path]:
    """Every image of `data_path`, sorted by path, each once.

    Args:
        data_path: a folder, searched with the pattern or patterns of `data_format` (`**` goes into
            sub-folders), or a text file with one path a line, relative to that file's folder.

    Raises:
        UserError: no such folder or file, or nothing found; the message says what is there.
    """
    root = Path(data_path)
    if root.is_file():
        return read_list(root)
    if not root.is_dir():
        raise UserError(f"data_path {root}: no such folder or list file; set data_path")
    patterns = [data_format] if isinstance(data_format, str) else list(data_format)
    try:
        found = {file for pattern in patterns for file in root.glob(pattern) if file.is_file()}
    except (ValueError, NotImplementedError) as error:
        raise UserError(
            f"data_format={data_format!r}: {error}; write it like '**/*.jpg'"
        ) from error
    files = sorted(found)
    if not files:
        endings = Counter(file.suffix or "none" for file in root.rglob("*") if file.is_file())
        there = ", ".join(f"{n} {ending}" for ending, n in endings.most_common(4)) or "no files"
        raise UserError(
            f"data_path {root}: no image matches data_format={data_format!r} (there: {there}); "
            f"set data_format, '**/*.jpg' searches sub-folders"
        )
    return files


def read_list(path: Path) -> list[Path]:
    try:
        lines = [line.strip() for line in path.read_text().splitlines()]
    except UnicodeDecodeError:
        raise UserError(f"data_path {path}: expected a folder or a text file of paths") from None
    files = [path.parent / line for line in lines if line and not line.startswith("#")]
    if not files:
        raise UserError(f"data_path {path}: the list is empty; write one image path a line")
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise UserError(
            f"data_path {path}: {len(missing)} of {len(files)} files do not exist, first "
            f"{missing[0]}"
        )
    return list(dict.fromkeys(files))
