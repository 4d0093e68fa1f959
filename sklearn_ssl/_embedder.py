"""SSLImageEmbedder, a transformer that learns to embed images without labels."""

from __future__ import annotations

import copy
import functools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.random import RandomState
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted, validate_data
from skorch.callbacks import Callback
from torch import Tensor, nn

from sklearn_ssl._callbacks import CallbackSupportMixin, FitTask, with_callbacks
from sklearn_ssl._checks import check_params
from sklearn_ssl._distributed.team import ALONE, Team, present_team
from sklearn_ssl._documentation import documentation_url
from sklearn_ssl._evaluation import WITH_LABELS, WITHOUT_LABELS, hold_back
from sklearn_ssl._filesystem import given_path, naming
from sklearn_ssl._fit import Task, check_embeddings, number_in_X
from sklearn_ssl._hardware.allocator import retain_freed_memory
from sklearn_ssl._hardware.ambient import own_settings
from sklearn_ssl._hardware.devices import resolve_compile, resolve_device, resolve_precision
from sklearn_ssl._hardware.forks import warn_if_forked
from sklearn_ssl._images.inputs import ImageFormat, InputParser
from sklearn_ssl._images.pixel_scale import PixelScale
from sklearn_ssl._images.reader import Reader, make_reader, resolve_reader
from sklearn_ssl._images.sources import Source, SubsetSource, evenly_spaced, whole_of
from sklearn_ssl._labels import as_array, group_numbers
from sklearn_ssl._models.model_file import load_model, pack, save_model, unpack, with_weights_of_file
from sklearn_ssl._models.onnx import export_onnx
from sklearn_ssl._networks.backbones import resolve_backbone
from sklearn_ssl._networks.inference import InferenceNetwork, KeptNetwork, make_encoder
from sklearn_ssl._networks.student import remove_compilation
from sklearn_ssl._params import ComponentParamsMixin, hide_var_keyword
from sklearn_ssl._scores import ImagesToScore, Scoring
from sklearn_ssl._settings import (
    Settings,
    check_parameters,
    is_auto,
    resolve_backbone_name,
    resolve_image_size,
    resolve_settings,
)
from sklearn_ssl._training.assemble import cannot_go_on
from sklearn_ssl._training.checkpoint import Checkpoint
from sklearn_ssl._training.interrupts import interrupt_held_back
from sklearn_ssl._training.labels import check_is_target
from sklearn_ssl._training.net import Outcome, SSLNet
from sklearn_ssl._training.optimizers import resolve_optimizer
from sklearn_ssl._training.resume import is_state_of
from sklearn_ssl._transform import embed
from sklearn_ssl._views.augmentation import make_augment, resolve_augment
from sklearn_ssl._warnings import muted, warn
from sklearn_ssl.augment import Augment
from sklearn_ssl.losses._adapters import make_loss, resolve_loss

# Maximum number of unreadable images that a warning lists.
MAX_LISTED = 5


