"""Columns of encoded images, in lists and in the tables of other libraries; datasets that read in batches."""

import io

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, Subset

pa = pytest.importorskip("pyarrow")
pl = pytest.importorskip("polars")
N = 12


@pytest.fixture
def encoded(images):
    """Return the bytes of PNG files."""
    files = [io.BytesIO() for _ in images]
    for image, file in zip(images, files, strict=True):
        Image.fromarray(image).save(file, "PNG")
    return [file.getvalue() for file in files]


@pytest.fixture
def expected(opened, images, save_images):
    return every(opened(save_images(images))[0])


def every(source):
    return source.batch(torch.arange(len(source)))


def with_paths(encoded):
    return [{"bytes": content, "path": None} for content in encoded]


FORMS = {
    "list": list,
    "tuple": tuple,
    "array of objects": lambda rows: np.array(rows, dtype=object),
    "memoryviews": lambda rows: [memoryview(row) for row in rows],
    "dicts of bytes and path": with_paths,
    "pandas": lambda rows: pd.Series(rows, index=range(100, 100 + N)),
    "pandas, of arrow": lambda rows: pd.Series(rows, dtype=pd.ArrowDtype(pa.binary())),
    "pandas, dicts": lambda rows: pd.DataFrame({"image": with_paths(rows)}),
    "polars": pl.Series,
    "polars, dicts": lambda rows: pl.DataFrame({"image": with_paths(rows)}),
    "pyarrow": pa.array,
    "pyarrow, large": lambda rows: pa.chunked_array([rows[:5], rows[5:]], pa.large_binary()),
    "pyarrow, dicts": lambda rows: pa.table({"image": with_paths(rows)}),
}


@pytest.mark.parametrize("form", FORMS)
def test_columns_of_bytes_are_the_images_in_files(form, opened, encoded, expected):
    source, images = opened(FORMS[form](encoded))
    assert torch.equal(every(source), expected)
    assert not images.is_array
    assert source.identity() == opened(FORMS[form](encoded))[0].identity()
    assert source.identity() != opened(FORMS[form](encoded[::-1]))[0].identity()


def test_a_pyarrow_column_of_paths(opened, images, save_images, expected):
    paths = [str(path) for path in save_images(images)]
    assert torch.equal(every(opened(pa.array(paths))[0]), expected)


def test_a_parquet_file(opened, encoded, expected, tmp_path):
    pd.DataFrame({"image": encoded, "label": range(N)}).to_parquet(tmp_path / "images.parquet")
    for column in (
        pd.read_parquet(tmp_path / "images.parquet")["image"],
        pl.read_parquet(tmp_path / "images.parquet")["image"],
        pa.parquet.read_table(tmp_path / "images.parquet")["image"],
    ):
        assert torch.equal(every(opened(column)[0]), expected)


@pytest.mark.parametrize(
    "kind", ["16-bit PNG", "deep RGB PNG", "TIFF of 5 channels", "npy", "npy by columns"]
)
def test_bytes_are_decoded_as_files_are(kind, opened, images, tmp_path):
    deep = images.astype(np.uint16) * 255 + 7
    path = tmp_path / "a"
    if kind == "16-bit PNG":
        Image.fromarray(deep[0, ..., 0]).save(path, "PNG")
    elif kind == "deep RGB PNG":
        write_deep_png(path, deep[0])
    elif kind == "TIFF of 5 channels":
        pytest.importorskip("tifffile").imwrite(
            path, np.repeat(deep[0, ..., :1], 5, axis=2), photometric="minisblack", planarconfig="contig"
        )
    else:
        array = deep[0].astype(np.float32)
        with open(path, "wb") as file:
            np.save(file, np.asfortranarray(array) if "columns" in kind else array)
    source, _ = opened([path.read_bytes()] * 2)
    of_files, _ = opened([path] * 2)
    assert source.dtype == of_files.dtype == torch.float32
    assert torch.equal(every(source), every(of_files))


def write_deep_png(path, image):
    """Write a PNG of 16 bits per color, which Pillow cannot."""
    import struct
    import zlib

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, _ = image.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in image)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def test_npy_bytes_that_promise_more_than_they_hold(embedder):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": "|u1", "fortran_order": False, "shape": (10**6, 10**6, 3)}
    )
    with pytest.raises(ValueError, match=r"position 0\) cannot be read as an image"):
        embedder().fit([file.getvalue()] * 3)


def test_a_reader_is_given_a_file_object(opened, encoded, expected):
    source, _ = opened(encoded, reader__read=lambda file: np.asarray(Image.open(file)))
    assert torch.equal(every(source), expected)


def test_a_missing_row_is_an_unreadable_image(embedder, encoded, tmp_path):
    encoded[3] = None
    with pytest.raises(ValueError, match=r"The image \(position 3\) cannot .* it is None"):
        embedder().fit(encoded)
    with pytest.warns(UserWarning, match="1 of 12 images were left out"):
        fitted = embedder(
            reader__cache=tmp_path / "cache", checkpoint=tmp_path, reader__on_error="skip", max_epochs=2
        ).fit(pa.array([None, *encoded[1:3], *encoded[4:], encoded[0]]))
    assert list(fitted.skipped_) == [0]


