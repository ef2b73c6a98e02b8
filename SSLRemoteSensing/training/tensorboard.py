"""The keys of metrics.jsonl as TensorBoard's tags and charts: one page shows the run."""

import re
from collections.abc import Iterable

# TensorBoard's tags: group/name, by how a key begins; a key that begins otherwise is a loss.
GROUPS = {
    "share_": "shares",
    "agr_": "transforms",
    "embedding_": "embeddings",
    "gradient_": "gradients",
    "val_": "validation",
    "probe_": "probe",
}
GROUP_OF = {
    "loss": "losses/sum",
    "effective_rank": "embeddings/effective_rank",
    "alignment": "embeddings/alignment",
    "uniformity": "embeddings/uniformity",
    "lr": "course/lr",
    "images_per_second": "course/images_per_second",
    "data_wait": "course/data_wait",
    "watching": "course/watching",
    "memory_gb": "course/memory_gb",
    "probe_seconds": "course/probe_seconds",
    "probe_share": "course/probe_share",
}
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
        "course/data_wait",
        "course/watching",
        "course/probe_share",
    ],
    "memory, peak, GB": ["course/memory_gb"],
    "accuracy by transform": ["transforms/accuracy_.*"],
}


def tag(key: str) -> str:
    """The TensorBoard tag of a key of metrics.jsonl."""
    if key in GROUP_OF:
        return GROUP_OF[key]
    for start, group in GROUPS.items():
        if key.startswith(start):
            return f"{group}/{key.removeprefix(start)}"
    return f"losses/{key}"


def charts(keys: Iterable[str]) -> dict:
    """The charts that have a curve among `keys`, for `SummaryWriter.add_custom_scalars`."""
    tags = [tag(key) for key in keys]
    shown = {
        title: ["Multiline", patterns]
        for title, patterns in CHARTS.items()
        if any(re.fullmatch(pattern, one) for pattern in patterns for one in tags)
    }
    return {"run": shown} if shown else {}
