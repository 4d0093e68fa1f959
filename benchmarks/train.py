"""images/s of our `fit` and of lightly's recipe, and the share of the machine's peak that each reaches.

    pip install -r requirements-bench.txt && python benchmarks/train.py [--compile]

ResNet-18 on 32-pixel images with SimCLR: the 3x3 stem at batch 128, and the ImageNet stem at batch 256. An
image is one source image, seen as two views. images/s are those of the second and later epochs; the whole fit
is printed as well, and its time beyond the images (validation, building, compilation, warm-up), one figure
per repeat. The peak is the speed of a matrix product in the precision used; a training step counts as three
forward passes of the backbone.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from lightly_recipe import RECIPES, Recipe, measured_epochs
from side_by_side import alternate, gemm_peak, machine, show
from torch.utils.flop_counter import FlopCounterMode

from sklearn_ssl import SSLImageEmbedder
from sklearn_ssl._hardware.devices import resolve_device, resolve_precision
from sklearn_ssl._networks.backbones import build_backbone

STEPS = {"3x3": 3, "imagenet": 8}  # per epoch, by stem; the second is faster


def main() -> None:
    args = arguments()
    print(machine())
    for stem in args.stems:
        recipe = RECIPES[stem]
        recipe = replace(recipe, batch_size=args.batch_size or recipe.batch_size)
        compare(recipe, args)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stems", nargs="+", choices=list(STEPS), default=list(STEPS))
    parser.add_argument("--compile", action="store_true", help="measure ours with compile=True as well")
    parser.add_argument("--size", type=int, default=32, help="pixels")
    parser.add_argument("--batch-size", type=int, help="instead of 128 and 256")
    parser.add_argument("--steps", type=int, help=f"per epoch, instead of {STEPS}")
    parser.add_argument("--epochs", type=int, default=2, help="the first is not counted")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--workers", type=int, help="workers of lightly's DataLoader, instead of one per core"
    )
    return parser.parse_args()


def compare(recipe: Recipe, args: argparse.Namespace) -> None:
    n = recipe.batch_size * (args.steps or STEPS[recipe.stem])
    images = np.random.default_rng(0).integers(0, 255, (n, args.size, args.size, 3), dtype=np.uint8)
    auto = resolve_precision("auto", resolve_device("auto"))
    print(
        f"\n{recipe.stem} stem, {args.size} px, batch {recipe.batch_size}, {args.epochs} epochs of {n} images"
    )
    cases = {f"ours, {auto}": Case(auto, lambda: ours(images, recipe, args.epochs))}
    if args.compile:
        cases[f"ours, {auto}, compiled"] = Case(auto, lambda: ours(images, recipe, args.epochs, compile=True))
    if auto != "float32":
        cases["ours, float32"] = Case(
            "float32", lambda: ours(images, recipe, args.epochs, precision="float32")
        )
    cases["lightly, float32"] = Case(
        "float32", lambda: measured_epochs(recipe, images, args.epochs, args.workers)
    )
    speeds = alternate({name: case.images_per_second for name, case in cases.items()}, args.repeats)
    work = gflop_per_image(recipe.stem, args.size)
    show(
        speeds,
        "images/s",
        reference="lightly, float32",
        more=lambda name, speed: f"{speed * work / gemm_peak(cases[name].precision):4.0%} of the peak",
    )
    for name, case in cases.items():
        beyond = [case.walls[i] - n * args.epochs / speed for i, speed in enumerate(speeds[name])]
        each = ", ".join(f"{seconds:.1f}" for seconds in beyond)
        print(f"{name}: whole fit {np.median(case.walls):.1f} s; beyond its images {each} s", flush=True)


@dataclass
class Case:
    """Measurement of a training, and the seconds that it took in total each time."""

    precision: str
    measure: Callable[[], tuple[float, float]]
    walls: list[float] = field(default_factory=list)

    def images_per_second(self) -> float:
        speed, wall = self.measure()
        self.walls.append(wall)
        return speed


def ours(images: np.ndarray, recipe: Recipe, epochs: int, **settings: object) -> tuple[float, float]:
    """Return images/s of the second and later epochs, and seconds of the whole fit."""
    embedder = SSLImageEmbedder(
        backbone="resnet18",
        max_epochs=epochs,
        batch_size=recipe.batch_size,
        backbone__stem=recipe.stem,
        random_state=0,
        **settings,
    )
    started = time.perf_counter()
    embedder.fit(images)
    wall = time.perf_counter() - started
    return float(np.mean([row["images_per_second"] for row in embedder.history_[1:]])), wall


def gflop_per_image(stem: str, size: int) -> float:
    """Return the GFLOP of a training step per image: two views, forward, and twice as much backward."""
    backbone, _ = build_backbone("resnet18", {"stem": stem}, in_channels=3, image_size=(size, size))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        backbone(torch.zeros(2, 3, size, size))
    return 3 * counter.get_total_flops() / 1e9


if __name__ == "__main__":
    main()
