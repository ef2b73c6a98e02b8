"""Put images into tar shards, where a file system has trouble with as many files.

    python tools/prepare.py shards --images data/mine/images/train --output data/mine_shards
    python tools/prepare.py shards --index data/theirs
    python tools/prepare.py shards --check data/mine_shards

Images are copied byte for byte, in their order, into plain tar files as WebDataset writes and reads
them. The same command again goes on where it was stopped. --index makes the index of shards that
are there, of which only the images are taken, and of a sample that has x.jpg not x.seg.png or the
like: a label is no image to pre-train on. train_data.data_path and --images of pre-training take
the folder.
"""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from SSLRemoteSensing.core.cli import Flags, parse
from SSLRemoteSensing.core.console import command_line, print_summary, this_command
from SSLRemoteSensing.core.errors import UserError, stoppable


def flags() -> Flags:
    # fmt: off
    flags = Flags(__doc__)
    flags.add_argument("set", choices=("shards",), help="what is prepared")
    what = flags.add_mutually_exclusive_group(required=True).add_argument
    what("--images", metavar="DIR|LIST|PATTERN", help="the images, any of these")
    what("--index", metavar="DIR", help="make the index of the shards (*.tar) in this folder")
    what("--check", metavar="DIR",
        help="read all shards of this folder, and compare them with their hashes")
    add = flags.add_argument
    add("--output", metavar="DIR", help="folder of the shards of --images")
    add("--every_part", action="store_true",
        help="of --index: also images beside another one of their sample, x.seg.png beside x.jpg")
    add("--shard_size", type=int, default=1000, metavar="MB",
        help="a shard ends with the image that makes it so large")
    return flags


def placed(files: Sequence[str]) -> list[str]:
    """The files with their folders written in one way: a list may have ../ and full paths."""
    folders = {folder: os.path.realpath(folder) for folder in set(map(os.path.dirname, files))}
    return [Path(folders[os.path.dirname(x)], os.path.basename(x)).as_posix() for x in files]


def common_root(data_path: str, files: Sequence[str]) -> str:
    """The folder below which paths are the names of images in their shards."""
    if os.path.isdir(data_path):
        return Path(data_path).as_posix()
    try:
        root = os.path.commonpath(map(os.path.dirname, files))
    except ValueError as error:
        raise UserError(f"--images {data_path}: lie on several drives; name one") from error
    return Path(root).as_posix()


def main() -> None:
    args = parse(flags())
    if (args.images is None) != (args.output is None):
        given, other = ("images", "output") if args.images else ("output", "images")
        raise UserError(f"--{given}: goes with --{other}, which is not given")
    if args.every_part and not args.index:
        raise UserError("--every_part: goes with --index, which is not given")
    if args.shard_size < 1:
        raise UserError(f"--shard_size {args.shard_size}: must be at least 1")
    # Only now: OpenCV and GDAL take a second, which --help need not wait for.
    from SSLRemoteSensing.core.machine import versions
    from SSLRemoteSensing.data.file_lists import find_images
    from SSLRemoteSensing.data.shards import has_shards
    from SSLRemoteSensing.preparation.shards import check_shards, write_index, write_shards
    from SSLRemoteSensing.workflows.own_images import place_of

    with stoppable("stopped; finished shards are kept, the same command goes on"):
        if args.check:
            print(f"{args.check}: {check_shards(args.check)} shards are as they were indexed")
            return
        words = shlex.split(this_command())
        made_by = {"made_by": {"command": words, "versions": versions()}}
        if args.index:
            has_shards(args.index)  # of some that are not finished the index would hold a part
            given = (Path(args.index), made_by)
            folder, count = args.index, write_index(*given, every_part=args.every_part)
        else:
            data_path, data_format = place_of([args.images], Path(args.output))
            files = find_images(data_path, data_format, keys=("--images", None))
            files = files if os.path.isdir(data_path) else placed(files)
            given = (files, common_root(data_path, files), Path(args.output))
            folder, count = args.output, write_shards(*given, args.shard_size * 10**6, made_by)
    run = f"{str(folder).rstrip('/')}_run"
    facts = {"shards": folder, "images": f"{count:,}"}
    print_summary(facts, [command_line("train.py", "--images", folder, "--output", run)])
