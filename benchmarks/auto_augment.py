"""What augment="auto" chooses, against the old rule (by the number of channels) and the best preset.

    python benchmarks/choosing.py fit digits solar_cells.npz --out choosing.jsonl
    python benchmarks/auto_augment.py digits solar_cells.npz --out choosing.jsonl

For each set: the share of the variance within an image that two tones explain; then, from the fits of
`choosing.py`, the accuracy of each preset (nearest neighbors and linear probe, mean over its methods and
seeds), with a mark at the choice of today (*) and of the old rule (o).

Also: how well simple features (64 pixels, and histograms of gradients in 16 cells; logistic regression, four
folds) tell images from mirrored, upside-down and turned ones. It was tried as a rule, and is not used.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from image_sets import read_set
from side_by_side import line
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from sklearn_ssl._images.sources import ArraySource
from sklearn_ssl._views.two_tones import SYMBOLS_FROM, share_of_two_tones

PRESETS = ("photo", "symbols", "overhead", "gentle")
BINS, FOLDS = 8, 4
CHANGES = {
    "mirrored": lambda x: x.flip(3),
    "upside down": lambda x: x.flip(2),
    "turned": lambda x: x.rot90(1, (2, 3)),
}


def main() -> None:
    args = arguments()
    out = Path(args.out)
    rows = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    line("set", "two tones", *PRESETS, *(f"{name} told" for name in CHANGES))
    line(*["---"] * (2 + len(PRESETS) + len(CHANGES)))
    for path in args.sets:
        images = read_set(path).some(1000, 0)
        x = torch.from_numpy(images.train)
        x = x[:, None] if x.ndim == 3 else x.movedim(3, 1)
        share = share_of_two_tones(ArraySource(x))
        today = "symbols" if share >= SYMBOLS_FROM else "photo"
        before = "photo" if x.shape[1] == 3 else "symbols"
        mine = [row for row in rows if row["set"] == images.name]
        cells = [accuracy(mine, name) + " *" * (name == today) + " o" * (name == before) for name in PRESETS]
        line(images.name, f"{share:.3f}", *cells, *(f"{told(x, f):.2f}" for f in CHANGES.values()))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sets", nargs="+", help='"digits" or .npz files')
    parser.add_argument("--out", default="choosing.jsonl", help="fits of choosing.py")
    return parser.parse_args()


def accuracy(rows: list[dict], preset: str) -> str:
    mine = [row for row in rows if row["augment"] == preset]
    if not mine:
        return "-"
    return " / ".join(f"{np.mean([row[name] for row in mine]):.1f}" for name in ("knn", "linear"))


def told(images: Tensor, change) -> float:
    """Return the accuracy with which changed images are told from the others."""
    x = images.to(torch.float32)
    plain, changed = features(x), features(change(x))
    fold, right = np.arange(len(x)) % FOLDS, []
    for k in range(FOLDS):
        classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=200))
        parts = {
            name: np.concatenate([plain[mask], changed[mask]])
            for name, mask in (("train", fold != k), ("test", fold == k))
        }
        y = {name: np.repeat([0, 1], len(part) // 2) for name, part in parts.items()}
        right.append(classifier.fit(parts["train"], y["train"]).score(parts["test"], y["test"]))
    return float(np.mean(right))


def features(images: Tensor) -> np.ndarray:
    """Return 8 x 8 gray pixels, and histograms of the gradients' directions in 4 x 4 cells."""
    gray = F.interpolate(images.mean(1, keepdim=True), (32, 32), mode="bilinear", antialias=True)
    std, mean = torch.std_mean(gray, (1, 2, 3), keepdim=True)
    gray = (gray - mean) / std.clamp(min=1e-6)
    padded = F.pad(gray, (1, 1, 1, 1), mode="replicate")
    across = padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]
    down = padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]
    turns = torch.atan2(down, across) / (2 * torch.pi) * BINS
    weights = [(1 - ((turns - b + BINS / 2) % BINS - BINS / 2).abs()).clamp(min=0) for b in range(BINS)]
    cells = [F.adaptive_avg_pool2d(torch.hypot(across, down) * weight, 4).flatten(1) for weight in weights]
    return torch.cat([F.adaptive_avg_pool2d(gray, 8).flatten(1), *cells], dim=1).numpy()


if __name__ == "__main__":
    main()
