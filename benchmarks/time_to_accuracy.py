"""Accuracy by training time of our fits and lightly's two recipes on the same images.

    pip install -r requirements-bench.txt
    python benchmarks/time_to_accuracy.py --data cifar10_10k.npz --seconds 600 --seeds 0 1 \\
        --ours '{}' '{"backbone__stem": "3x3"}' --plot docs/time_to_accuracy.png

Every training uses all training images for --seconds, not counting evaluations, with a cosine schedule of the
learning rate over that time. At --times and at the end: 20 nearest neighbors by cosine, and StandardScaler
and LogisticRegression(C=0.01), both from the first 5,000 training images; accuracy on the test images in
percent. The .npz file has the arrays train_images, train_labels, test_images and test_labels.

Each point is a line in the file --out, and completed trainings are not repeated, so the benchmark can be
stopped and resumed (--show: print the results so far, without training). At the end, it prints the means over
the seeds, and the time at which ours first reaches lightly's final accuracy. All methods are run with one
seed, then with the next.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightly_recipe import RECIPES, train_for
from side_by_side import machine
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch.callbacks import Callback

from sklearn_ssl import SSLImageEmbedder
from sklearn_ssl._networks.student import autocast
from sklearn_ssl._training.net import SSLNet

METRICS = {"knn": "20 nearest neighbors", "linear": "linear probe"}
Embed = Callable[[np.ndarray], np.ndarray]


def main() -> None:
    args = arguments()
    print(machine(), flush=True)
    methods = {f"lightly {name}": partial(train_lightly, name) for name in args.lightly}
    methods |= {f"ours {json.dumps(settings)}": partial(train_ours, settings) for settings in args.ours}
    data = dict(np.load(args.data))
    for seed in args.seeds:
        for method, train in methods.items():
            key = {"data": Path(args.data).stem, "method": method, "seed": seed, "of": args.seconds}
            if args.show or is_done(args.out, key):
                continue
            train(data["train_images"], args, seed, partial(record, args.out, key, data))
    curves = {method: curve(args, method) for method in methods}
    table(curves)
    first_as_good(curves)
    if args.plot:
        draw(curves, args.plot)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help=".npz")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument(
        "--times", nargs="+", type=float, help="default: 1/20, 1/10, 1/5, 2/5, 3/5 and 4/5 of --seconds"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--ours", nargs="*", type=json.loads, default=[{}], help="constructor parameters")
    parser.add_argument("--lightly", nargs="*", choices=list(RECIPES), default=["3x3", "imagenet"])
    parser.add_argument("--out", default="time_to_accuracy.jsonl")
    parser.add_argument(
        "--show", action="store_true", help="table and plot of the results so far, without training"
    )
    parser.add_argument(
        "--plot", help="path of a figure of the curves, for example docs/time_to_accuracy.png"
    )
    args = parser.parse_args()
    args.times = args.times or [share * args.seconds for share in (0.05, 0.1, 0.2, 0.4, 0.6, 0.8)]
    return args


# ------------------------------------------------------------------ trainings


def train_lightly(
    name: str, images: np.ndarray, args: argparse.Namespace, seed: int, record: Callable
) -> None:
    train_for(RECIPES[name], images, args.seconds, args.times, record, seed)


def train_ours(
    settings: dict, images: np.ndarray, args: argparse.Namespace, seed: int, record: Callable
) -> None:
    callback = AtTimes(args.seconds, args.times, record)
    settings = {"max_time": args.seconds, "random_state": seed, "callbacks": [callback], **settings}
    SSLImageEmbedder(**settings).fit(images)


class AtTimes(Callback):
    """Callback that evaluates during a fit and at its end, while the clocks of the net are stopped."""

    def __init__(self, seconds: float, times: list[float], record: Callable):
        self.seconds, self.record = seconds, record
        self.due = sorted(t for t in times if t < seconds)

    def on_batch_end(self, net: SSLNet, **kwargs: Any) -> None:
        if self.due and net.seconds() >= self.due[0]:
            began = time.monotonic()
            self._evaluate(net, self.due.pop(0))
            pause = time.monotonic() - began
            net.started += pause
            net.meter.started += pause

    def on_train_end(self, net: SSLNet, **kwargs: Any) -> None:
        if net.end != "interrupted":
            self._evaluate(net, self.seconds)

    def _evaluate(self, net: SSLNet, planned: float) -> None:
        self.record(partial(embed, net), planned, net.seconds(), net.steps_done * net.batch_size)


@torch.no_grad()
def embed(net: SSLNet, images: np.ndarray) -> np.ndarray:
    """Embed unaugmented images; BatchNorm uses its running statistics and does not change them."""
    backbone = net.module_.backbone.eval()
    mean, std = (each[:, None, None].to(net.device) for each in (net.pixels.mean, net.pixels.std))
    rows = []
    for part in torch.from_numpy(images).permute(0, 3, 1, 2).split(64):
        x = (net.pixels.to_unit(part.to(net.device)) - mean) / std
        with autocast(x.device, net.module_.precision):
            features = backbone(x.contiguous(memory_format=torch.channels_last))
        rows.append(features.float().cpu())
    backbone.train()
    return torch.cat(rows).numpy()


# ------------------------------------------------------------------ points


def record(path: str, key: dict, data: dict, embed: Embed, at: float, seconds: float, seen: int) -> None:
    point = {**key, "at": at, "seconds": round(seconds, 1), "images": seen, **scores(embed, data)}
    with Path(path).open("a") as file:
        file.write(json.dumps(point) + "\n")
    print(point, flush=True)


def scores(embed: Embed, data: dict) -> dict[str, float]:
    bank, test = embed(data["train_images"][:5000]), embed(data["test_images"])
    labels = data["train_labels"][: len(bank)]
    models = {
        "knn": KNeighborsClassifier(20, metric="cosine"),
        "linear": make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000)),
    }
    fitted = {name: model.fit(bank, labels) for name, model in models.items()}
    return {name: round(100 * m.score(test, data["test_labels"]), 2) for name, m in fitted.items()}


def points(path: str) -> list[dict]:
    """Read all points; those of a training that was restarted replace the earlier ones."""
    if not Path(path).exists():
        return []
    rows = [json.loads(line) for line in Path(path).read_text().splitlines()]
    return list({(r["data"], r["method"], r["seed"], r["of"], r["at"]): r for r in rows}.values())


def is_done(path: str, key: dict) -> bool:
    return any(point == {**point, **key, "at": key["of"]} for point in points(path))


def curve(args: argparse.Namespace, method: str) -> dict[float, list[dict]]:
    """Return the points of all seeds by planned time."""
    wanted = {"data": Path(args.data).stem, "method": method, "of": args.seconds}
    mine = [p for p in points(args.out) if p == {**p, **wanted} and p["seed"] in args.seeds]
    return {at: [p for p in mine if p["at"] == at] for at in sorted({p["at"] for p in mine})}


# ------------------------------------------------------------------ results


def mean(at_one_time: list[dict], name: str) -> float:
    return float(np.mean([point[name] for point in at_one_time]))


def table(curves: dict) -> None:
    print(f"\n{'seconds':>8}{'images':>9}{'knn':>7}{'linear':>8}  seeds  method")
    for method, by_time in curves.items():
        for some in by_time.values():
            seconds, images, knn, linear = (mean(some, n) for n in ("seconds", "images", "knn", "linear"))
            print(f"{seconds:8.0f}{images:9,.0f}{knn:7.1f}{linear:8.1f}{len(some):7}  {method}")


def first_as_good(curves: dict) -> None:
    """Print the first evaluated time at which ours reaches the final accuracy of each of lightly's."""
    for theirs in (method for method in curves if method.startswith("lightly")):
        final = list(curves[theirs].values())[-1]
        for ours in (method for method in curves if method.startswith("ours")):
            for name, words in METRICS.items():
                goal = mean(final, name)
                reached = [mean(p, "seconds") for p in curves[ours].values() if mean(p, name) >= goal]
                when = f"after {reached[0]:.0f} s" if reached else "not"
                print(f"{theirs} ends at {goal:.1f} % ({words}); {ours} reaches that {when}")


def draw(curves: dict, path: str) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for axis, (name, words) in zip(axes, METRICS.items(), strict=True):
        for method, by_time in curves.items():
            seconds = [mean(some, "seconds") for some in by_time.values()]
            style = "o-" if method.startswith("ours") else "s--"
            axis.plot(seconds, [mean(some, name) for some in by_time.values()], style, label=method)
        axis.set(xlabel="seconds of training", ylabel="test accuracy in percent", title=words)
        axis.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", fontsize="small")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
