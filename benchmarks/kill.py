"""Fits that are killed at random moments and resumed, compared with undisturbed ones, bit for bit.

    pip install . ./plugins/*/
    python benchmarks/kill.py --kills 100
    python benchmarks/kill.py --kills 5 --methods moco lazy

Each fit is a process that writes a checkpoint as soon as the time since the last one equals the time of
writing it, so that it spends much of its time writing. It gets SIGKILL after a random time, until it has been
killed its share of --kills times; then it runs to completion. Its embeddings, weights and history (except for
times) are compared with those of an undisturbed fit, and its folder is searched for files other than the
checkpoint. A method is a loss at its defaults, or an entry of WAYS.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import random
import tempfile
import time
import warnings
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from side_by_side import machine
from torch import nn

from sklearn_ssl import SSLImageEmbedder, get_loss
from sklearn_ssl._hashing import fingerprint
from sklearn_ssl._training import checkpoint

LOSSES = (
    *("ntxent", "dcl", "vicreg", "barlow_twins"),
    *("moco", "nnclr", "meanshift"),  # queues, teachers
    *("byol", "simsiam", "dino", "swav"),  # teachers, multi-crop, prototypes
    *("deepcluster", "wmse"),  # memory of all images, whitening
    *("lejepa", "tico", "vicregl", "diet"),  # random directions, moments, a classifier of the images
    *("supcon", "triplet", "yaware"),  # labels
    *("mae", "simmim"),  # masked
    *("data2vec", "dinov2", "ijepa"),  # masked, with a teacher, its heads, or the teacher as encoder
    "rotation",  # pretext
)
# Methods that set more than the loss.
WAYS: dict[str, dict[str, Any]] = {
    "micro_batches": {"loss": "ntxent", "micro_batches": 2},
    "lazy": {"loss": "ntxent", "reader_params": {"memory_limit": 1, "on_error": "skip"}},
}
METHODS = (*LOSSES, *WAYS)


class Small(nn.Module):
    """Three convolutions, which return feature maps."""

    def __init__(self, in_channels: int, width: int = 16):
        super().__init__()
        layers = [nn.Conv2d(in_channels, width, 3, 1, 1)]
        for _ in range(2):
            layers += [nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3, 2, 1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100, help="of all methods together")
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--epochs", type=int, default=4)
    args = parser.parse_args()
    print(machine(), flush=True)
    # Fork from a process that has imported everything and computed nothing, as imports take seconds.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["sklearn_ssl", "kill"])
    first = context.Process(target=int)  # so that no fit includes the imports
    first.start()
    first.join()
    rng, kills, went_on, same, left = random.Random(0), 0, 0, [], []
    for i, method in enumerate(args.methods):
        share = (i + 1) * args.kills // len(args.methods) - i * args.kills // len(args.methods)
        with tempfile.TemporaryDirectory() as folder:
            out, found = killed(context, method, share, args.epochs, rng, Path(folder))
        kills, went_on = kills + share, went_on + out["went on"]
        same.append(out["same"])
        left += found
        print(f"{method}: {share} kills, the same: {out['same']}, files left: {found}", flush=True)
    print(f"kills: {kills}; fits that went on from a checkpoint: {went_on} of {len(same)}")
    print(f"same to the bit: {sum(same)} of {len(same)}")
    print(f"files left: {len(left)}")


def killed(
    context: Any, method: str, kills: int, epochs: int, rng: random.Random, folder: Path
) -> tuple[dict, list[str]]:
    """Return the result of a fit that is killed `kills` times, and the files next to its checkpoint."""
    runs = folder / "runs"
    began = time.monotonic()
    undisturbed = run(context, method, epochs, folder, None)
    seconds = time.monotonic() - began
    done = 0
    while done < kills:
        ended = run(context, method, epochs, folder, runs, kill_after=rng.uniform(0.1, 1.0) * seconds)
        done += ended is None
        for path in runs.glob("*.safetensors") if ended else ():
            path.unlink()  # it ended before the kill: start again
    out = run(context, method, epochs, folder, runs)
    names = sorted(str(path.relative_to(runs)) for path in runs.rglob("*"))
    same = all(out[what] == undisturbed[what] for what in ("weights", "history", "embeddings"))
    return {"same": same, "went on": out["went on"]}, [
        name for name in names if name.startswith(".")
    ] + names[1:]


def run(
    context: Any,
    method: str,
    epochs: int,
    folder: Path,
    runs: Path | None,
    kill_after: float | None = None,
) -> dict | None:
    """Return the result of a fit in a separate process, or None if it was killed."""
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=fit, args=(method, epochs, folder, runs, theirs))
    child.start()
    theirs.close()
    if not ours.poll(kill_after):
        child.kill()  # SIGKILL
    child.join()
    with contextlib.suppress(EOFError):
        return ours.recv()
    if kill_after is None:
        raise RuntimeError(f"{method} has failed")
    return None


def fit(method: str, epochs: int, folder: Path, runs: Path | None, result: Connection) -> None:
    """Start or resume a training in this process, and send its result."""
    torch.set_num_threads(1)
    checkpoint.INTERVAL, checkpoint.MAX_TIME_FRACTION = 0.0, 1.0
    params = {"loss": method, **WAYS.get(method, {})}
    vit = get_loss(params["loss"]).defaults.get("backbone") == "vit"
    size = {"patch": 4, "width": 32, "depth": 3, "heads": 2}
    backbone = {"backbone": "vit", "backbone_params": size} if vit else {"backbone": Small}
    embedder = SSLImageEmbedder(
        **params, **backbone, max_epochs=epochs, batch_size=16, random_state=0, checkpoint=runs
    )
    images = np.random.default_rng(0).integers(0, 256, (96, 16, 16, 3), dtype=np.uint8)
    labels = np.arange(len(images)) % 3
    X = as_files(images, folder / "images") if method == "lazy" else images
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fitted = embedder.set_params(**cache(method, folder)).fit(X, labels)
    times = ("dur", "images_per_second")
    history = [{name: value for name, value in row.items() if name not in times} for row in fitted.history_]
    result.send(
        {
            "went on": any(str(warning.message).startswith("This fit") for warning in caught),
            "weights": fingerprint(fitted.encoder_.state_dict()),
            "history": fingerprint(history),
            "embeddings": fingerprint(fitted.transform(images)),
        }
    )


def as_files(images: np.ndarray, folder: Path) -> list[Path]:
    """Write the images as PNG files, and damage one of them."""
    paths = [folder / f"{i}.png" for i in range(len(images))]
    if not folder.exists():
        folder.mkdir()
        for path, image in zip(paths, images, strict=True):
            Image.fromarray(image).save(path)
        paths[5].write_bytes(b"no image")
    return paths


def cache(method: str, folder: Path) -> dict[str, Path]:
    return {"reader__cache": folder / "cache"} if method == "lazy" else {}


if __name__ == "__main__":
    main()
