"""The files of an examination: doctor.json, all findings, and exclude.txt, images to leave out."""

import json
import os
from pathlib import Path

from SSLRemoteSensing.core.errors import CannotWrite
from SSLRemoteSensing.core.files import write_text
from SSLRemoteSensing.data.file_lists import as_listed
from SSLRemoteSensing.workflows.doctor.examine import Examination
from SSLRemoteSensing.workflows.doctor.findings import as_json


def write_report(examination: Examination, output: Path, complete: bool) -> None:
    """What is known so far: a part that crashes, or the system, must not lose the parts before."""
    report = json.dumps(as_json(examination.sections, complete), indent=2, default=str)
    write_text(output / "doctor.json", report + "\n")
    if examination.unusable is not None:
        write_list(examination.unusable, output / "exclude.txt")


def write_list(unusable: dict[str, str], path: Path) -> None:
    lines = ["# images that training cannot use, written by tools/doctor.py"]
    for image, reason in unusable.items():
        lines.append(f"# {reason}")
        full_path = os.path.abspath(image)
        lines.append(
            full_path if as_listed(full_path) else f"# no line can hold {full_path!r}; rename it"
        )
    text = "\n".join(line if as_listed(line) else repr(line) for line in lines)
    try:
        path.write_bytes(f"{text}\n".encode("utf-8", "surrogateescape"))
    except OSError as error:
        raise CannotWrite(f"{path}: cannot be written ({error.strerror})") from error
