import inspect
import math
import random

import numpy as np
import pytest
import scipy.ndimage
import torch
import torch.nn.functional as F
from torch import nn
from torchvision import transforms
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from sklearn_ssl._images.resize import resize_and_center
from sklearn_ssl._views import geometry, photometry, random_views
from sklearn_ssl._views.augmentation import make_augment
from sklearn_ssl._views.draws import Draws, Rows
from sklearn_ssl._views.random_views import RandomViews
from sklearn_ssl._views.transforms import library_of
from sklearn_ssl.augment import PRESETS, Augment, Overhead, Photo, Symbols
from sklearn_ssl.losses._base import ViewSpec, view_kinds


def pictures(n=4, channels=3, height=16, width=16, low=0.0, high=1.0):
    noise = torch.rand(n, channels, height, width, generator=torch.Generator().manual_seed(0))
    return low + (high - low) * noise


def smooth_pictures(n=4, size=32):
    return photometry.gaussian_blur(pictures(n, 3, size, size), torch.full((n,), 2.0))


def raw_views(augment, images, views=None, seed=0, size=None, **options):
    """Return views in the units of the images."""
    channels = images.shape[1]
    draw = RandomViews(
        augment, size or images.shape[-2:], torch.zeros(channels), torch.ones(channels), **options
    )
    return draw(images, views or ViewSpec(), seed)


def same(a, b, atol=1e-5):
    torch.testing.assert_close(a, b, atol=atol, rtol=0)


def each(value, n=4):
    return torch.full((n,), float(value))


def turned(images, angle=0.0, shear=0.0, flip=False, vertical_flip=False):
    """Apply `affine_sample` once to whole images."""
    n, _, *size = images.shape
    flips = torch.full((n,), flip), torch.full((n,), vertical_flip)
    turn = geometry.turn_matrix(each(angle, n), each(shear, n), *flips, size)
    return geometry.affine_sample(
        images, geometry.crop_matrix(each(0, n), each(0, n), each(1, n), each(1, n), turn), size
    )


# --- Presets ----------------------------------------


def test_signatures_show_the_defaults_of_each_preset():
    defaults = {
        name: {p.name: p.default for p in inspect.signature(preset).parameters.values()}
        for name, preset in PRESETS.items()
    }
    assert [defaults[name]["crop"] for name in ("none", "photo", "symbols", "overhead")] == [
        1.0,
        0.2,
        0.4,
        0.2,
    ]
    assert defaults["overhead"]["vertical_flip"] == 0.5
    assert defaults["symbols"]["flip"] == defaults["symbols"]["vertical_flip"] == 0
    assert all(list(each) == list(defaults["none"]) for each in defaults.values())


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("blur", 1.5, "augment__blur=1.5: give a finite number of at least 0 and at most 1, or 'auto'."),
        ("flip", -0.1, "augment__flip=-0.1: give a finite number of at least 0 and at most 1."),
        ("crop", 0.0, "augment__crop=0.0: give a finite number above 0 and at most 1."),
        ("crop", 1.1, "augment__crop=1.1: give a finite number above 0 and at most 1."),
        ("hue", 0.6, "augment__hue=0.6: give a finite number of at least 0 and at most 0.5."),
        ("rotation", 181, "augment__rotation=181: give a finite number of at least 0 and at most 180."),
        ("shear", 90, "augment__shear=90: give a finite number of at least 0 and at most 80."),
        ("contrast", -1, "augment__contrast=-1: give a finite number of at least 0."),
        ("brightness", math.inf, "augment__brightness=inf: give a finite number of at least 0."),
        ("flip", True, "augment__flip=True: give a finite number of at least 0 and at most 1."),
        ("noise", math.nan, "augment__noise=nan: give a finite number of at least 0."),
        ("flip", "auto", "augment__flip='auto': give a finite number of at least 0 and at most 1."),
        ("solarize", None, "augment__solarize=None: give a finite number of at least 0 and at most 1."),
    ],
)
def test_a_value_out_of_range_is_named_as_the_user_wrote_it(name, value, words):
    with pytest.raises(ValueError) as error:
        Photo(**{name: value})
    assert str(error.value) == words


def test_photo_blurs_from_64_pixels_on():
    assert random_views.fit_to_size(Photo(), (63, 200)).blur == 0
    assert random_views.fit_to_size(Photo(), (64, 200)).blur == 0.5
    assert random_views.fit_to_size(Photo(blur=0.3), (32, 32)).blur == 0.3


