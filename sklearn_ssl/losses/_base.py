"""The plugin contract: what a loss is given, and what it may declare."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class ViewSpec:
    """What one image is turned into, for each step of training.

    Parameters
    ----------
    n : int, default=2
        Views at the full `image_size`.
    local : int, default=0
        Additional small crops (multi-crop, SwAV, arXiv:2006.09882). They come after the
        full-size ones in `Batch.views`.
    local_size : float, default=0.5
        Side of a local crop, as a share of `image_size`.
    scale : tuple of two floats, optional
        Share of the image's area that a full-size view covers, drawn uniformly from this range.
        None: what the user's augmentation says.
    local_scale : tuple of two floats, default=(0.05, 0.4)
        The same for local crops.
    recipes : tuple of {"strong", "weak", "none"}, default=("strong",)
        How each view is drawn, in the order of the views; a shorter tuple is cycled.
        "strong" uses all of the augmentation, "weak" crops and flips only, "none" resizes and
        centres.
    """

    n: int = 2
    local: int = 0
    local_size: float = 0.5
    scale: tuple[float, float] | None = None
    local_scale: tuple[float, float] = (0.05, 0.4)
    recipes: tuple[str, ...] = ("strong",)


@dataclass
class Batch:
    """One step's material, on the training device.

    Attributes
    ----------
    views : list of Tensor of shape (n, channels, height, width)
        `ViewSpec.n` full-size views, then `ViewSpec.local` small ones; augmented and normalised.
    index : Tensor of shape (n,), int64
        The samples' row numbers in the training set.
    y : Tensor of shape (n,), int64, or None
        Class numbers, -1 where unlabeled; only for a loss that says `uses_labels`.
    epoch : int
        Counted from 0.
    progress : float
        Share of the whole training that is done, from 0 to 1.
    generator : torch.Generator
        On the training device, seeded from (seed, step): the only source of randomness for a loss.
    """

    views: list[Tensor]
    index: Tensor
    y: Tensor | None
    epoch: int
    progress: float
    generator: torch.Generator


@dataclass
class Spec:
    """Sizes that are known when `fit` begins.

    Attributes
    ----------
    feature_dim : int
        Width of the backbone's features h.
    dim : int
        Width of the projections z.
    n_samples, batch_size : int
        Training images, and images in a step.
    in_channels : int
        Channels of an image.
    image_size : tuple of two ints
        (height, width) of a full-size view.
    backbone : nn.Module
        The backbone itself, on the CPU.
    generator : torch.Generator
        On the CPU: the only source of randomness for `build`. (Layers that are made there are
        initialised reproducibly by the caller.)
    """

    feature_dim: int
    dim: int
    n_samples: int
    batch_size: int
    in_channels: int
    image_size: tuple[int, int]
    backbone: nn.Module
    generator: torch.Generator


class Student(Protocol):
    """The network in training, backbone and projector, as a loss sees it; every result is float32.

    Attributes
    ----------
    backbone, projector : nn.Module
    """

    backbone: nn.Module
    projector: nn.Module

    def __call__(self, views: Sequence[Tensor]) -> list[Tensor]:
        """Return projections, one tensor of shape (n, dim) for each view (n, channels, height, width)."""
        ...

    def features(self, x: Tensor) -> Tensor:
        """Return features of shape (n, feature_dim)."""
        ...

    def maps(self, x: Tensor) -> Tensor:
        """Return feature maps of shape (n, feature_dim, rows, columns), for backbones that have them."""
        ...

    def encode(self, x: Tensor, keep: Tensor) -> Tensor:
        """Return tokens (n, k, feature_dim) of the patches `keep` (n, k) alone; with backbone "vit"."""
        ...

    def tokens(self, x: Tensor, mask: Tensor | None = None, token: Tensor | None = None) -> Tensor:
        """Return tokens (n, patches, feature_dim), with `token` at masked patches; with backbone "vit"."""
        ...


class Teacher(Protocol):
    """The moving average of the student, as a loss sees it; without gradients."""

    def __call__(self, views: Sequence[Tensor]) -> list[Tensor]:
        """Return projections, one tensor of shape (n, dim) for each view (n, channels, height, width)."""
        ...

    def features(self, x: Tensor) -> Tensor:
        """Return features of shape (n, feature_dim)."""
        ...


def mlp(*widths: int, norm_output: bool = False) -> nn.Sequential:
    """Linear - BatchNorm - ReLU between the widths given; the last is linear alone. Of one width: nothing.

    `norm_output` standardises what comes out over the batch: BatchNorm without weights of its own, as in
    SimSiam (arXiv:2011.10566). Before it is trained, an MLP sends all images in one direction; centred, they
    differ from the first step on, which methods without negatives need in a short training.
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


