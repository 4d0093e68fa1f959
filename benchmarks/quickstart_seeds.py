"""Results of the quickstart for several seeds and all built-in losses.

    python benchmarks/quickstart_seeds.py

Trains each loss for --seconds with each seed, as examples/quickstart.py does, and prints the test accuracy
from 1, 2, 5, 10 and 50 labels per class (mean of 10 draws of the labels), with raw pixels and an untrained
encoder as baselines. Results depend on the speed of the machine; the number of epochs is printed as well.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from quickstart import LABELS_PER_CLASS, digits, embeddings, flat, label_efficiency, make_embedder, untrained


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--losses", nargs="+", default=["vicreg", "ntxent", "dcl"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60)
    args = parser.parse_args()

    train, test, y_train, y_test = digits()
    print(f"{'':30}" + "".join(f"{k:>8}" for k in LABELS_PER_CLASS), flush=True)
    show("raw pixels", label_efficiency(flat(train), flat(test), y_train, y_test))
    for loss in args.losses:
        scores = []
        for seed in range(args.seeds):
            embedder = make_embedder(loss, args.seconds, seed).fit(train)
            scores.append(label_efficiency(*embeddings(embedder, train, test), y_train, y_test))
            show(f"{loss}, seed {seed}, {embedder.n_iter_} epochs", scores[-1])
        show(f"{loss}, mean of {args.seeds} seeds", mean_of(scores))
    random = [untrained(make_embedder("ntxent", 60, seed), train) for seed in range(args.seeds)]
    scores = [label_efficiency(*embeddings(each, train, test), y_train, y_test) for each in random]
    show(f"untrained, mean of {args.seeds} seeds", mean_of(scores))


def mean_of(scores: list[dict]) -> dict:
    return {k: np.concatenate([score[k] for score in scores]) for k in LABELS_PER_CLASS}


def show(name: str, scores: dict) -> None:
    print(f"{name:30}" + "".join(f"{scores[k].mean():8.1f}" for k in LABELS_PER_CLASS), flush=True)


if __name__ == "__main__":
    main()
