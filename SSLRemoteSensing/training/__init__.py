"""The one loop: plan, step, log, checkpoints of a run, going on."""
