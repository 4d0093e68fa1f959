"""Classification loss and accuracy of a pretext task."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def graded(logits: Tensor, right: Tensor, label_smoothing: float = 0.0) -> dict[str, Tensor]:
    """Return the cross-entropy and the accuracy of a classification.

    Parameters
    ----------
    logits : Tensor of shape (n, k)
        Logits of the k classes.
    right : Tensor of shape (n,), int64
        True classes.
    label_smoothing : float, default=0.0
        Probability that is spread evenly over all classes.

    Returns
    -------
    dict
        "loss", the cross-entropy, and "accuracy", the fraction of correct predictions.
    """
    accuracy = (logits.detach().argmax(dim=1) == right).float().mean()
    loss = F.cross_entropy(logits, right, label_smoothing=label_smoothing)
    return {"loss": loss, "accuracy": accuracy}
