"""Forms of X: one meaning is taken, two are refused in our words."""

import collections
import io

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from tests.images.doors import Duck, Items


def png(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def fitted(embedder, images):
    return embedder().fit(images)


ONE_IMAGE = {
    "array": lambda image, folder: image,
    "tensor": lambda image, folder: torch.from_numpy(image).movedim(-1, 0),
    "PIL image": lambda image, folder: Image.fromarray(image),
    "bytes": lambda image, folder: png(image),
    "row of a table": lambda image, folder: {"bytes": png(image), "path": None},
    "path": lambda image, folder: str(Image.fromarray(image).save(folder / "a.png") or folder / "a.png"),
}


@pytest.mark.parametrize("form", ONE_IMAGE)
def test_one_image_is_embedded_as_a_set_of_one(form, fitted, images, tmp_path):
    one = ONE_IMAGE[form](images[3], tmp_path)
    np.testing.assert_array_equal(fitted.transform(one), fitted.transform(images[3:4]))


@pytest.mark.parametrize("form", ONE_IMAGE)
def test_one_image_is_nothing_to_learn_from(form, embedder, images, tmp_path):
    words = r"single image|is a file: give a list|\(n, C, H, W\)|rather one image|minimum of 2"
    with pytest.raises((ValueError, NotADirectoryError), match=words):
        embedder().fit(ONE_IMAGE[form](np.tile(images[3], (2, 3, 1)), tmp_path))


def test_one_gray_image(embedder, images):
    gray = images[..., 0]
    fitted = embedder().fit(gray)
    np.testing.assert_array_equal(fitted.transform(gray[2]), fitted.transform(gray[2:3]))


EMPTY = {
    "list": lambda images: [],
    "tuple": lambda images: (),
    "array": lambda images: images[:0],
    "objects": lambda images: np.empty(0, object),
    "tensor": lambda images: torch.empty(0, 3, 8, 8),
    "pandas": lambda images: pd.Series([], dtype=object),
    "paths in pandas": lambda images: pd.Series([], dtype=str),
    "polars": lambda images: pl.Series(images)[:0],
    "dataset": lambda images: Items([]),
    "duck": lambda images: Duck([]),
}


@pytest.mark.parametrize("form", EMPTY)
def test_an_empty_selection_is_called_empty(form, fitted, embedder, images):
    for use in (fitted.transform, fitted.score, embedder().fit):
        with pytest.raises(ValueError, match=r"Found (array with )?0 (sample\(s\)|image\(s\)).* minimum of"):
            use(EMPTY[form](images))


COLUMNS = {
    "polars": pl.Series,
    "polars lists": lambda x: pl.Series(x.tolist(), dtype=pl.List(pl.List(pl.UInt8))),
    "polars objects": lambda x: pl.Series(list(x), dtype=pl.Object),
    "polars frame": lambda x: pl.DataFrame({"image": x}),
    "polars in pandas": lambda x: pl.DataFrame({"image": x}).to_pandas(),
    "tensors of pyarrow": pa.FixedShapeTensorArray.from_numpy_ndarray,
    "table of pyarrow": lambda x: pa.table({"image": pa.FixedShapeTensorArray.from_numpy_ndarray(x)}),
    "chunks of pyarrow": lambda x: pa.chunked_array(
        [pa.FixedShapeTensorArray.from_numpy_ndarray(part) for part in (x[:5], x[5:])]
    ),
    "lists of pyarrow": lambda x: pa.array(x.tolist(), type=pa.list_(pa.list_(pa.uint8()))),
    "part of lists": lambda x: pa.array([x[0].tolist(), *x.tolist()], type=pa.list_(pa.list_(pa.uint8())))[
        1:
    ],
    "pandas": lambda x: pd.Series(list(x), index=range(100, 100 + len(x))),
    "pandas of pyarrow": lambda x: pd.Series(
        array := pa.FixedShapeTensorArray.from_numpy_ndarray(x), dtype=pd.ArrowDtype(array.type)
    ),
    "frame": lambda x: pd.DataFrame({"image": list(x)}),
    "deque": lambda x: collections.deque(list(x)),
}


@pytest.mark.parametrize("form", COLUMNS)
def test_a_column_of_decoded_images_is_the_images(form, embedder, images):
    gray = np.ascontiguousarray(images[..., 0])
    X = COLUMNS[form](gray)
    fitted = embedder().fit(X)
    np.testing.assert_array_equal(fitted.transform(X), embedder().fit(gray).transform(gray))


@pytest.mark.parametrize("kind", ["pandas", "arrow", "polars", "numpy", "torch", None])
@pytest.mark.parametrize("whole", [True, False])
def test_hugging_face_keeps_decoded_images_in_every_format(kind, whole, embedder, images):
    import datasets

    gray = np.ascontiguousarray(images[..., 0])
    features = datasets.Features({"image": datasets.Array2D((8, 8), "uint8")})
    dataset = datasets.Dataset.from_dict({"image": list(gray)}, features=features).with_format(kind)
    X = dataset if whole else dataset["image"]
    np.testing.assert_array_equal(embedder().fit(X).transform(X), embedder().fit(gray).transform(gray))


def test_hugging_face_tensors_have_their_channels_first(embedder, draw_images):
    import datasets

    images = draw_images(12, (16, 16, 5))
    features = datasets.Features({"image": datasets.Array3D((5, 16, 16), "uint8")})
    dataset = datasets.Dataset.from_dict({"image": list(images.transpose(0, 3, 1, 2))}, features=features)
    assert embedder().fit(dataset.with_format("torch")).image_shape_ == (16, 16, 5)
    with pytest.raises(ValueError, match="looks like channels"):
        embedder().fit(dataset)
    assert embedder(reader__channels="first").fit(dataset).image_shape_ == (16, 16, 5)


def test_lists_of_lists_in_hugging_face_are_images(embedder, images):
    import datasets

    X = datasets.Dataset.from_dict({"image": images[..., 0].tolist(), "label": list(range(12))})
    assert embedder().fit(X).image_shape_ == (8, 8, 1)


@pytest.mark.parametrize("form", ["polars", "table of pyarrow", "pandas"])
def test_flat_rows_in_a_column(form, embedder, images):
    flat = np.ascontiguousarray(images[..., 0].reshape(12, -1))
    X = COLUMNS[form](flat)
    fitted = embedder(image_shape=(8, 8)).fit(X)
    np.testing.assert_array_equal(fitted.transform(X), embedder(image_shape=(8, 8)).fit(flat).transform(flat))
    with pytest.raises(ValueError, match="flat rows"):
        embedder().fit(X)


@pytest.mark.parametrize("frame", [pd.DataFrame, pl.DataFrame])
def test_the_column_of_images_is_named_among_others(frame, embedder, images):
    gray = images[..., 0]
    with pytest.raises(ValueError, match=r"give the column of images, for example X\['image'\]"):
        embedder().fit(frame({"image": gray if frame is pl.DataFrame else list(gray), "age": range(12)}))


@pytest.mark.parametrize(
    "form",
    [
        list,
        lambda x: pd.Series(x).to_numpy(),
        pd.Series,
        lambda x: [torch.from_numpy(crop.astype(np.int32)) for crop in x],
        lambda x: [(crop, "label") for crop in x],
        lambda x: [Image.fromarray(crop) for crop in x],
    ],
    ids=["list", "objects", "pandas", "tensors", "pairs", "PIL"],
)
def test_crops_of_different_sizes_are_brought_to_one(form, embedder):
    rng = np.random.default_rng(0)
    crops = [rng.integers(0, 4000, (20 + i, 30 - i // 2)).astype(np.uint16) for i in range(12)]
    X = form(crops)
    fitted = embedder().fit(X)
    assert fitted.image_shape_ == (25, 25, 1)
    expected = embedder().fit(list(crops)).transform(crops)
    np.testing.assert_array_equal(fitted.transform(X), expected)
    np.testing.assert_array_equal(fitted.transform(form(crops[:1])), expected[:1])  # one size by itself


@pytest.mark.parametrize("view", [np.asarray, Image.fromarray, lambda x: torch.from_numpy(x).movedim(-1, 0)])
@pytest.mark.parametrize("nest", [lambda a, b: ([a, b], 0), lambda a, b: ((a, b), 0), lambda a, b: (a, b)])
@pytest.mark.parametrize("kind", [list, Items, Duck])
def test_several_views_of_an_image_are_refused(view, nest, kind, embedder, images):
    X = kind([nest(view(image), view(image)) for image in images])
    with pytest.raises(ValueError, match="holds 2 images of one kind, such as several views"):
        embedder().fit(X)


def test_an_image_and_its_mask_have_one_meaning(embedder, images):
    pairs = [(Image.fromarray(image), Image.fromarray(image[..., 0] > 9)) for image in images]
    np.testing.assert_array_equal(
        embedder().fit(Items(pairs)).transform(Items(pairs)), embedder().fit(images).transform(images)
    )


def test_what_can_only_be_iterated_or_opened_is_refused_with_the_way(embedder, images, tmp_path):
    np.savez(tmp_path / "a.npz", train_images=images)
    np.save(tmp_path / "a.npy", images)
    for X, words in {
        "npz": (np.load(tmp_path / "a.npz"), r"entries \['train_images'\].*X\['train_images'\]"),
        "path of npz": (tmp_path / "a.npz", r"holds many images: give np\.load\('.*a\.npz'\)\[name\]"),
        "path of npy": (tmp_path / "a.npy", r"holds many images: give np\.load\('.*a\.npy', mmap_mode='r'\)"),
        "dict": ({"image": images}, r"entries \['image'\].*X\['image'\]"),
        "generator": ((image for image in images), r"X is a generator, .* list\(X\)"),
        "loader": (DataLoader(Items(images)), r"give its dataset, X\.dataset"),
    }.values():
        with pytest.raises(ValueError, match=words):
            embedder().fit(X)


class Random(Items):
    """A dataset that draws a random crop of each image."""

    crop = v2.RandomCrop(8)

    def __getitem__(self, i):
        return self.crop(Image.fromarray(self.items[i])), 0


def test_a_random_transform_of_a_dataset_is_told_and_seeded(embedder, draw_images):
    images = draw_images(12, (24, 24, 3))
    embeddings = []
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"other pixels each time it is read: .* augment=transform"):
            fitted = embedder().fit(Random(images))
        embeddings.append(fitted.transform(images[:, :8, :8]))
        with pytest.warns(UserWarning, match="other pixels each time"):
            np.testing.assert_array_equal(fitted.transform(Random(images)), fitted.transform(Random(images)))
    np.testing.assert_array_equal(*embeddings)


def test_a_reader_that_draws_is_told(embedder, images, save_images):
    rng = np.random.default_rng(0)

    def read(path):
        return np.asarray(Image.open(path)) + rng.integers(0, 2, (8, 8, 1)).astype(np.uint8)

    with pytest.warns(UserWarning, match="other pixels each time it is read"):
        embedder(reader__read=read).fit(save_images(images))
