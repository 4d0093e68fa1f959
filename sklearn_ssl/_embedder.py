"""SSLImageEmbedder: learn to embed images without labels."""

from __future__ import annotations

import copy
import functools
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from numbers import Real
from types import FunctionType
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.preprocessing import LabelEncoder
from sklearn.utils import Tags, check_random_state, column_or_1d
from sklearn.utils.validation import _num_samples, check_is_fitted
from skorch.callbacks import Callback
from torch import Tensor, nn
from torch.utils.data import Dataset

from sklearn_ssl._checks import check_bool, check_number, check_params, is_whole, shortened
from sklearn_ssl._filesystem import given_path, naming
from sklearn_ssl._hardware.allocator import retain_freed_memory
from sklearn_ssl._hardware.ambient import own_settings
from sklearn_ssl._hardware.devices import resolve_compile, resolve_device, resolve_precision
from sklearn_ssl._hardware.forks import warn_if_forked
from sklearn_ssl._hashing import fingerprint, told_by_address
from sklearn_ssl._images.inputs import inference_source, training_source
from sklearn_ssl._images.pixel_scale import PixelScale, evenly_spaced
from sklearn_ssl._images.reader import resolve_reader
from sklearn_ssl._images.resize import resize_and_center
from sklearn_ssl._images.sources import ConcatSource, Source, to_device
from sklearn_ssl._models.model_file import load_model, pack, save_model, unpack
from sklearn_ssl._models.onnx import export_onnx
from sklearn_ssl._networks.backbones import build_backbone, resolve_backbone
from sklearn_ssl._networks.inference import InferenceNetwork, KeptNetwork, chunk_size, make_encoder
from sklearn_ssl._networks.student import Student, remove_compilation
from sklearn_ssl._params import ComponentParamsMixin, did_you_mean, hide_var_keyword
from sklearn_ssl._prefetch import prefetch
from sklearn_ssl._training.batches import TrainingSet
from sklearn_ssl._training.checkpoint import Checkpoint
from sklearn_ssl._training.interrupts import interrupt_held_back
from sklearn_ssl._training.meter import REMEDY
from sklearn_ssl._training.net import SSLNet, output_width
from sklearn_ssl._training.optimizers import AUTO_OPTIMIZER, base_settings, optimizer_maker, resolve_optimizer
from sklearn_ssl._training.progress import FitProgress, over_images
from sklearn_ssl._training.schedule import Schedule
from sklearn_ssl._training.seeds import seeded_modules
from sklearn_ssl._views.augmentation import OneByOne, is_drawn_once, make_augment, resolve_augment
from sklearn_ssl._views.random_views import RandomViews
from sklearn_ssl.losses._adapters import build_loss, defaults_of, loss_name, make_loss, resolve_loss
from sklearn_ssl.losses._base import Spec, SSLLoss


def contrastive_widths(feature_dim: int) -> tuple[int, ...]:
    """SimCLR's projector: as wide as the features, then 128."""
    return feature_dim, 128


# What "auto" means where a loss's own `defaults` say nothing.
DEFAULTS: dict[str, Any] = {
    "backbone": "resnet18",
    "projector": contrastive_widths,
    "augment": "auto",
    "optimizer": AUTO_OPTIMIZER,
    "warmup": 0.05,
    "max_epochs": 100,
}


# Packages whose versions tell one training from another; as do those that code is taken from.
PACKAGES = ("sklearn_ssl", "torch", "torchvision")


# Parameters, and settings of reading, that do not tell one training from another.
NOT_OF_THE_TRAINING = ("callbacks", "checkpoint", "verbose", "warm_start")


NOT_OF_THE_IMAGES = ("cache", "cache_limit", "memory_limit", "workers")


# What "auto" stands for before anything is trained.
RESOLVED = (
    "augment",
    "backbone",
    "image_size",
    "lr",
    "max_epochs",
    "optimizer",
    "precision",
    "warmup",
    "weight_decay",
)


# Images that cannot be read, of which a warning names so many; it counts the others.
NAMED = 5


# A larger learning rate or weight decay is no choice but a slip, and torch overflows in its steps.
LARGEST_RATE = 1_000_000


# Standard deviation between images, as a share of the embeddings' size, below which they are "all alike".
COLLAPSED = 1e-2


# Passes over the images below which `max_time` is said to have been short.
FEW_PASSES = 3


