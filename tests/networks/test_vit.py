"""The vision transformer: sizes, positions and hidden patches, compared with torchvision's own."""

import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import VisionTransformer

from sklearn_ssl import SSLImageEmbedder, SSLLoss, load, param_grid
from sklearn_ssl._networks.backbones import build_backbone, feature_maps
from sklearn_ssl._networks.student import Student
from sklearn_ssl._networks.vit import auto_patch, make_vit, sincos_positions

SMALL = {"width": 16, "depth": 2, "heads": 2}


def small(in_channels=3, image_size=(16, 16), **params):
    torch.manual_seed(0)
    return make_vit(in_channels, image_size, **SMALL | params).eval()


def images(n=3, channels=3, size=(16, 16)):
    return torch.randn(n, channels, *size, generator=torch.Generator().manual_seed(0))


def pixel_images(n=24, side=16):
    return np.random.default_rng(0).integers(0, 256, (n, side, side, 3), dtype=np.uint8)


def theirs(vit, side=16, patch=4):
    """Return torchvision's transformer with the same weights."""
    model = VisionTransformer(side, patch, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=64)
    model.heads = nn.Sequential()
    model.load_state_dict(vit.state_dict())
    return model.eval()


def test_the_class_token_is_torchvisions():
    vit = small(pooling="class")
    torch.testing.assert_close(vit(images()), theirs(vit)(images()))


def test_the_features_are_the_mean_of_the_patches_tokens():
    vit = small()
    torch.testing.assert_close(vit(images()), vit.tokens(images()).mean(dim=1))
    assert not torch.allclose(vit(images()), theirs(vit)(images()))


def test_all_patches_kept_in_order_are_all_tokens():
    vit = small()
    keep = torch.arange(16).expand(3, -1)
    torch.testing.assert_close(vit.encode(images(), keep), vit.tokens(images()))


def test_kept_patches_see_no_others():
    vit, x, keep = small(), images(), torch.tensor([[0, 5, 2]]).expand(3, -1)
    before = vit.encode(x, keep)
    changed = x.clone()
    changed[:, :, 8:] += 1  # patches 8 to 15
    torch.testing.assert_close(vit.encode(changed, keep), before)
    changed[:, :, :4, :4] += 1  # patch 0
    assert not torch.allclose(vit.encode(changed, keep), before)


def test_tokens_come_in_the_order_in_which_patches_are_kept():
    vit = small()
    a, b = (vit.encode(images(), torch.tensor([keep]).expand(3, -1)) for keep in ([3, 7, 1], [1, 3, 7]))
    torch.testing.assert_close(a[:, [2, 0, 1]], b)


def test_hidden_patches_are_not_seen_but_their_places_are():
    vit, x, token = small(), images(), torch.linspace(-1, 1, 16)
    mask = torch.zeros(3, 16, dtype=torch.bool)
    mask[:, :2] = True
    before = vit.tokens(x, mask, token)
    changed = x.clone()
    changed[:, :, :4, :8] += 1  # patches 0 and 1
    torch.testing.assert_close(vit.tokens(changed, mask, token), before)
    assert not torch.allclose(before[:, 0], before[:, 1])
    assert not torch.allclose(vit.tokens(x, mask, 2 * token), before)


def test_positions_are_sines_and_cosines_of_row_and_column():
    positions = sincos_positions((2, 3), 8)  # two frequencies: 1 and 1 / 100
    row, column = 1, 2
    expected = [np.sin(row), np.sin(row / 100), np.cos(row), np.cos(row / 100)]
    expected += [np.sin(column), np.sin(column / 100), np.cos(column), np.cos(column / 100)]
    np.testing.assert_allclose(positions[row * 3 + column], expected, rtol=1e-5)
    assert positions.shape == (6, 8)


def test_small_crops_have_positions_between_the_learned_ones():
    vit = small()
    with torch.no_grad():  # a ramp from left to right, in every dimension
        ramp = torch.arange(4.0).repeat(4)[:, None].expand(-1, 16)
        vit.encoder.pos_embedding[0, 1:] = ramp
    positions = vit._positions(torch.zeros(1, 3, 8, 8))
    assert positions.shape == (1, 4, 16)
    left, right = positions[0, 0, 0], positions[0, 1, 0]
    assert 0 < left < 1 < 2 < right < 3
    assert vit(images(size=(8, 8))).shape == (3, 16)


def test_patches_follow_the_images():
    sizes = {8: 2, 28: 4, 32: 4, 64: 8, 96: 8, 224: 16, 50: 5, 100: 10}
    assert {side: auto_patch((side, side)) for side in sizes} == sizes
    assert auto_patch((48, 64)) == 4
    assert auto_patch((31, 31)) is None
    assert auto_patch((1, 64)) == 1


def test_it_takes_any_channels_and_shapes():
    vit = small(in_channels=5, image_size=(8, 24))
    assert vit.grid == (4, 12)
    assert vit(images(channels=5, size=(8, 24))).shape == (3, 16)


