"""views/s of SimCLR's augmentation by this package, by kornia on batches, and by lightly on PIL images.

    pip install -r requirements-bench.txt && python benchmarks/views.py [--sizes 32 96 224]

From uint8 images in memory to normalized float32 views: crop and flip, color jitter with probability 0.8,
grayscale with 0.2, and blur with 0.5 from 64 pixels on. Ours and kornia's work on a batch, with all threads
(ours with memory kept between batches, as in `fit`) or on the GPU. lightly's works on one image after another
in one thread, as in one worker of a DataLoader; its last line is this speed times the number of cores, an
upper bound for several workers.
"""

from __future__ import annotations

import argparse

import kornia.augmentation as K
import numpy as np
import torch
from lightly.transforms import SimCLRTransform
from lightly.transforms.utils import IMAGENET_NORMALIZE
from lightly_recipe import cores
from PIL import Image
from side_by_side import alternate, best_device, machine, seconds, show
from torch import Tensor

from sklearn_ssl._hardware.allocator import retain_freed_memory
from sklearn_ssl._views.augmentation import make_augment
from sklearn_ssl._views.random_views import RandomViews
from sklearn_ssl.losses import ViewSpec

MEAN, STD = IMAGENET_NORMALIZE["mean"], IMAGENET_NORMALIZE["std"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", type=int, default=[32], help="pixels, of images and of views")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=10)
    args = parser.parse_args()
    print(machine())
    for size in args.sizes:
        print(f"\n{size} px, two views each of {args.batch_size} images")
        compare(size, args.batch_size, args.repeats)


def compare(size: int, n: int, repeats: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (n, size, size, 3), dtype=np.uint8)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().to(best_device())
    draw, kornias, lightlys = our_views(size), kornia_views(size), lightly_views(size)
    pils = [Image.fromarray(each) for each in pixels]

    def in_kept_memory() -> float:
        with retain_freed_memory():
            draw(images)  # a first batch, which allocates the memory
            return 2 * n / seconds(lambda: draw(images))

    cases = {
        "ours": in_kept_memory,
        "kornia": lambda: 2 * n / seconds(lambda: kornias(images)),
        "lightly, one process": lambda: 2 * n / in_one_thread(lambda: [lightlys(pil) for pil in pils]),
    }
    for measure in cases.values():
        measure()
    values = alternate(cases, repeats)
    values[f"lightly, times {cores()} cores"] = [cores() * each for each in values["lightly, one process"]]
    show(values, "views/s", reference="ours")


def our_views(size: int):
    draw = RandomViews(make_augment("photo", {}), (size, size), torch.tensor(MEAN), torch.tensor(STD))
    return lambda images: draw(images.to(torch.float32).div_(255), ViewSpec(n=2), seed=0)


def kornia_views(size: int):
    blur = [K.RandomGaussianBlur(2 * (size // 20) + 1, (0.1, 2.0), p=0.5)] if size >= 64 else []
    augment = K.AugmentationSequential(
        K.RandomResizedCrop((size, size), scale=(0.2, 1.0)),
        K.RandomHorizontalFlip(),
        K.ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8),
        K.RandomGrayscale(p=0.2),
        *blur,
        K.Normalize(torch.tensor(MEAN), torch.tensor(STD)),
        data_keys=["input"],
        same_on_batch=False,
    )

    @torch.no_grad()
    def draw(images: Tensor) -> list[Tensor]:
        unit = images.to(torch.float32).div_(255)
        return [augment(unit), augment(unit)]

    return draw


def lightly_views(size: int) -> SimCLRTransform:
    blur = 0.5 if size >= 64 else 0.0
    return SimCLRTransform(input_size=size, cj_strength=0.5, gaussian_blur=blur)


def in_one_thread(work) -> float:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return seconds(work)
    finally:
        torch.set_num_threads(threads)


if __name__ == "__main__":
    main()
