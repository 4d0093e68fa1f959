"""
Choosing a loss by grid search
==============================

The loss and the augmentation are parameters, and their own parameters have nested names, so that
scikit-learn's searches can choose all of them. This example searches over three losses with a few
labels, and shows the accuracy of each candidate.
"""

# %%
# One image in five is labeled; the label of all others is -1. `LabeledKFold` keeps the unlabeled images
# in each training set and scores labeled ones only.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV

from sklearn_ssl import LabeledKFold, SSLImageEmbedder, get_scorer, param_grid

images, labels = load_digits(return_X_y=True)
images = images.reshape(-1, 8, 8)[:1000]
few = np.where(np.arange(1000) % 5 == 0, labels[:1000], -1)

# %%
# `param_grid` gives each loss the parameters that it has: a temperature for ``ntxent`` and ``dcl``, the
# weight of the covariance for ``vicreg``.

embedder = SSLImageEmbedder(max_epochs=4, batch_size=128, random_state=0)
grid = param_grid(
    embedder,
    {
        "loss": ["ntxent", "dcl", "vicreg"],
        "loss__temperature": [0.2, 1.0],
        "loss__cov_coeff": [0.5, 1.0],
    },
)
search = GridSearchCV(
    embedder, grid, scoring=get_scorer("few_label_accuracy", n_labels=3), cv=LabeledKFold(3)
)
search.fit(images, few)

# %%
# The results are those of any search.

names = [
    ", ".join(f"{name.removeprefix('loss__')}={value}" for name, value in params.items())
    for params in search.cv_results_["params"]
]
mean, spread = search.cv_results_["mean_test_score"], search.cv_results_["std_test_score"]
order = np.argsort(mean)

figure, axis = plt.subplots(figsize=(8, 4), layout="constrained")
axis.barh(np.array(names)[order], mean[order], xerr=spread[order], color="tab:blue", alpha=0.7, capsize=3)
axis.set(xlabel="accuracy from three labels per class", title="Candidates of the search", xlim=(0.5, 1))
print(f"best: {search.best_params_}, accuracy {search.best_score_:.1%}")
