"""Models as files without code: safetensors, ONNX, skops, and weights in other programs."""

import functools
import os
import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
import torchvision
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from skorch.callbacks import Callback
from torch import nn
from torch.profiler import profile

import sklearn_ssl
from sklearn_ssl import Reader, SSLImageEmbedder
from sklearn_ssl._images.pixel_scale import PixelScale
from sklearn_ssl._images.units import Units
from sklearn_ssl._models import container as archive
from sklearn_ssl._models import model_file as saving
from sklearn_ssl._networks import backbones
from sklearn_ssl._networks.inference import make_encoder
from sklearn_ssl.losses import NTXent


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


@pytest.fixture
def named(embedder):
    """Make an estimator whose backbone is given by name."""
    return functools.partial(embedder, backbone="resnet18", backbone__stem="imagenet")


def round_trip(fitted, path, **params):
    fitted.save(path)
    return sklearn_ssl.load(path, **params)


# ------------------------------------------------------------------ one file


def test_what_is_loaded_embeds_bit_for_bit(named, images, path):
    fitted = named(loss="vicreg").fit(images)
    again = round_trip(fitted, path)
    np.testing.assert_array_equal(again.transform(images), fitted.transform(images))


def test_parameters_and_fitted_attributes_are_the_same(named, images, path):
    fitted = named(loss__temperature=0.1, projector=(8, 4), image_size=(8, 8), device=torch.device("cpu"))
    again = round_trip(fitted.fit(images), path)
    assert again.get_params() == fitted.set_params(device="cpu").get_params()
    for name, value in vars(fitted).items():
        if name.endswith("_") and name != "encoder_":
            assert getattr(again, name) == value, name
    np.testing.assert_array_equal(again.get_feature_names_out(), fitted.get_feature_names_out())
    assert not again.encoder_.training


def test_names_of_columns_are_kept(named, images, path):
    frame = pd.DataFrame(images.reshape(12, -1)).add_prefix("pixel")
    fitted = named(image_shape=(8, 8, 3)).fit(frame)
    again = round_trip(fitted, path)
    np.testing.assert_array_equal(again.feature_names_in_, frame.columns)
    np.testing.assert_array_equal(again.transform(frame), fitted.transform(frame))


def test_it_can_be_fitted_again(named, images, path):
    fitted = named().fit(images)
    again = round_trip(fitted, path).fit(images)
    np.testing.assert_array_equal(again.transform(images), fitted.transform(images))


def test_floats_and_files_keep_their_scale(named, images, path, save_images):
    for X in (images / 7.0, list(save_images(images))):
        fitted = named().fit(X)
        np.testing.assert_array_equal(round_trip(fitted, path).transform(X), fitted.transform(X))


def test_a_file_is_as_large_as_the_encoder(named, images, path):
    fitted = named(warm_start=True).fit(images)
    fitted.save(path)
    weights = sum(tensor.nbytes for tensor in fitted.encoder_.state_dict().values())
    assert weights < path.stat().st_size < weights + 50_000


def test_weights_trained_further_are_what_is_saved(named, images, path):
    fitted = named().fit(images)
    with torch.no_grad():
        fitted.encoder_.backbone.conv1.weight.mul_(1.1)
    np.testing.assert_array_equal(round_trip(fitted, path).transform(images), fitted.transform(images))


def test_a_pretrained_start_is_not_needed_again(named, images, path, tmp_path):
    start = torchvision.models.resnet18().state_dict()
    torch.save(start, tmp_path / "start.pt")
    for weights in (start, str(tmp_path / "start.pt")):
        fitted = named(backbone__stem="auto", backbone__weights=weights).fit(images)
        fitted.save(path)
        assert path.stat().st_size < 50e6  # the weights once
        with pytest.warns(UserWarning, match=r"cannot store backbone__weights="):
            again = sklearn_ssl.load(path)
        assert again.backbone_params == {"stem": "imagenet"}
        np.testing.assert_array_equal(again.transform(images), fitted.transform(images))


# ------------------------------------------------------------------ what a file cannot hold


