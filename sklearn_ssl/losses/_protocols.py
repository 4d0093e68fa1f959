"""Interfaces of the networks that a loss receives: student and teacher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor, nn


class Network(Protocol):
    """Interface of backbone and projector; all results are float32."""

    def __call__(self, views: Sequence[Tensor]) -> list[Tensor]:
        """Return the projections of several views.

        Parameters
        ----------
        views : sequence of Tensor of shape (n, channels, height, width)
            Views, which may differ in size.

        Returns
        -------
        list of Tensor of shape (n, dim)
            Projections, one tensor for each view.
        """
        ...

    def features(self, x: Tensor) -> Tensor:
        """Return the features of images.

        Parameters
        ----------
        x : Tensor of shape (n, channels, height, width)
            Images.

        Returns
        -------
        Tensor of shape (n, feature_dim)
            Features of the backbone.
        """
        ...

    def maps(self, x: Tensor) -> Tensor:
        """Return the feature maps of images, for backbones that expose them.

        Parameters
        ----------
        x : Tensor of shape (n, channels, height, width)
            Images.

        Returns
        -------
        Tensor of shape (n, feature_dim, rows, columns)
            Feature maps, before the average over space.
        """
        ...

    def encode(self, x: Tensor, keep: Tensor) -> Tensor:
        """Return the tokens of the visible patches only; requires the backbone "vit".

        Parameters
        ----------
        x : Tensor of shape (n, channels, height, width)
            Images.
        keep : Tensor of shape (n, k), int64
            Indices of the visible patches, row by row from 0.

        Returns
        -------
        Tensor of shape (n, k, feature_dim)
            Tokens, which attend to one another and to no hidden patch.
        """
        ...

    def tokens(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        token: Tensor | None = None,
        *,
        with_class: bool = False,
        n_layers: int | None = None,
    ) -> Tensor:
        """Return the tokens of all patches, some of them masked; requires the backbone "vit".

        Parameters
        ----------
        x : Tensor of shape (n, channels, height, width)
            Images.
        mask : Tensor of shape (n, patches), bool, default=None
            True for each masked patch; None masks no patch.
        token : Tensor of shape (feature_dim,), default=None
            Mask token, which replaces the embedding of a masked patch.
        with_class : bool, default=False
            Whether to return the class token as well, before the others.
        n_layers : int, default=None
            Number of last layers whose outputs to return, before the final normalization; None: the tokens
            after it.

        Returns
        -------
        Tensor of shape (n, patches, feature_dim) or (n, n_layers, patches, feature_dim)
            Tokens of all patches.
        """
        ...


class Teacher(Network, Protocol):
    """Interface of the student's exponential moving average; without gradients.

    A protocol for type annotations: it is not instantiated. Its object is the `teacher` argument of
    `SSLLoss.step`, for a loss that sets `teacher_momentum`.

    Attributes
    ----------
    heads : nn.ModuleDict
        Moving averages of the modules of the loss that `SSLLoss.teacher_heads` names.

    See Also
    --------
    Student : Interface of the network in training.
    """

    heads: nn.ModuleDict


class Student(Network, Protocol):
    """Interface of the network in training, backbone and projector; all results are float32.

    A protocol for type annotations: it is not instantiated. Its object is the `student` argument of
    `SSLLoss.step`.

    Attributes
    ----------
    backbone : nn.Module
        Maps images (n, channels, height, width) to features (n, feature_dim).
    projector : nn.Module
        Maps features (n, feature_dim) to projections (n, dim).

    See Also
    --------
    Teacher : Interface of the student's exponential moving average.
    """

    backbone: nn.Module
    projector: nn.Module
