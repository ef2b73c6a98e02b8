"""The exception that means: the user can mend this; and how a command tells it."""

import sys
from collections.abc import Callable


class UserError(ValueError):
    """A mistake in config, data or weights; the message is one line: what, where, what to do."""


class UnreadableImage(UserError):
    """An image file that is missing, empty, truncated or damaged; training may pass over it."""


def run_command(main: Callable[[], None]) -> None:
    """Call `main()`; turn a `UserError` into one line on stderr and exit status 2.

    Anything else is a defect of ours and keeps its traceback.
    """
    try:
        main()
    except UserError as error:
        # A loader's worker puts its own traceback before the message, and the name of the error.
        text = str(error).rpartition("SSLRemoteSensing.errors.")[2]
        text = text.partition(": ")[2] if "Original Traceback" in str(error) else text
        print("error:", " ".join(text.split()), file=sys.stderr)
        sys.exit(2)
