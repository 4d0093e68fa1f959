"""Conversion of any accepted form of X to an image source."""
