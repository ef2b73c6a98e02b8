"""Weights and networks for other programs, and the model card beside them."""
