"""A fit between parameters and training: the task, its network, and checks of the result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from skorch.callbacks import Callback
from torch import Tensor, nn

from sklearn_ssl._checks import shortened
from sklearn_ssl._distributed.team import ALONE, Team
from sklearn_ssl._evaluation import Evaluation, epochs_between, resolve_scores
from sklearn_ssl._hashing import fingerprint, told_by_address
from sklearn_ssl._images.inputs import ImageFormat
from sklearn_ssl._images.pixel_scale import PixelScale
from sklearn_ssl._images.sources import ConcatSource, Source, SubsetSource, evenly_spaced, to_device, whole_of
from sklearn_ssl._labels import as_array
from sklearn_ssl._networks.inference import InferenceNetwork
from sklearn_ssl._scores import SCORES, ImagesToScore
from sklearn_ssl._settings import Settings, is_auto
from sklearn_ssl._training.assemble import build_student
from sklearn_ssl._training.batches import TrainingSet
from sklearn_ssl._training.checkpoint import Checkpoint
from sklearn_ssl._training.labels import check_is_target, labels_for
from sklearn_ssl._training.meter import REMEDY
from sklearn_ssl._training.net import Outcome, SSLNet
from sklearn_ssl._training.optimizers import optimizer_maker
from sklearn_ssl._training.progress import FitProgress
from sklearn_ssl._training.resume import earlier_training, open_checkpoint, resume
from sklearn_ssl._training.schedule import Schedule
from sklearn_ssl._training.seeds import seeded_modules
from sklearn_ssl._training.skorch_callbacks import check_stock_callbacks
from sklearn_ssl._views.augmentation import is_drawn_once, make_augment
from sklearn_ssl._views.random_views import RandomViews
from sklearn_ssl._views.transforms import OneByOne
from sklearn_ssl._warnings import warn
from sklearn_ssl.losses._adapters import loss_name
from sklearn_ssl.losses._base import SSLLoss

# Standard deviation between images, relative to the embeddings' norm, below which they have collapsed.
COLLAPSE_THRESHOLD = 1e-2
# Number of passes over the images below which a fit that `max_time` has ended gets a warning.
FEW_PASSES = 3
# Parameters that may differ between processes that train together.
MAY_DIFFER = ("callbacks", "checkpoint", "device", "random_state", "verbose")
# Number of images that they compare.
N_COMPARED = 8
# Resolved settings that enter the fingerprint of a training.
RESOLVED_IN_FINGERPRINT = (
    "augment",
    "backbone",
    "batch_size",
    "lr",
    "max_epochs",
    "optimizer",
    "precision",
    "warmup",
    "weight_decay",
)


@dataclass(frozen=True)
class Task:
    """Everything that determines a training, except for its seed.

    Parameters
    ----------
    params : mapping
        Parameters of the estimator.
    loss : SSLLoss
        Loss with its parameters, not built yet.
    source : Source
        Training images.
    images : ImageFormat
        Shape, size and type of the images.
    settings : Settings
        Resolved parameters.
    pixels : PixelScale
        Scaling of pixel values.
    state : dict or None
        State of the last training, from which a warm start goes on.
    start : mapping or None
        Weights of the last encoder's backbone, with which a warm start begins where there is no state.
    history : list of dict
        Epochs of that training.
    team : Team
        Processes that train together.
    evaluation : Evaluation or None
        What is computed on held-back images.
    """

    params: Mapping[str, Any]
    loss: SSLLoss
    source: Source
    images: ImageFormat
    settings: Settings
    pixels: PixelScale
    state: dict[str, Any] | None = None
    start: Mapping[str, Tensor] | None = None
    history: list[dict[str, Any]] | None = None
    team: Team = ALONE
    evaluation: Evaluation | None = None

    @property
    def loss_name(self) -> str:
        """Name of the loss in messages."""
        return loss_name(self.params["loss"])

    @property
    def n_given(self) -> int:
        """Number of images in X, without those in X_unlabeled."""
        return number_in_X(self.source)

    def labels_of(self, y: Any) -> Tensor | None:
        """Return the labels of the images as the loss is given them; see `labels_for`.

        Raises
        ------
        ValueError
            If `y` is not a target of the images in X, or there are no labels for a loss that uses them.
        """
        check_is_target(y, self.n_given)
        labels = labels_for(self.loss.uses_labels, y, len(whole_of(self.source)), self.loss_name)
        if labels is not None and isinstance(self.source, SubsetSource):
            return labels[self.source.rows]
        return labels

    def with_evaluation(
        self,
        held_back: tuple[Source, Any, Any] | None,
        images: Callable[[Source, InferenceNetwork], ImagesToScore],
        network: Callable[[nn.Module], InferenceNetwork],
    ) -> Task:
        """Return the task with an evaluation of images that are not trained on, if there are any.

        Parameters
        ----------
        held_back : tuple of Source, array-like and array-like, or None
            The images, and their labels and groups or None.
        images, network : callable
            See `Evaluation`.

        Raises
        ------
        ValueError
            If there are no images for the scores, or no labels of them.
        """
        wanted = self.params["eval_metrics"]
        if held_back is None:
            if wanted not in ("auto", (), []):
                raise ValueError(
                    f"eval_metrics={shortened(wanted)} needs images that are not trained on: give "
                    f"validation_fraction=0.1, or fit(X, eval_set=images)."
                )
            return self
        source, y, groups = held_back
        labels, groups = (None if each is None else as_array(each) for each in (y, groups))
        scores = resolve_scores(wanted, labels, groups)
        targets = labels_for(self.loss.uses_labels, labels, len(source), self.loss_name)
        every = self.params["eval_every"]
        if is_auto(every):
            n_views = self.loss.view_spec.n
            every = epochs_between(list(scores.values()), len(source), len(self.source), n_views)
        evaluation = Evaluation(source, labels, groups, targets, scores, images, network, every)
        return replace(self, evaluation=evaluation)

    def check_callbacks(self) -> None:
        """Check that skorch's own callbacks can work.

        Raises
        ------
        ValueError
            If one has no meaning here, or waits for results of an evaluation that there is none of.
        """
        evaluated = self.evaluation.names(self.loss) if self.evaluation else ()
        check_stock_callbacks(self.params["callbacks"] or (), evaluated, SCORES)

    def check_team(self, labels: Tensor | None) -> None:
        """Check that all processes train the same, and that each has an image of every micro-batch.

        Raises
        ------
        ValueError
            If parameters, images or labels differ, or there are too many processes.
        """
        team, parts, batch_size = self.team, self.params["micro_batches"], self.settings.batch_size
        if team.size == 1:
            return
        if batch_size // team.size < parts:
            raise ValueError(
                f"A batch of {batch_size} images in micro_batches={parts} is too small for {team.size} "
                f"processes, each of which takes a share of every part: give a batch_size of at least "
                f"{parts * team.size}, and as many images, or start fewer processes."
            )
        params = {
            name: value
            for name, value in self.params.items()
            if name not in MAY_DIFFER and not told_by_address({name: value})
        }
        params["checkpoint"] = self.params["checkpoint"] is not None
        for name in ("backbone", "precision"):  # "auto" may be another on another machine
            params[name] = getattr(self.settings, name)
        index = evenly_spaced(len(self.source), N_COMPARED)
        images = len(self.source), self.images.shape, self.images.size, self.source.batch(index), labels
        team.check_same(fingerprint(params), "the parameters")
        team.check_same(fingerprint(images), "the images or labels")

    def open_checkpoint(self, labels: Tensor | None) -> Checkpoint | None:
        """Return the checkpoint of this very training; None without the parameter `checkpoint`."""
        resolved = {name: getattr(self.settings, name) for name in RESOLVED_IN_FINGERPRINT}
        resolved["image_size"] = self.images.size
        return open_checkpoint(
            self.params, resolved, self.source, labels, self.state or self.start, self.team, self.evaluation
        )

    def training_set(self, labels: Tensor | None) -> TrainingSet:
        """Return the images, on the training device if they fit, with their labels."""
        return TrainingSet(to_device(self.source, self.settings.device), labels)

    def make_views(self) -> RandomViews:
        """Return the function that draws views of images in unit values."""
        augment = make_augment(self.settings.augment, self.params["augment_params"] or {})
        return RandomViews.of(augment, self.images.size, self.pixels)

    def make_net(
        self, checkpoint: Checkpoint | None = None, callbacks: Sequence[Callback] = ()
    ) -> tuple[SSLNet, Sequence[int] | nn.Module, int]:
        """Build the network and its training, at the start or where an earlier one goes on.

        Parameters
        ----------
        checkpoint : Checkpoint, optional
            File of the training, which may hold an earlier one.
        callbacks : sequence of skorch.callbacks.Callback, default=()
            Further callbacks, apart from those in the parameters.

        Returns
        -------
        net : SSLNet
            Initialized.
        projector : tuple of int or nn.Module
            Widths of the projector, or the given module.
        feature_dim : int
            Width of the backbone's features.
        """
        params, settings = self.params, self.settings
        earlier, from_checkpoint = earlier_training(
            checkpoint,
            self.state,
            self.history or [],
            stopped_by_callbacks=bool(params["callbacks"] or callbacks),
            drawn_anew=params["random_state"] is None and self.state is None,
            team=self.team,
        )
        seed = self._seed(earlier, from_checkpoint)
        epochs = settings.max_epochs
        with seeded_modules(seed) as generator:
            student, projector, feature_dim = build_student(
                self.loss,
                settings.backbone,
                params["backbone_params"] or {},
                params["frozen_fraction"],
                settings.projector,
                self.images,
                precision=settings.precision,
                n_samples=len(self.source),
                batch_size=settings.batch_size,
                n_steps=None if epochs is None else epochs * max(1, len(self.source) // settings.batch_size),
                generator=generator,
                loss_name=self.loss_name,
                loss_params=params["loss_params"] or {},
                start=self.start,
            )
        draw_views = self.make_views()
        if self.loss.view_spec.places and callable(draw_views.augment):
            raise ValueError(
                f"The loss {self.loss_name!r} has to know where its views lie in an image, which a function "
                f"as augment does not tell. Give augment='auto', a preset's name, or an Augment."
            )
        net = SSLNet(
            student,
            self.loss,
            loss_name=self.loss_name,
            make_optimizer=optimizer_maker(
                settings.optimizer, params["optimizer_params"] or {}, settings.device
            ),
            weight_decay=settings.weight_decay,
            schedule=Schedule(settings.max_epochs, params["max_time"], settings.lr, settings.warmup),
            draw_views=draw_views,
            pixels=self.pixels,
            seed=seed,
            batch_size=settings.batch_size,
            micro_batches=params["micro_batches"],
            compile=settings.compile,
            device=settings.device,
            callbacks=[
                *(params["callbacks"] or []),
                *callbacks,
                *([FitProgress(self.loss_name)] if params["verbose"] and self.team.leads else []),
                *([checkpoint] if checkpoint else []),
            ],
            team=self.team,
            evaluation=self.evaluation,
        ).initialize()
        if earlier:
            resume(net, earlier, checkpoint if from_checkpoint else None)
        return net, projector, feature_dim

    def _seed(self, earlier: dict[str, Any] | None, from_checkpoint: bool) -> int:
        """Return the seed of an earlier training, or draw one, which process 0 does for all."""
        if earlier and not from_checkpoint:
            return earlier["training"]["seed"]
        # A RandomState is advanced even if the seed comes from the checkpoint, as it was in the earlier fit.
        drawn = _draw_seed(self.params["random_state"])
        return earlier["training"]["seed"] if earlier else self.team.from_first(lambda: drawn)

    def warn_if_begun_anew(self) -> None:
        """Warn of a warm start that keeps the encoder only, as the state of its training is not there."""
        if self.start is not None and self.history and self.settings.max_epochs != 0:
            warn(
                "warm_start=True: this fit begins a new training of the encoder as it is, with a new "
                "projector and optimizer, and max_epochs and max_time count from here. The state of the last "
                "training is not there, or encoder_ was changed since: only fits with warm_start=True keep "
                "that state, and a file of `save` never holds it."
            )

    def warn_if_drawn_once(self) -> None:
        """Warn of an `augment` that draws once for the whole batch rather than for each image."""
        augment = make_augment(self.settings.augment, self.params["augment_params"] or {})
        if not callable(augment) or isinstance(augment, OneByOne):
            return
        image = self.pixels.to_unit(self.source.batch(torch.tensor([0])))[0]
        if is_drawn_once(augment, image):
            warn(
                "augment draws once for all images of a batch: copies of an image come out equal. Let it "
                "draw for each image (in kornia, same_on_batch=False); a transform of torchvision or "
                "albumentations is applied to each as augment=transform, without a function around it."
            )

    def warn_if_short(self, outcome: Outcome) -> None:
        """Warn if a warm start had nothing left to train, or `max_time` allowed a few passes only."""
        max_time, max_epochs = self.params["max_time"], self.settings.max_epochs
        if self.state is not None and outcome.nothing_left and outcome.end == "schedule" and outcome.steps:
            limits = {"max_epochs": max_epochs, "max_time": max_time}
            given = " and ".join(f"{name}={value}" for name, value in limits.items() if value is not None)
            warn(
                f"warm_start=True: nothing was left to train, and the network is unchanged. It has trained "
                f"for {outcome.epochs} epochs in {outcome.state['seconds']:.3g} s, and {given} includes "
                f"those: give more, or start again with warm_start=False."
            )
            return
        enough = FEW_PASSES if max_epochs is None else min(FEW_PASSES, max_epochs)
        if max_time is not None and outcome.end == "schedule" and outcome.passes < enough:
            warn(
                f"max_time={max_time} ended the fit after {outcome.passes:.2g} passes over the images, "
                f"at {outcome.history[-1]['images_per_second']:,.0f} images/s: that may be too few to learn "
                f"from. Give it more time, a smaller image_size or backbone, or a machine with less other "
                f"work.",
                ConvergenceWarning,
            )


def check_embeddings(embeddings: Tensor, projector: nn.Module, settings: Settings) -> None:
    """Refuse embeddings that are not finite, and warn of collapsed ones.

    Parameters
    ----------
    embeddings : Tensor of shape (n, feature_dim)
        Embeddings of some training images, on the CPU.
    projector : nn.Module
        Trained projector: its outputs can collapse where the embeddings have not.
    settings : Settings
        Settings of the fit.

    Raises
    ------
    FloatingPointError
        If an embedding is infinite or NaN.
    """
    if not embeddings.isfinite().all():
        raise FloatingPointError(
            f"The embeddings became infinite or not a number, at a peak lr of {settings.lr:.3g}. {REMEDY}"
        )
    with torch.no_grad():
        projections = projector.eval()(embeddings.to(settings.device)).cpu()
    for name, vectors in {"embedding": embeddings, "projection": projections}.items():
        spread = _relative_spread(vectors)
        if spread < COLLAPSE_THRESHOLD:
            warn(
                f"The {name} has collapsed: the images' {name}s differ by {spread:.1e} of their size. "
                f"Try a lower lr, another loss, a larger batch_size, or a stronger augment.",
                ConvergenceWarning,
            )
            break  # projections of collapsed embeddings have collapsed too


def _relative_spread(vectors: Tensor) -> float:
    """Return the standard deviation between vectors (n, d) relative to their norm; 0 if all are zero."""
    size = vectors.square().mean(dim=0).sum().sqrt()
    spread = vectors.std(dim=0, correction=0).norm() / size.clamp(min=torch.finfo(torch.float32).tiny)
    return spread.item()


def number_in_X(source: Source) -> int:
    """Return the number of images in X, without those in X_unlabeled, of the source of both."""
    whole = whole_of(source)
    return len(whole.first if isinstance(whole, ConcatSource) else whole)


def _draw_seed(random_state: Any) -> int:
    return int(check_random_state(random_state).randint(2**31))
