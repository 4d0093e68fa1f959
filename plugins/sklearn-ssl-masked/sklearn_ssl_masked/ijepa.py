"""I-JEPA: prediction of a momentum teacher's tokens of blocks, from the tokens of a context."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sklearn_ssl.losses import (
    Batch,
    Spec,
    SSLLoss,
    Student,
    Teacher,
    ViewSpec,
    backbone_with_tokens,
    check_choice,
    check_number,
)
from sklearn_ssl_masked.data2vec import LinearToOne
from sklearn_ssl_masked.mae import decoder_layer, rows

# Ranges of the area of target blocks and of the context, as fractions of the image, and of the aspect ratio
# of target blocks; the paper's.
TARGET_AREA = (0.15, 0.2)
TARGET_ASPECT = (0.75, 1.5)
CONTEXT_AREA = (0.85, 1.0)


class IJEPA(SSLLoss):
    r"""Image-based joint-embedding predictive architecture (I-JEPA) [1]_.

    The student encodes a large block of the image, the context, without the patches of some smaller blocks.
    From its tokens, a narrow transformer predicts the tokens of each of the smaller blocks, as the teacher,
    an exponential moving average of the student, encodes them from the whole image. The target is abstract,
    so that no pixels have to be predicted, and no augmentation but crops and flips is needed:

    .. math::
        \ell = \frac1B \sum_{b} \frac{1}{|b|} \sum_{i \in b} \frac1d \sum_j
        L_1\bigl(p_b(s)_i - \operatorname{norm}(t_i)\bigr)_j

    averaged over the images, for B target blocks b, where s are the student's tokens of the context,
    :math:`p_b` the predictor for block b, :math:`t_i` the teacher's token of patch i, norm standardizes the d
    values of a token, and :math:`L_1(x)` is :math:`x^2 / 2` for :math:`|x| \le 1`, else :math:`|x| - 1/2`.

    Parameters
    ----------
    n_blocks : int, default=4
        Number of target blocks B. The default is the paper's.
    predictor_width : int, default=128
        Width of the predictor's tokens. The paper: 384, for encoders of 768 and more.
    predictor_depth : int, default=2
        Number of layers of the predictor. The paper: 6 to 12, for encoders of 12 to 32 layers.
    momentum : float, default=0.99
        Initial momentum of the teacher, which rises linearly to 1. The paper: 0.996, for many more steps.
    encoder : {"teacher", "student"}, default="teacher"
        Network whose backbone becomes the encoder. The default is the authors'.

    Attributes
    ----------
    token : nn.Parameter of shape (predictor_width,)
        Token of a patch that is to be predicted.
    positions : nn.Parameter of shape (patches, predictor_width)
        Position embeddings of the predictor.

    Raises
    ------
    ValueError
        If a hyperparameter is out of its range; in `build`, if the backbone is not a vision transformer, or
        the image has fewer than 4 x 4 patches.

    Notes
    -----
    The blocks of a step have one size, and their positions are those of each image. The context is that of
    the image with the fewest patches left, as in the authors' code: others leave out patches at random.

    References
    ----------
    .. [1] Assran et al., "Self-Supervised Learning from Images with a Joint-Embedding Predictive
       Architecture", CVPR 2023, arXiv:2301.08243, section 3; loss and masks from
       github.com/facebookresearch/ijepa.
    """

    family = "masked"
    view_spec = ViewSpec(1, recipes=("weak",))
    defaults: ClassVar[dict] = {"backbone": "vit", "projector": (), "batch_size": 64}

    def __init__(
        self,
        n_blocks: int = 4,
        predictor_width: int = 128,
        predictor_depth: int = 2,
        momentum: float = 0.99,
        encoder: str = "teacher",
    ):
        super().__init__()
        self.n_blocks = check_number("loss__n_blocks", n_blocks, whole=True, at_least=1)
        self.predictor_width = check_number("loss__predictor_width", predictor_width, whole=True, at_least=1)
        self.predictor_depth = check_number("loss__predictor_depth", predictor_depth, whole=True, at_least=1)
        self.teacher_momentum = LinearToOne(check_number("loss__momentum", momentum, at_least=0, at_most=1))
        self.encoder = check_choice("loss__encoder", encoder, ("teacher", "student"))

    def build(self, spec: Spec) -> None:
        self.grid = backbone_with_tokens(spec).grid
        if min(self.grid) < 4:
            raise ValueError(
                f"the image has {self.grid[0]} x {self.grid[1]} patches, too few for blocks of them: set a "
                f"smaller backbone__patch, or a larger image_size."
            )
        width, patches = self.predictor_width, self.grid[0] * self.grid[1]
        self.embed = nn.Linear(spec.feature_dim, width)
        self.token = nn.Parameter(0.02 * torch.randn(width, generator=spec.generator))
        self.positions = nn.Parameter(0.02 * torch.randn(patches, width, generator=spec.generator))
        self.layers = nn.Sequential(*(decoder_layer(width) for _ in range(self.predictor_depth)))
        self.out = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, spec.feature_dim))

    def step(self, batch: Batch, student: Student, teacher: Teacher | None) -> Tensor | dict[str, Tensor]:
        x = batch.views[0]
        keep, targets = draw_blocks(len(x), self.grid, self.n_blocks, batch.generator)
        keep, targets = keep.to(x.device), targets.to(x.device)  # (n, k), (n, blocks, size)
        predicted = self._predicted(student.encode(x, keep), keep, targets)
        tokens = teacher.tokens(x)
        wanted = F.layer_norm(tokens, tokens.shape[-1:])
        wanted = torch.stack([rows(wanted, block) for block in targets.unbind(1)], dim=1)
        return F.smooth_l1_loss(predicted, wanted)

    def _predicted(self, s: Tensor, keep: Tensor, targets: Tensor) -> Tensor:
        """Return predictions of the tokens of all blocks, (n, blocks, size, d)."""
        n, blocks, size = targets.shape
        context = self.embed(s) + self.positions[keep]  # (n, k, width)
        asked = self.token + self.positions[targets]  # (n, blocks, size, width)
        context = context[:, None].expand(-1, blocks, -1, -1)
        out = self.layers(torch.cat([context, asked], dim=2).flatten(0, 1))[:, -size:]
        return self.out(out).unflatten(0, (n, blocks))


def draw_blocks(
    n: int, grid: tuple[int, int], n_blocks: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw the context and the target blocks of n images.

    Parameters
    ----------
    n : int
        Number of images.
    grid : tuple of two ints
        Number of (rows, columns) of patches.
    n_blocks : int
        Number of target blocks.
    generator : torch.Generator
        Source of randomness.

    Returns
    -------
    keep : Tensor of shape (n, k), int64
        Patches of the context, which are in no target block of the image; at least one.
    targets : Tensor of shape (n, n_blocks, size), int64
        Patches of each target block.
    """
    area, aspect, context = torch.rand(3, generator=generator, device=generator.device).tolist()
    target = block_size(grid, between(TARGET_AREA, area), between(TARGET_ASPECT, aspect))
    masks = place_blocks(n * n_blocks, grid, target, generator).unflatten(0, (n, n_blocks))
    whole = block_size(grid, between(CONTEXT_AREA, context), 1.0)
    shown = place_blocks(n, grid, whole, generator) & ~masks.any(dim=1)
    # An image whose targets cover the whole context shows a patch outside of the targets, or any.
    chance = torch.rand(shown.shape, generator=generator, device=generator.device)
    ranks = 2 * shown.float() + (~masks.any(dim=1)).float() + chance
    k = max(1, int(shown.sum(dim=1).min()))
    size = target[0] * target[1]
    return ranks.topk(k, dim=1).indices, masks.float().topk(size, dim=2).indices


def between(limits: tuple[float, float], share: float) -> float:
    return limits[0] + (limits[1] - limits[0]) * share


def block_size(grid: tuple[int, int], area: float, aspect: float) -> tuple[int, int]:
    """Return (rows, columns) of a block of a fraction of the grid's area; at least one patch each."""
    patches = area * grid[0] * grid[1]
    height = min(grid[0], max(1, round(math.sqrt(patches * aspect))))
    return height, min(grid[1], max(1, round(math.sqrt(patches / aspect))))


def place_blocks(n: int, grid: tuple[int, int], size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Return masks of n blocks of a size at random positions, (n, rows * columns), bool."""
    top, left = (
        torch.randint(whole - part + 1, (n, 1), generator=generator, device=generator.device)
        for whole, part in zip(grid, size, strict=True)
    )
    row, column = (torch.arange(whole, device=top.device) for whole in grid)
    inside = (row >= top) & (row < top + size[0])
    across = (column >= left) & (column < left + size[1])
    return (inside[:, :, None] & across[:, None, :]).flatten(1)
