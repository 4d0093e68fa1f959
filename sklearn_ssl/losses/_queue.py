"""A queue: projections of earlier batches, as negatives or to search for neighbours."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sklearn_ssl._checks import is_whole
from sklearn_ssl.losses._base import Spec


class Queue(nn.Module):
    """The latest rows that were pushed, first in, first out; part of a loss's state.

    Parameters
    ----------
    size : int
        Rows that it holds.
    dim : int
        Width of a row.

    Attributes
    ----------
    rows : Tensor of shape (size, dim)
        The newest last. Places that are not filled yet hold zeros: a method leaves them out by `filled`,
        so that nothing is compared with vectors that are of no image.

    Notes
    -----
    `push` makes a new tensor and leaves the old one alone: a loss may push before its gradient is taken. It
    copies the rows once, 2 MB for 4096 rows of width 128.
    """

    def __init__(self, size: int, dim: int):
        super().__init__()
        self.register_buffer("rows", torch.zeros(size, dim))
        # A tensor, so that a GPU's count is never waited for.
        self.register_buffer("n_filled", torch.zeros((), dtype=torch.int64))
        self.register_load_state_dict_pre_hook(_newest_that_fit)

    @property
    def filled(self) -> Tensor:
        """Which rows were pushed: bool, of shape (size,)."""
        size = len(self.rows)
        return torch.arange(size, device=self.rows.device) >= size - self.n_filled

    @torch.no_grad()
    def push(self, z: Tensor) -> None:
        """Put in the rows of z, of shape (n, dim), and drop as many of the oldest; any n."""
        z = z.to(self.rows)[-len(self.rows) :]
        self.rows = torch.cat([self.rows[len(z) :], z])
        self.n_filled = (self.n_filled + len(z)).clamp(max=len(self.rows))


def queue_size(given: int | str, default: int, spec: Spec) -> int:
    """How many rows a method's queue shall hold.

    Parameters
    ----------
    given : int or "auto"
        The method's hyperparameter `queue_size`.
    default : int
        What "auto" means on large data. It holds no more than `spec.n_samples`: further rows would be the
        same images once more; and no less than `spec.batch_size`.
    spec : Spec

    Raises
    ------
    ValueError
        `given` is no number, or less than a batch.
    """
    if isinstance(given, str) and given == "auto":
        return max(min(default, spec.n_samples), spec.batch_size)
    if not is_whole(given) or given < spec.batch_size:
        raise ValueError(
            f"loss__queue_size={given!r}: each step puts in {spec.batch_size} rows, one for each image. "
            f"Give at least {spec.batch_size}, or 'auto', or set a smaller batch_size."
        )
    return int(given)


def _newest_that_fit(queue: Queue, state_dict: dict, prefix: str, *_) -> None:
    """Lets a warm start go on from a queue of another size: on more or fewer images, "auto" says another."""
    rows, n_filled = (state_dict.get(prefix + name) for name in ("rows", "n_filled"))
    if rows is None or n_filled is None or rows.shape[1] != queue.rows.shape[1]:
        return  # torch says what is wrong
    size = len(queue.rows)
    missing = rows.new_zeros(max(0, size - len(rows)), rows.shape[1])
    state_dict[prefix + "rows"] = torch.cat([missing, rows[-size:]])
    state_dict[prefix + "n_filled"] = n_filled.clamp(max=size)
