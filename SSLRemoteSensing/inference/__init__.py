"""From scenes to maps."""
