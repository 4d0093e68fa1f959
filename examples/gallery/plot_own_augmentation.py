"""
Your own augmentation
=====================

The augmentation says what does not matter in an image, and so decides what is learned. This example
looks at the views of a preset, of changed strengths, and of a function, and measures the embeddings that
each gives.
"""

# %%
# A preset with other strengths needs no code: ``augment__rotation=30``. A function maps a batch of
# images (n, channels, height, width) to one view of each, and draws all its random numbers from the
# generator.

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits

from sklearn_ssl import SSLImageEmbedder, ViewsDisplay, get_scorer

images, labels = load_digits(return_X_y=True)
images = images.reshape(-1, 8, 8)


def shift(x, generator):
    """Move each image by up to one pixel in both directions."""
    n, _, height, width = x.shape
    moves = torch.randint(0, 3, (n, 2, 1), generator=generator, device=generator.device)
    padded = torch.nn.functional.pad(x, (1, 1, 1, 1))
    rows = (moves[:, 0] + torch.arange(height, device=x.device))[:, None, :, None]
    columns = (moves[:, 1] + torch.arange(width, device=x.device))[:, None, None, :]
    image, channel = torch.arange(n, device=x.device)[:, None, None, None], torch.arange(x.shape[1])
    return padded[image, channel[None, :, None, None].to(x.device), rows, columns]


candidates = {
    "photo": {"augment": "photo"},
    "symbols": {"augment": "symbols"},
    "more rotation": {"augment": "symbols", "augment__rotation": 45},
    "shift": {"augment": shift},
}

# %%
# Look at the views before a long fit: can you still tell what is shown?

figure, axes = plt.subplots(2, 2, figsize=(10, 7), layout="constrained")
for axis, (name, params) in zip(axes.flat, candidates.items(), strict=True):
    ViewsDisplay.from_estimator(SSLImageEmbedder(**params, random_state=0), images[:4], ax=axis)
    axis.set_title(name)

# %%
# Digits are symbols: flips, as in "photo", are wrong for them, and shifts alone are too easy a task.

accuracy = get_scorer("few_label_accuracy", n_labels=3)
for name, params in candidates.items():
    embedder = SSLImageEmbedder(**params, max_epochs=8, batch_size=128, random_state=0).fit(images)
    print(f"{name:15} {accuracy(embedder, images, labels):.1%} from three labels per class")
