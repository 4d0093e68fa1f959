"""Side effects of a fit on the process: the cost of temporary arrays before and after it.

    python benchmarks/host.py

In fresh processes, times sums and products of numpy and torch with temporaries of 0.1 to 32 MiB, then calls
`fit`, `transform`, or either interrupted by Ctrl-C, and times them again. The control "nothing" calls neither
between the two measurements. Prints, for each size, the ratio of the time after to the time before (median of
--repeats processes), and the page faults per operation before and after.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from side_by_side import machine

MEBIBYTES = (0.1, 0.15, 0.5, 0.75, 2.0, 8.0, 16.0, 32.0)
CASES = ("nothing", "fit", "transform", "fit, Ctrl-C", "transform, Ctrl-C")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--child", choices=CASES, help=argparse.SUPPRESS)  # the measured process
    args = parser.parse_args()
    if args.child:
        print(json.dumps(before_and_after(args.child)))
        return
    print(machine(), "\n")
    runs: dict[str, list] = {case: [] for case in args.cases}
    for _ in range(args.repeats):
        for case in args.cases:
            command = [sys.executable, __file__, "--child", case]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            runs[case].append(json.loads(done.stdout.splitlines()[-1]))
    print("time after / time before, and page faults per operation before -> after")
    print(f"{'MiB':>12} " + "".join(f"{case:>26}" for case in args.cases))
    for row, (library, size) in enumerate((library, size) for library in ADD for size in MEBIBYTES):
        cells = (cell([run[row] for run in runs[case]]) for case in args.cases)
        print(f"{library:>6} {size:5} " + "".join(f"{text:>26}" for text in cells), flush=True)


def cell(measured: list) -> str:
    """Format the median ratio of times, and the median page faults."""
    before, after, faults_before, faults_after = np.array(measured).T
    faults = f"({np.median(faults_before):,.0f} -> {np.median(faults_after):,.0f})"
    return f"{np.median(after / before):.2f} {faults}"


def before_and_after(case: str) -> list[tuple[float, float, float, float]]:
    """Return (seconds before, seconds after, faults before, faults after) for each library and size."""
    embedder, images = prepared()
    before = measured()
    act(case, embedder, images)
    after = measured()
    return [(b[0], a[0], b[1], a[1]) for b, a in zip(before, after, strict=True)]


def prepared() -> tuple:
    """Return an unfitted embedder, and images whose activations take tens of MiB."""
    from sklearn_ssl import SSLImageEmbedder

    images = np.random.default_rng(0).integers(0, 256, (256, 32, 32, 3), dtype=np.uint8)
    return SSLImageEmbedder(backbone="resnet18", max_epochs=2, batch_size=128, random_state=0), images


def act(case: str, embedder, images: np.ndarray) -> None:
    call, _, interrupt = case.partition(", ")
    if call == "nothing":
        return
    if call == "transform":
        # Train in another process: side effects of a fit must not hide those of a transform.
        embedder = fitted_elsewhere()
        images = np.concatenate([images] * 4)
    with contextlib.suppress(KeyboardInterrupt), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if interrupt:
            threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
        embedder.fit(images) if call == "fit" else embedder.transform(images)


def fitted_elsewhere():
    """Return an embedder that was fitted in another process."""
    import pickle

    program = (
        "import pickle, sys, host; embedder, images = host.prepared();"
        "embedder.set_params(max_epochs=1).fit(images[:128]);"
        "sys.stdout.buffer.write(pickle.dumps(embedder))"
    )
    folder = os.path.dirname(os.path.abspath(__file__))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, cwd=folder)
    return pickle.loads(done.stdout)


ADD: dict[str, Callable] = {
    "numpy": lambda n: np.ones(n, np.float32),
    "torch": lambda n: torch.ones(n),
}


def measured() -> list[tuple[float, float]]:
    """Return (seconds, page faults) of an addition and a product, for each library and size.

    Meanwhile, other arrays fill the holes of the heap, so that temporaries come from its end or from the
    kernel, as in a program with much other data in memory.
    """
    held = [np.empty(int(size * 2**20), np.uint8) for size in MEBIBYTES[::-1] for _ in range(int(64 / size))]
    costs = [
        cost(array(int(size * 2**20 / 4)), rounds=max(20, int(400 / size)))
        for array in ADD.values()
        for size in MEBIBYTES
    ]
    del held
    return costs


def cost(a, rounds: int) -> tuple[float, float]:
    """Return the median time of a round, and its page faults."""
    for _ in range(5):
        a + a, a * a
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        a + a, a * a
        times.append(time.perf_counter() - began)
    return float(np.median(times)), (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults) / rounds


if __name__ == "__main__":
    main()
