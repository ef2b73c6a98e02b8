"""The commands: one file each, its flags and its story."""
