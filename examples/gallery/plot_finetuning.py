"""
Fine-tuning the encoder with skorch
===================================

``encoder_`` is a plain torch module, which can be trained further, together with a classifier. This
example fine-tunes it with skorch, and compares three ways by the number of labels: a linear classifier
on fixed embeddings, fine-tuning, and training of the same network from random weights.
"""

# %%
# Half a minute without labels on 1,297 images; the others are for the evaluation.

import copy

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch import NeuralNetClassifier
from skorch.callbacks import LRScheduler
from torch import nn

from sklearn_ssl import SSLImageEmbedder

images, labels = load_digits(return_X_y=True)
images = images.reshape(-1, 8, 8)
seen, unseen = images[:1297], images[1297:]
embedder = SSLImageEmbedder(max_time=30, batch_size=128, random_state=0).fit(seen)
untrained = SSLImageEmbedder(max_epochs=0, random_state=0).fit(seen)

# %%
# The encoder takes pixels (n, channels, height, width) in the range used in `fit`, and standardizes them
# itself.


class Classifier(nn.Module):
    """An encoder, and a linear layer for the classes."""

    def __init__(self, encoder, n_features=512, n_classes=10):
        super().__init__()
        self.encoder = copy.deepcopy(encoder)
        self.head = nn.Sequential(nn.BatchNorm1d(n_features, affine=False), nn.Linear(n_features, n_classes))

    def forward(self, x):
        return self.head(self.encoder(x))


def pixels(x):
    return x[:, None].astype(np.float32)


def fine_tuned(encoder, x, y):
    torch.manual_seed(0)
    net = NeuralNetClassifier(
        Classifier(encoder),
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.AdamW,
        lr=5e-4,
        max_epochs=15,
        batch_size=32,
        iterator_train__shuffle=True,
        train_split=None,
        callbacks=[LRScheduler("CosineAnnealingLR", T_max=15)],
        verbose=0,
    )
    return net.fit(pixels(x), y).score(pixels(unseen), labels[1297:])


def linear(x, y):
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    return classifier.fit(embedder.transform(x), y).score(embedder.transform(unseen), labels[1297:])


# %%
# On these digits, fixed embeddings are best up to 50 labels per class; fine-tuning is far better than
# training from random weights.

numbers = (2, 10, 50)
scores = {"fixed embeddings": [], "fine-tuned": [], "from random weights": []}
for n in numbers:
    few = np.concatenate([np.flatnonzero(labels[:1297] == c)[:n] for c in range(10)])
    scores["fixed embeddings"].append(linear(seen[few], labels[few]))
    scores["fine-tuned"].append(fine_tuned(embedder.encoder_, seen[few], labels[few]))
    scores["from random weights"].append(fine_tuned(untrained.encoder_, seen[few], labels[few]))

figure, axis = plt.subplots(figsize=(6.5, 4), layout="constrained")
for name, values in scores.items():
    axis.plot(numbers, values, "o-", label=name)
axis.set(xscale="log", xlabel="labels per class", ylabel="accuracy on unseen images", title="Fine-tuning")
axis.set_xticks(numbers, [str(n) for n in numbers])
axis.minorticks_off()
axis.grid(alpha=0.3)
axis.legend()
for name, values in scores.items():
    print(f"{name:20} {values[-1]:.1%} from 50 labels per class")
