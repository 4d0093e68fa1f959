"""Loss and scores of held-back images, epoch by epoch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sklearn_ssl._checks import shortened
from sklearn_ssl._images.sources import Source, SubsetSource
from sklearn_ssl._labels import Labeled, group_numbers
from sklearn_ssl._networks.inference import InferenceNetwork
from sklearn_ssl._scores import ImagesToScore, Scoring
from sklearn_ssl._settings import is_auto
from sklearn_ssl._training.net import SSLNet
from sklearn_ssl.losses._base import SSLLoss

# Maximum number of held-back images that are used.
N_EVALUATED = 500
# Share of a fit's time that evaluations may take, by the number of images that pass through the network.
SHARE_OF_TIME = 0.02
# Number of embedded images that take as long as the rest of an evaluation, such as copying the network.
FIXED_COST = 200
# A training step costs as much as this number of forward passes.
PASSES_PER_STEP = 3
# Names in `history_` that are no scores.
TAKEN = ("epoch", "train_loss", "valid_loss", "lr", "dur", "images_per_second", "batches")
# Seed of the split.
SPLIT_SEED = 0
# Scores of eval_metrics="auto", and of `score`.
WITH_LABELS, WITHOUT_LABELS = "knn_accuracy", "rankme"


def hold_back(
    source: Source, n_given: int, fraction: float, groups: Any = None
) -> tuple[Source, SubsetSource | None]:
    """Split off a random share of the first `n_given` images, those of X; None for a share of 0.

    With groups, whole ones are held back, so many that the number of images is nearest to the share.

    Raises
    ------
    ValueError
        If fewer than two images would be held back, or left.
    """
    of_group = group_numbers(groups, n_given)
    if not fraction:
        return source, None
    sizes = np.bincount(of_group)
    order = np.random.RandomState(SPLIT_SEED).permutation(len(sizes))
    sums = np.array([0, *np.cumsum(sizes[order])])
    n_groups = np.abs(sums - round(fraction * n_given)).argmin()
    n_held = sums[n_groups]
    if not 2 <= n_held <= n_given - 2:
        whole = "" if groups is None else f", in whole groups ({len(sizes)} in all),"
        raise ValueError(
            f"validation_fraction={fraction:g} of {n_given} images holds {n_held} back{whole}: give a value "
            f"that holds back, and leaves, at least 2."
        )
    held = np.flatnonzero(np.isin(of_group, order[:n_groups]))
    left = np.setdiff1d(np.arange(len(source)), held)
    return SubsetSource(source, torch.from_numpy(left)), SubsetSource(source, torch.from_numpy(held))


@dataclass(frozen=True)
class Evaluation:
    """What is computed on images that are not trained on, and how often.

    Parameters
    ----------
    source : Source
        The images.
    y : ndarray of shape (n_images,) or None
        Their labels.
    groups : ndarray of shape (n_images,) or None
        Their groups.
    targets : Tensor or None
        Their labels as the loss is given them; None for a loss without labels.
    scores : mapping of str to Scoring
        Scores by name in `history_`.
    images : callable
        Function (source, network) -> ImagesToScore.
    network : callable
        Function of the backbone in training that returns the network to score.
    every : int
        Number of epochs from one evaluation to the next; the last epoch always has one.
    """

    source: Source
    y: np.ndarray | None
    groups: np.ndarray | None
    targets: Tensor | None
    scores: Mapping[str, Scoring]
    images: Callable[[Source, InferenceNetwork], ImagesToScore]
    network: Callable[[nn.Module], InferenceNetwork]
    every: int

    def names(self, loss: SSLLoss) -> list[str]:
        """Return the names of the results in the history."""
        return [*(["valid_loss"] if loss.validates else []), *self.scores]

    def identity(self) -> tuple:
        """Return values that change with the images; held-back ones are known by those of the training."""
        return self.y, self.groups, None if isinstance(self.source, SubsetSource) else self.source.identity()

    def is_due(self, epoch: int) -> bool:
        """Return whether an epoch, counted from 0, has an evaluation."""
        return epoch % self.every == 0

    def __call__(self, net: SSLNet) -> dict[str, float]:
        """Return the loss of the images, unless the loss has none, and their scores."""
        values = {}
        if net.criterion_.validates:
            index = torch.arange(min(len(self.source), net.batch_size, N_EVALUATED))
            targets = None if self.targets is None else self.targets[index]
            values["valid_loss"] = net.loss_of_others(self.source.batch(index), targets)
        if self.scores:
            images = self.images(self.source, self.network(net.kept.backbone))
            values |= {
                name: score.evaluate(images, self.y, self.groups) for name, score in self.scores.items()
            }
        return values


def resolve_scores(given: Any, y: Any, groups: Any = None) -> dict[str, Scoring]:
    """Return the scores of `eval_metrics` by their names in the history.

    Raises
    ------
    ValueError
        If one is unknown, needs labels that are missing, or has a name that is taken.
    """
    if is_auto(given):
        given = WITH_LABELS if _has_labels(y, groups) else WITHOUT_LABELS
    several = given if isinstance(given, list | tuple | Mapping) else [given]
    named = several if isinstance(several, Mapping) else {_name(each): each for each in several}
    scores = {name: _made(each) for name, each in named.items()}
    taken = sorted(set(scores) & set(TAKEN))
    if taken:
        raise ValueError(f"eval_metrics: the name {taken[0]!r} is taken in history_. Give another.")
    for score in scores.values():
        if score.needs_labels and not _has_labels(y, groups):
            where = "two" if groups is None else "in two groups"
            raise ValueError(
                f"eval_metrics: {score.name!r} needs labels of the images to evaluate on, {where} each of at "
                f"least two classes. Give them as y, or in eval_set=(images, labels), or choose a score "
                f"without labels, such as {WITHOUT_LABELS!r}."
            )
    return scores


def epochs_between(scores: Sequence[Scoring], n_evaluated: int, n_images: int, n_views: int) -> int:
    """Return the number of epochs from one evaluation to the next, for `SHARE_OF_TIME` of the training."""
    n_used = min(n_evaluated, N_EVALUATED)
    cost = FIXED_COST + n_used * n_views + sum(min(n_evaluated, s.n_images) * s.n_views for s in scores)
    epoch = PASSES_PER_STEP * n_views * n_images
    return max(1, math.ceil(cost / (SHARE_OF_TIME * epoch)))


def _has_labels(y: Any, groups: Any) -> bool:
    """Return whether at least two classes have two labels, in different groups."""
    if y is None:
        return False
    try:
        return Labeled.of(y, groups).n_comparable > 1
    except ValueError:  # no classes
        return False


def _made(given: Any) -> Scoring:
    """Return a given score, or one by name, of at most `N_EVALUATED` images."""
    if isinstance(given, Scoring):
        return given
    score = Scoring.of(_name(given))
    return replace(score, n_images=min(score.n_images, N_EVALUATED))


def _name(given: Any) -> str:
    if isinstance(given, Scoring):
        return given.name
    if isinstance(given, str):
        return given
    raise ValueError(
        f"eval_metrics has {shortened(given)}: give names of scorers (available_scorers()), or results of "
        f"get_scorer."
    )
