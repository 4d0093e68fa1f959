"""Comparison of all installed methods with the same images, backbone, batch size and time.

    pip install . ./plugins/*/
    python benchmarks/methods.py --seconds 30 --seeds 0 1 2
    python benchmarks/methods.py --data cifar10_10k.npz --seconds 120

Each loss is trained at its defaults for --seconds (`max_time`), with batches of 128 images, or of as many as
its defaults ask for.

digits (scikit-learn's, 1,297 training images of 8x8 pixels): StandardScaler and LogisticRegression(C=0.1)
from 1 and 10 labels per class, mean of 10 draws of the labels, accuracy on 500 test images. An .npz file
(with the arrays train_images, train_labels, test_images, test_labels): 20 nearest neighbors by cosine, and
StandardScaler and LogisticRegression(C=0.01), both with the labels of the first 5,000 training images.

The baselines, evaluated in the same way: raw pixels, and an untrained encoder (random weights, and BatchNorm
statistics of the training images: max_epochs=0) of each kind that the losses train. Some methods enlarge very
small images, and have to be compared with an untrained encoder for their size: --settings
'{"image_size": 32}'.

A loss that uses labels gets --labels-per-class of them, drawn with the seed from the images whose labels the
probe uses; the others are unlabeled. (As values, a class is a vector of zeros, with a five at its number.) On
digits, its probe uses the labels of these images only. In the column of 10 labels per class, it has therefore
used no more labels than the other losses; in the column of 1, its training has used more, which is an
advantage.

Each training adds a line to the file --out and is not repeated, so the benchmark can be stopped and resumed.
All losses are run with one seed, then with the next. A loss that fails is reported, and tried again in the
next run. The table shows means over the seeds, with the range in parentheses.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import records
import torch
from image_sets import ImageSet, read_set
from probes import embeddings, few_labels, flat, neighbors_and_probe, some_of_each_class, untrained
from side_by_side import line, machine
from skorch.callbacks import Callback

from sklearn_ssl import SSLImageEmbedder, available_losses, get_loss

RAW, UNTRAINED = "raw pixels", "untrained encoder"
METRICS = ("1 label", "10 labels", "knn", "linear")
BANK = 5000
BATCH_SIZE = 128


def main() -> None:
    args = arguments()
    print(machine(), flush=True)
    images = read_set(args.data)
    methods = [RAW, *baselines(args), *args.losses]
    wanted = [setting(args, method, seed) for seed in args.seeds for method in methods]
    for one in wanted:
        if records.key(one) not in records.read(args.out):
            run(one, images, args.out)
    rows = records.read(args.out)
    table([rows[k] for k in dict.fromkeys(map(records.key, wanted)) if k in rows])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="digits", help='"digits" or an .npz file')
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument(
        "--losses", nargs="*", default=list(available_losses()), help="default: all installed losses"
    )
    parser.add_argument("--labels-per-class", type=int, default=10, help="for losses that use labels")
    parser.add_argument(
        "--settings",
        type=json.loads,
        default={},
        help="constructor parameters for all methods, loss__ among them",
    )
    parser.add_argument("--out", default="methods.jsonl")
    return parser.parse_args()


def baselines(args: argparse.Namespace) -> list[str]:
    """Return the names of the untrained baselines: one for each kind of encoder that the losses train."""
    wanted = {"auto" if "backbone" in args.settings else backbone_of(name) for name in args.losses}
    return [UNTRAINED, *(f"untrained {backbone}" for backbone in sorted(wanted - {"auto"}))]


def backbone_of(method: str) -> str:
    return defaults_of(method).get("backbone", "auto")


def batch_size_of(method: str) -> int | str:
    return "auto" if "batch_size" in defaults_of(method) else BATCH_SIZE


def defaults_of(method: str) -> dict[str, Any]:
    return getattr(get_loss(method), "defaults", {}) if method in available_losses() else {}


def setting(args: argparse.Namespace, method: str, seed: int) -> dict[str, Any]:
    """Return everything that a result depends on, except for the machine."""
    of_all = {"data": Path(args.data).stem, "method": method}
    if method == RAW:
        return of_all
    settings = {"batch_size": batch_size_of(method), **args.settings}
    if method.startswith("untrained "):
        of_encoder = {name: value for name, value in settings.items() if not name.startswith("loss")}
        backbone = {} if method == UNTRAINED else {"backbone": method.removeprefix("untrained ")}
        return {**of_all, "seed": seed, "settings": of_encoder | backbone}
    labels = args.labels_per_class if getattr(get_loss(method), "uses_labels", False) else 0
    threads = torch.get_num_threads()
    of_training = {"seconds": args.seconds, "threads": threads, "labels_per_class": labels}
    return {**of_all, "seed": seed, "settings": settings, **of_training}


# ------------------------------------------------------------------ one training


def run(one: dict, images: ImageSet, out: str) -> None:
    try:
        result = outcome(one, images)
    except Exception as error:  # of a plugin; go on with the others
        print(f"{one['method']} failed: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return
    print(records.add(out, one, result), flush=True)


def outcome(one: dict, images: ImageSet) -> dict:
    if one["method"] == RAW:
        return scores(one, images, flat(images.train), flat(images.test))
    settings = {"random_state": one["seed"], **one["settings"]}
    if one["method"].startswith("untrained "):
        about, embedder = {}, untrained(SSLImageEmbedder(**settings), images.train)
    else:
        embedder = SSLImageEmbedder(loss=one["method"], max_time=one["seconds"], **settings)
        about = train(embedder, one, images)
    return {**about, **scores(one, images, *embeddings(embedder, images.train, images.test))}


def train(embedder: SSLImageEmbedder, one: dict, images: ImageSet) -> dict:
    """Fit, and return time, number of images and epochs, and whether the embeddings have collapsed."""
    count, began = CountImages(), time.monotonic()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        embedder.set_params(callbacks=[count]).fit(images.train, labels(one, images))
    for warning in caught:
        print(f"{one['method']}: {warning.message}", file=sys.stderr, flush=True)
    return {
        "took": round(time.monotonic() - began, 1),
        "images": count.images,
        "epochs": round(count.images / len(images.train), 1),
        "collapsed": any("collapsed" in str(warning.message) for warning in caught),
    }


class CountImages(Callback):
    images = 0

    def on_batch_end(self, net: Any, batch: tuple, **kwargs: Any) -> None:
        self.images += len(batch[0])


def labels(one: dict, images: ImageSet) -> np.ndarray:
    """Return the labels given to the loss: classes or values for `labeled_rows`, else -1 or NaN."""
    rows = labeled_rows(one, images)
    if getattr(get_loss(one["method"]), "uses_labels", False) == "values":
        values = np.full((len(images.train), images.y_train.max() + 1), np.nan)
        values[rows] = 5 * np.eye(values.shape[1])[images.y_train[rows]]
        return values
    y = np.full(len(images.train), -1)
    y[rows] = images.y_train[rows]
    return y


def labeled_rows(one: dict, images: ImageSet) -> np.ndarray:
    return some_of_each_class(images.y_train[:BANK], one["labels_per_class"], one["seed"])


def scores(one: dict, images: ImageSet, train: np.ndarray, test: np.ndarray) -> dict[str, float]:
    if one["data"] == "digits":
        rows = labeled_rows(one, images) if one.get("labels_per_class") else None
        return few_labels(train, images.y_train, test, images.y_test, rows)
    return neighbors_and_probe(train[:BANK], images.y_train[:BANK], test, images.y_test)


# ------------------------------------------------------------------ results


def table(rows: list[dict]) -> None:
    """Print a Markdown table: the baselines, then the methods by family and name."""
    families = {name: info.family for name, info in available_losses(details=True).items()}
    metrics = [name for name in METRICS if rows and name in rows[0]]
    print()
    line("family", "method", *metrics, "images", "epochs", "seconds", "collapsed")
    line(*["---"] * (6 + len(metrics)))
    for method in sorted({row["method"] for row in rows}, key=lambda name: (families.get(name, ""), name)):
        mine = [row for row in rows if row["method"] == method]
        family, means = families.get(method, "baseline"), [records.over_seeds(mine, name) for name in metrics]
        line(family, method_cell(mine[0]), *means, *training_cells(mine))


def method_cell(row: dict) -> str:
    labels = row.get("labels_per_class")
    return f"{row['method']} ({labels} labels per class)" if labels else row["method"]


def training_cells(rows: list[dict]) -> list[str]:
    if "took" not in rows[0]:
        return [""] * 4
    images, epochs, seconds = (np.mean([row[name] for row in rows]) for name in ("images", "epochs", "took"))
    collapsed = sum(row["collapsed"] for row in rows)
    return [
        f"{images:,.0f}",
        f"{epochs:.1f}",
        f"{seconds:.1f}",
        f"{collapsed} of {len(rows)}" if collapsed else "no",
    ]


if __name__ == "__main__":
    main()
