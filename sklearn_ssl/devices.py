"""Where to compute, and at what precision."""

from __future__ import annotations

from typing import Any

import torch


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
        torch.empty(1, device=device)
        return torch.device(device)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        there = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        raise ValueError(
            f"device={device!r} is not there: {str(error).splitlines()[0]} This machine has {there}; "
            f"device='auto' takes the best of them."
        ) from error


def resolve_precision(precision: str, device: torch.device) -> str:
    """ "bf16" or "float32"; "auto" takes bf16 where the device is fast in it.

    That is CUDA from compute capability 8 on, and CPUs with AMX or AVX512-BF16 instructions.
    """
    if precision == "auto":
        return "bf16" if _is_fast_in_bf16(device) else "float32"
    if precision not in ("bf16", "float32"):
        raise ValueError(f"precision={precision!r}: give 'auto', 'bf16' or 'float32'.")
    return precision


def _is_fast_in_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return False
