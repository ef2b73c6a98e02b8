"""Fine-tune and score a segmentation network on labelled tiles.

The same as `sslrs finetune`; `--help` has its flags and examples.
"""

from SSLRemoteSensing.commands.finetune import flags, main
from SSLRemoteSensing.core.errors import run_command

__all__ = ["flags", "main"]

if __name__ == "__main__":
    run_command(main)
