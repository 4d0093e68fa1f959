"""Fits on several processes of this machine, started from one program or notebook."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from joblib import cpu_count
from joblib.externals.loky import ProcessPoolExecutor
from joblib.externals.loky.process_executor import BrokenProcessPool
from sklearn.base import BaseEstimator
from sklearn.pipeline import Pipeline
from torch import Tensor

from sklearn_ssl._checks import check_number
from sklearn_ssl._distributed.team import LostProcess
from sklearn_ssl._images.stored import InFile, in_file
from sklearn_ssl._training.interrupts import interrupt_held_back

# Seconds between two looks at the workers' output and at Ctrl-C.
POLL = 0.2
# Seconds after which a worker without work ends.
IDLE = 60
# Seconds that workers have to end by themselves once one of them has failed.
GRACE = 5.0


def fit_together(
    estimator: BaseEstimator, X: Any, y: Any = None, *, n_processes: int | str = "auto", **fit_params: Any
) -> BaseEstimator:
    """Fit an estimator on several processes of this machine, which train one model together.

    The result equals that of ``estimator.fit(X, y)`` up to rounding, with the exceptions listed in
    docs/several_devices.md: each process takes a share of the images of every batch. It is meant for several
    GPUs; on a CPU, one process with all threads is faster. Also works in a notebook. In a program that
    `torchrun` or another launcher starts, call `fit` itself, after
    ``torch.distributed.init_process_group()``.

    Parameters
    ----------
    estimator : SSLImageEmbedder or Pipeline
        Estimator to fit, in place. It is sent to the processes by value, with its callbacks, which run in
        each of them. Later steps of a pipeline are fitted in each process.
    X : images
        As in `SSLImageEmbedder.fit`. Numpy arrays and torch tensors are mapped into the memory of all
        processes rather than copied to each.
    y : array-like of shape (n_images,), default=None
        As in `SSLImageEmbedder.fit`.
    n_processes : int or "auto", default="auto"
        Number of processes, which share the processors of this machine. "auto": one for each GPU; without
        a GPU, no process is started, and `fit` runs here.
    **fit_params : dict
        Further arguments of `fit`, such as `X_unlabeled`.

    Returns
    -------
    SSLImageEmbedder or Pipeline
        The fitted estimator itself.

    Raises
    ------
    RuntimeError
        If a process was killed.
    KeyboardInterrupt
        On Ctrl-C, after the current step; the model is kept as trained so far.
    Exception
        Any error of `fit`.

    See Also
    --------
    SSLImageEmbedder.fit : Trains on several processes where `torch.distributed` is initialized.

    Examples
    --------
    >>> from sklearn_ssl import SSLImageEmbedder, fit_together
    >>> embedder = SSLImageEmbedder(loss="vicreg", verbose=1)
    >>> fit_together(embedder, images, n_processes=4)  # doctest: +SKIP
    """
    check_number("n_processes", n_processes, whole=True, at_least=1, instead=("auto",))
    if n_processes == "auto":
        n_processes = max(1, torch.cuda.device_count())
    if n_processes == 1:
        return estimator.fit(X, y, **fit_params)
    with tempfile.TemporaryDirectory(prefix="sklearn_ssl-") as folder:
        given = {"X": X, "y": y, **fit_params}
        mapped = {name: _map(value, Path(folder) / name) for name, value in given.items()}
        fitted, interrupted = run_together(_fit, int(n_processes), estimator, mapped)[0]
    _take_over(estimator, fitted)
    if interrupted:
        raise KeyboardInterrupt
    return estimator


def _fit(estimator: BaseEstimator, mapped: dict[str, Any]) -> tuple[BaseEstimator | None, bool]:
    """Fit in a worker process; the first returns the estimator, and whether it was interrupted."""
    given = {name: value() if isinstance(value, _Mapped) else value for name, value in mapped.items()}
    interrupted = False
    try:
        estimator.fit(given.pop("X"), given.pop("y"), **given)
    except KeyboardInterrupt:
        interrupted = True
    return (estimator if dist.get_rank() == 0 else None), interrupted


def _take_over(estimator: BaseEstimator, fitted: BaseEstimator) -> None:
    """Give an estimator the fitted attributes of its copy; parameters remain the user's own objects."""
    if isinstance(estimator, Pipeline):
        for (_, own), (_, other) in zip(estimator.steps, fitted.steps, strict=True):
            if isinstance(own, BaseEstimator):  # not "passthrough"
                _take_over(own, other)
    params = estimator.get_params(deep=False)
    attributes = vars(fitted) | {name: value for name, value in params.items() if name in vars(estimator)}
    for name, value in params.items():  # backbone_ is backbone, where this is not "auto"
        if f"{name}_" in attributes and attributes[f"{name}_"] is getattr(fitted, name):
            attributes[f"{name}_"] = value
    estimator.__dict__.clear()
    estimator.__dict__.update(attributes)


@dataclass(frozen=True)
class _Mapped:
    """An array or tensor in a file, which processes map into their memory: calling it returns it."""

    place: InFile
    shape: tuple[int, ...]
    dtype: np.dtype
    kind: type  # np.memmap, np.ndarray or Tensor: what was given

    def __call__(self) -> np.ndarray | Tensor:
        # Copy-on-write: torch warns of arrays that cannot be written to. Nothing writes.
        mapped = np.memmap(self.place.path, self.dtype, "c", self.place.offset, self.shape)
        if self.kind is np.memmap:
            return mapped
        # Not an np.memmap, which would be read lazily: the fit is that of an array in memory.
        tensor = torch.from_numpy(mapped)
        return tensor if self.kind is Tensor else tensor.numpy()


