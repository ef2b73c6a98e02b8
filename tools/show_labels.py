"""Before fine-tuning: see tiles with their labels laid over, and how often each class occurs.

The same as `sslrs show labels`; `--help` has its flags and examples.
"""

from SSLRemoteSensing.commands.show_labels import flags, main
from SSLRemoteSensing.core.errors import run_command

__all__ = ["flags", "main"]

if __name__ == "__main__":
    run_command(main)
