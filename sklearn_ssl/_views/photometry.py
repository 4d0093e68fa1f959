"""Random color jitter, blur, solarization, Sobel filter, noise and cutout.

All color operations are one matrix per image; the others process only the images chosen for them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sklearn_ssl._views.draws import Draws
from sklearn_ssl.augment import Augment


def change_pixels(images: Tensor, augment: Augment, clamp: bool, draws: Draws) -> Tensor:
    """Apply all random changes of pixel values to images (n, C, H, W), in the order of this function."""
    if augment.color_jitter or augment.grayscale:
        images = apply_color(images, *draw_color(augment, draws))
        images = images.clamp_(0, 1) if clamp else images
    assert augment.blur != "auto"  # see `fit_to_size`
    if augment.blur:
        images = on_some(images, augment.blur, draws, gaussian_blur, draw_sigma(draws))
    if augment.solarize:
        images = on_some(images, augment.solarize, draws, solarize)
    if augment.sobel:
        images = on_some(images, augment.sobel, draws, sobel)
    if augment.noise:
        images = add_noise(images, augment.noise, draws)
        images = images.clamp_(0, 1) if clamp else images
    if augment.cutout:
        images = on_some(images, augment.cutout, draws, cutout, draw_box(images.shape[2:], draws))
    return images


def on_some(
    images: Tensor,
    probability: float,
    draws: Draws,
    operation: Callable[..., Tensor],
    *parameters: Tensor,
) -> Tensor:
    """Apply `operation(images, *parameters)` to randomly chosen images; parameters have a row per image."""
    chosen = (draws.uniform(1)[0] < probability).nonzero().squeeze(1)
    if len(chosen) == 0:
        return images
    theirs = [each[chosen].to(images.device, non_blocking=True) for each in parameters]
    chosen = chosen.to(images.device, non_blocking=True)
    return images.index_copy(0, chosen, operation(images[chosen], *theirs))


# First row of the matrix RGB -> YIQ: luma, by ITU-R BT.601.
LUMA = (0.299, 0.587, 0.114)
# Second and third row, I and Q: chrominance.
CHROMA = torch.tensor([[0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
# Columns of the inverse matrix that map (I, Q) back to RGB, (3, 2).
FROM_CHROMA = torch.linalg.inv(torch.cat([torch.tensor([LUMA]), CHROMA]))[:, 1:]


def draw_color(augment: Augment, draws: Draws) -> tuple[Tensor, ...]:
    """Draw factors of brightness, contrast and saturation, and rotations of the hue in turns; (n,) each."""
    jittered, gray, turn, *factors = draws.uniform(6)
    jittered = jittered < augment.color_jitter
    strengths = (augment.brightness, augment.contrast, augment.saturation)
    lows = [max(0.0, 1 - strength) for strength in strengths]
    brightness, contrast, saturation = (
        torch.where(jittered, low + (1 + strength - low) * factor, 1.0)
        for low, strength, factor in zip(lows, strengths, factors, strict=True)
    )
    saturation = torch.where(gray < augment.grayscale, 0.0, saturation)  # grayscale is a saturation of 0
    return brightness, contrast, saturation, augment.hue * (2 * turn - 1) * jittered


def color_matrix(scale: Tensor, saturation: Tensor, hue: Tensor, channels: int) -> Tensor:
    """Return matrices (n, C, C) that scale all values and, for three channels, change saturation and hue.

    In YIQ space, luma is unchanged, and (I, Q) is rotated by the hue and scaled by the saturation.
    """
    matrix = torch.eye(channels).expand(len(scale), -1, -1)
    if channels == 3:
        cos, sin = ((2 * math.pi * hue).cos() * saturation, (2 * math.pi * hue).sin() * saturation)
        rows = torch.stack([cos - 1, -sin], dim=1), torch.stack([sin, cos - 1], dim=1)
        # A difference from the identity, so that factors of 1 leave the values exactly unchanged.
        matrix = matrix + FROM_CHROMA @ torch.stack(rows, dim=1) @ CHROMA
    return scale[:, None, None] * matrix


def apply_color(
    images: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor, hue: Tensor
) -> Tensor:
    """Change brightness, contrast and saturation (factors) and hue (in turns), each (n,) on the CPU.

    Contrast scales the differences from the image's mean luma. None of the four operations clips, and
    saturation and hue preserve luma, so they commute, and unlike in torchvision their order need not be
    random.
    """
    matrix = color_matrix(brightness * contrast, saturation, hue, channels=images.shape[1])
    share = brightness * (1 - contrast)
    matrix, share = (each.to(images.device, non_blocking=True) for each in (matrix, share))
    offset = (share * mean_luma(images))[:, None, None]
    return torch.baddbmm(offset, matrix, images.flatten(2)).view_as(images)


def mean_luma(images: Tensor) -> Tensor:
    """Return the mean luma of each image, (n,); other than for three channels, the mean of all values."""
    color = images.mean(dim=(2, 3))  # (n, C)
    if color.shape[1] != 3:
        return color.mean(dim=1)
    red, green, blue = (weight * channel for weight, channel in zip(LUMA, color.unbind(1), strict=True))
    return red + green + blue


def draw_sigma(draws: Draws) -> Tensor:
    """Draw standard deviations of the blur, (n,), in pixels."""
    return 0.1 + 1.9 * draws.uniform(1)[0]


def gaussian_blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Blur each image by its own sigma, (n,) in pixels; the kernel covers a tenth of the view's short side.

    Rows and columns are blurred by one matrix product each, which is faster than a convolution with a kernel
    per image and contains the reflection at the borders.
    """
    height, width = images.shape[-2:]
    radius = max(1, min(height, width) // 20)
    across = blur_matrix(sigma, width, radius).mT  # (n, W, W)
    down = blur_matrix(sigma, height, radius)[:, None]  # (n, 1, H, H)
    return down @ (images.flatten(1, 2) @ across).view_as(images)


def blur_matrix(sigma: Tensor, length: int, radius: int) -> Tensor:
    """Return matrices (n, length, length) that blur lines of `length` pixels; sigma has shape (n,)."""
    radius = min(radius, length - 1)
    offsets = torch.arange(-radius, radius + 1, device=sigma.device)
    weights = (-0.5 * (offsets / sigma[:, None]) ** 2).softmax(dim=1)  # (n, taps)
    places = torch.arange(length, device=sigma.device)
    sources = length - 1 - (length - 1 - (places[:, None] + offsets).abs()).abs()  # reflected: (length, taps)
    taps = (sources[:, :, None] == places).to(weights.dtype)  # (length, taps, length)
    return torch.einsum("nt,ltm->nlm", weights, taps)


def solarize(images: Tensor) -> Tensor:
    """Invert all values of at least 0.5."""
    return torch.where(images >= 0.5, 1 - images, images)


def sobel(images: Tensor) -> Tensor:
    """Return the magnitude of each channel's Sobel gradient, divided by 4 (a step of 1 gives 1)."""
    # For a border of one pixel, replication equals symmetric reflection.
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
    above, here, below = padded[..., :-2, :], padded[..., 1:-1, :], padded[..., 2:, :]
    smooth, slope = above + 2 * here + below, below - above  # (n, C, H, W + 2)
    gx = smooth[..., 2:] - smooth[..., :-2]
    gy = slope[..., :-2] + 2 * slope[..., 1:-1] + slope[..., 2:]
    return torch.hypot(gx, gy) / 4


def add_noise(images: Tensor, std: float, draws: Draws) -> Tensor:
    """Add independent Gaussian noise of standard deviation `std` to each value."""
    noise = draws.normal(*images.shape[1:]).to(images.device, non_blocking=True)
    return torch.add(images, noise, alpha=std)


def draw_box(size: Sequence[int], draws: Draws) -> Tensor:
    """Draw top, left, height and width of a rectangle in each image, in pixels; (n, 4), int64."""
    area, aspect, y, x = draws.uniform(4)
    area = 0.02 + 0.31 * area
    aspect = torch.exp(math.log(0.3) + math.log(3.3 / 0.3) * aspect)  # height / width
    sides = (area * aspect).sqrt() * math.prod(size) ** 0.5, (area / aspect).sqrt() * math.prod(size) ** 0.5
    height, width = (side.round().clamp(1, most).long() for side, most in zip(sides, size, strict=True))
    top, left = (y * (size[0] - height + 1)).long(), (x * (size[1] - width + 1)).long()
    return torch.stack([top, left, height, width], dim=1)


def cutout(images: Tensor, box: Tensor) -> Tensor:
    """Fill a rectangle of each image, (top, left, height, width) of shape (n, 4), with its mean color."""
    top, left, height, width = box[:, :, None].unbind(1)  # (n, 1) each
    rows, columns = (torch.arange(side, device=box.device) for side in images.shape[-2:])
    in_rows = (rows >= top) & (rows < top + height)  # (n, H)
    in_columns = (columns >= left) & (columns < left + width)  # (n, W)
    inside = in_rows[:, None, :, None] & in_columns[:, None, None, :]  # (n, 1, H, W)
    return torch.where(inside, images.mean(dim=(2, 3), keepdim=True), images)