class SSLImageEmbedder(
    ComponentParamsMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator
):
    """Learn to embed images without labels.

    `fit` trains a network so that random views of one image agree and the images stay apart, by whatever
    method `loss` names; `transform` returns the backbone's features of each image, for a classifier with few
    labels, for nearest neighbours, clustering or a map.

    Parameters are also found under nested names: ``loss__temperature`` is ``loss_params["temperature"]``, in
    the constructor, `set_params` and grid searches; likewise ``backbone__``, ``augment__``, ``optimizer__``,
    ``reader__``.

    Parameters
    ----------
    loss : str, class, instance or function, default="ntxent"
        The learning method: a name (`sklearn_ssl.available_losses` lists them; "ntxent", "dcl" and "vicreg"
        are built in), a subclass of `SSLLoss` or of `nn.Module` with ``forward(z1, z2)``, an instance of one
        (copied), or a function ``f(z1, z2, *, temperature=0.1)``.
    loss_params : dict, optional
        Its hyperparameters, such as ``{"temperature": 0.1}``.
    backbone : str, nn.Module or callable, default="auto"
        "auto": "resnet18", unless the loss names another. "vit": a vision transformer of the images' size.
        Any torchvision classification model by name, a module (copied), or a factory that returns one.
    backbone_params : dict, optional
        For ResNets ``stem`` ("auto", "imagenet", "3x3", "3x3-pool", "3x3-stride2") and ``weights``, a
        pretrained start; for "vit" ``patch`` (its side in pixels, "auto": about an eighth of the image's),
        ``width`` (192), ``depth`` (6), ``heads`` ("auto": one for 64 of the width) and ``pooling`` of its
        tokens ("mean" or "class"); for a factory, its keywords.
    projector : tuple of int or nn.Module, default="auto"
        Widths of the layers that turn features into projections, where the loss acts; thrown away after
        training. "auto": as wide as the features, then 128, unless the loss says otherwise ("vicreg": three
        times as wide as the features).
    augment : str or callable, default="auto"
        How views are drawn: "photo" (SimCLR's recipe), "symbols" (digits, glyphs: no flips), "overhead"
        (satellite, microscopy: all flips and quarter turns), "none"; or ``f(images, generator)`` that returns
        one view of each image (n, channels, height, width); or a transform of torchvision, which is applied
        to each image by itself. Functions and transforms may draw from the generator or from the global ones
        of torch, numpy and Python, which are seeded meanwhile. "auto": "photo" for three channels, else
        "symbols".
    augment_params : dict, optional
        Strengths that differ from the preset's: ``{"blur": 0.5}``; see `sklearn_ssl.augment.Augment`.
    image_shape : tuple of int, optional
        (height, width) or (height, width, channels) of an image, where X has flat rows; with numpy's meaning
        of -1.
    image_size : int or (height, width), default="auto"
        Resolution of the views. "auto": the images' own, at most 224 on the short side; for files, the median
        short side of some of them, at most 224. Files are resized and centre-cropped to it.
    reader : "files"
        The name under which the settings of reading images stand.
    reader_params : dict, optional
        ``reader__on_error="skip"`` goes on without files that cannot be read; ``reader__cache`` is a folder
        for decoded images; ``reader__read`` a function of your own from a path to an array; also
        ``reader__memory_limit``, ``reader__max_pixels``, ``reader__background``, ``reader__workers``: see
        `sklearn_ssl.reader.Reader`.
    max_epochs : int, default="auto"
        Passes over the images, in all. "auto": 100, unless the loss says otherwise; no limit with `max_time`.
    max_time : float, optional
        Seconds that `fit` may take: the learning rate anneals over the time, and training ends with it.
    batch_size : int, default=256
        Images in a step; with fewer images than that, all of them.
    micro_batches : int, default=1
        Parts in which a batch goes through the network, one after the other: activations take the memory of
        a part, while the loss still compares all images of the batch. Costs a further forward pass. The
        gradient is that of the whole batch, with BatchNorm's statistics taken over each part. For losses
        that use the network through `student(views)` alone, such as all built-in ones.
    optimizer : {"muon", "adamw", "sgd", "lars"} or torch Optimizer class, default="auto"
        "auto": "muon" (`sklearn_ssl.muon.Muon`), unless the loss says otherwise.
    optimizer_params : dict, optional
        Its keywords, such as ``momentum``, ``betas``, ``clip_norm`` (largest norm of the gradient; off).
    lr : float, default="auto"
        Peak learning rate. "auto": 8e-3 for "muon", 2e-3 for "adamw", 0.06 for "sgd", 0.3 for "lars", unless
        the loss says otherwise, each times batch size / 256. An optimizer class needs a number.
    weight_decay : float, default="auto"
        Of weights; biases and norms have none. "auto": 1e-2 for "muon" and "adamw", 5e-4 for "sgd", 1e-4 for
        "lars", 0 for an optimizer class, unless the loss says otherwise.
    warmup : float, default="auto"
        Share of the training in which the learning rate rises; then it falls as half a cosine. "auto": 0.05.
    device : str or torch.device, default="auto"
        "auto": CUDA where there is one, else the CPU.
    precision : {"bf16", "float32"}, default="auto"
        "auto": bfloat16 where the device is fast in it (CUDA from compute capability 8 on, CPUs with AMX or
        AVX512-BF16), else float32. "float32" when asked for also makes `transform` exact: the encoder's own
        operations, none merged; products in training on CUDA may use TF32.
    compile : bool, default=False
        Compile the backbone with `torch.compile`, in `fit` and `transform`: takes a minute or so at first,
        and makes each step faster (`benchmarks/train.py`), which pays in long fits. Where there is no
        compiler, a warning says so and the network runs as it is.
    callbacks : list of skorch callbacks, optional
        They see the training as any skorch callback does; each epoch's "train_loss" and further terms are in
        the net's history.
    checkpoint : path, optional
        A folder in which the training is kept, in a file for each combination of parameters and images. A
        later `fit` with the same ones goes on from it, in another process too and in mid-epoch, to the very
        weights of a training without a break (on a CPU, with `max_epochs`); a finished training is taken
        from it as it is, unless `random_state` is None. Written after every epoch, and every five minutes in
        its middle, but taking a tenth of the time at most; about three times as large as the network.
        Callbacks begin anew.
    warm_start : bool, default=False
        With a larger `max_epochs` (or `max_time`), the next `fit` trains the difference; the learning rate
        goes on where the longer schedule is at that epoch.
    random_state : int, RandomState or None, default=None
        An int makes fits repeatable: bit for bit on the same device, precision and number of threads. With
        None each fit draws anew, and only an interrupted one goes on from its `checkpoint`.
    verbose : int, default=0
        1: a progress bar with images/s and time left, in long transforms too.
    **nested : keyword arguments
        Nested names: ``loss__temperature=0.1``.

    Attributes
    ----------
    encoder_ : nn.Sequential
        Pixels as the user gives them -> embeddings: standardisation, then the backbone; in eval mode. A plain
        module for fine-tuning.
    history_ : list of dict
        For each epoch: epoch, train_loss and the loss's other terms, lr, dur (seconds), images_per_second.
    n_iter_ : int
        Epochs trained, a begun one included.
    image_shape_ : tuple
        (height, width, channels) of the images.
    n_features_in_ : int
        Their product; not for files.
    skipped_ : dict of int to str
        With ``reader__on_error="skip"``, the positions of the images that could not be read (those of
        `X_unlabeled` follow those of X), and why.
    image_size_, batch_size_, backbone_, projector_, augment_, optimizer_, lr_, weight_decay_, warmup_, \
max_epochs_, device_, precision_, compile_
        What was used where "auto" was given, and elsewhere.

    Notes
    -----
    The defaults were chosen by `benchmarks/defaults.py` (figures in `benchmarks/README.md`): the three
    built-in losses on scikit-learn's digits and on CIFAR-10, trained for minutes on a CPU. Long trainings on
    a GPU may want a larger projector and batch.

    Pixel values: uint8 is divided by 255; other types are used as they are if they lie in [0, 1], else scaled
    by their 0.1 and 99.9 percentiles over the training images, without clipping or rounding. Then each
    channel is standardised.

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
        loss: Any = "ntxent",
        *,
        loss_params: dict | None = None,
        backbone: Any = "auto",
        backbone_params: dict | None = None,
        projector: Any = "auto",
        augment: Any = "auto",
        augment_params: dict | None = None,
        image_shape: tuple[int, ...] | None = None,
        image_size: Any = "auto",
        reader: str = "files",
        reader_params: dict | None = None,
        max_epochs: int | str = "auto",
        max_time: float | None = None,
        batch_size: int = 256,
        micro_batches: int = 1,
        optimizer: Any = "auto",
        optimizer_params: dict | None = None,
        lr: float | str = "auto",
        weight_decay: float | str = "auto",
        warmup: float | str = "auto",
        device: Any = "auto",
        precision: str = "auto",
        compile: bool = False,
        callbacks: Sequence | None = None,
        checkpoint: Any = None,
        warm_start: bool = False,
        random_state: Any = None,
        verbose: int = 0,
        **nested: Any,
    ):
        self.loss = loss
        self.loss_params = loss_params
        self.backbone = backbone
        self.backbone_params = backbone_params
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
        self.callbacks = callbacks
        self.checkpoint = checkpoint
        self.warm_start = warm_start
        self.random_state = random_state
        self.verbose = verbose
        self._init_nested(nested)

    # ------------------------------------------------------------------ fit

    def fit(self, X: Any, y: Any = None, *, X_unlabeled: Any = None) -> SSLImageEmbedder:
        """Learn from images, without labels.

        Parameters
        ----------
        X : images
            Array of shape (n_images, height, width) or (n_images, height, width, channels); rows of
            shape (n_images, height * width * channels) with `image_shape`; torch tensor of shape
            (n_images, channels, height, width); list of PIL images, or of arrays of one size; list, array or
            column of paths; a folder, whose image files are taken in the order of `sklearn_ssl.list_images`;
            torch dataset of images, or of tuples that begin with one. Arrays that are mapped into memory
            (``np.load(path, mmap_mode="r")``) are read when they are needed where they are large.
        y : array-like of shape (n_images,), optional
            Ignored, unless the loss uses labels: then classes, with -1, NaN or None for unlabeled.
        X_unlabeled : images, optional
            Further images to learn from, in any accepted form. (In a grid search, scikit-learn splits
            whatever has as many entries as X along with X: then give one image more or less.)

        Returns
        -------
        self : SSLImageEmbedder

        Raises
        ------
        ValueError
            A parameter or an image is not what it should be; the estimator is then as before.
        FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError
            A path leads to no image, or a folder cannot be read.
        FloatingPointError
            The loss became infinite or not a number.
        OSError
            The checkpoint cannot be written: before the training, or in its course; then the model so far is
            kept.
        KeyboardInterrupt
            On Ctrl-C, after the step in hand (a second one: at once); the model so far is kept, with a
            warning, and `warm_start=True` goes on from it.
        """
        started = time.monotonic()
        warn_if_forked()
        with _unchanged_on_error(self), own_settings(), retain_freed_memory():
            loss, source = self._prepare(X, X_unlabeled)
            labels = self._labels(loss, y, source)
            checkpoint = self._checkpoint(source, labels)
            net = self._net(loss, source, checkpoint)
            images = TrainingSet(to_device(source, self.device_), labels)
            with interrupt_held_back() as interrupt:
                net.train(images, started, interrupt)
                self._keep(net, source)
        self._raise_what_ended(net, checkpoint, interrupt.asked_for)
        return self

    def transform(self, X: Any, *, out: np.ndarray | None = None) -> np.ndarray:
        """Embed images: the backbone's features of each, in evaluation mode, without augmentation.

        Parameters
        ----------
        X : images
            In any form that `fit` takes, of the fitted size and channel count; files, PIL images of several
            sizes and datasets are resized.
        out : ndarray of shape (n_images, n_features_out), float32, optional
            Where to write, such as a memory map for more embeddings than memory holds
            (``np.lib.format.open_memmap``).

        Returns
        -------
        embeddings : ndarray of shape (n_images, n_features_out), float32
            A row does not depend on the other images in the call. With ``reader__on_error="skip"``, rows of
            images that cannot be read are NaN.
        """
        check_is_fitted(self)
        with own_settings():
            source = inference_source(self, X)
        if out is not None:
            _check_out(out, (len(source), self._n_features_out))
        begin = 0
        for rows in self._embed(source, verbose=self.verbose):
            if out is None:
                out = np.empty((len(source), rows.shape[1]), np.float32)
            out[begin : begin + len(rows)] = rows.numpy()
            begin += len(rows)
        if source.bad:
            out[list(source.bad)] = np.nan
            warnings.warn(_about_bad(source, "have rows of NaN"), stacklevel=3)
        return out

    def transform_batches(self, X: Any) -> Iterator[np.ndarray]:
        """`transform`, some rows at a time: for more images and embeddings than memory holds.

        Parameters
        ----------
        X : images
            As for `transform`.

        Yields
        ------
        embeddings : ndarray of shape (some, n_features_out), float32
            In the order of X.
        """
        check_is_fitted(self)
        with own_settings():
            source = inference_source(self, X)
        return self._array_batches(source)

    def _array_batches(self, source: Source) -> Iterator[np.ndarray]:
        begin = 0
        for rows in self._embed(source, verbose=self.verbose):
            # A list of them: the next images are being read meanwhile.
            bad = [position - begin for position in list(source.bad)]
            bad = [row for row in bad if 0 <= row < len(rows)]
            begin += len(rows)
            array = rows.numpy()
            array[bad] = np.nan
            yield array
        if source.bad:
            warnings.warn(_about_bad(source, "have rows of NaN"), stacklevel=2)

    def save(self, path: str | os.PathLike) -> None:
        """Write what `transform` needs into one file, for `sklearn_ssl.load`: safetensors, without code.

        Parameters
        ----------
        path : path-like
            Conventionally ends in ".safetensors". The file is written whole or not at all; one that was there
            keeps its permissions, and a link goes on to lead to it.

        Raises
        ------
        ValueError
            `encoder_` was given other layers since the fit.
        OSError
            The file cannot be written.

        Notes
        -----
        The file has the encoder's weights, all parameters and fitted attributes that are plain values, and a
        checksum (SHA-256) of them all. Parameters that are objects, such as a function as `augment` or
        callbacks, are left out, and named when it is loaded. What a warm start would need is not in it.
        """
        check_is_fitted(self)
        path = given_path("path", path)
        with naming("path", path):
            save_model(self, path)

    def to_onnx(self, path: str | os.PathLike) -> None:
        """Write the encoder for ONNX runtimes: images in, embeddings out, for any number of images.

        Parameters
        ----------
        path : path-like
            Conventionally ends in ".onnx".

        Raises
        ------
        ImportError
            onnx or onnxscript is not installed: ``pip install "sklearn-ssl[onnx]"``.

        Notes
        -----
        The input "images" is float32 of shape (n, channels, height, width), of the size `image_size_` and in
        the units that `fit` was given (0 to 255 for uint8): standardisation is inside, resizing is not. The
        output "embeddings" is float32 of shape (n, n_features_out), as `transform` makes it with
        ``precision="float32"``, to some 1e-5.
        """
        check_is_fitted(self)
        path = given_path("path", path)
        with own_settings(), naming("path", path):
            export_onnx(self.encoder_, (self.image_shape_[2], *self.image_size_), path)

    # ------------------------------------------------------------------ steps of fit

    def _prepare(self, X: Any, X_unlabeled: Any = None) -> tuple[SSLLoss, Source]:
        """Validate parameters and images, and settle everything that depends on them."""
        self._check_parameters()
        source = training_source(self, X, X_unlabeled)
        loss = make_loss(self.loss, self.loss_params or {})
        self._resolve(loss, source)
        if self._earlier_state() is None:
            self._pixels = PixelScale.of(source)
        return loss, source

    def _earlier_state(self) -> dict | None:
        """Where a warm start goes on."""
        return getattr(self, "_training_state", None) if self.warm_start else None

    def _check_parameters(self) -> None:
        """Names and values that would only fail, or mislead, later on."""
        for slot in self._component_slots:
            params = check_params(f"{slot}_params", getattr(self, f"{slot}_params"))
            self._check_names(slot, params, self._chosen())
        check_number("batch_size", self.batch_size, whole=True, at_least=2)
        check_number("micro_batches", self.micro_batches, whole=True, at_least=1)
        check_number("max_epochs", self.max_epochs, whole=True, at_least=1, instead=("auto",))
        check_number("max_time", self.max_time, above=0, instead=(None,))
        check_number("lr", self.lr, above=0, at_most=LARGEST_RATE, instead=("auto",))
        check_number("weight_decay", self.weight_decay, at_least=0, at_most=LARGEST_RATE, instead=("auto",))
        check_number("warmup", self.warmup, at_least=0, at_most=1, instead=("auto",))
        check_number("verbose", self.verbose, whole=True, at_least=0, instead=(True, False))
        check_bool("compile", self.compile)
        check_bool("warm_start", self.warm_start)
        _check_random_state(self.random_state)
        _check_projector(self.projector)
        _check_callbacks(self.callbacks)
        if not isinstance(self.checkpoint, str | os.PathLike | None):
            raise ValueError(f"checkpoint={self.checkpoint!r}: give the path of a folder, or None.")

    # "auto" takes the parameters of the backbone that the loss wants.

    def _component(self, slot: str, chosen: Mapping[str, Any]) -> Any:
        if slot == "backbone":
            chosen = {**chosen, "backbone": _wanted_backbone(chosen)}
        return super()._component(slot, chosen)

    def _is_replaced(self, slot: str, chosen: Mapping[str, Any]) -> bool:
        if slot == "backbone" and _is_auto(self.backbone) and _is_auto(chosen["backbone"]):
            return _wanted_backbone(chosen) != _wanted_backbone(self._chosen())
        return super()._is_replaced(slot, chosen)

    def _check_names(self, slot: str, names: Iterable[str], chosen: Mapping[str, Any]) -> None:
        try:
            super()._check_names(slot, names, chosen)
        except ValueError:
            if slot == "backbone" and _is_auto(chosen["backbone"]):
                resolve_loss(chosen["loss"])  # where it is not there, that is what to say
            raise

    def _resolve(self, loss: SSLLoss, source: Source) -> None:
        """Every "auto", from the images, the device and the loss, into `<name>_`."""
        usual = self._usual_settings(loss)
        for name in ("backbone", "augment", "optimizer", "weight_decay", "warmup", "max_epochs"):
            given = getattr(self, name)
            setattr(self, f"{name}_", usual[name] if _is_auto(given) else given)
        self.device_ = resolve_device(self.device)
        self.precision_ = resolve_precision(self.precision, self.device_)
        self.compile_ = resolve_compile(self.compile, self.device_)
        self.batch_size_ = min(int(self.batch_size), len(source))
        _check_parts(self.micro_batches, self.batch_size_)
        self.lr_ = usual["lr"] * self.batch_size_ / 256 if _is_auto(self.lr) else self.lr
        if _is_auto(self.max_epochs) and self.max_time is not None:
            self.max_epochs_ = None
        if _is_auto(self.augment_):
            self.augment_ = "photo" if source.channels == 3 else "symbols"

    def _usual_settings(self, loss: SSLLoss) -> dict[str, Any]:
        """What "auto" means: what suits the optimizer; then what the loss wants."""
        _check_defaults(loss)
        wanted = {**DEFAULTS, **loss.defaults}
        optimizer = wanted["optimizer"] if _is_auto(self.optimizer) else self.optimizer
        # A loss's own learning rate and weight decay are meant for its own optimizer.
        own = loss.defaults if optimizer == wanted["optimizer"] else {}
        has_rate = not _is_auto(self.lr) or "lr" in own
        return {**wanted, **base_settings(optimizer, lr_is_given=has_rate), **own}

    def _labels(self, loss: SSLLoss, y: Any, source: Source) -> Tensor | None:
        """Class numbers, -1 where unlabeled (as in scikit-learn's semi-supervised module)."""
        n_images = len(source.first) if isinstance(source, ConcatSource) else len(source)
        _check_is_target(y, n_images)
        if not loss.uses_labels:
            return None
        name = loss_name(self.loss)
        if y is None:
            raise ValueError(
                f"The loss {name!r} learns from labels, but y is None: fit(X, y), with -1 where unlabeled."
            )
        y = column_or_1d(y)
        unlabeled = np.array([_is_unlabeled(label) for label in y.tolist()], dtype=bool)
        if unlabeled.all():
            warnings.warn(
                f"The loss {name!r} learns from labels, but every y is -1, unlabeled: it can only learn "
                "from the views. Give the classes that are known, or take a loss without labels ('ntxent').",
                UserWarning,
                stacklevel=3,
            )
        numbers = np.full(len(source), -1)
        numbers[: len(y)][~unlabeled] = LabelEncoder().fit_transform(y[~unlabeled])
        return torch.from_numpy(numbers)

    def _checkpoint(self, source: Source, labels: Tensor | None) -> Checkpoint | None:
        """The file of this very training: the same parameters, images, labels, and state to go on from."""
        if self.checkpoint is None:
            return None
        params = _without(self.get_params(deep=False), NOT_OF_THE_TRAINING)
        params["reader_params"] = _without(self.reader_params or {}, NOT_OF_THE_IMAGES)
        # What names and "auto" stand for: both may be others after an upgrade.
        resolved = {name: getattr(self, f"{name}_") for name in RESOLVED}
        earlier = _without(self._earlier_state() or {}, ("seconds", "meter"))
        images = source.identity(), labels
        packages = [sys.modules[name] for name in PACKAGES]
        digits = fingerprint(params, resolved, resolve_loss(self.loss), images, earlier, packages)
        _warn_if_never_found_again({**params, "loss": resolve_loss(self.loss)})
        return Checkpoint(given_path("checkpoint", self.checkpoint), loss_name(self.loss), digits, source)

    def _earlier(self, checkpoint: Checkpoint | None) -> dict | None:
        """Where to go on, as `Checkpoint.read` has it; None at a start."""
        earlier = checkpoint and checkpoint.read()
        if earlier and earlier["finished"] == "callback" and not self.callbacks:
            earlier["finished"] = None  # nobody wants it to end there any more
        if earlier and earlier["finished"] and self._is_drawn_anew():
            earlier = None
        if earlier:
            _drawn_seed(self.random_state)  # an instance moves on, as in the fit that is in the file
            warnings.warn(_about_checkpoint(checkpoint, earlier), stacklevel=4)
        elif self._earlier_state() is not None:
            # A copy: an optimizer goes on to change the very tensors that it loads, and this fit may fail.
            state = copy.deepcopy(self._earlier_state())
            earlier = {"training": state, "history": self.history_, "finished": None, "bad": {}}
        return earlier

    def _is_drawn_anew(self) -> bool:
        """Whether each fit has a seed of its own, that of no earlier one."""
        return self.random_state is None and self._earlier_state() is None

    def _net(self, loss: SSLLoss, source: Source, checkpoint: Checkpoint | None = None) -> SSLNet:
        """Everything that training needs, at its start or where an earlier one goes on."""
        self._warn_if_drawn_once(source)
        earlier = self._earlier(checkpoint)
        seed = earlier["training"]["seed"] if earlier else _drawn_seed(self.random_state)
        with seeded_modules(seed) as generator:
            student = self._student(loss, source, generator)
        callbacks = list(self.callbacks or [])
        if self.verbose:
            callbacks.append(FitProgress(loss_name(self.loss)))
        if checkpoint:
            callbacks.append(checkpoint)
        net = SSLNet(
            student,
            loss,
            loss_name=loss_name(self.loss),
            make_optimizer=optimizer_maker(self.optimizer_, self.optimizer_params or {}, self.device_),
            weight_decay=self.weight_decay_,
            schedule=Schedule(self.max_epochs_, self.max_time, self.lr_, self.warmup_),
            draw_views=self._views(),
            pixels=self._pixels,
            seed=seed,
            batch_size=self.batch_size_,
            micro_batches=self.micro_batches,
            compile=self.compile_,
            device=self.device_,
            callbacks=callbacks,
        ).initialize()
        return _going_on(net, earlier, checkpoint) if earlier else net

    def _student(self, loss: SSLLoss, source: Source, generator: torch.Generator) -> Student:
        backbone, feature_dim = build_backbone(
            self.backbone_,
            self.backbone_params or {},
            in_channels=source.channels,
            image_size=self.image_size_,
        )
        projector = self._make_projector(loss, feature_dim)
        spec = Spec(
            feature_dim=feature_dim,
            dim=output_width(projector, feature_dim),
            n_samples=len(source),
            batch_size=self.batch_size_,
            in_channels=source.channels,
            image_size=self.image_size_,
            backbone=backbone,
            generator=generator,
        )
        build_loss(loss, spec, loss_name(self.loss), self.loss_params or {})
        self._n_features_out = feature_dim
        return Student(backbone, projector, self.precision_)

    def _make_projector(self, loss: SSLLoss, feature_dim: int) -> nn.Module:
        wanted = {**DEFAULTS, **loss.defaults}["projector"]
        self.projector_ = wanted if _is_auto(self.projector) else self.projector
        if isinstance(self.projector_, FunctionType):
            self.projector_ = self.projector_(feature_dim)
        try:
            if isinstance(self.projector_, nn.Module):
                projector = copy.deepcopy(self.projector_).cpu()  # the user's own is not trained
            else:
                projector = loss.make_projector(feature_dim, tuple(self.projector_))
            output_width(projector, feature_dim)
        except Exception as error:  # a module may raise anything
            raise ValueError(
                f"projector={shortened(self.projector_)} cannot turn {feature_dim} features, the backbone's, "
                f"into projections of shape (n, width): {error}"
            ) from error
        return projector

    def _warn_if_drawn_once(self, source: Source) -> None:
        """Warn of an `augment` that draws for the batch what is meant for an image."""
        augment = make_augment(self.augment_, self.augment_params or {})
        if not callable(augment) or isinstance(augment, OneByOne):
            return
        image = self._pixels.to_unit(source.batch(torch.tensor([0])))[0]
        if is_drawn_once(augment, image):
            warnings.warn(
                "augment draws once for all images of a batch: copies of an image come out equal. Let it "
                "draw for each image; a transform of torchvision is applied to each as augment=transform, "
                "without a function around it.",
                UserWarning,
                stacklevel=4,
            )

    def _views(self) -> RandomViews:
        """How the views of an image are drawn, in the pixels' unit values."""
        augment = make_augment(self.augment_, self.augment_params or {})
        pixels = self._pixels
        return RandomViews(augment, self.image_size_, pixels.mean, pixels.std, clamp=pixels.bounded)

    def _keep(self, net: SSLNet, source: Source) -> None:
        """What is learned; the rest is thrown away, unless training may go on."""
        if net.steps_done == 0:
            raise KeyboardInterrupt
        encoder = make_encoder(self._pixels, remove_compilation(net.module_.backbone))
        self.encoder_ = encoder.to(self.device_).eval()
        vars(self).pop("_kept_network", None)  # an earlier encoder's
        self.history_ = [_without(row, ("batches",)) for row in net.history if "train_loss" in row]
        self.n_iter_ = net.epochs_begun()
        may_go_on = self.warm_start or net.interrupted or net.failure
        self._training_state = net.training_state() if may_go_on else None
        self._check_result(net, source)
        self._warn_if_short(net)
        self.skipped_ = dict(sorted({**net.bad_before, **source.bad}.items()))
        if source.bad:
            warnings.warn(_about_bad(source, "were left out"), stacklevel=3)

    def _raise_what_ended(self, net: SSLNet, checkpoint: Checkpoint | None, interrupted: bool) -> None:
        """What has ended a training, or came too late for that, now that the model is kept."""
        if net.interrupted:
            written = checkpoint and not net.failure
            file = f", or as before: it then goes on from {checkpoint.path}" if written else ""
            warnings.warn(
                f"The fit was interrupted in epoch {self.n_iter_}, after {net.steps_done} steps. The model "
                f"so far is kept and can be used. To go on, fit again with warm_start=True{file}.",
                stacklevel=3,
            )
        if net.interrupted or interrupted:
            raise KeyboardInterrupt
        if net.failure:
            raise net.failure

    def _check_result(self, net: SSLNet, source: Source) -> None:
        """Refuse embeddings that are no numbers, and warn of those that are all alike."""
        embeddings = torch.cat(list(self._embed(source, evenly_spaced(len(source), 256))))
        if not embeddings.isfinite().all():
            raise FloatingPointError(
                f"The embeddings became infinite or not a number, at a peak lr of {self.lr_:.3g}. {REMEDY}"
            )
        with torch.no_grad():
            projections = net.module_.projector.eval()(embeddings.to(self.device_)).cpu()
        for name, vectors in {"embedding": embeddings, "projection": projections}.items():
            spread = _relative_spread(vectors)
            if spread < COLLAPSED:
                warnings.warn(
                    f"The {name} has collapsed: the images' {name}s differ by {spread:.1e} of their size. "
                    f"Try a lower lr, another loss, a larger batch_size, or a stronger augment.",
                    ConvergenceWarning,
                    stacklevel=4,
                )
                break  # where embeddings are alike, so are projections

    def _warn_if_short(self, net: SSLNet) -> None:
        """Say so where `max_time` has ended a training after a few passes over the images."""
        passes = net.steps_done / net.epoch_size
        enough = min(FEW_PASSES, self.max_epochs_ or FEW_PASSES)
        if self.max_time is not None and net.finished == "schedule" and passes < enough:
            warnings.warn(
                f"max_time={self.max_time} ended the fit after {passes:.2g} passes over the images, at "
                f"{self.history_[-1]['images_per_second']:,.0f} images/s: that may be too few to learn from. "
                f"Give it more time, a smaller image_size or backbone, or a machine with less other work.",
                ConvergenceWarning,
                stacklevel=4,
            )

    # ------------------------------------------------------------------ steps of transform

    def _embed(self, source: Source, index: Tensor | None = None, verbose: int = 0) -> Iterator[Tensor]:
        """Embeddings of the images numbered `index` (None: all), some rows of n_features_out at a time."""
        warn_if_forked()
        index = torch.arange(len(source), device="cpu") if index is None else index
        device = self._inference_device()
        network = self._network(device)
        chunk = chunk_size(self.image_size_, device)
        batches = _batches(source, index.split(chunk), device)
        with closing(batches), retain_freed_memory():
            for images in over_images(batches, len(index), verbose):
                yield self._embed_chunk(network, images.to(device, non_blocking=True), chunk)

    @own_settings()
    @torch.inference_mode()
    def _embed_chunk(self, network: InferenceNetwork, images: Tensor, chunk: int) -> Tensor:
        """One chunk, padded to the size of every other: a row never depends on its neighbours."""
        n = len(images)
        images = resize_and_center(images.to(torch.float32), self.image_size_)
        padded = torch.cat([images, images.new_zeros(chunk - n, *images.shape[1:])])
        return network(padded.contiguous(memory_format=torch.channels_last))[:n].cpu()

    @own_settings()
    def _network(self, device: torch.device) -> InferenceNetwork:
        """Made at the first call, and anew when somebody has trained `encoder_` further."""
        kept = vars(self).setdefault("_kept_network", KeptNetwork())
        return kept.of(
            self.encoder_,
            device,
            precision=resolve_precision(self.precision, device),
            exact=self.precision == "float32",
            compile=resolve_compile(self.compile, device),
        )

    def _inference_device(self) -> torch.device:
        """The training device, or on a machine without it the best there is."""
        try:
            return resolve_device(self.device_)
        except ValueError:
            return resolve_device("auto")

    # ------------------------------------------------------------------ scikit-learn's protocol

    def __getstate__(self) -> dict:
        return pack(super().__getstate__())  # so that a machine without the training device can unpickle it

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(unpack(state))

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = self.image_shape is not None
        tags.input_tags.three_d_array = True
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags


def load(path: str | os.PathLike, *, backbone: nn.Module | Callable | None = None) -> SSLImageEmbedder:
    """A fitted embedder from a file that `SSLImageEmbedder.save` wrote; nothing in the file is executed.

    Parameters
    ----------
    path : path-like
    backbone : nn.Module, class or factory, optional
        What was given as `backbone` to the embedder, where that was no name.

    Returns
    -------
    SSLImageEmbedder
        On the CPU; `transform` uses the device of the training where there is one. The loss need not be
        installed, except for another `fit`.

    Raises
    ------
    ValueError
        The file is damaged, of a later version, no model, or needs `backbone`.
    OSError
        The file cannot be read.
    """
    path = given_path("path", path)
    with own_settings(), naming("path", path):
        return load_model(SSLImageEmbedder, path, backbone)


def _batches(source: Source, parts: Sequence[Tensor], device: torch.device) -> Iterator[Tensor]:
    """The images of each part; where reading takes time, a thread reads while the network runs."""
    read = functools.partial(_read, source, pinned=device.type == "cuda")
    return prefetch(read, parts) if source.lazy or device.type == "cuda" else (read(part) for part in parts)


def _read(source: Source, index: Tensor, *, pinned: bool) -> Tensor:
    images = source.batch(index)
    return images.pin_memory() if pinned else images  # so that the copy to the GPU waits for nothing


def _check_out(out: np.ndarray, shape: tuple[int, int]) -> None:
    if out.shape != shape or out.dtype != np.float32:
        raise ValueError(f"out is {out.dtype} of shape {out.shape}: give float32 of shape {shape}.")


def _about_bad(source: Source, what: str) -> str:
    """One sentence for all images that could not be read."""
    bad = [source.bad[position] for position in sorted(source.bad)]
    more = f"; and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
    return f"{len(bad)} of {len(source)} images {what}: {'; '.join(bad[:NAMED])}{more}."


def _is_auto(value: Any) -> bool:
    return isinstance(value, str) and value == "auto"


def _wanted_backbone(chosen: Mapping[str, Any]) -> Any:
    """What `backbone=` stands for, beside a loss."""
    usual = {**DEFAULTS, **defaults_of(chosen["loss"])}["backbone"]
    return usual if _is_auto(chosen["backbone"]) else chosen["backbone"]


def _relative_spread(vectors: Tensor) -> float:
    """Standard deviation between vectors (n, d), as a share of their size; 0 where all are zero."""
    size = vectors.square().mean(dim=0).sum().sqrt()
    spread = vectors.std(dim=0, correction=0).norm() / size.clamp(min=torch.finfo(torch.float32).tiny)
    return spread.item()


def _check_is_target(y: Any, n_images: int) -> None:
    """Refuse what is no target of the images in X, such as further images."""
    if y is None:
        return
    advice = "Images without labels are a keyword: fit(X, X_unlabeled=images)."
    items = y[:1] if isinstance(y, list | tuple) else ()
    if (
        isinstance(y, str | os.PathLike | Dataset)
        or np.ndim(items) > 2
        or getattr(y, "ndim", 1) > 2
        or any(isinstance(item, Image.Image | os.PathLike | Tensor) for item in items)
    ):
        raise ValueError(f"y holds images, rather than a label or target for each image of X. {advice}")
    length = _num_samples(y)
    if length != n_images:
        raise ValueError(
            f"There are {n_images} images in X and {length} labels in y: give one label each. {advice}"
        )


def _is_unlabeled(label: Any) -> bool:
    """Whether this stands for no label: -1, or a missing value."""
    if label is None or type(label).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(label, Real) and (label == -1 or label != label)


def _drawn_seed(random_state: Any) -> int:
    return int(check_random_state(random_state).randint(2**31))


def _warn_if_never_found_again(params: dict[str, Any]) -> None:
    """A checkpoint that no other process finds, and no word of it, would be the loss of a training."""
    places = told_by_address(params)
    if places:
        warnings.warn(
            f"No other process will go on from the checkpoint of this fit: it could not tell whether "
            f"{', '.join(places)} is the same, of which Python shows but an address in memory. Let it be an "
            f"object whose attributes say what it is, or make it where it is used.",
            stacklevel=4,
        )


def _about_checkpoint(checkpoint: Checkpoint, earlier: dict) -> str:
    steps = earlier["training"]["steps_done"]
    if not earlier["finished"]:
        return f"This fit goes on from {checkpoint.path}, after {steps} steps."
    return (
        f"This fit is taken from {checkpoint.path}, after {steps} steps: parameters, images, versions of "
        f"packages, and the code of functions and classes with the values it refers to are the same. What "
        f"code reads elsewhere was not compared: if that has changed, delete the file to train anew."
    )


def _going_on(net: SSLNet, earlier: dict, checkpoint: Checkpoint | None) -> SSLNet:
    net.finished, net.bad_before = earlier["finished"], earlier["bad"]
    try:
        return net.load_training_state(earlier["training"], earlier["history"])
    except (KeyError, RuntimeError, ValueError) as error:
        if checkpoint and checkpoint.path.exists():
            raise ValueError(
                f"{checkpoint.path} is of another network, loss or optimizer than this fit: was their code "
                f"changed? Delete it to train from the start. {error}"
            ) from error
        raise ValueError(
            "warm_start=True goes on with the network of the last fit, but it does not fit the backbone, "
            "projector, loss, optimizer or image channels of this one. Set them back, or start anew with "
            "warm_start=False."
        ) from error


def _check_parts(micro_batches: int, batch_size: int) -> None:
    if 2 * micro_batches > batch_size:
        raise ValueError(
            f"micro_batches={micro_batches} leaves less than 2 of a batch's {batch_size} images to a part: "
            f"give at most {batch_size // 2}, or a larger batch_size."
        )


def _check_defaults(loss: SSLLoss) -> None:
    known = {*DEFAULTS, "lr", "weight_decay"}
    for name in set(loss.defaults) - known:
        raise ValueError(
            f"The `defaults` of the loss {type(loss).__name__} have no meaning for {name!r}."
            + did_you_mean(name, known)
            + f" They may set {', '.join(sorted(known))}."
        )


def _check_projector(projector: Any) -> None:
    if _is_auto(projector) or isinstance(projector, nn.Module):
        return
    widths = projector if isinstance(projector, Sequence) and not isinstance(projector, str | bytes) else ()
    if not widths or not all(is_whole(width) and width >= 1 for width in widths):
        raise ValueError(
            f"projector={projector!r}: give the widths of its layers, for example (512, 128), an nn.Module "
            f"from features to projections, or leave it at 'auto'."
        )


def _check_random_state(random_state: Any) -> None:
    try:
        if isinstance(random_state, bool):
            raise ValueError
        check_random_state(random_state)
    except (ValueError, TypeError):
        raise ValueError(
            f"random_state={shortened(random_state)}: give a whole number from 0 to {2**32 - 1}, a "
            f"numpy.random.RandomState, or None."
        ) from None


def _check_callbacks(callbacks: Any) -> None:
    if callbacks is None or (isinstance(callbacks, list | tuple) and all(map(_is_callback, callbacks))):
        return
    raise ValueError(
        f"callbacks={shortened(callbacks)}: give a list of skorch callbacks, for example "
        f"callbacks=[skorch.callbacks.EarlyStopping()], or None."
    )


def _is_callback(given: Any) -> bool:
    """Whether skorch takes it: a callback, its class, or a pair of a name and one of these."""
    if isinstance(given, tuple) and len(given) == 2 and isinstance(given[0], str):
        given = given[1]
    return isinstance(given, Callback) or (isinstance(given, type) and issubclass(given, Callback))


@contextmanager
def _unchanged_on_error(estimator: BaseEstimator) -> Iterator[None]:
    """A fit that fails leaves the estimator as it was."""
    before = estimator.__dict__.copy()
    try:
        yield
    except BaseException:
        estimator.__dict__.clear()
        estimator.__dict__.update(before)
        raise


def _without(items: dict, names: Sequence[str]) -> dict:
    return {name: value for name, value in items.items() if name not in names}
