"""Process-wide settings of torch and global random generators: replaced during a fit, then restored."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor


@contextmanager
def own_settings() -> Iterator[None]:
    """Context manager with torch's initial default dtype and device, autocast state and gradient mode.

    The default dtype is a setting of the whole process, the others are settings of the thread; all are
    restored at the end.
    """
    dtype = torch.get_default_dtype()
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.empty(0).device.type != "cpu":  # only if needed: it slows every operation down
            stack.enter_context(torch.device("cpu"))
        if dtype != torch.float32:
            stack.callback(torch.set_default_dtype, dtype)
            torch.set_default_dtype(torch.float32)
        yield


# --- Global generators, the only ones that dropout and most augmentation functions can use ------------------


def seed_layers(seed: int, device: torch.device) -> None:
    """Seed the generators that layers on this device use.

    `torch.manual_seed` would seed all kinds of devices, and queue the call for those that are not available.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


def rng_state(device: torch.device) -> tuple[Tensor, ...]:
    """Return the state of torch's generators that layers on this device use."""
    cpu = torch.default_generator.get_state()
    return (cpu, torch.cuda.get_rng_state(device)) if device.type == "cuda" else (cpu,)


def set_rng_state(state: tuple[Tensor, ...], device: torch.device) -> None:
    """Restore a state returned by `rng_state`."""
    torch.default_generator.set_state(state[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state[1], device)


# Held while `lent_generators` seeds the global generators, which the whole process shares. Reentrant, as
# third-party code that runs meanwhile may itself fit or load an embedder.
_global_generators = threading.RLock()


@contextmanager
def lent_generators(seed: int, device: torch.device) -> Iterator[None]:
    """Context manager that seeds the global generators of torch, numpy and Python, and restores them.

    For third-party code that uses no other generators. Threads take turns: one that drew random numbers in
    between would change those of another.
    """
    with _global_generators:
        torch_state, numpy_state, python_state = rng_state(device), np.random.get_state(), random.getstate()
        try:
            seed_layers(seed, device)
            np.random.seed(seed % 2**32)  # numpy's global generator accepts 32 bits only
            random.seed(seed)
            yield
        finally:
            set_rng_state(torch_state, device)
            np.random.set_state(numpy_state)
            random.setstate(python_state)
