"""Speed of `transform` by chunk size, the number of images that pass through the network together.

    python benchmarks/chunk.py

A single image takes the time of a whole chunk, as chunks are padded to one size; many images are faster in
larger chunks. Prints images/s of ResNet-18 for 512 images and milliseconds for one, for each chunk size;
medians of --repeats, interleaved. The size closest to that of
`sklearn_ssl._networks.inference.chunk_size` is marked.
"""

from __future__ import annotations

import argparse
import time
from unittest import mock

import numpy as np
from side_by_side import machine

from sklearn_ssl import SSLImageEmbedder, _transform
from sklearn_ssl._networks.inference import chunk_size

CHUNKS = (8, 16, 32, 64, 128, 256)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", type=int, default=[8, 32, 96])
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    print(machine())
    print(f"{'size':>5}{'chunk':>7}{'images/s':>11}{'one image':>14}")
    for size in args.sizes:
        X = np.random.default_rng(0).integers(0, 255, (args.images, size, size, 3), dtype=np.uint8)
        fitted = SSLImageEmbedder(backbone="resnet18", max_epochs=1, random_state=0, batch_size=16).fit(
            X[:16]
        )
        times: dict[int, list] = {chunk: [] for chunk in CHUNKS}
        for _ in range(args.repeats):
            for chunk, pairs in times.items():
                pairs.append(measure(fitted, X, chunk))
        chosen = chunk_size((size, size), fitted.device_)
        for chunk, pairs in times.items():
            many, one = np.median(pairs, axis=0)
            mark = "  <-" if chunk == min(CHUNKS, key=lambda c: abs(c - chosen)) else ""
            print(f"{size:5}{chunk:7}{len(X) / many:11.0f}{1000 * one:11.0f} ms{mark}", flush=True)


def measure(fitted: SSLImageEmbedder, X: np.ndarray, chunk: int) -> tuple[float, float]:
    """Return the seconds for all images, and for one."""
    with mock.patch.object(_transform, "chunk_size", return_value=chunk):
        fitted.transform(X[:1])
        started = time.perf_counter()
        fitted.transform(X)
        between = time.perf_counter()
        fitted.transform(X[:1])
        return between - started, time.perf_counter() - between


if __name__ == "__main__":
    main()
