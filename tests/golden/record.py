"""Record what the tests beside it expect, from the code as it is now.

    python tests/golden/record.py            # all, and this machine's hashes in place of all others
    python tests/golden/record.py --hashes   # only add this machine's hashes

Run it where the behaviour is to change, or with --hashes on another machine, at a commit whose
tests pass. It leaves expected/version1.json alone: what version 1 is does not change.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported, as in the tests
HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1])]

import kept  # noqa: E402
from frozen import EXPECTED, expected, machine, store  # noqa: E402
from keys import all_keys  # noqa: E402
from runs import Runs  # noqa: E402


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    flags.add_argument("--hashes", action="store_true", help="only add this machine's hashes")
    only_hashes = flags.parse_args().hashes
    with tempfile.TemporaryDirectory() as folder:
        runs = Runs(Path(folder))
        recorded = expected("hashes") if only_hashes else {}
        store("hashes", recorded | {machine(): kept.hashes(runs)})
        if not only_hashes:
            record(runs)


def record(runs: Runs) -> None:
    for name in ("pretraining", "finetuning", "preparation", "prediction", "old"):
        store(name, getattr(kept, name)(runs))
    store("keys", all_keys())
    (EXPECTED / "help").mkdir(exist_ok=True)
    for script in kept.HELP:
        (EXPECTED / f"help/{Path(script).stem}.txt").write_text(kept.help_of(script))


if __name__ == "__main__":
    main()
