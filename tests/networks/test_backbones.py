"""Backbones: stems, channels, weights, and modules of the user."""

import copy
import functools
import inspect
import pickle

import pytest
import torch
from torch import nn
from torchvision import models

from sklearn_ssl._networks.backbones import build_backbone, resolve_backbone
from sklearn_ssl._networks.torchvision_models import STEMS, auto_stem
from sklearn_ssl._networks.weights import read_weights, widen_filters

RGB_32 = {"in_channels": 3, "image_size": (32, 32)}


@pytest.fixture(scope="module")
def resnet18_weights():
    """Return the state dict of torchvision's own resnet18, with its classifier."""
    torch.manual_seed(0)
    return models.resnet18(weights=None).state_dict()


@pytest.fixture(scope="module")
def small_stem_weights():
    torch.manual_seed(0)
    return build_backbone("resnet18", {"stem": "3x3"}, **RGB_32)[0].state_dict()


def headless(state):
    return {key: value for key, value in state.items() if not key.startswith("fc.")}


def nested_names(backbone):
    parameters = inspect.signature(resolve_backbone(backbone)).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


class Tiny(nn.Module):
    """Backbone whose features are the means of the channels after BatchNorm."""

    def __init__(self, in_channels=3, width=5):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, width, 1)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x):
        return self.norm(self.conv(x)).mean((2, 3))


class Returns(nn.Module):
    """Backbone that returns the result of a function of the images."""

    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, x):
        return self.make(x)


# ------------------------------------------------------------------ names and their parameters


def test_auto_is_resnet18():
    torch.manual_seed(0)
    module, feature_dim = build_backbone("auto", {}, **RGB_32)
    assert type(module) is models.ResNet
    assert feature_dim == 512
    assert [len(getattr(module, f"layer{i}")) for i in (1, 2, 3, 4)] == [2, 2, 2, 2]


def test_nested_names_are_stem_width_and_weights_for_resnets_and_weights_for_other_models():
    of_resnets = {"stem": "auto", "width": 64, "weights": None}
    assert nested_names("auto") == nested_names("wide_resnet50_2") == of_resnets
    assert nested_names("mobilenet_v3_small") == {"weights": None}


def test_a_resolved_name_can_be_pickled():
    again = pickle.loads(pickle.dumps(resolve_backbone("resnet34")))
    assert again.args == ("resnet34",)


def test_a_module_a_class_and_a_function_resolve_to_themselves():
    tiny = Tiny()
    assert resolve_backbone(tiny) is tiny
    assert resolve_backbone(Tiny) is Tiny
    assert resolve_backbone(headless) is headless


def test_an_unknown_name_is_told_the_nearest_one_and_what_there_is():
    with pytest.raises(ValueError) as caught:
        resolve_backbone("resnet81")
    assert "Unknown backbone 'resnet81'. Did you mean 'resnet18'? Available: auto, " in str(caught.value)
    assert "wide_resnet50_2" in str(caught.value)
    assert "an nn.Module; a factory" in str(caught.value)


def test_an_unknown_name_that_is_near_to_nothing_gets_no_guess():
    with pytest.raises(ValueError, match=r"Unknown backbone 'zzz'. Available: auto"):
        resolve_backbone("zzz")


def test_an_unknown_name_may_be_one_of_timms():
    with pytest.raises(ValueError) as error:
        resolve_backbone("resnet10t")
    assert str(error.value).endswith("A model of timm: backbone='timm:resnet10t'.")


def test_a_number_is_no_backbone():
    with pytest.raises(
        TypeError, match=r"backbone must be a name such as 'resnet18', an nn.Module, or .* got 18."
    ):
        resolve_backbone(18)


# ------------------------------------------------------------------ stems


@pytest.mark.parametrize(
    ("image_size", "stem"),
    [
        ((1, 40), "3x3"),
        ((31, 31), "3x3"),
        ((32, 32), "3x3-pool"),
        ((63, 63), "3x3-pool"),
        ((64, 64), "imagenet"),
        ((64, 63), "3x3-pool"),
        ((224, 224), "imagenet"),
    ],
)
def test_the_short_side_decides_the_stem(image_size, stem):
    assert auto_stem(image_size) == stem


