"""The plugin contract: the arguments that a loss receives, and the attributes that it may declare."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from sklearn_ssl.losses._mlp import mlp
from sklearn_ssl.losses._protocols import Student, Teacher

# Augmentations of a view by name.
RECIPES = ("strong", "weak", "none")


@dataclass(frozen=True)
class ViewSpec:
    """Number, size and augmentation of the views drawn of each image in a training step.

    Parameters
    ----------
    n : int, default=2
        Number of views at the full `image_size`.
    local : int, default=0
        Number of additional local crops (multi-crop, [1]_). They follow the full-size views in
        `Batch.views`.
    local_size : float or tuple of floats, default=0.5
        Side of a local crop, as a fraction of `image_size`. A tuple gives the sides of several crops, in
        their order; a shorter tuple is cycled.
    scale : tuple of two floats, default=None
        Range of the fraction of the image's area that a full-size view covers; the fraction is drawn
        uniformly from it. None: the range of the user's augmentation.
    local_scale : tuple of two floats, or tuple of such tuples, default=(0.05, 0.4)
        Range of the fraction of the image's area that a local crop covers. A tuple of ranges gives those of
        several crops, and is cycled as well.
    recipes : tuple of {"strong", "weak", "none"} or mapping, default=("strong",)
        Augmentation of each view, in the order of the views; a shorter tuple is cycled.
        "strong" applies the whole augmentation, "weak" crops and flips only, "none" resizes and
        center-crops. A mapping gives the strengths that differ from those of "strong", such as
        ``{"solarize": 0.2}``; see `sklearn_ssl.augment.Augment`. A function as augmentation ignores them.
    places : bool, default=False
        Whether the loss is told where each view lies in the image, by `Batch.places`. A function as
        augmentation cannot tell, and is refused.

    Raises
    ------
    ValueError
        If a recipe is unknown.

    See Also
    --------
    SSLLoss : Declares its views in the attribute `view_spec`.
    Batch : Holds the views of one step.

    References
    ----------
    .. [1] Caron et al., "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments"
       (SwAV), NeurIPS 2020, arXiv:2006.09882.
    """

    n: int = 2
    local: int = 0
    local_size: float | tuple[float, ...] = 0.5
    scale: tuple[float, float] | None = None
    local_scale: tuple[float, float] | tuple[tuple[float, float], ...] = (0.05, 0.4)
    recipes: tuple[str | Mapping[str, float], ...] = ("strong",)
    places: bool = False

    def __post_init__(self) -> None:
        for recipe in self.recipes:
            if not isinstance(recipe, Mapping) and recipe not in RECIPES:
                raise ValueError(
                    f"Unknown recipe {recipe!r} in ViewSpec. Available: 'strong', 'weak', 'none', or a dict "
                    f"of strengths that differ from those of 'strong'."
                )


class ViewKind(NamedTuple):
    """Kind of one view, out of a `ViewSpec`.

    Parameters
    ----------
    size : float
        Side of the view, as a fraction of `image_size`.
    scale : tuple of two floats or None
        Range of the fraction of the image's area that it covers.
    recipe : str or mapping
        Its augmentation.
    """

    size: float
    scale: tuple[float, float] | None
    recipe: str | Mapping[str, float]

    def shape(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Return (height, width) of the view in pixels."""
        height, width = (max(1, round(self.size * side)) for side in image_size)
        return height, width


def view_kinds(views: ViewSpec) -> list[ViewKind]:
    """Return the kind of each view: full-size views, then local crops, as in `Batch.views`."""
    sizes = views.local_size if isinstance(views.local_size, tuple) else (views.local_size,)
    scales: Any = views.local_scale if isinstance(views.local_scale[0], tuple) else (views.local_scale,)
    drawn = [(1.0, views.scale)] * views.n
    drawn += [(sizes[i % len(sizes)], scales[i % len(scales)]) for i in range(views.local)]
    return [ViewKind(*each, views.recipes[i % len(views.recipes)]) for i, each in enumerate(drawn)]


