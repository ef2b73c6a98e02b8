"""Numbers in place of scale='percentile': found once, and the same in all that comes of a run."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

from SSLRemoteSensing.core import checkpoints, distributed
from SSLRemoteSensing.core.errors import UserError, about
from SSLRemoteSensing.core.files import read_json
from SSLRemoteSensing.data.prepared import origin_of_tiles
from SSLRemoteSensing.data.pretext import PretextSettings, choose_images
from SSLRemoteSensing.data.reading import Reading, sort_of
from SSLRemoteSensing.data.scale import (
    PERCENTILE,
    Scale,
    checked_scale,
    scale_of_card,
    stated_scale,
)
from SSLRemoteSensing.data.segmentation import TileSettings, find_tiles
from SSLRemoteSensing.training import run_folder


def settle_scale(config: dict, channels: int) -> dict:
    """`config` with numbers for the scale of its training images, if it leaves them to be found.

    They are those of the run that it goes on with; or else of the weights that it begins with, in
    whose card they are; or else 2nd and 98th percentiles. The `scale` of the weights' card is taken
    too where the config states none, of images that hold values of the same sort.

    Args:
        channels: of the network.

    Raises:
        UserError: as the training images are opened.
    """
    data, weights = config["train_cfg"]["train_data"], config["backbone_cfg"].get("pretrained")
    with about("train_cfg.train_data"):
        if stated_scale(data.get("max_value"), data.get("scale")) is not None:
            return config
        if data.get("scale") != PERCENTILE and not isinstance(weights, str):
            return config
        # The first process's, lest a file that another one cannot read gives that other numbers.
        found = find_scale(config, channels) if distributed.rank() == 0 else None
        found = distributed.all_gather_object(found)[0]
    if found is None:
        return config
    scale, origin = found
    print(f"train_cfg.train_data: {scale} ({origin})")
    numbers = {key: tuple(values) for key, values in scale.numbers().items()}
    return with_train_data(config, data | {"scale": numbers})


def find_scale(config: dict, channels: int) -> tuple[Scale, str] | None:
    """The scale of the training images of `config`, which states no numbers, and what it is of;
    None where it is that of their type, or of a prepared set."""
    data, weights = config["train_cfg"]["train_data"], config["backbone_cfg"].get("pretrained")
    asks = data.get("scale") == PERCENTILE
    if scale := scale_of_run(config):
        return scale, "of the run so far"
    if isinstance(weights, str):
        card = card_of_weights(weights)
        with about(f"weights {weights}"):
            scale = scale_of_weights(card, data.get("bands"), channels)
        # Our own cards state a scale from 0, one for all bands, as max_value.
        is_stated = isinstance(card.get("scale"), dict)
        if scale and (asks or is_stated) and are_alike(config, channels, card):
            return scale, "of the training of the weights that it begins with"
    if asks:
        return read_train(config, channels).scale, "2nd and 98th percentile of some of the images"
    return None


def are_alike(config: dict, channels: int, card: dict) -> bool:
    """Whether the training images hold values of the sort that the weights with `card` are of. Of a
    card that does not tell, any that are asked for percentiles, or have no scale by their type."""
    data = config["train_cfg"]["train_data"]
    try:
        reading = read_train(with_train_data(config, data | {"scale": None}), channels)
    except UserError:  # the images are not there, or their fault is told where they are opened
        return True
    if reading.prepared:
        return False
    if card.get("dtype") and reading.dtype:
        return sort_of(reading.dtype) == sort_of(card["dtype"])
    return data.get("scale") == PERCENTILE or reading.whole_scale is None


def with_train_data(config: dict, data: dict) -> dict:
    return config | {"train_cfg": config["train_cfg"] | {"train_data": data}}


def read_train(config: dict, channels: int) -> Reading:
    """How the training images are read, of both kinds of config."""
    data = config["train_cfg"]["train_data"]
    if "data_path" in data:
        return choose_images(PretextSettings(**data), channels)[1]
    return find_tiles(TileSettings(**data), len(config["classes"]), None, channels).reading


def scale_of_run(config: dict) -> Scale | None:
    """That of the run that `config` goes on with, as its run.json or else its newest checkpoint
    says; None without one."""
    folder = Path(config["train_cfg"]["checkpoints"]["checkpoints_path"])
    if not run_folder.saved(folder):
        return None
    before = (read_json(folder / "run.json").get("runs") or [{}])[-1].get("config")
    if before is None:
        with contextlib.suppress(UserError):  # which going on tells
            saved_run = run_folder.find_state(folder)
            before = saved_run and saved_run.state["card"].get("config")
    numbers = (before or {}).get("train_cfg", {}).get("train_data", {}).get("scale")
    return checked_scale(numbers, "scale of the run so far") if isinstance(numbers, dict) else None


def card_of_weights(file: str) -> dict:
    """The card of a file of weights: beside it, which is soon read, or else in it."""
    path = Path(file)
    return read_json(path.with_suffix(".json")) or checkpoints.read_card(
        path, checkpoints.read(path)
    )


def scale_of_weights(card: dict, bands: Sequence[int] | None, channels: int) -> Scale | None:
    """The scale of the training that `card` is of, for images of which `bands` are taken, None:
    all; None where it is of other bands, or the card has none."""
    stored = list(range(1, channels + 1))
    taken = origin_of_tiles(None, bands, channels)["bands"] or stored
    scale = scale_of_card(card) if (card.get("bands") or stored) == taken else None
    return scale if scale and scale.count in (1, channels) else None
