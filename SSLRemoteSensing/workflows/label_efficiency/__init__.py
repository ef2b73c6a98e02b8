"""How good is each start with how many labels: a grid of fine-tunings."""
