"""What to run before a long run: what would fail, what to know, how long it will take.

The same as `sslrs doctor`; `--help` has its flags and examples.
"""

from SSLRemoteSensing.commands.doctor import flags, main
from SSLRemoteSensing.core.errors import run_command

__all__ = ["flags", "main"]

if __name__ == "__main__":
    run_command(main)