@pytest.mark.parametrize(
    ("params", "size", "words"),
    [
        (
            {"patch": 5},
            (16, 16),
            r"backbone__patch=5 does not divide .*16 x 16.*: 1, 2, 4, 8, 16;.*multiple of 5",
        ),
        ({}, (31, 31), r"No patch .* 31 x 31 pixels\. Set image_size=32"),
        ({}, (31, 37), r"image_size=\(32, 36\)"),
        ({"patch": 0}, (16, 16), r"backbone__patch=0: give an integer"),
        ({"heads": 3}, (16, 16), r"backbone__heads=3 does not divide backbone__width=16"),
        ({"width": 18}, (16, 16), r"backbone__width=18: give a multiple of 4"),
        ({"depth": 0.5}, (16, 16), r"backbone__depth=0\.5: give an integer"),
        ({"pooling": "max"}, (16, 16), r"backbone__pooling='max': give 'mean' or 'class'"),
    ],
)
def test_sizes_that_cannot_be_are_named(params, size, words):
    with pytest.raises(ValueError, match=words):
        make_vit(3, size, **SMALL | params)


def test_views_that_its_patches_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="patches of 4 x 4 pixels do not divide views of 10 x 10"):
        small()(images(size=(10, 10)))


# ------------------------------------------------------------------ in the embedder


def embedder(**params):
    return SSLImageEmbedder(backbone="vit", **{f"backbone__{k}": v for k, v in SMALL.items()}, **params)


@pytest.mark.parametrize("loss", ["ntxent", "vicreg"])
def test_it_trains_and_transforms(loss):
    fitted = embedder(loss=loss, max_epochs=2, batch_size=8, random_state=0).fit(pixel_images())
    assert fitted.transform(pixel_images()).shape == (24, 16)
    again = embedder(loss=loss, max_epochs=2, batch_size=8, random_state=0).fit(pixel_images())
    np.testing.assert_array_equal(again.transform(pixel_images()), fitted.transform(pixel_images()))


def test_float32_embeddings_are_the_encoders_and_survive_a_file(tmp_path):
    fitted = embedder(max_epochs=1, batch_size=8, precision="float32", random_state=0).fit(pixel_images())
    embeddings = fitted.transform(pixel_images())
    x = torch.from_numpy(pixel_images()).movedim(3, 1).float()
    with torch.no_grad():
        np.testing.assert_allclose(embeddings, fitted.encoder_(x), atol=1e-5)
    fitted.save(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(load(tmp_path / "model.safetensors").transform(pixel_images()), embeddings)


def test_a_pickle_keeps_how_it_was_trained():
    fitted = embedder(max_epochs=1, batch_size=8, random_state=0).fit(pixel_images())
    before = fitted.transform(pixel_images())
    fitted.set_params(backbone__pooling="class", backbone__heads=1)  # for the next fit
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(fitted)).transform(pixel_images()), before)


def test_it_runs_in_onnx(tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    fitted = embedder(max_epochs=1, batch_size=8, precision="float32", random_state=0).fit(pixel_images())
    fitted.to_onnx(tmp_path / "model.onnx")
    session = runtime.InferenceSession(tmp_path / "model.onnx")
    for n in (1, 5):
        x = pixel_images()[:n].transpose(0, 3, 1, 2).astype(np.float32)
        (found,) = session.run(None, {"images": x})
        np.testing.assert_allclose(found, fitted.transform(pixel_images()[:n]), atol=1e-4)


def test_bfloat16_embeddings_are_close():
    fitted = embedder(max_epochs=1, batch_size=8, precision="float32", random_state=0).fit(pixel_images())
    exact = fitted.transform(pixel_images())
    rough = fitted.set_params(precision="bf16").transform(pixel_images())
    cosines = (exact * rough).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(rough, axis=1)
    assert cosines.min() > 0.999


class WantsViT(SSLLoss):
    """Loss with a vision transformer as its default backbone: alignment of two views."""

    defaults = {"backbone": "vit"}  # noqa: RUF012

    def forward(self, z1, z2):
        return (z1 - z2).square().mean()


def test_auto_takes_the_parameters_of_the_backbone_that_the_loss_wants():
    wanting = SSLImageEmbedder(WantsViT, backbone__width=16, backbone__depth=1, max_epochs=1, batch_size=8)
    assert wanting.get_params()["backbone__patch"] == "auto"
    assert wanting.fit(pixel_images()).backbone_ == "vit"
    assert wanting.transform(pixel_images()).shape == (24, 16)
    assert "backbone__stem" in SSLImageEmbedder("ntxent").get_params()
    with pytest.raises(ValueError, match=r"Invalid parameter 'backbone__stem'.*depth, heads, patch"):
        SSLImageEmbedder(WantsViT).set_params(backbone__stem="3x3")
    both = SSLImageEmbedder("ntxent", backbone__stem="3x3").set_params(loss=WantsViT, backbone__patch=8)
    assert both.backbone_params == {"patch": 8}
    assert both.set_params(loss="vicreg").backbone_params is None
    stays = SSLImageEmbedder("ntxent", backbone__stem="3x3").set_params(loss="vicreg")
    assert stays.backbone_params == {"stem": "3x3"}


def test_a_grid_gives_each_loss_the_parameters_of_its_backbone():
    grid = {"loss": ["ntxent", WantsViT, "vicreg"], "backbone__depth": [1, 2], "backbone__stem": ["3x3"]}
    dicts = param_grid(SSLImageEmbedder(), grid)
    assert dicts == [
        {"loss": ["ntxent", "vicreg"], "backbone__stem": ["3x3"]},
        {"loss": [WantsViT], "backbone__depth": [1, 2]},
    ]


def test_a_loss_that_is_not_there_leaves_the_usual_backbone_settable():
    assert SSLImageEmbedder("no_such_loss", backbone__stem="3x3").backbone_params == {"stem": "3x3"}
    with pytest.raises(ValueError, match="Unknown loss 'no_such_loss'"):
        SSLImageEmbedder("no_such_loss").set_params(backbone__depth=2)


# ------------------------------------------------------------------ feature maps


@pytest.mark.parametrize("name", ["resnet18", "vit", "module"])
def test_features_are_the_mean_of_the_maps(name):
    given = nn.Conv2d(3, 6, 3, stride=2) if name == "module" else name
    params = SMALL if name == "vit" else {}
    torch.manual_seed(0)
    backbone, width = build_backbone(given, params, in_channels=3, image_size=(32, 32))
    backbone.eval()
    x = images(size=(32, 32))
    maps = feature_maps(backbone, x)
    assert maps.shape[:2] == (3, width)
    assert maps.shape[2] > 1
    torch.testing.assert_close(maps.mean(dim=(2, 3)), backbone(x), rtol=1e-4, atol=1e-5)


def test_a_backbone_without_maps_says_so():
    for backbone in (
        nn.Flatten(),
        nn.Sequential(nn.Flatten()),
        nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten()),
    ):
        with pytest.raises(ValueError, match=r"does not show its feature maps\. .*resnet18.*vit"):
            feature_maps(backbone, images())


