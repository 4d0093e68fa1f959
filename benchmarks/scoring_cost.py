"""Time of each scorer on 2,000 images, and of a fit with held-back images against one without.

    python benchmarks/scoring_cost.py
    python benchmarks/scoring_cost.py --data cifar10_10k.npz --images 2000 --epochs 5

Images are random (32 x 32 x 3) unless --data names an .npz file. The fits differ in `eval_set` only: 500
images with labels, the default metrics. They are run in turn; the ratio of their medians is printed. The
share of the time that the evaluations took is measured within the fit, too.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings

import numpy as np
from image_sets import read_set
from side_by_side import machine

import sklearn_ssl._evaluation
from sklearn_ssl import SSLImageEmbedder, available_scorers, get_scorer


def main() -> None:
    args = arguments()
    print(machine(), flush=True)
    images, y = read_images(args)
    print(f"{len(images)} images of {images.shape[1]} x {images.shape[2]} pixels\n")
    times = fits(images, y, args)
    print("\n| fit | seconds, median | range |\n|---|---|---|")
    for name, values in times.items():
        print(f"| {name} | {statistics.median(values):.1f} | {min(values):.1f} to {max(values):.1f} |")
    share = 100 * statistics.median(SHARES)
    print(f"\nratio of the medians: {ratio(times):.3f}; measured within: {share:.2f} %")
    embedder = SSLImageEmbedder(backbone="resnet18", max_epochs=1, batch_size=128, random_state=0).fit(
        images[:256]
    )
    print("\n| scorer | seconds, median of 3 |\n|---|---|")
    print(f"| (transform) | {seconds(lambda: embedder.transform(images)):.1f} |", flush=True)
    for name in available_scorers():
        print(
            f"| {name} | {seconds(lambda name=name: get_scorer(name)(embedder, images, y)):.1f} |", flush=True
        )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", help='"digits" or an .npz file')
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    return parser.parse_args()


def read_images(args: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    if args.data:
        images = read_set(args.data).some(args.images, 0)
        return images.train, images.y_train
    rng = np.random.default_rng(0)
    shape = (args.images, 32, 32, 3)
    return rng.integers(0, 256, shape, dtype=np.uint8), rng.integers(0, 10, args.images)


SHARES: list[float] = []


def fits(images: np.ndarray, y: np.ndarray, args: argparse.Namespace) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {"without": [], "with 500 images": []}
    for _ in range(args.repeats):
        for name, eval_set in zip(times, (None, (images[:500], y[:500])), strict=True):
            embedder = SSLImageEmbedder(
                backbone="resnet18", max_epochs=args.epochs, batch_size=128, random_state=0
            )
            spent: list[float] = []
            restore = count_time(spent)
            began = time.monotonic()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                embedder.fit(images, eval_set=eval_set)
            times[name].append(time.monotonic() - began)
            restore()
            if spent:
                SHARES.append(sum(spent) / times[name][-1])
            print(f"{name}: {times[name][-1]:.1f} s, of which evaluations {sum(spent):.2f} s", flush=True)
    return times


def count_time(spent: list[float]):
    """Add the time of each evaluation to a list; return a function that stops that."""
    kind = sklearn_ssl._evaluation.Evaluation
    plain = kind.__call__

    def timed(self, net):
        began = time.monotonic()
        values = plain(self, net)
        spent.append(time.monotonic() - began)
        return values

    kind.__call__ = timed
    return lambda: setattr(kind, "__call__", plain)


def ratio(times: dict[str, list[float]]) -> float:
    without, with_ = (statistics.median(values) for values in times.values())
    return with_ / without


def seconds(run) -> float:
    taken = []
    for _ in range(3):
        began = time.monotonic()
        run()
        taken.append(time.monotonic() - began)
    return statistics.median(taken)


if __name__ == "__main__":
    main()
