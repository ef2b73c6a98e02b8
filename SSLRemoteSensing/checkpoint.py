"""Model cards that were published name this; it is `SSLRemoteSensing.core.checkpoints`."""

from SSLRemoteSensing.core.checkpoints import read  # noqa: F401
