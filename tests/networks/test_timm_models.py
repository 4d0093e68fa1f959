"""Models of timm as backbones; timm has tiny ones for tests."""

from __future__ import annotations

import functools
import sys

import numpy as np
import pytest
import torch

from sklearn_ssl import SSLImageEmbedder, load
from sklearn_ssl._networks.backbones import build_backbone
from sklearn_ssl._networks.timm_models import native_size, timm_model
from sklearn_ssl._networks.weights import widen_filters

timm = pytest.importorskip("timm")


@pytest.mark.parametrize("name", ["test_convnext", "test_resnet", "test_vit"])
@pytest.mark.parametrize("in_channels", [1, 3])
def test_a_model_has_the_features_of_timms_own(name, in_channels):
    ours, width = build_backbone(f"timm:{name}", {}, in_channels=in_channels, image_size=(64, 64))
    size = {"img_size": 64} if name == "test_vit" else {}
    theirs = timm.create_model(name, in_chans=in_channels, num_classes=0, **size).eval()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, in_channels, 64, 64)
    with torch.no_grad():
        assert torch.equal(ours.eval()(x), theirs(x))
    assert theirs(x).shape == (2, width)


def test_weights_are_those_given_without_the_classifier_and_for_other_channels():
    state = timm.create_model("test_convnext").state_dict()
    for channels in (3, 1):
        ours, _ = build_backbone(
            "timm:test_convnext", {"weights": state}, in_channels=channels, image_size=(64, 64)
        )
        for name, value in ours.state_dict().items():
            if name == "stem.0.weight" and channels == 1:
                torch.testing.assert_close(value, state[name].sum(1, keepdim=True))
            else:
                assert torch.equal(value, state[name]), name


def test_weights_that_do_not_fit_are_named():
    state = timm.create_model("test_resnet").state_dict()
    with pytest.raises(ValueError, match=r"backbone__weights do not fit test_convnext; .* missing: "):
        build_backbone("timm:test_convnext", {"weights": state}, in_channels=3, image_size=(64, 64))
    with pytest.raises(
        ValueError, match=r"'absent.pt' cannot be used for test_convnext.* 'pretrained' for timm's"
    ):
        build_backbone("timm:test_convnext", {"weights": "absent.pt"}, in_channels=3, image_size=(64, 64))


# Models of timm whose heads are more than a linear layer, and whose weights depend on the image size or not:
# native size, another size, whether timm resamples the weights (None: they are the same for all sizes).
FAMILIES = {
    "test_vit": (160, 96, True),
    "test_vit3": (160, 64, True),
    "test_convnext": (160, 64, None),
    "efficientvit_m0": (224, 128, True),
    "shvit_s1": (224, 96, None),
    "levit_128s": (224, 128, False),
    "deit_tiny_distilled_patch16_224": (224, 64, True),
    "eva02_tiny_patch14_224": (224, 56, True),
    "convit_tiny": (224, 64, False),
    "pit_ti_224": (224, 112, False),
}


@pytest.fixture(scope="module")
def state_of():
    """Return the state dict of a model of timm with its head, as a user has saved it."""
    return functools.cache(lambda name: timm.create_model(name).state_dict())


@pytest.mark.parametrize("name", FAMILIES)
def test_weights_of_the_very_model_fit_with_any_head(name, state_of):
    native, _, _ = FAMILIES[name]
    assert native_size(name) == (native, native)
    ours = timm_model(name, 3, (native, native), weights=state_of(name))
    theirs = timm.create_model(name, num_classes=0)
    theirs.load_state_dict(
        {key: value for key, value in state_of(name).items() if key in theirs.state_dict()}
    )
    for key, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[key], value), key


@pytest.mark.parametrize("name", FAMILIES)
def test_weights_of_the_very_model_fit_another_size_or_name_their_own(name, state_of):
    native, other, resampled = FAMILIES[name]
    if resampled is False:
        words = f"are of a {name} for images of {native} x {native} .* shape: .* Set image_size={native}\\."
        with pytest.raises(ValueError, match=words):
            timm_model(name, 3, (other, other), weights=state_of(name))
        return
    ours = timm_model(name, 3, (other, other), weights=state_of(name)).state_dict()
    differ = [key for key, value in ours.items() if not torch.equal(state_of(name)[key], value)]
    assert bool(differ) == bool(resampled)
    shapes = [ours[key].shape == state_of(name)[key].shape for key in differ]
    assert not any(shapes), differ


