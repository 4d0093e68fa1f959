"""Pretext tasks: targets compared with loops, and properties of all methods."""

import itertools
import math
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn_ssl_pretext import CPC, DIET, Colorization, Jigsaw, RelativeLocation, Rotation
from sklearn_ssl_pretext.colorization import (
    laplace_cdf,
    laplace_quantile,
    to_colors,
    with_colors,
    without_colors,
)
from sklearn_ssl_pretext.cpc import overlapping
from sklearn_ssl_pretext.jigsaw import far_permutations
from sklearn_ssl_pretext.rotation import all_turns
from sklearn_ssl_pretext.tiles import cut_tiles, standardized, with_colors_dropped
from torch import nn

from sklearn_ssl import Batch, ReconstructionDisplay, Spec, SSLImageEmbedder, available_losses
from sklearn_ssl.testing import parametrize_with_loss_checks

METHODS = ("colorization", "cpc", "diet", "jigsaw", "relative_location", "rotation")
TILES_ARE_DRAWN = {
    "check_does_not_depend_on_the_order_of_images": "tiles are drawn for one image after the other"
}
EXPECTED_FAILURES = {
    "cpc": {"check_works_on_another_device": "torch cannot pretend to compute recurrent cells"},
    "jigsaw": TILES_ARE_DRAWN,
    "relative_location": TILES_ARE_DRAWN,
}


@parametrize_with_loss_checks(METHODS, expected_failed_checks=lambda loss: EXPECTED_FAILURES.get(loss, {}))
def test_pretext_tasks_keep_the_contract(check):
    check()


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def images(n=4, channels=3, size=(16, 16)):
    return torch.randn(n, channels, *size, generator=generator())


def pixels(n=64, side=24, channels=3):
    return np.random.default_rng(0).integers(0, 256, (n, side, side, channels), dtype=np.uint8)


def batch(x):
    return Batch([x], torch.arange(len(x)), None, 0, 0.0, generator(1))


