"""SimCLR as in lightly's own scripts: the baseline of `train.py` and `time_to_accuracy.py`.

Everything but the stem and the learning rate is taken from its CIFAR-10 benchmark,
docs/source/getting_started/benchmarks/cifar10_benchmark.py of lightly-ai/lightly: PIL images, SimCLRTransform
with cj_strength=0.5 and no blur, a DataLoader with persistent workers (one per core),
SimCLRProjectionHead(512, 512, 128), NTXentLoss() and SGD (momentum 0.9, weight decay 5e-4) with a cosine, in
float32. The loop is plain PyTorch, as in its examples/pytorch/simclr.py.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torchvision
from lightly.loss import NTXentLoss
from lightly.models import ResNetGenerator
from lightly.models.modules import SimCLRProjectionHead
from lightly.transforms import SimCLRTransform
from lightly.transforms.utils import IMAGENET_NORMALIZE
from PIL import Image
from side_by_side import best_device, wait_for_gpu
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset


@dataclass(frozen=True)
class Recipe:
    """Stem, batch size and peak learning rate."""

    stem: str
    batch_size: int
    lr: float


RECIPES = {
    "3x3": Recipe("3x3", 128, 0.06),  # the CIFAR-10 benchmark
    # Network and batch size of lightly's example and tutorial; the benchmark's rate, 0.06 * batch / 128.
    "imagenet": Recipe("imagenet", 256, 0.12),
    "imagenet-tutorial": Recipe("imagenet", 256, 0.06),  # tutorial_simclr_clothing.py does not scale the rate
}


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def measured_epochs(
    recipe: Recipe, images: np.ndarray, epochs: int, workers: int | None = None
) -> tuple[float, float]:
    """Return images/s of the second and later epochs, and seconds of the whole training.

    Parameters
    ----------
    recipe : Recipe
    images : ndarray of shape (n, size, size, 3), uint8
    epochs : int
        At least 2.
    workers : int, optional
        Number of workers of the DataLoader. None: one per core.
    """
    started = time.perf_counter()
    training = Training(recipe, images, workers=workers)
    ends = []
    for epoch in range(epochs):
        for views in training.loader:
            training.step(views, progress=epoch / epochs)
        wait_for_gpu()
        ends.append(time.perf_counter())
    seen = len(training.loader) * recipe.batch_size * (epochs - 1)
    return seen / (ends[-1] - ends[0]), ends[-1] - started


def train_for(
    recipe: Recipe,
    images: np.ndarray,
    seconds: float,
    times: Sequence[float],
    evaluate: Callable[[Callable[[np.ndarray], np.ndarray], float, float, int], object],
    seed: int = 0,
) -> None:
    """Train for a time that includes the construction of the model, with a cosine schedule over it.

    Parameters
    ----------
    times : sequence of float
        Seconds after which to evaluate; the end is always evaluated.
    evaluate : callable
        Called as ``evaluate(embed, planned seconds, seconds, images seen)``, where ``embed`` embeds uint8
        images. Its time is not counted.
    """
    torch.manual_seed(seed)
    started = time.monotonic()
    training = Training(recipe, images)
    due = sorted(t for t in times if t < seconds)
    seen = 0
    for views in training.batches():
        training.step(views, progress=min(1.0, (time.monotonic() - started) / seconds))
        seen += recipe.batch_size
        now = time.monotonic()
        if now - started >= seconds:
            break
        if due and now - started >= due[0]:
            evaluate(training.embed, due.pop(0), now - started, seen)
            started += time.monotonic() - now
    evaluate(training.embed, seconds, time.monotonic() - started, seen)


class PILImages(Dataset):
    """Dataset of transformed PIL images, like lightly's own datasets."""

    def __init__(self, images: np.ndarray, transform: Callable):
        self.images = [Image.fromarray(image) for image in images]
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> list[Tensor]:
        return self.transform(self.images[i])


class Training:
    """Data, network, loss and optimizer of a recipe."""

    def __init__(self, recipe: Recipe, images: np.ndarray, workers: int | None = None):
        self.recipe = recipe
        self.device = best_device()
        self.loader = loader(recipe, images, cores() if workers is None else workers)
        self.backbone = make_backbone(recipe.stem).to(self.device)
        self.head = SimCLRProjectionHead(512, 512, 128).to(self.device)
        self.criterion = NTXentLoss()
        parameters = [*self.backbone.parameters(), *self.head.parameters()]
        self.optimizer = torch.optim.SGD(parameters, lr=recipe.lr, momentum=0.9, weight_decay=5e-4)

    def step(self, views: Sequence[Tensor], progress: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.lr * (1 + math.cos(math.pi * progress)) / 2
        x0, x1 = (view.to(self.device) for view in views)
        z0 = self.head(self.backbone(x0).flatten(1))
        z1 = self.head(self.backbone(x1).flatten(1))
        loss = self.criterion(z0, z1)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def batches(self) -> Iterator[list[Tensor]]:
        while True:
            yield from self.loader

    @torch.no_grad()
    def embed(self, images: np.ndarray) -> np.ndarray:
        """Embed unaugmented uint8 images: (n, size, size, 3) -> (n, 512)."""
        self.backbone.eval()
        mean, std = (torch.tensor(IMAGENET_NORMALIZE[key])[:, None, None] for key in ("mean", "std"))
        rows = []
        for part in torch.from_numpy(images).permute(0, 3, 1, 2).split(64):
            x = (part / 255 - mean) / std
            rows.append(self.backbone(x.to(self.device)).flatten(1).cpu())
        self.backbone.train()
        return torch.cat(rows).numpy()


def loader(recipe: Recipe, images: np.ndarray, workers: int) -> DataLoader:
    transform = SimCLRTransform(input_size=images.shape[1], cj_strength=0.5, gaussian_blur=0.0)
    return DataLoader(
        PILImages(images, transform),
        batch_size=recipe.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )


def make_backbone(stem: str) -> nn.Module:
    if stem == "3x3":
        layers = list(ResNetGenerator("resnet-18").children())[:-1]
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1))
    return nn.Sequential(*list(torchvision.models.resnet18().children())[:-1])
