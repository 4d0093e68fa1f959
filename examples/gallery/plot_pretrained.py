"""
From pretrained weights
=======================

A network that was trained on related images can be a better start than random weights. This example
pretrains on a thousand clean digits, and continues on a hundred images from another scanner, inverted
and noisy.
"""

# %%
# Weights may come from torchvision, timm, a file or an earlier fit, as here.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

from sklearn_ssl import LabelEfficiencyDisplay, SSLImageEmbedder

images, labels = load_digits(return_X_y=True)
images = images.reshape(-1, 8, 8)
own = 16 - images[1000:] + np.random.default_rng(0).normal(0, 4, (797, 8, 8))
few = own[:100]  # the images at hand

earlier = SSLImageEmbedder(loss__temperature=1.0, max_time=30, batch_size=128, random_state=0)
earlier.fit(images[:1000])
weights = {"backbone": "resnet10", "backbone__weights": earlier.encoder_.backbone.state_dict()}

# %%
# ``max_epochs=0`` keeps the weights as they are; ``frozen_fraction=0.5`` keeps those of the first half
# of the layers.

fit = {"loss__temperature": 1.0, "max_epochs": 20, "batch_size": 50, "random_state": 0}
candidates = {
    "frozen": SSLImageEmbedder(**weights, max_epochs=0, random_state=0),
    "continued, first half frozen": SSLImageEmbedder(**weights, frozen_fraction=0.5, **fit),
    "continued": SSLImageEmbedder(**weights, **fit),
    "from scratch": SSLImageEmbedder(**fit),
}

# %%
# Each is fitted to the hundred images, without labels, and evaluated on all images of the scanner. These
# differ much from those of the pretraining, so that frozen weights are the worst choice; for images that
# resemble them, they can be the best (:doc:`/pretrained`).

figure, axis = plt.subplots(figsize=(7, 4.5), layout="constrained")
for name, embedder in candidates.items():
    display = LabelEfficiencyDisplay.from_estimator(
        embedder.fit(few), own, labels[1000:], n_labels=(1, 2, 5, 10, 20), ax=axis, name=name
    )
    print(f"{name:30} {display.accuracies[-1].mean:.1%} from 20 labels per class")
axis.set_title(f"Another scanner, {len(few)} images")
