"""Settings and generators of the process: set aside or lent during a fit, and put back."""

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
    """Run as if the caller had not changed torch's default dtype and device, autocast, and gradient mode.

    The default dtype belongs to the whole process, and is put back at the end; the others to a thread.
    """
    dtype = torch.get_default_dtype()
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.empty(0).device.type != "cpu":  # seldom, and each operation under it takes longer
            stack.enter_context(torch.device("cpu"))
        if dtype != torch.float32:
            stack.callback(torch.set_default_dtype, dtype)
            torch.set_default_dtype(torch.float32)
        yield


# --- Global generators: dropout, and most functions that augment images, know no others ---------------------


def seed_layers(seed: int, device: torch.device) -> None:
    """Seed what layers on this device draw from.

    `torch.manual_seed` would seed every kind of device, and queue that for those that are not there.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


def rng_state(device: torch.device) -> tuple[Tensor, ...]:
    """Where torch's generators are that layers on this device draw from."""
    cpu = torch.default_generator.get_state()
    return (cpu, torch.cuda.get_rng_state(device)) if device.type == "cuda" else (cpu,)


def set_rng_state(state: tuple[Tensor, ...], device: torch.device) -> None:
    torch.default_generator.set_state(state[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state[1], device)


# Held while the global generators are lent: they belong to the whole process. Reentrant, as code of others
# that runs meanwhile may itself fit or load an embedder.
_global_generators = threading.RLock()


@contextmanager
def lent_generators(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the global generators of torch, numpy and Python while open, and then put them back.

    For code of others that knows no generator but these. Threads take turns: one that drew from them in
    between would change what this one draws.
    """
    with _global_generators:
        torch_state, numpy_state, python_state = rng_state(device), np.random.get_state(), random.getstate()
        try:
            seed_layers(seed, device)
            np.random.seed(seed % 2**32)
            random.seed(seed)
            yield
        finally:
            set_rng_state(torch_state, device)
            np.random.set_state(numpy_state)
            random.setstate(python_state)
