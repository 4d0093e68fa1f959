"""Time saved by hiding patches: MAE's encoder on the visible patches, compared with all patches.

    python benchmarks/masked.py
    python benchmarks/masked.py --side 224 --batch 16

Forward and backward of the vision transformer at its default size, interleaved, medians of --repeats: on the
quarter of the patches that MAE shows, and on all of them. Then images/s of a whole fit by "mae" (with views,
decoder and optimizer).
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from side_by_side import alternate, best_device, machine, seconds, show

from sklearn_ssl import SSLImageEmbedder
from sklearn_ssl._hardware.allocator import retain_freed_memory
from sklearn_ssl._hardware.devices import resolve_precision
from sklearn_ssl._networks.student import Student
from sklearn_ssl._networks.vit import make_vit

SHOWN = 0.25


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args()
    print(machine())
    device = torch.device(best_device())
    student = Student(
        make_vit(3, (args.side, args.side)), torch.nn.Identity(), resolve_precision("auto", device)
    ).to(device)
    x = torch.randn(args.batch, 3, args.side, args.side, device=device)
    patches = student.backbone.grid[0] * student.backbone.grid[1]
    keep = torch.rand(args.batch, patches, device=device).argsort(dim=1)[:, : round(SHOWN * patches)]
    cases = {
        "all patches": lambda: seconds(lambda: student.tokens(x).square().mean().backward()),
        "a quarter of them": lambda: seconds(lambda: student.encode(x, keep).square().mean().backward()),
    }
    with retain_freed_memory():
        for measure in cases.values():
            measure()
        values = alternate(cases, args.repeats)
    print(f"\nencoder, {args.batch} images of {args.side} pixels, {patches} patches, forward and backward")
    show(values, "s", "all patches")
    fitted = whole_fit(args)
    print(f"a whole fit by mae: {fitted:,.0f} images/s")


def whole_fit(args: argparse.Namespace) -> float:
    """Return the images/s of a fit, without its first epoch."""
    images = np.random.default_rng(0).integers(0, 256, (8 * args.batch, args.side, args.side, 3), np.uint8)
    embedder = SSLImageEmbedder("mae", max_epochs=4, batch_size=args.batch, random_state=0).fit(images)
    return float(np.median([row["images_per_second"] for row in embedder.history_[1:]]))


if __name__ == "__main__":
    main()
