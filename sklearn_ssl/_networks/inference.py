"""Network of `transform`: a copy of the encoder, optimized for inference."""

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

# Number of images in a chunk times the side of an image, and limits of that number (`benchmarks/chunk.py`).
# Larger chunks are faster, but a single image costs as much as a chunk. A constant number of pixels would
# give too few large images, as their stem reduces them more.
CHUNK_ON_CPU = (128 * 32, 8, 256)
CHUNK_ON_GPU = (1024 * 64, 64, 1024)
CONVOLUTIONS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv1d: nn.BatchNorm1d,
    nn.Conv2d: nn.BatchNorm2d,
    nn.Conv3d: nn.BatchNorm3d,
}
_tracing = threading.Lock()


def chunk_size(image_size: tuple[int, int], device: torch.device) -> int:
    """Return the number of images that go through the network together.

    It depends on the size of an image and the device only, and the last chunk is padded: a row never depends
    on its neighbors.

    Parameters
    ----------
    image_size : tuple of two ints
        (height, width) of an image, in pixels.
    device : torch.device
        Device of the network.

    Returns
    -------
    int
        Number of images, proportional to 1 / sqrt(height * width). On a CPU 128 at 32 x 32 pixels, from 8 to
        256; on a GPU 1024 at 64 x 64 pixels, from 64 to 1024.
    """
    sides, least, most = CHUNK_ON_CPU if device.type == "cpu" else CHUNK_ON_GPU
    return min(most, max(least, int(sides / math.sqrt(image_size[0] * image_size[1]))))


class InferenceNetwork:
    """Copy of an encoder in eval mode that maps images to embeddings in float32.

    BatchNorm layers are folded into the convolutions before them, and the weights of convolutions and linear
    layers have the dtype of the computation. With an explicit ``precision="float32"`` the encoder's own
    operations run, with bitwise equal results; where "auto" selects float32, sums may be taken in another
    order (1e-6).

    Parameters
    ----------
    encoder : nn.Module
        Encoder; not changed.
    device : torch.device
        Device of the copy.
    precision : {"bf16", "float32"}
        Precision of the computation.
    exact : bool, default=False
        Whether to run the encoder's own operations; only with "float32".
    compile : bool, default=False
        Whether to compile the copy with `torch.compile`, at the first call.
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
    """Cache of the last `InferenceNetwork`, for as long as encoder and settings are the same."""

    _settings: tuple[torch.device, dict[str, Any]]

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._network: InferenceNetwork | None = None

    def of(self, encoder: nn.Module, device: torch.device, **settings: Any) -> InferenceNetwork:
        """Return the network of an encoder; the parameters are those of `InferenceNetwork`."""
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
    """Return the module that maps pixels, in the units of the user, to embeddings."""
    return nn.Sequential(OrderedDict(pixels=Standardize(pixels), backbone=backbone))


def tensors_of(network: nn.Module) -> list[Tensor]:
    """Return parameters and buffers, detached."""
    return [tensor.detach() for tensor in (*network.parameters(), *network.buffers())]


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.device == b.device and a.dtype == b.dtype and torch.equal(a, b)


def detached_copy(network: nn.Module) -> nn.Module:
    """Return a deep copy, also of modules whose hooks compute weights, as in pruning and older weight_norm.

    Such weights are part of an autograd graph, and torch cannot copy them: their values are copied.
    """
    values = (value for module in network.modules() for value in vars(module).values())
    computed = [value for value in values if isinstance(value, Tensor) and not value.is_leaf]
    return copy.deepcopy(network, {id(value): value.detach().clone() for value in computed})


def has_hooks(module: nn.Module) -> bool:
    """Return whether a module has forward hooks."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


# ---------------------------------------------------------------------------- BatchNorm


def with_folded_norms(network: nn.Module) -> nn.Module:
    """Fold each BatchNorm that follows a convolution into its weights, and return the network.

    Parameters
    ----------
    network : nn.Module
        Network in eval mode, whose modules are replaced. One that `torch.fx` cannot trace is left unchanged.
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
    """Yield convolutions and the norms behind them, where nothing else uses the convolution's output."""
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
    """Tracer of torch.fx, which patches `nn.Module` for all threads, restricted to its own thread."""

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
    except Exception:  # the network's own code may raise anything for a proxy
        return None


# ---------------------------------------------------------------------------- precision


def _cast_weights(network: nn.Module, dtype: torch.dtype) -> None:
    """Cast weights once, rather than by autocast in each call; other layers follow autocast."""
    for module in network.modules():
        if type(module) in {nn.Linear, *CONVOLUTIONS} and not has_hooks(module):
            module.to(dtype)
