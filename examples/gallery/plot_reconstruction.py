"""
What a masked autoencoder fills in
==================================

Masked methods hide parts of an image and learn to predict them. Their reconstructions show what the
network has understood of the images. This example trains a masked autoencoder (MAE) and draws images,
their visible part, and what it fills in.

The loss ``mae`` is in a package of its own: ``pip install sklearn-ssl-masked``.
"""

# %%
# Digits are enlarged to 32 pixels, so that there are patches to hide. ``warm_start=True`` keeps the
# decoder, which `transform` does not need.

import numpy as np
from sklearn.datasets import load_digits

from sklearn_ssl import ReconstructionDisplay, SSLImageEmbedder

images = load_digits().images
embedder = SSLImageEmbedder("mae", image_size=32, max_time=60, batch_size=32, warm_start=True, random_state=0)
embedder.fit(images[:1500])

# %%
# None of these images was seen in training.

display = ReconstructionDisplay.from_estimator(embedder, images[1500:1505])
first, last = (np.sqrt(embedder.history_[i]["train_loss"]) for i in (0, -1))
print(f"training error (RMS) of hidden patches: {first:.2f} to {last:.2f} standard deviations")
