"""DeepCluster: k-means clustering of all images, with the clusters as classification targets."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sklearn_ssl.losses import Batch, Spec, SSLLoss, Student, Teacher, check_choice, check_number, mlp
from sklearn_ssl_cca.sizes import number_of_groups

# Cluster of an image that was not seen before the clustering.
NO_CLUSTER = -1
# Number of rows that k-means compares with the centroids at a time, to bound memory.
ROWS = 2**14


class DeepCluster(SSLLoss):
    r"""DeepCluster-v2: k-means clusters as classification targets [1]_ [2]_.

    At the start of each epoch, k-means clusters the projections of all images, which were stored during the
    previous epoch or are computed anew. During the epoch, each view of an image is classified among the
    centroids of the clusters:

    .. math::
        \ell = -\frac1V \sum_v
        \log \frac{\exp(\hat z_v^\top c_{y} / \tau)}{\sum_k \exp(\hat z_v^\top c_k / \tau)}

    where :math:`\hat z` is the projection scaled to unit length, y the cluster of the image, :math:`c_k` the
    unit-length centroids (fixed during the epoch), V the number of views, and the loss is the mean over the
    images. Several clusterings of the same projections, which differ in their random initialization, are
    learned at the same time; the loss is the mean over them.

    Parameters
    ----------
    n_clusters : int or "auto", default="auto"
        Number of clusters. "auto": 300, at most a quarter of the number of images. The authors use 3000 for
        the 1000 classes of ImageNet.
    n_groupings : int, default=3
        Number of clusterings. The default is the authors'.
    temperature : float, default=0.1
        Temperature :math:`\tau`. The default is the authors'.
    kmeans_iterations : int, default=10
        Number of iterations of k-means. The default is the authors'.
    passes : {"none", "first", "all"}, default="none"
        Epochs that begin with a pass over all images, whose projections are clustered: none, the first one,
        as in DeepCluster-v2, or all, as in the first DeepCluster. Other epochs take the projections stored in
        the epoch before, and the first one random clusters in equal numbers.

    Attributes
    ----------
    bank : Tensor of shape (n_samples, dim)
        Memory bank: the mean direction of the projections of each image's views, zeros for images not seen
        yet.
    centroids : Tensor of shape (n_groupings, n_clusters, dim)
        Unit-length centroids of each clustering.
    clusters : Tensor of shape (n_groupings, n_samples), int64
        Cluster of each image in each clustering; -1 for none.

    Raises
    ------
    ValueError
        If a hyperparameter is out of its range; in `build`, if `n_clusters` does not suit the number of
        images.

    Notes
    -----
    The projections are standardized over the batch (BatchNorm without an affine transformation), unlike the
    authors'. Otherwise they share one dominant direction early in training, and k-means hardly separates
    them.

    The memory bank stores projections as of the last time the image was in a batch, so that clustering needs
    no pass over the images. In the first epoch, when the bank is empty, the images are assigned by
    default to random centroids in equal numbers: the views of an image are attracted to the same centroid,
    and the images are spread out (as in "noise as targets", arXiv:1704.05310). From the second epoch on, an
    image that no batch has contained so far has no cluster, and is left out of the loss.

    References
    ----------
    .. [1] Caron et al., "Deep Clustering for Unsupervised Learning of Visual Features", ECCV 2018,
       arXiv:1807.05520.
    .. [2] Caron et al., "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments",
       NeurIPS 2020, arXiv:2006.09882, appendix (DeepCluster-v2); constants from
       github.com/facebookresearch/swav.
    """

    family = "cca"
    validates = False  # the cluster of an image is looked up

    def __init__(
        self,
        n_clusters: int | str = "auto",
        n_groupings: int = 3,
        temperature: float = 0.1,
        kmeans_iterations: int = 10,
        passes: str = "none",
    ):
        super().__init__()
        self.n_clusters = n_clusters
        self.n_groupings = check_number("loss__n_groupings", n_groupings, whole=True, at_least=1)
        self.temperature = check_number("loss__temperature", temperature, above=0)
        self.kmeans_iterations = check_number(
            "loss__kmeans_iterations", kmeans_iterations, whole=True, at_least=1
        )
        self.passes = check_choice("loss__passes", passes, ("none", "first", "all"))
        self.register_load_state_dict_pre_hook(_new_bank_for_other_images)

    def make_projector(self, in_dim: int, widths: tuple[int, ...]) -> nn.Module:
        """Build an MLP whose output is standardized over the batch, too; see the Notes."""
        return mlp(in_dim, *widths, norm_output=True)

    def build(self, spec: Spec) -> None:
        k = number_of_groups("n_clusters", self.n_clusters, 300, spec.n_samples)
        centroids = torch.randn(self.n_groupings, k, spec.dim, generator=spec.generator)
        dealt = [torch.randperm(spec.n_samples, generator=spec.generator) % k for _ in centroids]
        self.register_buffer("bank", torch.zeros(spec.n_samples, spec.dim))
        self.register_buffer("centroids", F.normalize(centroids, dim=2))  # (groupings, K, d)
        self.register_buffer("clusters", torch.stack(dealt))  # (groupings, n_samples)

    def before_epoch(self, epoch: int, project: Callable[[], Tensor]) -> None:
        if self.passes == "all" or (self.passes == "first" and epoch == 0):
            self.bank.copy_(F.normalize(project(), dim=1))

    def on_epoch_start(self, epoch: int, generator: torch.Generator) -> None:
        # Rows of the bank that are all zeros belong to images not seen yet.
        seen = self.bank.any(dim=1).nonzero().squeeze(1)
        if len(seen) == 0:
            return
        k = self.centroids.shape[1]
        self.clusters.fill_(NO_CLUSTER)  # those of other images were random
        for centroids, clusters in zip(self.centroids, self.clusters, strict=True):
            found, nearest = spherical_kmeans(self.bank[seen], k, self.kmeans_iterations, generator)
            centroids.copy_(found)
            clusters[seen] = nearest

    def step(self, batch: Batch, student: Student, teacher: Teacher | None) -> Tensor | dict[str, Tensor]:
        z = [F.normalize(view, dim=1) for view in student(batch.views)]  # (n, d) each
        self.bank[batch.index] = F.normalize(sum(z).detach(), dim=1)
        y = self.clusters[:, batch.index]  # (groupings, n)
        terms = [
            cross_entropy(view @ c.T / self.temperature, target)
            for view in z
            for c, target in zip(self.centroids, y, strict=True)
        ]
        return torch.stack(terms).mean()


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Return the mean cross-entropy over the rows that have a cluster, 0 if none has."""
    n_known = (target != NO_CLUSTER).sum().clamp(min=1)
    return F.cross_entropy(logits, target, ignore_index=NO_CLUSTER, reduction="sum") / n_known


