"""Images in, samples out."""
