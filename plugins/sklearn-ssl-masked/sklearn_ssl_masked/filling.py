"""Base class of losses that predict masked pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from sklearn_ssl.losses import Batch, SSLLoss, Student, Teacher, ViewSpec
from sklearn_ssl_masked.patches import shown_and_made


class PixelFilling(SSLLoss):
    """Base class of methods that mask pixels, predict them, and average the error over all masked values.

    A subclass defines `_hidden` (mask of the pixels), `_painted` (prediction from the visible pixels) and
    `_error` (elementwise error).
    """

    family = "masked"
    view_spec = ViewSpec(1, recipes=("weak",))

    def step(self, batch: Batch, student: Student, teacher: Teacher | None) -> Tensor | dict[str, Tensor]:
        x = batch.views[0]
        hidden = self._hidden(x, batch.generator)
        error = self._error(self._painted(student, x, hidden) - x) * hidden
        # The mask has one channel, the error as many as the image.
        return error.sum() / (hidden.sum() * x.shape[1])

    @torch.no_grad()
    def reconstruct(
        self, views: list[Tensor], student: Student, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Return the visible part of images and their reconstruction; see `SSLLoss`."""
        x = views[0]
        hidden = self._hidden(x, generator)
        return shown_and_made(x, hidden, self._painted(student, x, hidden))
