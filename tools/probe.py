"""What a straight line reads off a backbone: the linear probe of pre-training, for any weights.

The same as `sslrs probe`; `--help` has its flags and examples.
"""

from SSLRemoteSensing.commands.probe import flags, main
from SSLRemoteSensing.core.errors import run_command

__all__ = ["flags", "main"]

if __name__ == "__main__":
    run_command(main)
