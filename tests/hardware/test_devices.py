"""Precision, compilation and memory on a device, and advice where a setting is not possible."""

import contextlib
import multiprocessing
import os
import random
import subprocess
import sys

import numpy as np
import pytest
import torch

from sklearn_ssl._hardware import devices
from sklearn_ssl._hardware.ambient import lent_generators
from sklearn_ssl._hardware.devices import (
    fast_float32,
    local_gpu,
    local_threads,
    memory_advice,
    resolve_compile,
    resolve_precision,
)

CPU = torch.device("cpu")


@pytest.fixture
def slow_in_bf16(monkeypatch):
    monkeypatch.setattr(devices, "is_fast_in_bf16", lambda device: False)


@pytest.fixture
def fast_in_bf16(monkeypatch):
    monkeypatch.setattr(devices, "is_fast_in_bf16", lambda device: True)


# ------------------------------------------------------------------ precision


def test_auto_takes_bf16_where_the_device_is_fast_in_it(fast_in_bf16):
    assert resolve_precision("auto", CPU) == "bf16"
    assert resolve_precision("float32", CPU) == "float32"


def test_auto_takes_float32_elsewhere(slow_in_bf16):
    assert resolve_precision("auto", CPU) == "float32"


@pytest.mark.parametrize("name", ["bf16", "bfloat16"])
def test_torchs_name_of_bf16_is_understood(name, fast_in_bf16):
    assert resolve_precision(name, CPU) == "bf16"


def test_bf16_on_a_slow_cpu_is_a_warning(slow_in_bf16):
    with pytest.warns(UserWarning, match="bfloat16") as caught:
        assert resolve_precision("bfloat16", CPU) == "bf16"
    assert str(caught[0].message) == (
        "precision='bfloat16': this CPU has no instructions for it (AMX or AVX512-BF16) and is slower in it "
        "than in float32. Set precision='auto', which takes the faster one."
    )


def test_bf16_on_an_old_gpu_is_an_error(slow_in_bf16):
    with pytest.raises(ValueError) as error:
        resolve_precision("bf16", torch.device("cuda:0"))
    assert str(error.value) == (
        "precision='bf16': cuda:0 has no arithmetic for it (CUDA: from compute capability 8 on). Set "
        "precision='auto', which takes float32 here."
    )


@pytest.mark.parametrize(
    ("gpus", "selected", "process", "gpu"),
    [
        (4, 0, "MainProcess", 0),
        (4, 0, "LokyProcess-3", 2),
        (4, 0, "LokyProcess-6", 1),  # more workers than GPUs
        (4, 2, "LokyProcess-1", 2),  # selected by a launcher
        (1, 0, "LokyProcess-2", 0),
    ],
)
def test_workers_of_a_search_are_spread_over_the_gpus(monkeypatch, gpus, selected, process, gpu):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: selected)
    monkeypatch.setattr(multiprocessing.current_process(), "name", process)
    assert local_gpu() == gpu


def test_members_of_a_group_have_the_gpu_of_their_local_rank(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 13)
    monkeypatch.setenv("LOCAL_RANK", "5")
    assert local_gpu() == 5
    monkeypatch.delenv("LOCAL_RANK")
    assert local_gpu() == 13 % 8


def test_processes_of_a_launcher_share_the_processors_for_reading(monkeypatch):
    monkeypatch.setattr(devices, "cpu_count", lambda: 16)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)  # as torchrun sets it
    assert local_threads() == 1
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert local_threads() == 4
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "32")
    assert local_threads() == 1


def test_tf32_is_for_cuda_alone():
    before = torch.get_float32_matmul_precision()
    with fast_float32(CPU):
        assert torch.get_float32_matmul_precision() == before
    with fast_float32(torch.device("cuda")):
        assert torch.get_float32_matmul_precision() == "high"
    assert torch.get_float32_matmul_precision() == before


# ------------------------------------------------------------------ memory


