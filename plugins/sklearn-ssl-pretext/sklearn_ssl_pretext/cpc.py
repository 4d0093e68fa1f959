"""CPC: identification of the patches below from the upper rows of an image."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from sklearn_ssl.losses import (
    Batch,
    Spec,
    SSLLoss,
    Student,
    Teacher,
    ViewSpec,
    check_number,
    is_whole,
    patch_side,
)
from sklearn_ssl_pretext.sizes import enlarged
from sklearn_ssl_pretext.tiles import check_is_taken

# Minimum side of a patch for grid="auto", in pixels, if the image is large enough.
AUTO_PATCH_SIDE = 12
# Minimum and maximum number of patches in a row for grid="auto".
MIN_GRID, MAX_GRID = 3, 7


class CPC(SSLLoss):
    r"""Contrastive predictive coding (CPC) of images [1]_.

    The image is cut into overlapping patches, which the backbone encodes separately. A recurrent network
    reads them from top to bottom and aggregates them to contexts, from which the features of patches further
    down are predicted. Each prediction has to identify its patch among all patches of the batch:

    .. math::
        \ell = - \log \frac{\exp(\hat z_{t+k}^{\top} \, \overline{W_k c_t} / \tau)}
                           {\sum_j \exp(\hat z_j^{\top} \, \overline{W_k c_t} / \tau)}

    averaged over columns, rows t and steps k ahead, where :math:`c_t` is the context of the rows up to t, z a
    linear map of the features of a patch, hat and bar denote scaling to unit length, and j runs over all
    patches of all images of the batch.

    Parameters
    ----------
    grid : int or "auto", default="auto"
        Number of patches in a row and in a column; adjacent patches overlap by half. "auto": the paper's 7 if
        patches then have at least 12 pixels on a side, otherwise fewer, down to 3.
    steps : int, default=5
        Maximum number of steps k ahead. The default is the paper's. It is limited to the number of rows minus
        one.
    dim : int, default=128
        Width of z and of the predictions.
    temperature : float, default=0.1
        Temperature :math:`\tau`. The paper has neither a temperature nor a scaling to unit length; both make
        learning from small batches possible.

    Attributes
    ----------
    read : nn.GRUCell
        Recurrent network that aggregates the patches of a column.
    target : nn.Linear
        Linear map from features to z.
    predict : nn.ModuleList of nn.Linear
        The :math:`W_k`, one for each number of steps.

    Raises
    ------
    ValueError
        If a hyperparameter is out of its range; in `build`, if the patches would be too small.

    Notes
    -----
    The paper's context is a PixelCNN over all rows above; here, a GRU reads each column separately. With
    BatchNorm in the backbone, patches of an image can to some extent be identified by the statistics of their
    batch (arXiv:1905.09272); encoding the patches of many images in one batch, as here, keeps the effect
    small.

    All patches of a batch are compared with each other: memory grows with the square of the batch size.

    References
    ----------
    .. [1] van den Oord et al., "Representation Learning with Contrastive Predictive Coding", 2018,
       arXiv:1807.03748, section 3.2 and equation 4.
    """

    family = "pretext"
    view_spec = ViewSpec(1, recipes=("weak",))
    defaults: ClassVar[dict] = {"projector": (), "image_size": partial(enlarged, short_side=16)}

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
        # A side of two strides makes adjacent patches overlap by half.
        self.size = tuple(2 * stride // patch * patch for stride in self.stride)
        if min(self.size) < 2:
            raise ValueError(
                f"patches of a {self.rows} x {self.rows} grid would have {self.size[0]} x {self.size[1]} "
                f"pixels. Set a larger image_size, or loss__grid={MIN_GRID}"
                + (", or a smaller backbone__patch." if patch > 1 else ".")
            )
        check_is_taken(spec, self.size, "patches")
        self.ahead = min(self.steps, self.rows - 1)
        self.read = nn.GRUCell(spec.feature_dim, spec.feature_dim)
        self.target = nn.Linear(spec.feature_dim, self.dim, bias=False)
        self.predict = nn.ModuleList(
            nn.Linear(spec.feature_dim, self.dim, bias=False) for _ in range(self.ahead)
        )

    def step(self, batch: Batch, student: Student, teacher: Teacher | None) -> Tensor | dict[str, Tensor]:
        patches = overlapping(batch.views[0], self.rows, self.size, self.stride)
        h = student.features(rearrange(patches, "n rows columns ... -> (n rows columns) ..."))
        n, rows = patches.shape[:2]
        columns = rearrange(h, "(n rows columns) d -> (n columns) rows d", n=n, rows=rows)
        return self.info_nce(self.target(columns), self.contexts(columns))

    def contexts(self, columns: Tensor) -> Tensor:
        """Aggregate the patches of each column from top to bottom.

        Parameters
        ----------
        columns : Tensor of shape (n * columns, rows, feature_dim)
            Features of the patches.

        Returns
        -------
        Tensor of shape (n * columns, rows, feature_dim)
            Context of each row: the state of the recurrent network after reading it.
        """
        states: list[Tensor] = []
        for row in columns.unbind(dim=1):
            states.append(self.read(row, states[-1] if states else None))
        return torch.stack(states, dim=1)

    def info_nce(self, z: Tensor, context: Tensor) -> Tensor:
        """Compute the InfoNCE loss of the predictions.

        Parameters
        ----------
        z : Tensor of shape (n * columns, rows, dim)
            Targets.
        context : Tensor of shape (n * columns, rows, feature_dim)
            Context of each row.

        Returns
        -------
        Tensor of shape ()
            The mean over columns, rows and steps.
        """
        n, rows = z.shape[:2]
        every = rearrange(F.normalize(z, dim=2), "n rows dim -> (rows n) dim")
        losses = []
        for k, predict in enumerate(self.predict, 1):
            guess = rearrange(F.normalize(predict(context[:, :-k]), dim=2), "n rows dim -> (rows n) dim")
            # Row after row in `every`: the patch k rows below is k * n places further on.
            target = torch.arange(k * n, rows * n, device=z.device)
            losses.append(F.cross_entropy(guess @ every.T / self.temperature, target, reduction="none"))
        return torch.cat(losses).mean()


def checked_grid(given: int | str, image_size: tuple[int, int]) -> int:
    """Return the number of patches in a row and in a column."""
    if isinstance(given, str) and given == "auto":
        return min(MAX_GRID, max(MIN_GRID, 2 * min(image_size) // AUTO_PATCH_SIDE - 1))
    if not is_whole(given) or given < 2:
        raise ValueError(f"loss__grid={given!r}: give at least 2 patches in a row, or 'auto'.")
    return given


def overlapping(x: Tensor, grid: int, size: tuple[int, int], stride: tuple[int, int]) -> Tensor:
    """Cut images into overlapping patches (n, grid, grid, channels, *size), `stride` pixels apart."""
    patches = x.unfold(2, size[0], stride[0])[:, :, :grid].unfold(3, size[1], stride[1])[:, :, :, :grid]
    return rearrange(patches, "n channels rows columns a b -> n rows columns channels a b")