# --- Random views ----------------------------------------


def test_with_everything_off_a_view_is_the_image_normalized():
    images, mean, std = pictures(), torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 0.25, 2.0])
    first, second = RandomViews(Augment(), (16, 16), mean, std)(images, ViewSpec(), seed=0)
    assert torch.equal(first, (images - mean[:, None, None]) / std[:, None, None])
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    "off",
    [
        Augment(color_jitter=1),
        Augment(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1),
        Augment(color_jitter=1e-9, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, cutout=1e-9),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_strengths_of_0_or_probabilities_of_0_change_nothing_at_all(off, channels):
    images = pictures(channels=channels)
    for view in raw_views(off, images):
        assert torch.equal(view, images)


def test_the_same_seed_gives_the_same_views_and_another_seed_others():
    images = pictures()
    once, again, other = (raw_views(Photo(noise=0.1), images, seed=seed) for seed in (7, 7, 8))
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
    assert all(not torch.equal(a, b) for a, b in zip(once, other, strict=True))


def test_the_two_views_are_independent():
    # seed + view would make the second view of step 0 the first one of step 1
    images = pictures()
    first, second = raw_views(Photo(), images, seed=0)
    assert not torch.equal(first, second)
    assert not torch.equal(second, raw_views(Photo(), images, seed=1)[0])


def test_identical_images_of_a_batch_get_different_views():
    images = pictures(n=1).expand(50, -1, -1, -1)
    view = raw_views(Photo(), images)[0].flatten(1)
    assert (torch.cdist(view, view) + torch.eye(50)).min() > 1e-3


def test_a_view_depends_on_its_own_image_and_place_only():
    everything = Overhead(blur=0.5, noise=0.1, cutout=0.5, solarize=0.5, sobel=0.5, rotation=20, shear=10)
    images = pictures(n=6)
    others = torch.cat([images[:1], 1 - images[1:5], images[5:]])
    for a, b in zip(raw_views(everything, images), raw_views(everything, others), strict=True):
        same(a[[0, 5]], b[[0, 5]], atol=1e-6)
        assert not torch.allclose(a[1:5], b[1:5])


def test_images_and_the_global_random_state_stay_as_they_are():
    images = pictures()
    kept, torch_state = images.clone(), torch.get_rng_state()
    numpy_state = np.random.get_state()[1].copy()
    raw_views(Overhead(noise=0.1, blur=1, cutout=1, solarize=1, sobel=1), images)
    raw_views(Augment(blur=1, cutout=1, solarize=1, sobel=1, noise=0.1), images)
    raw_views(lambda x, generator: x.mul_(2), images)
    assert torch.equal(images, kept)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)


def test_nothing_waits_for_the_device():
    # a meta tensor has no values: reading one, or mixing it with the CPU's, raises
    everything = Overhead(blur=0.5, noise=0.1, cutout=0.5, solarize=0.5, sobel=0.5, rotation=20, shear=10)
    images = pictures(n=8, height=40, width=40).to("meta")
    views = ViewSpec(local=2, recipes=("strong", "weak", "none"))
    assert {view.device.type for view in raw_views(everything, images, views, size=(16, 16))} == {"meta"}


def test_local_views_come_last_and_are_smaller():
    images = pictures(height=20, width=30)
    shapes = [tuple(v.shape[-2:]) for v in raw_views(Photo(), images, ViewSpec(n=2, local=3, local_size=0.4))]
    assert shapes == [(20, 30)] * 2 + [(8, 12)] * 3
    tiny = raw_views(Photo(), pictures(height=1, width=3), ViewSpec(n=0, local=1, local_size=0.2))
    assert tiny[0].shape == (4, 3, 1, 1)


def test_a_recipe_may_differ_from_the_augmentation_in_some_strengths():
    images = pictures().clamp(0, 1)
    views = ViewSpec(3, recipes=({"solarize": 1.0}, {"solarize": 0.0, "flip": 1.0}, "strong"))
    inverted, flipped, plain = raw_views(Augment(), images, views)
    torch.testing.assert_close(inverted, torch.where(plain >= 0.5, 1 - plain, plain))
    torch.testing.assert_close(flipped, plain.flip(3))


def test_an_impossible_strength_of_a_recipe_is_named():
    with pytest.raises(ValueError, match="solarize=2"):
        raw_views(Augment(), pictures(), ViewSpec(recipes=({"solarize": 2},)))


