"""Fine-tune and score a segmentation network: the command `sslrs finetune` as a script."""

from SSLRemoteSensing.commands.finetune import main
from SSLRemoteSensing.core.errors import run_command

if __name__ == "__main__":
    run_command(main)
