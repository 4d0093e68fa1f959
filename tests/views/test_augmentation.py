"""Functions of the user as augmentations, and transforms of single images."""

import random

import albumentations
import kornia.augmentation
import numpy as np
import pytest
import torch
from albumentations.pytorch import ToTensorV2
from sklearn.model_selection import ParameterGrid
from torch import nn
from torchvision import transforms as v1
from torchvision.transforms import v2

from sklearn_ssl._hardware.ambient import lent_generators
from sklearn_ssl._hashing import fingerprint
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


# ------------------------------------------------------------------ transforms of other libraries

A, K = albumentations, kornia.augmentation


def shifted(images, generator):
    return images + 0.1 * torch.rand(len(images), 1, 1, 1, generator=generator)


TRANSFORMS = {
    "torchvision": lambda: v2.RandomResizedCrop(8),
    "torchvision v1": lambda: v1.Compose([v1.RandomCrop(6), v1.RandomHorizontalFlip()]),
    "nn.Sequential of torchvision": lambda: nn.Sequential(v2.RandomCrop(6), v2.RandomHorizontalFlip()),
    "list of torchvision": lambda: [v2.RandomCrop(6), v2.RandomHorizontalFlip()],
    "kornia": lambda: K.RandomResizedCrop((8, 8)),
    "kornia's container": lambda: K.AugmentationSequential(K.RandomAffine(20.0), data_keys=["input"]),
    "kornia's random order": lambda: K.ImageSequential(
        K.RandomAffine(20.0), K.RandomErasing(p=1.0), random_apply=1
    ),
    "nn.Sequential of kornia": lambda: nn.Sequential(K.RandomAffine(20.0), K.RandomHorizontalFlip()),
    "albumentations": lambda: A.RandomResizedCrop((8, 8)),
    "albumentations' Compose": lambda: A.Compose([A.RandomCrop(6, 6), A.RandomBrightnessContrast(p=1)]),
    "albumentations to tensors": lambda: A.Compose([A.RandomCrop(6, 6), ToTensorV2()]),
    "albumentations' choice": lambda: A.OneOf([A.RandomCrop(6, 6), A.CenterCrop(6, 6)], p=1),
    "of several libraries": lambda: (K.RandomAffine(20.0), v2.RandomCrop(6), A.VerticalFlip(), shifted),
}


@pytest.fixture(params=TRANSFORMS.values(), ids=TRANSFORMS)
def transform(request):
    return request.param


def views(augment, images, seed):
    """Return what a fit draws for images (n, channels, height, width)."""
    with lent_generators(seed, images.device):
        return make_augment(augment, {})(images, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("n_channels", [1, 3, 5])
def test_a_transform_draws_for_each_image_by_the_seed_alone(transform, n_channels):
    image = torch.rand(n_channels, 8, 8, generator=torch.Generator().manual_seed(0))
    copies, augment = image.expand(16, -1, -1, -1), transform()
    drawn = views(augment, copies, 0)
    assert drawn.shape[:2] == copies.shape[:2]
    assert drawn.dtype == torch.float32
    assert not torch.equal(drawn, drawn[:1].expand_as(drawn))
    assert torch.equal(views(augment, copies, 0), drawn)
    assert torch.equal(views(transform(), copies, 0), drawn)
    assert not torch.equal(views(augment, copies, 1), drawn)


def test_fits_on_views_of_a_transform_are_repeatable(transform, embedder, images):
    first, again = (embedder(augment=transform()).fit_transform(images) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(embedder(augment=transform(), random_state=1).fit_transform(images), first)


def test_a_fit_leaves_a_transform_as_it_was(transform, embedder, images):
    augment = transform()
    before = fingerprint(augment)
    assert before == fingerprint(transform())  # as a checkpoint has it
    embedder(augment=augment).fit(images)
    assert fingerprint(augment) == before


def test_albumentations_gets_channels_last_and_kornia_whole_batches():
    images = torch.rand(4, 3, 6, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(views(A.HorizontalFlip(p=1), images, 0), images.flip(-1))
    assert torch.equal(views(K.RandomHorizontalFlip(p=1.0), images, 0), images.flip(-1))
    assert torch.equal(
        views([A.VerticalFlip(p=1), v2.RandomHorizontalFlip(1)], images, 0), images.flip(-1, -2)
    )


def test_the_steps_of_albumentations_do_not_draw_the_same_numbers():
    # Were they to, an image would be flipped in both directions or in none.
    image = torch.arange(4.0).reshape(1, 1, 2, 2) / 4
    flipped = views(A.Compose([A.HorizontalFlip(), A.VerticalFlip()]), image.expand(50, -1, -1, -1), 0)
    assert len(flipped.unique(dim=0)) == 4


def test_kornia_is_asked_to_draw_for_each_image(embedder, images):
    with pytest.warns(UserWarning, match="draws once for all images .*in kornia, same_on_batch=False"):
        embedder(augment=K.RandomAffine(20.0, same_on_batch=True)).fit(images)


def of_lightly(name, **attributes):
    """Return an instance of a class that looks like lightly's."""
    return type(name, (), {"__module__": f"lightly.transforms.{name}", "__call__": FLIP, **attributes})()


@pytest.mark.parametrize(
    ("augment", "words"),
    [
        (
            of_lightly("SimCLRTransform", transforms=[FLIP, FLIP]),
            r"v2.Compose\(\[v2.ToPILImage\(\), SimCLRTransform\(..., normalize=None\).transforms\[0\]\]\)",
        ),
        (
            of_lightly("SimCLRViewTransform"),
            r"v2.Compose\(\[v2.ToPILImage\(\), SimCLRViewTransform\(..., normalize=None\)\]\)",
        ),
        (
            lambda x: x,
            r"takes \(x\)\. .* augment=lambda images, generator: f\(images\)\. .* augment=v2.Lambda\(f\)",
        ),
        (torch.nn.Identity(), r"augment=lambda images, generator: transform\(images\)\."),
        (v2.functional.horizontal_flip, r"augment=v2.Lambda\(horizontal_flip\)"),
        (lambda image, strength=0.5: image, r"takes \(image, strength=0.5\)\. "),
        (torch.fliplr, r"augment=lambda images, generator: f\(images\)\."),
        (v1.Compose([v1.ToTensor()]), "leave ToTensor and Normalize out"),
        (["photo"], r"a list with 'photo'\. .* a preset stands alone: augment='photo'"),
    ],
)
def test_what_is_called_otherwise_is_told_its_wrapper(augment, words, embedder, images):
    with pytest.raises(ValueError, match=words):
        embedder(augment=augment).fit(images)


@pytest.mark.parametrize("augment", [lambda images, generator: FLIP(images), v2.Lambda(FLIP)])
def test_the_wrappers_work(augment, embedder, images):
    assert embedder(augment=[augment, shifted]).fit(images).n_iter_ == 1
