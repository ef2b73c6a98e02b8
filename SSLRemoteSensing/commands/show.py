"""`sslrs show pretext` and `sslrs show labels`: what training will see, before it begins."""

import sys

from SSLRemoteSensing.core.cli import start

# Name -> its module in `commands`, and what it shows; each has flags of its own.
PICTURES = {
    "pretext": ("show_pretext", "the samples that pre-training begins with"),
    "labels": ("show_labels", "tiles with their labels laid over, and how often classes occur"),
}


def main() -> None:
    start(sys.argv[0], PICTURES, sys.argv[1:])