def test_recipes_are_cycled_and_weak_only_crops_and_flips():
    flipping = Augment(flip=1, rotation=90, color_jitter=1, brightness=0.9, grayscale=1, noise=0.1, sobel=1)
    images = pictures()
    weak, none, strong, weak_again = raw_views(
        flipping, images, ViewSpec(n=4, recipes=("weak", "none", "strong"))
    )
    same(weak, images.flip(3))
    same(weak_again, images.flip(3))
    assert torch.equal(none, images)
    assert not torch.allclose(strong, images.flip(3), atol=0.1)


def test_local_crops_of_several_sizes_take_turns():
    views = ViewSpec(1, local=3, local_size=(0.75, 0.25), local_scale=((0.5, 0.5), (0.1, 0.1)))
    assert [kind.size for kind in view_kinds(views)] == [1.0, 0.75, 0.25, 0.75]
    assert [kind.scale for kind in view_kinds(views)] == [None, (0.5, 0.5), (0.1, 0.1), (0.5, 0.5)]
    drawn = raw_views(Photo(), pictures(), views)
    assert [view.shape[-1] for view in drawn] == [16, 12, 4, 12]


# ------------------------------------------------------------------ places


def coordinates(n=5, height=40, width=56):
    """Return images whose two channels are the x and y of their pixels, from -1 to 1 between the edges."""
    y, x = ((2 * torch.arange(side) + 1) / side - 1 for side in (height, width))
    return torch.stack([x.expand(height, -1), y[:, None].expand(-1, width)]).expand(n, -1, -1, -1)


@pytest.mark.parametrize(
    ("augment", "views"),
    [
        (Augment(crop=0.2), ViewSpec(2)),
        (Augment(crop=0.9, flip=1.0), ViewSpec(1, recipes=("weak",))),
        (Augment(crop=0.3, flip=0.5, vertical_flip=0.5, quarter_turns=0.5), ViewSpec(2)),
        (Augment(crop=0.3, rotation=40.0, shear=15.0, flip=0.5), ViewSpec(2)),
        (Augment(crop=0.5), ViewSpec(1, local=3, local_size=(0.5, 0.25), recipes=({"flip": 1.0},))),
        (Augment(), ViewSpec(1, recipes=("none",))),
    ],
)
@pytest.mark.parametrize("size", [(32, 32), (20, 36)])
def test_places_tell_what_a_view_shows(augment, views, size):
    images = coordinates()
    draw = RandomViews(augment, size, torch.zeros(2), torch.ones(2), clamp=False)
    places = draw.places(images.shape[-2:], views, 3, Rows(5), torch.device("cpu"))
    for view, place in zip(draw(images, views, 3), places, strict=True):
        y, x = ((2 * torch.arange(side) + 1) / side - 1 for side in view.shape[-2:])
        points = torch.stack([*torch.meshgrid(x, y, indexing="xy"), torch.ones(view.shape[-2:])])
        told = torch.einsum("nip,phw->nihw", place, points)
        inside = (told.abs() < 0.95).all(dim=1, keepdim=True).expand_as(view)  # the border is reflected
        assert inside.float().mean() > 0.3
        # A resized and centered image is cut at whole pixels.
        torch.testing.assert_close(view[inside], told[inside], atol=0.05, rtol=0)


def test_places_of_some_rows_are_those_of_the_whole_batch():
    draw = RandomViews(Photo(), (16, 16), torch.zeros(3), torch.ones(3))
    whole, part = (
        draw.places((20, 20), ViewSpec(2), 1, rows, torch.device("cpu"))
        for rows in (Rows(6), Rows(6, slice(2, 5)))
    )
    for a, b in zip(whole, part, strict=True):
        assert torch.equal(a[2:5], b)


def test_an_unknown_recipe_is_named():
    with pytest.raises(ValueError) as error:
        raw_views(Photo(), pictures(), ViewSpec(recipes=("week",)))
    assert str(error.value) == (
        "Unknown recipe 'week' in ViewSpec. Available: 'strong', 'weak', 'none', or a dict of strengths that "
        "differ from those of 'strong'."
    )


def spread_of_ramp(view):
    """Return the fraction of the image's width that a view covers, from a left-to-right ramp."""
    return (view.amax((1, 2, 3)) - view.amin((1, 2, 3))) / (1 - 1 / view.shape[-1])