def test_the_users_own_backbone_is_given_again(embedder, images, path, tiny):
    fitted = embedder().fit(images)
    fitted.save(path)
    with pytest.raises(ValueError, match=r"backbone of .*model\.safetensors was Tiny, .* load\(path, backb"):
        sklearn_ssl.load(path)
    for backbone in (tiny, tiny(3)):
        again = sklearn_ssl.load(path, backbone=backbone)
        np.testing.assert_array_equal(again.transform(images), fitted.transform(images))
        assert again.get_params()["backbone"] is backbone


def test_another_backbone_does_not_fit(embedder, images, path, tiny):
    embedder().fit(images).save(path)
    with pytest.raises(
        ValueError, match=r"(?s)The backbone does not match the stored weights: .*size mismatch"
    ):
        sklearn_ssl.load(path, backbone=functools.partial(tiny, width=9))


def test_a_backbone_that_the_file_knows_is_not_given(named, images, path, tiny):
    named().fit(images).save(path)
    with pytest.raises(ValueError, match="contains the backbone 'resnet18': omit backbone="):
        sklearn_ssl.load(path, backbone=tiny)


def test_objects_are_left_out_and_named(named, images, path):
    fitted = named(loss=NTXent, augment=lambda images, generator: images, callbacks=[]).fit(images)
    fitted.save(path)
    with pytest.warns(
        UserWarning, match=r"cannot store augment=.*, loss=NTXent: set it again before another"
    ):
        again = sklearn_ssl.load(path)
    assert again.loss == "ntxent"  # the default
    np.testing.assert_array_equal(again.transform(images), fitted.transform(images))


def test_other_layers_cannot_be_saved(named, images, path):
    fitted = named().fit(images)
    fitted.encoder_.backbone.layer4 = nn.Identity()
    with pytest.raises(ValueError, match=r"no longer those of backbone='resnet18'.* torch\.save\("):
        fitted.save(path)
    np.testing.assert_array_equal(
        pickle.loads(pickle.dumps(fitted)).transform(images), fitted.transform(images)
    )


def test_a_layer_with_another_setting_cannot_be_saved_but_is_pickled(named, images, path):
    fitted = named().fit(images)
    fitted.encoder_.backbone.relu.forward = torch.tanh  # its repr is still that of a ReLU
    with pytest.raises(ValueError, match=r"no longer those of backbone='resnet18'"):
        fitted.save(path)
    assert pickle.loads(pickle.dumps(fitted)).encoder_.backbone.relu.forward is torch.tanh


def test_the_plugin_of_the_loss_need_not_be_there(named, images, path, monkeypatch):
    monkeypatch.setitem(sklearn_ssl.losses._registry._registered, "of_a_plugin", NTXent)
    fitted = named(loss="of_a_plugin", loss__temperature=0.3).fit(images)
    expected = fitted.transform(images)
    fitted.save(path)
    monkeypatch.undo()
    again = sklearn_ssl.load(path)
    np.testing.assert_array_equal(again.transform(images), expected)
    assert again.loss_params == {"temperature": 0.3}
    assert "of_a_plugin" in repr(again)
    with pytest.raises(ValueError, match="Unknown loss 'of_a_plugin'"):
        again.fit(images)


def test_only_a_fitted_one_can_be_saved(named, path):
    with pytest.raises(NotFittedError):
        named().save(path)


# ------------------------------------------------------------------ the format


def test_any_safetensors_reader_finds_the_encoders_weights_under_their_names(named, images, path):
    fitted = named().fit(images)
    fitted.save(path)
    weights = safetensors.torch.load_file(path)
    expected = fitted.encoder_.state_dict()
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_a_reader_is_saved_by_its_settings_without_its_paths(named, images, path):
    reader = Reader(on_error="skip", cache=path.parent / "secret", workers=2)
    named(reader=reader, reader__workers=1).fit(images).save(path)
    assert b"secret" not in path.read_bytes()
    again = sklearn_ssl.load(path)
    assert again.reader is None
    assert again.reader_params == {"on_error": "skip", "workers": 1}


