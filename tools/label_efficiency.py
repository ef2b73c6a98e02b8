"""How few labels do: fine-tune from several starts with several shares of the labels.

The same as `sslrs label_efficiency`; `--help` has its flags and examples.
"""

from SSLRemoteSensing.commands.label_efficiency import flags, main
from SSLRemoteSensing.core.errors import run_command

__all__ = ["flags", "main"]

if __name__ == "__main__":
    run_command(main)