@dataclass
class Batch:
    """Inputs of one training step, on the training device.

    Parameters
    ----------
    views : sequence of Tensor of shape (n, channels, height, width)
        `ViewSpec.n` full-size views, then `ViewSpec.local` local crops; augmented and normalized.
    index : Tensor of shape (n,), int64
        Row numbers of the samples in the training set; of held-back images, in their own set.
    y : Tensor or None
        Encoded class labels of shape (n,), int64, -1 for unlabeled samples; or, if the loss sets
        `uses_labels` to "values", target values of shape (n, n_values), float32, NaN for unlabeled samples.
        None if the loss uses no labels.
    epoch : int
        Number of the epoch, counted from 0.
    progress : float
        Fraction of the whole training that is completed, from 0 to 1.
    generator : torch.Generator
        Generator on the training device, seeded from (seed, step): the only source of randomness of a loss.
    n_images : int, default=None
        Number of images in the whole batch, which several processes may share; None: that of `index`.
    rows : slice, default=slice(None)
        Rows of the whole batch that this batch holds.
    step : int, default=0
        Number of the step, counted from 0 over the whole training.
    places : sequence of Tensor of shape (n, 2, 3), float32, default=None
        Where each view lies in its image, if `ViewSpec.places` asks for it: affine maps from points
        (x, y, 1) of the view to points (x, y) of the image. In both, x runs from -1 at the left edge to 1 at
        the right, y from -1 at the top to 1 at the bottom. Points outside the image are reflected into it.

    See Also
    --------
    SSLLoss.step : Receives the batch.
    ViewSpec : Number and kind of the views.
    """

    views: Sequence[Tensor]
    index: Tensor
    y: Tensor | None
    epoch: int
    progress: float
    generator: torch.Generator
    n_images: int | None = None
    rows: slice = field(default_factory=lambda: slice(None))
    step: int = 0
    places: Sequence[Tensor] | None = None

    def draw(self, make: Callable[[int], Tensor]) -> Tensor:
        """Draw random values per image, such as masks.

        Where several processes share the images of a batch, each draws for all of them and takes its own: so
        their values are those of one process. Needed by losses that set `SSLLoss.mean_over_images`.

        Parameters
        ----------
        make : callable
            Function of the number of images that returns a tensor with one row per image, drawn from
            `generator`.

        Returns
        -------
        Tensor
            Rows of the images in this batch.
        """
        return make(len(self.index) if self.n_images is None else self.n_images)[self.rows]


@dataclass
class Spec:
    """Sizes and modules that are known when `fit` begins; the argument of `SSLLoss.build`.

    Parameters
    ----------
    feature_dim : int
        Width of the backbone's features h.
    dim : int
        Width of the projections z.
    n_samples : int
        Number of training images.
    batch_size : int
        Number of images in a step.
    in_channels : int
        Number of channels of an image.
    image_size : tuple of two ints
        (height, width) of a full-size view, in pixels.
    backbone : nn.Module
        The backbone itself, on the CPU.
    generator : torch.Generator
        Generator on the CPU: the only source of randomness of `build`. Layers that are created in `build`
        are initialized reproducibly by the caller.
    n_steps : int, default=None
        Number of steps of the whole training; None if it is limited by time alone.

    See Also
    --------
    SSLLoss.build : Receives the specification.
    """

    feature_dim: int
    dim: int
    n_samples: int
    batch_size: int
    in_channels: int
    image_size: tuple[int, int]
    backbone: nn.Module
    generator: torch.Generator
    n_steps: int | None = None


