"""Make a data set ready for training: tiles, checked labels, dataset.json.

The same as `sslrs prepare`; `--help` has its flags and examples.
"""

from SSLRemoteSensing.commands.prepare import flags, main
from SSLRemoteSensing.core.errors import run_command

__all__ = ["flags", "main"]

if __name__ == "__main__":
    run_command(main)
