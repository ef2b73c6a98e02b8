"""Pre-train a backbone on images without labels.

The same as `sslrs pretrain`; `--help` has its flags and examples.
"""

from SSLRemoteSensing.commands.pretrain import flags, main
from SSLRemoteSensing.core.errors import run_command

__all__ = ["flags", "main"]

if __name__ == "__main__":
    run_command(main)
