"""Numbers in place of scale='percentile': found once, and the same in all that comes of a run."""

from pathlib import Path

from SSLRemoteSensing.core import checkpoints
from SSLRemoteSensing.core.errors import UserError, about
from SSLRemoteSensing.core.files import read_json
from SSLRemoteSensing.data.prepared import origin_of_tiles
from SSLRemoteSensing.data.pretext import PretextSettings, choose_images
from SSLRemoteSensing.data.reading import Reading
from SSLRemoteSensing.data.scale import PERCENTILE, Scale, scale_of_card, stated_scale
from SSLRemoteSensing.data.segmentation import TileSettings, find_tiles
from SSLRemoteSensing.training import run_folder


def settle_scale(config: dict, channels: int) -> dict:
    """`config` with numbers for the scale of its training images, if it leaves them to be found.

    They are those of the run that it goes on with; or else of the weights that it begins with, in
    whose card they are; or else 2nd and 98th percentiles. Numbers of each band in the weights' card
    are taken too where neither the config nor the files tell what becomes 255.

    Args:
        channels: of the network.

    Raises:
        UserError: as the training images are opened.
    """
    data = config["train_cfg"]["train_data"]
    with about("train_cfg.train_data"):
        if stated_scale(data.get("max_value"), data.get("scale")) is not None:
            return config
        asks = data.get("scale") == PERCENTILE
        if asks and (scale := scale_of_run(config)):
            origin = "of the run so far"
        elif scale := scale_of_weights(config, channels, asks):
            origin = "of the training of the weights that it begins with"
            if not asks and (scale.max_value is not None or is_told(config, channels)):
                return config
        elif asks:
            origin = "2nd and 98th percentile of some of the images"
            scale = read_train(config, channels).scale
        else:
            return config
    print(f"train_cfg.train_data: {scale} ({origin})")
    numbers = {key: tuple(values) for key, values in scale.numbers().items()}
    data = data | {"scale": numbers}
    return config | {"train_cfg": config["train_cfg"] | {"train_data": data}}


def is_told(config: dict, channels: int) -> bool:
    """Whether a prepared set, or the type of the training images, tells what becomes 255."""
    try:
        reading = read_train(config, channels)
    except UserError:  # the images are not there, or their fault is told where they are opened
        return False
    return reading.prepared or reading.whole_scale is not None


def read_train(config: dict, channels: int) -> Reading:
    """How the training images are read, of both kinds of config."""
    data = config["train_cfg"]["train_data"]
    if "data_path" in data:
        return choose_images(PretextSettings(**data), channels)[1]
    return find_tiles(TileSettings(**data), len(config["classes"]), None, channels).reading


def scale_of_run(config: dict) -> Scale | None:
    """That of the run that `config` goes on with, as its run.json says; None without one."""
    folder = Path(config["train_cfg"]["checkpoints"]["checkpoints_path"])
    if not ((folder / "latest.pth").exists() or run_folder.epochs(folder)):
        return None
    runs = read_json(folder / "run.json").get("runs") or [{}]
    data = runs[-1].get("config", {}).get("train_cfg", {}).get("train_data", {})
    numbers = data.get("scale")
    return Scale(**numbers) if isinstance(numbers, dict) else None


def scale_of_weights(config: dict, channels: int, reads_all: bool) -> Scale | None:
    """That of the bands that `config` takes in the training of the weights that it begins with.

    Args:
        reads_all: read a whole checkpoint for its card, where none lies beside it.
    """
    source, data = config["backbone_cfg"].get("pretrained"), config["train_cfg"]["train_data"]
    if not isinstance(source, str):
        return None
    path = Path(source)
    card = read_json(path.with_suffix(".json"))
    if not card and reads_all:
        card = checkpoints.read_card(path, checkpoints.read(path))
    bands = origin_of_tiles(None, data.get("bands"), channels)["bands"]
    is_same = (card.get("bands") or []) == (bands or list(range(1, channels + 1)))
    scale = scale_of_card(card) if is_same else None
    return scale if scale and scale.count in (1, channels) else None
