"""Queue of projections of earlier batches, used as negatives or for nearest-neighbor search."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sklearn_ssl._checks import is_whole
from sklearn_ssl.losses._base import Spec


class Queue(nn.Module):
    """First-in, first-out queue of the most recent rows, stored in persistent buffers.

    Parameters
    ----------
    size : int
        Maximum number of rows.
    dim : int
        Width of a row.

    Attributes
    ----------
    rows : Tensor of shape (size, dim)
        The rows, the newest last. Rows that are not filled yet are zeros: a method excludes them by
        `filled`, so that no projection is compared with a vector that belongs to no image.
    n_filled : Tensor of shape (), int64
        Number of rows that are filled.

    See Also
    --------
    queue_size : Size of the queue for a method's hyperparameter.

    Notes
    -----
    `push` creates a new tensor and leaves the old one unchanged: a loss may push before its gradient is
    computed. It copies the rows once, 2 MB for 4096 rows of width 128.
    """

    rows: Tensor
    n_filled: Tensor

    def __init__(self, size: int, dim: int):
        super().__init__()
        self.register_buffer("rows", torch.zeros(size, dim))
        # A tensor, not an int: reading a count back from the GPU would synchronize with it.
        self.register_buffer("n_filled", torch.zeros((), dtype=torch.int64))
        self.register_load_state_dict_pre_hook(_newest_that_fit)

    @property
    def filled(self) -> Tensor:
        """Mask of the rows that are filled; a bool tensor of shape (size,)."""
        size = len(self.rows)
        return torch.arange(size, device=self.rows.device) >= size - self.n_filled

    @torch.no_grad()
    def push(self, z: Tensor) -> None:
        """Append rows and drop as many of the oldest.

        Parameters
        ----------
        z : Tensor of shape (n, dim)
            Rows to append, of any number n; of more than the queue holds, the last ones are kept.
        """
        z = z.to(self.rows)[-len(self.rows) :]
        self.rows = torch.cat([self.rows[len(z) :], z])
        self.n_filled = (self.n_filled + len(z)).clamp(max=len(self.rows))


def queue_size(given: int | str, default: int, spec: Spec) -> int:
    """Return the size of a method's queue.

    Parameters
    ----------
    given : int or "auto"
        Value of the method's hyperparameter `queue_size`.
    default : int
        Size for "auto" on large data sets. "auto" is at most `spec.n_samples`, since further rows would
        repeat the same images, and at least `spec.batch_size`.
    spec : Spec
        Sizes of the fit.

    Returns
    -------
    int
        Number of rows.

    Raises
    ------
    ValueError
        If `given` is not an integer, or is smaller than the batch size.

    See Also
    --------
    Queue : The queue itself.
    """
    if isinstance(given, str) and given == "auto":
        return max(min(default, spec.n_samples), spec.batch_size)
    if isinstance(given, str) or not is_whole(given) or given < spec.batch_size:
        raise ValueError(
            f"loss__queue_size={given!r}: each step puts in {spec.batch_size} rows, one for each image. "
            f"Give at least {spec.batch_size}, or 'auto', or set a smaller batch_size."
        )
    return int(given)


def _newest_that_fit(queue: Queue, state_dict: dict, prefix: str, *_: Any) -> None:
    """Fit the rows of a state dict to the size of the queue that loads it: keep the newest, pad with zeros.

    A warm start on another number of images resolves a queue size of "auto" to another value.
    """
    rows, n_filled = (state_dict.get(prefix + name) for name in ("rows", "n_filled"))
    if rows is None or n_filled is None or rows.shape[1] != queue.rows.shape[1]:
        return  # load_state_dict itself reports the mismatch
    size = len(queue.rows)
    missing = rows.new_zeros(max(0, size - len(rows)), rows.shape[1])
    state_dict[prefix + "rows"] = torch.cat([missing, rows[-size:]])
    state_dict[prefix + "n_filled"] = n_filled.clamp(max=size)
