"""
Active learning
===============

If an expert labels images one by one, which ones should come first? This example compares images drawn
at random with those that the classifier is least sure of, and starts from one image near the center of
each cluster.
"""

# %%
# Embed all images once; each round then takes a fraction of a second.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from sklearn_ssl import SSLImageEmbedder

images, labels = load_digits(return_X_y=True)
images = images.reshape(-1, 8, 8)
embedder = SSLImageEmbedder(loss__temperature=1.0, max_time=20, batch_size=128, random_state=0)
scaler = StandardScaler()
embeddings = scaler.fit_transform(embedder.fit_transform(images[:1297]))
unseen = scaler.transform(embedder.transform(images[1297:]))
known, truth = labels[:1297], labels[1297:]

# %%
# Both start from the ten images nearest to the centers of ten clusters, and label ten more in each
# round.

start = KMeans(10, n_init=10, random_state=0).fit(embeddings).transform(embeddings).argmin(axis=0)


def by_margin(classifier, rest):
    """Return the ten images with the smallest difference between their two likeliest classes."""
    likeliest = np.sort(classifier.predict_proba(embeddings[rest]), axis=1)
    return rest[np.argsort(likeliest[:, -1] - likeliest[:, -2])[:10]]


rng = np.random.default_rng(0)


def at_random(classifier, rest):
    return rng.choice(rest, 10, replace=False)


def learn(choose, rounds=10):
    chosen, scores = list(start), []
    for _ in range(rounds):
        classifier = LogisticRegression(C=0.1, max_iter=2000).fit(embeddings[chosen], known[chosen])
        scores.append(classifier.score(unseen, truth))
        chosen += list(choose(classifier, np.setdiff1d(np.arange(len(embeddings)), chosen)))
    return scores


random, margin = learn(at_random), learn(by_margin)

# %%
# The accuracy is that on 500 images that neither the embedder nor the classifier has seen.

figure, axis = plt.subplots(figsize=(6.5, 4), layout="constrained")
numbers = 10 * np.arange(1, len(random) + 1)
axis.plot(numbers, margin, "o-", label="least sure")
axis.plot(numbers, random, "s--", label="at random")
axis.set(xlabel="labeled images", ylabel="accuracy on unseen images", title="Which images to label?")
axis.grid(alpha=0.3)
axis.legend()
print(f"with {numbers[4]} labels: {margin[4]:.1%} least sure, {random[4]:.1%} at random")
