"""
Finding outliers
================

Images that do not belong in a collection are rare, and nobody has labeled them. Ranked by the distance
of their embeddings to the nearest others, they tend to come first. This example hides twelve images of a
tenth kind, the digit 9, among 1,617 of the other digits.
"""

# %%
# The labels are used for the evaluation only.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

from sklearn_ssl import SSLImageEmbedder

images, labels = load_digits(return_X_y=True)
images = images.reshape(-1, 8, 8)
rng = np.random.default_rng(0)
nines = rng.choice(np.flatnonzero(labels == 9), 12, replace=False)
kept = np.concatenate([np.flatnonzero(labels != 9), nines])
images, is_outlier = images[kept], labels[kept] == 9

# %%
# A high temperature keeps images of one kind closer together.

embedder = SSLImageEmbedder(loss__temperature=1.0, max_time=30, batch_size=128, random_state=0)
embeddings = embedder.fit_transform(images)


def unusual(features):
    """Return the mean distance of each row to its 30 nearest neighbors."""
    distances, _ = NearestNeighbors(n_neighbors=31).fit(features).kneighbors(features)
    return distances[:, 1:].mean(axis=1)


scores = {
    "embeddings": unusual(embeddings),
    "pixels": unusual(images.reshape(len(images), -1)),
}
for name, score in scores.items():
    print(f"area under the ROC curve, {name}: {roc_auc_score(is_outlier, score):.2f}")

# %%
# A person looks at the most unusual images first: how many does it take to find the outliers?

figure, axis = plt.subplots(figsize=(6.5, 4), layout="constrained")
for name, score in scores.items():
    axis.plot(np.cumsum(is_outlier[np.argsort(score)[::-1]]), label=name)
axis.set(xlabel="images looked at", ylabel="outliers found", title="Twelve outliers among 1,629 images")
axis.grid(alpha=0.3)
axis.legend(loc="lower right")
