"""
Semi-supervised learning
========================

scikit-learn's semi-supervised classifiers use unlabeled rows, too; what they need are features in which
neighbors are alike. This example gives pixels and embeddings to logistic regression, self-training and
label spreading, with two labels per class.
"""

# %%
# Unlabeled images have the label -1, in scikit-learn as here.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.semi_supervised import LabelSpreading, SelfTrainingClassifier

from sklearn_ssl import SSLImageEmbedder

images, labels = load_digits(return_X_y=True)
images = images.reshape(-1, 8, 8)
rng = np.random.default_rng(0)
chosen = np.concatenate([rng.permutation(np.flatnonzero(labels == c))[:2] for c in range(10)])
few = np.full(len(labels), -1)
few[chosen] = labels[chosen]

embedder = SSLImageEmbedder(loss__temperature=1.0, max_time=30, batch_size=128, random_state=0)
features = {"pixels": images.reshape(len(images), -1), "embeddings": embedder.fit_transform(images)}

# %%
# The first classifier learns from the twenty labeled images alone, the others from all.


class LabeledOnly(LogisticRegression):
    """Logistic regression that leaves out unlabeled rows."""

    def fit(self, X, y, sample_weight=None):
        return super().fit(X[y != -1], y[y != -1])


classifiers = {
    "logistic regression": LabeledOnly(C=0.1, max_iter=2000),
    "self-training": SelfTrainingClassifier(LogisticRegression(C=0.1, max_iter=2000), threshold=0.9),
    "label spreading": LabelSpreading(kernel="knn", n_neighbors=20),
}
hidden = few == -1
scores = {
    (kind, name): make_pipeline(StandardScaler(), classifier)
    .fit(rows, few)
    .score(rows[hidden], labels[hidden])
    for kind, rows in features.items()
    for name, classifier in classifiers.items()
}

# %%
# The accuracy is that on the images whose labels were hidden.

figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
positions = np.arange(len(classifiers))
for i, kind in enumerate(features):
    bars = axis.bar(positions + 0.4 * i, [scores[kind, name] for name in classifiers], 0.38, label=kind)
    axis.bar_label(bars, fmt="{:.0%}")
axis.set_xticks(positions + 0.2, list(classifiers))
axis.set(ylabel="accuracy", ylim=(0, 1.1), title="Two labels per class")
axis.legend(loc="lower right")
print(f"label spreading on embeddings: {scores['embeddings', 'label spreading']:.1%} from 20 labels")
