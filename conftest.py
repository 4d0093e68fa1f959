"""The machine as the tests see it, whatever its cores, its processor and the shell that runs them."""

import os
import signal

import torch


def pytest_addoption(parser):
    parser.addoption(
        "--bf16",
        choices=["present", "absent"],
        help="run as if the CPU had, or had not, instructions for bf16",
    )


def pytest_configure(config):
    # Small images are the fastest in one thread. OMP_NUM_THREADS says otherwise, also to child processes.
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))
    # A shell that runs a command in the background may have it ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    bf16 = config.getoption("bf16")
    if bf16 is not None:
        torch.cpu._is_amx_tile_supported = lambda: bf16 == "present"
        torch.cpu._is_avx512_bf16_supported = lambda: bf16 == "present"
