"""Random views of a whole batch: a few tensor operations on the device, each image with its own randomness.

All random numbers come from CPU generators seeded by (seed, view): the views are a pure function of the
seed, the same on every device, and choosing which images an operation meets never waits for the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sklearn_ssl.devices import is_out_of_memory, lent_generators
from sklearn_ssl.losses.base import Views
from sklearn_ssl.presets import Augment

# Sides of the view: no image is made longer than that on the way to it.
LONGEST = 4

Size = tuple[int, int]  # (height, width), in pixels
Scale = tuple[float, float]  # smallest and largest share of the image's area that a view covers


class RandomViews:
    """Draws the views of a batch of images.

    Parameters
    ----------
    augment : Augment or callable
        How strong each operation is; or a function ``f(images, generator)`` that takes float32 images
        of shape (n, channels, height, width) and a torch.Generator on their device, and returns one
        view of each. Where a loss sets the share of the image that a view covers (local crops), that
        crop comes before the function.
    image_size : tuple of two ints
        (height, width) of a full-size view.
    mean, std : Tensor of shape (channels,)
        Each view leaves as (view - mean) / std.
    clamp : bool, default=True
        Keep values in [0, 1] after changes of colour and noise. False for images that do not lie
        within [0, 1], so that nothing is clipped.
    """

    def __init__(
        self,
        augment: Augment | Callable[[Tensor, torch.Generator], Tensor],
        image_size: Size,
        mean: Tensor,
        std: Tensor,
        clamp: bool = True,
    ):
        self.augment = augment if callable(augment) else fit_to_size(augment, image_size)
        self.image_size = tuple(image_size)
        self.mean = mean
        self.std = std
        self.clamp = clamp

    @torch.no_grad()
    def __call__(self, images: Tensor, views: Views, seed: int) -> list[Tensor]:
        """Views of each image.

        Parameters
        ----------
        images : Tensor of shape (n, channels, height, width), float32
            On any device, of any height and width; left as they are.
        views : Views
            How many views, and which.
        seed : int
            At least 0. The same seed gives the same views.

        Returns
        -------
        list of Tensor
            `views.n` of shape (n, channels, *image_size), then `views.local` with sides of
            `views.local_size` times that; normalised, float32, contiguous where the images are.

        Raises
        ------
        ValueError
            When a recipe is unknown, or the user's function returns something else than views.
        """
        local_size = tuple(max(1, round(views.local_size * side)) for side in self.image_size)
        wanted = [(self.image_size, views.scale)] * views.n + [(local_size, views.local_scale)] * views.local
        drawn = []
        for number, (size, scale) in enumerate(wanted):
            recipe = views.recipes[number % len(views.recipes)]
            view = self._view(images, recipe, size, scale, seed_of_view(seed, number))
            drawn.append(normalize(view, self.mean, self.std))
        return drawn

    def _view(self, images: Tensor, recipe: str, size: Size, scale: Scale | None, seed: int) -> Tensor:
        if recipe == "none":
            return resize_and_center(images, size)
        if recipe not in ("strong", "weak"):
            raise ValueError(f"Unknown recipe {recipe!r} in Views. Available: 'strong', 'weak', 'none'.")
        generator = torch.Generator().manual_seed(seed)
        if callable(self.augment):
            return self._view_by_function(images, size, scale, generator)
        augment = self.augment if recipe == "strong" else only_crop_and_flips(self.augment)
        view = change_geometry(images, augment, scale or (augment.crop, 1.0), size, generator)
        return change_pixels(view, augment, self.clamp, generator)

    def _view_by_function(
        self, images: Tensor, size: Size, scale: Scale | None, generator: torch.Generator
    ) -> Tensor:
        # a copy: a function that works in place must not change the next view's images
        source = images if scale is None else change_geometry(images, Augment(), scale, size, generator)
        device_generator = torch.Generator(images.device).manual_seed(generator.initial_seed())
        try:
            # The global generators are not to repeat what this one draws.
            with lent_generators(seed_of_view(generator.initial_seed(), 0), images.device):
                view = self.augment(source.clone(), device_generator)
        except Exception as error:  # a function may raise anything
            if is_out_of_memory(error):
                raise
            raise ValueError(
                f"augment failed on images of shape {tuple(source.shape)}: {error}. It is called as "
                f"augment(images, generator) and returns one view of each image."
            ) from error
        check_views(view, images)
        return resize_and_center(view.to(images.dtype), size)


def fit_to_size(augment: Augment, image_size: Size) -> Augment:
    """What "auto" means for images of this size."""
    if augment.blur != "auto":
        return augment
    return replace(augment, blur=0.5 if min(image_size) >= 64 else 0.0)


def only_crop_and_flips(augment: Augment) -> Augment:
    """The recipe "weak"."""
    kept = ("crop", "flip", "vertical_flip", "quarter_turns")
    return Augment(**{name: getattr(augment, name) for name in kept})


def check_views(view: object, images: Tensor) -> None:
    """Raise ValueError unless a user's function has returned one view of each image."""
    n, channels = images.shape[:2]
    given = type(view).__name__
    if isinstance(view, Tensor):
        if view.is_floating_point() and view.ndim == 4 and view.shape[:2] == images.shape[:2]:
            return
        given = f"a {str(view.dtype).removeprefix('torch.')} tensor of shape {tuple(view.shape)}"
    raise ValueError(
        f"augment returned {given} for images of shape {tuple(images.shape)}. It must return one view of "
        f"each image: a float tensor of shape ({n}, {channels}, height, width)."
    )