def test_a_loss_can_set_the_scale_of_full_and_local_views():
    ramp = ((torch.arange(64) + 0.5) / 64).expand(200, 1, 64, 64)
    views = ViewSpec(n=1, local=1, scale=(0.25, 0.25), local_scale=(0.04, 0.04))
    full, local = (spread_of_ramp(view) for view in raw_views(Augment(crop=0.9), ramp, views))
    # sides are the square root of the area, times up to sqrt(4 / 3) for the ratio of sides
    assert 0.4 < full.min() < 0.46
    assert 0.54 < full.max() < 0.59
    assert 0.16 < local.min() < 0.19
    assert 0.21 < local.max() < 0.24


def test_without_a_scale_the_area_is_uniform_from_crop_to_1():
    top, left, height, width = geometry.draw_crop((0.2, 1.0), (32, 32), (32, 32), Draws(0, Rows(20_000)))
    area = height * width
    assert area.min() >= 0.2 - 1e-6
    assert [area.quantile(q).item() for q in (0.25, 0.5, 0.75)] == pytest.approx([0.4, 0.6, 0.8], abs=0.015)
    assert min(top.min(), left.min()) >= 0
    assert max((top + height).max(), (left + width).max()) <= 1 + 1e-6
    ratio = width / height
    assert ratio.min() >= 0.75 - 1e-4
    assert ratio.max() <= 4 / 3 + 1e-4


def test_crops_have_the_shape_of_the_view_whatever_the_shape_of_the_image():
    _, _, height, width = geometry.draw_crop((0.2, 1.0), (20, 60), (32, 32), Draws(0, Rows(1000)))
    ratio = (60 * width) / (20 * height)
    assert 0.74 < ratio.min() < ratio.max() < 1.34


@pytest.mark.parametrize("preset", list(PRESETS.values()))
@pytest.mark.parametrize("shape", [(1, 3, 1, 7), (2, 1, 7, 1), (1, 13, 1, 1), (3, 13, 5, 2), (2, 2, 40, 24)])
def test_any_number_of_channels_and_images_of_1_by_n_pixels(preset, shape):
    images = pictures(*shape)
    everything = preset(blur=1.0, noise=0.1, cutout=1.0, solarize=1.0, sobel=1.0, grayscale=1.0)
    for view in raw_views(everything, images, ViewSpec(local=2), size=(shape[2], shape[3])):
        assert view.shape[:2] == shape[:2]
        assert torch.isfinite(view).all()


def test_values_are_clamped_only_where_images_lie_in_0_to_1():
    images = pictures(low=0.0, high=1.0)
    loud = Augment(color_jitter=1, brightness=1, contrast=1, noise=0.3)
    clamped, free = raw_views(loud, images)[0], raw_views(loud, images, clamp=False)[0]
    assert clamped.min() == 0
    assert clamped.max() == 1
    assert free.min() < 0
    assert free.max() > 1


@pytest.mark.parametrize(
    "augment",
    [
        Augment(flip=0.3),
        Augment(vertical_flip=0.3),
        Augment(quarter_turns=0.3),
        Augment(color_jitter=0.3, brightness=0.5),
        Augment(grayscale=0.3),
        Augment(blur=0.3),
        Augment(solarize=0.3),
        Augment(cutout=0.3),
        Augment(sobel=0.3),
    ],
)
def test_a_probability_is_the_share_of_images_changed(augment):
    # 2,000 images: the standard error is 0.01
    images = pictures(n=2000, height=6, width=6)
    difference = (raw_views(augment, images)[0] - images).abs().amax((1, 2, 3))
    assert (difference > 1e-4).float().mean().item() == pytest.approx(0.3, abs=0.04)


def test_quarter_turns_are_equally_likely():
    angle, *_ = geometry.draw_turn(Augment(quarter_turns=0.75), Draws(0, Rows(9000)))
    shares = [(angle == degrees).float().mean().item() for degrees in (0, 90, 180, 270)]
    assert shares == pytest.approx([0.25] * 4, abs=0.02)


# --- The user's own function ----------------------------------------


def jitter(images, generator):
    return images + torch.rand(len(images), 1, 1, 1, generator=generator, device=images.device)


def test_a_function_is_called_for_strong_and_weak_views_with_its_own_generator():
    images = pictures()
    strong, none, weak = raw_views(jitter, images, ViewSpec(n=3, recipes=("strong", "none", "weak")))
    assert torch.equal(none, images)
    shifts = torch.stack([(view - images).mean((1, 2, 3)) for view in (strong, weak)])
    assert len(shifts.flatten().unique()) == 8
    assert torch.equal(strong, raw_views(jitter, images)[0])


