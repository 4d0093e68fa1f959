"""The vision transformer of `backbone="vit"`: torchvision's, with sizes that fit the images."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from sklearn_ssl._checks import check_choice, check_number
from sklearn_ssl._networks.weights import fit_channels, load_weights, read_state_dict

POOLINGS = ("mean", "class")
# Side of a patch for "auto", by the short side: 8 x 8 patches at 32 or 64 pixels, 14 x 14 at 224.
AUTO_PATCHES = ((64, 4), (128, 8), (math.inf, 16))  # (below this many pixels, side of a patch)


class ViT(VisionTransformer):
    """Torchvision's vision transformer without classifier, for images of any size and number of channels.

    An image is divided into patches, each of which becomes a token; all tokens attend to one another in every
    layer [1]_. The state dict has torchvision's names and loads into a `VisionTransformer` of the same sizes.

    Parameters
    ----------
    in_channels : int
        Number of channels of an image.
    image_size : tuple of two ints
        (height, width) in pixels; both are divisible by the side of a patch.
    patch : int
        Side of a patch in pixels.
    width : int
        Width of a token, and so of the features; divisible by 4.
    depth : int
        Number of layers.
    heads : int
        Number of attention heads in each layer.
    pooling : {"mean", "class"}
        Reduction of the tokens to features: the mean of the patch tokens, or the class token.

    Attributes
    ----------
    patch_size : int
        Side of a patch in pixels.
    grid : tuple of two ints
        Number of patches in a column and in a row.

    References
    ----------
    .. [1] Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021, arXiv:2010.11929.
    """

    def __init__(
        self,
        in_channels: int,
        image_size: tuple[int, int],
        *,
        patch: int,
        width: int,
        depth: int,
        heads: int,
        pooling: str,
    ):
        super().__init__(
            image_size=patch,  # sizes torchvision's position embedding, which is replaced below
            patch_size=patch,
            num_layers=depth,
            num_heads=heads,
            hidden_dim=width,
            mlp_dim=4 * width,
        )
        self.grid = (image_size[0] // patch, image_size[1] // patch)
        self.pooling = pooling
        self.heads = nn.Sequential()
        self.conv_proj = nn.Conv2d(in_channels, width, patch, patch)
        nn.init.trunc_normal_(self.conv_proj.weight, std=math.sqrt(1 / (in_channels * patch**2)))
        assert self.conv_proj.bias is not None
        nn.init.zeros_(self.conv_proj.bias)
        # MAE keeps these sine-cosine positions fixed; here they are the initial values of trained ones. The
        # position of the class token starts at zero.
        positions = torch.cat([torch.zeros(1, width), sincos_positions(self.grid, width)])
        self.encoder.pos_embedding = nn.Parameter(positions[None])

    def extra_repr(self) -> str:
        """Return the sizes and the pooling that the text of the layers does not show."""
        heads = self.encoder.layers[0].num_heads
        return f"grid={self.grid}, heads={heads}, pooling={self.pooling!r}"

    def forward(self, x: Tensor) -> Tensor:
        """Return the features (n, width) of images (n, channels, height, width)."""
        h = self._encoded(self._patches(x) + self._positions(x))
        return h[:, 0] if self.pooling == "class" else h[:, 1:].mean(dim=1)

    def encode(self, x: Tensor, keep: Tensor) -> Tensor:
        """Return the tokens of visible patches, which attend to one another and to no hidden patch.

        Parameters
        ----------
        x : Tensor of shape (n, channels, height, width)
            Images.
        keep : Tensor of shape (n, k), int64
            Indices of the visible patches, row by row from 0.

        Returns
        -------
        Tensor of shape (n, k, width)
            Tokens, in the order of `keep`.
        """
        h = self._patches(x) + self._positions(x)
        h = h.gather(1, keep[:, :, None].expand(-1, -1, h.shape[2]))
        return self._encoded(h)[:, 1:]

    def tokens(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        token: Tensor | None = None,
        *,
        with_class: bool = False,
        n_layers: int | None = None,
    ) -> Tensor:
        """Return the tokens of all patches, some of them masked.

        Parameters
        ----------
        x : Tensor of shape (n, channels, height, width)
            Images.
        mask : Tensor of shape (n, patches), bool, default=None
            True for each masked patch; None masks no patch.
        token : Tensor of shape (width,), default=None
            Mask token, which replaces the embedding of a masked patch before its position is added.
        with_class : bool, default=False
            Whether to return the class token as well, before the others.
        n_layers : int, default=None
            Number of last layers whose outputs to return, before the final normalization; None: the tokens
            after it.

        Returns
        -------
        Tensor of shape (n, patches, width) or (n, n_layers, patches, width)
            Tokens of all patches.
        """
        h = self._patches(x)
        if mask is not None:
            assert token is not None, "a mask needs a mask token"
            h = torch.where(mask[:, :, None], token.to(h.dtype), h)
        outputs = self._outputs(h + self._positions(x))
        h = self.encoder.ln(outputs[-1]) if n_layers is None else torch.stack(outputs[-n_layers:], dim=1)
        return h if with_class else h[..., 1:, :]

    def _patches(self, x: Tensor) -> Tensor:
        """Return the patch embeddings (n, patches, width), without positions."""
        if x.shape[2] % self.patch_size or x.shape[3] % self.patch_size:
            raise ValueError(
                f"patches of {self.patch_size} x {self.patch_size} pixels do not divide views of "
                f"{x.shape[2]} x {x.shape[3]}"
            )
        return self.conv_proj(x).flatten(2).transpose(1, 2)

    def _positions(self, x: Tensor) -> Tensor:
        """Return the position embeddings (1, patches, width), interpolated for views of another size."""
        positions = self.encoder.pos_embedding[:, 1:]
        grid = (x.shape[2] // self.patch_size, x.shape[3] // self.patch_size)
        if grid == self.grid:
            return positions
        return interpolated(positions, self.grid, grid)

    def _encoded(self, h: Tensor) -> Tensor:
        """Prepend the class token and apply all layers: (n, k, width) -> (n, 1 + k, width)."""
        return self.encoder.ln(self._outputs(h)[-1])

    def _outputs(self, h: Tensor) -> list[Tensor]:
        """Prepend the class token and return the output of each layer, (n, 1 + k, width)."""
        first = (self.class_token + self.encoder.pos_embedding[:, :1]).to(h.dtype).expand(h.shape[0], -1, -1)
        h = torch.cat([first, h], dim=1)
        outputs = []
        for block in self.encoder.layers:
            h = h + self_attention(block.self_attention, block.ln_1(h))
            h = h + block.mlp(block.ln_2(h))
            outputs.append(h)
        return outputs


def self_attention(layer: nn.MultiheadAttention, x: Tensor) -> Tensor:
    """Apply a layer's self-attention to tokens (n, k, width).

    Equals the layer's own forward, which may run a fused kernel that `FasterOperations` cannot intercept.
    """
    qkv = F.linear(x, layer.in_proj_weight, layer.in_proj_bias)
    q, k, v = qkv.unflatten(2, (3, layer.num_heads, -1)).permute(
        2, 0, 3, 1, 4
    )  # (n, heads, k, width / heads)
    return layer.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def interpolated(positions: Tensor, before: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Interpolate position embeddings (1, patches, width) from one grid of patches to another."""
    as_map = positions.unflatten(1, before).permute(0, 3, 1, 2)  # (1, width, rows, columns)
    return F.interpolate(as_map, grid, mode="bicubic").flatten(2).transpose(1, 2)


