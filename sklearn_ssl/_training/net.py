"""The training loop: a skorch net with a self-supervised step, and the outcome of a training."""

from __future__ import annotations

import copy
import functools
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from skorch import NeuralNet
from skorch.utils import TeeGenerator
from torch import Tensor

from sklearn_ssl._distributed.batch_norm import SharedBatchNorm
from sklearn_ssl._distributed.network import SharedNetwork, SharedViews
from sklearn_ssl._distributed.team import ALONE, Team
from sklearn_ssl._hardware.ambient import lent_generators
from sklearn_ssl._hardware.devices import fast_float32, is_out_of_memory, memory_advice
from sklearn_ssl._images.pixel_scale import PixelScale
from sklearn_ssl._images.sources import Source, evenly_spaced, whole_of
from sklearn_ssl._networks.norms import fill_in_statistics
from sklearn_ssl._networks.student import Student, Teacher, load_plain_state
from sklearn_ssl._training.assemble import teacher_heads
from sklearn_ssl._training.batches import EpochBatches, TrainingSet
from sklearn_ssl._training.clock import Clock
from sklearn_ssl._training.gradient_cache import GradientCache, InParts
from sklearn_ssl._training.interrupts import NO_INTERRUPT, Interrupt
from sklearn_ssl._training.meter import REMEDY, Meter
from sklearn_ssl._training.optimizers import parameter_groups
from sklearn_ssl._training.schedule import Schedule, momentum_at
from sklearn_ssl._training.seeds import (
    BEFORE_EPOCH,
    GLOBAL_GENERATORS,
    HELD_BACK,
    LOSS_EPOCH,
    LOSS_STEP,
    VIEWS,
    derive_seed,
)
from sklearn_ssl._views.draws import Rows
from sklearn_ssl._views.random_views import RandomViews
from sklearn_ssl.losses._base import Batch, SSLLoss, ViewSpec

# Number of images that give an untrained network its BatchNorm statistics.
N_FOR_STATISTICS = 1024
# Entries of skorch's history that are for its callbacks.
NOT_IN_HISTORY = ("batches", "train_loss_best", "valid_loss_best")


class StopTraining(Exception):
    """Raised to end the training between two steps.

    Parameters
    ----------
    end : {"schedule", "callback", "interrupted", "failed"}
        Reason; see `Outcome`.
    error : Exception, optional
        Error not caused by the model, such as a full disk.
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
        Reason why the training ended: the schedule (epochs or time), a callback, Ctrl-C, or an error outside
        of the model. The first two finish a training; after the others it can be resumed.
    error : Exception or None
        Error to raise after the model has been stored.
    student : Student
        Trained network; the teacher's average, if the loss keeps that.
    history : list of dict
        One row for each epoch.
    steps, epochs : int
        Number of completed steps, and of epochs begun.
    passes : float
        Number of passes over the images.
    nothing_left : bool
        Whether this training found nothing to do: an earlier one has reached the end of its schedule.
    skipped : dict of int to str
        Positions of unreadable images, in this fit and in those that it resumes, and the reasons.
    state : dict
        State from which the training can be resumed; see `SSLNet.training_state`.
    """

    end: str
    error: Exception | None
    student: Student
    history: list[dict[str, Any]]
    steps: int
    epochs: int
    passes: float
    nothing_left: bool
    skipped: dict[int, str]
    state: dict[str, Any]


