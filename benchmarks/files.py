"""Images from files: speed of reading, and memory of a fit on many files.

    python benchmarks/files.py
    python benchmarks/files.py --many 50000

First, JPEGs of 500 x 375 pixels, resized to --size: images/s of our source. The baseline is a plain loop that
opens, converts and resizes them with Pillow in as many threads. Interleaved, medians of --repeats.

With --many: four fits on a folder of that many JPEGs (160 x 120 pixels), each in a separate process, with a
backbone so small that reading dominates. Prints the seconds of each of three epochs and of `transform`, and
the peak memory of the process: with images kept in memory; with a memory limit of 1 MB, so that each epoch
decodes them again; and with this limit and a cache on disk, first empty, then filled.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from side_by_side import alternate, machine, show
from torch import nn

from sklearn_ssl import SSLImageEmbedder, list_images
from sklearn_ssl._images.collections import ImageFiles
from sklearn_ssl._images.lazy import LazySource
from sklearn_ssl._images.reader import Reader


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=500)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--many", type=int)
    parser.add_argument("--run", type=json.loads, help=argparse.SUPPRESS)  # one fit, in a separate process
    args = parser.parse_args()
    if args.run:
        print(json.dumps(fit_and_embed(**args.run)))
        return
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        if args.many:
            write_jpegs(Path(folder) / "images", args.many, (160, 120))
            compare_fits(Path(folder))
        else:
            write_jpegs(Path(folder), args.files, (500, 375))
            compare_reading(list_images(folder), args.size, args.repeats)


def write_jpegs(folder: Path, n: int, size: tuple[int, int]) -> None:
    """Write smooth random pictures with some noise, whose files are as large as those of photographs."""
    rng = np.random.default_rng(0)
    for i in range(n):
        below = folder / f"{i // 1000:03}"
        below.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        picture = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC)).astype(np.int16)
        noisy = picture + rng.integers(-12, 13, (*picture.shape[:2], 1))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(below / f"{i:06}.jpg", quality=85)


# ------------------------------------------------------------------ reading


def compare_reading(paths: list[Path], size: int, repeats: int) -> None:
    workers = torch.get_num_threads()
    source = LazySource(
        ImageFiles(paths),
        (size, size),
        3,
        torch.uint8,
        Reader(workers=workers, memory_limit=1),
        training=True,
    )
    batches = torch.arange(len(paths)).split(64)
    cases = {
        "ours": lambda: [source.batch(batch) for batch in batches],
        "Pillow in a loop": lambda: [plain(paths, batch.tolist(), size, workers) for batch in batches],
    }
    speeds = alternate({name: partial(speed, case, len(paths)) for name, case in cases.items()}, repeats)
    print(f"\n{len(paths)} JPEGs of 500 x 375 to {size} x {size}, {workers} threads")
    show(speeds, "images/s", reference="Pillow in a loop")


def plain(paths: list[Path], positions: list[int], size: int, workers: int) -> np.ndarray:
    with ThreadPoolExecutor(workers) as threads:
        return np.stack(list(threads.map(lambda p: open_and_resize(paths[p], size), positions)))


def open_and_resize(path: Path, size: int) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.BILINEAR))


def speed(case, n: int) -> float:
    began = time.perf_counter()
    case()
    return n / (time.perf_counter() - began)


# ------------------------------------------------------------------ many files


def compare_fits(folder: Path) -> None:
    images = str(folder / "images")
    cases = {
        "in memory": {},
        "decoded in each epoch": {"reader__memory_limit": 2**20},
        "cache, empty": {"reader__memory_limit": 2**20, "reader__cache": str(folder / "cache")},
        "cache, filled": {"reader__memory_limit": 2**20, "reader__cache": str(folder / "cache")},
    }
    print(f"\n{'':24}{'epochs, s':>28}{'transform, s':>14}{'peak, MB':>10}")
    for name, params in cases.items():
        run = json.dumps({"folder": images, "params": params})
        command = [sys.executable, __file__, "--run", run]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found = json.loads(done.stdout.splitlines()[-1])
        epochs = ", ".join(f"{seconds:.1f}" for seconds in found["epochs"])
        print(f"{name:24}{epochs:>28}{found['transform']:14.1f}{found['peak'] / 2**20:10,.0f}", flush=True)


class Small(nn.Sequential):
    """Tiny backbone, whose time is negligible: images of any size -> 16 features."""

    def __init__(self, in_channels: int):
        convolution = nn.Conv2d(in_channels, 16, 3, stride=4)
        super().__init__(convolution, nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def fit_and_embed(folder: str, params: dict) -> dict:
    warnings.simplefilter("ignore")  # about embeddings that are almost equal
    embedder = SSLImageEmbedder(
        backbone=Small, augment="none", image_size=32, max_epochs=3, random_state=0, **params
    ).fit(folder)
    began = time.perf_counter()
    embedder.transform(folder)
    return {
        "epochs": [row["dur"] for row in embedder.history_],
        "transform": time.perf_counter() - began,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


if __name__ == "__main__":
    main()