def fit_positions(
    state: dict[str, Tensor], grid: tuple[int, int], before: tuple[int, int] | None = None
) -> None:
    """Interpolate the position embeddings in a state dict to a grid of patches.

    `before` is the grid that they are of; None: `grid` itself, or a square if their number is another.
    """
    positions = state.get("encoder.pos_embedding")  # (1, 1 + patches, width)
    if positions is None:
        return
    n = positions.shape[1] - 1
    before = before or (grid if n == math.prod(grid) else (math.isqrt(n), math.isqrt(n)))
    if before != grid and math.prod(before) == n:
        patches = interpolated(positions[:, 1:].float(), before, grid)
        state["encoder.pos_embedding"] = torch.cat([positions[:, :1], patches], dim=1)


def make_vit(
    in_channels: int,
    image_size: tuple[int, int],
    *,
    patch: int | str = "auto",
    width: int = 192,
    depth: int = 6,
    heads: int | str = "auto",
    pooling: str = "mean",
    weights: Mapping[str, Tensor] | str | os.PathLike | None = None,
) -> ViT:
    """Create a `ViT`, with its sizes checked and "auto" resolved.

    Parameters
    ----------
    in_channels : int
        Number of channels of an image.
    image_size : tuple of two ints
        (height, width) of an image, in pixels.
    patch : int or "auto", default="auto"
        Side of a patch in pixels, which divides height and width. "auto": that of the weights if some are
        given, else see `auto_patch`.
    width : int, default=192
        Width of a token, a multiple of 4.
    depth : int, default=6
        Number of layers.
    heads : int or "auto", default="auto"
        Number of attention heads, which divides `width`. "auto": one for each 64 of `width`.
    pooling : {"mean", "class"}, default="mean"
        Reduction of the tokens to features.
    weights : state dict or path, default=None
        Initial weights, of a network of these sizes; None: random. A path is that of a file of
        `SSLImageEmbedder.save`, of `torch.save` or of safetensors. Classifier weights are ignored; filters
        for RGB are adapted to other numbers of channels, and position embeddings to the image size.

    Returns
    -------
    ViT

    Raises
    ------
    ValueError
        If a size is not an integer or does not satisfy its divisibility condition, or the weights cannot be
        read or do not match.
    """
    state = None if weights is None else read_state_dict("vit", weights)
    width = check_number("backbone__width", width, whole=True, at_least=1)
    depth = check_number("backbone__depth", depth, whole=True, at_least=1)
    if width % 4:
        raise ValueError(f"backbone__width={width}: give a multiple of 4, and best of 64.")
    check_choice("backbone__pooling", pooling, POOLINGS)
    sizes = resolve_sizes(patch, heads, width, image_size, state or {})
    model = ViT(in_channels, image_size, **sizes, width=width, depth=depth, pooling=pooling)
    if state is not None:
        state = {key: value for key, value in state.items() if not key.startswith("heads.")}
        fit_channels(state, "conv_proj", in_channels)
        fit_positions(state, model.grid)
        load_weights(model, "vit", state)
    return model