def test_a_function_s_views_are_resized_and_local_ones_cropped_before():
    seen = []

    def halve(images, generator):
        seen.append(images)
        return images[:, :, ::2, ::2].double()

    images = ((torch.arange(16) + 0.5) / 16).expand(4, 1, 16, 16)
    full, local = raw_views(halve, images, ViewSpec(n=1, local=1, local_scale=(0.1, 0.1)))
    assert [tuple(x.shape[-2:]) for x in (*seen, full, local)] == [(16, 16), (8, 8), (16, 16), (8, 8)]
    assert full.dtype == torch.float32
    assert spread_of_ramp(seen[1]).max() < 0.4  # sqrt(0.1 * 4 / 3) = 0.365


@pytest.mark.parametrize(
    ("wrong", "given"),
    [
        (lambda x, generator: x[:2], "a float32 tensor of shape (2, 3, 16, 16)"),
        (lambda x, generator: x[:, :1], "a float32 tensor of shape (4, 1, 16, 16)"),
        (lambda x, generator: x[0], "a float32 tensor of shape (3, 16, 16)"),
        (lambda x, generator: (x * 255).byte(), "a uint8 tensor of shape (4, 3, 16, 16)"),
        (lambda x, generator: (x, x), "tuple"),
        (lambda x, generator: None, "NoneType"),
    ],
)
def test_a_function_that_returns_no_views_is_told_what_it_returned(wrong, given):
    with pytest.raises(ValueError) as error:
        raw_views(wrong, pictures())
    assert str(error.value) == (
        f"augment returned {given} for images of shape (4, 3, 16, 16). It must return one view of each "
        "image: a float tensor of shape (4, 3, height, width)."
    )


# --- Geometry ----------------------------------------


def scaled_whole_then_cut(images, size):
    """Scale every pixel, including those that are cut off, and crop."""
    ratio = max(new / old for new, old in zip(size, images.shape[2:], strict=True))
    whole = [max(new, round(old * ratio)) for new, old in zip(size, images.shape[2:], strict=True)]
    made = F.interpolate(images, size=whole, mode="bilinear", align_corners=False, antialias=True)
    top, left = ((large - small) // 2 for large, small in zip(whole, size, strict=True))
    return made[..., top : top + size[0], left : left + size[1]]


@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (7, 5), (33, 99), (132, 33), (224, 224), (480, 640)])
@pytest.mark.parametrize("size", [(16, 16), (64, 64), (32, 24)])
def test_of_ordinary_images_nothing_is_cut_before_they_are_scaled(shape, size):
    images = torch.rand(2, 3, *shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(resize_and_center(images, size), scaled_whole_then_cut(images, size))


@pytest.mark.parametrize("shape", [(10, 301), (301, 10), (10, 500), (100, 1301), (7, 100), (50, 333)])
@pytest.mark.parametrize("size", [(16, 16), (15, 15)])
def test_of_long_images_it_is_the_middle_to_within_a_pixel_of_the_view(shape, size):
    ramp = torch.arange(shape[0])[:, None] + torch.arange(shape[1])  # the value is the place in the image
    images = ramp[None, None].to(torch.float32)
    moved = (resize_and_center(images, size) - scaled_whole_then_cut(images, size)).abs().max()
    # Either may round the middle by half a pixel of the view.
    assert moved < 0.6 * min(shape) / min(size)


def test_a_line_of_a_million_pixels_takes_no_more_than_a_few_views():
    # Scaled whole it would be 224 x 224,000,000 pixels: 200 GB.
    for shape in ((1, 10**6), (10**6, 1)):
        assert resize_and_center(torch.ones(1, 1, *shape), (224, 224)).shape == (1, 1, 224, 224)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda x: x, "<lambda>() takes 1 positional argument but 2 were given"),
        (lambda x, generator: x[:, 7], "index 7 is out of bounds for dimension 1 with size 3"),
    ],
)
def test_a_function_that_fails_is_told_how_it_is_called(wrong, words):
    with pytest.raises(ValueError) as error:
        raw_views(wrong, pictures())
    message = str(error.value).replace("test_a_function.", "")
    assert (
        f"{words}. It is called as augment(images, generator) and returns one view of each image" in message
    )
    assert "otherwise needs a wrapper, augment=lambda images, generator: f(images)." in message
    assert message.startswith("augment failed on images of shape (4, 3, 16, 16): ")


