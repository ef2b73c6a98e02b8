"""Locks on files that end with their process, however it ends: the system's own where it has them,
else (Windows) those of filelock."""

import contextlib
import os
import platform
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from SSLRemoteSensing.core.console import warn
from SSLRemoteSensing.core.errors import UserError

try:
    import fcntl
except ImportError:
    fcntl = None


class Taken(Exception):
    """Another process, which the message names, has the lock."""


@contextlib.contextmanager
def alone(folder: Path, key: str) -> Iterator[None]:
    """Keep other commands that ask for the same from writing to `folder` while the block lasts.

    Args:
        key: what names the folder, for messages.

    Raises:
        UserError: another process writes there, or the lock cannot be opened.
    """
    path = folder / ".lock"
    try:
        unlock = take(path)
    except Taken as error:
        raise UserError(f"{key} {folder}: {error} writes there; wait for it") from error
    except OSError as error:
        raise UserError(f"{key} {folder}: {path} cannot be opened ({error.strerror})") from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows removes none that is open
            path.unlink(missing_ok=True)
        unlock()


def take(path: Path) -> Callable[[], None]:
    """Lock the file `path`, made where there is none, for this process; the result unlocks it.

    Raises:
        Taken: another process has it.
        OSError: the file cannot be opened.
    """
    if fcntl is None:
        return take_elsewhere(path)
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            # Not flock: a loader's workers would share that, and live on for seconds after SIGKILL.
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            name = written_name(lock)
            os.close(lock)
            raise Taken(name) from None
        except OSError:  # a file system without locks
            warn(f"{path.parent}: cannot be locked against a second run")
        with contextlib.suppress(OSError):  # a full disk: the name only serves a message
            os.truncate(lock, 0)
            os.pwrite(lock, this_process().encode(), 0)
        # A process that ended in between has removed the file, and others would lock a new one.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock), os.stat(path)):
                return partial(os.close, lock)
        os.close(lock)


def take_shared(path: Path) -> tuple[Callable[[], None], list[int]]:
    """Lock `path` for this process and those that it hands the file to: what unlocks it, and the
    files' numbers to hand on, none where the system hands on no files. Raises as `take`, and an
    OSError where it cannot be locked."""
    if fcntl is None:
        return take_elsewhere(path), []
    lock = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        if isinstance(error, BlockingIOError):
            raise Taken("another process, or one that it left") from None
        raise
    return partial(os.close, lock), [lock]


def holder(path: Path) -> str | None:
    """Which process has the lock on `path` now, None where none has or where that cannot be seen.
    It is tried, shared, for an instant, and must be another process's."""
    try:
        if fcntl is None:
            if path.exists():
                take_elsewhere(path)()
            return None
        lock = os.open(path, os.O_RDONLY)
    except Taken as error:
        return str(error)
    except OSError:
        return None
    try:
        fcntl.lockf(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return written_name(lock)
    except OSError:
        return None
    finally:
        os.close(lock)
    return None


def take_elsewhere(path: Path) -> Callable[[], None]:
    """As `take`, where there is no fcntl."""
    import filelock

    # Windows lets nobody read a locked file, and `path` has the name of who locked it.
    lock = filelock.FileLock(f"{path}.held")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        with contextlib.suppress(OSError):
            raise Taken(path.read_text(encoding="utf-8")) from None
        raise Taken("an unknown process") from None
    with contextlib.suppress(OSError):
        path.write_text(this_process(), encoding="utf-8")
    return lock.release


def written_name(lock: int) -> str:
    return os.pread(lock, 200, 0).decode(errors="replace").strip() or "an unknown process"


def this_process() -> str:
    return f"process {os.getpid()} on {platform.node()}"
