"""Warnings point at the line of the user's program that caused them."""

import linecache
import warnings

import pytest
import torch
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from sklearn_ssl._hardware import devices
from sklearn_ssl._warnings import muted
from sklearn_ssl.losses import NTXent, multi_crop


class ManyCrops(NTXent):
    """Loss in a user's file, whose `build` causes a warning of this package."""

    def build(self, spec):
        multi_crop(1, 0.5, spec)


@pytest.mark.parametrize("before", [[], [FunctionTransformer()]], ids=["alone", "in a pipeline"])
def test_the_line_of_the_fit_is_blamed_not_the_library_or_the_loss(embedder, images, before):
    model = make_pipeline(*before, embedder(ManyCrops)) if before else embedder(ManyCrops)
    with pytest.warns(UserWarning, match="show little") as caught:
        model.fit(images)
    [warning] = caught
    assert warning.filename == __file__
    assert linecache.getline(warning.filename, warning.lineno).strip() == "model.fit(images)"


def test_muted_warnings_are_not_issued(monkeypatch):
    monkeypatch.setattr(devices, "is_fast_in_bf16", lambda device: False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with muted(True):
            devices.resolve_precision("bf16", torch.device("cpu"))
        assert caught == []
        devices.resolve_precision("bf16", torch.device("cpu"))
        assert len(caught) == 1
