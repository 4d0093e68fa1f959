"""The network that `transform` runs: a copy of the encoder, made for speed."""

from __future__ import annotations

import copy
import math
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from sklearn_ssl._images.pixel_scale import PixelScale, Standardize
from sklearn_ssl._networks.student import as_float32, autocast

# Images in a chunk times the side of an image, and limits to the number of images (`benchmarks/chunk.py`):
# more are faster, but a single image costs as much as all of them. A constant number of pixels would be too
# few large images, as the stem follows the image size.
CHUNK_ON_CPU = (128 * 32, 8, 256)
CHUNK_ON_GPU = (1024 * 64, 64, 1024)
CONVOLUTIONS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv1d: nn.BatchNorm1d,
    nn.Conv2d: nn.BatchNorm2d,
    nn.Conv3d: nn.BatchNorm3d,
}
_tracing = threading.Lock()


def chunk_size(image_size: tuple[int, int], device: torch.device) -> int:
    """How many images go through the network together: the fewer, the larger they are.

    It depends on nothing else, and the last chunk is padded: a row never depends on its neighbours.

    Parameters
    ----------
    image_size : (height, width)
    device : torch.device

    Returns
    -------
    int
        In proportion to 1 / sqrt(height * width). On a CPU 128 at 32 x 32 pixels, from 8 to 256; on a GPU
        1024 at 64 x 64, from 64 to 1024.
    """
    sides, least, most = CHUNK_ON_CPU if device.type == "cpu" else CHUNK_ON_GPU
    return min(most, max(least, int(sides / math.sqrt(image_size[0] * image_size[1]))))


class InferenceNetwork:
    """Images -> embeddings in float32, as `encoder` makes them in eval mode; the encoder is left alone.

    Convolutions take up the BatchNorm after them, and the weights of convolutions and linear layers have the
    type in which they are computed. Who asks for ``precision="float32"`` gets the encoder's own operations,
    and so its very bits; where "auto" means float32, sums may be taken in another order (1e-6).

    Parameters
    ----------
    encoder : nn.Module
    device : torch.device
    precision : {"bf16", "float32"}
    exact : bool
        The encoder's own operations; only with "float32".
    compile : bool
        With `torch.compile`, at the first call.
    """

    def __init__(
        self,
        encoder: nn.Module,
        device: torch.device,
        *,
        precision: str,
        exact: bool = False,
        compile: bool = False,
    ):
        self.device = device
        self.precision = precision
        self.exact = exact
        self.module = detached_copy(encoder).to(device).eval().requires_grad_(False)
        if not exact:
            self.module = with_folded_norms(self.module).to(memory_format=torch.channels_last)
        if precision == "bf16":
            _cast_weights(self.module, torch.bfloat16)
        if compile:
            self.module.compile(dynamic=False)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        if self.exact:
            return as_float32(self.module(images))
        with autocast(self.device, self.precision):
            return as_float32(self.module(images))


class KeptNetwork:
    """Keeps the `InferenceNetwork` of the last call, until the encoder or the settings are others."""

    _settings: tuple[torch.device, dict[str, Any]]

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._network: InferenceNetwork | None = None

    def of(self, encoder: nn.Module, device: torch.device, **settings: Any) -> InferenceNetwork:
        """The network of this encoder, whose parameters are those of `InferenceNetwork`."""
        with self._lock:
            if self._network is None or self._settings != (device, settings) or not self._is_made_of(encoder):
                self._network = InferenceNetwork(encoder, device, **settings)
                self._settings = device, settings
                self._modules = list(encoder.modules())
                self._values = [tensor.clone() for tensor in tensors_of(encoder)]
            return self._network

    def _is_made_of(self, encoder: nn.Module) -> bool:
        # By value: torch's own count of a tensor's versions misses fused optimizers, and BatchNorm.
        modules, values = list(encoder.modules()), tensors_of(encoder)
        return (
            len(modules) == len(self._modules)
            and all(new is old for new, old in zip(modules, self._modules, strict=True))
            and len(values) == len(self._values)
            and all(_equal(new, old) for new, old in zip(values, self._values, strict=True))
        )


