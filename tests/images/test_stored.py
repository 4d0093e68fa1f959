"""Arrays that are not in memory: memory maps, zarr, HDF5 and dask."""

import os

import numpy as np
import pytest
import torch

N = 12


def zarr_array(images, folder):
    zarr = pytest.importorskip("zarr")
    array = zarr.open(
        str(folder / "a.zarr"),
        mode="w",
        shape=images.shape,
        dtype=images.dtype,
        chunks=(5, *images.shape[1:]),
    )
    array[:] = images
    return array


def hdf5_array(images, folder):
    h5py = pytest.importorskip("h5py")
    h5py.File(folder / "a.h5", "w").create_dataset("images", data=images)
    return h5py.File(folder / "a.h5")["images"]


def dask_array(images, folder):
    return pytest.importorskip("dask.array").from_array(images, chunks=(5, *images.shape[1:]))


def memory_map(images, folder):
    np.save(folder / "a.npy", images)
    return np.load(folder / "a.npy", mmap_mode="r")


KINDS = {"zarr": zarr_array, "h5py": hdf5_array, "dask": dask_array, "memmap": memory_map}


def every(source):
    return source.batch(torch.arange(len(source)))


@pytest.mark.parametrize("limit", [1, 2**31], ids=["larger than memory", "fits"])
@pytest.mark.parametrize("form", ["uint8", "float32", "gray", "rows"])
@pytest.mark.parametrize("kind", KINDS)
def test_stored_arrays_are_arrays(kind, form, limit, opened, embedder, images, tmp_path):
    params = {}
    if form == "float32":
        images = images.astype(np.float32)
    elif form == "gray":
        images = images[..., 0]
    elif form == "rows":
        images, params = images.reshape(N, -1), {"image_shape": (8, -1, 3)}
    stored = KINDS[kind](images, tmp_path)
    source, image_format = opened(stored, reader__memory_limit=limit, **params)
    expected, expected_format = opened(images, **params)
    assert source.lazy == (limit == 1)
    assert image_format == expected_format
    assert torch.equal(every(source), every(expected))
    index = torch.tensor([7, 3, 3, 11])
    assert torch.equal(source.batch(index), every(expected)[index])


@pytest.mark.parametrize("kind", KINDS)
def test_a_fit_on_a_stored_array_is_that_on_an_array(kind, embedder, images, tmp_path):
    stored = KINDS[kind](images, tmp_path)
    fitted = embedder(reader__memory_limit=1).fit(stored)
    expected = embedder().fit(images)
    np.testing.assert_array_equal(fitted.transform(stored), expected.transform(images))
    assert fitted.n_features_in_ == expected.n_features_in_


def test_only_the_chunks_of_a_batch_are_read(opened, images):
    da = pytest.importorskip("dask.array")
    read = []

    def block(block_info):
        read.append(block_info[None]["chunk-location"][0])
        return images[slice(*block_info[None]["array-location"][0])]

    lazy = da.map_blocks(block, chunks=((4, 4, 4), (8,), (8,), (3,)), dtype=np.uint8, meta=images[:0])
    source, _ = opened(lazy, reader__memory_limit=1)
    read.clear()
    source.batch(torch.tensor([9, 1, 8]))
    assert sorted(read) == [0, 2]


def test_a_memory_map_is_known_by_its_file(opened, images, tmp_path):
    stored = memory_map(images, tmp_path)

    def identity(X):
        return opened(X, reader__memory_limit=1)[0].identity()

    assert identity(stored) == identity(np.load(tmp_path / "a.npy", mmap_mode="r"))
    assert identity(stored[2:]) == (identity(stored)[0], identity(stored)[1][2:])
    assert identity(stored[::-1]) != identity(stored)
    os.utime(tmp_path / "a.npy", ns=(0, 0))
    assert identity(np.load(tmp_path / "a.npy", mmap_mode="r")) != identity(stored[:0:-1])


def test_a_dask_array_of_unknown_length(embedder, images):
    da = pytest.importorskip("dask.array")
    unknown = da.from_array(images)[da.from_array(images[:, 0, 0, 0]) >= 0]
    with pytest.raises(ValueError, match=r"call X\.compute_chunk_sizes\(\) first"):
        embedder().fit(unknown)


def test_a_bag_of_dask_is_told_what_to_give(embedder):
    bag = pytest.importorskip("dask.bag").from_sequence(["a.png", "b.png"])
    with pytest.raises(ValueError, match=r"X is a Bag of dask.*X\.compute\(\)"):
        embedder().fit(bag)


def test_a_chunk_that_cannot_be_read(embedder, images):
    da = pytest.importorskip("dask.array")

    def block(block_info):
        if block_info[None]["chunk-location"][0] == 2:
            raise OSError("a lost server")
        return images[slice(*block_info[None]["array-location"][0])]

    lazy = da.map_blocks(block, chunks=((4, 4, 4), (8,), (8,), (3,)), dtype=np.uint8, meta=images[:0])
    with pytest.raises(ValueError, match=r"\(position \d+\) cannot be read as an image: a lost server"):
        embedder(reader__memory_limit=1).fit(lazy)