def spherical_kmeans(x: Tensor, k: int, iterations: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Cluster unit vectors by direction (spherical k-means).

    Parameters
    ----------
    x : Tensor of shape (n, d)
        Unit-length rows.
    k : int
        Number of clusters. The initial centroids are k rows drawn at random, repeated if k > n.
    iterations : int
        Number of iterations.
    generator : torch.Generator
        Source of randomness of the initial centroids.

    Returns
    -------
    centroids : Tensor of shape (k, d)
        Unit-length centroids. The centroid of an empty cluster is left unchanged.
    nearest : Tensor of shape (n,), int64
        Cluster of each row.
    """
    order = torch.randperm(len(x), generator=generator, device=generator.device).to(x.device)
    centroids = x[order[torch.arange(k, device=x.device) % len(x)]]
    for _ in range(iterations):
        sums = torch.zeros_like(centroids)
        for rows in x.split(ROWS):
            # A matrix product rather than `index_add`, whose order of summation varies on a GPU.
            sums += F.one_hot(_nearest(rows, centroids), k).to(x.dtype).T @ rows
        centroids = torch.where(sums.any(dim=1, keepdim=True), F.normalize(sums, dim=1), centroids)
    return centroids, torch.cat([_nearest(rows, centroids) for rows in x.split(ROWS)])


def _nearest(x: Tensor, centroids: Tensor) -> Tensor:
    return (x @ centroids.T).argmax(dim=1)


def _new_bank_for_other_images(loss: DeepCluster, state_dict: dict, prefix: str, *_) -> None:
    """Discard the saved bank and clusters if a warm start has a different number of images."""
    given = state_dict.get(prefix + "bank")
    if given is not None and len(given) != len(loss.bank):
        state_dict.update({prefix + name: buffer for name, buffer in loss.named_buffers()})