def make_encoder(pixels: PixelScale, backbone: nn.Module) -> nn.Sequential:
    """Pixels as the user gives them -> embeddings."""
    return nn.Sequential(OrderedDict(pixels=Standardize(pixels), backbone=backbone))


def tensors_of(network: nn.Module) -> list[Tensor]:
    """Parameters and buffers, without history."""
    return [tensor.detach() for tensor in (*network.parameters(), *network.buffers())]


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.device == b.device and a.dtype == b.dtype and torch.equal(a, b)


def detached_copy(network: nn.Module) -> nn.Module:
    """A copy, also where a hook computes weights from others, as in pruning and the older weight_norm.

    Such weights have a history, with which torch copies no tensor: they are copied without.
    """
    values = (value for module in network.modules() for value in vars(module).values())
    computed = [value for value in values if isinstance(value, Tensor) and not value.is_leaf]
    return copy.deepcopy(network, {id(value): value.detach().clone() for value in computed})


def has_hooks(module: nn.Module) -> bool:
    """Whether somebody has added to what a module does."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


# ---------------------------------------------------------------------------- BatchNorm


def with_folded_norms(network: nn.Module) -> nn.Module:
    """The network, with each BatchNorm that follows a convolution taken up into its weights.

    Parameters
    ----------
    network : nn.Module
        In eval mode; its modules are replaced. What `torch.fx` cannot trace stays as it is.
    """
    new: dict[nn.Module | None, nn.Module] = {}
    for convolution, norm in foldable_pairs(network):
        new[convolution] = fuse_conv_bn_eval(convolution, norm)  # type: ignore[type-var, arg-type]  # of CONVOLUTIONS
        new[norm] = nn.Identity()
    for parent in network.modules():
        for name, child in parent._modules.items():  # unlike named_children, with those that it has twice
            parent._modules[name] = new.get(child, child)
    return network


def foldable_pairs(network: nn.Module) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Convolutions and the norms behind them, where nothing else uses what the convolution makes."""
    graph = _traced(network)
    if graph is None:
        return
    modules = dict(network.named_modules())
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    # A weight that the network's own code reads must stay what it is.
    read = {str(node.target).rpartition(".")[0] for node in graph.nodes if node.op == "get_attr"}
    once = {target for target, count in calls.items() if count == 1 and target not in read}
    for node in graph.nodes:
        for user in node.users if len(node.users) == 1 else ():
            if {node.target, user.target} <= once and _can_fold(modules[node.target], modules[user.target]):
                yield modules[node.target], modules[user.target]


def _can_fold(convolution: nn.Module, norm: nn.Module) -> bool:
    return (
        type(convolution) in CONVOLUTIONS  # not a subclass: it may compute its weights
        and type(norm) is CONVOLUTIONS[type(convolution)]
        and norm.running_mean is not None
        and not has_hooks(convolution)
        and not has_hooks(norm)
    )


class Tracer(fx.Tracer):
    """torch.fx's, which changes `nn.Module` itself while it works; in other threads modules run as ever."""

    def __init__(self) -> None:
        super().__init__()
        self.thread = threading.get_ident()

    def call_module(self, m: nn.Module, forward: Any, args: tuple, kwargs: dict) -> Any:
        if threading.get_ident() != self.thread:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)


def _traced(network: nn.Module) -> fx.Graph | None:
    try:
        with _tracing:
            return Tracer().trace(network)
    except Exception:  # whatever the network's own code says to a stand-in for images
        return None


# ---------------------------------------------------------------------------- precision


def _cast_weights(network: nn.Module, dtype: torch.dtype) -> None:
    """Once, rather than by autocast at each call; other layers compute in what autocast says."""
    for module in network.modules():
        if type(module) in {nn.Linear, *CONVOLUTIONS} and not has_hooks(module):
            module.to(dtype)
