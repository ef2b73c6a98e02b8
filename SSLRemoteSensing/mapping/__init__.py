"""Maps of whole scenes: a fine-tuned network over images that are larger than memory."""
