"""
Few labels, many images
=======================

How many labels does a classifier need? With embeddings that were learned from all images without labels,
a few per class are enough. This example compares logistic regression on pixels, on the features of an
untrained network, and on embeddings, by the number of labels per class.
"""

# %%
# The images are 1,797 handwritten digits. The embedder is trained without labels for half a minute. A
# high temperature keeps images of one class closer together, which matters most with one or two labels
# per class.

from sklearn.datasets import load_digits

from sklearn_ssl import LabelEfficiencyDisplay, SSLImageEmbedder

images, labels = load_digits(return_X_y=True)
images = images.reshape(-1, 8, 8)

embedder = SSLImageEmbedder(loss__temperature=1.0, max_time=30, batch_size=128, random_state=0)
embedder.fit(images)

# %%
# An untrained network of the same kind is the baseline that shows what the training has added:
# ``max_epochs=0`` trains nothing.

untrained = SSLImageEmbedder(max_epochs=0, random_state=0).fit(images)

# %%
# Each point is the mean over ten draws of the labels; the accuracy is that on all other images.

numbers = (1, 2, 5, 10, 50)
display = LabelEfficiencyDisplay.from_estimator(embedder, images, labels, n_labels=numbers, name="embeddings")
LabelEfficiencyDisplay.from_estimator(
    untrained, images, labels, n_labels=numbers, name="untrained", ax=display.ax_
)
LabelEfficiencyDisplay.from_embeddings(
    images.reshape(len(images), -1), labels, n_labels=numbers, name="pixels", ax=display.ax_
)
print(f"accuracy from one label per class: {display.accuracies[0].mean:.1%}")
