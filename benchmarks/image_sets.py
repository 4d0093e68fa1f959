"""Sets of labeled images, each split into images to train on and images to test with."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps
from PIL.Image import Resampling
from sklearn.model_selection import GroupShuffleSplit, StratifiedShuffleSplit

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from quickstart import digits

from sklearn_ssl import list_images

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
    """Images of a set, their labels, and the groups of the training images if there are any."""

    name: str
    train: np.ndarray
    y_train: np.ndarray
    test: np.ndarray
    y_test: np.ndarray
    groups: np.ndarray | None = None

    def some(self, n_train: int, n_test: int) -> ImageSet:
        """Return the first images of both parts."""
        return ImageSet(
            self.name,
            self.train[:n_train],
            self.y_train[:n_train],
            self.test[:n_test],
            self.y_test[:n_test],
            None if self.groups is None else self.groups[:n_train],
        )


def read_set(path: str, side: int = 64) -> ImageSet:
    """Read a set of images.

    Parameters
    ----------
    path : str
        "digits" (scikit-learn's); "letters" (capital letters of a font, drawn here); an .npz file, which is
        split as given, else by `group`, else at random in each class; or a folder with one sub-folder of
        images for each class, split at random in each class.
    side : int, default=64
        Side in pixels to which the images of a folder are resized and center-cropped.
    """
    if path == "letters":
        images, y = letters(1000)
        return ImageSet("letters", images, y, images[:0], y[:0])
    if path == "digits":
        train, test, y_train, y_test = digits()
        return ImageSet("digits", train, y_train, test, y_test)
    if Path(path).is_dir():
        images, y = read_folder(Path(path), side)
        return split(Path(path).name, images, y)
    name, arrays = Path(path).stem, np.load(path, allow_pickle=False)
    if "train_images" in arrays:
        parts = ("train_images", "train_labels", "test_images", "test_labels")
        return ImageSet(name, *(arrays[part] for part in parts))
    return split(name, arrays["images"], arrays["labels"], arrays.get("group"))


def split(name: str, images: np.ndarray, y: np.ndarray, groups: np.ndarray | None = None) -> ImageSet:
    """Split images by group if there are groups, else at random in each class."""
    kind = StratifiedShuffleSplit if groups is None else GroupShuffleSplit
    train, test = next(kind(1, test_size=TEST_SHARE, random_state=0).split(images, y, groups))
    of_train = None if groups is None else groups[train]
    return ImageSet(name, images[train], y[train], images[test], y[test], of_train)


def read_folder(folder: Path, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Read the images of a folder; the class of an image is the name of the first sub-folder.

    Returns
    -------
    images : ndarray of shape (n, side, side) or (n, side, side, 3), uint8
        Images, in gray if all files are.
    labels : ndarray of shape (n,)
        Names of the sub-folders.
    """
    paths = [path for path in list_images(folder) if Path(path).parent != folder]
    if len({class_of(path, folder) for path in paths}) < 2:
        raise SystemExit(f"{folder} has to have a sub-folder of images for each of at least two classes.")
    files = [Image.open(path) for path in paths]
    mode = "L" if all(file.mode in ("L", "1", "I;16") for file in files) else "RGB"
    images = [
        np.asarray(ImageOps.fit(file.convert(mode), (side, side), Resampling.LANCZOS)) for file in files
    ]
    return np.stack(images), np.array([class_of(path, folder) for path in paths])


def class_of(path: str, folder: Path) -> str:
    return Path(path).relative_to(folder).parts[0]