def mean_over_pairs(loss_of_pair: Callable[[Tensor, Tensor], Tensor], z: Sequence[Tensor]) -> Tensor:
    """A loss that is defined on two views, for any number of them: the mean over all pairs."""
    if len(z) < 2:
        raise ValueError(f"a loss on pairs needs at least two views, got {len(z)}.")
    return torch.stack([loss_of_pair(a, b) for a, b in combinations(z, 2)]).mean()


class SSLLoss(nn.Module):
    """A self-supervised learning method, as a plugin.

    The keywords of the constructor are its hyperparameters, each with a default: they become
    `loss__<name>` of `SSLImageEmbedder`. A simple loss writes `forward` only::

        class Alignment(SSLLoss):
            def __init__(self, power=2.0):
                super().__init__()
                self.power = check_number("loss__power", power, above=0)

            def forward(self, z1, z2):
                return (z1 - z2).abs().pow(self.power).mean()

    What a method trains beside backbone and projector (a predictor, prototypes) are parameters
    made in `build`; what must survive (a queue, a centre) are persistent buffers made there.
    All randomness comes from `batch.generator` and `spec.generator`. `sklearn_ssl.losses` has what checks
    hyperparameters: `check_number`, `check_bool` and `check_choice` raise errors that name them.

    A method that fills in images may also have ``reconstruct(views, student, generator)``, which returns what
    the backbone saw of them, NaN where it saw nothing, and what was made of it, both like ``views[0]``: then
    `sklearn_ssl.plot_reconstructions` draws it.

    Attributes
    ----------
    view_spec : ViewSpec
        How many views of an image, and which. `build` may set it, where it depends on sizes.
    uses_labels : bool
        Whether `Batch.y` is wanted.
    teacher_momentum : float, callable or None
        Momentum of an exponential moving average of backbone and projector, or a picklable
        schedule of progress in [0, 1]; None: no teacher.
    defaults : dict
        What this method wants where the user left "auto". Keys: backbone, projector (widths, or a
        function that makes them from the width of the features; () for none), augment, optimizer, lr (for 256
        images in a step), weight_decay, warmup, max_epochs.
    """

    view_spec: ClassVar[ViewSpec] | ViewSpec = ViewSpec()
    uses_labels: bool = False
    teacher_momentum: float | Callable[[float], float] | None = None
    defaults: ClassVar[dict] = {}

    def forward(self, *z: Tensor, y: Tensor | None = None) -> Tensor | dict[str, Tensor]:
        """Loss of the projections.

        Parameters
        ----------
        *z : Tensor of shape (n, dim), float32
            Projections, one tensor for each view.
        y : Tensor of shape (n,), only when `uses_labels`

        Returns
        -------
        Tensor of shape () or dict
            The loss; or ``{"loss": loss, term: value, ...}``, whose terms go to the history.
        """
        raise NotImplementedError(f"{type(self).__name__} must write `forward` or `step`.")

    def build(self, spec: Spec) -> None:
        """Make own parameters and buffers; called once, before the optimizer exists."""

    def make_projector(self, in_dim: int, widths: tuple[int, ...]) -> nn.Module:
        """Projector from features (n, in_dim) to projections; default: an MLP with BatchNorm."""
        return mlp(in_dim, *widths)

    def step(self, batch: Batch, student: Student, teacher: Teacher | None) -> Tensor | dict[str, Tensor]:
        """Loss of one batch; richer methods override this.

        Parameters
        ----------
        batch : Batch
        student : Student
            In float32: ``student(views) -> [z, ...]``, ``student.features(x) -> h``,
            ``student.maps(x)``, and with backbone "vit" ``student.encode(x, keep)`` and
            ``student.tokens(x, mask, token)``. Also ``student.backbone``.
        teacher : Teacher or None
            ``teacher(views) -> [z, ...]``, without gradient.
        """
        labels = {"y": batch.y} if self.uses_labels else {}
        return self(*student(batch.views), **labels)

    def after_step(self, student: Student, teacher: Teacher | None) -> None:
        """Called after the optimizer's step and the teacher's update."""

    def on_epoch_start(self, epoch: int, generator: torch.Generator) -> None:
        """Called once at the start of each epoch."""