@pytest.mark.parametrize(
    # the stem divides 32 px by 4, 1, 2, 2; the blocks divide by 8
    ("stem", "after_stem", "after_blocks"),
    [("imagenet", 8, 1), ("3x3", 32, 4), ("3x3-pool", 16, 2), ("3x3-stride2", 16, 2)],
)
def test_a_stem_shrinks_32_pixels_as_documented(stem, after_stem, after_blocks):
    module, feature_dim = build_backbone("resnet18", {"stem": stem}, **RGB_32)
    sides = {}
    for name in ("layer1", "layer4"):  # layer1 keeps the stem's size
        module.get_submodule(name).register_forward_hook(
            lambda layer, inputs, output, name=name: sides.update({name: output.shape[2:]})
        )
    with torch.no_grad():
        assert module(torch.zeros(2, 3, 32, 32)).shape == (2, feature_dim) == (2, 512)
    assert sides == {"layer1": (after_stem, after_stem), "layer4": (after_blocks, after_blocks)}


def test_auto_chooses_the_stem_by_the_image_size():
    small, _ = build_backbone("resnet18", {}, in_channels=3, image_size=(28, 28))
    large, _ = build_backbone("resnet18", {}, in_channels=3, image_size=(64, 64))
    assert (small.conv1.kernel_size, type(small.maxpool)) == ((3, 3), nn.Identity)
    assert (large.conv1.kernel_size, type(large.maxpool)) == ((7, 7), nn.MaxPool2d)


def test_the_imagenet_stem_is_torchvisions_own():
    ours, _ = build_backbone("resnet18", {"stem": "imagenet"}, **RGB_32)
    theirs = models.resnet18(weights=None)
    assert repr(ours.conv1) == repr(theirs.conv1)
    assert repr(ours.maxpool) == repr(theirs.maxpool)


@pytest.mark.parametrize("stem", STEMS)
def test_every_stem_takes_images_one_pixel_high(stem):
    _, feature_dim = build_backbone("resnet18", {"stem": stem}, in_channels=1, image_size=(1, 5))
    assert feature_dim == 512


def test_a_new_stem_is_drawn_as_torchvision_does():
    torch.manual_seed(0)
    module, _ = build_backbone("resnet18", {"stem": "3x3"}, in_channels=13, image_size=(8, 8))
    # kaiming, fan_out: sqrt(2 / (64 filters * 3 * 3)) = 0.0589; 7,488 weights: known to 1 %
    assert module.conv1.weight.std().item() == pytest.approx(0.0589, rel=0.04)


def test_an_unknown_stem_is_told_the_possible_ones():
    for stem in ("5x5", ["3x3"], None):
        with pytest.raises(ValueError) as error:
            build_backbone("resnet18", {"stem": stem}, **RGB_32)
        assert str(error.value) == (
            f"backbone__stem={stem!r}: give 'auto', 'imagenet', '3x3', '3x3-pool' or '3x3-stride2'."
        )


# ------------------------------------------------------------------ channels and sizes


@pytest.mark.parametrize("in_channels", [1, 3, 13])
def test_a_resnet_takes_any_number_of_channels(in_channels):
    module, feature_dim = build_backbone("resnet18", {}, in_channels=in_channels, image_size=(16, 24))
    assert module.conv1.weight.shape == (64, in_channels, 3, 3)
    assert module(torch.rand(2, in_channels, 16, 24)).shape == (2, feature_dim)


@pytest.mark.parametrize(
    ("name", "width"),
    [
        ("mobilenet_v3_small", 1024),
        ("shufflenet_v2_x0_5", 1024),
        ("squeezenet1_1", 512),  # its classifier is a convolution
        ("regnet_y_400mf", 440),
        ("mnasnet0_5", 1280),
    ],
)
@pytest.mark.parametrize("in_channels", [1, 3, 13])
def test_other_models_of_torchvision_take_any_number_of_channels(name, width, in_channels):
    module, feature_dim = build_backbone(name, {}, in_channels=in_channels, image_size=(32, 32))
    assert feature_dim == width
    assert module(torch.rand(2, in_channels, 32, 32)).shape == (2, width)


