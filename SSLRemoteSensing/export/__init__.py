"""A checkpoint in the forms of other programs, and its model card."""
