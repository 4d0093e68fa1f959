"""Which score finds the best of many settings, with few labels or none?

    python benchmarks/choosing.py fit digits
    python benchmarks/choosing.py fit cifar10_10k.npz solar_cells.npz --settings '{"image_size": 32}'
    python benchmarks/choosing.py show
    python benchmarks/choosing.py fit digits --probe-only --out lejepa.jsonl \\
        --methods "lejepa 0.005" "lejepa 0.02" "lejepa 0.05" "lejepa 0.2" "lejepa 0.5"

`fit` trains an embedder for each combination of a loss, its hyperparameters and an augmentation, on at most
--images training images, and scores it on test images without their labels: by every scorer without labels,
by the training loss, and by the scorers that use five labels per class of the training images. Scorers of
views run twice: with the embedder's own augmentation, and with one that is the same for all ("strong crops").
The reference is the accuracy of logistic regression with all labels of the training images (C=0.01), on the
test images. Each training adds a line to --out and is not repeated.

`show` prints, for each set of images and score, Spearman's correlation with the reference over all settings,
and the points of accuracy that are lost by taking the setting that the score likes best instead of the best;
then the same within each loss and within each augmentation (means).
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from image_sets import ImageSet, read_set
from probes import neighbors_and_probe, some_of_each_class
from scipy.stats import spearmanr
from side_by_side import line, machine
from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

from sklearn_ssl import SSLImageEmbedder, available_scorers, get_scorer
from sklearn_ssl.augment import Augment


def small_resnet(in_channels: int, width: int = 32) -> nn.Module:
    """Return a ResNet of four blocks, half as wide as ResNet-18, whose stem is made for small images."""
    net = ResNet(BasicBlock, [1, 1, 1, 1])
    net.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
    net.bn1, net.inplanes, net.fc = nn.BatchNorm2d(width), width, nn.Identity()
    for i in range(4):
        layer = net._make_layer(BasicBlock, width * 2**i, 1, stride=1 if i == 0 else 2)
        setattr(net, f"layer{i + 1}", layer)
    return net


METHODS = {
    "ntxent 0.05": {"loss": "ntxent", "loss_params": {"temperature": 0.05}},
    "ntxent 0.2": {"loss": "ntxent", "loss_params": {"temperature": 0.2}},
    "ntxent 1": {"loss": "ntxent", "loss_params": {"temperature": 1.0}},
    "dcl 0.1": {"loss": "dcl", "loss_params": {"temperature": 0.1}},
    "vicreg": {"loss": "vicreg"},
    "vicreg cov 0.04": {"loss": "vicreg", "loss_params": {"cov_coeff": 0.04}},
    **{
        f"lejepa {lambd}": {"loss": "lejepa", "loss_params": {"lambd": lambd}}
        for lambd in (0.005, 0.02, 0.05, 0.2, 0.5)
    },
}
# Power of LeJEPA's lambda by which its authors divide the loss to compare settings (arXiv:2511.08544).
POWER_OF_LAMBDA = 0.4
GENTLE = Augment(crop=0.5, flip=0.5, vertical_flip=0.5, quarter_turns=0.75, color_jitter=0.8, brightness=0.4)
AUGMENTS = {"photo": "photo", "symbols": "symbols", "overhead": "overhead", "gentle": GENTLE}
# The same views for all embedders.
STRONG_CROPS = Augment(crop=0.2, color_jitter=0.8, brightness=0.4, contrast=0.4)
OF_VIEWS = ("own_view_retrieval", "neg_alignment")
# Number of images of the slow scorers.
N_IMAGES = {"lidar": 250, "rotation_probe_accuracy": 200}
# Parameters for five labels per class.
OF_LABELS = {
    "knn_accuracy": {"n_neighbors": 3},
    "linear_probe_accuracy": {},
    "few_label_accuracy": {"n_labels": 3},
}
LABELS_PER_CLASS = 5
BACKBONES = {"small": small_resnet, "resnet18": "resnet18"}
REFERENCE = "linear"


def main() -> None:
    args = arguments()
    if args.command == "fit":
        print(machine(), flush=True)
        for path in args.sets:
            fit_all(read_set(path).some(args.images, args.test_images), args)
    else:
        show([json.loads(line) for line in Path(args.out).read_text().splitlines()])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=("fit", "show"))
    parser.add_argument("sets", nargs="*", help='"digits" or .npz files')
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--test-images", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--backbone", choices=BACKBONES, default="small")
    parser.add_argument("--settings", type=json.loads, default={}, help="of all embedders")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--augments", nargs="+", default=list(AUGMENTS), choices=AUGMENTS)
    parser.add_argument("--probe-only", action="store_true", help="no scores but the reference")
    parser.add_argument("--out", default="choosing.jsonl")
    return parser.parse_args()


# ------------------------------------------------------------------ trainings


def fit_all(images: ImageSet, args: argparse.Namespace) -> None:
    out = Path(args.out)
    done = {row["key"] for row in map(json.loads, out.read_text().splitlines())} if out.exists() else set()
    for method in args.methods:
        for augment in args.augments:
            about = {"set": images.name, "method": method, "augment": augment, "seed": args.seed}
            key = json.dumps(
                {**about, "epochs": args.epochs, "images": args.images, "backbone": args.backbone}
                | args.settings
            )
            if key in done:
                continue
            row = {"key": key, **about, **outcome(images, about, args)}
            with out.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(row, flush=True)


def outcome(images: ImageSet, about: dict, args: argparse.Namespace) -> dict:
    settings = {**METHODS[about["method"]], "augment": AUGMENTS[about["augment"]], **args.settings}
    settings["backbone"] = BACKBONES[args.backbone]
    embedder = SSLImageEmbedder(max_epochs=args.epochs, random_state=args.seed, batch_size=128, **settings)
    began = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        embedder.fit(images.train)
    took = time.monotonic() - began
    Z, Z_test = (embedder.transform(part) for part in (images.train, images.test))
    reference = neighbors_and_probe(Z, images.y_train, Z_test, images.y_test)
    scores = {} if args.probe_only else all_scores(embedder, images, args.seed)
    loss = embedder.history_[-1]["train_loss"]
    if embedder.loss == "lejepa":
        scores["neg_scaled_loss"] = -loss / settings["loss_params"]["lambd"] ** POWER_OF_LAMBDA
    return {"took": round(took, 1), **reference, "scores": {"neg_training_loss": -loss, **scores}}


def all_scores(embedder: SSLImageEmbedder, images: ImageSet, seed: int) -> dict[str, float]:
    few = np.full(len(images.train), -1)
    rows = some_of_each_class(images.y_train, LABELS_PER_CLASS, seed)
    few[rows] = images.y_train[rows]
    scores = {}
    for name in available_scorers():
        if name in OF_LABELS:
            scores[name] = get_scorer(name, **OF_LABELS[name])(embedder, images.train, few)
        elif name not in ("recall_at_k", "mean_average_precision"):
            scores[name] = get_scorer(name, n_images=N_IMAGES.get(name))(embedder, images.test)
        if name in OF_VIEWS:
            same = get_scorer(name, augment=STRONG_CROPS)
            scores[f"{name}, same views"] = same(embedder, images.test)
    return scores


# ------------------------------------------------------------------ results


def show(rows: list[dict]) -> None:
    names = [name for name in rows[0]["scores"] if all(name in row["scores"] for row in rows)]
    sets = list(dict.fromkeys(row["set"] for row in rows))
    for title, group in (
        ("all settings", lambda row: ""),
        ("within each augmentation", lambda row: row["augment"]),
        ("within each loss", lambda row: row["method"].split()[0]),
    ):
        print(f"\n{title}: Spearman's correlation, and points lost\n")
        line("score", *sets)
        line(*["---"] * (1 + len(sets)))
        for name in names:
            line(name, *(cell([row for row in rows if row["set"] == s], name, group) for s in sets))
    print("\nreference\n")
    line("set", "settings", "best", "median", "worst", "fits took")
    for s in sets:
        values = [row[REFERENCE] for row in rows if row["set"] == s]
        took = np.median([row["took"] for row in rows if row["set"] == s])
        line(
            s,
            str(len(values)),
            *(f"{f(values):.1f}" for f in (np.max, np.median, np.min)),
            f"{took:.0f} s",
        )


def cell(rows: list[dict], name: str, group: Callable[[dict], str]) -> str:
    correlations, lost = [], []
    for key in dict.fromkeys(map(group, rows)):
        mine = [row for row in rows if group(row) == key]
        accuracy = np.array([row[REFERENCE] for row in mine])
        score = np.array([row["scores"][name] for row in mine])
        score[~np.isfinite(score)] = -1e9
        if len(mine) > 2 and len(set(score)) > 1:
            correlations.append(spearmanr(score, accuracy).statistic)
        best = accuracy[score == score.max()].mean()  # ties are broken at random
        lost.append(accuracy.max() - best)
    return f"{mean(correlations):+.2f}, {mean(lost):.1f}"


def mean(values: Iterable[float]) -> float:
    values = list(values)
    return float(np.mean(values)) if values else float("nan")


if __name__ == "__main__":
    main()