def test_auxiliary_classifiers_are_left_out():
    module, feature_dim = build_backbone("googlenet", {}, **RGB_32)
    assert feature_dim == 1024
    assert module.train()(torch.rand(2, 3, 32, 32)).shape == (2, 1024)


def test_the_classifiers_own_dropout_leaves_with_it():
    module, _ = build_backbone("mobilenet_v3_small", {}, **RGB_32)
    assert [type(layer) for layer in module.classifier] == [nn.Linear, nn.Hardswish, nn.Identity, nn.Identity]


def test_a_redrawn_first_convolution_keeps_the_scale_of_its_outputs():
    torch.manual_seed(0)
    rgb = build_backbone("squeezenet1_1", {}, **RGB_32)[0].features[0]
    wide = build_backbone("squeezenet1_1", {}, in_channels=12, image_size=(32, 32))[0].features[0]
    # 12 channels are 4 times 3: the same variance of a sum of 4 times as many terms needs half the std
    assert (wide.weight.std() / rgb.weight.std()).item() == pytest.approx(0.5, rel=0.05)
    assert wide.weight.shape == (64, 12, 3, 3)
    assert wide.weight.is_leaf
    assert wide.weight.requires_grad


def test_a_model_for_another_size_says_so_and_names_the_way_out():
    with pytest.raises(ValueError) as caught:
        build_backbone("vit_b_32", {}, **RGB_32)
    assert str(caught.value).startswith(
        "backbone 'vit_b_32' cannot take images of 3 x 32 x 32: Wrong image height! Expected 224 but got 32!"
    )
    assert "Backbones that take any size: resnet10, resnet18, " in str(caught.value)
    assert str(caught.value).endswith("; or set image_size=224.")


def test_a_model_that_shrinks_its_images_to_nothing_says_so():
    with pytest.raises(
        ValueError, match=r"backbone 'squeezenet1_1' cannot take images of 3 x 8 x 8: .*too small"
    ):
        build_backbone("squeezenet1_1", {}, in_channels=3, image_size=(8, 8))


@pytest.mark.parametrize(("name", "size", "side"), [("inception_v3", 64, 299), ("squeezenet1_1", 8, 224)])
def test_the_size_that_is_advised_is_that_of_torchvisions_weights(name, size, side):
    with pytest.raises(ValueError, match=rf"'{name}' cannot take images of 3 x {size} x .*_size={side}\.$"):
        build_backbone(name, {}, in_channels=3, image_size=(size, size))


def test_no_size_is_advised_that_fails_as_well():
    def sixteen(x):
        if x.shape[2] != 16:
            raise AssertionError
        return x.mean((2, 3))

    with pytest.raises(ValueError, match=r"32 x 32: AssertionError\. .*, wide_resnet101_2\.$"):
        build_backbone(Returns(sixteen), {}, **RGB_32)


def test_an_error_does_not_list_the_values_of_a_state_dict(resnet18_weights):
    def make(width, weights):
        raise AssertionError

    with pytest.raises(ValueError) as caught:
        build_backbone(make, {"width": 4, "weights": resnet18_weights}, **RGB_32)
    assert str(caught.value).endswith("make cannot be made with backbone__width=4: AssertionError")


def test_a_wrong_number_of_channels_is_reported_with_the_size():
    with pytest.raises(
        ValueError, match=r"backbone Tiny cannot take images of 1 x 8 x 8: .* 3 channels.*np\.repeat"
    ):
        build_backbone(Tiny(), {}, in_channels=1, image_size=(8, 8))


# ------------------------------------------------------------------ weights


def test_rgb_filters_are_summed_for_one_channel():
    rgb = torch.tensor([1.0, 2.0, 4.0]).reshape(1, 3, 1, 1)
    assert widen_filters(rgb, 1).flatten().tolist() == [7.0]


def test_rgb_filters_are_repeated_and_scaled_for_other_channels():
    rgb = torch.tensor([1.0, 2.0, 4.0]).reshape(1, 3, 1, 1)
    assert widen_filters(rgb, 2).flatten().tolist() == [1.5, 3.0]  # R, G times 3/2
    assert widen_filters(rgb, 4).flatten().tolist() == [0.75, 1.5, 3.0, 0.75]  # R, G, B, R times 3/4
    assert widen_filters(rgb, 6).sum() == rgb.sum()  # whole turns: a constant image gives the same


