"""The training loop: skorch's net with a self-supervised step, and the outcome of a training."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from skorch import NeuralNet
from skorch.utils import TeeGenerator
from torch import Tensor

from sklearn_ssl._hardware.ambient import lent_generators
from sklearn_ssl._hardware.devices import fast_float32, is_out_of_memory, memory_advice
from sklearn_ssl._images.pixel_scale import PixelScale
from sklearn_ssl._images.sources import Source
from sklearn_ssl._networks.student import Student, Teacher, load_plain_state
from sklearn_ssl._training.batches import EpochBatches, TrainingSet
from sklearn_ssl._training.gradient_cache import GradientCache, InParts
from sklearn_ssl._training.interrupts import NO_INTERRUPT, Interrupt
from sklearn_ssl._training.meter import REMEDY, Meter
from sklearn_ssl._training.optimizers import decay_groups
from sklearn_ssl._training.schedule import Schedule, momentum_at
from sklearn_ssl._training.seeds import LAYERS, LOSS_EPOCH, LOSS_STEP, VIEWS, derive_seed
from sklearn_ssl._views.random_views import RandomViews
from sklearn_ssl.losses._base import Batch, SSLLoss


class StopTraining(Exception):
    """End the training between two steps.

    Parameters
    ----------
    end : {"schedule", "interrupted", "failed"}
        As in `Outcome`.
    error : Exception, optional
        Error that is no fault of the model's, such as a full disk.
    """

    def __init__(self, end: str, error: Exception | None = None):
        super().__init__(end)
        self.end = end
        self.error = error


@dataclass(frozen=True)
class Outcome:
    """Result of a training.

    Parameters
    ----------
    end : {"schedule", "callback", "interrupted", "failed"}
        What ended it: the schedule (epochs or time), a callback, the user's Ctrl-C, or an error outside
        of the model. The first two finish a training; after the others it can go on.
    error : Exception or None
        Error that is still to be raised, once the model is kept.
    student : Student
        The trained network.
    history : list of dict
        A row for each epoch.
    steps, epochs : int
        Steps done, and epochs begun.
    passes : float
        Passes over the images.
    skipped : dict of int to str
        Positions of images that could not be read, in this fit and those that it continues, and why.
    state : dict
        State to go on from, as `SSLNet.training_state` returns it.
    """

    end: str
    error: Exception | None
    student: Student
    history: list[dict[str, Any]]
    steps: int
    epochs: int
    passes: float
    skipped: dict[int, str]
    state: dict[str, Any]


class SSLNet(NeuralNet):
    """The training loop: skorch's, with a self-supervised step.

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
    micro_batches : int
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
        micro_batches: int,
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
        self.micro_batches = micro_batches
        self.compile_network = compile
        self.steps_done = 0
        self.seconds_before = 0.0
        self.rate = 0.0
        self.meter = Meter(loss_name)
        self.in_step = False
        self.end: str | None = None  # as in Outcome; None while it trains
        self.skipped_before: dict[int, str] = {}

    # ------------------------------------------------------------------ components

    @property
    def _default_callbacks(self) -> list:
        return []

    def initialize_module(self) -> SSLNet:
        super().initialize_module()
        self.module_.to(memory_format=torch.channels_last)
        if self.criterion.teacher_momentum is not None:
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

    def train(self, dataset: TrainingSet, started: float, interrupt: Interrupt = NO_INTERRUPT) -> Outcome:
        """Train until the schedule ends, a callback stops, or the user interrupts; unless it is finished.

        Parameters
        ----------
        dataset : TrainingSet
        started : float
            `time.monotonic()` when the user called `fit`: `max_time` counts from there.
        interrupt : Interrupt
            Whether the user has pressed Ctrl-C.

        Returns
        -------
        Outcome
        """
        self.started = started
        self.interrupt = interrupt
        self.epoch_size = max(1, len(dataset) // self.batch_size)
        error = None
        if self.end is None:
            self.notify("on_train_begin", X=dataset, y=None)
            try:
                self.end, error = self._train_until_stopped(dataset)
            finally:
                error = self._notify_train_end(dataset) or error
        assert self.end is not None
        return Outcome(
            end=self.end,
            error=error,
            student=self.module_,
            history=[
                {name: value for name, value in row.items() if name != "batches"}
                for row in self.history
                if "train_loss" in row
            ],
            steps=self.steps_done,
            epochs=self.epochs_begun(),
            passes=self.steps_done / self.epoch_size,
            skipped=self.skipped(dataset.source),
            state=self.training_state(),
        )

    def _train_until_stopped(self, dataset: TrainingSet) -> tuple[str, Exception | None]:
        """Run the loop; return what has ended it, and an error that is still to be raised."""
        try:
            with memory_advice(self.batch_size, self.micro_batches), fast_float32(self.device):
                self.fit_loop(dataset, epochs=self._epochs_left())
            return "schedule", None
        except StopTraining as stop:
            self._record_finished_epoch()
            return stop.end, stop.error
        except KeyboardInterrupt:
            self._record_finished_epoch()
            # skorch's EarlyStopping ends a training by raising this itself.
            return "interrupted" if self.interrupt.is_the_users() else "callback", None

    def _notify_train_end(self, dataset: TrainingSet) -> Exception | None:
        try:
            self.notify("on_train_end", X=dataset, y=None)
        except StopTraining as stop:  # a checkpoint that cannot be written
            return stop.error
        return None

    @property
    def finished(self) -> str | None:
        """What has finished the training as planned, "schedule" or "callback"; None if it can go on."""
        return self.end if self.end in ("schedule", "callback") else None

    def skipped(self, source: Source) -> dict[int, str]:
        """Return positions of images that could not be read, those of earlier fits included, and why."""
        return dict(sorted({**self.skipped_before, **source.bad}.items()))

    def _epochs_left(self) -> int:
        return self.max_epochs - self.steps_done // self.epoch_size

    def get_iterator(self, dataset: TrainingSet, training: bool = False) -> EpochBatches:
        return EpochBatches(
            dataset,
            self.batch_size,
            seed=self.seed,
            device=self.device,
            steps_done=lambda: self.steps_done,
            out_of_time=self.out_of_time,
        )

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
                raise StopTraining("interrupted")
            self.notify("on_batch_begin", batch=batch, training=training)
            self.history.record_batch("train_batch_size", len(batch[0]))
            step_fn(batch)
            self.notify("on_batch_end", batch=batch, training=training)
        self._record_epoch()
        if self.out_of_time():
            # The epoch is in the history; its callbacks still see its end.
            self.notify("on_epoch_end", dataset_train=iterator.dataset, dataset_valid=None)
            raise StopTraining("schedule")

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
        with lent_generators(derive_seed(self.seed, LAYERS, self.steps_done), self.device):
            drawn = self._draw(*batch)
            terms = self._gradient(drawn) if self.micro_batches == 1 else self._gradient_in_parts(drawn)
        self.meter.add(terms, self.steps_done, self.rate)

    # ------------------------------------------------------------------ parts of a step

    def _draw(self, images: Tensor, index: Tensor, y: Tensor | None) -> Batch:
        unit = self.pixels.to_unit(images.to(self.device, non_blocking=True))
        return Batch(
            views=self.draw_views(
                unit, self.criterion_.view_spec, derive_seed(self.seed, VIEWS, self.steps_done)
            ),
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
        student = GradientCache(self.module_, self.micro_batches)
        terms = self._loss_terms(batch, student, self.teacher and InParts(self.teacher, self.micro_batches))
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

    def progress(self, prefetch: float = 0.0) -> float:
        """Share of the training that is done, `prefetch` steps from now."""
        return self.schedule.progress((self.steps_done + prefetch) / self.epoch_size, self.seconds())

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
        return torch.Generator(self.device).manual_seed(derive_seed(self.seed, purpose, number))

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

    def resume(self, earlier: dict[str, Any]) -> SSLNet:
        """Go on where an earlier training stopped.

        Parameters
        ----------
        earlier : dict
            "training" (`training_state`), "history" (rows), "finished" ("schedule", "callback" or None) and
            "bad" (images that could not be read).
        """
        self.end, self.skipped_before = earlier["finished"], earlier["bad"]
        state = earlier["training"]
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
        self.history_.extend({**row, "batches": []} for row in earlier["history"])
        return self


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