def test_a_position_embedding_is_resampled_as_timm_does(state_of):
    ours = timm_model("test_vit", 3, (96, 64), weights=state_of("test_vit"))
    expected = timm.layers.resample_abs_pos_embed(state_of("test_vit")["pos_embed"], (6, 4))
    torch.testing.assert_close(ours.pos_embed, expected)


def test_weights_of_a_wider_or_another_model_are_no_weights_of_another_size(state_of):
    for name, other in (("test_vit", "test_vit2"), ("test_vit", "test_resnet"), ("test_vit3", "test_vit")):
        with pytest.raises(ValueError, match=f"do not fit {name}; .*Give weights of a {name}"):
            timm_model(name, 3, (96, 96), weights=state_of(other))


def test_weights_for_other_channels_and_another_size(state_of):
    ours = timm_model("test_vit", 5, (96, 96), weights=state_of("test_vit"))
    expected = widen_filters(state_of("test_vit")["patch_embed.proj.weight"], 5)
    torch.testing.assert_close(ours.patch_embed.proj.weight, expected)


def test_weights_do_not_change_what_is_drawn_next(state_of):
    drawn = []
    for size in (160, 96):
        torch.manual_seed(0)
        timm_model("test_vit", 3, (size, size), weights=state_of("test_vit"))
        timm_model("test_convnext", 3, (size, size), weights=state_of("test_convnext"))
        drawn.append(torch.rand(3))
    # Only the model itself, whose positions are fewer, has drawn weights.
    torch.manual_seed(0)
    timm_model("test_vit", 3, (96, 96)), timm_model("test_convnext", 3, (96, 96))
    assert torch.equal(drawn[1], torch.rand(3))


@pytest.mark.parametrize(
    ("name", "size", "words"),
    [
        ("crossvit_tiny_240", 64, r"cannot take images of 3 x 64 x 64: .*; or set image_size=240\.$"),
        ("test_vit2", 40, r"cannot take images of 3 x 40 x 40: .*; or set image_size=160\.$"),
        ("vit_tiny_r_s16_p8_224", 112, r"cannot be made: AssertionError\. Set image_size=224\.$"),
        ("halonet26t", 64, r"cannot take images of 3 x 64 x 64: AssertionError\. .*set image_size=256\.$"),
    ],
)
def test_the_size_that_is_advised_is_the_models_own(name, size, words):
    with pytest.raises(ValueError, match=f"backbone 'timm:{name}' {words}"):
        build_backbone(f"timm:{name}", {}, in_channels=3, image_size=(size, size))


def test_a_message_does_not_list_the_values_of_a_state_dict(state_of):
    params = {"weights": state_of("test_vit")}
    with pytest.raises(ValueError) as caught:
        build_backbone("timm:vit_tiny_r_s16_p8_224", params, in_channels=3, image_size=(112, 112))
    assert "tensor" not in str(caught.value)


def test_an_unknown_tag_is_named():
    with pytest.raises(ValueError, match=r"'timm:test_vit\.absent' cannot be made: Invalid pretrained tag"):
        build_backbone("timm:test_vit.absent", {}, in_channels=3, image_size=(64, 64))


def test_an_unknown_name_is_told_the_nearest_one():
    with pytest.raises(ValueError, match=r"timm has no model 'convnext_tyny'. Did you mean 'convnext_tiny'"):
        build_backbone("timm:convnext_tyny", {}, in_channels=3, image_size=(64, 64))


def test_without_timm_one_is_told_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match="not installed: pip install timm"):
        SSLImageEmbedder(backbone="timm:test_resnet", max_epochs=1).fit(np.zeros((4, 64, 64)))


@pytest.mark.parametrize("name", ["test_convnext", "test_vit"])
def test_a_fit_is_saved_and_loaded(tmp_path, name):
    X = np.random.default_rng(0).random((8, 64, 64))
    embedder = SSLImageEmbedder(backbone=f"timm:{name}", max_epochs=1, batch_size=8, random_state=0).fit(X)
    embedder.save(tmp_path / "model.safetensors")
    again = load(tmp_path / "model.safetensors")
    np.testing.assert_allclose(again.transform(X), embedder.transform(X), atol=1e-3)