# ------------------------------------------------------------------ small ResNets


@pytest.mark.parametrize(("name", "blocks"), [("resnet10", 1), ("resnet18", 2)])
def test_a_narrow_resnet_has_torchvisions_layers_at_another_width(name, blocks):
    module, feature_dim = build_backbone(name, {"width": 16, "stem": "imagenet"}, **RGB_32)
    assert feature_dim == 128
    torchvisions = models.ResNet(models.resnet.BasicBlock, [blocks] * 4).eval()
    assert list(module.state_dict()) == list(headless(torchvisions.state_dict()))
    for name, theirs in headless(torchvisions.state_dict()).items():
        assert module.state_dict()[name].shape[2:] == theirs.shape[2:], name
    assert module.layer4[0].conv1.weight.shape == (128, 64, 3, 3)


def test_resnet10_at_its_own_width_is_torchvisions_resnet_with_one_block_in_each_stage():
    ours, _ = build_backbone("resnet10", {"stem": "imagenet"}, **RGB_32)
    theirs = models.ResNet(models.resnet.BasicBlock, [1, 1, 1, 1]).eval()
    theirs.fc = nn.Identity()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(x), theirs(x))
    fresh = models.ResNet(models.resnet.BasicBlock, [1, 1, 1, 1]).state_dict()
    for name, value in ours.named_parameters():
        assert float(value.detach().std(correction=0)) == pytest.approx(
            float(fresh[name].std(correction=0)), rel=0.05, abs=1e-6
        )


def test_widths_that_a_resnet_cannot_have_are_refused():
    with pytest.raises(ValueError, match="backbone__width=0"):
        build_backbone("resnet10", {"width": 0}, **RGB_32)
    with pytest.raises(ValueError, match="backbone__width=32: resnet50 has one width only"):
        build_backbone("resnet50", {"width": 32}, **RGB_32)


def test_weights_of_a_small_resnet_come_from_a_state_dict_only():
    state = build_backbone("resnet10", {}, **RGB_32)[0].state_dict()
    module, _ = build_backbone("resnet10", {"weights": state, "stem": "3x3-pool"}, **RGB_32)
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
    with pytest.raises(ValueError, match="none of this model"):
        build_backbone("resnet10", {"weights": "IMAGENET1K_V1"}, **RGB_32)


def test_weights_from_a_file_give_the_features_that_were_saved(tmp_path, resnet18_weights):
    torch.save(resnet18_weights, tmp_path / "resnet18.pt")
    module, _ = build_backbone(
        "resnet18", {"weights": tmp_path / "resnet18.pt"}, in_channels=3, image_size=(32, 32)
    )
    theirs = models.resnet18(weights=None)
    theirs.load_state_dict(resnet18_weights)
    theirs.fc = nn.Identity()
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(module.eval()(images), theirs.eval()(images))


def test_weights_may_lack_the_classifier_and_have_a_prefix(resnet18_weights):
    for state in (
        {f"module.{key}": value for key, value in resnet18_weights.items()},
        {f"backbone.{key}": value for key, value in headless(resnet18_weights).items()},
        {f"encoder_.{key}": value for key, value in headless(resnet18_weights).items()},
    ):
        module, _ = build_backbone("resnet18", {"weights": state}, **RGB_32)
        assert torch.equal(module.layer4[1].conv2.weight, resnet18_weights["layer4.1.conv2.weight"])
        assert set(module.state_dict()) == set(headless(resnet18_weights))


def test_old_files_without_batch_counters_load(resnet18_weights):
    old = {key: value for key, value in resnet18_weights.items() if not key.endswith("num_batches_tracked")}
    module, _ = build_backbone("resnet18", {"weights": old}, **RGB_32)
    assert torch.equal(module.conv1.weight, resnet18_weights["conv1.weight"])


