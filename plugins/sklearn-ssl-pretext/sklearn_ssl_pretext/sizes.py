"""Training resolution of tasks that need more than a few pixels."""

from __future__ import annotations


def enlarged(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    """Return a size (height, width), enlarged to a short side if it is smaller."""
    scale = max(1.0, short_side / min(size))
    return round(scale * size[0]), round(scale * size[1])
