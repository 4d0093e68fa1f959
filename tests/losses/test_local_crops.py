"""The number of local crops of multi-crop methods."""

import pytest
import torch
from torch import nn

from sklearn_ssl import Spec
from sklearn_ssl.losses import multi_crop
from sklearn_ssl.losses._base import view_kinds


class Pools(nn.Module):
    """Backbone for images of any size, with 16 features."""

    def forward(self, x):
        return x.mean(dim=(1, 2, 3))[:, None].expand(-1, 16)


def flat(side):
    """Return a backbone for images of a single size, with 16 features."""
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * side * side, 16))


def crops(given, local_size=0.5, image_size=(32, 32), backbone=None):
    spec = Spec(16, 8, 100, 16, 3, image_size, backbone or Pools(), torch.Generator())
    return multi_crop(given, local_size, spec).local


@pytest.mark.parametrize(("side", "local"), [(8, 0), (32, 0), (46, 0), (48, 4), (224, 4)])
def test_by_default_there_are_four_where_they_have_24_pixels(side, local):
    assert crops("auto", image_size=(side, 2 * side)) == local
    assert crops("auto", image_size=(2 * side, side)) == local


def test_what_counts_is_the_size_of_the_crop():
    assert crops("auto", local_size=0.25) == 0  # 8 pixels
    assert crops("auto", local_size=1.0, image_size=(24, 24)) == 4


def test_by_default_there_are_none_where_the_backbone_cannot_take_them():
    assert crops("auto", image_size=(64, 64), backbone=Pools()) == 4
    assert crops("auto", image_size=(64, 64), backbone=flat(64)) == 0
    assert crops("auto", image_size=(64, 64), backbone=nn.Flatten()) == 0


def test_crops_that_the_backbone_cannot_take_are_told_what_to_do():
    words = (
        r"loss__local_crops: the backbone cannot take 6 local crops of 16 x 16 pixels: mat1 and mat2 .*"
        r"Set loss__local_crops=0 for none, loss__local_size=1\.0 to enlarge them, or a larger image_size"
    )
    with pytest.raises(ValueError, match=words):
        crops(6, backbone=flat(32))
    assert crops(6, local_size=1.0, backbone=flat(32)) == 6
    assert crops(0, backbone=flat(32)) == 0


def test_a_backbone_that_makes_other_features_of_local_crops_cannot_take_them():
    with pytest.raises(ValueError, match=f"it makes {3 * 16 * 16} features of them, not 16"):
        crops(6, backbone=nn.Flatten())


def test_crops_that_show_little_are_made_with_a_warning():
    words = r"6 local crops of 4 x 4 pixels show little.*below 24 pixels 'auto' makes none\. Set loss__local"
    with pytest.warns(UserWarning, match=words):
        assert crops(6, image_size=(8, 8)) == 6


@pytest.mark.parametrize("given", [-1, 1.5, "some"])
def test_what_is_no_number_of_crops_is_named(given):
    with pytest.raises(ValueError, match=rf"loss__local_crops={given!r}: give an integer of at least 0"):
        crops(given)


def test_the_backbone_is_left_alone():
    backbone = nn.Sequential(nn.BatchNorm2d(3), Pools())
    crops("auto", backbone=backbone)
    assert backbone.training
    assert backbone[0].num_batches_tracked == 0


def test_several_sizes_have_to_fit():
    spec = Spec(16, 8, 100, 16, 3, (64, 64), Pools(), torch.Generator())
    views = multi_crop(5, (0.75, 0.5), spec)
    assert [kind.shape((64, 64))[0] for kind in view_kinds(views)] == [64, 64, 48, 32, 48, 32, 48]
    assert multi_crop("auto", (0.75, 0.5), spec).local == 4
    assert multi_crop("auto", (0.75, 0.25), spec).local == 0  # one has 16 pixels
    with pytest.raises(ValueError, match="cannot take 2 local crops of 32 x 32 pixels"):
        crops(2, (1.0, 0.5), image_size=(64, 64), backbone=flat(64))
    with pytest.raises(ValueError, match="loss__local_size is empty"):
        crops(2, ())
    with pytest.raises(ValueError, match="loss__local_size=2"):
        crops(2, (0.5, 2))
