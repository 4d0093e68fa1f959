"""Construction of the network and of the loss from the settings of a fit."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from sklearn_ssl._checks import shortened
from sklearn_ssl._images.inputs import ImageFormat
from sklearn_ssl._networks.backbones import build_backbone, freeze
from sklearn_ssl._networks.student import Student, load_plain_state
from sklearn_ssl._networks.weights import mismatches
from sklearn_ssl.losses._adapters import build_loss
from sklearn_ssl.losses._base import Spec, SSLLoss


def build_student(
    loss: SSLLoss,
    backbone: Any,
    backbone_params: dict[str, Any],
    frozen_fraction: float,
    projector: Any,
    images: ImageFormat,
    *,
    precision: str,
    n_samples: int,
    batch_size: int,
    n_steps: int | None,
    generator: torch.Generator,
    loss_name: str,
    loss_params: dict[str, Any],
    start: Mapping[str, Tensor] | None = None,
) -> tuple[Student, Sequence[int] | nn.Module, int]:
    """Build backbone and projector, and the loss's own parameters in place.

    `start` are the weights of an earlier encoder's backbone, to begin with.

    Returns
    -------
    student : Student
        Network on the CPU.
    projector : tuple of int or nn.Module
        Widths of the projector if `projector` is a function of the feature width; otherwise `projector`.
    feature_dim : int
        Width of the backbone's features.

    Raises
    ------
    ValueError
        If a part cannot be created, or does not match the others.
    """
    channels = images.shape[2]
    network, feature_dim = build_backbone(
        backbone, backbone_params, in_channels=channels, image_size=images.size
    )
    if start is not None:
        found = mismatches(network.state_dict(), start)
        if found:
            raise cannot_go_on(f"the backbone is another ({found})")
        load_plain_state(network, start)
    freeze(network, frozen_fraction)
    if isinstance(projector, FunctionType):
        projector = projector(feature_dim)
    head = _make_projector(projector, loss, feature_dim)
    spec = Spec(
        feature_dim=feature_dim,
        dim=output_width(head, feature_dim),
        n_samples=n_samples,
        batch_size=batch_size,
        in_channels=channels,
        image_size=images.size,
        backbone=network,
        generator=generator,
        n_steps=n_steps,
    )
    build_loss(loss, spec, loss_name, loss_params)
    return Student(network, head, precision), projector, feature_dim


def cannot_go_on(reason: str) -> ValueError:
    """Return the error of a warm start that does not fit what it would go on with."""
    return ValueError(
        f"warm_start=True continues with the network of the last fit, but {reason}. Set backbone, projector, "
        f"loss, optimizer, frozen_fraction, image_size and the number of channels back, or start again with "
        f"warm_start=False. What a backbone of the same name has learned also starts another embedder: "
        f"backbone__weights=embedder.encoder_.backbone.state_dict()."
    )


def teacher_heads(loss: SSLLoss) -> dict[str, nn.Module]:
    """Return the modules of a loss that the teacher follows, by name."""
    return {name: getattr(loss, name) for name in loss.teacher_heads}


def output_width(module: nn.Module, in_dim: int) -> int:
    """Return the width of a module's output for inputs of shape (n, in_dim)."""
    was_training = module.training
    with torch.no_grad():
        out = module.eval()(torch.zeros(2, in_dim))
    module.train(was_training)
    return out.shape[1]


def _make_projector(projector: Any, loss: SSLLoss, feature_dim: int) -> nn.Module:
    """Copy the user's module, or let the loss build one of the given widths; then test it."""
    try:
        if isinstance(projector, nn.Module):
            made = copy.deepcopy(projector).cpu()  # the user's module is not trained in place
        else:
            made = loss.make_projector(feature_dim, tuple(projector))
        output_width(made, feature_dim)
    except Exception as error:  # a module may raise anything
        raise ValueError(
            f"projector={shortened(projector)} cannot map the backbone's {feature_dim} features to "
            f"projections of shape (n, width): {error}"
        ) from error
    return made