def built(loss, size=(16, 16), channels=3, feature_dim=6):
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(channels, feature_dim, 4, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    loss.build(Spec(feature_dim, feature_dim, 64, 4, channels, size, backbone, generator()))
    return loss


class Seen:
    """Replacement of a student that returns a few numbers for each image and records its calls."""

    def __init__(self, width=6):
        self.width = width

    def features(self, x):
        self.x = x
        return x.flatten(1)[:, : self.width]

    def maps(self, x):
        self.x = x
        return torch.randn(len(x), self.width, 4, 4, generator=generator(5))


# ------------------------------------------------------------------ rotation


def test_each_image_is_turned_in_all_four_ways():
    x = torch.arange(4.0).view(1, 1, 2, 2)  # 0 1 / 2 3
    assert all_turns(x).flatten(1).tolist() == [[0, 1, 2, 3], [1, 3, 0, 2], [3, 2, 1, 0], [2, 0, 3, 1]]


def test_others_than_squares_are_turned_in_their_middle():
    x = torch.arange(8.0).view(1, 1, 2, 4)
    assert all_turns(x)[0].flatten().tolist() == [1, 2, 5, 6]


def test_rotation_asks_by_how_many_quarter_turns():
    loss, x, student = built(Rotation()), images(), Seen()
    value = loss.step(batch(x), student, None)
    total = 0.0
    for k, image in itertools.product(range(4), x):
        logits = loss.head(image.rot90(k, (1, 2)).flatten()[:6])
        total -= logits.log_softmax(dim=0)[k].item()
    assert value["loss"].item() == pytest.approx(total / 16, rel=1e-5)


def test_a_head_that_knows_nothing_costs_ln_4():
    loss = built(Rotation())
    loss.head.weight.data.zero_()
    loss.head.bias.data.zero_()
    assert loss.step(batch(images()), Seen(), None)["loss"].item() == pytest.approx(math.log(4))


# ------------------------------------------------------------------ tiles


def test_a_tile_lies_in_its_cell():
    x = torch.arange(24.0 * 24).view(1, 1, 24, 24).repeat(50, 1, 1, 1)  # each pixel tells where it is
    tiles = cut_tiles(x, 3, (6, 7), generator())
    assert tiles.shape == (50, 9, 1, 6, 7)
    offsets = set()
    for image, cell in itertools.product(range(50), range(9)):
        row, column = divmod(int(tiles[image, cell, 0, 0, 0]), 24)
        down, across = row - 8 * (cell // 3), column - 8 * (cell % 3)
        assert 0 <= down <= 2
        assert 0 <= across <= 1
        assert torch.equal(tiles[image, cell, 0], x[0, 0, row : row + 6, column : column + 7])
        offsets.add((down, across))
    assert len(offsets) == 6


def test_tiles_are_standardized_channel_by_channel():
    tiles = standardized(5 + 3 * torch.randn(2, 4, 3, 8, 8, generator=generator()))
    torch.testing.assert_close(tiles.mean(dim=(3, 4)), torch.zeros(2, 4, 3), rtol=0, atol=1e-5)
    torch.testing.assert_close(tiles.std(dim=(3, 4), correction=0), torch.ones(2, 4, 3), rtol=0, atol=1e-2)


def test_two_colors_become_faint_noise():
    tiles = torch.randn(30, 2, 3, 8, 8, generator=generator())
    dropped = with_colors_dropped(tiles, generator())
    kept = (dropped == tiles).all(dim=(3, 4))
    assert (kept.sum(dim=2) == 1).all()
    assert torch.equal(kept[:, 0], kept[:, 1])  # the same in both tiles
    assert 0.005 < dropped[~kept].std() < 0.02
    assert kept[:, 0].any(dim=0).all()
    gray = tiles[:, :, :1]
    assert with_colors_dropped(gray, generator()) is gray


# ------------------------------------------------------------------ jigsaw and relative location


def test_permutations_are_different_and_far_apart():
    orders = far_permutations(9, 50, generator())
    distance = (orders[:, None] != orders).sum(dim=2).float()
    off_diagonal = distance[~torch.eye(50, dtype=torch.bool)]
    assert torch.equal(orders.sort(dim=1).values, torch.arange(9).expand(50, -1))
    assert off_diagonal.min() >= 7
    assert len(far_permutations(4, 100, generator()).unique(dim=0)) == 24


@pytest.mark.parametrize("tiles", ["together", "apart"])
def test_jigsaw_asks_for_the_order(tiles):
    loss, x, student = built(Jigsaw(2, 5, tiles, head_depth=0)), images(), Seen()
    loss.size = (8, 8)  # whole cells, which are where they are
    value = loss.step(batch(x), student, None)
    cells = cut_tiles(x, 2, (8, 8), generator())
    total = 0.0
    for i in range(4):
        if tiles == "together":
            seen = [
                student.x[i, :, row : row + 8, column : column + 8] for row in (0, 8) for column in (0, 8)
            ]
            expected, features = cells[i], student.x[i].flatten()[:6]
        else:
            seen = student.x[4 * i : 4 * i + 4]
            expected, features = standardized(cells[i]), torch.cat([tile.flatten()[:6] for tile in seen])
        where = [next(j for j in range(4) if torch.equal(expected[j], tile)) for tile in seen]
        logits = loss.head(features)
        total -= logits.log_softmax(dim=0)[loss.orders.tolist().index(where)].item()
    assert value["loss"].item() == pytest.approx(total / 4, rel=1e-5)


@pytest.mark.parametrize(("side", "grid"), [(32, 2), (63, 2), (64, 3), (224, 3)])
def test_small_images_have_fewer_tiles(side, grid):
    for loss in (Jigsaw(), RelativeLocation()):
        assert built(loss, size=(side, side)).side == grid


@pytest.mark.parametrize("depth", [0, 2])
def test_the_answer_lies_as_many_layers_from_the_features(depth):
    for loss in (Jigsaw(head_depth=depth, head_width=7), RelativeLocation(head_depth=depth, head_width=7)):
        widths = [layer.out_features for layer in built(loss).head if isinstance(layer, nn.Linear)]
        assert widths[:-1] == [7] * depth


@pytest.mark.parametrize("grid", [2, 3])
def test_relative_location_asks_where_the_neighbor_is(grid):
    loss, student = built(RelativeLocation(grid, head_depth=0), size=(24, 24), channels=1), Seen()
    cell = torch.arange(24) // (24 // grid)
    x = (3 * cell[:, None] + cell).float().expand(200, 1, 24, 24)  # each pixel tells its cell
    value = loss.step(batch(x), student, None)
    total, directions, firsts = 0.0, [], set()
    for first, second in student.x.unflatten(0, (200, 2)):
        (row, column), (row_2, column_2) = (divmod(int(tile[0, 0, 0]), 3) for tile in (first, second))
        directions.append((row_2 - row, column_2 - column))
        firsts.add((row, column))
        k = [(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1) if a or b].index(directions[-1])
        logits = loss.head(torch.cat([first.flatten()[:6], second.flatten()[:6]]))
        total -= logits.log_softmax(dim=0)[k].item()
    assert value["loss"].item() == pytest.approx(total / 200, rel=1e-5)
    assert len(firsts) == grid**2
    assert min(directions.count(each) for each in set(directions)) > 10  # 25 of each are expected
    assert len(set(directions)) == 8


@pytest.mark.parametrize(("side", "given", "dropped"), [(24, "auto", 0), (64, "auto", 1), (24, True, 1)])
def test_colors_are_dropped_where_they_tell_the_place(side, given, dropped):
    loss, student = built(RelativeLocation(drop_colors=given), size=(side, side)), Seen()
    loss.step(batch(1 + images(size=(side, side))), student, None)
    faint = (student.x.abs().amax(dim=(2, 3)) < 0.2).sum(dim=1)
    assert (faint == 2 * dropped).all()


# ------------------------------------------------------------------ colorization


def test_brightness_and_colors_are_the_image():
    x = images()
    torch.testing.assert_close(with_colors(without_colors(x), to_colors(x)), x)
    gray = without_colors(x)
    torch.testing.assert_close(to_colors(gray), torch.zeros(4, 2, 16, 16))
    # Red 1, green 0, blue 0: brighter by 1 in red than in green; half of it more than in blue.
    assert to_colors(torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1)).flatten().tolist() == [1, 0.5]


def test_bins_hold_about_as_many_places_each():
    x = torch.linspace(-6, 6, 101)
    torch.testing.assert_close(laplace_quantile(laplace_cdf(x)), x, rtol=1e-3, atol=1e-3)
    colors = torch.distributions.Laplace(0.0, 0.3)
    torch.manual_seed(0)
    colors = colors.sample((64, 2, 8, 8))
    loss = built(Colorization(bins=4), size=(32, 32))
    loss._follow(colors)
    counts = torch.bincount(loss._bin(colors).flatten(), minlength=16) / (64 * 64)
    torch.testing.assert_close(counts, torch.full((16,), 1 / 16), rtol=0, atol=0.015)


def test_a_bins_color_lies_in_it():
    loss = built(Colorization(bins=5), size=(32, 32))
    loss.scale.copy_(torch.tensor([0.3, 0.7]))
    centers = loss._centers().T.view(1, 2, 1, 25)
    assert loss._bin(centers).flatten().tolist() == list(range(25))


def test_colorization_sees_no_color_and_asks_for_it():
    loss, x, student = built(Colorization(bins=4), size=(32, 32)), images(size=(32, 32)), Seen()
    value = loss.step(batch(x), student, None)
    assert torch.equal(student.x[:, 0], student.x[:, 2])
    torch.testing.assert_close(student.x[:, 1], x.mean(dim=1))
    colors = F.avg_pool2d(to_colors(x), 4)
    logits = loss.decoder(student.maps(x))
    total = 0.0
    for i, row, column in itertools.product(range(4), range(8), range(8)):
        first, second = (
            min(3, int(laplace_cdf(colors[i, k, row, column] / colors[:, k].abs().mean()) * 4))
            for k in (0, 1)
        )
        total -= logits[i, :, row, column].log_softmax(dim=0)[4 * first + second].item()
    assert value.item() == pytest.approx(total / 256, rel=1e-5)


# ------------------------------------------------------------------ CPC


def test_patches_overlap_by_half():
    x = images(size=(16, 20))
    patches = overlapping(x, 3, (8, 10), (4, 5))
    for row, column in itertools.product(range(3), range(3)):
        expected = x[:, :, 4 * row : 4 * row + 8, 5 * column : 5 * column + 10]
        assert torch.equal(patches[:, row, column], expected)


def test_cpc_is_the_papers_sum():
    loss = built(CPC(grid=3, steps=2, dim=5))
    n, columns = 2, 3
    h = torch.randn(n, 3, columns, 6, generator=generator())
    by_column = h.transpose(1, 2).flatten(0, 1)
    with torch.no_grad():
        value = loss.info_nce(loss.target(by_column), loss.contexts(by_column))
        every = F.normalize(loss.target(h), dim=3)  # (n, rows, columns, dim)
        total, terms = 0.0, 0
        for i, column in itertools.product(range(n), range(columns)):
            for k in (1, 2):
                for t in range(3 - k):
                    state = None
                    for row in range(t + 1):
                        state = loss.read(h[i : i + 1, row, column], state)
                    guess = F.normalize(loss.predict[k - 1](state[0]), dim=0)
                    right = (guess * every[i, t + k, column]).sum() / 0.1
                    total -= (right - (every @ guess / 0.1).logsumexp(dim=(0, 1, 2))).item()
                    terms += 1
    assert value.item() == pytest.approx(total / terms, rel=1e-5)


def test_what_is_read_is_above_what_is_predicted():
    loss = built(CPC(grid=3, steps=1))
    by_column = torch.randn(6, 3, 6, generator=generator(), requires_grad=True)
    (gradient,) = torch.autograd.grad(loss.contexts(by_column)[:, 0].sum(), by_column)
    assert gradient[:, 0].abs().min() > 0
    assert not gradient[:, 1:].any()


@pytest.mark.parametrize(("side", "rows"), [(8, 3), (32, 4), (64, 7), (224, 7)])
def test_the_grid_follows_the_images(side, rows):
    assert built(CPC(), size=(side, side)).rows == rows


# ------------------------------------------------------------------ in the embedder


@pytest.mark.parametrize("loss", METHODS)
def test_it_is_found_by_name(loss):
    assert available_losses()[loss].distribution == "sklearn-ssl-pretext"


class Only24(nn.Module):
    def forward(self, x):
        if x.shape[2] != 24:
            raise ValueError("only 24 pixels")
        return x.flatten(1)


def tiny_backbone(in_channels):
    return nn.Sequential(nn.Conv2d(in_channels, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU())


@pytest.mark.parametrize("loss", METHODS)
def test_it_trains_alone_and_goes_on_after_a_pickle(loss):
    settings = {"backbone": tiny_backbone, "max_epochs": 2, "batch_size": 32, "random_state": 0}
    first = SSLImageEmbedder(loss, warm_start=True, **settings).fit(pixels())
    again = pickle.loads(pickle.dumps(first))
    for each in (first, again):
        each.set_params(max_epochs=4).fit(pixels())
    np.testing.assert_array_equal(again.transform(pixels()), first.transform(pixels()))
    assert first.transform(pixels()).std(axis=0).max() > 0


@pytest.mark.parametrize("loss", METHODS)
@pytest.mark.parametrize("backbone", ["resnet18", "vit"])
def test_it_works_on_named_backbones(loss, backbone):
    small = {"backbone__width": 16, "backbone__depth": 1} if backbone == "vit" else {}
    fitted = SSLImageEmbedder(loss, backbone=backbone, max_epochs=1, batch_size=8, **small).fit(pixels(8))
    assert np.isfinite(fitted.transform(pixels(8))).all()


@pytest.mark.parametrize("loss", [name for name in METHODS if name != "colorization"])
def test_gray_images_are_enough(loss):
    settings = {"backbone": tiny_backbone, "max_epochs": 1, "batch_size": 32}
    assert SSLImageEmbedder(loss, **settings).fit(pixels(channels=1)).n_iter_ == 1


@pytest.mark.parametrize("loss", METHODS)
def test_images_need_not_be_square(loss):
    wide = np.random.default_rng(0).integers(0, 256, (16, 24, 40, 3), dtype=np.uint8)
    settings = {"backbone": tiny_backbone, "max_epochs": 1, "batch_size": 8}
    assert SSLImageEmbedder(loss, **settings).fit(wide).n_iter_ == 1


def test_colors_are_drawn():
    pytest.importorskip("matplotlib")
    settings = {"backbone": tiny_backbone, "max_epochs": 1, "batch_size": 32, "warm_start": True}
    fitted = SSLImageEmbedder("colorization", **settings).fit(pixels())
    original, shown, made = ReconstructionDisplay.from_estimator(fitted, pixels()[:3]).pictures[0]
    np.testing.assert_allclose(original, pixels()[0] / 255, atol=1e-5)
    standardized = (shown - pixels().mean(axis=(0, 1, 2)) / 255) / (pixels().std(axis=(0, 1, 2)) / 255)
    assert np.ptp(standardized, axis=2).max() < 0.01  # as bright in all channels
    assert not np.array_equal(made, shown)


@pytest.mark.parametrize(
    ("loss", "params", "images", "words"),
    [
        ("colorization", {}, pixels(channels=1), r"images of three channels.*these have 1\. .*rotation"),
        ("colorization", {"loss__bins": 1}, pixels(), r"loss__bins=1: give an integer of at least 2"),
        ("colorization", {}, pixels(channels=1).repeat(3, axis=3), r"gray, with three equal channels"),
        ("jigsaw", {"backbone": Only24}, pixels(), r"tiles together of 20 x 20 pixels: only 24"),
        ("jigsaw", {"backbone": Only24, "loss__tiles": "apart"}, pixels(), r"tiles apart of 10 x 10 pixels"),
        (
            "relative_location",
            {"backbone": Only24},
            pixels(),
            r"cannot take tiles of 10 x 10 pixels: only 24",
        ),
        ("cpc", {"backbone": Only24}, pixels(), r"cannot take patches of 12 x 12 pixels: only 24"),
        ("colorization", {"backbone": nn.Flatten()}, pixels(), r"Flatten does not show its feature maps"),
        (
            "jigsaw",
            {"loss__grid": 3},
            pixels(side=8),
            r"3 x 3 grid would have 2 x 2 pixels, of images of 8 x 8.*image_size=27",
        ),
        ("relative_location", {}, pixels(side=8), r"2 x 2 grid would have 3 x 3 pixels"),
        (
            "relative_location",
            {"loss__grid": 1},
            pixels(),
            r"loss__grid=1: give an integer of at least 2 and at most 3, or 'auto'",
        ),
        ("relative_location", {"loss__drop_colors": "red"}, pixels(), r"loss__drop_colors='red': give True"),
        (
            "jigsaw",
            {"loss__grid": 4},
            pixels(),
            r"loss__grid=4: give an integer of at least 2 and at most 3, or 'auto'",
        ),
        ("jigsaw", {"loss__tiles": "close"}, pixels(), r"loss__tiles='close': give 'together' or 'apart'"),
        (
            "jigsaw",
            {"loss__permutations": 1},
            pixels(),
            r"loss__permutations=1: give an integer of at least 2",
        ),
        (
            "cpc",
            {"loss__grid": 30},
            pixels(),
            r"patches of a 30 x 30 grid would have 0 x 0 pixels.*loss__grid=3",
        ),
        ("cpc", {"loss__grid": "many"}, pixels(), r"loss__grid='many'"),
        ("cpc", {"loss__steps": 0}, pixels(), r"loss__steps=0"),
    ],
)
def test_what_cannot_work_is_named(loss, params, images, words):
    settings = {"backbone": tiny_backbone, "image_size": images.shape[1]} | params
    with pytest.raises(ValueError, match=words):
        SSLImageEmbedder(loss, **settings).fit(images)


@pytest.mark.parametrize(
    ("loss", "side"), [("jigsaw", 32), ("relative_location", 32), ("rotation", 16), ("cpc", 16)]
)
def test_very_small_images_are_enlarged_unless_a_size_is_given(loss, side):
    settings = {"backbone": tiny_backbone, "max_epochs": 0}
    assert SSLImageEmbedder(loss, **settings).fit(pixels(8, side=8)).image_size_ == (side, side)
    assert SSLImageEmbedder(loss, **settings).fit(pixels(8, side=40)).image_size_ == (40, 40)
    assert SSLImageEmbedder(loss, image_size=12, **settings).fit(pixels(8, side=8)).image_size_ == (12, 12)


# ------------------------------------------------------------------ diet


def diet_step(loss, x, index):
    return loss.step(Batch([x], index, None, 0, 0.0, generator(1)), Seen(), None)


def test_diet_is_the_papers_formula():
    loss = built(DIET(label_smoothing=0.8)).double().requires_grad_(False)
    x, index = images().double(), torch.tensor([3, 0, 63, 7])
    terms = diet_step(loss, x, index)
    losses = []
    for features, k in zip(Seen().features(x), index, strict=True):
        logits = [float(row @ features) for row in loss.head.weight]
        log_p = [each - math.log(sum(map(math.exp, logits))) for each in logits]
        losses.append(-(0.2 * log_p[k] + 0.8 / 64 * sum(log_p)))
    assert float(terms["loss"]) == pytest.approx(np.mean(losses), rel=1e-9)


def test_diet_by_hand():
    # All logits equal: log 64, whatever the smoothing.
    loss = built(DIET())
    torch.nn.init.zeros_(loss.requires_grad_(False).head.weight)
    assert float(diet_step(loss, images(), torch.arange(4))["loss"]) == pytest.approx(math.log(64))


def test_diet_recognizes_its_images_after_some_epochs():
    X = pixels(n=24, side=8)
    fitted = SSLImageEmbedder(
        "diet", backbone="resnet10", augment="none", batch_size=8, max_epochs=15, random_state=0
    )
    accuracy = [row["accuracy"] for row in fitted.fit(X).history_]
    assert accuracy[-1] > 0.5  # chance: 1 of 24


@pytest.mark.parametrize("given", [1.0, -0.1])
def test_diet_refuses_an_impossible_label_smoothing(given):
    with pytest.raises(ValueError, match=f"loss__label_smoothing={given}"):
        DIET(label_smoothing=given)
