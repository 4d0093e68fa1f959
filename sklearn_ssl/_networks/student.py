"""Student (backbone and projector) and teacher, its moving average."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from sklearn_ssl._hardware.cpu_kernels import FasterOperations
from sklearn_ssl._networks.backbones import feature_maps


class Student(nn.Module):
    """Backbone and projector in training, as a loss receives them.

    Parameters
    ----------
    backbone : nn.Module
        Module that maps images (n, channels, height, width) to features h of shape (n, feature_dim).
    projector : nn.Module
        Module that maps features to projections z of shape (n, dim).
    precision : {"bf16", "float32"}, default="float32"
        Precision of the computation; results are float32 in either case.
    """

    def __init__(self, backbone: nn.Module, projector: nn.Module, precision: str = "float32"):
        super().__init__()
        self.backbone = backbone
        self.projector = projector
        self.precision = precision

    def features(self, x: Tensor) -> Tensor:
        """Return features h of shape (n, feature_dim), float32."""
        with autocast(x.device, self.precision):
            return as_float32(self.backbone(x))

    def maps(self, x: Tensor) -> Tensor:
        """Return feature maps of shape (n, feature_dim, rows, columns), float32; see `feature_maps`."""
        with autocast(x.device, self.precision):
            return as_float32(feature_maps(self.backbone, x))

    def encode(self, x: Tensor, keep: Tensor) -> Tensor:
        """Return tokens of some patches only, of shape (n, k, feature_dim), float32; see `ViT.encode`."""
        with autocast(x.device, self.precision):
            return as_float32(self.backbone.encode(x, keep))  # type: ignore[operator]  # ViT.encode

    def tokens(
        self, x: Tensor, mask: Tensor | None = None, token: Tensor | None = None, **which: Any
    ) -> Tensor:
        """Return tokens of all patches, of shape (n, patches, feature_dim), float32; see `ViT.tokens`."""
        with autocast(x.device, self.precision):
            return as_float32(self.backbone.tokens(x, mask, token, **which))  # type: ignore[operator]  # ViT's

    def forward(self, views: Sequence[Tensor]) -> list[Tensor]:
        """Return projections [z, ...], one tensor of shape (n, dim) for each view, float32."""
        z: dict[int, Tensor] = {}
        for places in _places_by_size(views).values():
            # Views of one size share a pass: fewer, larger operations, and statistics of all in BatchNorm.
            together = torch.cat([views[i] for i in places])
            with autocast(together.device, self.precision):
                projections = as_float32(self.projector(self.backbone(together)))
            z.update(zip(places, projections.split([len(views[i]) for i in places]), strict=True))
        return [z[i] for i in range(len(views))]


class Teacher(nn.Module):
    """Exponential moving average of a student, without gradients.

    It remains in training mode, as in BYOL and MoCo: BatchNorm uses the statistics of the batch.

    Parameters
    ----------
    student : Student
        Network to follow.
    heads : mapping of str to nn.Module
        Modules of the loss to follow as well; their averages are `heads[name]`.
    """

    def __init__(self, student: Student, heads: Mapping[str, nn.Module] = MappingProxyType({})):
        super().__init__()
        self.average = copy.deepcopy(student).requires_grad_(False)
        self.heads = nn.ModuleDict(copy.deepcopy(dict(heads))).requires_grad_(False)

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        """Return features h of shape (n, feature_dim), float32."""
        return self.average.features(x)

    @torch.no_grad()
    def maps(self, x: Tensor) -> Tensor:
        """Return feature maps of shape (n, feature_dim, rows, columns), float32; see `feature_maps`."""
        return self.average.maps(x)

    @torch.no_grad()
    def encode(self, x: Tensor, keep: Tensor) -> Tensor:
        """Return tokens of some patches only, of shape (n, k, feature_dim), float32; see `ViT.encode`."""
        return self.average.encode(x, keep)

    @torch.no_grad()
    def tokens(
        self, x: Tensor, mask: Tensor | None = None, token: Tensor | None = None, **which: Any
    ) -> Tensor:
        """Return tokens of all patches, of shape (n, patches, feature_dim), float32; see `ViT.tokens`."""
        return self.average.tokens(x, mask, token, **which)

    @torch.no_grad()
    def forward(self, views: Sequence[Tensor]) -> list[Tensor]:
        """Return projections [z, ...], float32, without gradient."""
        return self.average(views)

    @torch.no_grad()
    def follow(
        self, student: Student, momentum: float, heads: Mapping[str, nn.Module] = MappingProxyType({})
    ) -> None:
        """Move every parameter and floating-point buffer by 1 - momentum toward the student's."""
        followed = [(self.average, student), *((head, heads[name]) for name, head in self.heads.items())]
        for average, module in followed:
            pairs = list(zip(_tensors(average), _tensors(module), strict=True))
            floats = [(mine, theirs) for mine, theirs in pairs if mine.is_floating_point()]
            torch._foreach_lerp_([mine for mine, _ in floats], [theirs for _, theirs in floats], 1 - momentum)
            for mine, theirs in pairs:
                if not mine.is_floating_point():
                    mine.copy_(theirs)


def load_plain_state(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load a state dict from a plain dict, which lacks the versions that some modules look at."""
    versioned = OrderedDict(state)
    versioned._metadata = module.state_dict()._metadata  # type: ignore[attr-defined]  # torch's own
    module.load_state_dict(versioned)


@contextmanager
def autocast(device: torch.device, precision: str) -> Iterator[None]:
    """Context manager in which a network runs: its precision, and faster kernels on CPUs."""
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"), FasterOperations():
        yield


def remove_compilation(module: nn.Module) -> nn.Module:
    """Undo `module.compile()` and return the module; torch has no public function for it."""
    module._compiled_call_impl = None
    return module


def as_float32(x: Tensor) -> Tensor:
    """Convert lower precisions to float32; float64 is kept."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _places_by_size(views: Sequence[Tensor]) -> dict[torch.Size, list[int]]:
    places: dict[torch.Size, list[int]] = {}
    for i, view in enumerate(views):
        places.setdefault(view.shape[-2:], []).append(i)
    return places


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]