def test_the_users_state_dict_is_neither_changed_nor_shared(resnet18_weights):
    before = copy.deepcopy(resnet18_weights)
    module, _ = build_backbone("resnet18", {"weights": resnet18_weights}, in_channels=1, image_size=(32, 32))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1.0)
    assert list(resnet18_weights) == list(before)
    assert all(torch.equal(resnet18_weights[key], before[key]) for key in before)


def test_a_gray_image_gives_the_features_of_its_rgb_copy(resnet18_weights):
    rgb, _ = build_backbone("resnet18", {"weights": resnet18_weights}, **RGB_32)
    gray, _ = build_backbone("resnet18", {"weights": resnet18_weights}, in_channels=1, image_size=(32, 32))
    image = torch.rand(2, 1, 32, 32)
    torch.testing.assert_close(
        gray.eval()(image), rgb.eval()(image.expand(2, 3, 32, 32)), rtol=1e-4, atol=1e-4
    )


def test_auto_takes_the_stem_that_fits_the_weights(resnet18_weights, small_stem_weights):
    tiny_images = {"in_channels": 3, "image_size": (16, 16)}
    large_images = {"in_channels": 3, "image_size": (96, 96)}
    imagenet, _ = build_backbone("resnet18", {"weights": resnet18_weights}, **tiny_images)
    small, _ = build_backbone("resnet18", {"weights": small_stem_weights}, **large_images)
    assert (imagenet.conv1.kernel_size, type(imagenet.maxpool)) == ((7, 7), nn.MaxPool2d)
    assert (small.conv1.kernel_size, small.conv1.stride, type(small.maxpool)) == ((3, 3), (1, 1), nn.Identity)


def test_a_stem_that_does_not_fit_the_weights_is_refused(resnet18_weights):
    with pytest.raises(
        ValueError, match=r"backbone__stem='3x3' begins with a 3x3 convolution, but .* a 7x7 one. Leave"
    ):
        build_backbone("resnet18", {"stem": "3x3", "weights": resnet18_weights}, **RGB_32)


def test_weights_of_another_backbone_are_refused_with_five_names(resnet18_weights):
    with pytest.raises(ValueError) as caught:
        build_backbone("resnet34", {"weights": resnet18_weights}, **RGB_32)
    # 8 more blocks of 2 convolutions (1 name) and 2 BatchNorms (4 names, counters aside): 8 * 2 * 5
    assert "backbone__weights do not fit resnet34; 80 missing: layer1.2.conv1.weight, " in str(caught.value)
    assert str(caught.value).count("layer1.2.") == 5
    assert "Give weights of a resnet34" in str(caught.value)


def test_unexpected_and_misshapen_weights_are_named(resnet18_weights):
    state = {**resnet18_weights, "layer5.weight": torch.zeros(1), "bn1.weight": torch.zeros(7)}
    with pytest.raises(ValueError) as caught:
        build_backbone("resnet18", {"weights": state}, **RGB_32)
    assert "1 unexpected: layer5.weight; 1 of another shape: bn1.weight (7,) instead of (64,)." in str(
        caught.value
    )


def test_weights_for_13_channels_do_not_fit_5(resnet18_weights):
    state = {**resnet18_weights, "conv1.weight": torch.zeros(64, 13, 7, 7)}
    with pytest.raises(ValueError, match=r"conv1.weight \(64, 13, 7, 7\) instead of \(64, 5, 7, 7\)"):
        build_backbone("resnet18", {"weights": state}, in_channels=5, image_size=(32, 32))


def test_weights_of_other_models_load_without_their_classifier():
    torch.manual_seed(0)
    theirs = models.mobilenet_v3_small(weights=None)
    module, _ = build_backbone("mobilenet_v3_small", {"weights": theirs.state_dict()}, **RGB_32)
    theirs.classifier[3] = nn.Identity()
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(module.eval()(images), theirs.eval()(images))


