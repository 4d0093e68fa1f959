"""The quickstart on your own color photographs.

    python examples/cifar10.py --data cifar10.npz
    python examples/cifar10.py --data folder/of/images

An .npz file has the arrays train_images (n, height, width, 3), train_labels, test_images and test_labels. A
folder has one subfolder per class; a fifth of its files are held out for testing. (CIFAR-10 itself is at
https://www.cs.toronto.edu/~kriz/cifar.html.)
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from quickstart import draw, embeddings, flat, label_efficiency, parser_of, print_table, untrained
from sklearn.model_selection import train_test_split

from sklearn_ssl import SSLImageEmbedder

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}


def main() -> None:
    parser = parser_of(__doc__, seconds=300, figure="cifar10.png")
    parser.add_argument(
        "--data", required=True, help="an .npz file, or a folder with one subfolder of images per class"
    )
    args = parser.parse_args()
    train, y_train, test, y_test = read(args.data)

    embedder = SSLImageEmbedder(loss=args.loss, max_time=args.seconds, random_state=args.seed, verbose=1)
    embedder.fit(train)

    ours = embeddings(embedder, train, test)
    features = {
        "raw pixels": (pixels(train), pixels(test)),
        "untrained encoder": embeddings(untrained(embedder, train), train, test),
        f"{args.loss}, {args.seconds:g} s": ours,
    }
    accuracy = {name: label_efficiency(*pair, y_train, y_test) for name, pair in features.items()}
    print_table(accuracy)
    draw(accuracy, embedder, train[:6], ours[1], y_test, args.figure)


def read(path: str) -> tuple:
    """Return (train, y_train, test, y_test), with images as an array or as a list of paths."""
    if Path(path).is_dir():
        files = sorted(file for file in Path(path).rglob("*") if file.suffix.lower() in SUFFIXES)
        y = np.array([file.parent.name for file in files])
        train, test, y_train, y_test = train_test_split(files, y, test_size=0.2, random_state=0, stratify=y)
        return train, y_train, test, y_test
    data = np.load(path)
    return data["train_images"], data["train_labels"], data["test_images"], data["test_labels"]


def pixels(images) -> np.ndarray:
    """Return rows of pixel values; images from files are resized to 32 x 32."""
    if isinstance(images, list):
        images = np.stack([np.asarray(Image.open(file).convert("RGB").resize((32, 32))) for file in images])
    return flat(images)


if __name__ == "__main__":
    main()
