"""What losses that fill in hidden pixels have in common."""

from __future__ import annotations

import torch
from torch import Tensor

from sklearn_ssl import Batch, SSLLoss, ViewSpec
from sklearn_ssl_masked.patches import shown_and_made


class PixelFilling(SSLLoss):
    """Hide pixels of an image, paint them, and compare: the mean error of all hidden values of the batch.

    A subclass writes `_hidden` (which pixels), `_painted` (what is made of the others) and `_error`.
    """

    family = "masked"
    view_spec = ViewSpec(1, recipes=("weak",))

    def step(self, batch: Batch, student, teacher) -> Tensor:
        x = batch.views[0]
        hidden = self._hidden(x, batch.generator)
        error = self._error(self._painted(student, x, hidden) - x) * hidden
        return error.sum() / (hidden.sum() * x.shape[1])

    @torch.no_grad()
    def reconstruct(self, views: list[Tensor], student, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """What the backbone saw of each image, NaN where it was hidden, and what was made of it."""
        x = views[0]
        hidden = self._hidden(x, generator)
        return shown_and_made(x, hidden, self._painted(student, x, hidden))
