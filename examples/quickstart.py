"""Label efficiency: learn from 1,297 digits without labels, then from 1 to 50 labels per class.

    python examples/quickstart.py

Trains for a minute, prints a table and saves quickstart.png. The images are scikit-learn's handwritten digits
(8x8 pixels); nothing is downloaded. The 500 test images are never seen in training.
"""

from __future__ import annotations

import argparse

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.manifold import TSNE
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_ssl import SSLImageEmbedder, sample_views

LABELS_PER_CLASS = (1, 2, 5, 10, 50)
DRAWS = 10
LOSS_PARAMS = {
    # Twice the default: images of a class stay closer together, which counts with one or two labels.
    "ntxent": {"temperature": 1.0},
    # Half of the authors' weight, which is better for such a short training.
    "vicreg": {"cov_coeff": 0.5},
}


def main() -> None:
    args = parser_of(__doc__, seconds=60, figure="quickstart.png").parse_args()
    train, test, y_train, y_test = digits()

    embedder = make_embedder(args.loss, args.seconds, args.seed, verbose=1)
    embedder.fit(train)

    ours = embeddings(embedder, train, test)
    features = {
        "raw pixels": (flat(train), flat(test)),
        "untrained encoder": embeddings(untrained(embedder, train), train, test),
        f"{args.loss}, {args.seconds:g} s": ours,
    }
    accuracy = {name: label_efficiency(*pair, y_train, y_test) for name, pair in features.items()}
    print_table(accuracy)
    draw(accuracy, embedder, train[:6], ours[1], y_test, args.figure)


def parser_of(description: str, seconds: float, figure: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--loss", default="ntxent", help="ntxent, dcl, vicreg, or the loss of an installed plugin"
    )
    parser.add_argument("--seconds", type=float, default=seconds, help="training time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--figure", default=figure, help="path of the figure to write")
    return parser


def digits() -> tuple[np.ndarray, ...]:
    """Return 1,297 training images, 500 test images, and the labels of both."""
    data = load_digits()
    return train_test_split(data.images, data.target, test_size=500, random_state=0, stratify=data.target)


def make_embedder(loss: str, seconds: float, seed: int, verbose: int = 0) -> SSLImageEmbedder:
    params = LOSS_PARAMS.get(loss, {})
    return SSLImageEmbedder(
        loss, loss_params=params, max_time=seconds, batch_size=128, random_state=seed, verbose=verbose
    )


def untrained(embedder: SSLImageEmbedder, images: np.ndarray) -> SSLImageEmbedder:
    """Return a copy with the same random weights, and BatchNorm statistics of the images."""
    return clone(embedder).set_params(max_epochs=0, verbose=0).fit(images)


def flat(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1)


def embeddings(embedder: SSLImageEmbedder, *sets: np.ndarray) -> tuple[np.ndarray, ...]:
    return tuple(embedder.transform(images) for images in sets)


def label_efficiency(train, test, y_train, y_test) -> dict[int, np.ndarray]:
    """Return test accuracies in percent by number of labels per class, one for each draw of the labels."""
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    accuracy = {}
    for k in LABELS_PER_CLASS:
        chosen = [some_of_each_class(y_train, k, draw) for draw in range(DRAWS)]
        scores = [classifier.fit(train[rows], y_train[rows]).score(test, y_test) for rows in chosen]
        accuracy[k] = 100 * np.array(scores)
    return accuracy


def some_of_each_class(y: np.ndarray, k: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.permutation(np.flatnonzero(y == label))[:k] for label in np.unique(y)])


def print_table(accuracy: dict) -> None:
    print(f"\nTest accuracy in % of logistic regression by labels per class, mean of {DRAWS} draws:\n")
    print(f"{'':20}" + "".join(f"{k:>8}" for k in LABELS_PER_CLASS))
    for name, scores in accuracy.items():
        print(f"{name:20}" + "".join(f"{scores[k].mean():8.1f}" for k in LABELS_PER_CLASS))


def draw(accuracy: dict, embedder, images, embedded_test, y_test, path: str) -> None:
    """Draw label efficiency, some views, and a map of the test images, side by side."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(15, 4.6), layout="constrained")
    draw_curves(left, accuracy)
    draw_views(middle, embedder, images)
    draw_map(right, embedded_test, y_test)
    figure.savefig(path, dpi=110)
    print(f"\nWrote {path}")


def draw_curves(axis, accuracy: dict) -> None:
    for name, scores in accuracy.items():
        mean = [scores[k].mean() for k in LABELS_PER_CLASS]
        spread = [scores[k].std() for k in LABELS_PER_CLASS]
        axis.errorbar(LABELS_PER_CLASS, mean, spread, marker="o", capsize=3, label=name)
    axis.set(xscale="log", xlabel="labels per class", ylabel="test accuracy (%)", title="Label efficiency")
    axis.set_xticks(LABELS_PER_CLASS, [str(k) for k in LABELS_PER_CLASS])
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    axis.legend()


def draw_views(axis, embedder, images) -> None:
    """Draw one row for each image: the image, then its views."""
    views = sample_views(embedder, images, n_views=6).clip(0, 1)  # (n, 6, H, W, C)
    n, _, height, _, channels = views.shape
    own = sample_views(clone(embedder).set_params(augment="none"), images, n_views=1)
    tiles = np.concatenate([own.clip(0, 1), views], axis=1)
    tiles = np.pad(tiles, [(0, 0), (0, 0), (1, 1), (1, 1), (0, 0)], constant_values=0.5)
    mosaic = tiles.transpose(0, 2, 1, 3, 4).reshape(n * (height + 2), -1, channels)
    axis.imshow(mosaic if channels == 3 else mosaic[:, :, 0], cmap="gray_r" if channels == 1 else None)
    axis.set_title("An image, and six views of it")
    axis.axis("off")


def draw_map(axis, embedded: np.ndarray, y: np.ndarray) -> None:
    place = TSNE(random_state=0, init="pca").fit_transform(StandardScaler().fit_transform(embedded))
    labels, colors = np.unique(y, return_inverse=True)
    axis.scatter(*place.T, c=colors, cmap="tab10", s=10)
    for label in labels:
        axis.text(*np.median(place[y == label], axis=0), str(label), fontsize=14, weight="bold", ha="center")
    axis.set(title="Test images by their embedding (t-SNE), colored by class", xticks=[], yticks=[])


if __name__ == "__main__":
    main()
