"""What the bytes of a file tell, whatever its ending: its format, its end, how viewers turn it."""

import re
import shlex
import struct
from collections.abc import Iterator
from typing import BinaryIO

HEAD = 26  # bytes of a file that the functions here take as its `head`
JPEG, PNG = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"
TIFF_BEGINS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
JPEG_2000_BEGINS = (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")  # in boxes, and the bare code
# Markers of a JPEG but for FF00 and FFD0 to FFD7, which stand within a scan, and fill bytes.
MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
ORIENTATION = 274  # the tag of TIFF and EXIF: 1 as stored, 2 to 8 mirrored or turned


def png_kind(head: bytes) -> tuple[int, int] | None:
    """Bits a value and type of colour (0 grey, 2 RGB, 3 palette, 4 and 6 with alpha) of a PNG."""
    return (head[24], head[25]) if head.startswith(PNG) and len(head) >= HEAD else None


def has_transparency(data: bytes) -> bool:
    """Whether a PNG's pixels may be transparent, by an alpha band or a chunk that says so."""
    return data[25:26] in (b"\4", b"\6") or data.find(b"tRNS", 0, data.find(b"IDAT")) > 0


def is_whole(data: bytes) -> bool:
    """Whether the picture that a JPEG begins with has its end (FFD9).

    Cameras and telephones put other pictures and videos behind it, and a small one before it.
    """
    if data.endswith(b"\xff\xd9"):
        return True
    at, has_scan = len(JPEG), False
    while match := MARKER.search(data, at):
        marker, at = data[match.end() - 1], match.end()
        if marker == 0xD9:
            return has_scan
        if marker not in (0x01, 0xD8):  # all others have a length, and what may look like markers
            at += int.from_bytes(data[at : at + 2], "big")
        has_scan |= marker == 0xDA
    return False


def orientation(file: BinaryIO) -> int:
    """How viewers turn the image in `file` by its tag of TIFF or EXIF: 1 = as stored, to 8."""
    file.seek(0)
    begin = 0 if file.read(4) in TIFF_BEGINS else find_exif(file)
    try:
        value = 1 if begin is None else read_orientation(file, begin)
    except struct.error:  # cut short
        return 1
    return value if 1 <= value <= 8 else 1


def find_exif(file: BinaryIO) -> int | None:
    """Where the EXIF of a JPEG, PNG or WebP begins, which is a TIFF without pixels."""
    for at, name in blocks(file):
        if name in (b"\xff\xe1", b"eXIf", b"EXIF"):
            file.seek(at)
            begin = file.read(6)
            if begin == b"Exif\0\0":
                return at + 6
            if begin[:4] in TIFF_BEGINS:
                return at
    return None


def blocks(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Start and name of what a JPEG has before its first scan, and of the chunks of PNG and WebP.

    A chunk is its length and name, or name and length, and its contents, padded or with a sum.
    """
    file.seek(0)
    head = file.read(12)
    if head.startswith(JPEG):
        at, size, layout, extra, pad = 2, 4, ">2sH", -2, 1
    elif head.startswith(PNG):
        at, size, layout, extra, pad = 8, 8, ">I4s", 4, 1
    elif head[:4] == b"RIFF" and head[8:] == b"WEBP":
        at, size, layout, extra, pad = 12, 8, "<4sI", 0, 2
    else:
        return
    while True:
        file.seek(at)
        begin = file.read(size)
        if len(begin) < size or begin[:2] == b"\xff\xda":
            return
        name, length = struct.unpack(layout, begin)
        name, length = (length, name) if isinstance(name, int) else (name, length)
        if name[:1] != b"\xff" and not name.strip().isalnum():
            return  # damage, through which small steps may take hours
        yield at + size, name
        at += size + length + extra
        at += -at % pad


def read_orientation(file: BinaryIO, begin: int) -> int:
    """The tag in the first directory of a TIFF or BigTIFF that starts at `begin`; 1 without it."""
    file.seek(begin)
    head = file.read(16)
    order, is_big = ("<" if head[:2] == b"II" else ">"), 43 in head[2:4]
    size, step = (8, 20) if is_big else (4, 12)
    (start,) = struct.unpack_from(order + "IQ"[is_big], head, size)
    file.seek(begin + start)
    (count,) = struct.unpack(order + "HQ"[is_big], file.read(8 if is_big else 2))
    entries = file.read(min(count, 2**16) * step)
    for at in range(0, len(entries) - step + 1, step):
        if struct.unpack_from(order + "H", entries, at)[0] == ORIENTATION:
            return struct.unpack_from(order + "H", entries, at + step - size)[0]
    return 1


def orientation_fault(image: BinaryIO, label: BinaryIO) -> str | None:
    """What is wrong where viewers turn an image and its label differently: both are read as stored,
    where the two would not lie on each other. None: nothing."""
    turns = orientation(image), orientation(label)
    if turns[0] == turns[1]:
        return None
    file = image if turns[0] != 1 else label
    return (
        f"label {label.name}: has orientation {turns[1]}, its image {image.name} {turns[0]} "
        "(EXIF or TIFF tag; 1 is as stored), and none is applied; save both turned as they are "
        "shown (ImageOps.exif_transpose of Pillow), or, where the stored pixels agree, remove the "
        f"tag: exiftool -Orientation= {shlex.quote(str(file.name))}"
    )
