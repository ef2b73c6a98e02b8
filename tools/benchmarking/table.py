"""Figures as a table: a name ends with its unit, and shares and ratios have none."""

# What a name does not say by itself.
MEANINGS = {
    "fast_precision": "what this machine does in hardware; bf16 with channels_last",
    "matmul_tflops": "by precision and side of the square matrices",
    "sample_ms": "file to occluded, anchor and transformed, one core",
    "cores_to_feed": "cores that make samples as fast as the fast step takes them",
    "step_split_s": "the device is waited for after each part",
    "counted_steps": "of fit() from files, after the warm-up",
    "data_wait": "share of the time the loop waited for data",
    "peak_memory_gib": "CUDA: of this run's tensors; CPU: of the process",
    "flops_per_image": "products and convolutions, forward and backward",
    "mfu": "flops_per_image x images_per_second / ceiling_matmul_tflops",
    "mfu_bare": "the same with batch_size / fast_step_s, on a ready batch",
    "loop_efficiency": "images_per_second of fit() / bare steps on a ready batch",
    "published_step_s": "as published: also its contrastive loss, no fused optimizer",
    "switches": "each alone: images a second over the fast step's, in turn",
    "watching_step_s": "a training step (CPU: seconds of this process)",
    "watching_entry_s": "figures of an entry of the log",
    "watching_look_s": "figures and pictures of the fixed samples; the first reads them",
    "watching_share": "of the time, by the default log_step and vis_step",
    "prepare_scene_s": "one core; copied are its pixels, by rasterio and OpenCV",
    "images_per_second_one": "one process, on a CPU with as many threads and batches",
    "efficiency": "all over one, on GPUs over so many times one",
}


def table(figures: dict, depth: int = 1) -> str:
    """A line for each figure; a dict among them is a line for each of its entries."""
    lines = []
    for key, value in figures.items():
        name, meaning = "  " * depth + key, MEANINGS.get(key, "")
        is_dict = isinstance(value, dict)
        shown = "" if is_dict else readable(value)
        lines.append(f"{name:<40}{shown:<22} {meaning}".rstrip())
        if is_dict and value:
            lines.append(table(value, depth + 1))
    return "\n".join(lines)


def readable(value) -> str:
    if isinstance(value, list):
        return ", ".join(map(readable, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
