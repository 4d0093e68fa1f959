"""A custom loss: one class, checked, trained and compared.

    python examples/write_a_loss.py

To publish a loss as a plugin, start from a copy of plugins/sklearn-ssl-barlow-twins.
"""

from __future__ import annotations

import argparse

import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from sklearn_ssl import SSLImageEmbedder, SSLLoss
from sklearn_ssl.losses import mean_over_pairs
from sklearn_ssl.testing import check_loss


class AlignUniform(SSLLoss):
    """Pull the views of an image together and spread all images evenly over the sphere.

    Wang and Isola, "Understanding Contrastive Representation Learning through Alignment and
    Uniformity on the Hypersphere", ICML 2020, arXiv:2005.10242.
    """

    def __init__(self, weight=1.0, t=2.0):
        super().__init__()
        self.weight, self.t = weight, t

    def forward(self, *z):
        return mean_over_pairs(self.pair, z)

    def pair(self, z1, z2):
        z1, z2 = F.normalize(z1, dim=1), F.normalize(z2, dim=1)
        align = (z1 - z2).square().sum(1).mean()
        return align + self.weight * (self.uniform(z1) + self.uniform(z2)) / 2

    def uniform(self, z):
        return F.pdist(z).square().mul(-self.t).exp().mean().log()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=20, help="training time of each loss")
    seconds = parser.parse_args().seconds

    check_loss(AlignUniform)
    print("AlignUniform keeps the contract.")

    images, labels = load_digits(return_X_y=True)
    for loss in ("ntxent", AlignUniform):
        embedder = SSLImageEmbedder(
            loss, image_shape=(8, 8), max_time=seconds, batch_size=128, random_state=0, verbose=1
        )
        embedded = embedder.fit(images[:1297]).transform(images)
        knn = KNeighborsClassifier(20, metric="cosine").fit(embedded[:1297], labels[:1297])
        print(f"20 nearest neighbors: {100 * knn.score(embedded[1297:], labels[1297:]):.1f} % correct")


if __name__ == "__main__":
    main()