def _map(value: Any, path: Path) -> Any:
    """Write an array or a tensor on the CPU to a file; return anything else as it is."""
    is_tensor = isinstance(value, Tensor) and value.device.type == "cpu" and value.dtype != torch.bfloat16
    is_array = type(value) in (np.ndarray, np.memmap) and value.dtype.kind in "biuf"
    if not is_tensor and not is_array:
        return value
    array = value.numpy() if is_tensor else value
    place = in_file(array)
    kind = Tensor if is_tensor else np.ndarray if place is None else np.memmap
    if place is None or not array.flags.c_contiguous:
        np.save(path.with_suffix(".npy"), np.ascontiguousarray(array))
        array = np.load(path.with_suffix(".npy"), mmap_mode="r")
        place = in_file(array)
        assert place is not None
    return _Mapped(place, array.shape, array.dtype, kind)


def run_together(function: Callable[..., Any], n_processes: int, *args: Any) -> list[Any]:
    """Call a function in several new processes, in which `torch.distributed` is initialized.

    Processes are spawned, never forked, and functions of a notebook are sent to them by value. The standard
    error of the first, with its progress bar and warnings, is shown by this process. Ctrl-C is passed on to
    the first, which tells the others when they next agree; a second one kills them.

    Parameters
    ----------
    function : callable
        Function of `args`.
    n_processes : int
        Number of processes. They share the processors of this machine, and process r has GPU r.
    *args : object
        Arguments.

    Returns
    -------
    list
        Results, in the order of the ranks.

    Raises
    ------
    RuntimeError
        If a process was killed.
    Exception
        The first error of a process that does not only report that another one is gone.
    """
    with tempfile.TemporaryDirectory(prefix="sklearn_ssl-") as folder, interrupt_held_back() as interrupt:
        executor = ProcessPoolExecutor(n_processes, timeout=IDLE)
        threads = max(1, cpu_count() // n_processes)
        futures = [
            executor.submit(_member, rank, n_processes, folder, threads, function, args)
            for rank in range(n_processes)
        ]
        output, passed_on = _Tail(Path(folder) / "stderr-0"), False
        try:
            while wait(futures, timeout=POLL, return_when=FIRST_EXCEPTION).not_done:
                output.show()
                if interrupt.asked_for and not passed_on:
                    passed_on = _interrupt(Path(folder) / "pid-0")
                if any(future.done() and future.exception() for future in futures):
                    break
            results = _results(futures)
            executor.shutdown()
            return results
        finally:
            output.show()
            executor.shutdown(kill_workers=True)


def _member(
    rank: int, size: int, folder: str, threads: int, function: Callable[..., Any], args: Sequence[Any]
) -> Any:
    """Call the function as a member of the group."""
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)  # a Ctrl-C at the terminal reaches the parent only
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    (Path(folder) / f"pid-{rank}").write_text(str(os.getpid()))
    sys.stderr = open(Path(folder) / f"stderr-{rank}", "w", 1, encoding="utf-8")  # noqa: SIM115
    torch.set_num_threads(threads)
    os.environ |= {"LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(size)}
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # whatever the name of this machine leads to
    has_nccl = torch.cuda.is_available() and dist.is_nccl_available()
    backend = "cpu:gloo,cuda:nccl" if has_nccl else "gloo"
    dist.init_process_group(backend, init_method=f"file://{folder}/meet", rank=rank, world_size=size)
    try:
        return function(*args)
    finally:
        dist.destroy_process_group()


def _end_with_parent(parent: int) -> None:
    """End this process if the calling process has been killed."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _results(futures: Sequence[Future[Any]]) -> list[Any]:
    """Return the results, or raise the error that caused the others."""
    wait(futures, timeout=GRACE if any(future.done() and future.exception() for future in futures) else None)
    errors = [future.exception() for future in futures if future.done()]
    causes = [error for error in errors if error and not isinstance(error, LostProcess)]
    for error in [*causes, *filter(None, errors)]:
        if isinstance(error, BrokenProcessPool):
            raise RuntimeError(
                f"One of {len(futures)} worker processes was killed, by a user or, where memory is short, by "
                f"the system. The others were ended; with checkpoint=, the next fit continues the training."
            ) from error
        raise error
    return [future.result() for future in futures]


def _interrupt(pid: Path) -> bool:
    """Pass Ctrl-C on to a process; return whether it has been started already."""
    if not pid.exists() or not (text := pid.read_text()):
        return False
    os.kill(int(text), signal.SIGINT)
    return True


class _Tail:
    """Shows what a process writes to a file."""

    def __init__(self, path: Path):
        self.path = path
        self.shown = 0

    def show(self) -> None:
        if self.path.exists():
            with open(self.path, "rb") as file:  # bytes: a progress bar moves by carriage returns
                file.seek(self.shown)
                new = file.read()
            self.shown += len(new)
            sys.stderr.write(new.decode("utf-8", errors="replace"))
            sys.stderr.flush()
