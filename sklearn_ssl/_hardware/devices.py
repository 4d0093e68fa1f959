"""Where to compute, and at what precision."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from sklearn_ssl._checks import shortened


def resolve_device(device: Any) -> torch.device:
    """The device meant by a `device` parameter.

    Parameters
    ----------
    device : "auto", str or torch.device
        "auto": CUDA where there is one, else the CPU.

    Raises
    ------
    ValueError
        torch does not know the device, or the machine does not have it.
    """
    if isinstance(device, str) and device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=device).cpu()  # "meta" makes tensors that hold nothing
        return torch.device(device)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError, ValueError) as error:
        there = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        raise ValueError(
            f"device={device!r} is not there: {str(error).splitlines()[0]} This machine has {there}; "
            f"device='auto' takes the best of them."
        ) from error


def resolve_precision(precision: str, device: torch.device) -> str:
    """ "bf16" or "float32"; "auto" takes bf16 where the device is fast in it.

    That is CUDA from compute capability 8 on, and CPUs with AMX or AVX512-BF16 instructions.

    Raises
    ------
    ValueError
        No such precision, or a GPU without bf16.
    """
    if not isinstance(precision, str) or precision not in ("auto", "bf16", "bfloat16", "float32"):
        raise ValueError(f"precision={shortened(precision)}: give 'auto', 'bf16' or 'float32'.")
    fast = is_fast_in_bf16(device)
    if precision == "auto":
        return "bf16" if fast else "float32"
    if precision == "float32":
        return precision
    if not fast and device.type == "cuda":
        raise ValueError(
            f"precision={precision!r}: {device} has no arithmetic for it (CUDA: from compute capability 8 "
            f"on). Set precision='auto', which takes float32 here."
        )
    if not fast and device.type == "cpu":
        warnings.warn(
            f"precision={precision!r}: this CPU has no instructions for it (AMX or AVX512-BF16) and is "
            f"slower in it than in float32. Set precision='auto', which takes the faster one.",
            stacklevel=2,
        )
    return "bf16"


def is_fast_in_bf16(device: torch.device) -> bool:
    """Whether the device has instructions for bf16."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return False


def resolve_compile(compile: bool, device: torch.device) -> bool:
    """Whether to compile: as asked, unless `torch.compile` does not work here, which is a warning."""
    if not compile:
        return False
    problem = _compiling_fails(device.type)
    if problem:
        warnings.warn(
            f"compile=True, but torch.compile does not work here ({problem}): going on without it. It needs "
            f"a C++ compiler (Linux: g++, macOS: Xcode's command line tools, Windows: Visual Studio's build "
            f"tools), and on a GPU triton.",
            stacklevel=2,
        )
    return problem is None


@functools.cache
def _compiling_fails(device_type: str) -> str | None:
    """What a small function's compilation says; None if it works."""
    try:
        torch.compile(lambda x: (x + 1).sin(), dynamic=False)(torch.zeros(2, device=device_type))
    except Exception as error:  # of torch, triton, the compiler, the file system
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
    return None


@contextmanager
def fast_float32(device: torch.device) -> Iterator[None]:
    """While open, float32 products on CUDA may use TF32: 10 bits of mantissa, as convolutions do already."""
    if device.type != "cuda":
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def memory_advice(batch_size: int, micro_batches: int) -> Iterator[None]:
    """Say what to do where a batch does not fit into the device's memory.

    Raises
    ------
    MemoryError
    """
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise MemoryError(
            f"A step on batch_size={batch_size} images, micro_batches={micro_batches}, does not fit into "
            f"memory. Set micro_batches={2 * micro_batches}, to take the batch through the network in more "
            f"parts, or a smaller batch_size. torch says: {str(error).splitlines()[0]}"
        ) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch failed to allocate memory, on a GPU or on the CPU."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
