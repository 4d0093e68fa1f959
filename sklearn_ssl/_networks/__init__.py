"""Networks in training and in `transform`."""