def test_a_parameter_of_a_later_version_is_named(named, images, path, monkeypatch):
    fitted = named().fit(images)
    later = {**fitted.get_params(deep=False), "telepathy": True}
    monkeypatch.setattr(fitted, "get_params", lambda deep=True: later)
    fitted.save(path)
    with pytest.raises(ValueError, match=r"parameters \['telepathy'\] this version does not have"):
        sklearn_ssl.load(path)


def test_no_changed_file_embeds_otherwise(embedder, images, path, tiny):
    fitted = embedder().fit(images)
    fitted.save(path)
    whole, expected = path.read_bytes(), fitted.transform(images)
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(200):
        path.write_bytes(mutated(whole, rng))
        try:
            again = sklearn_ssl.load(path, backbone=tiny)
        except ValueError:
            refused += 1
        else:
            np.testing.assert_array_equal(again.transform(images), expected)
    assert refused > 150


def mutated(whole, rng):
    """Flip some bits, cut out a part, or truncate the file."""
    kind, at = rng.integers(3), int(rng.integers(len(whole)))
    if kind == 0:
        changed = bytearray(whole)
        for position in rng.integers(len(whole), size=rng.integers(1, 4)):
            changed[position] ^= 1 << rng.integers(8)
        return bytes(changed)
    return whole[:at] if kind == 1 else whole[:at] + whole[at + int(rng.integers(1, 50)) :]


def test_what_only_concerns_a_machine_stays_there_and_is_not_taken_from_a_file(
    named, images, path, tmp_path, monkeypatch
):
    reader = {"cache": tmp_path / "c", "cache_limit": 1, "background": "black"}
    fitted = named(reader_params=reader, checkpoint=tmp_path / "runs").fit(images)
    again = round_trip(fitted, path)
    assert again.reader_params == {"background": "black"}
    assert again.checkpoint is None
    monkeypatch.setattr(saving, "MACHINE_PATH_PARAMS", ())  # a stranger's file
    fitted.set_params(checkpoint="/etc", reader__cache="/etc").save(path)
    monkeypatch.undo()
    again = sklearn_ssl.load(path)
    assert again.reader_params == {"background": "black"}
    assert again.checkpoint is None


def test_a_reader_of_ones_own_is_named_and_its_other_settings_stay(named, images, path):
    named(reader__read=np.load, reader__on_error="skip").fit(images).save(path)
    with pytest.warns(
        UserWarning, match=r"cannot store reader__read=load: set it again before reading files"
    ):
        again = sklearn_ssl.load(path)
    assert again.reader_params == {"on_error": "skip"}


def test_numbers_of_numpy_and_what_callbacks_note(named, images, path):
    class Notes(Callback):
        def on_epoch_end(self, net, **kwargs):
            net.history.record("score", np.float64(0.5))
            net.history.record("figure", object())

    fitted = named(lr=np.float64(0.01), batch_size=np.int64(6), callbacks=[Notes()]).fit(images)
    fitted.save(path)
    with pytest.warns(UserWarning, match="cannot store callbacks"):
        again = sklearn_ssl.load(path)
    assert again.lr_ == 0.01
    assert again.history_[0]["score"] == 0.5


def test_a_network_that_looks_at_the_version_of_its_weights(embedder, images, path, tmp_path, draw_images):
    images = draw_images(12, (32, 32, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of one step
        fitted = embedder(backbone="mnasnet0_5", checkpoint=tmp_path / "runs").fit(images)
        expected = fitted.transform(images)
        np.testing.assert_array_equal(round_trip(fitted, path).transform(images), expected)
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(fitted)).transform(images), expected)
        with pytest.warns(UserWarning, match="is taken from"):
            again = embedder(backbone="mnasnet0_5", checkpoint=tmp_path / "runs").fit(images)
        np.testing.assert_array_equal(again.transform(images), expected)


# ------------------------------------------------------------------ files of strangers


