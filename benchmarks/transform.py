"""images/s of `transform` and of a plain PyTorch loop, and the effect of bf16 on the embeddings.

    python benchmarks/transform.py [--data images.npz]

Speed: ResNet-18 with the 3x3 stem at 32 px; other sizes and stems with --size and --stem. The loop is the
encoder in eval mode, float32, without autograd, on batches of the same size. Then milliseconds for one image,
for which `transform` computes a whole chunk, so that rows do not depend on their neighbors. Medians of
--repeats, interleaved.

Precision: an encoder trained for --seconds embeds all images in bf16 and in float32. Prints the smallest
cosine similarity of the two embeddings of an image, and the accuracy of the 20 nearest neighbors (cosine)
among the training images. --data is an .npz file with train_images, train_labels, test_images and
test_labels; by default scikit-learn's digits.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable

import numpy as np
import torch
from side_by_side import alternate, machine, seconds, show
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from sklearn_ssl import SSLImageEmbedder
from sklearn_ssl._networks.inference import chunk_size


def main() -> None:
    args = arguments()
    print(machine())
    compare_speed(args)
    if args.seconds > 0:
        compare_precision(args)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=32, help="pixels")
    parser.add_argument("--stem", default="3x3", help="3x3, 3x3-pool, 3x3-stride2, imagenet or auto")
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--no-compile", action="store_true", help="leave out compile=True")
    parser.add_argument("--data", help="an .npz file, for the comparison of precisions")
    parser.add_argument(
        "--seconds", type=float, default=60, help="training time for the comparison of precisions; 0: none"
    )
    return parser.parse_args()


def compare_speed(args: argparse.Namespace) -> None:
    shape = (args.images, args.size, args.size, 3)
    images = np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)
    fitted = SSLImageEmbedder(
        backbone="resnet18",
        max_epochs=1,
        batch_size=16,
        backbone__stem=args.stem,
        precision="float32",
        random_state=0,
    ).fit(images[:16])
    chunk = chunk_size(fitted.image_size_, fitted.device_)
    print(f"\nResNet-18, stem {args.stem}, {args.size} px, {chunk} images at a time")
    in_each = [{"precision": "float32"}, {"precision": "auto"}]
    if not args.no_compile:
        in_each.append({"precision": "auto", "compile": True})
    cases = {named(settings): transforming(fitted, images, settings) for settings in in_each}
    cases["PyTorch loop, float32"] = looping(fitted, images, chunk)
    many = {name: functools.partial(case, args.images) for name, case in cases.items()}
    show(alternate(many, args.repeats), "images/s", reference="PyTorch loop, float32")
    one = {f"{name}, one image": functools.partial(milliseconds, case) for name, case in cases.items()}
    show(alternate(one, args.repeats), "ms")


def milliseconds(case: Callable[[int], float]) -> float:
    """Return the milliseconds for one image."""
    return 1000 / case(1)


def named(settings: dict) -> str:
    return "transform, " + ", ".join(f"{name}={value}" for name, value in settings.items())


def transforming(fitted: SSLImageEmbedder, images: np.ndarray, settings: dict) -> Callable[[int], float]:
    """Return a function that measures images/s of `transform` by a separate copy of the estimator."""
    own = SSLImageEmbedder()
    vars(own).update({name: value for name, value in vars(fitted).items() if name != "_kept_network"})
    own.set_params(**settings).transform(images)
    return lambda n: n / seconds(lambda: own.transform(images[:n]))


def looping(fitted: SSLImageEmbedder, images: np.ndarray, chunk: int) -> Callable[[int], float]:
    """Return a function that measures images/s of a loop in plain PyTorch."""
    given = torch.from_numpy(images).movedim(-1, 1)

    @torch.inference_mode()
    def loop(n: int) -> Tensor:
        parts = given[:n].split(chunk)
        return torch.cat([fitted.encoder_(part.to(fitted.device_)).cpu() for part in parts])

    loop(len(images))
    return lambda n: n / seconds(lambda: loop(n))


def compare_precision(args: argparse.Namespace) -> None:
    train_images, train_labels, test_images, test_labels = load(args.data)
    fitted = SSLImageEmbedder(backbone="resnet18", max_time=args.seconds, batch_size=128, random_state=0).fit(
        train_images
    )
    name, n = args.data or "digits", len(train_images)
    print(f"\n{name}: {n} images, {args.seconds:.0f} s, {fitted.n_iter_} epochs")
    embedded = {}
    for precision in ("float32", "bf16"):
        fitted.set_params(precision=precision)
        embedded[precision] = bank, queries = fitted.transform(train_images), fitted.transform(test_images)
        neighbors = KNeighborsClassifier(20, metric="cosine").fit(bank, train_labels)
        print(f"{precision:8} 20 nearest neighbors: {100 * neighbors.score(queries, test_labels):.2f} %")
    pairs = zip(embedded["float32"], embedded["bf16"], strict=True)
    least = min(cosines(a, b).min() for a, b in pairs)
    print(f"smallest cosine similarity of an image's two embeddings: {least:.6f}")


def load(path: str | None) -> tuple[np.ndarray, ...]:
    if path is not None:
        with np.load(path) as data:
            names = ("train_images", "train_labels", "test_images", "test_labels")
            return tuple(data[name] for name in names)
    digits = load_digits()
    images = (digits.images * 255 / 16).astype(np.uint8)
    X, X_test, y, y_test = train_test_split(images, digits.target, test_size=500, random_state=0)
    return X, y, X_test, y_test


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


if __name__ == "__main__":
    main()