class SSLNet(NeuralNet):
    """Training loop of skorch with a self-supervised step.

    Parameters
    ----------
    module : Student
        Network to train.
    criterion : SSLLoss
        Loss, after a call of `SSLLoss.build`.
    loss_name : str
        Name of the loss, for messages.
    make_optimizer : callable
        Function (parameter groups, lr) -> `torch.optim.Optimizer`.
    weight_decay : float
        Weight decay; not applied to biases and normalization layers.
    schedule : Schedule
        Length of the training, and learning rate.
    draw_views : RandomViews
        Augmentation.
    pixels : PixelScale
        Scale of the pixel values.
    seed : int
        Seed from which all randomness is derived.
    batch_size : int
        Number of images in a step.
    micro_batches : int
        Number of parts in which a batch passes through the network.
    compile : bool
        Whether to compile the backbone with `torch.compile`.
    device : torch.device
        Training device.
    callbacks : list of skorch.callbacks.Callback
        Callbacks of the training.
    team : Team
        Processes that train together: all run the same steps, each on its own rows of every batch.
    evaluation : Evaluation, optional
        Called with the net at the end of epochs; returns further entries of the history by name.
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
        team: Team = ALONE,
        evaluation: Any = None,
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
            verbose=1,  # PrintLog and others, where they are given, are to print
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
        self.earlier_epoch_size: int | None = None  # of the training that this one resumes
        self.seconds_before = 0.0
        self.rate = 0.0
        self.team = team
        self.evaluation = evaluation
        self.clock = Clock(team)
        self.meter = Meter(loss_name, self.clock)
        self.in_step = False
        self.failure: Exception | None = None  # of this process, such as a full disk; ends the training
        self.stopped = False  # by a callback of this process, where there are several
        self.end: str | None = None  # see Outcome; None during training
        self.skipped_before: dict[int, str] = {}

    # ------------------------------------------------------------------ components

    @property
    def _default_callbacks(self) -> list:
        return []

    def initialize_module(self) -> SSLNet:
        super().initialize_module()
        self.module_.to(memory_format=torch.channels_last)
        if self.criterion.teacher_momentum is not None:
            momentum_at(self.criterion, 0.0)  # reports an invalid momentum before training
            self.teacher_ = Teacher(self.module_, teacher_heads(self.criterion))
        if self.criterion.encoder not in ("student", *(["teacher"] if self.teacher else [])):
            raise ValueError(
                f"The loss {self.loss_name!r} declares encoder={self.criterion.encoder!r}: 'student' is "
                f"possible, and 'teacher' if it has teacher_momentum, too."
            )
        if self.compile_network:
            for student in [self.module_, *([self.teacher.average] if self.teacher else [])]:
                student.backbone.compile(dynamic=False)  # in place: names in the state dict are kept
        return self

    def initialize_optimizer(self, triggered_directly: bool | None = None) -> SSLNet:
        own = {name: self._parameters_of(name) for name in self.criterion_.rates}
        parameters = [parameter for _, parameter in self.get_all_learnable_params()]
        groups = parameter_groups(parameters, self.weight_decay, own)
        if self.criterion_.weight_decay_at is not None:
            groups = [{**group, "full_weight_decay": group["weight_decay"]} for group in groups]
        self.optimizer_ = self.make_optimizer(groups, self.lr)
        return self

    def _parameters_of(self, name: str) -> list[torch.nn.Parameter]:
        """Return the parameters to which a name in the loss's `rates` refers."""
        owner = self.module_ if name == "student" else getattr(self.criterion_, name, None)
        if isinstance(owner, torch.nn.Parameter):
            return [owner]
        if isinstance(owner, torch.nn.Module):
            return list(owner.parameters())
        raise ValueError(
            f"The loss {self.loss_name!r} declares a rate for {name!r}, which is neither 'student' nor one "
            f"of its modules and parameters."
        )

    @property
    def teacher(self) -> Teacher | None:
        return getattr(self, "teacher_", None)

    @property
    def kept(self) -> Student:
        """Network whose backbone becomes the encoder: the student, or the average of it."""
        return self.teacher_.average if self.criterion_.encoder == "teacher" else self.module_

    # ------------------------------------------------------------------ the loop

    def train(self, dataset: TrainingSet, started: float, interrupt: Interrupt = NO_INTERRUPT) -> Outcome:
        """Train until the schedule ends, a callback stops the training, or the user interrupts it.

        A resumed training that is finished already is not continued.

        Parameters
        ----------
        dataset : TrainingSet
            Images and labels.
        started : float
            Value of `time.monotonic()` at the call of `fit`, from which `max_time` is counted.
        interrupt : Interrupt
            State of Ctrl-C.

        Returns
        -------
        Outcome
        """
        self.started = self.team.from_first(lambda: started)
        self.interrupt = interrupt
        self.epoch_size = max(1, len(dataset) // self.batch_size)
        earlier_size = self.earlier_epoch_size or self.epoch_size
        if earlier_size != self.epoch_size:  # other images, or another batch_size: as many whole epochs
            self.steps_done = self.steps_done // earlier_size * self.epoch_size
        error, before = None, self.steps_done
        is_finished = self.end is not None
        if not is_finished:
            self.notify("on_train_begin", X=dataset, y=None)
            try:
                self.end, error = self._train_until_stopped(dataset)
            except BaseException:
                # Without a message to other processes: they may be waiting for another one.
                self.notify("on_train_end", X=dataset, y=None)
                raise
            error = self._notify_train_end(dataset) or error
        assert self.end is not None
        self.kept.zero_grad()  # as large as the network, and kept for as long as the encoder
        return Outcome(
            end=self.end,
            error=error,
            student=self.kept,
            history=[
                {name: value for name, value in row.items() if name not in NOT_IN_HISTORY}
                for row in self.history
                if "train_loss" in row
            ],
            steps=self.steps_done,
            epochs=self.epochs_begun(),
            passes=self.steps_done / self.epoch_size,
            nothing_left=not is_finished and self.steps_done == before,
            skipped=self._all_skipped(dataset.source),
            state=self.training_state(),
        )

    def _train_until_stopped(self, dataset: TrainingSet) -> tuple[str, Exception | None]:
        """Run the loop; return the reason why it ended, and an error to raise later."""
        try:
            with memory_advice(self.batch_size, self.micro_batches), fast_float32(self.device):
                if self.schedule.max_epochs == 0:
                    fill_in_statistics(self.kept, self._plain_batches(dataset.source))
                self.fit_loop(dataset, epochs=self._epochs_left())
                self._agree_to_go_on(False)  # something may have failed after the last step
            return "schedule", None
        except StopTraining as stop:
            self._record_finished_epoch()
            return stop.end, stop.error
        except KeyboardInterrupt:
            if self.in_step and self.team.size > 1:
                raise  # the others go on with a step that this process has left
            self._record_finished_epoch()
            # Callbacks such as skorch's EarlyStopping raise KeyboardInterrupt to end a training.
            return "interrupted" if self.interrupt.is_from_user() else "callback", None

    def _plain_batches(self, source: Source) -> Iterator[Sequence[Tensor]]:
        """Yield batches of images that are evenly spaced over the training set, without augmentation."""
        for index in evenly_spaced(len(source), N_FOR_STATISTICS).split(self.batch_size):
            unit = self.pixels.to_unit(source.batch(index).to(self.device))
            yield self.draw_views(unit, ViewSpec(n=1, recipes=("none",)), self.seed)

    def _projections(self, source: Source) -> Tensor:
        """Return the projections of one view of every image, for `SSLLoss.before_epoch`."""
        return self.team.from_first(lambda: torch.cat(list(self._projected(source)))).to(self.device)

    @torch.no_grad()
    def _projected(self, source: Source) -> Iterator[Tensor]:
        """Yield projections of batches of images, in their order, by the network in training mode."""
        one = replace(self.criterion_.view_spec, n=1, local=0)
        self.module_.train()
        # Of nearly equal size: BatchNorm cannot normalize a last batch of a single image.
        for index in torch.arange(len(source)).tensor_split(max(1, len(source) // self.batch_size)):
            seed = derive_seed(self.seed, BEFORE_EPOCH, self.epoch, int(index[0]))
            with lent_generators(seed, self.device):
                unit = self.pixels.to_unit(source.batch(index).to(self.device))
                yield from self.module_(self.draw_views(unit, one, seed))

    def _notify_train_end(self, dataset: TrainingSet) -> Exception | None:
        """Call the callbacks; return an error to raise later."""
        self.notify("on_train_end", X=dataset, y=None)
        _, failed, _ = self.clock.agree(failed=self.failure is not None)
        return self._failure() if failed else None

    def notify(self, method_name: str, **cb_kwargs: Any) -> None:
        """Call the callbacks; of several processes, one whose callback ends the training tells the others."""
        try:
            super().notify(method_name, **cb_kwargs)
        except KeyboardInterrupt:
            if self.team.size == 1 or self.interrupt.is_from_user():
                raise
            self.stopped = True

    def fail(self, error: Exception) -> None:
        """End the training before the next step, in all processes, and raise an error after it is stored."""
        self.failure = error

    def _failure(self) -> Exception:
        return self.failure or OSError(
            f"Process {self.team.rank} ended its training as another process could not continue; the error "
            f"of that process tells the cause."
        )

    def _agree_to_go_on(self, interrupted: bool) -> None:
        """Agree on the time with the other processes, and end the training if one of them has to."""
        interrupted, failed, stopped = self.clock.agree(interrupted, self.failure is not None, self.stopped)
        if failed:
            raise StopTraining("failed", self._failure())
        if interrupted:
            raise StopTraining("interrupted")
        if stopped:
            raise StopTraining("callback")

    @property
    def finished(self) -> str | None:
        """Reason why the training is finished, "schedule" or "callback"; None if it can be resumed."""
        return self.end if self.end in ("schedule", "callback") else None

    def skipped(self, source: Source) -> dict[int, str]:
        """Return the reasons for unreadable images by position, including those of resumed fits."""
        return dict(sorted({**self.skipped_before, **whole_of(source).bad}.items()))

    def _all_skipped(self, source: Source) -> dict[int, str]:
        """Return `skipped` of all processes."""
        every = self.team.everyones(self.skipped(source))
        return dict(sorted((position, why) for each in every for position, why in each.items()))

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
            team=self.team,
        )

    def on_epoch_begin(self, net: NeuralNet, dataset_train: TrainingSet, **kwargs: Any) -> None:
        self._agree_to_go_on(False)
        self.module_.train()
        self.criterion_.train()
        if not self.in_mid_epoch():
            self.criterion_.before_epoch(
                self.epoch, functools.partial(self._projections, dataset_train.source)
            )
            self.criterion_.on_epoch_start(self.epoch, self._generator(LOSS_EPOCH, self.epoch))
        self.history.new_epoch()
        # skorch numbers epochs by rows of the history, from which the row of an interrupted epoch is missing.
        self.history.record("epoch", self.epoch + 1)
        # A resumed epoch keeps its meter if this has seen all of its earlier steps.
        if not self.in_mid_epoch() or self.meter.steps != self.steps_done % self.epoch_size:
            self.meter = Meter(self.loss_name, self.clock)

    def run_single_epoch(
        self, iterator: Any, training: bool, prefix: str, step_fn: Callable, **_: Any
    ) -> None:
        """Run one epoch; unlike skorch's version, do not wait for the device in each step."""
        if iterator is None:
            return
        for batch in iterator:
            self._agree_to_go_on(self.interrupt.asked_for)
            self.notify("on_batch_begin", batch=batch, training=training)
            self.history.record_batch("train_batch_size", len(batch[1]))
            step_fn(batch)
            self.clock.agree()
            self.notify("on_batch_end", batch=batch, training=training)
        self._record_epoch()
        if self.out_of_time():
            # fit_loop does not notify the callbacks of the end of an epoch that ends by an exception.
            if "train_loss" in self.history[-1]:  # not if the time was up before the first step
                self.notify("on_epoch_end", dataset_train=iterator.dataset, dataset_valid=None)
            raise StopTraining("schedule")

    def train_step(self, batch: tuple[Tensor, Tensor, Tensor | None], **_: Any) -> None:
        """Train on one batch: views, loss, gradient, optimizer step, and update of the teacher."""
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
        """Compute the gradient of one batch."""
        # Dropout and many augmentations of other libraries draw from the global generators, which are seeded
        # here by the step and restored afterward. They exist once per process, so that fits in several
        # threads wait for one another here.
        with lent_generators(derive_seed(self.seed, GLOBAL_GENERATORS, self.steps_done), self.device):
            terms = self._gradient(self._draw(*batch))
        self.meter.add(terms, self.steps_done, self.rate)

    # ------------------------------------------------------------------ parts of a step

    @property
    def _gathers(self) -> bool:
        """True if the loss is given the results of all processes, rather than those of its own images."""
        return self.team.size > 1 and not self.criterion_.mean_over_images

    def _draw(self, images: Tensor, index: Tensor, y: Tensor | None) -> Batch:
        """Draw the views of this process's images, and put together what the loss is given."""
        unit = self.pixels.to_unit(images.to(self.device, non_blocking=True))
        n, rows = len(index), self.team.rows
        seed = derive_seed(self.seed, VIEWS, self.steps_done)
        views: Sequence[Tensor] = self.draw_views(unit, self.criterion_.view_spec, seed, Rows(n, rows))
        if self._gathers:
            views, rows = SharedViews(views, n, self.team), slice(None)
        return Batch(
            views=views,
            index=index[rows].to(self.device),
            y=None if y is None else y[rows].to(self.device),
            epoch=self.epoch,
            progress=self.progress(),
            generator=self._generator(LOSS_STEP, self.steps_done),
            n_images=n,
            rows=rows,
            step=self.steps_done,
            places=self._places(unit, seed, Rows(n, rows)),
        )

    def _places(self, images: Tensor, seed: int, rows: Rows) -> list[Tensor] | None:
        """Return where the views of a seed lie in their images, if the loss asks for it."""
        views = self.criterion_.view_spec
        if not views.places:
            return None
        return self.draw_views.places(images.shape[-2:], views, seed, rows, self.device)

    def _gradient(self, batch: Batch) -> dict[str, Tensor]:
        """Compute the gradient of the loss, the mean over all processes, and return the loss's terms."""
        student, teacher = self._networks()
        mode = nullcontext() if self._gathers or self.team.size == 1 else SharedBatchNorm(self.team)
        with mode:
            terms = self._loss_terms(batch, student, teacher)
        check_loss_value(self.loss_name, terms)
        if self.team.size > 1 and not self._gathers:
            # Each loss is the mean over the process's own images, whose number may differ by one.
            assert batch.n_images is not None
            weight = len(batch.index) * self.team.size / batch.n_images
            terms = {
                name: torch.as_tensor(value, device=self.device) * weight for name, value in terms.items()
            }
        terms["loss"].backward()
        if self.micro_batches > 1:
            student.backward()
        terms = {name: torch.as_tensor(value).detach() for name, value in terms.items()}
        if self.team.size > 1:
            parameters = [parameter for _, parameter in self.get_all_learnable_params()]
            self.team.average([p.grad for p in parameters if p.grad is not None])
            if not self._gathers:
                self.team.average(list(terms.values()))
        return terms

    @torch.no_grad()
    def loss_of_others(self, images: Tensor, y: Tensor | None) -> float:
        """Return the loss of images that are not trained on, in eval mode; nothing of the training changes.

        Parameters
        ----------
        images : Tensor of shape (n, channels, height, width)
            The images. Their views are the same in every call.
        y : Tensor of shape (n, ...), or None
            Their labels, if the loss uses labels.
        """
        seed = derive_seed(self.seed, HELD_BACK)
        state = copy.deepcopy(self.criterion_.state_dict())  # a queue, a center
        unit = self.pixels.to_unit(images.to(self.device))
        # The teacher too, which otherwise stays in training mode and would update its BatchNorm.
        modules = [module for module in (self.module_, self.criterion_, self.teacher) if module is not None]
        for module in modules:
            module.eval()
        with lent_generators(seed, self.device):
            batch = Batch(
                views=self.draw_views(unit, self.criterion_.view_spec, seed),
                index=torch.arange(len(images), device=self.device),
                y=None if y is None else y.to(self.device),
                epoch=max(0, self.epoch - 1),
                progress=self.progress(),
                generator=torch.Generator(self.device).manual_seed(seed),
                step=self.steps_done,
                places=self._places(unit, seed, Rows(len(images))),
            )
            terms = self._loss_terms(batch, self.module_, self.teacher)
        self.criterion_.load_state_dict(state)
        for module in modules:
            module.train()
        return float(terms["loss"])

    def _networks(self) -> tuple[Any, Any]:
        """Return student and teacher as the loss is given them: in parts, or shared by the processes."""
        student: Any = self.module_
        teacher: Any = self.teacher
        if self.micro_batches > 1:
            student = GradientCache(student, self.micro_batches)
            teacher = teacher and InParts(teacher, self.micro_batches)
        if self.team.size > 1:
            seed = derive_seed(self.seed, GLOBAL_GENERATORS, self.steps_done, self.team.rank)
            student = SharedNetwork(student, self.team, seed, gather=self._gathers)
            teacher = teacher and SharedNetwork(teacher, self.team, seed, gather=self._gathers)
        return student, teacher

    def _loss_terms(self, batch: Batch, student: Any, teacher: Any) -> dict[str, Tensor]:
        try:
            out = self.criterion_.step(batch, student, teacher)
        except Exception as error:
            if is_out_of_memory(error) or isinstance(error, ConnectionError):
                raise
            shapes = [tuple(view.shape) for view in getattr(batch.views, "own", batch.views)]
            raise RuntimeError(
                f"The loss {self.loss_name!r} failed in step {self.steps_done}, on views of shapes {shapes}: "
                f"{error}"
            ) from error
        return out if isinstance(out, dict) else {"loss": out}

    def _set_rate(self) -> None:
        loss, progress = self.criterion_, self.progress(0.5)
        self.rate = self.schedule.rate(progress)
        for group in self.optimizer_.param_groups:
            own = loss.rates.get(group.get("rate_of"))
            group["lr"] = self.rate if own is None else self.schedule.lr * own(progress)
            if loss.weight_decay_at is not None:
                group["weight_decay"] = group["full_weight_decay"] * loss.weight_decay_at(progress)

    def _move_teacher(self) -> None:
        if self.teacher is not None:
            momentum = momentum_at(self.criterion_, self.progress())
            self.teacher.follow(self.module_, momentum, teacher_heads(self.criterion_))

    # ------------------------------------------------------------------ progress

    @property
    def epoch(self) -> int:
        """Number of the current epoch, from 0."""
        return self.steps_done // self.epoch_size

    def in_mid_epoch(self) -> bool:
        return self.steps_done % self.epoch_size != 0

    def epochs_begun(self) -> int:
        return math.ceil(self.steps_done / self.epoch_size)

    def seconds(self) -> float:
        """Return the training time in seconds, including the fits that this one resumes."""
        return self.seconds_before + self.clock.now() - self.started

    def progress(self, steps_ahead: float = 0.0) -> float:
        """Return the fraction of the training that is completed in `steps_ahead` steps from now."""
        return self.schedule.progress((self.steps_done + steps_ahead) / self.epoch_size, self.seconds())

    def out_of_time(self) -> bool:
        """Return whether the time limit is closer to now than to the end of the next step."""
        if self.schedule.max_time is None or self.steps_done == 0:
            return False
        typical_step = self.meter.seconds_per_step()
        return self.seconds() + typical_step / 2 > self.schedule.max_time

    def _record_finished_epoch(self) -> None:
        """Record a complete epoch that was interrupted after its last step, before it was recorded."""
        if self.steps_done and not self.in_mid_epoch() and "lr" not in self.history[-1]:
            self._record_epoch()

    def _record_epoch(self) -> None:
        """Check loss and weights, and add the means of the epoch to the history."""
        if self.meter.steps == 0:  # the time limit was reached before the first step
            return
        self.meter.read()  # before the weights: an error of the loss names the step
        self._check_weights()
        row = self.history[-1]
        row["batches"] = row["batches"][-1:]  # skorch would keep 356 bytes for each batch of all epochs
        seconds = self.meter.seconds()
        self.history.record("train_loss", self.meter.mean("loss"))
        for term in self.meter.terms():
            self.history.record(term, self.meter.mean(term))
        self.history.record("lr", self.rate)
        self.history.record("dur", seconds)
        self.history.record("images_per_second", self.meter.steps * self.batch_size / seconds)

        if self.evaluation is not None:
            self._record_evaluation()
        for name in ("train_loss", "valid_loss"):
            if name in row:  # as skorch does, for callbacks that wait for the best epoch
                best = min(other.get(name, math.inf) for other in self.history)
                self.history.record(f"{name}_best", row[name] <= best)

    def _record_evaluation(self) -> None:
        """Add the results of an evaluation, or repeat those of the last one if none is due."""
        done = self.schedule.max_epochs is not None and self.steps_done >= self.max_epochs * self.epoch_size
        names = self.evaluation.names(self.criterion_)
        before = self.history[-2] if len(self.history) > 1 else {}
        repeated = {name: before[name] for name in names if name in before}
        if done or self.out_of_time() or self.evaluation.is_due(self.epoch - 1) or len(repeated) < len(names):
            values = self.team.from_first(lambda: self.evaluation(self))
        else:
            values = repeated
        for name, value in values.items():
            self.history.record(name, value)

    def _check_weights(self) -> None:
        """Check that all weights are finite, as the last loss was computed before their last update.

        Raises
        ------
        FloatingPointError
            If a weight is infinite or NaN.
        """
        floats = [value for value in self.module_.state_dict().values() if value.is_floating_point()]
        if not torch.stack([value.isfinite().all() for value in floats]).all():
            raise FloatingPointError(
                f"Weights of the network became infinite or not a number by step {self.steps_done - 1}, at "
                f"lr {self.rate:.3g} with weight_decay={self.weight_decay:.3g}. {REMEDY}"
            )

    def _generator(self, purpose: int, number: int) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(derive_seed(self.seed, purpose, number))

    # ------------------------------------------------------------------ saving and resuming

    def training_state(self) -> dict:
        """Return everything needed to resume the training: tensors, numbers, and containers of them."""
        return {
            "student": self.module_.state_dict(),
            "teacher": None if self.teacher is None else self.teacher.state_dict(),
            "loss": self.criterion_.state_dict(),
            "optimizer": self.optimizer_.state_dict(),
            "steps_done": self.steps_done,
            "epoch_size": self.epoch_size,
            "seconds": self.seconds(),
            "seed": self.seed,
            "rate": self.rate,
            "meter": self.meter.state() if self.in_mid_epoch() else None,
        }

    def resume(self, earlier: dict[str, Any]) -> SSLNet:
        """Restore the state of an earlier training.

        Parameters
        ----------
        earlier : dict
            "training" (see `training_state`), "history" (rows), "finished" ("schedule", "callback" or None)
            and "bad" (reasons for unreadable images by position).

        Returns
        -------
        SSLNet
            The net itself.

        Raises
        ------
        ValueError
            If the state belongs to another optimizer.
        """
        self.end, self.skipped_before = earlier["finished"], earlier["bad"]
        state = earlier["training"]
        # Optimizers are recognized by the names of their settings, as state dicts contain no class name.
        setting_names = [
            set(optimizer["param_groups"][0])
            for optimizer in (state["optimizer"], self.optimizer_.state_dict())
        ]
        if setting_names[0] != setting_names[1]:
            raise ValueError("The state belongs to another optimizer.")
        load_plain_state(self.module_, state["student"])
        load_plain_state(self.criterion_, state["loss"])
        self.optimizer_.load_state_dict(state["optimizer"])
        _restore_memory_format(self.optimizer_)
        if self.teacher is not None:
            load_plain_state(self.teacher, state["teacher"] or {})
        self.steps_done = state["steps_done"]
        self.earlier_epoch_size = state.get("epoch_size")
        self.seconds_before = state["seconds"]
        self.rate = state["rate"]
        if state["meter"] is not None:
            self.meter.load_state(state["meter"])
        self.history_.extend({**row, "batches": []} for row in earlier["history"])
        return self


def _restore_memory_format(optimizer: torch.optim.Optimizer) -> None:
    """Restore each optimizer state to its parameter's memory format, which fused optimizers require."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter).copy_(value)


def check_loss_value(name: str, terms: dict[str, Tensor]) -> None:
    """Check that a loss is a single differentiable number, and that each term is a single number.

    Raises
    ------
    ValueError
        If it is not.
    """
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
