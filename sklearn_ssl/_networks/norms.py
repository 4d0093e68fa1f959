"""Statistics of the BatchNorm layers of a network that has not been trained."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@torch.no_grad()
def fill_in_statistics(student: nn.Module, batches: Iterable[Sequence[Tensor]]) -> None:
    """Give BatchNorm layers that have no running statistics yet those of images.

    Without statistics, a BatchNorm layer in eval mode passes its inputs on as they are, so that a random
    network is another one than in training. Layers with statistics, as of pretrained networks, keep and use
    them, unlike in `torch.optim.swa_utils.update_bn`, which computes those of all layers anew.

    Parameters
    ----------
    student : Student
        Network; only the running statistics of its BatchNorm layers are changed.
    batches : iterable of sequences of Tensor
        Views of images, as `Student` takes them; the statistics are the means over the batches.
    """
    unset = [module for module in student.modules() if isinstance(module, _BatchNorm) and _is_unset(module)]
    if not unset:
        return
    modes = [(module, module.training) for module in student.modules()]
    momentum = [norm.momentum for norm in unset]
    student.eval()
    for norm in unset:
        norm.train()
        norm.momentum = None  # a plain mean over the batches
    for views in batches:
        student(views)
    for norm, value in zip(unset, momentum, strict=True):
        norm.momentum = value
    for module, training in modes:
        module.training = training


def _is_unset(norm: _BatchNorm) -> bool:
    mean, var = norm.running_mean, norm.running_var
    return mean is not None and var is not None and not mean.any() and bool((var == 1).all())
