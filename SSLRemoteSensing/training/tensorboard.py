"""A run's events for TensorBoard: the keys of metrics.jsonl as tags and charts, and pictures."""

import re
from collections.abc import Callable, Iterable
from pathlib import Path

# TensorBoard's tags: group/name, by how a key begins.
GROUPS = {
    "share_": "shares",
    "agr_": "transforms",
    "embedding_": "embeddings",
    "gradient_": "gradients",
    "val_": "validation",
    "probe_": "probe",
    "": "losses",
}
COURSE = ("lr", "images_per_second", "data_wait", "watching", "memory_gb")
COURSE += ("probe_seconds", "probe_share", "redrawn")
GROUP_OF = {key: f"course/{key}" for key in COURSE} | {"loss": "losses/sum"}
GROUP_OF |= {key: f"embeddings/{key}" for key in ("effective_rank", "alignment", "uniformity")}
# The page "Custom scalars": chart -> patterns of tags whose curves it holds. What is learnt stands
# first, three or four charts a row; TensorBoard matches a pattern with how a tag begins.
CHARTS = {
    "losses, weighted": ["losses/.*"],
    "shares of the losses in their sum": ["shares/.*"],
    "accuracy of the transform prediction": ["transforms/accuracy$"],
    "validation": ["validation/.*"],
    "probe": ["probe/.*"],
    "embeddings: standard deviation": ["embeddings/std"],
    "embeddings: effective rank": ["embeddings/effective_rank"],
    "embeddings: alignment, uniformity": ["embeddings/alignment", "embeddings/uniformity"],
    "gradient norm: in all, by task on the backbone": ["gradients/norm.*"],
    "cosine of the tasks' gradients": ["gradients/cosine.*"],
    "learning rate": ["course/lr"],
    "images a second, watching left out": ["course/images_per_second"],
    "share of the time: waiting for data, watching, probe": [
        f"course/{key}" for key in ("data_wait", "watching", "probe_share")
    ],
    "windows drawn again, a sample": ["course/redrawn"],
    "memory, peak, GB": ["course/memory_gb"],
    "accuracy by transform": ["transforms/accuracy_.*"],
}


class Board:
    """TensorBoard's writer of a run's folder, with the `keys` of the entries so far. Events after
    the `first` step, of a run that was cut off, are hidden. A disk that is full costs entries, not
    the run: `complain` is told of the `OSError`."""

    def __init__(
        self, folder: Path, first: int, keys: set[str], complain: Callable[[OSError], None]
    ):
        self.folder, self.keys, self.complain = folder, set(keys), complain
        # Also of a run that starts anew: one that was killed before its first save left events.
        # Its entry of step 0, if it has one, goes with them.
        self.open(first + 1 if first else 0)

    def open(self, purge_step: int) -> None:
        # Imported here: it takes a second, which a config error need not wait for.
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(self.folder), purge_step=purge_step)
        self.charts: dict = {}  # as laid out in this writer's file

    def write(self, step: int, scalars: dict[str, float], pictures: dict[str, tuple]) -> None:
        """Add a point to the curve of each key, and pictures: name -> height, width, PNG."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        try:
            if self.writer is None:  # after an error, of which TensorBoard's thread has ended
                self.open(step)
            self.keys |= scalars.keys()
            if charts(self.keys) != self.charts:  # TensorBoard takes the last one
                self.charts = charts(self.keys)
                self.writer.add_custom_scalars(self.charts)
            for key, value in scalars.items():
                self.writer.add_scalar(tag(key), value, step)
            for name, (height, width, png) in pictures.items():
                # SummaryWriter.add_image would encode it once more, and slowly.
                image = Summary.Image(
                    height=height, width=width, colorspace=3, encoded_image_string=png
                )
                value = Summary.Value(tag=f"pictures/{name}", image=image)
                self.writer.file_writer.add_summary(Summary(value=[value]), step)
            self.writer.flush()  # else SIGKILL loses two minutes of entries
        except OSError as error:
            self.complain(error)
            self.writer = None

    def close(self) -> None:
        try:
            if self.writer is not None:
                self.writer.close()
        except OSError as error:
            self.complain(error)


def tag(key: str) -> str:
    """The TensorBoard tag of a key of metrics.jsonl."""
    start = next(start for start in GROUPS if key.startswith(start))
    return GROUP_OF.get(key, f"{GROUPS[start]}/{key.removeprefix(start)}")


def charts(keys: Iterable[str]) -> dict:
    """The charts that have a curve among `keys`, for `SummaryWriter.add_custom_scalars`."""
    tags, shown = [tag(key) for key in keys], {}
    for title, patterns in CHARTS.items():
        if any(re.fullmatch(pattern, name) for pattern in patterns for name in tags):
            shown[title] = ["Multiline", patterns]
    return {"run": shown} if shown else {}
