"""What is trained: the student (backbone + projector), and the teacher that follows it."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from sklearn_ssl._hardware.cpu_kernels import FasterOperations
from sklearn_ssl._networks.backbones import feature_maps


class Student(nn.Module):
    """Backbone and projector, as a loss sees them.

    Parameters
    ----------
    backbone : nn.Module
        (n, channels, height, width) -> features h of shape (n, feature_dim).
    projector : nn.Module
        Features -> projections z of shape (n, dim).
    precision : {"bf16", "float32"}, default="float32"
        Arithmetic inside; what comes out is float32 in either case.
    """

    def __init__(self, backbone: nn.Module, projector: nn.Module, precision: str = "float32"):
        super().__init__()
        self.backbone = backbone
        self.projector = projector
        self.precision = precision

    def features(self, x: Tensor) -> Tensor:
        """Features h of shape (n, feature_dim), float32."""
        with autocast(x.device, self.precision):
            return as_float32(self.backbone(x))

    def maps(self, x: Tensor) -> Tensor:
        """Feature maps of shape (n, feature_dim, rows, columns), float32; see `feature_maps`."""
        with autocast(x.device, self.precision):
            return as_float32(feature_maps(self.backbone, x))

    def encode(self, x: Tensor, keep: Tensor) -> Tensor:
        """Tokens of some patches alone, float32, of shape (n, k, feature_dim); see `ViT.encode`."""
        with autocast(x.device, self.precision):
            return as_float32(self.backbone.encode(x, keep))  # type: ignore[operator]  # ViT.encode

    def tokens(self, x: Tensor, mask: Tensor | None = None, token: Tensor | None = None) -> Tensor:
        """Tokens of all patches, float32, of shape (n, patches, feature_dim); see `ViT.tokens`."""
        with autocast(x.device, self.precision):
            return as_float32(self.backbone.tokens(x, mask, token))  # type: ignore[operator]  # ViT.tokens

    def forward(self, views: Sequence[Tensor]) -> list[Tensor]:
        """Projections [z, ...], float32, one tensor of shape (n, dim) for each view."""
        z: dict[int, Tensor] = {}
        for places in _places_by_size(views).values():
            # Views of one size share one pass: fewer, larger operations, and BatchNorm sees them all.
            together = torch.cat([views[i] for i in places])
            with autocast(together.device, self.precision):
                projections = as_float32(self.projector(self.backbone(together)))
            z.update(zip(places, projections.split([len(views[i]) for i in places]), strict=True))
        return [z[i] for i in range(len(views))]


class Teacher(nn.Module):
    """An exponential moving average of a student; never receives gradients.

    It stays in training mode, as in BYOL and MoCo: BatchNorm uses the batch's own statistics.
    """

    def __init__(self, student: Student):
        super().__init__()
        self.average = copy.deepcopy(student).requires_grad_(False)

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        """Features h of shape (n, feature_dim), float32."""
        return self.average.features(x)

    @torch.no_grad()
    def forward(self, views: Sequence[Tensor]) -> list[Tensor]:
        """Projections [z, ...], float32, without gradient."""
        return self.average(views)

    @torch.no_grad()
    def follow(self, student: Student, momentum: float) -> None:
        """Move every parameter and floating-point buffer by 1 - momentum towards the student's."""
        pairs = list(zip(_tensors(self.average), _tensors(student), strict=True))
        floats = [(mine, theirs) for mine, theirs in pairs if mine.is_floating_point()]
        torch._foreach_lerp_([mine for mine, _ in floats], [theirs for _, theirs in floats], 1 - momentum)
        for mine, theirs in pairs:
            if not mine.is_floating_point():
                mine.copy_(theirs)


def load_plain_state(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load a state dict that has become a plain dict, without the versions that some modules look at."""
    versioned = OrderedDict(state)
    versioned._metadata = module.state_dict()._metadata  # type: ignore[attr-defined]  # torch's own
    module.load_state_dict(versioned)


@contextmanager
def autocast(device: torch.device, precision: str) -> Iterator[None]:
    """The context in which a network runs: its precision, and the faster of two ways to compute."""
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"), FasterOperations():
        yield


def remove_compilation(module: nn.Module) -> nn.Module:
    """The module, no longer compiled in place; torch has no public way back."""
    module._compiled_call_impl = None
    return module


def as_float32(x: Tensor) -> Tensor:
    """Upcast from lower precisions; float64 stays."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _places_by_size(views: Sequence[Tensor]) -> dict[torch.Size, list[int]]:
    places: dict[torch.Size, list[int]] = {}
    for i, view in enumerate(views):
        places.setdefault(view.shape[-2:], []).append(i)
    return places


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]