@pytest.fixture(scope="module")
def of_a_stranger(tmp_path_factory):
    """Write the model of one fit with changed content and a valid checksum."""
    folder = tmp_path_factory.mktemp("models")
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    small = {"patch": 4, "width": 8, "depth": 1, "heads": 1}
    made = SSLImageEmbedder(
        backbone="vit", backbone_params=small, projector=(4,), max_epochs=1, batch_size=8, random_state=0
    )
    made.fit(images).save(folder / "good")

    def write(change):
        content = archive.read_archive(folder / "good", saving.KIND)
        change(content["params"], content["fitted"], content)
        archive.write_archive(folder / "changed", saving.KIND, content)
        return folder / "changed"

    return write


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("checkpoint", "/etc"),
        ("callbacks", ["x"]),
        ("transform", "x"),
        ("_kept_network", "x"),
        ("_training_state", {}),
        ("__class__", "x"),
        ("reader_params", {"cache": "/etc"}),
        ("backbone_params", {"weights": "/etc/passwd"}),
        ("loss", "x"),
    ],
)
def test_a_file_sets_nothing_but_what_a_fit_leaves(of_a_stranger, name, value):
    good = sklearn_ssl.load(of_a_stranger(lambda params, fitted, content: None))
    again = sklearn_ssl.load(of_a_stranger(lambda params, fitted, content: fitted.update({name: value})))
    assert vars(again).keys() == vars(good).keys()
    assert again.get_params() == good.get_params()


def test_no_place_is_taken_from_a_file(of_a_stranger):
    def change(params, fitted, content):
        params |= {
            "checkpoint": "/etc",
            "callbacks": ["x"],
            "reader_params": {"cache": "/etc", "on_error": "skip"},
        }
        params["backbone_params"]["weights"] = "IMAGENET1K_V1"

    again = sklearn_ssl.load(of_a_stranger(change))
    assert again.checkpoint is None
    assert again.callbacks is None
    assert again.reader_params == {"on_error": "skip"}
    assert "weights" not in again.backbone_params


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("params",), None),
        (("params", "backbone_params"), 5),
        (("fitted",), [1]),
        (("left_out",), {"loss": 1}),
        (("version",), 1),
        (("fitted", "_pixels"), {}),
        (("fitted", "_images", "dtype"), "load"),
        (("fitted", "_images", "shape"), (8, 8)),
        (("fitted", "_images", "size"), (8, 0)),
        (("fitted", "_images", "size"), (10**5, 10**5)),
        (("fitted", "device_"), "nowhere"),
        (("fitted", "_n_features_out"), 10**12),
        (("fitted", "history_"), [1]),
        (("fitted", "_encoder_weights"), {"a": 1}),
        (("fitted", "n_iter_"), "1"),
    ],
)
def test_a_file_whose_content_has_another_form_is_refused(of_a_stranger, place, value):
    def change(params, fitted, content):
        inner = content
        for name in place[:-1]:
            inner = inner[name]
        inner[place[-1]] = value

    with pytest.raises(
        ValueError, match=f"is not a file of sklearn_ssl, or it is damaged: content/{'/'.join(place)}"
    ):
        sklearn_ssl.load(of_a_stranger(change))


@pytest.mark.parametrize("name", ["_encoder_weights", "_n_features_out", "_images", "lr_", "history_"])
def test_a_file_that_lacks_a_part_is_refused(of_a_stranger, name):
    with pytest.raises(ValueError, match=f"content/fitted/{name} is missing"):
        sklearn_ssl.load(of_a_stranger(lambda params, fitted, content: fitted.pop(name)))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        (
            "backbone.encoder.ln.weight",
            lambda fitted: fitted["_encoder_weights"]["backbone.encoder.ln.weight"].fill_(np.nan),
        ),
        ("std", lambda fitted: fitted["_pixels"].update(std=[0.0, 1.0, 1.0])),
        ("span", lambda fitted: fitted["_pixels"].update(span=[1.0] * 5)),
        ("pixels.std", lambda fitted: fitted["_encoder_weights"]["pixels.std"].zero_()),
        ("backbone_", lambda fitted: fitted.pop("backbone_")),
    ],
)
def test_values_that_make_no_model_are_refused(of_a_stranger, name, change):
    with pytest.raises(ValueError, match=f"is not a usable model: its {name} is invalid"):
        sklearn_ssl.load(of_a_stranger(lambda params, fitted, content: change(fitted)))


