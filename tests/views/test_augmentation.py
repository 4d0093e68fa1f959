"""Functions of the user's own as augmentations, and transforms of one image."""

import random

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from sklearn_ssl._views.augmentation import is_drawn_once

IMAGE = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
CROP = v2.RandomResizedCrop(8, scale=(0.2, 0.5))
FLIP = v2.RandomHorizontalFlip()


@pytest.mark.parametrize(
    "augment",
    [
        lambda images, generator: CROP(images),
        lambda images, generator: FLIP(images),
        lambda images, generator: images + torch.rand(1, generator=generator),
        lambda images, generator: images * np.random.rand(),
        lambda images, generator: images * random.random(),
    ],
)
def test_what_is_drawn_for_the_whole_batch_is_noticed(augment):
    assert is_drawn_once(augment, IMAGE)


def fails(images, generator):
    raise RuntimeError


@pytest.mark.parametrize(
    "augment",
    [
        lambda images, generator: torch.stack([CROP(image) for image in images]),
        lambda images, generator: images + torch.rand(len(images), 1, 1, 1, generator=generator),
        lambda images, generator: images.flip(-1),  # always
        lambda images, generator: None,
        fails,
    ],
)
def test_what_is_drawn_for_each_image_or_not_at_all_is_fine(augment):
    assert not is_drawn_once(augment, IMAGE)


def test_a_fit_warns_of_a_transform_in_a_function(embedder, images):
    with pytest.warns(UserWarning, match="^augment draws once for all images of a batch: copies") as caught:
        embedder(augment=lambda batch, generator: CROP(batch)).fit(images)
    assert caught[0].filename == __file__


def test_a_transform_as_it_is_draws_for_each_image(embedder, images):
    assert embedder(augment=CROP).fit(images).n_iter_ == 1