def test_what_a_function_draws_from_global_generators_is_repeated_by_the_seed():
    def noisy(images, generator):
        drawn = torch.rand(1).item(), np.random.rand(), random.random(), torch.rand(1, generator=generator)
        assert len(set(drawn)) == 4  # no two generators draw the same
        return images + sum(drawn)

    images = pictures()
    first, second = raw_views(noisy, images)
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    again = raw_views(noisy, images)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert random.getstate() == states[2]
    same(torch.stack(again), torch.stack([first, second]))
    assert not torch.allclose(first, second)
    assert not torch.allclose(raw_views(noisy, images, seed=1)[0], first)


TRANSFORMS = {
    "v2": v2.RandomResizedCrop(16, scale=(0.2, 0.5)),
    "v2.Compose": v2.Compose([v2.RandomHorizontalFlip(), v2.RandomResizedCrop(16, scale=(0.2, 0.5))]),
    "v1": transforms.RandomResizedCrop(16, scale=(0.2, 0.5)),
    "v1.Compose": transforms.Compose([transforms.RandomResizedCrop(16, scale=(0.2, 0.5))]),
    "Sequential": nn.Sequential(transforms.RandomResizedCrop(16, scale=(0.2, 0.5))),
}


@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_a_transform_of_torchvision_is_applied_to_each_image_by_itself(transform):
    augment = make_augment(transform, {})
    image = pictures(n=1).expand(4, 3, 16, 16)
    first, second = raw_views(augment, image)
    assert first.shape == (4, 3, 16, 16)
    rows = torch.cat([first, second]).flatten(1)
    assert len(rows.unique(dim=0)) == 8  # each view of each image is another crop
    same(raw_views(augment, image)[0], first)


def test_modules_and_functions_of_others_are_no_transforms():
    class Mine(nn.Module):
        def forward(self, images, generator):
            return images

    class Own(v2.Transform):
        def transform(self, image, params):
            return 1 - image

    for augment in (Mine(), nn.Sequential(), nn.Sequential(Mine()), lambda x, g: x):
        assert library_of(augment) == ""
    assert library_of(Own()) == "torchvision"
    images = pictures()
    same(raw_views(make_augment(Own(), {}), images)[0], 1 - images)


def test_resize_and_center_fits_the_short_side_and_keeps_what_fits():
    images = pictures(height=20, width=30)
    assert resize_and_center(images, (20, 30)) is images
    by_torchvision = tv.center_crop(tv.resize(images, [10, 15], antialias=True), [10, 10])
    # 15 - 10 is odd: torchvision rounds the margin 2.5 to 2 as well
    same(resize_and_center(images, (10, 10)), by_torchvision)
    assert resize_and_center(images, (64, 48)).shape == (4, 3, 64, 48)
    assert resize_and_center(images[..., :1, :], (5, 5)).shape == (4, 3, 5, 5)


def test_flips_are_torchvision_s():
    images = pictures(height=8, width=12)
    same(turned(images, flip=True), tv.horizontal_flip(images))
    same(turned(images, vertical_flip=True), tv.vertical_flip(images))


@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_quarter_turns_are_rot90(quarters):
    images = pictures()
    same(turned(images, angle=90 * quarters), torch.rot90(images, quarters, (2, 3)))


def test_a_flip_follows_the_turn():
    images = pictures()
    same(turned(images, angle=90, flip=True), torch.rot90(images, 1, (2, 3)).flip(3))


@pytest.mark.parametrize("shape", [(33, 33), (24, 40)])
def test_rotation_is_torchvision_s_about_the_center(shape):
    images = smooth_pictures(size=40)[..., : shape[0], : shape[1]]
    expected = tv.rotate(images, 25.0, interpolation=tv.InterpolationMode.BILINEAR)
    inside = tv.rotate(torch.ones_like(images), 25.0, interpolation=tv.InterpolationMode.BILINEAR) > 0.999
    assert inside.float().mean() > 0.5
    same(turned(images, angle=25.0)[inside], expected[inside], atol=1e-4)


def test_shear_moves_each_row_by_its_height_times_the_tangent():
    image = smooth_pictures(n=1, size=33)
    sheared = turned(image, shear=20.0)[0, 0].numpy()
    for row in (6, 16, 25):
        shift = math.tan(math.radians(20)) * (row - 16)
        expected = np.interp(np.arange(33) + shift, np.arange(33), image[0, 0, row].numpy())
        inside = slice(5, 28)
        np.testing.assert_allclose(sheared[row, inside], expected[inside], atol=1e-4)


