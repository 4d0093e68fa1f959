"""Weights that a fit begins with, from files of `save` and other files."""

from __future__ import annotations

import copy
import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sklearn_ssl import SSLImageEmbedder, load

# Networks of each kind: backbone, parameters that are not the defaults, side of the images.
NETWORKS = {
    "resnet10": ({"width": 4}, 16),
    "resnet18": ({"width": 2, "stem": "3x3-stride2"}, 48),
    "vit": ({"width": 8, "depth": 2, "heads": 2, "pooling": "class"}, 16),
    "shufflenet_v2_x0_5": ({}, 32),
    "timm:test_convnext": ({}, 64),
    "timm:test_vit3": ({}, 64),
}


def make(backbone="resnet10", params=None, **others):
    given = {
        "backbone_params": params,
        "projector": (8, 8),
        "batch_size": 8,
        "max_epochs": 1,
        "random_state": 0,
    }
    return SSLImageEmbedder(backbone=backbone, **{**given, **others})


@pytest.fixture
def saved(draw_images, tmp_path):
    """Return an embedder, its images, and the file that it was saved to."""

    def save(backbone="resnet10", channels=3, size=None, **params):
        if backbone.startswith("timm:"):
            pytest.importorskip("timm")
        usual, side = NETWORKS.get(backbone, ({}, 16))
        images = draw_images(8, (*(size or (side, side)), channels))
        embedder = make(backbone, params or usual).fit(images)
        path = tmp_path / "model.safetensors"
        embedder.save(path)
        return embedder, images, path

    return save


def state_of(embedder):
    return embedder.encoder_.backbone.state_dict()


def assert_same_weights(one, other):
    assert state_of(one).keys() == state_of(other).keys()
    for key, value in state_of(one).items():
        assert torch.equal(value, state_of(other)[key]), key


@pytest.mark.filterwarnings("ignore:The embedding has collapsed", "ignore:A model file cannot store")
@pytest.mark.parametrize("backbone", NETWORKS)
def test_a_fit_begins_with_the_network_in_the_file(backbone, saved, tmp_path):
    """Its parameters are those of the file, in another file that is saved from it as well."""
    earlier, images, path = saved(backbone)
    later = make(backbone, {"weights": str(path)}, max_epochs=0).fit(images)
    assert_same_weights(later, earlier)
    np.testing.assert_array_equal(later.transform(images), earlier.transform(images))
    later.save(tmp_path / "later.safetensors")
    again = load(tmp_path / "later.safetensors")
    np.testing.assert_array_equal(again.transform(images), earlier.transform(images))
    given, _ = NETWORKS[backbone]
    assert given.items() <= (again.backbone_params or {}).items()
    np.testing.assert_array_equal(copy.deepcopy(later).transform(images), earlier.transform(images))


def test_the_network_of_auto_is_that_of_the_file(saved):
    for backbone in ("resnet10", "vit"):
        earlier, images, path = saved(backbone)
        later = make("auto", {"weights": path}, max_epochs=0).fit(images)
        assert later.backbone_ == backbone
        assert_same_weights(later, earlier)


def test_it_is_trained_on(saved):
    earlier, images, path = saved()
    later = make("resnet10", {"weights": path}, lr=1e-3).fit(images)
    assert not torch.equal(state_of(later)["conv1.weight"], state_of(earlier)["conv1.weight"])
    torch.testing.assert_close(
        state_of(later)["conv1.weight"], state_of(earlier)["conv1.weight"], atol=0.1, rtol=0
    )


def test_other_sizes_and_gray_images(saved, draw_images):
    earlier, _, path = saved()
    gray = make("resnet10", {"weights": path}, max_epochs=0).fit(draw_images(8, (24, 20, 1)))
    torch.testing.assert_close(
        state_of(gray)["conv1.weight"], state_of(earlier)["conv1.weight"].sum(1, keepdim=True)
    )
    earlier, _, path = saved("vit", size=(4, 16), width=8, depth=1, patch=2)
    square = make("vit", {"weights": path}, max_epochs=0).fit(draw_images(8, (8, 8, 3)))
    # As many patches, 4 x 4 instead of 2 x 8, whose positions are not those of the same number.
    one, other = (state_of(each)["encoder.pos_embedding"] for each in (earlier, square))
    assert one.shape == other.shape
    assert torch.equal(one[:, 0], other[:, 0])
    assert not torch.equal(one, other)


