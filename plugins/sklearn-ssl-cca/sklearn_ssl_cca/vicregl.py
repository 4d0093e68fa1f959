"""VICRegL: VICReg of whole views, and of parts of views that match by their features or their place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from sklearn_ssl.losses import (
    Batch,
    Spec,
    SSLLoss,
    Student,
    Teacher,
    VICReg,
    ViewSpec,
    check_number,
    map_size,
    mlp,
)


class VICRegL(SSLLoss):
    r"""Variance-invariance-covariance regularization of local features (VICRegL) [1]_.

    VICReg compares the projections of two views of an image, and VICRegL also those of single positions of
    their feature maps. Each position is matched with a position of the other view twice: with the one of the
    nearest features, and with the one that shows the nearest place of the image. The closest matches are
    compared:

    .. math::
        \ell = \alpha \, \ell_V(z, z') + (1 - \alpha) \, \tfrac12 \sum_{m} \bigl[
        \tfrac1k \sum_s \ell_V\bigl(p_s, m(p)_s\bigr)
        + \tfrac1k \sum_s \ell_V\bigl(p'_s, m(p')_s\bigr) \bigr]

    where :math:`\ell_V` is the loss of `VICReg`, z and z' are the projections of two views, p and p' those of
    the k closest positions, numbered by s in the order of the positions, and m runs over the two matches, by
    features and by place. Positions have a projector of their own.

    Parameters
    ----------
    alpha : float, default=0.75
        Weight :math:`\alpha` of the whole views. The default is that of the authors for ResNets.
    matches : float, default=0.4
        Share of the positions whose matches are compared, k. The default is the authors': 20 of 49.
    sim_coeff : float, default=25.0
        Weight of the invariance term of :math:`\ell_V`.
    std_coeff : float, default=25.0
        Weight of its variance term.
    cov_coeff : float, default=1.0
        Weight of its covariance term, which is the mean over both views; `VICReg` has their sum.

    Raises
    ------
    ValueError
        If a hyperparameter is out of its range; in `build`, if the backbone exposes no feature maps.

    Notes
    -----
    The authors' code compares 20 matches in one direction and 4 in the other; here their number is the same
    in both. Its sum over pairs of views overwrites the pairs before the last one, which makes no difference
    to the gradient of two views. Local crops are not used, as in the authors' training of ResNets.

    References
    ----------
    .. [1] Bardes, Ponce and LeCun, "VICRegL: Self-Supervised Learning of Local Visual Features", NeurIPS
       2022, arXiv:2210.01571, section 3; details from github.com/facebookresearch/VICRegL.
    """

    family = "cca"
    view_spec = ViewSpec(2, places=True)
    defaults: ClassVar[dict] = VICReg.defaults

    def __init__(
        self,
        alpha: float = 0.75,
        matches: float = 0.4,
        sim_coeff: float = 25.0,
        std_coeff: float = 25.0,
        cov_coeff: float = 1.0,
    ):
        super().__init__()
        self.alpha = check_number("loss__alpha", alpha, at_least=0, at_most=1)
        self.matches = check_number("loss__matches", matches, above=0, at_most=1)
        cov_coeff = check_number("loss__cov_coeff", cov_coeff, at_least=0)
        self.criterion = VICReg(sim_coeff, std_coeff, cov_coeff / 2)

    def build(self, spec: Spec) -> None:
        map_size(spec)  # reports a backbone without maps
        self.local_projector = mlp(spec.feature_dim, spec.dim, spec.dim, spec.dim)

    def step(self, batch: Batch, student: Student, teacher: Teacher | None) -> Tensor | dict[str, Tensor]:
        maps = student.maps(torch.cat(list(batch.views)))
        z = student.projector(maps.mean(dim=(2, 3))).chunk(2)
        n, _, *size = maps.shape
        positions = self.local_projector(maps.flatten(2).mT.flatten(0, 1)).unflatten(0, (n, -1))
        places = [centers_in_image(place, size) for place in batch.places or ()]
        whole = self.criterion(*z)["loss"]
        parts = self.loss_of_parts(positions.chunk(2), places)
        return {"loss": self.alpha * whole + (1 - self.alpha) * parts, "whole": whole, "parts": parts}

    def loss_of_parts(self, p: Sequence[Tensor], places: Sequence[Tensor]) -> Tensor:
        """Compute the loss of the positions of two views.

        Parameters
        ----------
        p : two tensors of shape (n, positions, dim)
            Projections of the positions of each view.
        places : two tensors of shape (n, positions, 2)
            Places of the positions in the image.

        Returns
        -------
        Tensor of shape ()
            The loss.
        """
        k = max(1, round(self.matches * p[0].shape[1]))
        losses = []
        for where in (p, places):
            for i, j in ((0, 1), (1, 0)):
                mine, matched = matched_positions(torch.cdist(where[i].detach(), where[j].detach()), k)
                own = torch.take_along_dim(p[i], mine[:, :, None], dim=1)  # (n, k, dim)
                other = torch.take_along_dim(p[j], matched[:, :, None], dim=1)
                pairs = zip(own.unbind(1), other.unbind(1), strict=True)
                losses.append(torch.stack([self.criterion(a, b)["loss"] for a, b in pairs]).mean())
        return torch.stack(losses).sum() / 2


def matched_positions(distances: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k positions nearest to one of the other view, in their order, and those others.

    Parameters
    ----------
    distances : Tensor of shape (n, positions, positions)
        Distances between the positions of two views.
    k : int
        Number of matches.

    Returns
    -------
    mine, matched : Tensor of shape (n, k), int64
        Positions in the first view and in the second.
    """
    nearest, which = distances.min(dim=2)
    mine = nearest.topk(k, dim=1, largest=False).indices.sort(dim=1).values
    return mine, which.gather(1, mine)


def centers_in_image(place: Tensor, size: Sequence[int]) -> Tensor:
    """Return where the positions of a feature map lie in the image.

    Parameters
    ----------
    place : Tensor of shape (n, 2, 3)
        Places of the views; see `Batch.places`.
    size : sequence of two ints
        (rows, columns) of the feature map.

    Returns
    -------
    Tensor of shape (n, rows * columns, 2)
        Points (x, y) of the image.
    """
    y, x = ((2 * torch.arange(side, device=place.device) + 1) / side - 1 for side in size)
    points = torch.stack(
        [x.expand(len(y), -1), y[:, None].expand(-1, len(x)), torch.ones(tuple(size)).to(x)], dim=-1
    )
    return points.flatten(0, 1).to(place.dtype) @ place.mT