def resolve_sizes(
    patch: int | str, heads: int | str, width: int, image_size: tuple[int, int], state: Mapping[str, Tensor]
) -> dict[str, int]:
    """Return patch and heads, checked, with the values of "auto": the patch is that of given weights."""
    if isinstance(patch, str) and patch == "auto" and "conv_proj.weight" in state:
        patch = state["conv_proj.weight"].shape[-1]
    return {"patch": _checked_patch(patch, image_size), "heads": _checked_heads(heads, width)}


def auto_patch(image_size: tuple[int, int]) -> int | None:
    """Return the side of a patch for images of this (height, width) in pixels; None if no usual side fits.

    About 4 for a short side below 64 pixels, 8 below 128, else 16, but at most a quarter of the short side.
    """
    short = min(image_size)
    usual = next(patch for below, patch in AUTO_PATCHES if short < below)
    wanted = max(1, min(usual, short // 4))
    # Any divisor within a factor of two will do; the nearest is that of the smallest ratio.
    near = [patch for patch in _divisors(image_size) if wanted / 2 <= patch <= wanted * 2]
    return min(near, key=lambda patch: abs(math.log(patch / wanted)), default=None)


def sincos_positions(grid: tuple[int, int], width: int) -> Tensor:
    """Return sine-cosine position embeddings of each patch, at frequencies from 1 to 1/10,000.

    Returns
    -------
    Tensor of shape (patches, width)
        One half encodes the row, the other half the column (MAE, arXiv:2111.06377, appendix A.1).
    """
    frequencies = 10_000 ** -(torch.arange(width // 4) / (width // 4))
    places = torch.cartesian_prod(*(torch.arange(float(n)) for n in grid)).view(-1, 2)  # (patches, 2)
    angles = places[:, :, None] * frequencies  # (patches, 2, width / 4)
    return torch.cat([angles.sin(), angles.cos()], dim=2).flatten(1)


def _divisors(image_size: tuple[int, int]) -> list[int]:
    """Return the sides of patches that divide height and width."""
    common = math.gcd(*image_size)
    return [side for side in range(1, common + 1) if common % side == 0]


def _checked_patch(patch: int | str, image_size: tuple[int, int]) -> int:
    size = f"{image_size[0]} x {image_size[1]}"
    if isinstance(patch, str) and patch == "auto":
        found = auto_patch(image_size)
        if found is None:
            multiple = tuple(max(4, 4 * round(side / 4)) for side in image_size)
            raise ValueError(
                f"No patch of a usual size divides images of {size} pixels. Set "
                f"image_size={multiple if multiple[0] != multiple[1] else multiple[0]}, or backbone__patch."
            )
        return found
    patch = check_number("backbone__patch", patch, whole=True, at_least=1, instead=("auto",))
    if patch not in _divisors(image_size):
        raise ValueError(
            f"backbone__patch={patch} does not divide images of {size} pixels. Possible: "
            f"{', '.join(map(str, _divisors(image_size)))}; or set image_size to a multiple of {patch}."
        )
    return patch


def _checked_heads(heads: int | str, width: int) -> int:
    """Return the number of heads; for "auto" one for each 64 of the width, as in the paper."""
    if isinstance(heads, str) and heads == "auto":
        return next(n for n in range(max(1, width // 64), 0, -1) if width % n == 0)
    n = check_number("backbone__heads", heads, whole=True, at_least=1, instead=("auto",))
    if width % n:
        raise ValueError(f"backbone__heads={n} does not divide backbone__width={width}.")
    return n