REFUSED = {
    "another name": ("resnet18", {}, "='resnet10', and .* backbone='resnet18'. Set backbone='resnet10'"),
    "another kind": ("vit", {}, "Set backbone='resnet10'"),
    "another width": ("resnet10", {"width": 8}, "width=4, .* backbone__width=8. Set backbone__width=4"),
    "another stem": ("resnet10", {"stem": "imagenet"}, "stem='3x3', .*='imagenet'. Set backbone__stem='3x3'"),
    "a like stem": ("resnet10", {"stem": "3x3-pool"}, "stem='3x3', .*Set backbone__stem='3x3'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_another_network_is_named(case, saved):
    backbone, params, words = REFUSED[case]
    _, images, path = saved()
    with pytest.raises(ValueError, match=f"{re.escape(str(path))}' comes from a fit with .*{words}"):
        make(backbone, {"weights": path, **params}).fit(images)


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"patch": 2}, "patch=4, .*Set backbone__patch=4"),
        ({"heads": 1, "depth": 3}, "heads=2, .*Set .*backbone__depth=2|depth=2, .*Set .*backbone__heads=2"),
        ({"pooling": "mean"}, "Set backbone__pooling='class'"),
    ],
)
def test_what_is_another_transformer_is_named(params, words, saved):
    _, images, path = saved("vit")
    with pytest.raises(ValueError, match=f"comes from a fit with .*{words}"):
        make("vit", {"weights": path, **params}).fit(images)


@pytest.mark.parametrize(("before", "now"), [(1, 3), (2, 4), (4, 1)])
def test_other_channels_are_named(before, now, saved, draw_images):
    _, _, path = saved(channels=before)
    with pytest.raises(
        ValueError, match=f"with images of {before} channels, and this one has images of {now}"
    ):
        make("resnet10", {"weights": path}).fit(draw_images(8, (16, 16, now)))


def test_an_encoder_of_a_module_fits_a_network_of_the_same_layers(tiny, images, tmp_path):
    earlier = make(tiny).fit(images)
    earlier.save(tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"do not fit resnet10; .* missing: conv1"):
        make("resnet10", {"weights": tmp_path / "model.safetensors"}).fit(images)


def test_other_files_of_safetensors_and_whole_encoders(saved, tmp_path):
    earlier, images, _ = saved()
    encoder = {key: value.contiguous() for key, value in earlier.encoder_.state_dict().items()}
    save_file(encoder, tmp_path / "encoder.safetensors")
    torch.save(encoder, tmp_path / "encoder.pt")
    for weights in (encoder, tmp_path / "encoder.safetensors", str(tmp_path / "encoder.pt")):
        later = make("resnet10", {"width": 4, "weights": weights}, max_epochs=0).fit(images)
        assert_same_weights(later, earlier)


def test_damaged_files_and_other_kinds_are_refused(saved, tmp_path):
    _, images, path = saved()
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    (tmp_path / "damaged.safetensors").write_bytes(damaged)
    (tmp_path / "short.safetensors").write_bytes(damaged[:1000])
    make("resnet10", {"width": 1}, checkpoint=tmp_path / "runs").fit(images)
    checkpoint = next((tmp_path / "runs").iterdir())
    for file, words in {
        tmp_path / "damaged.safetensors": "SHA-256 checksum does not match",
        tmp_path / "short.safetensors": "cannot be read as a state dict",
        tmp_path / "absent.safetensors": "path of an existing file of SSLImageEmbedder.save",
        checkpoint: "is a checkpoint, not a model",
    }.items():
        with pytest.raises(ValueError, match=words):
            make("resnet10", {"weights": file}).fit(images)


def test_a_file_takes_no_more_memory_than_its_weights(saved, tmp_path, monkeypatch):
    _, images, path = saved()
    from sklearn_ssl._models import container, model_file

    content = container.read_archive(path, "model")
    content["params"]["backbone_params"] = {"width": 10**7}
    container.write_archive(path, "model", content)
    assert load_file(path)["backbone.conv1.weight"].shape == (4, 3, 3, 3)
    with pytest.raises(ValueError, match=r"does not match the stored weights|cannot be created"):
        model_file.with_weights_of_file("resnet10", {"weights": path}, load_images(images))


def load_images(images):
    from sklearn_ssl._images.inputs import ImageFormat

    return ImageFormat(shape=images.shape[1:], size=images.shape[1:3], dtype=torch.uint8, is_array=True)
