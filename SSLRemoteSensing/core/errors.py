"""The exception that means: the user can mend this; and how a command tells it."""

import contextlib
import os
import select
import signal
import sys
from collections.abc import Callable, Iterator

from SSLRemoteSensing.core.console import as_started, styled

# By what they ask for, those that the system has: Windows has no SIGUSR1, and others no SIGBREAK.
STOP = tuple(getattr(signal, x) for x in ("SIGINT", "SIGTERM", "SIGBREAK") if hasattr(signal, x))
SAVE = tuple(getattr(signal, x) for x in ("SIGUSR1",) if hasattr(signal, x))
SIGPIPE = 13
WITHOUT_OPERATION = (
    "torch has not all operations of this network on MPS; set PYTORCH_ENABLE_MPS_FALLBACK=1 in the "
    "environment, which does the others on the CPU, or take device='cpu'"
)

# What the extra `train` brings, by the names that are imported.
OF_TRAINING = {
    "cv2",
    "PIL",
    "tensorboard",
    "tqdm",
    "rasterio",
    "matplotlib",
    "jinja2",
    "markupsafe",
}


class UserError(ValueError):
    """A mistake in config, data or weights; the message is one line: what, where, what to do."""


class CannotWrite(UserError):
    """A full disk, a lost mount, no permission: nothing was written, and nothing replaced."""


class MissingWeights(UserError):
    """Weights that have to be downloaded, and cannot be."""


class UnreadableImage(UserError):
    """An image file that is missing, empty, truncated or damaged; training may pass over it."""


@contextlib.contextmanager
def about(what: str) -> Iterator[None]:
    """Put `what`, a key of the config or a flag, before the `UserError`s of the block."""
    try:
        yield
    except UserError as error:
        raise type(error)(f"{what}: {error}") from error


PRESSES: list[int] = []  # of Ctrl-C: a library that it meets while it is imported may hide it


def stop_signal(error: BaseException) -> int:
    """The number of the signal that an error came of; 0: of none."""
    if isinstance(error, KeyboardInterrupt):
        return error.args[0] if error.args else signal.SIGINT
    return signal.SIGINT if PRESSES and isinstance(error, Exception) else 0


@contextlib.contextmanager
def stoppable(text: str) -> Iterator[None]:
    """What is done inside SIGTERM stops as Ctrl-C does; `run_command` then says `text`."""

    def terminate(number: int, frame) -> None:
        # A second one, as some batch systems send it, must not end the cleaning.
        signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt(number)

    handler = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    except BaseException as error:
        if not stop_signal(error):
            raise
        raise KeyboardInterrupt(stop_signal(error), text) from None
    finally:
        if signal.getsignal(signal.SIGTERM) is terminate:
            signal.signal(signal.SIGTERM, handler)


def run_command(main: Callable[[], None], message: str = "stopped") -> None:
    """Call `main()`; turn a `UserError` into one line on stderr and exit status 2.

    Ctrl-C says `message` and ends with 130; a KeyboardInterrupt may carry the number of another
    signal, added to 128, and another message. Where what reads the output has gone, as `head` does,
    the command ends without a word and with 141, as SIGPIPE would end it. Anything else is a defect
    of ours and keeps its traceback.
    """
    # It asks a run for a checkpoint; before its first step there is none to write.
    for number in SAVE:
        signal.signal(number, signal.SIG_IGN)
    PRESSES.clear()
    if hasattr(sys.stdout, "reconfigure"):  # a class may have a name that LANG=C cannot spell
        sys.stdout.reconfigure(errors="backslashreplace")
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, note_ctrl_c)
    try:
        try:
            main()
        except UserError as error:
            print(styled("error:", "red", sys.stderr), as_started(one_line(error)), file=sys.stderr)
            sys.exit(2)
        except ModuleNotFoundError as error:
            text = without_extra(error)
            if text is None:
                raise
            print(styled("error:", "red", sys.stderr), text, file=sys.stderr)
            sys.exit(2)
        except BaseException as error:
            if isinstance(error, NotImplementedError) and " MPS " in str(error):
                print(styled("error:", "red", sys.stderr), WITHOUT_OPERATION, file=sys.stderr)
                sys.exit(2)
            if not stop_signal(error):
                raise
            if os.environ.get("RANK", "0") == "0":  # torchrun's other processes need not say it too
                texts = error.args[1:] if isinstance(error, KeyboardInterrupt) else ()
                print(*texts or [message], file=sys.stderr)
            sys.exit(128 + stop_signal(error))
        finally:
            sys.stdout.flush()  # here, where a reader that has gone can be told from a defect
    except BrokenPipeError:
        if not silence_closed():
            raise
        sys.exit(128 + SIGPIPE)


def without_extra(error: ModuleNotFoundError) -> str | None:
    """What to install where the package has only what loads weights; None for other modules."""
    module = (error.name or "").partition(".")[0]
    if module not in OF_TRAINING:
        return None
    return (
        f"{module} is not installed: this installation loads weights alone; install the package "
        f"with its extra `train`, from a clone: pip install '.[train]'"
    )


class NotInstalled:
    """Stands for a public function or class of which a library is missing.

    What only looks at the package (`hasattr`, `dir`, `help`, an import of several names) goes on.

    Raises:
        ImportError: it is called; the message says what to install.
    """

    def __init__(self, name: str, text: str):
        self.__name__ = self.__qualname__ = name
        self.__doc__ = text

    def __call__(self, *arguments, **named):  # as whatever it stands for is called
        raise ImportError(self.__doc__)

    def __repr__(self) -> str:
        return f"<{self.__doc__}>"


def note_ctrl_c(number: int, frame) -> None:
    """Raise a KeyboardInterrupt, of which a library may make another error."""
    PRESSES.append(number)
    raise KeyboardInterrupt


def silence_closed() -> bool:
    """Whether nobody reads stdout or stderr any more; what is still printed there goes nowhere."""
    if not hasattr(select, "poll"):  # Windows
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return True
    poll = select.poll()
    for number in (1, 2):
        poll.register(number, 0)
    closed = [number for number, event in poll.poll(0) if event & (select.POLLERR | select.POLLHUP)]
    for number in closed:
        os.dup2(os.open(os.devnull, os.O_WRONLY), number)
    return bool(closed)


def one_line(error: UserError) -> str:
    """The message of `error` as one line."""
    text = str(error)
    if "Original Traceback" in text:  # a loader's worker puts it and the error's name before
        text = text.rpartition("SSLRemoteSensing.core.errors.")[2].partition(": ")[2]
    return " ".join(text.split())
