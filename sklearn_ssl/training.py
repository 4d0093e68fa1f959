"""One training step, its schedules, and the skorch net that repeats it."""

from __future__ import annotations

import functools
import math
import operator
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from skorch import NeuralNet
from skorch.utils import TeeGenerator
from torch import Tensor, nn
from torch.utils.data import Dataset

from sklearn_ssl.devices import (
    fast_float32,
    is_out_of_memory,
    lent_generators,
    memory_advice,
)
from sklearn_ssl.gradient_cache import GradientCache, InParts
from sklearn_ssl.images import Source
from sklearn_ssl.interrupts import NO_INTERRUPT, Interrupt
from sklearn_ssl.losses.base import Batch, SSLLoss
from sklearn_ssl.network import Student, Teacher, load_plain_state, momentum_at
from sklearn_ssl.optimizers import decay_groups
from sklearn_ssl.pixels import PixelScale
from sklearn_ssl.prefetch import ahead
from sklearn_ssl.views import RandomViews

# Sources of randomness, each a function of (seed, its number, step or epoch) and nothing else.
MODULES, SHUFFLE, VIEWS, LOSS_STEP, LOSS_EPOCH, LAYERS = range(6)
# The loss is read from the device, and looked at, once in so many steps: reading waits for the device.
READ_EVERY = 16
# Where numbers have become too large.
REMEDY = "Try a lower lr, optimizer__clip_norm=1.0, a longer warmup, or precision='float32'."


@dataclass(frozen=True)
class Schedule:
    """How long to train, and at what rate.

    Attributes
    ----------
    max_epochs : int or None
        None: until `max_time`.
    max_time : float or None
        Seconds; with both, the first that is reached.
    lr : float
        Peak learning rate.
    warmup : float
        Share of the training in which the rate rises linearly; then it falls as half a cosine to 0.
    """

    max_epochs: int | None
    max_time: float | None
    lr: float
    warmup: float

    def progress(self, epochs: float, seconds: float) -> float:
        """Share of the training that is done, from 0 to 1."""
        shares = [0.0]
        if self.max_epochs is not None:
            shares.append(epochs / self.max_epochs)
        if self.max_time is not None:
            shares.append(seconds / self.max_time)
        return min(1.0, max(shares))

    def rate(self, progress: float) -> float:
        """Learning rate at this progress."""
        if progress < self.warmup:
            return self.lr * progress / self.warmup
        after = (progress - self.warmup) / (1 - self.warmup) if self.warmup < 1 else 1.0
        return self.lr * (1 + math.cos(math.pi * after)) / 2


class TrainingSet(Dataset):
    """Images and, for a loss that wants them, labels."""

    def __init__(self, source: Source, y: Tensor | None = None):
        self.source = source
        self.y = y

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, i: int) -> Tensor:
        return self.source.batch(torch.tensor([i]))[0]


class StopTraining(Exception):
    """Ends the training early, as planned: the time is up, or a callback says so."""


