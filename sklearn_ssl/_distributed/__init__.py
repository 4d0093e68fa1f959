"""Data-parallel training: processes that share out the images of each batch."""
