"""The parts of tools/gpu_day.py."""
