"""What tools/benchmark.py measures, a module for each of its measurements."""
