"""Contrastive and deep metric learning methods, as plugins of sklearn_ssl; one module each."""
