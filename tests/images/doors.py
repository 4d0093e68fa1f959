"""The doors by which images come in: the same images as arrays, tensors, files, datasets and tables."""

import io

import dask.array as da
import h5py
import numpy as np
import pandas as pd
import torch
import zarr
from torch.utils.data import Dataset


class Items(Dataset):
    """A map-style dataset of a list."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return self.items[i]


class Duck:
    """A map-style dataset that inherits from nothing, whose items are (image, label, name)."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        if i >= len(self.items):
            raise IndexError(i)
        return self.items[i], i % 2, f"{i}.png"


def npy_files(images, folder):
    paths = [folder / f"{i:03}.npy" for i in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        np.save(path, image)
    return paths


def _npy_bytes(image):
    file = io.BytesIO()
    np.save(file, image)
    return file.getvalue()


def _memory_map(images, folder):
    np.save(folder / "all.npy", images)
    return np.load(folder / "all.npy", mmap_mode="r")


def _hdf5(images, folder):
    file = h5py.File(folder / "all.h5", "w")
    file["images"] = images
    return file["images"]


LAZILY = {"reader__memory_limit": 100}

# For each door: a function of images (n, ...) and a folder that returns X, and parameters of the embedder.
DOORS = {
    "array": (lambda images, folder: images, {}),
    "list of arrays": (lambda images, folder: list(images), {}),
    "pairs": (lambda images, folder: [(image, i % 2) for i, image in enumerate(images)], {}),
    "column of arrays": (lambda images, folder: pd.Series(list(images), index=range(5, 5 + len(images))), {}),
    "frame of arrays": (lambda images, folder: pd.DataFrame({"image": list(images)}), {}),
    ".npy files": (npy_files, {}),
    ".npy in bytes": (lambda images, folder: [_npy_bytes(image) for image in images], {}),
    "reader": (npy_files, {"reader__read": np.load}),
    "dataset": (lambda images, folder: Items(images), {}),
    "dataset by duck typing": (lambda images, folder: Duck(images), {}),
    "memory map": (_memory_map, LAZILY),
    "HDF5": (_hdf5, LAZILY),
    "dask": (lambda images, folder: da.from_array(images, chunks=(4, *images.shape[1:])), LAZILY),
    "zarr": (lambda images, folder: zarr.array(images, chunks=(4, *images.shape[1:])), LAZILY),
}
TENSOR_DOORS = {
    "tensor": lambda tensor: tensor,
    "list of tensors": list,
    "array of tensors": lambda tensor: pd.Series(list(tensor)).to_numpy(),
    "pairs of tensors": lambda tensor: [(image, 0) for image in tensor],
    "dataset of tensors": Items,
    "bfloat16": lambda tensor: list(tensor.to(torch.bfloat16)),
}
