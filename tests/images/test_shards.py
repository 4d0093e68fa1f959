"""Images in tar files."""

import io
import pickle
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from sklearn_ssl import ImageShards

N = 12


def encoded(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def write(path, members, mode="w"):
    with tarfile.open(path, mode) as tar:
        for name, content in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            tar.addfile(header, io.BytesIO(content))
    return path


def samples(images, start, with_labels=True):
    members = {}
    for i, image in enumerate(images, start):
        if with_labels:
            members[f"a/{i:04}.cls"] = str(i).encode()
        members[f"a/{i:04}.PNG"] = encoded(image)
    return members


@pytest.fixture
def folder(images, tmp_path):
    """Write two shards of five and seven images, among members that hold none."""
    path = tmp_path / "shards"
    path.mkdir()
    other = {"a/._0000.png": b"hidden", "__meta__.json": b"{}", "a/none.cls": b"7"}
    write(path / "1.tar", {**samples(images[5:], 5), "a/x" * 60 + ".cls": b"a long name"})
    write(path / "0.tar", {**other, **samples(images[:5], 0)})
    return path


def every(source):
    return source.batch(torch.arange(len(source)))


def test_shards_hold_the_images_in_order(opened, images, folder, save_images):
    expected = every(opened(save_images(images))[0])
    for given in (
        folder,
        str(folder),
        sorted(folder.glob("*.tar")),
        [str(folder / "0.tar"), folder / "1.tar"],
    ):
        shards = ImageShards(given)
        assert len(shards) == N
        assert shards.keys == [f"a/{i:04}" for i in range(N)]
        assert torch.equal(every(opened(shards)[0]), expected)
    assert shards.column("cls") == [str(i).encode() for i in range(N)]
    assert shards[-1] == encoded(images[-1])
    assert shards[2:4] == [encoded(image) for image in images[2:4]]
    assert every(opened(pickle.loads(pickle.dumps(shards)))[0]).equal(expected)
    with pytest.raises(IndexError):
        shards[N]


def test_each_image_is_read_alone(opened, images, folder):
    source, _ = opened(ImageShards(folder), reader__memory_limit=1)
    size = (folder / "1.tar").stat().st_size
    with open(folder / "1.tar", "r+b") as file:  # damage the image that is the last
        content = file.read()
        file.seek(content.index(encoded(images[11])))
        file.write(b"\0" * len(encoded(images[11])))
    assert (folder / "1.tar").stat().st_size == size
    assert torch.equal(source.batch(torch.tensor([10])), torch.from_numpy(images[10:11]).movedim(-1, 1))
    with pytest.raises(ValueError, match=r"a/0011 in .*1\.tar \(position 11\) cannot be read"):
        source.batch(torch.tensor([11]))


def test_columns_with_gaps(images, tmp_path):
    write(tmp_path / "a.tar", samples(images[:2], 0) | samples(images[2:4], 2, with_labels=False))
    shards = ImageShards(tmp_path / "a.tar")
    assert shards.column("cls") == [b"0", b"1", None, None]
    with pytest.raises(ValueError, match=r"No sample has the extension 'json'; there are \['cls', 'png'\]"):
        shards.column("json")


def test_a_sample_with_several_images_needs_an_extension(images, tmp_path):
    members = {
        f"{i}.{side}.png": encoded(image) for i, image in enumerate(images) for side in ("left", "right")
    }
    members["0.left.png"] = encoded(images[1])
    path = write(tmp_path / "a.tar", members)
    with pytest.raises(ValueError, match=r"several images.*extension='left\.png'.*'right\.png'"):
        ImageShards(path)
    left, right = ImageShards(path, "left.png"), ImageShards(path, "right.png")
    assert len(left) == len(right) == N
    assert left[0] == encoded(images[1]) == right[1]


def test_shards_that_cannot_be_read(images, tmp_path):
    compressed = write(tmp_path / "a.tar.gz", samples(images, 0), "w:gz")
    with pytest.raises(ValueError, match=r"a\.tar\.gz is compressed.*Decompress it first"):
        ImageShards(compressed)
    empty = write(tmp_path / "b.tar", {"0.txt": b"text"})
    with pytest.raises(
        ValueError, match=r"no image in 1 shards, such as .*b\.tar; their extensions are \['txt'\]"
    ):
        ImageShards(empty)
    with pytest.raises(ValueError, match="no member with the extension 'jpg'"):
        ImageShards(empty, "jpg")
    (tmp_path / "c.tar").write_bytes(b"nothing of the kind" * 100)
    with pytest.raises(ValueError, match=r"c\.tar cannot be read as a tar file"):
        ImageShards(tmp_path / "c.tar")
    whole = write(tmp_path / "d.tar", samples(images, 0)).read_bytes()
    (tmp_path / "d.tar").write_bytes(whole[: len(whole) // 2 + 100])
    with pytest.raises(ValueError, match=r"d\.tar cannot be read as a tar file"):
        ImageShards(tmp_path / "d.tar")
    with pytest.raises(FileNotFoundError, match=r"no file .*none\.tar"):
        ImageShards([tmp_path / "none.tar"])
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileNotFoundError, match=r"has no \.tar file"):
        ImageShards(tmp_path / "folder")


def test_a_fit_on_shards_is_the_fit_on_their_files(embedder, images, folder, save_images, tmp_path):
    paths = save_images(images)
    shards = ImageShards(folder)
    fitted = embedder(checkpoint=tmp_path / "runs").fit(shards)
    np.testing.assert_array_equal(fitted.transform(shards), embedder().fit(paths).transform(paths))
    with pytest.warns(UserWarning, match="taken from"):
        embedder(checkpoint=tmp_path / "runs").fit(ImageShards(folder))


def test_shards_of_webdataset(images, tmp_path, embedder):
    webdataset = pytest.importorskip("webdataset")
    with webdataset.ShardWriter(str(tmp_path / "%03d.tar"), maxcount=5, verbose=0) as writer:
        for i, image in enumerate(images):
            writer.write({"__key__": f"{i:04}", "png": image, "cls": i})
    shards = ImageShards(tmp_path)
    assert [int(label) for label in shards.column("cls")] == list(range(N))
    assert np.array_equal([np.asarray(Image.open(io.BytesIO(image))) for image in shards], images)
    stream = webdataset.WebDataset(sorted(map(str, tmp_path.glob("*.tar"))), shardshuffle=False)
    with pytest.raises(ValueError, match=r"shards of webdataset as ImageShards\(paths\)"):
        embedder().fit(stream)
