"""
Finding near-duplicates
=======================

Collections of images contain the same picture several times: cropped, brighter, compressed. Copies that
differ in every pixel are next to each other in the space of embeddings. This example hides changed
copies among tiles of two photographs and finds them again.
"""

# %%
# The 300 tiles of highest contrast of scikit-learn's sample photographs, and a changed copy of 60 of
# them.

import io

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image, ImageEnhance
from sklearn.datasets import load_sample_images
from sklearn.preprocessing import normalize

from sklearn_ssl import SSLImageEmbedder

rng = np.random.default_rng(0)
SIDE = 32
photos = np.stack(load_sample_images().images)[:, : 13 * SIDE]  # (2, 416, 640, 3)
tiles = photos.reshape(2, 13, SIDE, 20, SIDE, 3).swapaxes(2, 3).reshape(-1, SIDE, SIDE, 3)
tiles = tiles[np.argsort(tiles.std(axis=(1, 2, 3)))[-300:]]


def changed_copy(tile):
    """Return the tile cropped, perhaps mirrored, brighter or darker, and compressed as JPEG."""
    side = rng.integers(20, 29)
    left, top = rng.integers(0, SIDE - side, size=2)
    image = Image.fromarray(tile).crop((left, top, left + side, top + side)).resize((SIDE, SIDE))
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    image = ImageEnhance.Brightness(image).enhance(rng.uniform(0.7, 1.4))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=40)
    return np.asarray(Image.open(file))


originals = rng.choice(len(tiles), 60, replace=False)
images = np.concatenate([tiles, [changed_copy(tiles[i]) for i in originals]])

# %%
# Most of these changes are among the views of the training, and the embeddings learn to ignore them. A
# low temperature suits a task in which each image is a class of its own.

embedder = SSLImageEmbedder(
    loss__temperature=0.1, augment="photo", max_time=60, batch_size=128, random_state=0
)
embeddings = normalize(embedder.fit_transform(images))

# %%
# Look up the nearest tile of each copy, and of its pixels for comparison.


def found(rows):
    similarity = rows[len(tiles) :] @ rows[: len(tiles)].T
    return similarity.argmax(axis=1)


by_embedding = found(embeddings)
by_pixels = found(normalize(images.reshape(len(images), -1) / 255.0))
print(f"copies whose nearest tile is their original: {np.mean(by_embedding == originals):.0%}")
print(f"by pixels: {np.mean(by_pixels == originals):.0%}")

figure, axes = plt.subplots(3, 8, figsize=(10, 4), layout="constrained")
for i, column in enumerate(axes.T):
    for axis, picture in zip(column, (len(tiles) + i, by_embedding[i], by_pixels[i]), strict=True):
        axis.imshow(images[picture])
        axis.set(xticks=[], yticks=[])
for axis, name in zip(axes[:, 0], ("copy", "nearest", "by pixels"), strict=True):
    axis.set_ylabel(name)
