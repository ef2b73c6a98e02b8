"""The exception that means: the user can mend this; and how a command tells it."""

import signal
import sys
from collections.abc import Callable


class UserError(ValueError):
    """A mistake in config, data or weights; the message is one line: what, where, what to do."""


class CannotWrite(UserError):
    """A full disk, a lost mount, no permission: nothing was written, and nothing replaced."""


class UnreadableImage(UserError):
    """An image file that is missing, empty, truncated or damaged; training may pass over it."""


def run_command(main: Callable[[], None]) -> None:
    """Call `main()`; turn a `UserError` into one line on stderr and exit status 2.

    Anything else is a defect of ours and keeps its traceback.
    """
    # It asks a run for a checkpoint; before its first step there is none to write.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        main()
    except UserError as error:
        print("error:", told(error), file=sys.stderr)
        sys.exit(2)


def told(error: UserError) -> str:
    """The message of `error` as one line."""
    text = str(error)
    if "Original Traceback" in text:  # a loader's worker puts it and the error's name before
        text = text.rpartition("SSLRemoteSensing.errors.")[2].partition(": ")[2]
    return " ".join(text.split())
