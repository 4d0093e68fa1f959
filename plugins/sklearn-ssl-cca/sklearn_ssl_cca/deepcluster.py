"""DeepCluster: group all images by k-means, then learn the groups as classes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sklearn_ssl import Batch, Spec, SSLLoss
from sklearn_ssl.losses import check_number, mlp
from sklearn_ssl_cca.sizes import number_of_groups

ROWS = 2**14  # that k-means compares with the centroids at a time


class DeepCluster(SSLLoss):
    r"""K-means grouping: what lies together shall be told from the rest, and so comes to lie closer together.

    At the start of each epoch, k-means groups the projections that the last one has left; in the epoch, each
    view of an image is classified among the groups' centroids:

    .. math::
        \ell = -\frac1V \sum_v
        \log \frac{\exp(\hat z_v^\top c_{y} / \tau)}{\sum_k \exp(\hat z_v^\top c_k / \tau)}

    where :math:`\hat z` is the projection divided by its norm, y the group of the image, :math:`c_k` the unit
    centroids (fixed during the epoch), V the number of views, and the loss is the mean over the images.
    Several groupings of the same projections, each from another random start, are learned at once: the loss
    is the mean over them.

    Parameters
    ----------
    n_clusters : int or "auto", default="auto"
        "auto": 300, at most a quarter of the images. The authors have 3000 for the 1000 classes of ImageNet.
    n_groupings : int, default=3
        How many groupings; the authors'.
    temperature : float, default=0.1
        :math:`\tau`; the authors'.
    kmeans_iterations : int, default=10
        The authors'.

    Notes
    -----
    The projections are standardised over the batch (BatchNorm, without weights of its own), which the authors
    do not do: else they share one large direction at first, and k-means has little to tell them apart by.

    The bank that is grouped holds for each image the mean direction of its views' projections, as they were
    when the image last came up: no extra pass over the images. Before it has anything, in the first epoch,
    the images are dealt to random centroids in equal numbers: views of an image have to find each other, and
    the images spread out (as in "noise as targets", arXiv:1704.05310). An image that the first epoch left
    out, for its last batch was incomplete, keeps its random cluster for a second one.

    References
    ----------
    Caron et al., "Deep Clustering for Unsupervised Learning of Visual Features", ECCV 2018, arXiv:1807.05520;
    in the form of DeepCluster-v2 (the appendix of SwAV, arXiv:2006.09882); constants from
    github.com/facebookresearch/swav.
    """

    family = "cca"

    def __init__(
        self,
        n_clusters: int | str = "auto",
        n_groupings: int = 3,
        temperature: float = 0.1,
        kmeans_iterations: int = 10,
    ):
        super().__init__()
        self.n_clusters = n_clusters
        self.n_groupings = check_number("loss__n_groupings", n_groupings, whole=True, at_least=1)
        self.temperature = check_number("loss__temperature", temperature, above=0)
        self.kmeans_iterations = check_number(
            "loss__kmeans_iterations", kmeans_iterations, whole=True, at_least=1
        )
        self.register_load_state_dict_pre_hook(_new_bank_for_other_images)

    def make_projector(self, in_dim: int, widths: tuple[int, ...]) -> nn.Module:
        """An MLP with BatchNorm on its output too; see the notes."""
        return mlp(in_dim, *widths, norm_output=True)

    def build(self, spec: Spec) -> None:
        k = number_of_groups("n_clusters", self.n_clusters, 300, spec.n_samples)
        centroids = torch.randn(self.n_groupings, k, spec.dim, generator=spec.generator)
        dealt = [torch.randperm(spec.n_samples, generator=spec.generator) % k for _ in centroids]
        self.register_buffer("bank", torch.zeros(spec.n_samples, spec.dim))
        self.register_buffer("centroids", F.normalize(centroids, dim=2))  # (groupings, K, d)
        self.register_buffer("clusters", torch.stack(dealt))  # (groupings, n_samples)

    def on_epoch_start(self, epoch: int, generator: torch.Generator) -> None:
        seen = self.bank.any(dim=1).nonzero().squeeze(1)
        if len(seen) == 0:
            return
        k = self.centroids.shape[1]
        for centroids, clusters in zip(self.centroids, self.clusters, strict=True):
            found, nearest = spherical_kmeans(self.bank[seen], k, self.kmeans_iterations, generator)
            centroids.copy_(found)
            clusters[seen] = nearest

    def step(self, batch: Batch, student, teacher) -> Tensor:
        z = [F.normalize(view, dim=1) for view in student(batch.views)]  # (n, d) each
        self.bank[batch.index] = F.normalize(sum(z).detach(), dim=1)
        y = self.clusters[:, batch.index]  # (groupings, n)
        terms = [
            F.cross_entropy(view @ c.T / self.temperature, target)
            for view in z
            for c, target in zip(self.centroids, y, strict=True)
        ]
        return torch.stack(terms).mean()


def spherical_kmeans(x: Tensor, k: int, iterations: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Groups of unit vectors by direction.

    Parameters
    ----------
    x : Tensor of shape (n, d)
        Rows of norm 1.
    k : int
        Groups. They start from k rows drawn at random (some twice where k > n).
    iterations : int
    generator : torch.Generator

    Returns
    -------
    centroids : Tensor of shape (k, d)
        Rows of norm 1. A group that is empty keeps its place.
    nearest : int64 Tensor of shape (n,)
        Each row's group.
    """
    order = torch.randperm(len(x), generator=generator, device=generator.device).to(x.device)
    centroids = x[order[torch.arange(k, device=x.device) % len(x)]]
    for _ in range(iterations):
        sums = torch.zeros_like(centroids)
        for rows in x.split(ROWS):
            # A product rather than `index_add`, whose order of summation varies on a GPU.
            sums += F.one_hot(_nearest(rows, centroids), k).to(x.dtype).T @ rows
        centroids = torch.where(sums.any(dim=1, keepdim=True), F.normalize(sums, dim=1), centroids)
    return centroids, torch.cat([_nearest(rows, centroids) for rows in x.split(ROWS)])


def _nearest(x: Tensor, centroids: Tensor) -> Tensor:
    return (x @ centroids.T).argmax(dim=1)


def _new_bank_for_other_images(loss: DeepCluster, state_dict: dict, prefix: str, *_) -> None:
    """Lets a warm start go on with more or fewer images: their numbers mean others, so it groups anew."""
    given = state_dict.get(prefix + "bank")
    if given is not None and len(given) != len(loss.bank):
        state_dict.update({prefix + name: buffer for name, buffer in loss.named_buffers()})
