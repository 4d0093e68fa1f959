"""BEiT: prediction of the visual words of masked patches."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
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
    backbone_with_tokens,
    check_number,
)
from sklearn_ssl_masked.patches import (
    as_pixels,
    blockwise_mask,
    number_hidden,
    patchify,
    shown_and_made,
    unpatchify,
)
from sklearn_ssl_masked.schedules import LateStart


class BEiT(SSLLoss):
    r"""Bidirectional encoder representation from image transformers (BEiT) [1]_.

    A tokenizer assigns to each patch a word of a visual vocabulary. Blocks of patches are masked, and the
    backbone has to predict their words, which describe the content rather than the exact pixels:

    .. math::
        \ell = - \frac{1}{|M|} \sum_{i \in M} \log p(w_i \mid x_{\setminus M})

    where M is the set of masked patches of the batch, :math:`w_i` the word of a patch, and p the softmax of a
    linear layer on its token.

    The tokenizer is a discrete variational autoencoder (dVAE), trained on the same images in a first stage of
    the same fit: words are drawn from the distribution q(w | x) of each patch by the Gumbel-softmax with a
    decreasing temperature, and decoded to pixels,

    .. math::
        \ell_1 = \frac1P \| \hat x(w) - x \|^2 + \beta \, \mathrm{KL}(\bar q \,\|\, \text{uniform})

    averaged over all patches of P values. The second term, on the mean :math:`\bar q` over a batch,
    encourages the use of all words.

    Parameters
    ----------
    tokenizer : callable, default=None
        Function or module that maps views (n, channels, height, width), as they enter the backbone, to words
        (n, patches) or (n, rows, columns), int64, less than `vocab`. A module is copied. None: the dVAE.
    vocab : int, default=512
        Number of words. The paper's 8,192 were learned from 250 million images.
    mask_ratio : float, default=0.4
        Masking ratio: fraction of the patches that is masked, in blocks. The default is the paper's.
    tokenizer_share : float, default=0.2
        Duration of the first stage, as a fraction of the training; ignored if `tokenizer` is given.
    tokenizer_width : int, default=128
        Number of channels inside the dVAE.
    kl_weight : float, default=0.1
        Weight :math:`\beta` of the Kullback-Leibler term.

    Attributes
    ----------
    vae : DiscreteVAE
        Tokenizer; only if `tokenizer` is None.
    token : nn.Parameter of shape (feature_dim,)
        Mask token.
    has_words : Tensor of shape (), bool
        Whether the first stage is over or a tokenizer is given. It is saved, so that a warm start keeps the
        words.

    Raises
    ------
    ValueError
        If a hyperparameter is out of its range; in `build`, if the backbone is not a vision transformer, the
        image is a single patch, or the words of the given tokenizer do not fit the patches or the vocabulary.

    Notes
    -----
    The paper's Kullback-Leibler term is that of each patch's q, as in a variational bound, by which a small
    vocabulary soon becomes unused. The term used here encourages a varied vocabulary only; with
    :math:`\beta = 0.01` its words are easy to predict, and less is learned from them. The temperature
    decreases from 1 to 1/16, as for DALL-E (arXiv:2102.12092, appendix A.2). The learning rate of the
    backbone has a linear warm-up at the start of the second stage.

    `history_` records "reconstruction" in the first stage and "cross_entropy" in the second; "train_loss" is
    that of the current stage, and may rise between them. A training that is continued (`warm_start`) keeps
    its words.

    References
    ----------
    .. [1] Bao et al., "BEiT: BERT Pre-Training of Image Transformers", ICLR 2022, arXiv:2106.08254,
       section 2.
    """

    family = "masked"
    view_spec = ViewSpec(1, recipes=("weak",))
    defaults: ClassVar[dict] = {"backbone": "vit", "projector": (), "batch_size": 32, "lr": 0.016}

    def __init__(
        self,
        tokenizer: Callable[[Tensor], Tensor] | None = None,
        vocab: int = 512,
        mask_ratio: float = 0.4,
        tokenizer_share: float = 0.2,
        tokenizer_width: int = 128,
        kl_weight: float = 0.1,
    ):
        super().__init__()
        if tokenizer is not None and not callable(tokenizer):
            raise ValueError(f"loss__tokenizer={tokenizer!r}: give a function of images, a module, or None.")
        share = check_number("loss__tokenizer_share", tokenizer_share, above=0, below=1)
        self.tokenizer = copy.deepcopy(tokenizer)
        self.vocab = check_number("loss__vocab", vocab, whole=True, at_least=2)
        self.mask_ratio = check_number("loss__mask_ratio", mask_ratio, above=0, below=1)
        self.tokenizer_share = share if tokenizer is None else 0.0
        # The warm-up of the embedder's schedule is the tokenizer's.
        self.rates = {"student": LateStart(share)} if tokenizer is None else {}
        self.tokenizer_width = check_number("loss__tokenizer_width", tokenizer_width, whole=True, at_least=1)
        self.kl_weight = check_number("loss__kl_weight", kl_weight, at_least=0)

    def build(self, spec: Spec) -> None:
        vit = backbone_with_tokens(spec)
        self.side, self.grid = vit.patch_size, vit.grid
        self.token = nn.Parameter(0.02 * torch.randn(spec.feature_dim, generator=spec.generator))
        self.name = nn.Linear(spec.feature_dim, self.vocab)
        self.register_buffer("has_words", torch.tensor(self.tokenizer is not None))
        number_hidden(self.grid[0] * self.grid[1], self.mask_ratio)  # raises for a single patch
        if self.tokenizer is None:
            self.vae = DiscreteVAE(self.side**2 * spec.in_channels, self.vocab, self.tokenizer_width)
            return
        if isinstance(self.tokenizer, nn.Module):
            self.tokenizer.cpu().requires_grad_(False)
        self._check_words(self._words(torch.zeros(2, spec.in_channels, *spec.image_size)))

    def step(self, batch: Batch, student: Student, teacher: Teacher | None) -> Tensor | dict[str, Tensor]:
        # Read `student.tokens` first: a student without it raises an error in the first stage already.
        x, look = batch.views[0], student.tokens
        if batch.progress < self.tokenizer_share and not self.has_words:
            return self._tokenizer_terms(x, batch)
        self.has_words.fill_(True)
        hidden = blockwise_mask(len(x), self.grid, self.mask_ratio, batch.generator).to(x.device)
        tokens = look(x, hidden, self.token)
        loss = F.cross_entropy(self.name(tokens[hidden]), self._words(x)[hidden])
        return {"loss": loss, "cross_entropy": loss}

    @torch.no_grad()
    def _words(self, x: Tensor) -> Tensor:
        """Return the word of each patch, (n, patches)."""
        if self.tokenizer is None:
            return self.vae.logits(self._map(x)).argmax(dim=1).flatten(1)
        if isinstance(self.tokenizer, nn.Module):
            self.tokenizer.eval()  # as a submodule, it follows the loss into training mode
        try:
            words = self.tokenizer(x)
        except Exception as error:  # a user's function may raise any exception
            raise ValueError(
                f"loss__tokenizer failed on images of shape {tuple(x.shape)}: {error}"
            ) from error
        expected = (len(x), self.grid[0] * self.grid[1])
        is_tensor = isinstance(words, Tensor) and words.ndim > 1 and not words.is_floating_point()
        if not is_tensor or tuple(words.flatten(1).shape) != expected:
            found = type(words).__name__
            if isinstance(words, Tensor):
                found = f"{words.dtype} of shape {tuple(words.shape)}"
            raise ValueError(
                f"loss__tokenizer gave {found} for {len(x)} views of {self.grid[0]} x {self.grid[1]} "
                f"patches: give integers of shape {expected}, or set backbone__patch so that patches "
                "and words agree."
            )
        return words.flatten(1).long().to(x.device)

    def _check_words(self, words: Tensor) -> None:
        """Raise a ValueError if words are outside the vocabulary."""
        if words.min() < 0 or words.max() >= self.vocab:
            raise ValueError(
                f"loss__tokenizer gave words from {words.min()} to {words.max()}, but loss__vocab is "
                f"{self.vocab}: give as many as it knows."
            )

    def _tokenizer_terms(self, x: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Return the loss of the first stage, which trains the dVAE."""
        temperature = (1 / 16) ** (batch.progress / self.tokenizer_share)
        patches = self._map(x)
        logits = self.vae.logits(patches)
        u = torch.rand(logits.shape, generator=batch.generator, device=batch.generator.device).to(x.device)
        # Gumbel noise from uniform noise; clamped, since the logarithm of 0 is infinite.
        gumbel = -(-u.clamp(min=1e-9).log()).clamp(min=1e-9).log()
        painted = self.vae.paint(((logits + gumbel) / temperature).softmax(dim=1))
        reconstruction = F.mse_loss(painted, patches)
        used = logits.softmax(dim=1).mean(dim=(0, 2, 3))
        # KL(q || uniform) = log(vocab) - entropy(q).
        kl = math.log(self.vocab) + (used * used.clamp(min=1e-9).log()).sum()
        return {"loss": reconstruction + self.kl_weight * kl, "reconstruction": reconstruction}

    def _map(self, x: Tensor) -> Tensor:
        """Return the patches as a map, (n, P, rows, columns)."""
        patches = patchify(x, self.side)
        return rearrange(patches, "n (rows columns) p -> n p rows columns", rows=self.grid[0])

    @torch.no_grad()
    def reconstruct(
        self, views: list[Tensor], student: Student, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Return the visible part of images and their reconstruction; see `SSLLoss`.

        Raises
        ------
        ValueError
            If the tokenizer is the user's, which has no decoder.
        """
        if self.tokenizer is not None:
            raise ValueError("a tokenizer of your own has words, but no way back to pixels.")
        x = views[0]
        hidden = blockwise_mask(len(x), self.grid, self.mask_ratio, generator).to(x.device)
        words = self.name(student.tokens(x, hidden, self.token)).argmax(dim=2)
        words = torch.where(hidden, words, self._words(x))
        one_hot = F.one_hot(words, self.vocab).to(x.dtype)
        one_hot = rearrange(one_hot, "n (rows columns) word -> n word rows columns", rows=self.grid[0])
        patches = rearrange(self.vae.paint(one_hot), "n p rows columns -> n (rows columns) p")
        painted = unpatchify(patches, self.side, self.grid)
        return shown_and_made(x, as_pixels(hidden, self.side, self.grid), painted)


class DiscreteVAE(nn.Module):
    """Discrete variational autoencoder that maps patches to logits of words, and words to patches.

    Encoder and decoder each depend on the 3x3 neighborhood of a patch.

    Parameters
    ----------
    values : int
        Number of values P of a patch.
    vocab : int
        Number of words.
    width : int
        Number of channels of the hidden layers.
    """

    def __init__(self, values: int, vocab: int, width: int):
        super().__init__()
        self.logits = around(values, width, vocab)
        self.paint = around(vocab, width, values)


def around(in_channels: int, width: int, out_channels: int) -> nn.Sequential:
    """Build layers from `in_channels` to `out_channels` maps that depend on 3x3 positions."""
    return nn.Sequential(
        nn.Conv2d(in_channels, width, 1),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, out_channels, 1),
    )