@pytest.mark.parametrize("name", ["IMAGENET1K_V1", "DEFAULT", "ResNet18_Weights.IMAGENET1K_V1"])
def test_torchvisions_weights_are_known_by_name(name, tmp_path, monkeypatch, resnet18_weights):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))  # torch's own cache, already filled: no download
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(resnet18_weights, tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth")
    assert torch.equal(read_weights("resnet18", name)["conv1.weight"], resnet18_weights["conv1.weight"])


def test_weights_that_are_neither_file_nor_name_are_told_what_is_possible():
    with pytest.raises(ValueError) as caught:
        build_backbone("resnet18", {"weights": "IMAGENET"}, **RGB_32)
    assert "backbone__weights='IMAGENET' cannot be used for resnet18. Possible: a state dict" in str(
        caught.value
    )
    assert "weights of torchvision: IMAGENET1K_V1, DEFAULT." in str(caught.value)


def test_torchvisions_weights_of_another_model_are_refused_before_any_download():
    with pytest.raises(ValueError, match=r"ResNet50_Weights.IMAGENET1K_V2 cannot be used for resnet18"):
        read_weights("resnet18", models.ResNet50_Weights.IMAGENET1K_V2)


def test_a_checkpoint_around_the_state_dict_is_told_its_entries(tmp_path, resnet18_weights):
    torch.save({"epoch": 3, "state_dict": resnet18_weights}, tmp_path / "checkpoint.pt")
    with pytest.raises(
        ValueError, match=r"must be a state dict: .* the entries epoch, state_dict. Give the one of them"
    ):
        read_weights("resnet18", tmp_path / "checkpoint.pt")


def test_a_file_that_is_no_state_dict_says_how_to_write_one(tmp_path):
    (tmp_path / "notes.txt").write_text("no weights here")
    with pytest.raises(
        ValueError, match=r"notes.txt' cannot be read .*torch.save\(module.state_dict\(\), path\)"
    ):
        read_weights("resnet18", tmp_path / "notes.txt")


# ------------------------------------------------------------------ the user's own


def test_a_module_is_copied_and_keeps_its_weights():
    tiny = Tiny()
    module, feature_dim = build_backbone(tiny, {}, **RGB_32)
    assert feature_dim == 5
    assert module is not tiny
    assert torch.equal(module.conv.weight, tiny.conv.weight)
    with torch.no_grad():
        module.conv.weight.zero_()
    assert tiny.conv.weight.abs().sum() > 0


def test_a_module_takes_no_parameters():
    with pytest.raises(
        ValueError, match=r"backbone is an instance of Tiny, .* got backbone__width. Pass the class"
    ):
        build_backbone(Tiny(), {"width": 7}, **RGB_32)


def test_a_factory_is_given_its_parameters_and_the_sizes_it_asks_for():
    asked = {}

    def factory(*, in_channels, image_size, width=5):
        asked.update(in_channels=in_channels, image_size=image_size)
        return Tiny(in_channels, width)

    _, feature_dim = build_backbone(factory, {"width": 7}, in_channels=2, image_size=(8, 9))
    assert feature_dim == 7
    assert asked == {"in_channels": 2, "image_size": (8, 9)}


def test_a_class_is_a_factory_and_a_parameter_of_the_user_goes_first():
    module, feature_dim = build_backbone(Tiny, {"width": 7}, in_channels=2, image_size=(8, 8))
    assert (module.conv.in_channels, feature_dim) == (2, 7)
    with pytest.raises(ValueError, match=r"backbone Tiny cannot take images of 2 x 8 x 8"):
        build_backbone(Tiny, {"in_channels": 4}, in_channels=2, image_size=(8, 8))


def test_a_factory_must_return_a_module():
    def factory():
        return [Tiny()]

    with pytest.raises(TypeError, match=r"factory returned a list; it must return an nn.Module"):
        build_backbone(factory, {}, **RGB_32)


@pytest.mark.parametrize(
    ("factory", "params", "words"),
    [
        (nn.Linear, {}, "backbone Linear cannot be made: .*missing 2 required positional arguments"),
        (dict, {}, "backbone dict cannot be made: no signature"),
        (Tiny, {"width": -1}, "backbone Tiny cannot be made with backbone__width=-1: .*negative"),
        ("vit", {"width": 10**12}, r"backbone 'vit' cannot be made with backbone__width=1000000000000: "),
    ],
)
def test_what_a_factory_cannot_make_is_named_with_its_parameters(factory, params, words):
    with pytest.raises(ValueError, match=words):
        build_backbone(factory, params, **RGB_32)


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_a_scripted_module_is_refused():
    with pytest.raises(ValueError, match="backbone is a scripted module, which cannot be copied"):
        build_backbone(torch.jit.script(Tiny()), {}, **RGB_32)


class Classifies(nn.Module):
    """Backbone like those of timm and torchvision, with a classifier under one of the usual names."""

    def __init__(self, name, classes=10):
        super().__init__()
        self.features = Tiny()
        self.name = name
        setattr(self, name, nn.Linear(5, classes))

    def forward(self, x):
        return getattr(self, self.name)(self.features(x))


@pytest.mark.parametrize("name", ["fc", "head", "classifier"])
def test_a_classifier_that_was_left_on_is_named_with_the_way_out(name):
    with pytest.warns(UserWarning, match="classifier") as caught:
        assert build_backbone(Classifies(name), {}, **RGB_32)[1] == 10
    assert str(caught[0].message) == (
        f"The backbone Classifies ends in the layer '{name}', from 5 to 10 features, which looks like a "
        f"classifier, and embeddings would be its outputs. If it is one, take it off: module.{name} = "
        f"nn.Identity(), or num_classes=0 for a model of timm."
    )
    without = Classifies(name)
    setattr(without, name, nn.Identity())
    assert build_backbone(without, {}, **RGB_32)[1] == 5


@pytest.mark.parametrize(
    ("factory", "name"),
    [
        (models.resnet18, "fc"),
        (models.mobilenet_v3_small, r"classifier\.3"),
        (models.squeezenet1_1, r"classifier\.1"),
        (functools.partial(models.vit_b_32, image_size=32), r"heads\.head"),
    ],
)
def test_torchvisions_models_as_they_come_end_in_a_classifier(factory, name):
    with pytest.warns(UserWarning, match=rf"ends in the layer '{name}', from \d+ to 1000 features"):
        build_backbone(factory(), {}, **RGB_32)


def test_a_projection_under_another_name_is_a_backbone_like_others():
    build_backbone(Classifies("projection"), {}, **RGB_32)
    build_backbone(nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 7)), {}, **RGB_32)


