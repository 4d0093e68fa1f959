"""Embedding of images by a trained network, in chunks of one size."""

from __future__ import annotations

import functools
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing

import torch
from torch import Tensor

from sklearn_ssl._hardware.allocator import retain_freed_memory
from sklearn_ssl._hardware.ambient import own_settings
from sklearn_ssl._hardware.forks import warn_if_forked
from sklearn_ssl._images.resize import resize_and_center
from sklearn_ssl._images.sources import Source
from sklearn_ssl._networks.inference import InferenceNetwork, chunk_size
from sklearn_ssl._prefetch import prefetch
from sklearn_ssl._training.progress import over_images


def embed(
    network: InferenceNetwork,
    source: Source,
    image_size: tuple[int, int],
    *,
    index: Tensor | None = None,
    verbose: int = 0,
) -> Iterator[Tensor]:
    """Embed images, a chunk at a time.

    Parameters
    ----------
    network : InferenceNetwork
        Maps images to embeddings.
    source : Source
        Images.
    image_size : tuple of two ints
        (height, width) in pixels that images are resized to.
    index : Tensor of shape (n,), int64, optional
        Positions of the images to embed; None: all, in order.
    verbose : int, default=0
        1: show a progress bar.

    Yields
    ------
    Tensor of shape (n_chunk, feature_dim), float32
        Embeddings, on the CPU.
    """
    warn_if_forked()
    index = torch.arange(len(source), device="cpu") if index is None else index
    chunk = chunk_size(image_size, network.device)
    batches = _read_batches(source, index.split(chunk), network.device)
    with closing(batches), retain_freed_memory():
        for images in over_images(batches, len(index), verbose):
            yield _embed_chunk(network, images.to(network.device, non_blocking=True), image_size, chunk)


@own_settings()
@torch.inference_mode()
def _embed_chunk(
    network: InferenceNetwork, images: Tensor, image_size: tuple[int, int], chunk: int
) -> Tensor:
    """Embed one chunk, padded to the size of all others: a row never depends on its neighbors."""
    n = len(images)
    images = resize_and_center(images.to(torch.float32), image_size)
    padded = torch.cat([images, images.new_zeros(chunk - n, *images.shape[1:])])
    return network(padded.contiguous(memory_format=torch.channels_last))[:n].cpu()


def _read_batches(
    source: Source, parts: Sequence[Tensor], device: torch.device
) -> Generator[Tensor, None, None]:
    """Yield the images of each part; a thread reads ahead if reading or copying takes time."""
    read = functools.partial(_read, source, pinned=device.type == "cuda")
    return prefetch(read, parts) if source.lazy or device.type == "cuda" else (read(part) for part in parts)


def _read(source: Source, index: Tensor, *, pinned: bool) -> Tensor:
    images = source.batch(index)
    return images.pin_memory() if pinned else images  # only copies from pinned memory are asynchronous