@pytest.mark.parametrize(
    ("backbone", "params", "words"),
    [
        ("regnet_y_128gf", {}, "size mismatch"),  # 2.5 GB
        ("vit_h_14", {}, "size mismatch"),
        ("vit", {"width": 2**20}, "size mismatch"),
        ("vit", {"width": 2**60}, "backbone 'vit' cannot be made with backbone__"),
        ("vit", {"depth": 10**9}, "its backbone__depth is invalid"),
        ("vit", {"telepathy": 1}, "backbone 'vit' cannot be made with backbone__"),
        ("os.system", {}, "Unknown backbone 'os.system'"),
    ],
)
def test_a_small_file_takes_little_memory_whatever_network_it_names(of_a_stranger, backbone, params, words):
    def change(content_params, fitted, content):
        content_params["backbone_params"] = params
        fitted |= {"backbone_": backbone, "image_size_": (1000, 1000)}

    path = of_a_stranger(change)
    with profile(profile_memory=True) as seen, pytest.raises(ValueError, match=words):
        sklearn_ssl.load(path)
    assert allocated(seen) < 2**23


def test_large_images_take_no_memory_before_they_are_there(embedder, images, path, tiny):
    """A dry run of 2 images of 9,000 x 9,000 pixels would take 2 GB for each layer of one channel."""
    embedder().fit(images).save(path)
    content = archive.read_archive(path, saving.KIND)
    content["fitted"]["image_size_"] = (9000, 9000)
    archive.write_archive(path, saving.KIND, content)
    with profile(profile_memory=True) as seen:
        sklearn_ssl.load(path, backbone=tiny)
    assert allocated(seen) < 2**23


def allocated(seen):
    """Return the number of bytes allocated for tensors, without subtracting what is freed."""
    return sum(max(0, event.self_cpu_memory_usage) for event in seen.events())


@pytest.mark.parametrize("name", ["regnet_x_400mf", "swin_t", "efficientnet_b0", "vit_b_16"])
def test_a_network_made_without_memory_gets_all_of_it(name):
    """All values of such a network are in its weights; others would be uninitialized."""
    made = backbones.make_backbone(name, {}, 3, (224, 224))
    assert {name for name, _ in made.named_buffers()} <= made.state_dict().keys()
    state = {"backbone_": name, "image_shape_": (224, 224, 3), "image_size_": (224, 224), "_pixels": scale(3)}
    weights = make_encoder(scale(3), made).state_dict()
    again = saving._with_weights(saving._new_encoder(state, weights), weights)
    assert all(torch.equal(again.state_dict()[name], weights[name]) for name in weights)
    assert not any(value.is_meta for value in again.state_dict().values())


def scale(channels):
    return PixelScale(*torch.ones(4, channels), bounded=True, units=Units(0, 1, 0.5, 0, False, False))


def test_text_of_a_file_does_not_steer_the_terminal(of_a_stranger):
    path = of_a_stranger(lambda params, fitted, content: content["left_out"].update(loss="\x1b[2Jgone"))
    with pytest.warns(UserWarning, match=r"cannot store loss=\\x1b\[2Jgone: set it again"):
        sklearn_ssl.load(path)


# ------------------------------------------------------------------ places of files


def test_a_link_goes_on_to_lead_to_the_model_which_stays_private(embedder, images, path, tmp_path, tiny):
    path.touch(mode=0o600)
    (tmp_path / "latest").symlink_to(path)
    fitted = embedder().fit(images)
    fitted.save(tmp_path / "latest")
    assert (tmp_path / "latest").is_symlink()
    assert path.stat().st_mode & 0o777 == 0o600
    np.testing.assert_array_equal(
        sklearn_ssl.load(path, backbone=tiny).transform(images), fitted.transform(images)
    )
    assert sorted(each.name for each in tmp_path.iterdir()) == ["latest", "model.safetensors"]