class SSLImageEmbedder(
    CallbackSupportMixin,
    ComponentParamsMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    BaseEstimator,
):
    """Learn to embed images without labels.

    `fit` trains a backbone and a projector by self-supervised learning: random views of one image get similar
    projections, and those of different images stay apart, by the method that `loss` names. `transform`
    returns the backbone's features of each image, for a classifier trained on few labels, nearest neighbors,
    clustering or a map.

    Nested names set single parameters of a component, in the constructor, `set_params` and searches:
    ``loss__temperature`` is ``loss_params["temperature"]``; likewise ``backbone__``, ``augment__``,
    ``optimizer__`` and ``reader__``.

    Parameters
    ----------
    loss : str, type, SSLLoss, nn.Module or callable, default="ntxent"
        Learning method: a name in `sklearn_ssl.available_losses` ("ntxent", "dcl" and "vicreg" are built in);
        a subclass of `SSLLoss`, or of `nn.Module` with ``forward(z1, z2)``; an instance of one, which is
        copied; or a function ``f(z1, z2, *, temperature=0.1)``.
    loss_params : dict, default=None
        Hyperparameters of the loss, such as ``{"temperature": 0.1}``; None: its defaults.
    backbone : str, nn.Module or callable, default="auto"
        Network that maps images to features: "resnet10" (a ResNet with one block in each stage), "resnet18"
        or any other torchvision classification model; "vit", a vision transformer for the size of the images;
        "timm:" and the name of a model of timm, such as "timm:convnext_tiny"; a module, which is copied; or a
        factory that returns one. "auto": "resnet10" on a CPU, "resnet18" on a
        GPU and with `weights`, unless the loss requires another.
    backbone_params : dict, default=None
        Parameters of the backbone. ResNets have ``stem`` ("auto", "imagenet", "3x3", "3x3-pool",
        "3x3-stride2"), ``width`` (channels of the first stage, 64; for "resnet10", "resnet18" and "resnet34")
        and ``weights`` (pretrained initial weights, or a file of `save`), as have other models of torchvision
        and those of timm ("pretrained": weights that timm downloads), and "vit", which also has ``patch``
        (side of a patch in pixels; "auto": about an eighth of the image's side), ``width`` (192), ``depth``
        (6), ``heads`` ("auto": one for each 64 of the width) and ``pooling`` ("mean" or "class"); a factory
        has its keyword parameters.
    frozen_fraction : float, default=0.0
        Fraction of the backbone's layers, from the input on, whose weights stay as they are: for pretrained
        networks, whose first layers suit most images, and whose steps are faster then. Below 1.
    projector : tuple of int or nn.Module, default="auto"
        Widths of the layers that map features to the projections that the loss compares; not used by
        `transform`. "auto": the width of the features, then 128, unless the loss sets others ("vicreg":
        three times the width of the features).
    augment : str, Augment or callable, default="auto"
        Random augmentation that draws the views: "photo" (SimCLR's), "symbols" (digits and glyphs: no
        flips), "overhead" (satellite images and microscopy: all flips and quarter turns) or "none"; an
        instance of a class in `sklearn_ssl.augment`, such as ``Photo(crop=0.5)``; a function ``f(images,
        generator)`` that returns one view of each image (n, channels, height, width); a transform of
        torchvision or albumentations, which is applied to each image separately, or of kornia; or a list of
        these. Functions and transforms may draw from the generator, or from the global generators of torch,
        numpy and Python, which are seeded for them.
        "auto": "symbols" if the images consist of two tones, such as ink on paper, else "photo" (see the
        Notes).
    augment_params : dict, default=None
        Strengths that differ from the preset's, such as ``{"blur": 0.5}``; see `sklearn_ssl.augment.Augment`.
    image_shape : tuple of int, default=None
        (height, width) or (height, width, channels) of the images if X has flat rows; one entry may be -1,
        as in `numpy.reshape`.
    image_size : int or tuple of int, default="auto"
        Resolution of the views in pixels: the side, or (height, width). Images are resized and center-cropped
        to it. "auto": the size of the images, with a short side of at most 224; for files of several shapes,
        the median short side of a sample of them, at most 224. Losses that cut images into tiles enlarge very
        small ones.
    reader : Reader, default=None
        Settings for reading images from files, such as ``Reader(on_error="skip")``; see `sklearn_ssl.Reader`.
    reader_params : dict, default=None
        Settings that differ from those of `reader`, such as ``{"on_error": "skip"}``.
    max_epochs : int, default="auto"
        Total number of passes over the images. "auto": unlimited if `max_time` is given, else 100, unless
        the loss sets another number. 0: no training, for a baseline of the same network with its initial
        weights; BatchNorm layers that have no statistics yet get those of the images.
    max_time : float, default=None
        Time limit of `fit` in seconds: the learning rate is annealed over this time. None: unlimited.
    batch_size : int, default="auto"
        Number of images in a training step; at most all images. "auto": 256, unless the loss sets another.
    micro_batches : int, default=1
        Number of parts of a batch that go through the network one after another, so that activations take
        the memory of one part while the loss compares all images of the batch; costs a second forward pass.
        The gradient is that of the whole batch, except that BatchNorm's statistics are those of each part.
        For losses that use the network through ``student(views)`` only, such as all built-in ones.
    optimizer : {"auto", "muon", "adamw", "sgd"} or type, default="auto"
        Optimizer, or a torch Optimizer class. "auto": "muon" (momentum with orthogonalized updates), unless
        the loss sets another.
    optimizer_params : dict, default=None
        Parameters of the optimizer, such as ``momentum``, ``betas`` and ``clip_norm`` (maximum norm of the
        gradient; None: no clipping).
    lr : float, default="auto"
        Peak learning rate. "auto": 8e-3 for "muon", 2e-3 for "adamw", 0.06 for "sgd", unless the loss sets
        another, times batch size / 256. An optimizer class needs a number.
    weight_decay : float, default="auto"
        Weight decay, which biases and normalization layers are exempt from. "auto": 1e-2 for "muon" and
        "adamw", 5e-4 for "sgd", 0 for an optimizer class, unless the loss sets another.
    warmup : float, default="auto"
        Fraction of the training used for linear warm-up of the learning rate, before cosine decay to zero.
        "auto": 0.05, unless the loss sets another.
    device : str or torch.device, default="auto"
        Device of training and inference. "auto": CUDA if available, else the CPU. Of several GPUs, "auto"
        selects that of the local rank in a process group, and one for each worker process of joblib.
    precision : {"auto", "bf16", "float32"}, default="auto"
        Precision of the network. "auto": bfloat16 where the device is fast in it (CUDA with compute
        capability 8 or higher, CPUs with AMX or AVX512-BF16), else float32. With an explicit "float32",
        `transform` runs the encoder's own operations, unfused; training on CUDA may use TF32.
    compile : bool, default=False
        Whether to compile the backbone with `torch.compile`, in `fit` and `transform`: takes one to two
        minutes at the start and may make each step faster, which can pay off in long fits (on CPUs little or
        nothing was gained). Without a compiler there is a warning, and the network runs uncompiled.
    validation_fraction : float, default=0.0
        Fraction of the images in X that is held back, drawn at random and the same in every fit: they are
        not trained on, and evaluated during the training. If `fit` is given groups, whole ones are held back.
    eval_metrics : str, list or dict, default="auto"
        Scores of the held-back images, or of `eval_set`, in `history_`: names of scorers
        (`sklearn_ssl.available_scorers`), results of `sklearn_ssl.get_scorer`, a list of these, or a dict of
        them by name; () for none. "auto": "knn_accuracy" if there are labels (two each of at least two
        classes, in different groups), else "rankme".
        At most 500 images are used. With them, the history has "valid_loss".
    eval_every : int, default="auto"
        Number of epochs from one evaluation to the next; the epochs between repeat the last values, and the
        last epoch always has one. "auto": as many as it takes to spend about 2 % of the time on evaluations.
    callbacks : list of skorch callbacks, default=None
        Callbacks of the training. The net's history has "train_loss" and the loss's other terms of each
        epoch, and the results of evaluations.
    checkpoint : str or path-like, default=None
        Folder in which the training is saved, in one file for each combination of parameters and images. A
        later `fit` with the same ones continues from it, in another process too and in the middle of an
        epoch, with the same results as without the interruption (on a CPU, with `max_epochs`). A finished
        training is loaded from it, unless `random_state` is None. The file is written after every epoch and
        every five minutes, in at most a tenth of the time, and is about three times as large as the network.
        Callbacks start from their initial state.
    warm_start : bool, default=False
        Whether a `fit` with a larger `max_epochs` (or `max_time`) continues the last one and trains the
        difference, at the learning rate of the longer schedule, on the same or other images, in the pixel
        scale of the first. If nothing is left to train, there is a warning. After `sklearn_ssl.load`, and
        after a fit without `warm_start`, only the encoder is there: a new training of it begins, with a
        warning.
    random_state : int, RandomState or None, default=None
        Seed of the initial weights, views and batches. With an int, fits are repeatable: bit for bit on the
        same device, precision and number of threads. With None, every fit is different, and only an
        interrupted one is continued from its `checkpoint`.
    verbose : int, default=0
        1: show a progress bar with images per second and the remaining time, in `transform` too, and say
        which augmentation "auto" has chosen.

    Attributes
    ----------
    encoder_ : nn.Sequential
        Module that maps pixels, as given to `fit`, to embeddings: standardization, then the backbone, in eval
        mode. It can be fine-tuned as any module.
    history_ : list of dict
        For each epoch: "epoch", "train_loss" and the loss's other terms, "lr", "dur" (seconds) and
        "images_per_second"; and "valid_loss" and the scores in `eval_metrics` of held-back images.
    n_iter_ : int
        Number of epochs trained, including one that was begun.
    image_shape_ : tuple of int
        (height, width, channels) of the images.
    image_size_ : tuple of int
        (height, width) of the views, in pixels.
    n_features_in_ : int
        Number of pixel values of an image; undefined for files.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns; defined only if X has string column names.
    eval_metrics_ : list of str
        Names of the scores in `history_`; empty if no images were held back.
    eval_every_ : int or None
        Number of epochs from one evaluation to the next.
    skipped_ : dict of int to str
        Positions of the images that could not be read, with the reason, if ``reader__on_error="skip"``;
        images of `X_unlabeled` are numbered after those of X.
    backbone_, projector_, augment_, optimizer_, lr_, weight_decay_, warmup_, max_epochs_, batch_size_, \
device_, precision_, compile_ : object
        Resolved values of these parameters.

    See Also
    --------
    sklearn_ssl.fit_together : Fit on several processes of this machine.
    sklearn_ssl.load : Load an embedder from a file.
    sklearn_ssl.available_losses : List the available losses.
    sklearn_ssl.param_grid : Make a grid for a search over several losses.

    Notes
    -----
    The defaults were chosen with `benchmarks/defaults.py` (figures in `docs/lab_notes.md`), by the three
    built-in losses on scikit-learn's digits and on CIFAR-10, in minutes of training on a CPU. Long trainings
    on a GPU may profit from a larger projector and batch.

    Pixel values of type uint8 are divided by 255. Those of other types are used as they are if they lie in
    [0, 1], and otherwise scaled by their 0.1 and 99.9 percentiles over the training images, without rounding.
    Hot pixels and values for no data are clipped, if there are any. Then each channel is standardized.

    ``augment="auto"`` takes images for symbols if the best threshold between two tones explains at least
    83.5 % of the variance within an image (Otsu's eta, the median of 256 images).

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn_ssl import SSLImageEmbedder
    >>> embedder = SSLImageEmbedder(loss="vicreg", max_time=60, random_state=0)
    >>> pipe = make_pipeline(embedder, LogisticRegression())
    >>> pipe.fit(images, labels).predict(new_images)  # doctest: +SKIP
    """

    _component_slots: ClassVar = {
        "loss": resolve_loss,
        "backbone": resolve_backbone,
        "augment": resolve_augment,
        "optimizer": resolve_optimizer,
        "reader": resolve_reader,
    }

    @hide_var_keyword
    def __init__(
        self,
        # Method
        loss: str | type[nn.Module] | nn.Module | Callable = "ntxent",
        *,
        loss_params: dict[str, Any] | None = None,
        # Network
        backbone: str | nn.Module | Callable = "auto",
        backbone_params: dict[str, Any] | None = None,
        frozen_fraction: float = 0.0,
        projector: str | Sequence[int] | nn.Module = "auto",
        # Views
        augment: str | Augment | Callable = "auto",
        augment_params: dict[str, Any] | None = None,
        # Images
        image_shape: tuple[int, ...] | None = None,
        image_size: int | tuple[int, int] | str = "auto",
        reader: Reader | None = None,
        reader_params: dict[str, Any] | None = None,
        # Length and size of the training
        max_epochs: int | str = "auto",
        max_time: float | None = None,
        batch_size: int | str = "auto",
        micro_batches: int = 1,
        # Optimizer
        optimizer: str | type[torch.optim.Optimizer] = "auto",
        optimizer_params: dict[str, Any] | None = None,
        lr: float | str = "auto",
        weight_decay: float | str = "auto",
        warmup: float | str = "auto",
        # Machine
        device: str | torch.device = "auto",
        precision: str = "auto",
        compile: bool = False,
        # Evaluation
        validation_fraction: float = 0.0,
        eval_metrics: Any = "auto",
        eval_every: int | str = "auto",
        # Life cycle
        callbacks: Sequence[Callback] | None = None,
        checkpoint: str | os.PathLike | None = None,
        warm_start: bool = False,
        random_state: int | RandomState | None = None,
        verbose: int = 0,
        **nested: Any,
    ):
        self.loss = loss
        self.loss_params = loss_params
        self.backbone = backbone
        self.backbone_params = backbone_params
        self.frozen_fraction = frozen_fraction
        self.projector = projector
        self.augment = augment
        self.augment_params = augment_params
        self.image_shape = image_shape
        self.image_size = image_size
        self.reader = reader
        self.reader_params = reader_params
        self.max_epochs = max_epochs
        self.max_time = max_time
        self.batch_size = batch_size
        self.micro_batches = micro_batches
        self.optimizer = optimizer
        self.optimizer_params = optimizer_params
        self.lr = lr
        self.weight_decay = weight_decay
        self.warmup = warmup
        self.device = device
        self.precision = precision
        self.compile = compile
        self.validation_fraction = validation_fraction
        self.eval_metrics = eval_metrics
        self.eval_every = eval_every
        self.callbacks = callbacks
        self.checkpoint = checkpoint
        self.warm_start = warm_start
        self.random_state = random_state
        self.verbose = verbose
        self._init_nested(nested)

    # ------------------------------------------------------------------ fit

    @with_callbacks  # type: ignore[untyped-decorator]  # scikit-learn has no types
    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        X_unlabeled: Any = None,
        eval_set: Any = None,
        groups: Any = None,
    ) -> SSLImageEmbedder:
        """Train the network on images, without labels.

        Where `torch.distributed` is initialized, the processes of the group train one model together, and all
        of them have to call `fit` on the same images.

        Parameters
        ----------
        X : images
            Array of shape (n_images, height, width) or (n_images, height, width, channels); rows of shape
            (n_images, height * width * channels) with `image_shape`; torch tensor of shape (n_images,
            channels, height, width); list, array or column of PIL images, arrays or tensors of any size, or
            of paths; a folder, whose image files are read in the order of `sklearn_ssl.list_images`; a
            map-style torch dataset of images, or of tuples that begin with one. Large memory-mapped arrays
            (``np.load(path, mmap_mode="r")``) are read batch by batch.
        y : array-like of shape (n_images,), default=None
            Class labels, with -1, NaN or None for unlabeled. Ignored unless the loss uses labels; those of
            held-back images are used by `eval_metrics`. A classifier after the embedder in a pipeline takes
            -1 for a class, unless it is ``SelfTrainingClassifier(classifier, max_iter=0)``.
        X_unlabeled : images, default=None
            Additional images to learn from, in any accepted form. (scikit-learn's searches split whatever has
            the same length as X along with X: there, give one image more or less.)
        eval_set : images or tuple (images, labels) or (images, labels, groups), default=None
            Images to evaluate the network on during the training (see `eval_metrics`), in any form that
            `transform` accepts, their labels, -1 for unlabeled, and their groups, as in `score`.
        groups : array-like of shape (n_images,), default=None
            Groups of images that resemble each other, such as patients, plates or videos:
            `validation_fraction` holds whole groups back, and their scores are those of `score` with groups.

        Returns
        -------
        self : SSLImageEmbedder
            Fitted estimator.

        Raises
        ------
        ValueError
            If a parameter or an image is invalid; the estimator is then left unchanged.
        FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError
            If a path leads to no image, or a folder cannot be read.
        FloatingPointError
            If the loss, a weight or an embedding becomes infinite or NaN.
        MemoryError
            If a step does not fit into the memory of the device.
        ConnectionError
            If another process of the group has failed or was killed.
        OSError
            If the checkpoint cannot be written: before the training, or during it; then the model is kept as
            trained so far.
        KeyboardInterrupt
            On Ctrl-C, after the current step (on a second Ctrl-C at once). The model is kept as trained so
            far, with a warning, and a `fit` with ``warm_start=True`` continues the training.
        """
        started = time.monotonic()
        warn_if_forked()
        epochs = self.max_epochs if isinstance(self.max_epochs, int) else None
        fit_task = FitTask(self, epochs, X, y, groups)
        with (
            _unchanged_on_error(self),
            own_settings(),
            retain_freed_memory(),
            present_team() as team,
            muted(not team.leads),
        ):
            task, labels = team.all_or_none(lambda: self._open_all(X, y, X_unlabeled, eval_set, groups, team))
            team.connect(task.settings.device)
            task.check_team(labels)
            task.warn_if_drawn_once()
            checkpoint = task.open_checkpoint(labels)
            fit_task.label(task.n_given)
            callbacks = fit_task.callbacks(self._fitted_attributes) if team.leads else []
            net, self.projector_, self._n_features_out = task.make_net(checkpoint, callbacks)
            task.warn_if_begun_anew()
            images = task.training_set(labels)
            with interrupt_held_back() as interrupt:
                outcome = net.train(images, started, interrupt)
                self._store(outcome, task)
        self._raise_pending(outcome, checkpoint, interrupt.asked_for)
        fit_task.end()
        return self

    def transform(self, X: Any, *, out: np.ndarray | None = None) -> np.ndarray:
        """Embed images: return the backbone's features of each, in eval mode and without augmentation.

        Parameters
        ----------
        X : images
            Images in any form that `fit` accepts, of the size and number of channels that it was given;
            files, lists of PIL images and datasets are resized.
        out : ndarray of shape (n_images, n_features_out), float32, default=None
            Array to write to, such as a memory map for embeddings that exceed the memory
            (``np.lib.format.open_memmap``). None: a new array.

        Returns
        -------
        embeddings : ndarray of shape (n_images, n_features_out), float32
            Embeddings. A row does not depend on the other images in the call. With
            ``reader__on_error="skip"``, rows of images that cannot be read are NaN.

        Raises
        ------
        ValueError
            If an image or `out` is invalid.
        """
        check_is_fitted(self)
        source = self._open_for_inference(X)
        shape = (len(source), self._n_features_out)
        if out is not None and (out.shape != shape or out.dtype != np.float32):
            raise ValueError(f"out is {out.dtype} of shape {out.shape}: give float32 of shape {shape}.")
        begin = 0
        for rows in self._batches(source):
            if out is None:  # as wide as the embeddings: `encoder_` may have been given other layers
                out = np.empty((len(source), rows.shape[1]), np.float32)
            out[begin : begin + len(rows)] = rows
            begin += len(rows)
        assert out is not None  # X has at least one image
        return out

    # With metadata routing, groups that a search or pipeline is given come here without being asked for.
    __metadata_request__fit: ClassVar = {"groups": True}
    __metadata_request__score: ClassVar = {"groups": True}

    def score(self, X: Any, y: Any = None, *, groups: Any = None) -> float:
        """Score the embeddings of images, with labels or without.

        Parameters
        ----------
        X : images
            Images, in any form that `transform` accepts.
        y : array-like of shape (n_images,), default=None
            Class labels, -1 for unlabeled images; None for a score without labels.
        groups : array-like of shape (n_images,), default=None
            Groups of images that resemble each other, such as patients, plates or videos: only images of
            other groups are neighbors. Without them, a score of slices is mostly that of finding the
            patient. Searches pass groups on with scikit-learn's metadata routing only
            (``sklearn.set_config(enable_metadata_routing=True)``).

        Returns
        -------
        float
            With y, the share of labeled images whose class is that of their 10 nearest neighbors, averaged
            over classes, so that chance is 1 / number of classes ("knn_accuracy"); without, the effective
            number of dimensions that the embeddings use ("rankme"), which compares embedders of the same
            backbone. More is better.

        Raises
        ------
        ValueError
            If y has fewer than two classes, as in a fold of few labels: split by `sklearn_ssl.LabeledKFold`.

        See Also
        --------
        sklearn_ssl.get_scorer : Make other scorers, for ``scoring=`` in searches.
        """
        name = WITHOUT_LABELS if y is None else WITH_LABELS  # the same in all folds of a search
        return Scoring.of(name).evaluate(self._to_score(X), y, groups)

    def transform_batches(self, X: Any) -> Iterator[np.ndarray]:
        """Embed images in batches, for images and embeddings that exceed the memory.

        Parameters
        ----------
        X : images
            As in `transform`.

        Yields
        ------
        embeddings : ndarray of shape (n_batch, n_features_out), float32
            Embeddings of consecutive images.
        """
        check_is_fitted(self)
        return self._batches(self._open_for_inference(X))

    def save(self, path: str | os.PathLike) -> None:
        """Save the fitted embedder to one file, which `sklearn_ssl.load` reads.

        Parameters
        ----------
        path : path-like
            Path of the file, usually ending in ".safetensors". An existing file is replaced in one step, and
            keeps its permissions; a symbolic link is followed.

        Raises
        ------
        ValueError
            If layers of `encoder_` have been replaced since the fit.
        OSError
            If the file cannot be written.

        See Also
        --------
        sklearn_ssl.load : Load the embedder.

        Notes
        -----
        The file has the safetensors format and contains no code: the encoder's weights under their own names,
        all parameters and fitted attributes that are plain values, and a checksum (SHA-256). Parameters that
        are objects, such as callbacks or a function as `augment`, are omitted, and `load` lists them.
        The state of the training is not saved: a warm start begins a new training of the loaded encoder.
        """
        check_is_fitted(self)
        path = given_path("path", path)
        with naming("path", path):
            save_model(self, path)

    def to_onnx(self, path: str | os.PathLike) -> None:
        """Export the encoder to ONNX, for any number of images.

        Parameters
        ----------
        path : path-like
            Path of the file, usually ending in ".onnx".

        Raises
        ------
        ImportError
            If onnx or onnxscript is not installed: ``pip install "sklearn-ssl[onnx]"``.
        OSError
            If the file cannot be written.

        Notes
        -----
        The input "images" is float32 of shape (n, channels, height, width), of size `image_size_` and in the
        units given to `fit` (0 to 255 for uint8): standardization is included, resizing is not. The output
        "embeddings" is float32 of shape (n, n_features_out) and equals that of `transform` with
        ``precision="float32"`` up to rounding, about 1e-5.
        """
        check_is_fitted(self)
        path = given_path("path", path)
        with own_settings(), naming("path", path):
            export_onnx(self.encoder_, (self.image_shape_[2], *self.image_size_), path)

    # ------------------------------------------------------------------ steps of fit

    def _open_all(
        self, X: Any, y: Any, X_unlabeled: Any, eval_set: Any, groups: Any, team: Team
    ) -> tuple[Task, Tensor | None]:
        """Return the task, with its evaluation, and the labels for a loss that uses them."""
        if eval_set is not None and self.validation_fraction:
            raise ValueError(
                f"eval_set and validation_fraction={self.validation_fraction!r} both give images to evaluate "
                f"on: give one of them."
            )
        task, held_back = self._open(X, X_unlabeled, team, self.validation_fraction, groups)
        labels = task.labels_of(y)
        if held_back is None:
            evaluated = self._open_eval_set(eval_set)
        else:
            rows = held_back.rows.numpy()
            held_y, held_groups = (None if each is None else as_array(each)[rows] for each in (y, groups))
            evaluated = held_back, held_y, held_groups
        task = task.with_evaluation(evaluated, self._images_to_score, self._network_in_training)
        self.eval_metrics_ = list(task.evaluation.scores) if task.evaluation else []
        self.eval_every_ = task.evaluation.every if task.evaluation else None
        task.check_callbacks()
        return task, labels

    def _open_eval_set(self, eval_set: Any) -> tuple[Source, Any, Any] | None:
        if eval_set is None:
            return None
        several = isinstance(eval_set, tuple) and len(eval_set) in (2, 3)
        images, labels, groups = (*eval_set, None)[:3] if several else (eval_set, None, None)
        try:
            source = self._open_for_inference(images)
            check_is_target(labels, len(source))
            group_numbers(groups, len(source))
        except ValueError as error:
            raise ValueError(f"eval_set: {error}") from error
        return source, labels, groups

    def _open(
        self,
        X: Any,
        X_unlabeled: Any = None,
        team: Team = ALONE,
        validation_fraction: float = 0.0,
        groups: Any = None,
    ) -> tuple[Task, SubsetSource | None]:
        """Check parameters and images, and store what depends on them: format, settings, pixel scale.

        Returns
        -------
        task : Task
            Task without an evaluation.
        held_back : SubsetSource or None
            Share of the images that is not trained on.
        """
        for slot in self._component_slots:
            given = check_params(f"{slot}_params", getattr(self, f"{slot}_params"))
            self._check_names(slot, given, self._chosen())
        params = self.get_params(deep=False)
        check_parameters(params)
        for name in ("n_features_in_", "feature_names_in_"):  # of an earlier fit on arrays
            self.__dict__.pop(name, None)
        source, images = self._parser().open_for_training(X, X_unlabeled)
        source, held_back = hold_back(source, number_in_X(source), validation_fraction, groups)
        loss = make_loss(self.loss, self.loss_params or {})
        settings = resolve_settings(params, loss, source, tell=bool(self.verbose) and team.leads)
        self._store_settings(images, settings)
        chosen = with_weights_of_file(settings.backbone, params["backbone_params"] or {}, images)
        params["backbone_params"] = chosen
        self._backbone_params = {name: value for name, value in chosen.items() if name != "weights"}
        state, start = self._to_go_on_with(images)
        if state is None and start is None:
            self._pixels = PixelScale.of(source)
        else:
            self._parser().check_units(source, self._pixels)
        history = getattr(self, "history_", None)
        task = Task(params, loss, source, images, settings, self._pixels, state, start, history, team)
        return task, held_back

    def _to_go_on_with(self, images: ImageFormat) -> tuple[dict | None, dict[str, Tensor] | None]:
        """Return the state of the last training for a warm start, or else the weights of its backbone."""
        if not self.warm_start or not hasattr(self, "encoder_"):
            return None, None
        before, now = len(self._pixels.mean), images.shape[2]
        if before != now:
            raise cannot_go_on(f"that takes {before} channels, and these images have {now}")
        weights = getattr(self.encoder_, "backbone", self.encoder_).state_dict()
        state = getattr(self, "_training_state", None)
        return (state, None) if state and is_state_of(state, weights) else (None, weights)

    def _store_settings(self, images: ImageFormat, settings: Settings) -> None:
        self._images = images
        self.image_shape_, self.image_size_ = images.shape, images.size
        for name in vars(settings):
            setattr(self, f"{name}_", getattr(settings, name))

    def _parser(self) -> InputParser:
        params = self.reader_params or {}
        self._check_names("reader", params, self._chosen())  # they may have been set since `fit`
        return InputParser(
            owner=type(self).__name__,
            reader=make_reader(self.reader, params),
            image_shape=self.image_shape,
            image_size=resolve_image_size(self.loss, self.image_size),
            validate=functools.partial(validate_data, self),
        )

    def _store(self, outcome: Outcome, task: Task) -> None:
        """Store the encoder and its history, and the state of a training that may go on."""
        if outcome.steps == 0 and task.settings.max_epochs != 0:
            raise KeyboardInterrupt
        self.encoder_ = self._encoder(outcome.student.backbone)
        self.__dict__.pop("_kept_network", None)  # an earlier encoder's
        self.history_ = outcome.history
        self.n_iter_ = outcome.epochs
        may_go_on = self.warm_start or outcome.end == "interrupted" or outcome.error
        self._training_state = outcome.state if may_go_on else None
        network = self._network(task.settings.device)
        some = evenly_spaced(len(task.source), 256)
        embeddings = torch.cat(list(embed(network, task.source, self.image_size_, index=some)))
        check_embeddings(embeddings, outcome.student.projector, task.settings)
        task.warn_if_short(outcome)
        self.skipped_ = outcome.skipped
        if whole_of(task.source).bad or (task.team.size > 1 and outcome.skipped):
            warn(_bad_images_message(outcome.skipped, len(whole_of(task.source)), "were left out"))

    def _encoder(self, backbone: nn.Module) -> nn.Module:
        return make_encoder(self._pixels, remove_compilation(backbone)).to(self.device_).eval()

    def _fitted_attributes(self, net: SSLNet) -> dict[str, Any]:
        """Return the attributes that make this estimator one that is fitted as far as the net is trained."""
        encoder = self._encoder(copy.deepcopy(net.kept.backbone))
        return {"encoder_": encoder, "history_": list(net.history), "_kept_network": KeptNetwork()}

    def _raise_pending(self, outcome: Outcome, checkpoint: Checkpoint | None, interrupted: bool) -> None:
        """Raise the interruption or the error that ended the training, after the model was stored."""
        if outcome.end == "interrupted":
            file = ""
            if checkpoint and not outcome.error:
                file = f", or as before: it then resumes from {checkpoint.path}"
            warn(
                f"The fit was interrupted in epoch {self.n_iter_}, after {outcome.steps} steps. The model so "
                f"far is kept and can be used. To continue, fit again with warm_start=True{file}."
            )
        # Also after a Ctrl-C that came when the last step was done.
        if outcome.end == "interrupted" or interrupted:
            raise KeyboardInterrupt from outcome.error
        if outcome.error:
            raise outcome.error

    # ------------------------------------------------------------------ parameters of components

    # With "auto", the parameters are those of the backbone that the loss requires.

    def _component(self, slot: str, chosen: Mapping[str, Any]) -> Any:
        if slot == "backbone":
            chosen = {**chosen, "backbone": resolve_backbone_name(chosen["loss"], chosen["backbone"])}
        return super()._component(slot, chosen)

    def _is_replaced(self, slot: str, chosen: Mapping[str, Any]) -> bool:
        if slot == "backbone" and is_auto(self.backbone) and is_auto(chosen["backbone"]):
            return resolve_backbone_name(chosen["loss"], "auto") != resolve_backbone_name(self.loss, "auto")
        return super()._is_replaced(slot, chosen)

    def _check_names(self, slot: str, names: Iterable[str], chosen: Mapping[str, Any]) -> None:
        try:
            super()._check_names(slot, names, chosen)
        except ValueError:
            if slot == "backbone" and is_auto(chosen["backbone"]):
                resolve_loss(chosen["loss"])  # an unknown loss is the cause: its error is the one to raise
            raise

    # ------------------------------------------------------------------ steps of transform

    @own_settings()
    def _open_for_inference(self, X: Any) -> Source:
        return self._parser().open_for_inference(X, self._images, self._pixels)

    def _batches(self, source: Source) -> Iterator[np.ndarray]:
        """Yield the embeddings, a chunk at a time, with rows of NaN for images that cannot be read."""
        begin = 0
        network = self._network(self._inference_device())
        for rows in embed(network, source, self.image_size_, verbose=self.verbose):
            # A copy of the positions: a thread reads the next images meanwhile, and may add some.
            bad = [position - begin for position in list(source.bad)]
            array = rows.numpy()
            array[[row for row in bad if 0 <= row < len(rows)]] = np.nan
            begin += len(rows)
            yield array
        if source.bad:
            warn(_bad_images_message(source.bad, len(source), "have rows of NaN"))

    def _to_score(self, X: Any) -> ImagesToScore:
        """Return images with the network that embeds them."""
        check_is_fitted(self)
        return self._images_to_score(self._open_for_inference(X), self._network(self._inference_device()))

    def _images_to_score(self, source: Source, network: InferenceNetwork) -> ImagesToScore:
        known = hasattr(self, "augment_")  # not after `load`, if it was an object
        augment = make_augment(self.augment_, self.augment_params or {}) if known else None
        return ImagesToScore(network, source, self.image_size_, self._pixels, augment)

    def _network_in_training(self, backbone: nn.Module) -> InferenceNetwork:
        """Return the network that `transform` would use after the fit, as far as it is trained."""
        return InferenceNetwork(
            self._encoder(copy.deepcopy(backbone)), self.device_, precision=self.precision_
        )

    @own_settings()
    def _network(self, device: torch.device) -> InferenceNetwork:
        """Return the network of `transform`, made at the first call and after a change of `encoder_`."""
        kept = self.__dict__.setdefault("_kept_network", KeptNetwork())
        return kept.of(
            self.encoder_,
            device,
            precision=resolve_precision(self.precision, device),
            exact=self.precision == "float32",
            compile=resolve_compile(self.compile, device),
        )

    def _inference_device(self) -> torch.device:
        """Return the training device, or the best available one on a machine without it."""
        try:
            return resolve_device(self.device_)
        except ValueError:
            return resolve_device("auto")

    # ------------------------------------------------------------------ scikit-learn's protocol

    _doc_link_module = "sklearn_ssl"

    @property
    def _doc_link_template(self) -> str:
        """URL of the page of an estimator: in the documentation that the package names; "" for none."""
        site = documentation_url()
        return f"{site}/generated/{{estimator_module}}.{{estimator_name}}.html" if site else ""

    def _get_fitted_attr_html(self, doc_link: str = "") -> Any:
        """Return the fitted attributes for the HTML representation, and the results of the last epoch."""
        shown = super()._get_fitted_attr_html(doc_link)
        for name, value in (self.history_[-1] if getattr(self, "history_", None) else {}).items():
            shown[f'history_[-1]["{name}"]'] = {"type_name": type(value).__name__, "value": value}
        return shown

    def __getstate__(self) -> dict:
        return pack(super().__getstate__())  # unpickles on machines without the training device

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(unpack(state))

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = self.image_shape is not None
        tags.input_tags.three_d_array = True
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags


