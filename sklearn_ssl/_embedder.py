"""SSLImageEmbedder: learn to embed images without labels."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import Tags, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

from sklearn_ssl._checks import check_params
from sklearn_ssl._filesystem import given_path, naming
from sklearn_ssl._hardware.allocator import retain_freed_memory
from sklearn_ssl._hardware.ambient import own_settings
from sklearn_ssl._hardware.devices import resolve_compile, resolve_device, resolve_precision
from sklearn_ssl._hardware.forks import warn_if_forked
from sklearn_ssl._images.inputs import ImageFormat, InputParser
from sklearn_ssl._images.pixel_scale import PixelScale, evenly_spaced
from sklearn_ssl._images.reader import Reader, make_reader, resolve_reader
from sklearn_ssl._images.resize import resize_and_center
from sklearn_ssl._images.sources import ConcatSource, Source, to_device
from sklearn_ssl._models.model_file import load_model, pack, save_model, unpack
from sklearn_ssl._models.onnx import export_onnx
from sklearn_ssl._networks.backbones import resolve_backbone
from sklearn_ssl._networks.inference import InferenceNetwork, KeptNetwork, chunk_size, make_encoder
from sklearn_ssl._networks.student import remove_compilation
from sklearn_ssl._params import ComponentParamsMixin, hide_var_keyword
from sklearn_ssl._prefetch import prefetch
from sklearn_ssl._settings import (
    Settings,
    check_parameters,
    is_auto,
    resolve_backbone_name,
    resolve_settings,
)
from sklearn_ssl._training.assemble import build_student
from sklearn_ssl._training.batches import TrainingSet
from sklearn_ssl._training.checkpoint import Checkpoint
from sklearn_ssl._training.interrupts import interrupt_held_back
from sklearn_ssl._training.labels import check_is_target, class_numbers
from sklearn_ssl._training.meter import REMEDY
from sklearn_ssl._training.net import Outcome, SSLNet
from sklearn_ssl._training.optimizers import optimizer_maker, resolve_optimizer
from sklearn_ssl._training.progress import FitProgress, over_images
from sklearn_ssl._training.resume import earlier_training, open_checkpoint, resume
from sklearn_ssl._training.schedule import Schedule
from sklearn_ssl._training.seeds import seeded_modules
from sklearn_ssl._views.augmentation import OneByOne, is_drawn_once, make_augment, resolve_augment
from sklearn_ssl._views.random_views import RandomViews
from sklearn_ssl._warnings import warn
from sklearn_ssl.losses._adapters import loss_name, make_loss, resolve_loss
from sklearn_ssl.losses._base import SSLLoss

# Maximum number of unreadable images that a warning lists.
MAX_LISTED = 5
# Standard deviation between images, relative to the embeddings' norm, below which they have collapsed.
COLLAPSE_THRESHOLD = 1e-2
# Passes over the images below which `max_time` is said to have been short.
FEW_PASSES = 3
# Resolved settings that enter the fingerprint of a training.
RESOLVED_IN_FINGERPRINT = (
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
    augment : str, Augment or callable, default="auto"
        How views are drawn: "photo" (SimCLR's recipe), "symbols" (digits, glyphs: no flips), "overhead"
        (satellite, microscopy: all flips and quarter turns), "none"; an instance of `sklearn_ssl.augment`,
        such as ``Photo(crop=0.5)``; or ``f(images, generator)`` that returns
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
    reader : Reader, optional
        Settings of reading images, such as ``Reader(on_error="skip")``; see `sklearn_ssl.Reader`.
    reader_params : dict, optional
        Settings that differ from those of `reader`:
        ``reader__on_error="skip"`` goes on without files that cannot be read; ``reader__cache`` is a folder
        for decoded images; ``reader__read`` a function of your own from a path to an array; also
        ``reader__memory_limit``, ``reader__max_pixels``, ``reader__background``, ``reader__workers``: see
        `sklearn_ssl.Reader`.
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
    optimizer : {"muon", "adamw", "sgd"} or torch Optimizer class, default="auto"
        "auto": "muon" (momentum with orthogonalized updates), unless the loss says otherwise.
    optimizer_params : dict, optional
        Its keywords, such as ``momentum``, ``betas``, ``clip_norm`` (largest norm of the gradient; off).
    lr : float, default="auto"
        Peak learning rate. "auto": 8e-3 for "muon", 2e-3 for "adamw", 0.06 for "sgd", unless
        the loss says otherwise, each times batch size / 256. An optimizer class needs a number.
    weight_decay : float, default="auto"
        Of weights; biases and norms have none. "auto": 1e-2 for "muon" and "adamw", 5e-4 for "sgd", 0 for
        an optimizer class, unless the loss says otherwise.
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
    The defaults were chosen by `benchmarks/defaults.py` (figures in `docs/lab_notes.md`): the three
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
        reader: Reader | None = None,
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
            source, loss = self._open(X, X_unlabeled)
            check_is_target(y, len(source.first) if isinstance(source, ConcatSource) else len(source))
            labels = class_numbers(y, len(source), loss_name(self.loss)) if loss.uses_labels else None
            checkpoint = self._checkpoint(source, labels)
            net = self._make_net(loss, source, checkpoint)
            images = TrainingSet(to_device(source, self.device_), labels)
            with interrupt_held_back() as interrupt:
                outcome = net.train(images, started, interrupt)
                self._store(outcome, source)
        self._raise_pending(outcome, checkpoint, interrupt.asked_for)
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
            source = self._open_for_inference(X)
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
            warn(_bad_images_message(source, "have rows of NaN"))
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
            source = self._open_for_inference(X)
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
            warn(_bad_images_message(source, "have rows of NaN"))

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

    def _open(self, X: Any, X_unlabeled: Any = None) -> tuple[Source, SSLLoss]:
        """Check parameters and images, and store what depends on them: format, settings, pixel scale."""
        for slot in self._component_slots:
            given = check_params(f"{slot}_params", getattr(self, f"{slot}_params"))
            self._check_names(slot, given, self._chosen())
        params = self.get_params(deep=False)
        check_parameters(params)
        for name in ("n_features_in_", "feature_names_in_"):  # of an earlier fit on arrays
            vars(self).pop(name, None)
        source, images = self._parser().open_for_training(X, X_unlabeled)
        loss = make_loss(self.loss, self.loss_params or {})
        self._store_settings(images, resolve_settings(params, loss, len(source), source.channels))
        if self._earlier_state() is None:
            self._pixels = PixelScale.of(source)
        return source, loss

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
            image_size=self.image_size,
            validate=functools.partial(validate_data, self),
        )

    def _earlier_state(self) -> dict[str, Any] | None:
        """Return the state that a warm start goes on from."""
        return getattr(self, "_training_state", None) if self.warm_start else None

    def _checkpoint(self, source: Source, labels: Tensor | None) -> Checkpoint | None:
        resolved = {name: getattr(self, f"{name}_") for name in RESOLVED_IN_FINGERPRINT}
        return open_checkpoint(self.get_params(deep=False), resolved, source, labels, self._earlier_state())

    def _make_net(self, loss: SSLLoss, source: Source, checkpoint: Checkpoint | None = None) -> SSLNet:
        """Make everything that training needs, at its start or where an earlier one goes on."""
        self._warn_if_drawn_once(source)
        state = self._earlier_state()
        earlier, from_checkpoint = earlier_training(
            checkpoint,
            state,
            getattr(self, "history_", []),
            stopped_by_callbacks=bool(self.callbacks),
            drawn_anew=self.random_state is None and state is None,
        )
        # An instance of RandomState moves on, as in the fit whose training is in the checkpoint.
        drawn = _draw_seed(self.random_state) if earlier is None or from_checkpoint else None
        seed = earlier["training"]["seed"] if earlier else drawn
        with seeded_modules(seed) as generator:
            student, self.projector_, self._n_features_out = build_student(
                loss,
                self.backbone_,
                self.backbone_params or {},
                self.projector_,
                self._images,
                precision=self.precision_,
                n_samples=len(source),
                batch_size=self.batch_size_,
                generator=generator,
                loss_name=loss_name(self.loss),
                loss_params=self.loss_params or {},
            )
        net = SSLNet(
            student,
            loss,
            loss_name=loss_name(self.loss),
            make_optimizer=optimizer_maker(self.optimizer_, self.optimizer_params or {}, self.device_),
            weight_decay=self.weight_decay_,
            schedule=Schedule(self.max_epochs_, self.max_time, self.lr_, self.warmup_),
            draw_views=self._make_views(),
            pixels=self._pixels,
            seed=seed,
            batch_size=self.batch_size_,
            micro_batches=self.micro_batches,
            compile=self.compile_,
            device=self.device_,
            callbacks=[
                *(self.callbacks or []),
                *([FitProgress(loss_name(self.loss))] if self.verbose else []),
                *([checkpoint] if checkpoint else []),
            ],
        ).initialize()
        return resume(net, earlier, checkpoint) if earlier else net

    def _make_views(self) -> RandomViews:
        """Make what draws the views of an image, in the pixels' unit values."""
        augment = make_augment(self.augment_, self.augment_params or {})
        pixels = self._pixels
        return RandomViews(augment, self.image_size_, pixels.mean, pixels.std, clamp=pixels.bounded)

    def _warn_if_drawn_once(self, source: Source) -> None:
        """Warn of an `augment` that draws for the batch what is meant for an image."""
        augment = make_augment(self.augment_, self.augment_params or {})
        if not callable(augment) or isinstance(augment, OneByOne):
            return
        image = self._pixels.to_unit(source.batch(torch.tensor([0])))[0]
        if is_drawn_once(augment, image):
            warn(
                "augment draws once for all images of a batch: copies of an image come out equal. Let it "
                "draw for each image; a transform of torchvision is applied to each as augment=transform, "
                "without a function around it."
            )

    def _store(self, outcome: Outcome, source: Source) -> None:
        """Store the encoder and its history; the rest is thrown away, unless training may go on."""
        if outcome.steps == 0:
            raise KeyboardInterrupt
        encoder = make_encoder(self._pixels, remove_compilation(outcome.student.backbone))
        self.encoder_ = encoder.to(self.device_).eval()
        vars(self).pop("_kept_network", None)  # an earlier encoder's
        self.history_ = outcome.history
        self.n_iter_ = outcome.epochs
        may_go_on = self.warm_start or outcome.end == "interrupted" or outcome.error
        self._training_state = outcome.state if may_go_on else None
        self._check_embeddings(outcome.student.projector, source)
        self._warn_if_short(outcome)
        self.skipped_ = outcome.skipped
        if source.bad:
            warn(_bad_images_message(source, "were left out"))

    def _raise_pending(self, outcome: Outcome, checkpoint: Checkpoint | None, interrupted: bool) -> None:
        """Raise the interruption or the error that ended the training, now that the model is kept."""
        if outcome.end == "interrupted":
            written = checkpoint and not outcome.error
            file = f", or as before: it then goes on from {checkpoint.path}" if written else ""
            warn(
                f"The fit was interrupted in epoch {self.n_iter_}, after {outcome.steps} steps. The model so "
                f"far is kept and can be used. To go on, fit again with warm_start=True{file}."
            )
        if outcome.end == "interrupted" or interrupted:
            raise KeyboardInterrupt
        if outcome.error:
            raise outcome.error

    def _check_embeddings(self, projector: nn.Module, source: Source) -> None:
        """Refuse embeddings that are not finite, and warn of those that are all alike."""
        embeddings = torch.cat(list(self._embed(source, evenly_spaced(len(source), 256))))
        if not embeddings.isfinite().all():
            raise FloatingPointError(
                f"The embeddings became infinite or not a number, at a peak lr of {self.lr_:.3g}. {REMEDY}"
            )
        with torch.no_grad():
            projections = projector.eval()(embeddings.to(self.device_)).cpu()
        for name, vectors in {"embedding": embeddings, "projection": projections}.items():
            spread = _relative_spread(vectors)
            if spread < COLLAPSE_THRESHOLD:
                warn(
                    f"The {name} has collapsed: the images' {name}s differ by {spread:.1e} of their size. "
                    f"Try a lower lr, another loss, a larger batch_size, or a stronger augment.",
                    ConvergenceWarning,
                )
                break  # where embeddings are alike, so are projections

    def _warn_if_short(self, outcome: Outcome) -> None:
        """Warn where `max_time` has ended a training after a few passes over the images."""
        enough = min(FEW_PASSES, self.max_epochs_ or FEW_PASSES)
        if self.max_time is not None and outcome.end == "schedule" and outcome.passes < enough:
            warn(
                f"max_time={self.max_time} ended the fit after {outcome.passes:.2g} passes over the images, "
                f"at {self.history_[-1]['images_per_second']:,.0f} images/s: that may be too few to learn "
                f"from. Give it more time, a smaller image_size or backbone, or a machine with less other "
                f"work.",
                ConvergenceWarning,
            )

    # ------------------------------------------------------------------ parameters of components

    # "auto" takes the parameters of the backbone that the loss asks for.

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
                resolve_loss(chosen["loss"])  # where it is not there, that is what to say
            raise

    # ------------------------------------------------------------------ steps of transform

    def _open_for_inference(self, X: Any) -> Source:
        return self._parser().open_for_inference(X, self._images, self._pixels)

    def _embed(self, source: Source, index: Tensor | None = None, verbose: int = 0) -> Iterator[Tensor]:
        """Embeddings of the images numbered `index` (None: all), some rows of n_features_out at a time."""
        warn_if_forked()
        index = torch.arange(len(source), device="cpu") if index is None else index
        device = self._inference_device()
        network = self._network(device)
        chunk = chunk_size(self.image_size_, device)
        batches = _read_batches(source, index.split(chunk), device)
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
        File written by `SSLImageEmbedder.save`.
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


