"""Origin of the default hyperparameters: one change at a time, three losses, two data sets.

    python benchmarks/defaults.py --data digits --epochs 15
    python benchmarks/defaults.py --data cifar10_10k.npz --epochs 4
    python benchmarks/defaults.py --data cifar10_10k.npz --seconds 120 --only stem

Each run appends a line to the file --out, and runs that are already in it are not repeated, so the benchmark
can be stopped and resumed. The table is printed at the end. The .npz file has the arrays train_images,
train_labels, test_images and test_labels.

Accuracies in percent on test images, which are never seen in training. digits: 1,297 training images;
StandardScaler and LogisticRegression(C=0.1) from 1 and 10 labels per class, mean of 10 draws. CIFAR-10:
training on the first 5,000 images, which are also the labeled ones; 20 nearest neighbors by cosine, and
StandardScaler and LogisticRegression(C=0.01).
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import probes

from sklearn_ssl import SSLImageEmbedder

LOSSES = ("ntxent", "dcl", "vicreg")
# Base settings, and the single changes that are compared with them.
BASE = {"batch_size": 128, "lr": 1e-3, "optimizer": "adamw", "weight_decay": 1e-2}
CHANGES = {
    "lr": [{"lr": 5e-4}, {"lr": 2e-3}, {"lr": 4e-3}],
    "batch": [{"batch_size": 64}, {"batch_size": 256}],
    "optimizer": [{"optimizer": "sgd", "lr": 0.06, "weight_decay": 5e-4}],
    "muon": [{"optimizer": "muon", "lr": lr} for lr in (1e-3, 2e-3, 4e-3, 8e-3)],
    "weight_decay": [{"weight_decay": 1e-4}, {"weight_decay": 0.1}],
    "projector": [{"projector": w} for w in ([512, 128], [512, 512, 512], [2048, 2048, 2048])],
    "temperature": [{"loss__temperature": t} for t in (0.1, 0.2)],
    "crop": [{"augment__crop": share} for share in (0.2, 0.4, 0.6)],
    "stem": [{"backbone__stem": s} for s in ("3x3-stride2", "3x3", "imagenet")],
}


def main() -> None:
    args = arguments()
    images = digits() if args.data == "digits" else npz(args.data)
    budget = {"max_time": args.seconds} if args.seconds else {"max_epochs": args.epochs}
    done = read(args.out)
    for loss in args.losses:
        for change in changes(args.only, loss):
            settings = {"loss": loss, **BASE, **budget, "random_state": args.seed, **change}
            key = json.dumps([Path(args.data).stem, settings], sort_keys=True)
            if key not in done:
                done[key] = run(settings, *images)
                with Path(args.out).open("a") as file:
                    file.write(json.dumps({"key": key, **done[key]}) + "\n")
            print(loss, change or "base", done[key], flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="digits")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seconds", type=float, help="training time, instead of --epochs")
    parser.add_argument("--losses", nargs="+", default=LOSSES)
    parser.add_argument("--only", nargs="+", default=list(CHANGES), choices=list(CHANGES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="defaults.jsonl")
    return parser.parse_args()


def changes(names: list[str], loss: str) -> list[dict]:
    usable = [change for name in names for change in CHANGES[name]]
    return [{}, *(c for c in usable if loss != "vicreg" or "loss__temperature" not in c)]


def run(settings: dict, train, y_train, test, y_test, evaluate) -> dict:
    embedder = SSLImageEmbedder(**settings)
    started = time.monotonic()
    embedder.fit(train)
    seconds = time.monotonic() - started
    scores = evaluate(embedder.transform(train), y_train, embedder.transform(test), y_test)
    return {**scores, "seconds": round(seconds), "epochs": embedder.n_iter_}


def digits() -> tuple:
    train, test, y_train, y_test = probes.digits()
    return train, y_train, test, y_test, probes.few_labels


def npz(path: str) -> tuple:
    data = np.load(path)
    train, y_train = data["train_images"][:5000], data["train_labels"][:5000]
    return train, y_train, data["test_images"], data["test_labels"], probes.neighbors_and_probe


def read(path: str) -> dict:
    if not Path(path).exists():
        return {}
    rows = [json.loads(line) for line in Path(path).read_text().splitlines()]
    return {row.pop("key"): row for row in rows}


if __name__ == "__main__":
    main()