class SSLLoss(nn.Module):
    """Base class of self-supervised learning methods.

    The keyword arguments of the constructor are the method's hyperparameters, each with a default: they
    become the parameters `loss__<name>` of `SSLImageEmbedder`. A simple loss implements `forward` only::

        class Alignment(SSLLoss):
            def __init__(self, power=2.0):
                super().__init__()
                self.power = check_number("loss__power", power, above=0)

            def forward(self, z1, z2):
                return (z1 - z2).abs().pow(self.power).mean()

    A loss that needs more than projections overrides `step`. Modules that are trained together with backbone
    and projector (a predictor, prototypes) are created in `build`, and so are the persistent buffers of a
    state that has to survive saving and copying (a queue, a center). All randomness comes from
    `batch.generator` and `spec.generator`. Hyperparameters are validated by `check_number`, `check_bool` and
    `check_choice` of `sklearn_ssl.losses`, whose errors name the parameter.

    A method that reconstructs images may define the optional method
    ``reconstruct(views, student, generator)``, which `sklearn_ssl.ReconstructionDisplay` calls. Its arguments
    are the views of a batch (a list of tensors as in `Batch.views`), the `Student` and a `torch.Generator`.
    It returns two tensors of the shape of ``views[0]``: the visible part of the images, NaN where they were
    hidden from the backbone, and the reconstruction.

    Attributes
    ----------
    view_spec : ViewSpec
        Number and kind of the views of an image, by default two full-size views. `build` may set it on the
        instance if it depends on sizes.
    uses_labels : bool or "values"
        Whether the loss uses labels, in `Batch.y` and as ``y`` of `forward`: True for classes (or groups,
        such as patients), which are encoded; "values" for numbers such as an age, one or several for each
        image. Default: False.
    mean_over_images : bool
        Whether the loss is the mean over the images of values that do not depend on the other images of the
        batch (except through batch normalization), as in masked autoencoders. Where several processes train
        together, each then computes the loss of its own images only; otherwise, each computes that of all
        images. Random values per image have to come from `Batch.draw`. Default: False.
    validates : bool
        Whether the loss of images that were not trained on has a meaning. False for a loss that looks its
        images up by `Batch.index`, such as in a memory of all training images. Default: True.
    teacher_momentum : float, callable or None
        Momentum of the teacher, an exponential moving average of backbone and projector; or a picklable
        function that returns the momentum at a progress in [0, 1]. Default: None, for no teacher.
    teacher_heads : tuple of str
        Names of attributes, modules created in `build`, that the teacher has as well: their moving averages
        are ``teacher.heads[name]``. Default: ().
    encoder : {"student", "teacher"}
        Network whose backbone becomes the encoder: the one in training, or its moving average. Default:
        "student".
    rates : mapping of str to callable
        Learning rates of their own, for modules and parameters of the loss by the names of their attributes,
        and for backbone and projector by "student": functions that return the rate at a progress in [0, 1],
        as a fraction of the peak rate. All others follow the schedule of the embedder. Default: {}.
    weight_decay_at : callable or None
        Function that returns the weight decay at a progress in [0, 1], as a fraction of the embedder's.
        Default: None, for constant weight decay.
    defaults : dict
        Values of the embedder's parameters that this method uses where the user left "auto". Keys: backbone,
        projector (widths, or a function of the feature width that returns them; () for no projector),
        augment, image_size (also a function of the images' (height, width) that returns another), batch_size,
        optimizer, lr (for 256 images in a step), weight_decay, warmup, max_epochs, precision. Default: {}.
    family : str or None
        Group under which `sklearn_ssl.available_losses` lists the loss. Default: None, for the name of its
        distribution.

    See Also
    --------
    ViewSpec : Number and kind of the views.
    sklearn_ssl.register_loss : Give a loss a name.
    sklearn_ssl.testing.check_loss : Test a loss against this contract.
    """

    view_spec: ViewSpec = ViewSpec()
    uses_labels: bool | str = False
    mean_over_images: bool = False
    validates: bool = True
    teacher_momentum: float | Callable[[float], float] | None = None
    teacher_heads: tuple[str, ...] = ()
    encoder: str = "student"
    rates: Mapping[str, Callable[[float], float]] = MappingProxyType({})
    weight_decay_at: Callable[[float], float] | None = None
    defaults: ClassVar[dict] = {}
    family: ClassVar[str | None] = None

    def __init__(self) -> None:  # nn.Module's takes anything
        super().__init__()

    # Arguments of type Any let subclasses have others, such as (z1, z2).
    def forward(self, *z: Any, **labels: Any) -> Tensor | dict[str, Tensor]:
        """Compute the loss of the projections.

        Parameters
        ----------
        *z : Tensor of shape (n, dim), float32
            Projections, one tensor for each view.
        **labels : dict of str to Tensor
            Only if `uses_labels` is set, ``y``: see `Batch.y`.

        Returns
        -------
        Tensor of shape () or dict
            The loss; or ``{"loss": loss, term: value, ...}``, whose terms are recorded in the history.

        Raises
        ------
        NotImplementedError
            If a subclass overrides neither `forward` nor `step`.
        """
        raise NotImplementedError(f"{type(self).__name__} must write `forward` or `step`.")

    def build(self, spec: Spec) -> None:
        """Create the parameters and buffers of the loss; called once, before the optimizer is created.

        Parameters
        ----------
        spec : Spec
            Sizes of data and network, the backbone, and a generator.
        """

    def make_projector(self, in_dim: int, widths: tuple[int, ...]) -> nn.Module:
        """Build the projector; by default an MLP with batch normalization.

        Parameters
        ----------
        in_dim : int
            Width of the features.
        widths : tuple of int
            Widths of the projector's layers, the last of which is that of the projections.

        Returns
        -------
        nn.Module
            Module that maps features (n, in_dim) to projections.
        """
        return mlp(in_dim, *widths)

    def step(self, batch: Batch, student: Student, teacher: Teacher | None) -> Tensor | dict[str, Tensor]:
        """Compute the loss of one batch; by default `forward` of the views' projections.

        Parameters
        ----------
        batch : Batch
            Views, indices, labels and generator of the step.
        student : Student
            Network in training, with float32 results: ``student(views) -> [z, ...]``,
            ``student.features(x) -> h``, ``student.maps(x)``, and with backbone "vit"
            ``student.encode(x, keep)`` and ``student.tokens(x, mask, token)``. Also ``student.backbone``.
        teacher : Teacher or None
            Moving average of the student, without gradients: the same methods, and ``teacher.heads``. None
            if `teacher_momentum` is None.

        Returns
        -------
        Tensor of shape () or dict
            As for `forward`.
        """
        labels = {"y": batch.y} if self.uses_labels else {}
        return self(*student(batch.views), **labels)

    def after_step(self, student: Student, teacher: Teacher | None) -> None:
        """Update state after the optimizer's step and the teacher's update; by default do nothing.

        Parameters
        ----------
        student : Student
            Network in training.
        teacher : Teacher or None
            Moving average of the student; None if `teacher_momentum` is None.
        """

    def before_epoch(self, epoch: int, project: Callable[[], Tensor]) -> None:
        """Set state from projections of all training images; by default do nothing.

        Called at the start of each epoch, before `on_epoch_start`.

        Parameters
        ----------
        epoch : int
            Number of the epoch, counted from 0.
        project : callable
            Function without arguments that passes one view of each training image through the network, and
            returns the projections, (n_samples, dim), on the training device and without gradient. A call
            takes the time of such a pass.
        """

    def on_epoch_start(self, epoch: int, generator: torch.Generator) -> None:
        """Update state at the start of each epoch; by default do nothing.

        Parameters
        ----------
        epoch : int
            Number of the epoch, counted from 0.
        generator : torch.Generator
            Source of randomness.
        """
