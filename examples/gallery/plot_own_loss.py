"""
Your own loss
=============

A loss is a class with one method. This example writes alignment and uniformity [1]_, tests it against
the contract of plugins, trains it, and shows both of its terms over the training.

.. [1] Wang and Isola, "Understanding Contrastive Representation Learning through Alignment and
   Uniformity on the Hypersphere", ICML 2020, `arXiv:2005.10242 <https://arxiv.org/abs/2005.10242>`_.
"""

# %%
# `forward` gets the projections of the views, one tensor (n, dim) for each. Terms that are returned
# beside the loss are recorded in ``history_``.

import torch.nn.functional as F
from sklearn.datasets import load_digits

from sklearn_ssl import SSLImageEmbedder, SSLLoss, TrainingCurveDisplay, get_scorer
from sklearn_ssl.testing import check_loss


class AlignUniform(SSLLoss):
    """Pull the views of an image together and spread all images evenly over the sphere."""

    def __init__(self, weight=1.0):
        super().__init__()
        self.weight = weight

    def forward(self, z1, z2):
        z1, z2 = F.normalize(z1, dim=1), F.normalize(z2, dim=1)
        align = (z1 - z2).square().sum(dim=1).mean()
        uniform = sum(F.pdist(z).square().mul(-2).exp().mean().log() for z in (z1, z2)) / 2
        return {"loss": align + self.weight * uniform, "align": align, "uniform": uniform}


# %%
# `check_loss` tests what a loss must do: repeatable results, gradients, copies, saving, and more.

skipped = check_loss(AlignUniform)

# %%
# The class is a value of ``loss`` like any name, and its arguments are nested parameters.

images, labels = load_digits(return_X_y=True)
images = images.reshape(-1, 8, 8)
embedder = SSLImageEmbedder(AlignUniform, loss__weight=0.5, max_epochs=20, batch_size=128, random_state=0)
embedder.fit(images)

TrainingCurveDisplay.from_estimator(embedder)
accuracy = get_scorer("few_label_accuracy", n_labels=3)
print(f"{accuracy(embedder, images, labels):.1%} from three labels per class")
