"""Before pre-training: see the samples it begins with.

The same as `sslrs show pretext`; `--help` has its flags and examples.
"""

from SSLRemoteSensing.commands.show_pretext import flags, main
from SSLRemoteSensing.core.errors import run_command

__all__ = ["flags", "main"]

if __name__ == "__main__":
    run_command(main)
