"""
Clustering, and naming the clusters
===================================

Without any label, embeddings can be clustered, and a person can name the clusters by looking at a few
images of each: ten names instead of 1,797 labels. This example does both, and measures how many images
then have the right name.
"""

# %%
# Embeddings are scaled to unit length, as NT-Xent compares directions.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.metrics import adjusted_rand_score
from sklearn.preprocessing import normalize

from sklearn_ssl import SSLImageEmbedder

images, labels = load_digits(return_X_y=True)
images = images.reshape(-1, 8, 8)
embedder = SSLImageEmbedder(loss__temperature=1.0, max_time=40, batch_size=128, random_state=0)
embeddings = normalize(embedder.fit_transform(images))

kmeans = KMeans(10, n_init=10, random_state=0).fit(embeddings)

# %%
# The images nearest to the center of a cluster show what it holds. Here, the most frequent label of
# these eight images stands for the name that a person would give.

distances = kmeans.transform(embeddings)
nearest = distances.argsort(axis=0)[:8].T  # (10 clusters, 8 images)
names = np.array([np.bincount(labels[row]).argmax() for row in nearest])

figure, axes = plt.subplots(10, 8, figsize=(5, 6.5), layout="constrained")
for row, name, members in zip(axes, names, nearest, strict=True):
    row[0].set_ylabel(name, rotation=0, labelpad=12, fontsize=13, va="center")
    for axis, i in zip(row, members, strict=True):
        axis.imshow(images[i], cmap="gray_r")
        axis.set(xticks=[], yticks=[])
figure.suptitle("The eight images nearest to each center")

pixels = KMeans(10, n_init=10, random_state=0).fit(images.reshape(len(images), -1))
print(f"adjusted Rand index: {adjusted_rand_score(labels, kmeans.labels_):.2f}")
print(f"of pixels: {adjusted_rand_score(labels, pixels.labels_):.2f}")
print(f"images with the right name: {np.mean(names[kmeans.labels_] == labels):.1%}")
