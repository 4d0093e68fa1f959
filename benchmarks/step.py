"""Effect of memory kept between steps and of convolutions as products on a training step on CPUs.

    python benchmarks/step.py

Trains a ResNet-18 with each combination in turn, --repeats times, and prints the medians of images/s (an
image is seen as two views) and page faults per step.
"""

from __future__ import annotations

import argparse
import os
import resource

import numpy as np
from side_by_side import machine
from skorch.callbacks import Callback

from sklearn_ssl import SSLImageEmbedder
from sklearn_ssl._hardware import convolution

CASES = {"neither": ("0", False), "memory": ("1", False), "products": ("0", True), "both": ("1", True)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", type=int, default=[8, 16, 32])
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    print(machine(), "\n")
    print(f"{'size':>5} {'case':10}{'images/s':>10}{'faults per step':>17}")
    for size in args.sizes:
        rows: dict[str, list] = {case: [] for case in CASES}
        for _ in range(args.repeats):
            for case, settings in CASES.items():
                rows[case].append(measure(size, args.steps, *settings))
        for case, values in rows.items():
            speed, faults = np.median(values, axis=0)
            print(f"{size:5} {case:10}{speed:10.1f}{faults:17,.0f}", flush=True)


def measure(size: int, steps: int, keep: str, products: bool) -> tuple[float, float]:
    """Return images/s and page faults per step of the last epoch."""
    os.environ["SKLEARN_SSL_KEEP_MEMORY"] = keep
    limits = dict(convolution.LARGEST_MAP)
    if not products:
        convolution.LARGEST_MAP.clear()
    images = np.random.default_rng(0).integers(0, 255, (128 * steps, size, size, 3), dtype=np.uint8)
    embedder = SSLImageEmbedder(
        backbone="resnet18",
        max_epochs=2,
        batch_size=128,
        backbone__stem="3x3",
        callbacks=[Faults()],
        random_state=0,
    )
    embedder.fit(images)
    convolution.LARGEST_MAP.update(limits)
    return embedder.history_[-1]["images_per_second"], Faults.of_last_epoch / steps


class Faults(Callback):
    """Callback that counts the page faults of an epoch."""

    of_last_epoch = 0

    def on_epoch_begin(self, net, **kwargs):
        self.before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt

    def on_epoch_end(self, net, **kwargs):
        Faults.of_last_epoch = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - self.before


if __name__ == "__main__":
    main()
