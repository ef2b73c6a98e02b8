"""Weights for other programs: a file in the form that they read, and a model card beside it.

The same as `sslrs export`; `--help` has its flags and examples.
"""

from SSLRemoteSensing.commands.export import flags, main
from SSLRemoteSensing.core.errors import run_command

__all__ = ["flags", "main"]

if __name__ == "__main__":
    run_command(main)