@pytest.mark.parametrize("method", ["save", "to_onnx", "load"])
def test_errors_about_places_name_the_parameter(embedder, images, tmp_path, monkeypatch, method):
    act = sklearn_ssl.load if method == "load" else getattr(embedder().fit(images), method)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileNotFoundError, match=r"path='.*none/model': No such file or directory"):
        act(tmp_path / "none" / "model")
    with pytest.raises(IsADirectoryError, match=r"path='.*': .* is a folder; give the path of a file"):
        act(tmp_path)
    with pytest.raises(
        OSError, match=r"path='.*pipe': .*pipe is a pipe or a device; give the path of a file"
    ):
        act(tmp_path / "pipe")
    with pytest.raises(ValueError, match=r"path='' is not a path\. Give a str or a pathlib\.Path"):
        act("")


def test_the_home_folder(embedder, images, tmp_path, tiny, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    embedder().fit(images).save("~/model")
    assert (tmp_path / "model").is_file()
    sklearn_ssl.load("~/model", backbone=tiny)


# ------------------------------------------------------------------ skops, torchvision


def test_a_pipeline_goes_through_skops(named, images, labels):
    skops = pytest.importorskip("skops.io")
    pipe = make_pipeline(named(loss="vicreg"), LogisticRegression(max_iter=1000)).fit(images, labels)
    dumped = skops.dumps(pipe)
    assert skops.get_untrusted_types(data=dumped) == ["sklearn_ssl._embedder.SSLImageEmbedder"]
    again = skops.loads(dumped, trusted=["sklearn_ssl._embedder.SSLImageEmbedder"])
    np.testing.assert_array_equal(again.predict_proba(images), pipe.predict_proba(images))


def test_a_pickle_of_a_named_backbone_holds_arrays_only(named, images):
    state = named(warm_start=True).fit(images).__getstate__()
    assert not any(isinstance(value, nn.Module | torch.Tensor) for value in state.values())


def test_the_weights_fit_torchvisions_own_network(named, images):
    fitted = named(precision="float32").fit(images)
    resnet = torchvision.models.resnet18()
    missing, unexpected = resnet.load_state_dict(fitted.encoder_.backbone.state_dict(), strict=False)
    assert missing == ["fc.weight", "fc.bias"]
    assert unexpected == []
    resnet.fc = nn.Identity()
    x = fitted.encoder_.pixels(torch.from_numpy(images).movedim(-1, 1))
    with torch.inference_mode():
        torch.testing.assert_close(
            resnet.eval()(x), torch.from_numpy(fitted.transform(images)), rtol=1e-4, atol=1e-5
        )


# ------------------------------------------------------------------ ONNX


@pytest.mark.parametrize("backbone", ["tiny", "resnet18"])
def test_onnx_embeds_the_same_for_any_number_of_images(embedder, draw_images, tmp_path, tiny, backbone):
    runtime = pytest.importorskip("onnxruntime")
    images = draw_images(12, (32, 32, 3))
    backbone = tiny if backbone == "tiny" else backbone
    fitted = embedder(backbone=backbone, precision="float32").fit(images)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's own
        fitted.to_onnx(tmp_path / "model.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    session = runtime.InferenceSession(tmp_path / "model.onnx")
    expected = fitted.transform(images)
    for n in (1, 5, 12):
        x = images[:n].transpose(0, 3, 1, 2).astype(np.float32)
        [embeddings] = session.run(None, {"images": x})
        np.testing.assert_allclose(embeddings, expected[:n], rtol=1e-4, atol=1e-4)


def test_without_onnx_it_says_what_to_install(named, images, tmp_path, monkeypatch):
    monkeypatch.setattr("sklearn_ssl._models.onnx.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'onnx and onnxscript: pip install "sklearn-ssl\[onnx\]"'):
        named().fit(images).to_onnx(tmp_path / "model.onnx")
