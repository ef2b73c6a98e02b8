"""The label-efficiency grid: its cells, running them, and what they say together."""