def test_a_table_of_several_columns_is_told_to_give_one(embedder, encoded):
    columns = {"label": range(N), "photo": encoded}
    for table in (pd.DataFrame(columns), pl.DataFrame(columns), pa.table(columns)):
        with pytest.raises(ValueError, match=r"with the columns \['label', 'photo'\].*X\['photo'\]"):
            embedder().fit(table)
    with pytest.raises(ValueError, match=r"X\['path'\]"):
        embedder().fit(pd.DataFrame({"path": ["a.png", "b.png"], "label": [0, 1]}))


def test_what_was_fitted_on_files_embeds_bytes(embedder, images, encoded, save_images, tmp_path):
    fitted = embedder().fit(save_images(images))
    expected = fitted.transform(images)
    np.testing.assert_array_equal(fitted.transform(encoded), expected)
    cached = embedder(reader__cache=tmp_path / "cache", reader__memory_limit=1).fit(encoded)
    assert sum(path.is_file() for path in (tmp_path / "cache").rglob("*")) == N
    np.testing.assert_array_equal(cached.transform(encoded), expected)


# ------------------------------------------------------------------ Hugging Face


@pytest.fixture
def hugging_face(images):
    datasets = pytest.importorskip("datasets")
    columns = {"label": list(range(N)), "photo": [Image.fromarray(image) for image in images]}
    features = datasets.Features({"label": datasets.Value("int64"), "photo": datasets.Image()})
    return datasets.Dataset.from_dict(columns, features=features)


def test_a_hugging_face_dataset(opened, hugging_face, expected):
    assert torch.equal(every(opened(hugging_face)[0]), expected)
    assert torch.equal(every(opened(hugging_face["photo"])[0]), expected)
    shuffled = hugging_face.shuffle(seed=0)
    assert torch.equal(every(opened(shuffled)[0]), expected[shuffled["label"]])
    assert torch.equal(every(opened(hugging_face.with_format("numpy"))[0]), expected)


def test_a_hugging_face_dataset_keeps_its_transform(opened, hugging_face, expected):
    def flipped(batch):
        return {"photo": [np.asarray(image)[:, ::-1] for image in batch["photo"]], "label": batch["label"]}

    assert torch.equal(every(opened(hugging_face.with_transform(flipped))[0]), expected.flip(-1))


def test_a_hugging_face_dataset_of_arrays(opened, images, expected):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"array": datasets.Array3D((8, 8, 3), "uint8")})
    dataset = datasets.Dataset.from_dict({"array": list(images)}, features=features)
    assert torch.equal(every(opened(dataset)[0]), expected)


def test_hugging_face_datasets_that_are_told_what_to_give(embedder, hugging_face):
    datasets = pytest.importorskip("datasets")
    two = datasets.concatenate_datasets(
        [hugging_face, hugging_face.rename_columns({"photo": "other", "label": "n"})], axis=1
    )
    for words, X in {
        r"X\['train'\]": datasets.DatasetDict({"train": hugging_face}),
        "without streaming=True": hugging_face.to_iterable_dataset(),
        r"several columns of images, \['photo', 'other'\].*X\['photo'\]": two,
        r"cast_column": hugging_face.select_columns("label"),
    }.items():
        with pytest.raises(ValueError, match=words):
            embedder().fit(X)


# ------------------------------------------------------------------ datasets that read in batches


class Batched(Dataset):
    """Dataset that reads several images at once, and one alone for the header only."""

    def __init__(self, images, bad=()):
        self.images = images
        self.bad = bad
        self.calls = []

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        self.calls.append(i)
        if i in self.bad:
            raise OSError("a broken disk")
        return {"image": self.images[i], "label": 0}

    def __getitems__(self, indices):
        self.calls.append(list(indices))
        if set(indices) & set(self.bad):
            raise OSError("a broken disk")
        return [(self.images[i], 0) for i in indices]


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_dataset_is_read_in_batches(opened, images, expected, in_memory):
    dataset = Batched(images)
    source, _ = opened(dataset, reader__memory_limit=2**31 if in_memory else 1)
    dataset.calls.clear()
    assert torch.equal(source.batch(torch.tensor([5, 2, 5])), expected[[5, 2, 5]])
    assert torch.equal(source.batch(torch.tensor([2, 7])), expected[[2, 7]])
    assert dataset.calls == [[5, 2], [7] if in_memory else [2, 7]]
    subset, _ = opened(Subset(dataset, range(4, 12)))
    dataset.calls.clear()
    assert torch.equal(every(subset), expected[4:])
    assert dataset.calls == [list(range(4, 12))]


def test_a_bad_image_of_a_batch_is_found(embedder, images):
    with pytest.raises(ValueError, match=r"position 7\).*a broken disk"):
        embedder(max_epochs=2).fit(Batched(images, bad=[7]))
