"""Look at what goes into training: pretext samples, tiles with their labels."""