def test_too_large_a_batch_is_told_what_to_do():
    with pytest.raises(MemoryError) as error, memory_advice(batch_size=512, micro_batches=2):
        torch.empty(10**15)
    assert str(error.value).startswith(
        "A step on batch_size=512 images, micro_batches=2, does not fit into memory. Set micro_batches=4, "
        "to take the batch through the network in more parts, or a smaller batch_size. torch says: "
    )


def test_a_gpus_lack_of_memory_is_told_the_same():
    with (
        pytest.raises(MemoryError, match="Set micro_batches=2"),
        memory_advice(batch_size=512, micro_batches=1),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match=r"^no such luck$"), memory_advice(batch_size=8, micro_batches=1):
        raise RuntimeError("no such luck")


def test_a_fit_that_runs_out_of_memory_says_so(embedder, images):
    def greedy(z1, z2):
        return (z1 * z2).sum() + torch.empty(10**15).sum()

    with pytest.raises(MemoryError, match="batch_size=8 images, micro_batches=1, does"):
        embedder(greedy).fit(images)


# ------------------------------------------------------------------ compile


def test_not_asked_for_means_not_compiled(embedder, images):
    assert embedder().fit(images).compile_ is False


@pytest.mark.usefixtures("compiler")
def test_a_compiled_fit_is_the_same_fit_faster(embedder, images):
    # plain SGD: Adam's first steps have the size of the rate, however small the gradient
    settings = {"precision": "float32", "max_epochs": 3, "optimizer": "sgd", "lr": 0.1}
    compiled, plain = (embedder(compile=compile, **settings).fit(images) for compile in (True, False))
    assert compiled.compile_ is True
    assert compiled.encoder_.state_dict().keys() == plain.encoder_.state_dict().keys()
    np.testing.assert_allclose(compiled.transform(images), plain.transform(images), rtol=1e-3, atol=1e-4)
    assert compiled.encoder_.backbone._compiled_call_impl is None  # what is left is a plain module


WITHOUT_COMPILER = """
import warnings
import torch
from sklearn_ssl._hardware.devices import resolve_compile

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    print(resolve_compile(True, torch.device("cpu")))
    print([str(each.message) for each in caught if each.category is UserWarning][-1])
"""


def test_without_a_compiler_the_fit_goes_on_with_a_warning(tmp_path):
    environment = {**os.environ, "CXX": "no-such-compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    run = [sys.executable, "-c", WITHOUT_COMPILER]
    answer = subprocess.run(run, env=environment, capture_output=True, text=True, check=True).stdout
    compiled, message = answer.splitlines()
    assert compiled == "False"
    assert message.startswith("compile=True, but torch.compile does not work here (")
    assert "continuing without it. It needs a C++ compiler (Linux: g++, " in message


def test_nothing_is_tried_where_nothing_is_asked(monkeypatch):
    tried = []
    monkeypatch.setattr(torch, "compile", lambda *args, **kwargs: tried.append(args))
    assert resolve_compile(False, torch.device("meta")) is False  # a device that no test has tried before
    assert not tried


# ------------------------------------------------------------------ global generators


def draw_from_all():
    return torch.rand(1).item(), np.random.rand(), np.random.normal(), random.random()


def test_lent_generators_repeat_by_the_seed():
    with lent_generators(2**63 + 1, CPU):
        first = draw_from_all()
    with lent_generators(2**63 + 1, CPU):
        assert draw_from_all() == first
    with lent_generators(7, CPU):
        assert not set(draw_from_all()) & set(first)


def test_lent_generators_leave_the_process_where_it_was():
    draw_from_all()  # numpy keeps the second of two normal numbers
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    expected = draw_from_all()
    torch.set_rng_state(states[0])
    np.random.set_state(states[1])
    random.setstate(states[2])
    with contextlib.suppress(ZeroDivisionError), lent_generators(0, CPU):
        draw_from_all()
        raise ZeroDivisionError
    assert draw_from_all() == expected