def normalize(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """(images - mean) / std, channel by channel; a new tensor of shape (n, channels, height, width)."""
    mean, std = (each.to(images.device, non_blocking=True)[:, None, None] for each in (mean, std))
    return (images - mean).div_(std)


def resize_and_center(images: Tensor, size: Size) -> Tensor:
    """Resize until the short side fits, then cut out the centre: a view without randomness.

    Parameters
    ----------
    images : Tensor of shape (n, channels, height, width), float
    size : tuple of two ints
        (height, width) wanted.

    Returns
    -------
    Tensor of shape (n, channels, *size)
        Bilinear, antialiased where it shrinks; the images themselves when their size fits.
    """
    images = cut_ends(images, size)
    given, wanted = tuple(images.shape[-2:]), tuple(size)
    if given == wanted:
        return images
    ratio = max(new / old for new, old in zip(wanted, given, strict=True))
    resized = [max(new, round(old * ratio)) for new, old in zip(wanted, given, strict=True)]
    images = F.interpolate(images, size=resized, mode="bilinear", align_corners=False, antialias=True)
    top, left = ((large - small) // 2 for large, small in zip(resized, wanted, strict=True))
    return images[..., top : top + wanted[0], left : left + wanted[1]].contiguous()  # (n, C, *size)


def cut_ends(images: Tensor, size: Size) -> Tensor:
    """The middle of images that are far longer than `size` is, in relation to their width.

    What is made of an image of 1 x 10,000 pixels stays bounded: four times the view, whose middle is cut out.
    """
    smallest = min(old / new for old, new in zip(images.shape[-2:], size, strict=True))
    for axis, new in zip((-2, -1), size, strict=True):
        surplus = images.shape[axis] - math.ceil(LONGEST * new * smallest)
        if surplus > 1:  # as much on either side
            images = images.narrow(axis, surplus // 2, images.shape[axis] - surplus // 2 * 2)
    return images


def seed_of_view(seed: int, view: int) -> int:
    """A well-mixed seed for one view of one step."""
    return int(np.random.SeedSequence((int(seed), view)).generate_state(1, np.uint64)[0])


# --- Geometry: crop, resize, flips, turns and shear are one matrix an image and one `grid_sample` ----------


def change_geometry(
    images: Tensor, augment: Augment, scale: Scale, size: Size, generator: torch.Generator
) -> Tensor:
    """Random crop, flips, rotation and shear, to the size wanted; (n, C, H, W) -> (n, C, *size)."""
    moves = ("flip", "vertical_flip", "rotation", "quarter_turns", "shear")
    if min(scale) == 1 and not any(getattr(augment, name) for name in moves):
        return resize_and_center(images, size)
    crop = draw_crop(len(images), scale, images.shape[-2:], size, generator)
    turn = turn_matrix(*draw_turn(len(images), augment, generator), size)
    return affine_sample(shrink_first(images, scale, size), crop_matrix(*crop, turn), size)


def draw_crop(
    n: int, scale: Scale, image_size: Sequence[int], size: Size, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Top, left, height and width of n crops, (n,) each, as shares of the image's height and width.

    Where the image has another shape than the view, shares of the area count within the largest part
    that has the view's shape, so that nothing is distorted by more than 3/4 .. 4/3.
    """
    area, aspect, y, x = torch.rand(4, n, generator=generator)
    area = scale[0] + (scale[1] - scale[0]) * area
    aspect = torch.exp(math.log(4 / 3) * (2 * aspect - 1))
    aspect = aspect.minimum(1 / area).maximum(area)  # torchvision draws again until a crop fits
    tallest, widest = largest_part(image_size, size)
    height, width = tallest * (area / aspect).sqrt(), widest * (area * aspect).sqrt()
    if scale[0] == 1:  # no cropping: no other place than the centre
        y = x = 0.5
    return (1 - height) * y, (1 - width) * x, height, width


def largest_part(image_size: Sequence[int], size: Size) -> tuple[float, float]:
    """Height and width, as shares of the image, of its largest part that has the shape of the view."""
    ratio = (size[1] / size[0]) * (image_size[0] / image_size[1])
    return min(1.0, 1 / ratio), min(1.0, ratio)


def draw_turn(n: int, augment: Augment, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Angle and shear in degrees, horizontal and vertical flips as bools; (n,) each."""
    angle, shear, turned, quarters, flip, vertical_flip = torch.rand(6, n, generator=generator)
    quarters = (1 + (3 * quarters).floor()) * (turned < augment.quarter_turns)
    return (
        augment.rotation * (2 * angle - 1) + 90 * quarters,
        augment.shear * (2 * shear - 1),
        flip < augment.flip,
        vertical_flip < augment.vertical_flip,
    )


def turn_matrix(angle: Tensor, shear: Tensor, flip: Tensor, vertical_flip: Tensor, size: Size) -> Tensor:
    """Where each point of a view comes from, (n, 2, 2); points are (x, y) in -1 .. 1 about the centre.

    Angles are in degrees, counterclockwise, for views of `size` = (height, width).
    """
    cos, sin, tan = angle.deg2rad().cos(), angle.deg2rad().sin(), shear.deg2rad().tan()
    right, down = 1 - 2 * flip.float(), 1 - 2 * vertical_flip.float()  # -1 where flipped
    stretch = size[0] / size[1]  # the angle is one in pixels, the points are not
    rows = (
        torch.stack([right * cos, stretch * down * (cos * tan - sin)], dim=1),
        torch.stack([right * sin / stretch, down * (sin * tan + cos)], dim=1),
    )
    return torch.stack(rows, dim=1)  # (n, 2, 2)


def crop_matrix(
    top: Tensor, left: Tensor, height: Tensor, width: Tensor, turn: Tensor | None = None
) -> Tensor:
    """Affine matrices for `affine_sample`, (n, 2, 3): a turned view, (n, 2, 2), of a part of the image.

    The part is given in shares of the image's height and width, (n,) each.
    """
    scale = torch.stack([width, height], dim=1)
    shift = torch.stack([2 * left + width - 1, 2 * top + height - 1], dim=1)
    turn = torch.eye(2) if turn is None else turn
    return torch.cat([scale[:, :, None] * turn, shift[:, :, None]], dim=2)


def shrink_first(images: Tensor, scale: Scale, size: Size) -> Tensor:
    """Images of a resolution that the average crop can use.

    `grid_sample` reads four pixels only, so that a view less than half as fine as its source would flicker
    with its position: such sources are averaged down first, by a whole factor. Below that nothing is done.
    """
    height, width = images.shape[-2:]
    factor = int(math.sqrt(sum(scale) / 2) * min(height / size[0], width / size[1]))
    return F.adaptive_avg_pool2d(images, (height // factor, width // factor)) if factor > 1 else images


def affine_sample(images: Tensor, matrix: Tensor, size: Size) -> Tensor:
    """Bilinear views (n, C, *size) of images (n, C, H, W), by affine matrices (n, 2, 3) on the CPU.

    What lies outside the image is its reflection: black corners would give the angle away, and drawn-out
    border pixels look like nothing in the data.
    """
    matrix = matrix.to(images.device, non_blocking=True)
    y, x = ((2 * torch.arange(side, device=images.device) + 1) / side - 1 for side in size)  # pixel centres
    by_x, by_y, shift = matrix[:, :, None].unbind(3)  # (n, 2, 1) each
    # one addition, where F.affine_grid makes the same grid by a slow product of (n, h * w, 3) and (n, 3, 2)
    grid = (by_y * y + shift)[:, :, :, None] + (by_x * x)[:, :, None]  # (n, 2, *size)
    grid = grid.permute(0, 2, 3, 1)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


# --- Photometry: the colour operations are one matrix an image; the others meet only the images chosen ------


def change_pixels(images: Tensor, augment: Augment, clamp: bool, generator: torch.Generator) -> Tensor:
    """Random colour, blur, solarisation, edges, noise and cutout; shapes stay (n, C, H, W)."""
    n, _, *size = images.shape
    if augment.color_jitter or augment.grayscale:
        images = apply_color(images, *draw_color(n, augment, generator))
        images = images.clamp_(0, 1) if clamp else images
    if augment.blur:
        images = on_some(images, augment.blur, generator, gaussian_blur, draw_sigma(n, generator))
    if augment.solarize:
        images = on_some(images, augment.solarize, generator, solarize)
    if augment.sobel:
        images = on_some(images, augment.sobel, generator, sobel)
    if augment.noise:
        images = add_noise(images, augment.noise, generator)
        images = images.clamp_(0, 1) if clamp else images
    if augment.cutout:
        images = on_some(images, augment.cutout, generator, cutout, draw_box(n, size, generator))
    return images


def on_some(
    images: Tensor,
    probability: float,
    generator: torch.Generator,
    operation: Callable[..., Tensor],
    *parameters: Tensor,
) -> Tensor:
    """`operation(images, *parameters)` on randomly chosen images; parameters have a row for each image."""
    chosen = (torch.rand(len(images), generator=generator) < probability).nonzero().squeeze(1)
    if len(chosen) == 0:
        return images
    parameters = [each[chosen].to(images.device, non_blocking=True) for each in parameters]
    chosen = chosen.to(images.device, non_blocking=True)
    return images.index_copy(0, chosen, operation(images[chosen], *parameters))


GRAY = (0.299, 0.587, 0.114)  # ITU-R BT.601, the first row of RGB -> YIQ
CHROMA = torch.tensor([[0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])  # its I and Q rows
FROM_CHROMA = torch.linalg.inv(torch.cat([torch.tensor([GRAY]), CHROMA]))[:, 1:]  # (3, 2)


def draw_color(n: int, augment: Augment, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Factors of brightness, contrast, saturation, and hue's turn as a share of a circle; (n,) each."""
    jittered, grey, turn, *factors = torch.rand(6, n, generator=generator)
    jittered = jittered < augment.color_jitter
    strengths = (augment.brightness, augment.contrast, augment.saturation)
    lows = [max(0.0, 1 - strength) for strength in strengths]
    brightness, contrast, saturation = (
        torch.where(jittered, low + (1 + strength - low) * factor, 1.0)
        for low, strength, factor in zip(lows, strengths, factors, strict=True)
    )
    saturation = torch.where(grey < augment.grayscale, 0.0, saturation)  # grey is a saturation of 0
    return brightness, contrast, saturation, augment.hue * (2 * turn - 1) * jittered


def color_matrix(scale: Tensor, saturation: Tensor, hue: Tensor, channels: int) -> Tensor:
    """Matrices (n, C, C) that scale all values, and saturate and turn the hue of colour images.

    Lightness stays, I and Q are turned by the hue and scaled by the saturation.
    """
    matrix = torch.eye(channels).expand(len(scale), -1, -1)
    if channels == 3:
        cos, sin = ((2 * math.pi * hue).cos() * saturation, (2 * math.pi * hue).sin() * saturation)
        rows = torch.stack([cos - 1, -sin], dim=1), torch.stack([sin, cos - 1], dim=1)
        # as a difference from the identity, so that factors of 1 change nothing, exactly
        matrix = matrix + FROM_CHROMA @ torch.stack(rows, dim=1) @ CHROMA
    return scale[:, None, None] * matrix


def apply_color(
    images: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor, hue: Tensor
) -> Tensor:
    """Change brightness, contrast, saturation (factors) and hue (share of a turn), (n,) each on the CPU.

    Contrast is about the image's mean lightness. None of the four clips, so they commute (saturation and hue
    keep the lightness), and unlike torchvision's their order need not be random.
    """
    matrix = color_matrix(brightness * contrast, saturation, hue, channels=images.shape[1])
    share = brightness * (1 - contrast)
    matrix, share = (each.to(images.device, non_blocking=True) for each in (matrix, share))
    offset = (share * mean_lightness(images))[:, None, None]
    return torch.baddbmm(offset, matrix, images.flatten(2)).view_as(images)


def mean_lightness(images: Tensor) -> Tensor:
    """Mean grey value of each image, (n,): of three channels as the eye weighs them, else the plain mean."""
    color = images.mean(dim=(2, 3))  # (n, C)
    if color.shape[1] != 3:
        return color.mean(dim=1)
    return sum(weight * channel for weight, channel in zip(GRAY, color.unbind(1), strict=True))


def draw_sigma(n: int, generator: torch.Generator) -> Tensor:
    """Standard deviations of the blur in pixels, (n,)."""
    return 0.1 + 1.9 * torch.rand(n, generator=generator)


def gaussian_blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Blur each image by its own sigma, (n,) in pixels; the kernel is a tenth of the view's short side.

    Rows and columns are blurred by one matrix product each: faster than a convolution with a kernel for
    each image, and the borders (mirrored) are in the matrix.
    """
    height, width = images.shape[-2:]
    radius = max(1, min(height, width) // 20)
    across = blur_matrix(sigma, width, radius).mT  # (n, W, W)
    down = blur_matrix(sigma, height, radius)[:, None]  # (n, 1, H, H)
    return down @ (images.flatten(1, 2) @ across).view_as(images)


def blur_matrix(sigma: Tensor, length: int, radius: int) -> Tensor:
    """Matrices (n, length, length) that blur lines of `length` pixels; sigma has shape (n,)."""
    radius = min(radius, length - 1)
    offsets = torch.arange(-radius, radius + 1, device=sigma.device)
    weights = (-0.5 * (offsets / sigma[:, None]) ** 2).softmax(dim=1)  # (n, taps)
    places = torch.arange(length, device=sigma.device)
    sources = length - 1 - (length - 1 - (places[:, None] + offsets).abs()).abs()  # mirrored: (length, taps)
    taps = (sources[:, :, None] == places).to(weights.dtype)  # (length, taps, length)
    return torch.einsum("nt,ltm->nlm", weights, taps)


def solarize(images: Tensor) -> Tensor:
    """Invert all values from 0.5 on."""
    return torch.where(images >= 0.5, 1 - images, images)


def sobel(images: Tensor) -> Tensor:
    """Magnitude of the Sobel gradient of each channel, divided by 4 (a step of 1 gives 1)."""
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate")  # for one pixel the same as mirrored
    above, here, below = padded[..., :-2, :], padded[..., 1:-1, :], padded[..., 2:, :]
    smooth, slope = above + 2 * here + below, below - above  # (n, C, H, W + 2)
    gx = smooth[..., 2:] - smooth[..., :-2]
    gy = slope[..., :-2] + 2 * slope[..., 1:-1] + slope[..., 2:]
    return torch.hypot(gx, gy) / 4


def add_noise(images: Tensor, std: float, generator: torch.Generator) -> Tensor:
    """Gaussian noise of standard deviation `std`, of its own in each pixel."""
    noise = torch.randn(images.shape, generator=generator).to(images.device, non_blocking=True)
    return torch.add(images, noise, alpha=std)


def draw_box(n: int, size: Sequence[int], generator: torch.Generator) -> Tensor:
    """Top, left, height and width of a rectangle to cut out of each image, in pixels; (n, 4), int64."""
    area, aspect, y, x = torch.rand(4, n, generator=generator)
    area = 0.02 + 0.31 * area
    aspect = torch.exp(math.log(0.3) + math.log(3.3 / 0.3) * aspect)  # height / width
    sides = (area * aspect).sqrt() * math.prod(size) ** 0.5, (area / aspect).sqrt() * math.prod(size) ** 0.5
    height, width = (side.round().clamp(1, most).long() for side, most in zip(sides, size, strict=True))
    top, left = (y * (size[0] - height + 1)).long(), (x * (size[1] - width + 1)).long()
    return torch.stack([top, left, height, width], dim=1)


def cutout(images: Tensor, box: Tensor) -> Tensor:
    """Fill a rectangle (top, left, height, width), (n, 4), with the mean colour of its image."""
    top, left, height, width = box[:, :, None].unbind(1)  # (n, 1) each
    rows, columns = (torch.arange(side, device=box.device) for side in images.shape[-2:])
    in_rows = (rows >= top) & (rows < top + height)  # (n, H)
    in_columns = (columns >= left) & (columns < left + width)  # (n, W)
    inside = in_rows[:, None, :, None] & in_columns[:, None, None, :]  # (n, 1, H, W)
    return torch.where(inside, images.mean(dim=(2, 3), keepdim=True), images)