def test_outside_of_the_image_is_its_reflection():
    images = pictures(n=1, height=4, width=4)
    wide = geometry.affine_sample(
        images, geometry.crop_matrix(each(0, 1), each(-0.5, 1), each(1, 1), each(2, 1)), (4, 8)
    )
    same(wide, torch.cat([images[..., :2].flip(3), images, images[..., 2:].flip(3)], dim=3))


def test_a_crop_is_torchvision_s_resized_crop():
    images = pictures(height=24, width=32)
    top, left, height, width = 4, 6, 12, 18
    box = each(top / 24), each(left / 32), each(height / 24), each(width / 32)
    expected = tv.resized_crop(images, top, left, height, width, [20, 30], antialias=False)
    # inside: at its border torchvision's crop does not see the pixels next to it
    inside = (..., slice(2, -2), slice(2, -2))
    same(geometry.affine_sample(images, geometry.crop_matrix(*box), (20, 30))[inside], expected[inside])


def test_views_much_smaller_than_the_image_are_averages():
    # single pixels of a checkerboard would be 0 or 1
    board = (torch.arange(64)[:, None] + torch.arange(64)).remainder(2).float().expand(8, 1, 64, 64)
    view = raw_views(Augment(crop=0.9), board, size=(16, 16))[0]
    assert (view - 0.5).abs().max() < 0.01


# --- Photometry ----------------------------------------


def colored(images, brightness=1.0, contrast=1.0, saturation=1.0, hue=0.0):
    return photometry.apply_color(images, *(each(value) for value in (brightness, contrast, saturation, hue)))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("factor", [0.7, 1.3])
def test_brightness_and_contrast_are_torchvision_s(channels, factor):
    images = pictures(channels=channels, low=0.3, high=0.6)  # torchvision clamps
    same(colored(images, brightness=factor), tv.adjust_brightness(images, factor))
    same(colored(images, contrast=factor), tv.adjust_contrast(images, factor), atol=2e-4)


@pytest.mark.parametrize("factor", [0.0, 0.5, 1.4])
def test_saturation_and_grayscale_are_torchvision_s(factor):
    images = pictures(low=0.3, high=0.6)
    # its weights of the colors have four digits, and sum to 0.9999
    same(colored(images, saturation=factor), tv.adjust_saturation(images, factor), atol=2e-4)
    same(colored(images, saturation=0.0), tv.rgb_to_grayscale(images, 3), atol=2e-4)
    same(raw_views(Augment(grayscale=1), images)[0], tv.rgb_to_grayscale(images, 3), atol=2e-4)


def test_brightness_contrast_and_saturation_together_are_torchvision_s_one_after_another():
    images = pictures(low=0.4, high=0.6)
    expected = tv.adjust_contrast(tv.adjust_brightness(tv.adjust_saturation(images, 0.6), 1.2), 1.3)
    same(colored(images, brightness=1.2, contrast=1.3, saturation=0.6), expected, atol=5e-4)


def test_hue_turns_i_and_q():
    images = pictures(n=1, height=2, width=2)
    to_yiq = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
    turned_by_hue = photometry.apply_color(images, *(torch.tensor([value]) for value in (1.0, 1.0, 1.0, 0.1)))
    for row in range(2):
        for column in range(2):
            y, i, q = to_yiq @ images[0, :, row, column].double().numpy()
            angle = 2 * math.pi * 0.1
            turned_iq = (
                i * math.cos(angle) - q * math.sin(angle),
                i * math.sin(angle) + q * math.cos(angle),
            )
            expected = np.linalg.inv(to_yiq) @ [y, *turned_iq]
            np.testing.assert_allclose(turned_by_hue[0, :, row, column], expected, atol=1e-5)


def test_images_of_13_channels_change_in_brightness_and_contrast_only():
    images = pictures(channels=13)
    expected = 1.2 * (0.5 * images + 0.5 * images.mean((1, 2, 3), keepdim=True))
    same(colored(images, brightness=1.2, contrast=0.5, saturation=0.0, hue=0.3), expected)


