"""Random views of a batch of images."""
