"""Number of prototypes or clusters for a data set."""

from __future__ import annotations

from sklearn_ssl.losses import is_whole


def number_of_groups(name: str, given: int | str, default: int, n_samples: int) -> int:
    """Return the number of prototypes or clusters.

    Parameters
    ----------
    name : str
        Name of the hyperparameter, for error messages.
    given : int or "auto"
        Value of the hyperparameter.
    default : int
        Value for "auto" on large data sets. On small ones it is a quarter of the number of images, but at
        least 2, so that a cluster has several members.
    n_samples : int
        Number of training images.

    Returns
    -------
    int
        Number of prototypes or clusters.

    Raises
    ------
    ValueError
        If `given` is not a number from 2 to `n_samples`.
    """
    if isinstance(given, str) and given == "auto":
        return min(default, max(2, n_samples // 4))
    if not is_whole(given) or not 2 <= given <= n_samples:
        raise ValueError(
            f"loss__{name}={given!r}: {n_samples} images can be sorted into 2 to {n_samples} groups. Give a "
            f"number in between, or 'auto'."
        )
    return int(given)