class SSLNet(NeuralNet):
    """The training loop: skorch's, with a self-supervised step.

    After `train`, at most one of these is so: it is `finished`, by its "schedule" or a "callback"; it was
    `interrupted` by the user; it ended with a `failure` that is no fault of the model's.

    Parameters
    ----------
    module : Student
    criterion : SSLLoss
        Built (`SSLLoss.build`).
    loss_name : str
        For messages.
    make_optimizer : callable
        (parameter groups, lr) -> torch Optimizer.
    weight_decay : float
    schedule : Schedule
    draw_views : RandomViews
    pixels : PixelScale
    seed : int
    accumulate : int
        Parts in which a batch goes through the network.
    compile : bool
    """

    def __init__(
        self,
        module: Student,
        criterion: SSLLoss,
        *,
        loss_name: str,
        make_optimizer: Callable[..., torch.optim.Optimizer],
        weight_decay: float,
        schedule: Schedule,
        draw_views: RandomViews,
        pixels: PixelScale,
        seed: int,
        batch_size: int,
        accumulate: int,
        compile: bool,
        device: torch.device,
        callbacks: list,
    ):
        super().__init__(
            module,
            criterion,
            lr=schedule.lr,
            max_epochs=sys.maxsize if schedule.max_epochs is None else schedule.max_epochs,
            batch_size=batch_size,
            train_split=None,
            device=device,
            callbacks=callbacks,
            verbose=0,
        )
        self.loss_name = loss_name
        self.make_optimizer = make_optimizer
        self.weight_decay = weight_decay
        self.schedule = schedule
        self.draw_views = draw_views
        self.pixels = pixels
        self.seed = seed
        self.accumulate = accumulate
        self.compile_network = compile
        self.steps_done = 0
        self.seconds_before = 0.0
        self.rate = 0.0
        self.meter = Meter(loss_name)
        self.in_step = False
        self.finished: str | None = None
        self.interrupted = False
        self.failure: Exception | None = None
        self.bad_before: dict[int, str] = {}

    # ------------------------------------------------------------------ components

    @property
    def _default_callbacks(self) -> list:
        return []

    def initialize_module(self) -> SSLNet:
        super().initialize_module()
        self.module_.to(memory_format=torch.channels_last)
        if self.criterion.teacher is not None:
            momentum_at(self.criterion, 0.0)  # wrong ones are told before anything is trained
            self.teacher_ = Teacher(self.module_)
        if self.compile_network:
            for student in [self.module_, *([self.teacher.average] if self.teacher else [])]:
                student.backbone.compile(dynamic=False)  # in place: the state dict keeps its names
        return self

    def initialize_optimizer(self, triggered_directly: bool | None = None) -> SSLNet:
        parameters = [parameter for _, parameter in self.get_all_learnable_params()]
        self.optimizer_ = self.make_optimizer(decay_groups(parameters, self.weight_decay), self.lr)
        return self

    @property
    def teacher(self) -> Teacher | None:
        return getattr(self, "teacher_", None)

    # ------------------------------------------------------------------ the loop

    def train(self, dataset: TrainingSet, started: float, interrupt: Interrupt = NO_INTERRUPT) -> SSLNet:
        """Train until the schedule ends, a callback stops, or the user interrupts; unless it is finished.

        Parameters
        ----------
        dataset : TrainingSet
        started : float
            `time.monotonic()` when the user called `fit`: `max_time` counts from there.
        interrupt : Interrupt
            Whether the user has pressed Ctrl-C.
        """
        self.started = started
        self.interrupt = interrupt
        self.epoch_size = max(1, len(dataset) // self.batch_size)
        if self.finished:
            return self
        self.notify("on_train_begin", X=dataset, y=None)
        try:
            with memory_advice(self.batch_size, self.accumulate), fast_float32(self.device):
                self.fit_loop(dataset, epochs=self._epochs_left())
            self.finished = "schedule"
        except StopTraining:
            self._record_finished_epoch()
            if not self.interrupted and self.failure is None:
                self.finished = "schedule" if self.out_of_time() else "callback"
        except KeyboardInterrupt:
            # skorch's EarlyStopping ends a training by raising this itself.
            self.interrupted = interrupt.is_the_users()
            self.finished = None if self.interrupted else "callback"
            self._record_finished_epoch()
        finally:
            self.notify("on_train_end", X=dataset, y=None)
        return self

    def _epochs_left(self) -> int:
        return self.max_epochs - self.steps_done // self.epoch_size

    def get_iterator(self, dataset: TrainingSet, training: bool = False) -> EpochBatches:
        return EpochBatches(self, dataset)

    def on_epoch_begin(self, net: NeuralNet, **kwargs: Any) -> None:
        self.history.new_epoch()
        self.history.record("epoch", self.epoch + 1)  # skorch counts rows, and an interruption loses one
        if not self.in_mid_epoch() or self.meter.steps != self.steps_done % self.epoch_size:
            self.meter = Meter(self.loss_name)
        self.module_.train()
        self.criterion_.train()
        if not self.in_mid_epoch():
            self.criterion_.on_epoch_start(self.epoch, self._generator(LOSS_EPOCH, self.epoch))

    def run_single_epoch(
        self, iterator: Any, training: bool, prefix: str, step_fn: Callable, **_: Any
    ) -> None:
        """One pass over the images; unlike skorch's, it does not wait for the device at each step."""
        if iterator is None:
            return
        for batch in iterator:
            if self.interrupt.asked_for:
                self.interrupted = True
                raise StopTraining
            self.notify("on_batch_begin", batch=batch, training=training)
            self.history.record_batch("train_batch_size", len(batch[0]))
            step_fn(batch)
            self.notify("on_batch_end", batch=batch, training=training)
        self._record_epoch()
        if self.out_of_time():
            # The epoch is in the history; its callbacks still see its end.
            self.notify("on_epoch_end", dataset_train=iterator.dataset, dataset_valid=None)
            raise StopTraining

    def train_step(self, batch: tuple[Tensor, Tensor, Tensor | None], **_: Any) -> None:
        """Views, loss, gradient, optimizer, teacher: everything that one batch causes."""
        self.in_step = True
        self._set_rate()
        self._zero_grad_optimizer()
        self.train_step_single(batch)
        named_parameters = TeeGenerator(self.get_all_learnable_params())
        self.notify("on_grad_computed", named_parameters=named_parameters, batch=batch, training=True)
        self._step_optimizer(None)
        self._move_teacher()
        self.criterion_.after_step(self.module_, self.teacher)
        self.steps_done += 1
        self.in_step = False

    def train_step_single(self, batch: tuple[Tensor, Tensor, Tensor | None], **_: Any) -> None:
        """The gradient of one batch."""
        # Dropout, and many an `augment` of others, know the global generators only: lend them some that
        # depend on the step. Fits in several threads take turns here, whether they draw from them or not.
        with lent_generators(derived(self.seed, LAYERS, self.steps_done), self.device):
            drawn = self._draw(*batch)
            terms = self._gradient(drawn) if self.accumulate == 1 else self._gradient_in_parts(drawn)
        self.meter.add(terms, self.steps_done, self.rate)

    # ------------------------------------------------------------------ parts of a step

    def _draw(self, images: Tensor, index: Tensor, y: Tensor | None) -> Batch:
        unit = self.pixels.to_unit(images.to(self.device, non_blocking=True))
        return Batch(
            views=self.draw_views(unit, self.criterion_.views, derived(self.seed, VIEWS, self.steps_done)),
            index=index.to(self.device),
            y=None if y is None else y.to(self.device),
            epoch=self.epoch,
            progress=self.progress(),
            generator=self._generator(LOSS_STEP, self.steps_done),
        )

    def _gradient(self, batch: Batch) -> dict[str, Tensor]:
        terms = self._loss_terms(batch, self.module_, self.teacher)
        terms["loss"].backward()
        return terms

    def _gradient_in_parts(self, batch: Batch) -> dict[str, Tensor]:
        student = GradientCache(self.module_, self.accumulate)
        terms = self._loss_terms(batch, student, self.teacher and InParts(self.teacher, self.accumulate))
        terms["loss"].backward()
        student.backward()
        return terms

    def _loss_terms(self, batch: Batch, student: Any, teacher: Any) -> dict[str, Tensor]:
        try:
            out = self.criterion_.step(batch, student, teacher)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            shapes = [tuple(view.shape) for view in batch.views]
            raise RuntimeError(
                f"The loss {self.loss_name!r} failed in step {self.steps_done}, on views of shapes {shapes}: "
                f"{error}"
            ) from error
        terms = out if isinstance(out, dict) else {"loss": out}
        check_loss_value(self.loss_name, terms)
        return terms

    def _set_rate(self) -> None:
        self.rate = self.schedule.rate(self.progress(0.5))
        for group in self.optimizer_.param_groups:
            group["lr"] = self.rate

    def _move_teacher(self) -> None:
        if self.teacher is not None:
            self.teacher.follow(self.module_, momentum_at(self.criterion_, self.progress()))

    # ------------------------------------------------------------------ where we are

    @property
    def epoch(self) -> int:
        """The running epoch, from 0."""
        return self.steps_done // self.epoch_size

    def in_mid_epoch(self) -> bool:
        return self.steps_done % self.epoch_size != 0

    def epochs_begun(self) -> int:
        return math.ceil(self.steps_done / self.epoch_size)

    def seconds(self) -> float:
        """Time trained, earlier fits of a warm start included."""
        return self.seconds_before + time.monotonic() - self.started

    def progress(self, ahead: float = 0.0) -> float:
        """Share of the training that is done, `ahead` steps from now."""
        return self.schedule.progress((self.steps_done + ahead) / self.epoch_size, self.seconds())

    def out_of_time(self) -> bool:
        """Whether the next step would end nearer to the limit if it were left out."""
        if self.schedule.max_time is None or self.steps_done == 0:
            return False
        typical_step = self.meter.seconds_per_step()
        return self.seconds() + typical_step / 2 > self.schedule.max_time

    def _record_finished_epoch(self) -> None:
        """After an interruption between an epoch's last step and its record."""
        if self.steps_done and not self.in_mid_epoch() and "lr" not in self.history[-1]:
            self._record_epoch()

    def _record_epoch(self) -> None:
        if self.meter.steps == 0:  # the time was up before the first
            return
        self.meter.read()  # a loss that was no number says in which step
        self._check_weights()
        row = self.history[-1]
        row["batches"] = []  # skorch would keep 356 bytes for each batch, for ever
        seconds = self.meter.seconds()
        self.history.record("train_loss", self.meter.mean("loss"))
        for term in self.meter.terms():
            self.history.record(term, self.meter.mean(term))
        self.history.record("lr", self.rate)
        self.history.record("dur", seconds)
        self.history.record("images_per_second", self.meter.steps * self.batch_size / seconds)

    def _check_weights(self) -> None:
        """Refuse weights that are no longer numbers; the loss was computed before the last step changed them.

        Raises
        ------
        FloatingPointError
        """
        floats = [value for value in self.module_.state_dict().values() if value.is_floating_point()]
        if not torch.stack([value.isfinite().all() for value in floats]).all():
            raise FloatingPointError(
                f"Weights of the network became infinite or not a number by step {self.steps_done - 1}, at "
                f"lr {self.rate:.3g} with weight_decay={self.weight_decay:.3g}. {REMEDY}"
            )

    def _generator(self, purpose: int, number: int) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(derived(self.seed, purpose, number))

    # ------------------------------------------------------------------ going on later

    def training_state(self) -> dict:
        """Everything that training on needs: tensors, numbers and lists only."""
        return {
            "student": self.module_.state_dict(),
            "teacher": None if self.teacher is None else self.teacher.state_dict(),
            "loss": self.criterion_.state_dict(),
            "optimizer": self.optimizer_.state_dict(),
            "steps_done": self.steps_done,
            "seconds": self.seconds(),
            "seed": self.seed,
            "rate": self.rate,
            "meter": self.meter.state() if self.in_mid_epoch() else None,
        }

    def load_training_state(self, state: dict, history: list[dict]) -> SSLNet:
        """Go on where `training_state` was taken."""
        kinds = [
            set(optimizer["param_groups"][0])
            for optimizer in (state["optimizer"], self.optimizer_.state_dict())
        ]
        if kinds[0] != kinds[1]:
            raise ValueError("The state is another optimizer's.")
        load_plain_state(self.module_, state["student"])
        load_plain_state(self.criterion_, state["loss"])
        self.optimizer_.load_state_dict(state["optimizer"])
        _lay_out_like_parameters(self.optimizer_)
        if self.teacher is not None:
            load_plain_state(self.teacher, state["teacher"] or {})
        self.steps_done = state["steps_done"]
        self.seconds_before = state["seconds"]
        self.rate = state["rate"]
        if state["meter"] is not None:
            self.meter.load_state(state["meter"])
        self.history_.extend({**row, "batches": []} for row in history)
        return self


class EpochBatches:
    """The batches of one epoch after another: (images, index, y), shuffled by (seed, epoch)."""

    def __init__(self, net: SSLNet, dataset: TrainingSet):
        self.net = net
        self.dataset = dataset

    def __len__(self) -> int:
        return self.net.epoch_size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        net = self.net
        shuffle = torch.Generator().manual_seed(derived(net.seed, SHUFFLE, net.epoch))
        order = torch.randperm(len(self.dataset), generator=shuffle)
        # A last incomplete batch is left out; another shuffle brings its images in.
        batches = order[: len(self) * net.batch_size].split(net.batch_size)
        with closing(self._all_read(batches[net.steps_done % len(self) :])) as read:
            for batch in read:
                if net.out_of_time():
                    return
                yield batch

    def _all_read(self, batches: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        # Where reading takes time, a thread reads while the step before is computed.
        takes_time = self.dataset.source.lazy or self.dataset.source.device.type != self.net.device.type
        return ahead(self._read, batches) if takes_time else (self._read(index) for index in batches)

    def _read(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        images = self.dataset.source.batch(index)
        index = self.dataset.source.stand_ins(index)
        if images.device.type == "cpu" and self.net.device.type == "cuda":
            images = images.pin_memory()  # so that the copy to the GPU waits for nothing
        return images, index, None if self.dataset.y is None else self.dataset.y[index]


class Meter:
    """Means of the loss and its terms over an epoch; values stay on the device until they are read."""

    def __init__(self, loss_name: str):
        self.loss_name = loss_name
        self.started = time.monotonic()
        self.steps = 0
        self._unread: list[dict[str, Tensor]] = []
        self._where: list[tuple[int, float]] = []
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    def add(self, terms: dict[str, Tensor], step: int, rate: float) -> None:
        self.steps += 1
        values = {name: torch.as_tensor(value).detach().reshape(()) for name, value in terms.items()}
        self._unread.append(values)
        self._where.append((step, rate))
        if len(self._unread) == READ_EVERY:
            self.read()

    def read(self) -> None:
        """Fetch what is still on the device.

        Raises
        ------
        FloatingPointError
            The loss is no longer a number.
        """
        unread, self._unread, where, self._where = self._unread, [], self._where, []
        for name in {name: None for terms in unread for name in terms}:  # in their order
            values = torch.stack(
                [terms[name].to(torch.float64) for terms in unread if name in terms]
            ).tolist()
            if name == "loss":
                self._check_finite(values, where)
            # One after the other, whenever they are read: a training that goes on adds the same way.
            self._sums[name] = functools.reduce(operator.add, values, self._sums.get(name, 0.0))
            self._counts[name] = self._counts.get(name, 0) + len(values)

    def mean(self, name: str) -> float:
        """Mean over the steps in which it was reported; nan before the first."""
        self.read()
        return self._sums[name] / self._counts[name] if name in self._counts else math.nan

    def terms(self) -> list[str]:
        self.read()
        return [name for name in self._sums if name != "loss"]

    def seconds(self) -> float:
        return time.monotonic() - self.started

    def seconds_per_step(self) -> float:
        return self.seconds() / max(1, self.steps)

    def state(self) -> dict[str, Any]:
        """What was counted so far, as plain numbers."""
        self.read()
        counted = {"sums": dict(self._sums), "counts": dict(self._counts)}
        return {"steps": self.steps, "seconds": self.seconds(), **counted}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on counting where `state` was taken."""
        self.steps, self.started = state["steps"], time.monotonic() - state["seconds"]
        self._sums, self._counts = dict(state["sums"]), dict(state["counts"])

    def _check_finite(self, values: list[float], where: list[tuple[int, float]]) -> None:
        for value, (step, rate) in zip(values, where, strict=True):
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"The loss {self.loss_name!r} became {value} in step {step}, at lr {rate:.3g}. {REMEDY}"
                )


def _lay_out_like_parameters(optimizer: torch.optim.Optimizer) -> None:
    """What a file has kept in plain order lies in memory as it did: fused steps want it, and are faster."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter).copy_(value)


def check_loss_value(name: str, terms: dict[str, Tensor]) -> None:
    """Refuse what is not one differentiable number."""
    loss = terms.get("loss")
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        given = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else repr(loss)
        raise ValueError(
            f"The loss {name!r} returned {given}. A loss returns one number, as a tensor of shape (), or "
            f"a dict {{'loss': that, 'another term': ...}}."
        )
    several = [term for term, value in terms.items() if torch.as_tensor(value).numel() != 1]
    if several:
        raise ValueError(f"The loss {name!r} returned the term {several[0]!r}, which is not one number.")
    if not loss.requires_grad:
        raise ValueError(f"The loss {name!r} returned a value without gradient: was it detached?")


def derived(seed: int, *path: int) -> int:
    """A seed of its own for each path of numbers, far from every other's."""
    return int(np.random.SeedSequence((seed, *path)).generate_state(1)[0])


@contextmanager
def seeded_modules(seed: int) -> Iterator[torch.Generator]:
    """Initialise the layers that are made inside by `seed`, and lend a generator of its own."""
    with lent_generators(derived(seed, MODULES), torch.device("cpu")):
        yield torch.Generator().manual_seed(derived(seed, MODULES, 1))


def dimension(module: nn.Module, in_dim: int) -> int:
    """Width of what a projector makes of (n, in_dim)."""
    was_training = module.training
    with torch.no_grad():
        out = module.eval()(torch.zeros(2, in_dim))
    module.train(was_training)
    return out.shape[1]
