"""Backbones, heads, and the two networks made of them."""
