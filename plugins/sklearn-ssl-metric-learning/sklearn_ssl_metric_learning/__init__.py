"""Contrastive methods and methods of deep metric learning, as plugins of sklearn_ssl: one file each."""
