"""How many groups so many images can be sorted into."""

from __future__ import annotations

from sklearn_ssl.losses import is_whole


def number_of_groups(name: str, given: int | str, default: int, n_samples: int) -> int:
    """Number of prototypes or clusters.

    Parameters
    ----------
    name : str
        Of the hyperparameter, for messages.
    given : int or "auto"
        Its value.
    default : int
        What "auto" means on large data. It is no more than a quarter of the images (but at least 2): a
        group shall have several members.
    n_samples : int
        Training images.

    Raises
    ------
    ValueError
        `given` is no number from 2 to `n_samples`.
    """
    if isinstance(given, str) and given == "auto":
        return min(default, max(2, n_samples // 4))
    if not is_whole(given) or not 2 <= given <= n_samples:
        raise ValueError(
            f"loss__{name}={given!r}: {n_samples} images can be sorted into 2 to {n_samples} groups. Give a "
            f"number in between, or 'auto'."
        )
    return int(given)
