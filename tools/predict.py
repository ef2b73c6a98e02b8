"""Map whole scenes with a fine-tuned network, window by window, as GeoTIFF or PNG.

The same as `sslrs predict`; `--help` has its flags and examples.
"""

from SSLRemoteSensing.commands.predict import flags, main
from SSLRemoteSensing.core.errors import run_command

__all__ = ["flags", "main"]

if __name__ == "__main__":
    run_command(main)