def test_lazy_layers_get_their_sizes():
    module, feature_dim = build_backbone(lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(6)), {}, **RGB_32)
    assert feature_dim == 6
    assert module[1].weight.shape == (6, 3 * 32 * 32)


def test_feature_maps_are_averaged_over_space():
    module, feature_dim = build_backbone(nn.Identity(), {}, in_channels=3, image_size=(1, 2))
    assert feature_dim == 3
    image = torch.tensor([1.0, 3.0, 10.0, 20.0, 5.0, 5.0]).reshape(1, 3, 1, 2)
    assert module(image).tolist() == [[2.0, 15.0, 5.0]]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda x: x.flatten(2),
            r"it returned a tensor of shape \(2, 3, 1024\) for two images. .* the mean of the tokens",
        ),
        (lambda x: {"features": x, "mask": x}, "it returned a dict with the entries features, mask. Wrap it"),
        (lambda x: (x, x), "it returned a tuple. Wrap it"),
        (lambda x: x.flatten(1)[:1], r"it returned a tensor of shape \(1, 3072\) for two images"),
    ],
)
def test_what_is_not_one_feature_vector_an_image_is_refused(make, words):
    with pytest.raises(ValueError, match=r"backbone Returns must return one tensor: .*" + words):
        build_backbone(Returns(make), {}, **RGB_32)


def test_the_dry_run_leaves_statistics_and_modes_as_they_were():
    tiny = Tiny()
    with torch.no_grad():
        tiny.norm.running_mean.fill_(0.25)
    tiny.conv.eval()
    module, _ = build_backbone(tiny, {}, **RGB_32)
    assert module.norm.running_mean.tolist() == [0.25] * 5
    assert module.norm.num_batches_tracked == 0
    assert (module.training, module.conv.training, module.norm.training) == (True, False, True)


def test_a_failed_dry_run_leaves_a_factorys_module_in_its_mode():
    tiny = Tiny()
    with pytest.raises(ValueError, match=r"cannot take images"):
        build_backbone(lambda: tiny, {}, in_channels=1, image_size=(8, 8))
    assert tiny.training
