"""Time of a grid search in processes and threads, and trainings saved by a pipeline's memory.

    python benchmarks/grid_search.py

Seconds of a GridSearchCV over --temperatures in a Pipeline, three folds, on scikit-learn's digits. Starting
the worker processes is part of each repeat. Two threads that each use all threads of torch may oversubscribe
the cores; in the last case, each uses one. Then the number of trainings of the embedder for a grid over
parameters of the classifier only, with and without Pipeline(memory=...).
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import joblib
import torch
from joblib.externals.loky import get_reusable_executor
from side_by_side import alternate, machine, seconds, show
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from skorch.callbacks import Callback

from sklearn_ssl import SSLImageEmbedder

C_VALUES = [0.001, 0.01, 0.1, 1.0]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--temperatures", nargs="+", type=float, default=[0.1, 0.2, 0.5, 1.0])
    parser.add_argument("--repeats", type=int, default=2)
    args = parser.parse_args()
    print(machine())
    images, labels = (each[: args.images] for each in load_digits(return_X_y=True))
    grid = {"ssl__loss__temperature": args.temperatures}
    print(
        f"\n{3 * len(args.temperatures)} trainings of {args.epochs} epochs of {args.images * 2 // 3} images"
    )

    def search(n_jobs: int) -> float:
        pipe = make_pipe(args.epochs)
        return seconds(lambda: GridSearchCV(pipe, grid, cv=3, n_jobs=n_jobs, refit=False).fit(images, labels))

    cases = {
        "one process": lambda: search(1),
        "two processes": lambda: in_new_processes(search),
        "two threads": lambda: in_threads(search, torch.get_num_threads()),
        "two threads, one torch thread each": lambda: in_threads(search, 1),
    }
    make_pipe(1).fit(images, labels)  # one-time costs of the process do not count for the first case
    show(alternate(cases, args.repeats), "s", reference="one process")

    print(f"\na grid of {len(C_VALUES)} values of the classifier's C, three folds, and a fit on all images")
    with tempfile.TemporaryDirectory() as cache:
        for name, memory in {"without memory": None, "with memory": cache}.items():
            print(f"{name}: the embedder was trained {trainings(images, labels, memory)} times", flush=True)


def make_pipe(epochs: int, memory: str | None = None) -> Pipeline:
    embedder = SSLImageEmbedder(
        image_shape=(8, 8), max_epochs=epochs, batch_size=64, random_state=0, callbacks=[Trainings()]
    )
    steps = [("ssl", embedder), ("scale", StandardScaler()), ("clf", LogisticRegression(max_iter=2000))]
    return Pipeline(steps, memory=memory)


def in_new_processes(search) -> float:
    get_reusable_executor().shutdown(wait=True)
    return search(2)


def in_threads(search, torch_threads: int) -> float:
    with joblib.parallel_config(backend="threading"), torch_threads_set(torch_threads):
        return search(2)


@contextmanager
def torch_threads_set(n: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def trainings(images, labels, memory: str | None) -> int:
    Trainings.count = 0
    GridSearchCV(make_pipe(1, memory), {"clf__C": C_VALUES}, cv=3).fit(images, labels)
    return Trainings.count


class Trainings(Callback):
    """Callback that counts the trainings in this process."""

    count = 0

    def on_train_begin(self, net, **kwargs):
        Trainings.count += 1


if __name__ == "__main__":
    main()