def test_factors_are_uniform_around_1_and_never_negative():
    strong = Augment(color_jitter=0.8, brightness=0.4, contrast=2.0, saturation=0.4, hue=0.1)
    brightness, contrast, saturation, hue = photometry.draw_color(strong, Draws(0, Rows(20_000)))
    assert (brightness == 1).float().mean().item() == pytest.approx(0.2, abs=0.01)
    jittered = brightness != 1
    assert torch.equal(jittered, hue != 0)
    for values, low, high in (
        (brightness, 0.6, 1.4),
        (contrast, 0, 3),
        (saturation, 0.6, 1.4),
        (hue, -0.1, 0.1),
    ):
        assert low <= values.min()
        assert values.max() <= high
        middle, spread = (low + high) / 2, (high - low) / math.sqrt(12)
        assert values[jittered].mean().item() == pytest.approx(middle, abs=0.05 * spread)
        assert values[jittered].std().item() == pytest.approx(spread, rel=0.03)


@pytest.mark.parametrize(("size", "kernel"), [(16, 3), (96, 9), (224, 23)])
def test_blur_is_torchvision_s_with_a_kernel_of_a_tenth_of_the_side(size, kernel):
    images = pictures(n=3, height=size, width=size)
    sigmas = (0.1, 0.8, 2.0)
    expected = [tv.gaussian_blur(x, kernel, s) for x, s in zip(images, sigmas, strict=True)]
    same(photometry.gaussian_blur(images, torch.tensor(sigmas)), torch.stack(expected))


def test_blur_leaves_the_one_pixel_of_a_short_side():
    row = pictures(height=1, width=9)
    expected = torch.stack([tv.gaussian_blur(x.expand(-1, 5, -1), 3, 1.0)[:, :1] for x in row])
    same(photometry.gaussian_blur(row, each(1.0)), expected)


def test_solarize_is_torchvision_s():
    images = pictures()
    images[0, 0, 0, :2] = torch.tensor([0.5, 0.49])
    assert torch.equal(photometry.solarize(images), tv.solarize(images, 0.5))


@pytest.mark.parametrize("shape", [(9, 11), (1, 6), (1, 1)])
def test_sobel_is_the_gradient_magnitude_of_scipy(shape):
    images = pictures(2, 3, *shape)
    for channel, edges in zip(images.flatten(0, 1), photometry.sobel(images).flatten(0, 1), strict=True):
        gy, gx = (scipy.ndimage.sobel(channel.double().numpy(), axis=axis) for axis in (0, 1))
        np.testing.assert_allclose(edges, np.sqrt(gx**2 + gy**2) / 4, atol=1e-6)


def test_noise_has_its_standard_deviation_and_is_another_in_each_pixel():
    images = pictures(n=20, height=32, width=32, low=0.4, high=0.6)
    noise = raw_views(Augment(noise=0.05), images)[0] - images  # 61,440 values: standard error 0.3 %
    assert noise.std().item() == pytest.approx(0.05, rel=0.02)
    assert noise.mean().item() == pytest.approx(0, abs=0.001)
    assert noise.mean((2, 3)).std().item() == pytest.approx(0.05 / 32, rel=0.3)


def test_cutout_fills_a_box_with_the_mean_color():
    images = pictures(n=2, height=6, width=8)
    boxes = torch.tensor([[1, 2, 3, 4], [0, 0, 6, 1]])
    expected = images.clone()
    for image, (top, left, height, width) in zip(expected, boxes.tolist(), strict=True):
        image[:, top : top + height, left : left + width] = image.mean((1, 2))[:, None, None]
    same(photometry.cutout(images, boxes), expected, atol=1e-6)


@pytest.mark.parametrize("size", [(100, 100), (1, 8), (1, 1)])
def test_cutout_boxes_lie_in_the_image_and_have_the_area_of_random_erasing(size):
    top, left, height, width = photometry.draw_box(size, Draws(0, Rows(5000))).unbind(1)
    assert min(height.min(), width.min()) >= 1
    assert min(top.min(), left.min()) >= 0
    assert (top + height).max() <= size[0]
    assert (left + width).max() <= size[1]
    if size == (100, 100):
        assert (height * width / 1e4).mean().item() == pytest.approx(0.175, abs=0.005)  # of 0.02 .. 0.33


def test_presets_differ_where_the_images_do():
    # a glyph is never mirrored or turned over, an overhead view in all eight ways
    assert Symbols().flip == Symbols().quarter_turns == 0
    corner = torch.zeros(400, 1, 8, 8)
    corner[:, :, :3, 0] = 1  # eight symmetries, eight pictures
    ways = Augment(
        flip=Overhead().flip, vertical_flip=Overhead().vertical_flip, quarter_turns=Overhead().quarter_turns
    )
    assert len(raw_views(ways, corner)[0].round().flatten(1).unique(dim=0)) == 8
