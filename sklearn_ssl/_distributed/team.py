"""The processes that train one model together, and the messages between them."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from sklearn_ssl._warnings import warn

T = TypeVar("T")
# Number of values from which a tensor is sent by itself, without a copy.
LARGE = 2**17
# torch 2.14 renamed the function, and warns of the old name.
_all_gather: Any = getattr(dist, "all_gather_single", None) or getattr(dist, "all_gather_into_tensor", None)


@dataclass(eq=False)
class Team:
    """The processes that train one model together; with one process, every method returns its argument.

    All processes run the same program on the same images. Of the n images of a batch, process r reads,
    augments and encodes the rows r, r + size, r + 2 size, ...; strided rather than in blocks, so that each
    has a share of every micro-batch too.

    Every method but `share` sends a message: all processes have to call the same ones in the same order, in
    no code that one of them may skip, such as a handler of errors.

    Parameters
    ----------
    rank : int
        Number of this process, from 0.
    size : int
        Number of processes.
    tensors : ProcessGroup, optional
        Group for tensors on the training device.
    words : ProcessGroup, optional
        Group for what the processes agree on, on the CPU: waiting for it never waits for a GPU.
    """

    rank: int = 0
    size: int = 1
    tensors: Any = None
    words: Any = None

    @property
    def leads(self) -> bool:
        """True for the process that writes files, and shows progress and warnings."""
        return self.rank == 0

    def connect(self, device: torch.device) -> None:
        """Open the group for tensors on the training device.

        Raises
        ------
        ValueError
            If two processes have the same GPU, or devices are of several kinds.
        """
        if self.size == 1:
            return
        is_cuda = device.type == "cuda"
        gpu = str(torch.cuda.get_device_properties(device).uuid) if is_cuda else ""
        places = self.everyones((device.type, socket.gethostname(), gpu))
        if len({kind for kind, _, _ in places}) > 1:
            raise ValueError(
                f"The processes have devices of several kinds, {[kind for kind, _, _ in places]}: set "
                f"device= to the same kind in all."
            )
        same = [rank for rank, place in enumerate(places) if place == places[self.rank]]
        if is_cuda and len(same) > 1:
            raise ValueError(
                f"Processes {same} have the same GPU, {device} of {places[self.rank][1]}: start one process "
                f"for each GPU, and leave device at 'auto'."
            )
        # On GPUs with the backend of the user's group, such as NCCL.
        self.tensors = dist.new_group() if is_cuda else self.words

    def close(self) -> None:
        """Close the groups.

        Dropping the last reference to a group of gloo closes its connections, so that other processes, which
        may still wait for a message, get an error at once.
        """
        groups = [group for group in (self.tensors, self.words) if group is not None]
        self.tensors = self.words = None
        for group in dict.fromkeys(groups):
            dist.destroy_process_group(group)

    # ------------------------------------------------------------------ rows of a batch

    @property
    def rows(self) -> slice:
        """Rows of a batch that belong to this process."""
        return slice(self.rank, None, self.size)

    def share(self, x: Tensor) -> Tensor:
        """Return this process's rows of x, (n, ...)."""
        return x if self.size == 1 else x[self.rows]

    def gather(self, own: Tensor, n: int) -> Tensor:
        """Return all n rows in their order, given each process's own; differentiable.

        Each process computes the same loss on all rows, and gradients are averaged over the processes.
        Therefore `backward` takes this process's rows of the gradient, times `size`, and sends nothing.
        """
        return own if self.size == 1 else _Gather.apply(own, n, self)

    def gather_values(self, own: Tensor, n: int) -> Tensor:
        """Return all n rows in their order, without gradient."""
        if self.size == 1:
            return own
        most = -(-n // self.size)
        padded = own.detach().contiguous()
        if len(own) < most:  # the last processes have a row less if `size` does not divide n
            padded = torch.cat([padded, padded.new_zeros(most - len(own), *own.shape[1:])])
        everyones = self.gather_equal(padded)  # (size, most, ...)
        return everyones.transpose(0, 1).flatten(0, 1)[:n]

    def gather_equal(self, own: Tensor) -> Tensor:
        """Return a contiguous tensor of each process, all of one shape, stacked: (size, *own.shape)."""
        everyones = own.new_empty(self.size, *own.shape)
        with _naming_lost_processes(self):
            _all_gather(everyones.view(-1), own.view(-1), group=self.tensors)
        return everyones

    def add_up(self, tensor: Tensor) -> None:
        """Replace a tensor by its sum over all processes."""
        with _naming_lost_processes(self):
            dist.all_reduce(tensor, group=self.tensors)

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their means over all processes: large ones in place, others in one message."""
        if self.size == 1:
            return
        ordered = [_in_memory_order(tensor) for tensor in tensors]
        large = [each for each in ordered if each.numel() >= LARGE and each.is_contiguous()]
        for each in large:
            self.add_up(each)
        others = [each for each in ordered if each.numel() < LARGE or not each.is_contiguous()]
        for dtype in dict.fromkeys(each.dtype for each in others):
            same = [each for each in others if each.dtype == dtype]
            together = torch.cat([each.flatten() for each in same])
            self.add_up(together)
            for each, part in zip(same, together.split([each.numel() for each in same]), strict=True):
                each.copy_(part.view_as(each))
        torch._foreach_div_(ordered, self.size)

    # ------------------------------------------------------------------ agreement

    def all_or_none(self, make: Callable[[], T]) -> T:
        """Return what `make` returns in this process; if it raises in any process, all raise.

        Raises
        ------
        ValueError
            If `make` raised in other processes only.
        """
        if self.size == 1:
            return make()
        made, error = None, None
        try:
            made = make()
        except Exception as raised:
            error = raised
        errors = self.everyones(None if error is None else f"{type(error).__name__}: {error}")
        if error is not None:
            raise error
        for rank, text in enumerate(errors):
            if text is not None:
                raise ValueError(f"Process {rank} of {self.size} cannot train, and so none of them: {text}")
        return cast(T, made)

    def check_same(self, identity: Any, what: str) -> None:
        """Check that all processes are about to do the same.

        Raises
        ------
        ValueError
            If `identity` differs between processes.
        """
        identities = self.everyones(identity)
        others = [rank for rank, each in enumerate(identities) if each != identities[0]]
        if others:
            raise ValueError(
                f"{self.size} processes of torch.distributed train one model together, but {what} of "
                f"processes {others} differ from those of process 0. Give all the same; to train another "
                f"model in each process, do not initialize torch.distributed."
            )

    def sums(self, *numbers: float) -> list[float]:
        """Return the sum of each number over all processes."""
        if self.size == 1:
            return list(numbers)
        sums = torch.tensor(numbers, dtype=torch.float64, device="cpu")
        with _naming_lost_processes(self):
            dist.all_reduce(sums, group=self.words)
        return sums.tolist()

    def from_first(self, make: Callable[[], T]) -> T:
        """Return what `make` returns in process 0, where alone it is called; its errors are raised in all."""
        if self.size == 1:
            return make()
        made: list[Any] = [None, None]
        if self.leads:
            try:
                made[0] = make()
            except Exception as error:
                made[1] = error
        with _naming_lost_processes(self):
            dist.broadcast_object_list(made, group=self.words)
        if made[1] is not None:
            raise made[1]
        return made[0]

    def everyones(self, thing: T) -> list[T]:
        """Return the things of all processes, in the order of their ranks."""
        if self.size == 1:
            return [thing]
        things: list[Any] = [None] * self.size
        with _naming_lost_processes(self):
            dist.all_gather_object(things, thing, group=self.words)
        return things


ALONE = Team()


class LostProcess(ConnectionError):
    """Error of a process whose partners have failed, were killed or do not answer."""


def _in_memory_order(x: Tensor) -> Tensor:
    """Return a view of a channels-last tensor whose dimensions have the order of its memory; or x itself."""
    if x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last):
        return x.permute(0, 2, 3, 1)
    return x


class _Gather(torch.autograd.Function):
    """See `Team.gather`."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, n: int, team: Team) -> Tensor:
        ctx.team = team
        return team.gather_values(own, n)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return ctx.team.share(gradient) * ctx.team.size, None, None


@contextmanager
def present_team() -> Iterator[Team]:
    """Context manager with the processes of `torch.distributed`, if it is initialized in this process.

    The groups are its own: closing them at the end, after an error too, ends the wait of the other processes
    for a message, and leaves the user's group as it was.
    """
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        _warn_if_launched_alone()
        yield ALONE
        return
    team = Team(dist.get_rank(), dist.get_world_size(), words=dist.new_group(backend="gloo"))
    try:
        yield team
    finally:
        team.close()


def _warn_if_launched_alone() -> None:
    # Children of this process inherit torchrun's variables, and are no members: they have a parent here.
    launched = "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1
    if launched and torch.multiprocessing.parent_process() is None:
        warn(
            f"torchrun started {os.environ['WORLD_SIZE']} processes, but torch.distributed is not "
            f"initialized: each of them trains a model of its own. To train one model together, call "
            f"torch.distributed.init_process_group() at the beginning of the program."
        )


@contextmanager
def _naming_lost_processes(team: Team) -> Iterator[None]:
    """Report a broken connection, or a message that does not come, as a ConnectionError."""
    try:
        yield
    except RuntimeError as error:  # gloo and NCCL raise subclasses of it, or itself
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise LostProcess(
            f"Process {team.rank} of {team.size} lost the others, which train the same model: one of them "
            f"has failed, was killed, or does not answer. The error of that process tells the cause; with "
            f"checkpoint=, the next fit continues the training. torch says: {str(error)[:200]}"
        ) from error
