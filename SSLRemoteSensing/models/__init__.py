"""Backbones, heads, decoders, losses, weights from anywhere, the two networks."""
