"""Sets of labeled images, each split into images to train on and images to test with."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from sklearn.model_selection import GroupShuffleSplit, StratifiedShuffleSplit

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from quickstart import digits

TEST_SHARE = 0.3


def letters(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw capital letters of several sizes, moved and turned a little, white on black."""
    rng, images = np.random.RandomState(0), []
    y = rng.randint(26, size=n)
    for letter in y:
        image = Image.new("L", (32, 32))
        corner = 8 + rng.randint(-4, 5), 2 + rng.randint(-3, 4)
        font = ImageFont.load_default(rng.randint(16, 25))
        ImageDraw.Draw(image).text(corner, chr(ord("A") + letter), font=font, fill=255)
        images.append(np.array(image.rotate(rng.uniform(-15, 15))))
    return np.stack(images), y


class ImageSet(NamedTuple):
    """Images of a set, and their labels."""

    name: str
    train: np.ndarray
    y_train: np.ndarray
    test: np.ndarray
    y_test: np.ndarray

    def some(self, n_train: int, n_test: int) -> ImageSet:
        """Return the first images of both parts."""
        return ImageSet(
            self.name, self.train[:n_train], self.y_train[:n_train], self.test[:n_test], self.y_test[:n_test]
        )


def read_set(path: str) -> ImageSet:
    """Read a set of images.

    Parameters
    ----------
    path : str
        "digits" (scikit-learn's), "letters" (capital letters of a font, drawn here) or an .npz file, which is
        split as given, else by `group`, else at random in each class.
    """
    if path == "letters":
        images, y = letters(1000)
        return ImageSet("letters", images, y, images[:0], y[:0])
    if path == "digits":
        train, test, y_train, y_test = digits()
        return ImageSet("digits", train, y_train, test, y_test)
    name, arrays = Path(path).stem, np.load(path, allow_pickle=False)
    if "train_images" in arrays:
        parts = ("train_images", "train_labels", "test_images", "test_labels")
        return ImageSet(name, *(arrays[part] for part in parts))
    images, y = arrays["images"], arrays["labels"]
    if "group" in arrays:
        splitter, groups = GroupShuffleSplit(1, test_size=TEST_SHARE, random_state=0), arrays["group"]
    else:
        splitter, groups = StratifiedShuffleSplit(1, test_size=TEST_SHARE, random_state=0), None
    train, test = next(splitter.split(images, y, groups))
    return ImageSet(name, images[train], y[train], images[test], y[test])
