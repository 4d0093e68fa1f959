"""CPC: from the upper rows of an image, recognise the patches below."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sklearn_ssl import Batch, Spec, SSLLoss, ViewSpec
from sklearn_ssl.losses import check_number, is_whole, patch_side
from sklearn_ssl_pretext.tiles import check_is_taken

# Pixels on the side of a patch, where the user leaves the grid to us and the image allows for it; and patches
# in a row.
AUTO_SIDE, FEWEST, MOST = 12, 3, 7


class CPC(SSLLoss):
    r"""Contrastive predictive coding: pick the patch that comes next out of all patches of the batch.

    The image is cut into overlapping patches, each of which the backbone sees alone. A recurrent network
    reads them from top to bottom, and from what it has read so far, patches further down are predicted; not
    their pixels, but their features, well enough to tell them from those of other places and images:

    .. math::
        \ell = - \log \frac{\exp(\hat z_{t+k}^{\top} \, \overline{W_k c_t} / \tau)}
                           {\sum_j \exp(\hat z_j^{\top} \, \overline{W_k c_t} / \tau)}

    averaged over columns, rows t and steps k ahead, where :math:`c_t` is what was read down to row t, z a
    linear map of the features of a patch, hat and bar scale to length 1, and j runs through all patches of
    all images of the batch.

    Parameters
    ----------
    grid : int or "auto", default="auto"
        Patches in a row and in a column, half of one overlapping the next. "auto": the paper's 7 where they
        have 12 pixels or more on a side, then fewer, down to 3.
    steps : int, default=5
        Largest k; the paper's. At most one less than the rows.
    dim : int, default=128
        Of z and of what is predicted.
    temperature : float, default=0.1
        :math:`\tau`. The paper has neither it nor the scaling to length 1; both let small batches learn.

    Raises
    ------
    ValueError
        When `build` finds that the patches would be too small.

    Notes
    -----
    The paper reads by a PixelCNN, whose context are all rows above; here a GRU reads each column by itself.
    With BatchNorm in the backbone, patches of an image can recognise each other by their batch, to some
    extent (arXiv:1905.09272); the patches of many images in one batch, as here, keep it small.

    All patches of a batch are compared with each other: memory grows with the square of the batch.

    References
    ----------
    van den Oord et al., "Representation Learning with Contrastive Predictive Coding", 2018,
    arXiv:1807.03748, section 3.2 and equation 4.
    """

    family = "pretext"
    view_spec = ViewSpec(1, recipes=("weak",))
    defaults: ClassVar[dict] = {"projector": ()}

    def __init__(self, grid: int | str = "auto", steps: int = 5, dim: int = 128, temperature: float = 0.1):
        super().__init__()
        self.grid = grid
        self.steps = check_number("loss__steps", steps, whole=True, at_least=1)
        self.dim = check_number("loss__dim", dim, whole=True, at_least=1)
        self.temperature = check_number("loss__temperature", temperature, above=0)

    def build(self, spec: Spec) -> None:
        patch = patch_side(spec)
        self.rows = checked_grid(self.grid, spec.image_size)
        self.stride = tuple(side // (self.rows + 1) for side in spec.image_size)
        self.size = tuple(2 * stride // patch * patch for stride in self.stride)
        if min(self.size) < 2:
            raise ValueError(
                f"patches of a {self.rows} x {self.rows} grid would have {self.size[0]} x {self.size[1]} "
                f"pixels. Set a larger image_size, or loss__grid={FEWEST}"
                + (", or a smaller backbone__patch." if patch > 1 else ".")
            )
        check_is_taken(spec, self.size, "patches")
        self.ahead = min(self.steps, self.rows - 1)
        self.read = nn.GRUCell(spec.feature_dim, spec.feature_dim)
        self.target = nn.Linear(spec.feature_dim, self.dim, bias=False)
        self.predict = nn.ModuleList(
            nn.Linear(spec.feature_dim, self.dim, bias=False) for _ in range(self.ahead)
        )

    def step(self, batch: Batch, student, teacher) -> Tensor:
        patches = overlapping(batch.views[0], self.rows, self.size, self.stride)
        h = student.features(patches.flatten(0, 2)).view(*patches.shape[:3], -1)  # (n, rows, columns, d)
        columns = h.transpose(1, 2).flatten(0, 1)  # (n * columns, rows, d)
        return self.info_nce(self.target(columns), self.contexts(columns))

    def contexts(self, columns: Tensor) -> Tensor:
        """What was read down to each row of (n * columns, rows, d)."""
        states: list[Tensor] = []
        for row in columns.unbind(dim=1):
            states.append(self.read(row, states[-1] if states else None))
        return torch.stack(states, dim=1)

    def info_nce(self, z: Tensor, context: Tensor) -> Tensor:
        """Of targets (n * columns, rows, dim) and what was read down to each row (n * columns, rows, d)."""
        n, rows = z.shape[:2]
        every = F.normalize(z, dim=2).transpose(0, 1).flatten(0, 1)  # (rows * n, dim), row after row
        losses = []
        for k, predict in enumerate(self.predict, 1):
            guess = F.normalize(predict(context[:, :-k]), dim=2).transpose(0, 1).flatten(0, 1)
            target = torch.arange(k * n, rows * n, device=z.device)
            losses.append(F.cross_entropy(guess @ every.T / self.temperature, target, reduction="none"))
        return torch.cat(losses).mean()


def checked_grid(given: int | str, image_size: tuple[int, int]) -> int:
    """Patches in a row and in a column."""
    if isinstance(given, str) and given == "auto":
        return min(MOST, max(FEWEST, 2 * min(image_size) // AUTO_SIDE - 1))
    if not is_whole(given) or given < 2:
        raise ValueError(f"loss__grid={given!r}: give at least 2 patches in a row, or 'auto'.")
    return given


def overlapping(x: Tensor, grid: int, size: tuple[int, int], stride: tuple[int, int]) -> Tensor:
    """Patches (n, grid, grid, channels, *size) of images (n, channels, height, width), `stride` apart."""
    patches = x.unfold(2, size[0], stride[0])[:, :, :grid].unfold(3, size[1], stride[1])[:, :, :, :grid]
    return patches.permute(0, 2, 3, 1, 4, 5)