def _read_batches(source: Source, parts: Sequence[Tensor], device: torch.device) -> Iterator[Tensor]:
    """The images of each part; where reading takes time, a thread reads while the network runs."""
    read = functools.partial(_read, source, pinned=device.type == "cuda")
    return prefetch(read, parts) if source.lazy or device.type == "cuda" else (read(part) for part in parts)


def _read(source: Source, index: Tensor, *, pinned: bool) -> Tensor:
    images = source.batch(index)
    return images.pin_memory() if pinned else images  # so that the copy to the GPU waits for nothing


def _check_out(out: np.ndarray, shape: tuple[int, int]) -> None:
    if out.shape != shape or out.dtype != np.float32:
        raise ValueError(f"out is {out.dtype} of shape {out.shape}: give float32 of shape {shape}.")


def _bad_images_message(source: Source, what: str) -> str:
    """Return one sentence on all images that could not be read."""
    bad = [source.bad[position] for position in sorted(source.bad)]
    more = f"; and {len(bad) - MAX_LISTED} more" if len(bad) > MAX_LISTED else ""
    return f"{len(bad)} of {len(source)} images {what}: {'; '.join(bad[:MAX_LISTED])}{more}."


def _relative_spread(vectors: Tensor) -> float:
    """Standard deviation between vectors (n, d), as a share of their size; 0 where all are zero."""
    size = vectors.square().mean(dim=0).sum().sqrt()
    spread = vectors.std(dim=0, correction=0).norm() / size.clamp(min=torch.finfo(torch.float32).tiny)
    return spread.item()


def _draw_seed(random_state: Any) -> int:
    return int(check_random_state(random_state).randint(2**31))


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