def load(path: str | os.PathLike, *, backbone: nn.Module | Callable | None = None) -> SSLImageEmbedder:
    """Load a fitted embedder from a file, without executing anything in it.

    Parameters
    ----------
    path : path-like
        File written by `SSLImageEmbedder.save`.
    backbone : nn.Module, type or callable, default=None
        Module, class or factory that was given as `backbone` to the embedder; None if that was a name.

    Returns
    -------
    SSLImageEmbedder
        Fitted embedder, on the CPU; `transform` uses the device of the training if available. The loss need
        not be installed, except for another `fit`.

    Raises
    ------
    ValueError
        If the file is damaged, not a model, written by a later version, or requires `backbone`.
    OSError
        If the file cannot be read.

    See Also
    --------
    SSLImageEmbedder.save : Save an embedder to a file.
    """
    path = given_path("path", path)
    with own_settings(), naming("path", path):
        return load_model(SSLImageEmbedder, path, backbone)


def _bad_images_message(reasons: Mapping[int, str], n_images: int, what: str) -> str:
    """Return a sentence that lists the first images that could not be read."""
    bad = [reasons[position] for position in sorted(reasons)]
    more = f"; and {len(bad) - MAX_LISTED} more" if len(bad) > MAX_LISTED else ""
    return f"{len(bad)} of {n_images} images {what}: {'; '.join(bad[:MAX_LISTED])}{more}."


@contextmanager
def _unchanged_on_error(estimator: BaseEstimator) -> Iterator[None]:
    """Restore the attributes of the estimator if the block raises."""
    before = estimator.__dict__.copy()
    try:
        yield
    except BaseException:
        estimator.__dict__.clear()
        estimator.__dict__.update(before)
        raise
