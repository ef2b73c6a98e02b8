"""The figures of benchmark.py as a table: sections, units, and what each figure is."""

SWITCHES = ("precision", "channels_last", "compile", "joint_pass", "batch_size", "fused")

# Section -> rows of (key, unit, meaning). A figure that stands in no row is an error.
SECTIONS = {
    "this run": (
        ("date", "", ""),
        ("command", "", ""),
        ("machine", "", ""),
        ("versions", "", ""),
        ("complete", "", "in the JSON file, false as long as it is being measured"),
        ("network", "", ""),
        ("img_size", "", "pixels"),
        ("batch_size", "", ""),
        ("num_workers", "", ""),
        ("fast_precision", "", "what this machine does in hardware; bf16 with channels_last"),
        ("compiled", "", "whether the fast step is"),
    ),
    "ceilings of this machine": (
        ("ceiling_matmul_tflops", "TFLOP/s", "largest matmul rate in the fast precision"),
        ("matmul_tflops", "TFLOP/s", "by precision and side of the square matrices"),
        ("decode_images_per_second", "images/s", "JPEG decoding, one core, from memory"),
        ("decode_megapixels_per_second", "MP/s", "the same"),
        ("host_to_device_gb_per_second", "GB/s", "pinned memory to the device"),
    ),
    "a sample on one core": (
        ("sample_ms", "ms", "file to occluded, anchor and transformed"),
        ("sample_parts_ms", "ms", "its parts; it goes through one of the classes"),
        ("sample_parts_sum_ms", "ms", "sum: the mean class, without collate"),
        ("cores_to_feed", "", "cores that make samples as fast as the fast step takes them"),
    ),
    "a step, with the device waited for after each part": (
        ("step_split_s", "s", ""),
        ("step_split_share", "%", ""),
        ("step_split_total_s", "s", "sum of the parts"),
    ),
    "end to end: fit() from files, straight": (
        ("counted_steps", "", "after the warm-up"),
        ("images_per_second", "images/s", ""),
        ("data_wait", "%", "of the time the loop waited for data"),
        ("peak_memory_gib", "GiB", "CUDA: of this run's tensors; CPU: of the process"),
        ("flops_per_image", "GFLOP", "products and convolutions, forward and backward"),
        ("mfu", "%", "flops_per_image x images_per_second / ceiling_matmul_tflops"),
        ("mfu_bare", "%", "the same with batch_size / fast_step_s, on a ready batch"),
    ),
    "steps on a ready batch, in turn": (
        ("fp32_step_s", "s", "fp32, contiguous, cuDNN untuned"),
        ("fast_step_s", "s", "in the fast precision"),
        ("speedup_over_fp32", "x", "fp32_step_s / fast_step_s"),
        ("published_step_s", "s", "as published: also its contrastive loss, no fused optimizer"),
        ("fast_beside_published_step_s", "s", "the fast step in that turn"),
        ("speedup_over_published", "x", "their ratio"),
        ("bare_images_per_second", "images/s", "bare steps between those of fit()"),
        ("loop_images_per_second", "images/s", "steps of fit() between bare ones"),
        ("loop_efficiency", "x", "loop / bare"),
    ),
    "switches, each alone against the fast step": (
        ("switches", "switch", "images a second over the base's, in turn"),
    ),
    "contrastive loss": (
        ("contrastive_embeddings", "", "of 512 values"),
        ("contrastive_s", "s", "forward and backward"),
        ("contrastive_matmul_s", "s", "its three matrix products alone"),
        ("contrastive_over_matmul", "x", "their ratio"),
    ),
    "watching a pre-training run (CPU: seconds of this process)": (
        ("watching_step_s", "s", "a training step"),
        ("watching_entry_s", "s", "figures of an entry of the log"),
        ("watching_look_s", "s", "figures and pictures of the fixed samples"),
        ("watching_first_look_s", "s", "the first one, which reads them"),
        ("watching_share", "%", "of the time, by the default log_step and vis_step"),
        ("log_step", "", "of the config: steps between two entries"),
        ("vis_step", "", "of the config: steps between two looks"),
        ("watching_share_of_config", "%", "of the time, by these two"),
    ),
    "preparing data sets": (
        ("preparing", "", ""),
        ("prepare_scene_s", "s", "a scene of 6000 x 6000, one core"),
        ("copy_scene_s", "s", "its pixels to PNG tiles with rasterio and OpenCV"),
        ("prepare_over_copy", "x", "speed of preparing over copying"),
        ("prepare_workers", "", "threads"),
        ("prepare_scaling", "x", "speed with them over one"),
        ("open_tiles", "", "tiles of a prepared set"),
        ("open_s", "s", "opening it"),
    ),
}
SMALLER = {"s": "ms", "TFLOP/s": "GFLOP/s"}  # below one
SCALES = {"%": (100, "%"), "GFLOP": (1e-9, "GFLOP")}


def table(figures: dict) -> str:
    """All figures, in sections; a dict among them is a row for each of its entries."""
    known = {key for rows in SECTIONS.values() for key, _, _ in rows}
    assert not figures.keys() - known, figures.keys() - known
    lines = []
    for title, rows in SECTIONS.items():
        present = [row for row in rows if row[0] in figures]
        if present:
            lines += ["", title]
        for key, unit, meaning in present:
            lines += cells(key, figures[key], unit, meaning, depth=1)
    return "\n".join(lines[1:])


def cells(key: str, value, unit: str, meaning: str, depth: int) -> list[str]:
    name = "  " * depth + key
    if unit == "switch":
        rows = [f"    {one:<30}{switch_words(entry)}" for one, entry in value.items()]
        return [f"{name:<34}{'':<21} {meaning}".rstrip(), *rows]
    if isinstance(value, dict):
        rows = [f"{name:<34}{'':<21} {meaning}".rstrip()]
        return rows + [line for k, v in value.items() for line in cells(k, v, unit, "", depth + 1)]
    return [f"{name:<34}{readable(value, unit):<21} {meaning}".rstrip()]


def readable(value, unit: str) -> str:
    """A number with its unit, or the smaller one below one; anything else as it is."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return str(value)
    if unit in SMALLER and value < 1:
        value, unit = value * 1000, SMALLER[unit]
    scale, unit = SCALES.get(unit, (1, unit))
    if isinstance(value, int) and scale == 1:
        return f"{value:,} {unit}".rstrip()
    return f"{value * scale:.4g} {unit}".rstrip()


def switch_words(entry: dict) -> str:
    words = f"{entry['from']} -> {entry['to']}".ljust(18)
    if "not_measured" in entry:
        return f"{words}not measured: {entry['not_measured']}"
    words += f"{entry['images_per_second_ratio']:.3f} x   "
    words += f"a step {readable(entry['base_step_s'], 's')} -> {readable(entry['step_s'], 's')}"
    if "peak_memory_gib" in entry:
        before, after = entry["base_peak_memory_gib"], entry["peak_memory_gib"]
        words += f", peak {before:.2f} -> {after:.2f} GiB"
    return words
