"""Images on other machines, by addresses that GDAL reads, which is done only where it is asked for.

GDAL's own lock stands behind the checks here: it asks no other machine for a file but the one that
is being opened by its address, so that a VRT, say, leads nowhere.
"""

import os
import re
from pathlib import Path

from SSLRemoteSensing.core.errors import UserError

# Schemes of addresses -> the virtual file system of GDAL that reads them.
SYSTEMS = {"http": "/vsicurl/http://", "https": "/vsicurl/https://", "ftp": "/vsicurl/ftp://"}
SYSTEMS |= {"s3": "/vsis3/", "gs": "/vsigs/", "az": "/vsiaz/", "oss": "/vsioss/"}
ADDRESS = re.compile(rf"({'|'.join(SYSTEMS)}):/+(.+)", re.IGNORECASE)
NETWORK = re.compile(r"/vsi(?:curl|s3|gs|az|adls|oss|swift|hdfs|webhdfs)")
# Of a path, in which two slashes become one.
SHORTENED = re.compile(r"/vsicurl/(https?|ftp):/(?!/)")
SHORTENED_PACKED = re.compile(r"^(/vsi(?:zip|tar|gzip)/)(?=vsi)")
# Of what is packed: the file that it is in, in braces, or all of the name up to such an ending.
PACKED = re.compile(r"/vsi(?:zip|tar|gzip)/(?:\{(.+)\}.*|(.+))")
ARCHIVE = re.compile(r".+?\.(?:zip|tar|tar\.gz|tgz)(?=/|$)", re.IGNORECASE)

# Of GDAL, unless the environment says otherwise: seconds to be connected, and those after which a
# transfer ends that has brought fewer bytes a second. Without them it waits for ever.
PATIENCE = {"GDAL_HTTP_CONNECTTIMEOUT": "10", "GDAL_HTTP_LOW_SPEED_TIME": "60"}
PATIENCE |= {"GDAL_HTTP_LOW_SPEED_LIMIT": "1"}
LOCK = "CPL_VSIL_CURL_ALLOWED_FILENAME"  # the one file that GDAL may ask for


def is_remote(path: str | Path) -> bool:
    """Whether GDAL would ask another machine for the file at `path`.

    >>> is_remote("s3://bucket/a.tif"), is_remote("/vsicurl/https://host/a.tif"), is_remote("a.tif")
    (True, True, False)
    """
    text = path.as_posix() if isinstance(path, Path) else path
    return bool(ADDRESS.match(text) or (text.startswith("/vsi") and NETWORK.search(text)))


def remote_name(address: str) -> str:
    """What GDAL calls the file at an address for which `is_remote` holds.

    >>> remote_name("s3://bucket/a.tif")
    '/vsis3/bucket/a.tif'

    Raises:
        UserError: as `asked_file`.
    """
    match = ADDRESS.match(address)
    text = f"{SYSTEMS[match[1].lower()]}{match[2]}" if match else address
    name = SHORTENED_PACKED.sub(r"\1/", SHORTENED.sub(r"/vsicurl/\1://", text))
    asked_file(name)
    return name


def asked_file(name: str) -> str:
    """The one file that GDAL has to ask another machine for, to read what it calls `name`.

    >>> asked_file("/vsizip//vsicurl/https://host/a.zip/b.tif")
    '/vsicurl/https://host/a.zip'

    Raises:
        UserError: it would ask for another file, or for one by way of several file systems.
    """
    file = name
    if packed := PACKED.fullmatch(name):
        braced, bare = packed.groups()
        archive = ARCHIVE.match(bare or "")
        file = braced or (archive[0] if archive else bare)
    if not NETWORK.match(file):
        raise UserError(
            f"{name}: is neither a file on another machine nor packed in one once, by zip, tar or "
            "gzip; copy it to a disk and unpack it"
        )
    return file


def remote_options(name: str | None) -> dict[str, str]:
    """GDAL's options for reading the remote file that it calls `name`; None: nothing remote. They
    are set for each reading, since a program that imports this may read addresses of its own."""
    return {LOCK: asked_file(name) if name else "none"} | {
        key: os.environ.get(key, x) for key, x in PATIENCE.items()
    }


def require_allowed(what: str, allowed: bool, remedy: str) -> None:
    """Raise a `UserError` where `what`, a key or flag and its address, is not `allowed`."""
    if not allowed:
        raise UserError(
            f"{what}: lies on another machine, and nothing is read from there; {remedy}"
        )


def require_here(path: str | Path, flag: str) -> None:
    """Raise a `UserError` for an address as the value of a flag that takes a file or folder."""
    if is_remote(path):
        require_allowed(f"{flag} {path}", False, "copy it to a disk")
