"""Scenes to maps: what is made of which scene, mapped by all processes, and what came of it."""

import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from SSLRemoteSensing.core import distributed
from SSLRemoteSensing.core.console import styled
from SSLRemoteSensing.core.errors import UserError
from SSLRemoteSensing.core.machine import choose_device, choose_precision
from SSLRemoteSensing.data.vectors import require_vectors
from SSLRemoteSensing.inference.mapper import Mapped, MapSettings, map_scenes
from SSLRemoteSensing.inference.network import open_network
from SSLRemoteSensing.inference.outputs import Outputs, find_scenes, plan_outputs, require_absent
from SSLRemoteSensing.reports.map_page import page_of, require_own_page, write_map_page


@dataclass(frozen=True)
class MapPlan:
    """The files of all scenes, of those that are still to map, and the page of previews or None."""

    outputs: list[Outputs]
    remaining: list[Outputs]
    page: Path | None


def plan_maps(
    inputs: Sequence[str],
    output: str,
    probabilities: bool,
    preview: bool,
    vectors: str | None,
    skip_existing: bool,
    overwrite: bool,
    allow_remote: bool = False,
) -> MapPlan:
    """What is made of the scenes that `inputs` name; arguments as the command's flags, see there.

    Raises:
        UserError: no such scene, files that cannot be written or must not be replaced; both
            `skip_existing` and `overwrite`, as nothing tells a map that is to be replaced from one
            that was made since.
    """
    if skip_existing and overwrite:
        raise UserError("--skip_existing, --overwrite: both are given; leave one of them out")
    if vectors is not None:
        require_vectors()
    outputs = plan_outputs(
        find_scenes(inputs, allow_remote), output, probabilities, preview, vectors
    )
    remaining = [files for files in outputs if not (skip_existing and files.map.exists())]
    page = page_of(outputs) if preview else None
    if not overwrite:
        require_absent(remaining)
        if page is not None:
            require_own_page(page, outputs)
    distributed.barrier()  # all have looked at what is there before one writes
    return MapPlan(outputs, remaining, page)


def map_planned(
    plan: MapPlan, checkpoint: str, settings: MapSettings, device: str, precision: str
) -> list[tuple[list[Mapped], list[str]]]:
    """Map what remains of `plan`, each process its share, and write the page.

    Returns:
        For each process the scenes that it mapped, and the errors of those that it could not.

    Raises:
        UserError: settings or a checkpoint that cannot be used; a full disk.
    """
    place, source = choose_device(device, "--device "), Path(checkpoint)
    network = open_network(source, place, choose_precision(precision, place, "--precision "))
    settings.check_classes(network.classes)
    map_count = len(plan.outputs) - len(plan.remaining)
    if map_count:
        print(f"{map_count} of {len(plan.outputs)} scenes have their map already")
    results = distributed.all_gather_object(map_scenes(network, plan.remaining, settings))
    if plan.page is not None and distributed.rank() == 0:
        mapped_scenes, errors = ([*itertools.chain(*parts)] for parts in zip(*results, strict=True))
        scenes = plan.outputs, plan.remaining
        print(write_map_page(plan.page, source, network, *scenes, mapped_scenes, errors))
    return results


def print_outcome(plan: MapPlan, results: Sequence[tuple[list[Mapped], list[str]]]) -> int:
    """Say what the other processes could not, and the sum; the number of scenes that failed."""
    for scenes, errors in results[1:]:
        for scene in scenes:
            print(scene)
        for line in errors:
            print(styled("error:", "red", sys.stderr), line, file=sys.stderr)
    failures = sum(len(errors) for _, errors in results)
    maps = [scene for scenes, _ in results for scene in scenes]
    if len(maps) > 1:
        seconds = max(sum(scene.seconds for scene in scenes) for scenes, _ in results)
        megapixels = sum(scene.pixels for scene in maps) / 1e6
        sizes = f"{len(maps)} scenes, {megapixels:.1f} megapixels in {seconds:.1f} s"
        print(f"{sizes}, {megapixels / seconds:.3g} megapixels a second")
    if failures and len(plan.outputs) > 1:
        print(f"{failures} of {len(maps) + failures} scenes are not mapped", file=sys.stderr)
    return failures
