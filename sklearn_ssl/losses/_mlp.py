"""Multilayer perceptron: the usual projector and predictor."""

from __future__ import annotations

from itertools import pairwise

from torch import nn


def mlp(*widths: int, norm_output: bool = False) -> nn.Sequential:
    """Build a multilayer perceptron with batch normalization.

    Each hidden layer is Linear - BatchNorm - ReLU; the output layer is linear. No linear layer has a bias.

    Parameters
    ----------
    *widths : int
        Widths of the input, the hidden layers and the output. A single width gives an identity.
    norm_output : bool, default=False
        Whether to standardize the output over the batch, by a BatchNorm without an affine
        transformation as in SimSiam [1]_. An untrained MLP maps all images to about the same direction;
        centered outputs differ from the first step on, which methods without negatives need in a short
        training.

    Returns
    -------
    nn.Sequential
        Module that maps (n, widths[0]) to (n, widths[-1]).

    References
    ----------
    .. [1] Chen and He, "Exploring Simple Siamese Representation Learning", CVPR 2021, arXiv:2011.10566.

    Examples
    --------
    >>> import torch
    >>> from sklearn_ssl.losses import mlp
    >>> projector = mlp(512, 256, 64)
    >>> projector(torch.zeros(8, 512)).shape
    torch.Size([8, 64])
    """
    if len(widths) == 1:
        return nn.Sequential()
    layers: list[nn.Module] = []
    for wide, next_wide in pairwise(widths[:-1]):
        layers += [nn.Linear(wide, next_wide, bias=False), nn.BatchNorm1d(next_wide), nn.ReLU(inplace=True)]
    layers.append(nn.Linear(widths[-2], widths[-1], bias=False))
    if norm_output:
        layers.append(nn.BatchNorm1d(widths[-1], affine=False))
    return nn.Sequential(*layers)
