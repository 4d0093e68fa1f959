"""Functions of the user as augmentations, and transforms of single images."""

import random

import numpy as np
import pytest
import torch
from sklearn.model_selection import ParameterGrid
from torchvision.transforms import v2

from sklearn_ssl._views.augmentation import is_drawn_once, make_augment
from sklearn_ssl.augment import Photo

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


def test_an_instance_of_the_settings_is_an_augmentation(embedder, images):
    by_name = embedder(augment="photo", augment__crop=0.5).fit_transform(images)
    np.testing.assert_array_equal(embedder(augment=Photo(crop=0.5)).fit_transform(images), by_name)


def test_an_instance_can_be_searched_by_nested_names(embedder):
    estimator = embedder(augment=Photo(crop=0.5, blur=0.1))
    assert estimator.get_params()["augment__crop"] == 0.5
    made = []
    for params in ParameterGrid({"augment__crop": [0.1, 0.9]}):
        estimator.set_params(**params)
        made.append(make_augment(estimator.augment, estimator.augment_params))
    assert made == [Photo(crop=0.1, blur=0.1), Photo(crop=0.9, blur=0.1)]
    with pytest.raises(ValueError, match="Did you mean 'augment__crop'"):
        estimator.set_params(augment__crp=0.5)
