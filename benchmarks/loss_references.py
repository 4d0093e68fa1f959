"""Values of our losses and lightly's for the same projections.

    pip install -r requirements-bench.txt && python benchmarks/loss_references.py

The values printed are those in tests/losses/test_losses.py and in the tests of the plugins.
"""

from __future__ import annotations

import importlib.metadata
from unittest import mock

import numpy as np
import torch
from lightly.loss import BarlowTwinsLoss, DCLLoss, NTXentLoss, VICRegLoss
from lightly.loss.lejepa_loss import LeJEPALoss
from lightly.loss.vicregl_loss import VICRegLLoss
from lightly.loss.visreg_loss import VISRegLoss

from sklearn_ssl import available_losses, get_loss


def reference_projections() -> tuple[torch.Tensor, torch.Tensor]:
    """Return two views of 12 samples in 6 dimensions, made of sines instead of random numbers."""
    i = torch.arange(12, dtype=torch.float64)[:, None]
    j = torch.arange(6, dtype=torch.float64)
    common = torch.sin(1 + i * 1.7 + j * 2.3 + i * j)
    return common + 0.3 * torch.cos(i + 3 * j), common + 0.3 * torch.cos(2 * i + j)


def main() -> None:
    z = reference_projections()
    ours = {
        "ntxent": get_loss("ntxent")(temperature=0.5),
        "dcl": get_loss("dcl")(temperature=0.1),
        "vicreg": get_loss("vicreg")(),
    }
    theirs = {"ntxent": NTXentLoss(temperature=0.5), "dcl": DCLLoss(temperature=0.1), "vicreg": VICRegLoss()}
    if "barlow_twins" in available_losses():
        ours["barlow_twins"] = get_loss("barlow_twins")(lambd=0.0051, scale=1.0)
        theirs["barlow_twins"] = BarlowTwinsLoss(lambda_param=0.0051)
    print(f"lightly {importlib.metadata.version('lightly')}, torch {torch.__version__}, float64\n")
    print(f"{'loss':14}{'ours':>16}{'lightly':>16}{'difference':>14}")
    for name, loss in ours.items():
        show(name, value(loss(*z)), value(theirs[name](*z)))
    if "lejepa" in available_losses():
        for name, reference in (("lejepa", LeJEPALoss()), ("visreg", VISRegLoss(lambda_param=0.6))):
            show(name, *along_axes(get_loss(name)(), reference, *z))
    if "vicregl" in available_losses():
        show("vicregl", *of_parts(get_loss("vicregl")(matches=0.01)))


def of_parts(ours) -> tuple[float, float]:
    """Return both values for the positions of two views, one match of each image."""
    rng = np.random.default_rng(0)
    positions = torch.from_numpy(rng.normal(size=(2, 5, 6, 3)))  # as in the tests of VICRegL
    places = torch.from_numpy(rng.uniform(-1, 1, size=(2, 5, 6, 2)))
    features = [(view.mean(dim=1), view.unflatten(1, (2, 3))) for view in positions]
    grids = [view.unflatten(1, (2, 3)) for view in places]
    lightlys = VICRegLLoss(alpha=0.0, num_matches=(1, 1))(features, grids)
    return value(ours.loss_of_parts(positions, places)), value(lightlys)


def along_axes(ours, theirs, first: torch.Tensor, second: torch.Tensor) -> tuple[float, float]:
    """Return both values for two views and a local crop, along the axes instead of random directions."""
    axes = torch.eye(first.shape[1], dtype=first.dtype)
    crop = first - second
    with mock.patch("torch.randn", return_value=axes):
        reference = theirs(global_proj=torch.stack([first, second]), local_proj=crop[None])
    return value(ours(first, second, crop, directions=axes)), value(reference)


def show(name: str, ours: float, lightlys: float) -> None:
    print(f"{name:14}{ours:16.10f}{lightlys:16.10f}{ours - lightlys:14.1e}")


def value(out) -> float:
    return float(out["loss"] if isinstance(out, dict) else out)


if __name__ == "__main__":
    main()
