"""Reconstructions by masked methods: each image, its visible part and its reconstruction.

    pip install ./plugins/sklearn-ssl-masked ./plugins/sklearn-ssl-pretext
    python examples/reconstructions.py
    python examples/reconstructions.py --data cifar10_10k.npz --losses mae simmim inpainting colorization

Trains each loss on scikit-learn's digits, enlarged, or on your images, in an .npz file with `train_images`
and `test_images`, and draws reconstructions_<loss>.png for images that were not used in training.
"""

from __future__ import annotations

import argparse

import numpy as np
from sklearn.datasets import load_digits

from sklearn_ssl import ReconstructionDisplay, SSLImageEmbedder


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="digits", help='"digits" or an .npz file')
    parser.add_argument("--losses", nargs="+", default=["mae", "simmim", "inpainting"])
    parser.add_argument("--seconds", type=float, default=60)
    args = parser.parse_args()

    train, test, image_size = read_images(args.data)
    for loss in args.losses:
        embedder = SSLImageEmbedder(
            loss,
            max_time=args.seconds,
            batch_size=32,  # images are not compared within a batch: many small steps are better
            image_size=image_size,
            warm_start=True,  # keeps the decoder, which `transform` does not need
            random_state=0,
            verbose=1,
        )
        embedder.fit(train)
        name = f"reconstructions_{loss}.png"
        ReconstructionDisplay.from_estimator(embedder, test[:5]).figure_.savefig(name, dpi=80)
        print(f"{name}: each image, its visible part, and the reconstruction by {loss}")


def read_images(data: str) -> tuple[np.ndarray, np.ndarray, int | str]:
    """Return training images, images to draw, and the size of the views."""
    if data == "digits":
        images = load_digits().images
        return images[:1297], images[1297:], 32
    arrays = np.load(data)
    return arrays["train_images"], arrays["test_images"], "auto"


if __name__ == "__main__":
    main()
