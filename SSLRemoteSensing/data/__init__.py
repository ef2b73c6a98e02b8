"""From a file to a sample: images, labels, prepared sets, augmentation, the two data sets."""