def test_a_student_gives_maps_and_tokens_in_float32():
    student = Student(small(), nn.Identity(), precision="bf16")
    x, keep = images(), torch.tensor([[0, 1]]).expand(3, -1)
    mask = torch.zeros(3, 16, dtype=torch.bool)
    results = student.maps(x), student.encode(x, keep), student.tokens(x, mask, torch.zeros(16))
    assert [tuple(result.shape) for result in results] == [(3, 16, 4, 4), (3, 2, 16), (3, 16, 16)]
    assert all(result.dtype == torch.float32 for result in results)


# ------------------------------------------------------------------ weights


def torchvisions(size=16, patch=4, width=16, depth=2, heads=2):
    """Return torchvision's own vision transformer with its classifier, whose positions are random."""
    torch.manual_seed(1)
    net = VisionTransformer(size, patch, depth, heads, width, 4 * width, num_classes=10)
    nn.init.normal_(net.encoder.pos_embedding)
    return net.eval()


def test_torchvisions_weights_give_its_features():
    theirs = torchvisions()
    ours = small(weights=theirs.state_dict(), pooling="class")
    theirs.heads = nn.Identity()
    torch.testing.assert_close(ours(images()), theirs(images()))


@pytest.mark.parametrize("size", [(16, 16), (32, 32), (24, 40), (8, 8)])
def test_positions_of_weights_are_interpolated_for_images_of_any_size(size):
    state = torchvisions().state_dict()
    ours = small(image_size=size, weights=state).encoder.pos_embedding
    theirs = state["encoder.pos_embedding"]
    as_map = theirs[:, 1:].unflatten(1, (4, 4)).permute(0, 3, 1, 2)
    expected = nn.functional.interpolate(as_map, (size[0] // 4, size[1] // 4), mode="bicubic")
    torch.testing.assert_close(ours[:, 1:], expected.flatten(2).transpose(1, 2))
    assert torch.equal(ours[:, :1], theirs[:, :1])


def test_the_patch_is_that_of_the_weights():
    assert small().patch_size == 4
    assert small(weights=torchvisions(patch=2).state_dict()).patch_size == 2


def test_gray_images_take_the_sum_of_the_filters_for_colors():
    state = torchvisions().state_dict()
    assert torch.equal(
        small(in_channels=1, weights=state).conv_proj.weight, state["conv_proj.weight"].sum(1, keepdim=True)
    )


def test_weights_of_another_width_are_refused():
    with pytest.raises(
        ValueError, match=r"do not fit vit; .* class_token \(1, 1, 8\) instead of \(1, 1, 16\)"
    ):
        small(weights=torchvisions(width=8).state_dict())
    with pytest.raises(
        ValueError, match=r"'absent.pt' cannot be used for vit.* file of SSLImageEmbedder.save"
    ):
        small(weights="absent.pt")


def test_a_patch_that_is_not_that_of_the_weights_is_refused():
    with pytest.raises(ValueError, match=r"conv_proj.weight \(16, 3, 2, 2\) instead of \(16, 3, 4, 4\)"):
        small(weights=torchvisions(patch=2).state_dict(), patch=4)
