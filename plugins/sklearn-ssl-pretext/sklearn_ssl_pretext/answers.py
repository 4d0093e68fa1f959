"""What a question with so many possible answers costs."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def graded(logits: Tensor, right: Tensor) -> dict[str, Tensor]:
    """Cross entropy of answers (n, k) where number `right` (n,) is true, and the share of right ones."""
    accuracy = (logits.detach().argmax(dim=1) == right).float().mean()
    return {"loss": F.cross_entropy(logits, right), "accuracy": accuracy}
