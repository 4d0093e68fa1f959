"""An untrained network with BatchNorm statistics of images, against plain PyTorch."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from sklearn_ssl import SSLImageEmbedder, TrainingCurveDisplay
from sklearn_ssl._networks.norms import fill_in_statistics
from sklearn_ssl._networks.student import Student


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.9),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).random((40, 8, 8, 3), np.float32)


def embedder(backbone=network, **params) -> SSLImageEmbedder:
    return SSLImageEmbedder(
        backbone=backbone,
        max_epochs=0,
        batch_size=20,
        device="cpu",
        precision="float32",
        random_state=0,
        **params,
    )


def test_statistics_are_the_means_over_the_batches():
    x = torch.randn(20, 4) * torch.tensor([1.0, 2.0, 3.0, 4.0]) + 5
    student = Student(nn.BatchNorm1d(4), nn.Identity())
    fill_in_statistics(student, [[x[:10]], [x[10:]]])
    norm = student.backbone
    torch.testing.assert_close(norm.running_mean, x.mean(0))
    torch.testing.assert_close(norm.running_var, (x[:10].var(0) + x[10:].var(0)) / 2)
    assert norm.momentum == 0.1
    assert norm.training


def test_statistics_that_there_are_stay():
    norms = nn.BatchNorm1d(4), nn.BatchNorm1d(4)
    norms[0].running_mean.fill_(0.5)
    before = copy.deepcopy(norms[0].state_dict())
    fill_in_statistics(Student(norms[0], norms[1]), [[torch.randn(8, 4)]])
    assert all(torch.equal(before[name], value) for name, value in norms[0].state_dict().items())
    assert norms[1].running_mean.any()


def test_embeddings_equal_those_of_plain_pytorch(images):
    ours = embedder().fit(images)
    torch_network = copy.deepcopy(ours.encoder_.backbone)
    norm = torch_network[1]
    norm.reset_running_stats()
    x = torch.from_numpy(images).permute(0, 3, 1, 2)
    x = (x - x.mean((0, 2, 3), keepdim=True)) / x.std((0, 2, 3), keepdim=True, correction=0)
    torch_network.eval()
    norm.train().momentum = None
    with torch.no_grad():
        torch_network(x[:20]), torch_network(x[20:])
        expected = torch_network.eval()(x)
    np.testing.assert_allclose(ours.transform(images), expected, atol=1e-4)


def test_no_training(images):
    ours = embedder().fit(images)
    assert (ours.history_, ours.n_iter_, ours.max_epochs_) == ([], 0, 0)
    again = embedder().fit(images)
    np.testing.assert_array_equal(ours.transform(images), again.transform(images))
    trained = embedder().set_params(max_epochs=1, lr=1e-30, weight_decay=0.0).fit(images)
    weights = [each.encoder_.backbone[0].weight for each in (ours, trained)]
    assert torch.equal(*weights)  # the same random numbers


def test_pretrained_networks_are_frozen(images):
    pretrained = network()
    pretrained(torch.rand(8, 3, 8, 8))
    ours = embedder(backbone=pretrained).fit(images)
    for name, value in pretrained.state_dict().items():
        assert torch.equal(ours.encoder_.backbone.state_dict()[name], value)


def test_networks_without_batch_norm(images):
    ours = embedder("vit").fit(images)
    assert np.isfinite(ours.transform(images)).all()


def test_a_warm_start_goes_on(images):
    ours = embedder(warm_start=True).fit(images)
    ours.set_params(max_epochs=2).fit(images)
    assert len(ours.history_) == ours.n_iter_ == 2


def test_a_checkpoint_and_a_file(images, tmp_path):
    from sklearn_ssl import load

    ours = embedder("auto", checkpoint=tmp_path).fit(images)
    with pytest.warns(UserWarning, match="is taken from"):
        again = embedder("auto", checkpoint=tmp_path).fit(images)
    np.testing.assert_array_equal(ours.transform(images), again.transform(images))
    ours.save(tmp_path / "model.safetensors")
    loaded = load(tmp_path / "model.safetensors")
    np.testing.assert_allclose(ours.transform(images), loaded.transform(images), atol=1e-4)


def test_progress_and_curves(images, capsys):
    ours = embedder(verbose=1).fit(images)
    assert "100%" in capsys.readouterr().err
    with pytest.raises(ValueError, match="was not trained"):
        TrainingCurveDisplay.from_estimator(ours)
