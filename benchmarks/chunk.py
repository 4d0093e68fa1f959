"""How many images should go through the network together in `transform`?

    python benchmarks/chunk.py

One image costs a whole chunk, as chunks are padded to one size; many images are faster in larger ones. Prints
images/s for 512 images and milliseconds for one, for each chunk size; medians of --repeats, interleaved.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from sklearn_ssl import SSLImageEmbedder, embedder

CHUNKS = (16, 32, 64, 128, 256)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", type=int, default=[8, 32, 96])
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    print(f"{'size':>5}{'chunk':>7}{'images/s':>11}{'one image':>14}")
    for size in args.sizes:
        X = np.random.default_rng(0).integers(0, 255, (512, size, size, 3), dtype=np.uint8)
        fitted = SSLImageEmbedder(max_epochs=1, random_state=0, batch_size=16).fit(X[:16])
        times = {chunk: [measure(fitted, X, chunk) for _ in range(args.repeats)] for chunk in CHUNKS}
        for chunk, pairs in times.items():
            many, one = np.median(pairs, axis=0)
            print(f"{size:5}{chunk:7}{512 / many:11.0f}{1000 * one:11.0f} ms", flush=True)


def measure(fitted: SSLImageEmbedder, X: np.ndarray, chunk: int) -> tuple[float, float]:
    """Seconds for all images, and for one."""
    embedder.CHUNK = chunk
    fitted.transform(X[:1])
    started = time.perf_counter()
    fitted.transform(X)
    between = time.perf_counter()
    fitted.transform(X[:1])
    return between - started, time.perf_counter() - between


if __name__ == "__main__":
    main()
