"""Models of timm as backbones; timm has tiny ones for tests."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from sklearn_ssl import SSLImageEmbedder, load
from sklearn_ssl._networks.backbones import build_backbone

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
