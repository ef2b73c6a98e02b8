"""Pre-train a backbone on images without labels: the command `sslrs pretrain` as a script."""

from SSLRemoteSensing.commands.pretrain import main
from SSLRemoteSensing.core.errors import run_command

if __name__ == "__main__":
    run_command(main)
