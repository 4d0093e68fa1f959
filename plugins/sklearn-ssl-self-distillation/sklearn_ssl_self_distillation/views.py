"""Views of one image with different augmentations."""

from __future__ import annotations

from dataclasses import replace

from sklearn_ssl.losses import ViewSpec

# Blur and solarization of both views, as in BYOL (arXiv:2006.07733, table 6) and DINO.
FIRST, SECOND = {"blur": 1.0, "solarize": 0.0}, {"blur": 0.1, "solarize": 0.2}


def asymmetric(spec: ViewSpec) -> ViewSpec:
    """Return two full-size views with different blur and solarization, and the same local crops."""
    return replace(spec, recipes=(FIRST, SECOND, *["strong"] * spec.local))
