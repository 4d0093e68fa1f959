"""Masked image modeling: patches, masks and targets compared with loops, and properties of all methods."""

import functools
import itertools
import math
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn_ssl_masked import MAE, BEiT, Inpainting, SimMIM
from sklearn_ssl_masked.patches import (
    blockwise_mask,
    number_hidden,
    patchify,
    random_mask,
    shuffled,
    unpatchify,
)
from torch import nn
from torchvision.models import resnet18

from sklearn_ssl import Batch, ReconstructionDisplay, Spec, SSLImageEmbedder, available_losses
from sklearn_ssl._networks.vit import make_vit
from sklearn_ssl.testing import parametrize_with_loss_checks

METHODS = ("beit", "inpainting", "mae", "simmim")
SMALL = {"backbone": "vit", "backbone__width": 16, "backbone__depth": 1}
ORDER = "masks are drawn for one image after the other, so another order hides other patches of each"


def is_bright(x):
    return patchify(x, 4).mean(dim=2) > 0


words_only = functools.partial(BEiT, tokenizer=is_bright, vocab=2)


def expected_failures(loss):
    if loss == "beit":
        return {"check_depends_on_its_input": "its first stage trains the tokenizer alone"}
    return {"check_does_not_depend_on_the_order_of_images": ORDER}


@parametrize_with_loss_checks([*METHODS, words_only], expected_failed_checks=expected_failures)
def test_masked_methods_keep_the_contract(check):
    check()


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def images(n=4, channels=3, size=(16, 16)):
    return torch.randn(n, channels, *size, generator=generator())


def pixels(n=64, side=16):
    return np.random.default_rng(0).integers(0, 256, (n, side, side, 3), dtype=np.uint8)


def batch(x, progress=0.0):
    return Batch([x], torch.arange(len(x)), None, 0, progress, generator(1))


def built(loss, size=(16, 16), channels=3, backbone=None, feature_dim=16):
    backbone = make_vit(channels, size, width=16, depth=1) if backbone is None else backbone
    loss.build(Spec(feature_dim, feature_dim, 64, 4, channels, size, backbone, generator()))
    return loss


# ------------------------------------------------------------------ patches and masks


def test_a_patch_is_what_is_there():
    x = images(size=(8, 12))
    patches = patchify(x, 4)
    assert patches.shape == (4, 6, 48)
    for row in range(2):
        for column in range(3):
            part = x[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
            np.testing.assert_array_equal(patches[:, 3 * row + column], part.permute(0, 2, 3, 1).flatten(1))


def test_patches_make_the_image_again():
    x = images(size=(8, 12))
    assert torch.equal(unpatchify(patchify(x, 4), 4, (2, 3)), x)


@pytest.mark.parametrize(
    ("patches", "ratio", "hidden"), [(64, 0.75, 48), (4, 0.01, 1), (4, 0.99, 3), (10, 0.6, 6)]
)
def test_some_are_hidden_and_some_are_shown(patches, ratio, hidden):
    assert number_hidden(patches, ratio) == hidden
    assert (random_mask(50, patches, ratio, generator()).sum(dim=1) == hidden).all()


def test_every_patch_is_hidden_as_often():
    share = random_mask(4000, 10, 0.6, generator()).float().mean(dim=0)
    torch.testing.assert_close(share, torch.full((10,), 0.6), rtol=0, atol=0.03)


def test_orders_are_permutations():
    assert torch.equal(shuffled(20, 9, generator()).sort(dim=1).values, torch.arange(9).expand(20, -1))


def test_blocks_hide_enough_but_never_everything():
    for grid, ratio in (((8, 8), 0.4), ((14, 14), 0.4), ((2, 2), 0.9), ((1, 6), 0.5), ((8, 8), 0.99)):
        hidden = blockwise_mask(200, grid, ratio, generator()).sum(dim=1)
        wanted = number_hidden(math.prod(grid), ratio)
        assert hidden.min() >= wanted
        assert hidden.max() < math.prod(grid)
        assert hidden.float().mean() <= wanted + 0.08 * math.prod(grid)


def test_blocks_are_blocks():
    """Hidden patches have hidden neighbors, unlike those of random masks."""

    def neighbors(mask):
        mask = mask.view(-1, 8, 8)
        both = (mask[:, 1:] & mask[:, :-1]).sum() + (mask[:, :, 1:] & mask[:, :, :-1]).sum()
        return both / mask.sum()

    blocks, random = blockwise_mask(500, (8, 8), 0.4, generator()), random_mask(500, 64, 0.4, generator())
    assert neighbors(blocks) > 1.3 * neighbors(random)


# ------------------------------------------------------------------ MAE


class Seen:
    """Replacement of a student that returns random tokens and records its calls."""

    def __init__(self, width=16):
        self.width = width

    def encode(self, x, keep):
        self.keep = keep
        return torch.randn(*keep.shape, self.width, generator=generator(5))

    def tokens(self, x, mask, token):
        self.mask, self.token = mask, token
        return torch.randn(*mask.shape, self.width, generator=generator(5))

    def maps(self, x):
        self.x = x
        return torch.randn(len(x), self.width, 4, 4, generator=generator(5))


@pytest.mark.parametrize("normalize", [True, False])
def test_mae_is_the_papers_mean_over_hidden_patches(normalize):
    loss, x, student = built(MAE(normalize_targets=normalize)).eval(), images(), Seen()
    value = loss.step(batch(x), student, None)
    with torch.no_grad():
        painted = loss._painted(student, x, student.keep)
    total, terms = 0.0, 0
    for i in range(len(x)):
        for patch in set(range(16)) - set(student.keep[i].tolist()):
            row, column = divmod(patch, 4)
            target = x[i, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].permute(1, 2, 0).flatten()
            if normalize:
                target = (target - target.mean()) / (target.var() + 1e-6).sqrt()
            total += (painted[i, patch] - target).square().sum().item()
            terms += 48
    assert student.keep.shape == (4, 4)
    assert value.item() == pytest.approx(total / terms, rel=1e-5)


def test_the_decoder_gets_tokens_in_their_places_and_the_mask_token_elsewhere():
    loss, student = built(MAE(decoder_width=16, decoder_depth=0)).eval(), Seen()
    loss.paint = nn.Identity()  # with no layer, what comes out is what the decoder gets
    with torch.no_grad():
        full = loss._painted(student, images(), torch.tensor([[2, 0]]).expand(4, -1)) - loss.positions
        h = loss.embed(student.encode(None, student.keep))
    torch.testing.assert_close(full[:, [2, 0]], h)
    torch.testing.assert_close(full[:, 7], loss.token.detach().expand(4, -1))


# ------------------------------------------------------------------ SimMIM and inpainting


def test_simmim_is_the_mean_error_of_hidden_pixels():
    loss, x, student = built(SimMIM()), images(), Seen()
    value = loss.step(batch(x), student, None)
    painted = loss.paint(student.tokens(x, student.mask, None).transpose(1, 2).unflatten(2, (4, 4)))
    total, terms = 0.0, 0
    for i in range(4):
        for patch in range(16):
            if student.mask[i, patch]:
                place = (i, slice(None), *(slice(4 * k, 4 * k + 4) for k in divmod(patch, 4)))
                total += (painted[place] - x[place]).abs().sum().item()
                terms += 48
    assert value.item() == pytest.approx(total / terms, rel=1e-5)
    assert (student.mask.sum(dim=1) == 10).all()  # 0.6 of 16


def maps_of_16(channels=3):
    return nn.Sequential(nn.Conv2d(channels, 16, 4, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def test_simmim_hides_pixels_from_other_backbones():
    loss, x, student = built(SimMIM(mask_size=4), backbone=maps_of_16()), images(), Seen()
    loss.token.data = torch.tensor([7.0, 8.0, 9.0])
    loss.step(batch(x), student, None)
    hidden = (student.x == torch.tensor([7.0, 8.0, 9.0])[:, None, None]).all(dim=1)
    assert hidden.float().mean() == pytest.approx(10 / 16)
    assert torch.equal(student.x.movedim(1, 3)[~hidden], x.movedim(1, 3)[~hidden])


@pytest.mark.parametrize(
    ("size", "patch", "square"), [((32, 32), 4, 4), ((192, 192), 16, 32), ((32, 32), 1, 5)]
)
def test_squares_are_a_sixth_of_the_image(size, patch, square):
    if patch == 1:
        assert built(SimMIM(), size, backbone=maps_of_16()).square == square
    else:
        assert (
            built(SimMIM(), size, backbone=make_vit(3, size, patch=patch, width=16, depth=1)).square == square
        )


def test_inpainting_is_the_mean_squared_error_of_the_holes():
    loss, x, student = built(Inpainting(), backbone=maps_of_16()), images(), Seen()
    value = loss.step(batch(x), student, None)
    painted = loss.decoder(student.maps(student.x))
    total, terms = 0.0, 0
    for i, row, column in itertools.product(range(4), range(16), range(16)):
        if not student.x[i, :, row, column].any():
            total += (painted[i, :, row, column] - x[i, :, row, column]).square().sum().item()
            terms += 3
        else:
            assert torch.equal(student.x[i, :, row, column], x[i, :, row, column])
    assert value.item() == pytest.approx(total / terms, rel=1e-5)


@pytest.mark.parametrize(("holes", "side"), [(1, 8), (4, 4)])
def test_holes_are_squares_anywhere_that_have_a_quarter_of_the_area_together(holes, side):
    hidden = Inpainting(holes=holes)._hidden(torch.zeros(200, 3, 16, 16), generator())[:, 0]
    area = hidden.sum(dim=(1, 2))
    assert area.max() == 64
    assert (area.min() == 64) == (holes == 1)  # several may overlap
    corners = (hidden[:, :side, :side].all(dim=(1, 2)), hidden[:, -side:, -side:].all(dim=(1, 2)))
    assert all(corner.any() for corner in corners)
    whole = -F.max_pool2d(-hidden[:, None].float(), side, 1)  # a square from here on is hidden whole
    squares = F.max_pool2d(F.pad(whole, (side - 1,) * 4), side, 1)
    assert torch.equal(squares[:, 0] > 0, hidden)  # there is nothing but such squares


# ------------------------------------------------------------------ BEiT


def test_beit_asks_for_the_words_of_hidden_patches():
    loss, x, student = built(words_only()), images(), Seen()
    value = loss.step(batch(x, 0.0), student, None)["loss"]
    logits = loss.name(student.tokens(x, student.mask, None))
    total, terms = 0.0, 0
    for i in range(4):
        for patch in range(16):
            if student.mask[i, patch]:
                row, column = divmod(patch, 4)
                word = int(x[i, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].mean() > 0)
                total -= logits[i, patch].log_softmax(dim=0)[word].item()
                terms += 1
    assert value.item() == pytest.approx(total / terms, rel=1e-5)


def test_the_tokenizer_is_trained_first_and_then_stands_still():
    loss, student = built(BEiT()), Seen()
    first = loss.step(batch(images(), 0.1), student, None)
    first["loss"].backward()
    assert set(first) == {"loss", "reconstruction"}
    assert loss.vae.logits[0].weight.grad.abs().max() > 0
    assert loss.name.weight.grad is None
    loss.zero_grad()
    second = loss.step(batch(images(), 0.5), student, None)
    second["loss"].backward()
    assert set(second) == {"loss", "cross_entropy"}
    assert loss.vae.logits[0].weight.grad is None
    assert loss.name.weight.grad.abs().max() > 0
    # A training that goes on with more epochs is at an earlier share of them, and keeps its words.
    again = built(BEiT())
    again.load_state_dict(loss.state_dict())
    assert set(again.step(batch(images(), 0.1), student, None)) == {"loss", "cross_entropy"}


def test_a_large_batch_in_parts_is_refused_from_the_first_step_on():
    with pytest.raises(RuntimeError, match="with micro_batches=2 a loss can only call student"):
        SSLImageEmbedder("beit", micro_batches=2, max_epochs=1, **SMALL).fit(pixels())


def test_the_dvae_learns_to_paint_with_many_words():
    torch.manual_seed(0)
    loss = built(BEiT(vocab=16))
    # Images of four plain patches: their colors are all there is to say.
    colors = torch.rand(64, 3, 4, 4, generator=generator(3)) * 2 - 1
    x = F.interpolate(colors, scale_factor=4)
    optimizer = torch.optim.Adam(loss.vae.parameters(), lr=3e-3)
    values = []
    for step in range(150):
        terms = loss.step(Batch([x], None, None, 0, 0.2 * step / 150, generator(step)), Seen(), None)
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
        values.append(terms["reconstruction"].item())
    assert np.mean(values[-10:]) < 0.6 * x.var().item()
    assert len(loss._words(x).unique()) >= 8


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            lambda x: torch.zeros(len(x), 9, dtype=torch.long),
            r"int64 of shape \(2, 9\).*4 x 4 patches.*\(2, 16\)",
        ),
        (lambda x: torch.zeros(len(x), 16), r"float32 of shape \(2, 16\)"),
        (lambda x: torch.full((len(x), 4, 4), 8), r"words from 8 to 8, but loss__vocab is 8"),
    ],
)
def test_words_that_do_not_fit_are_named(words, message):
    with pytest.raises(ValueError, match=message):
        SSLImageEmbedder("beit", loss__tokenizer=words, loss__vocab=8, max_epochs=1, **SMALL).fit(pixels())


def test_a_tokenizer_of_ones_own_is_not_trained():
    torch.manual_seed(0)
    own = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 8, 4, 4), nn.Flatten(2))
    loss = built(BEiT(tokenizer=Argmax(own), vocab=8)).train()
    before = own[0].running_mean.clone()
    loss.step(batch(5 + images()), Seen(), None)
    assert torch.equal(loss.tokenizer.scores[0].running_mean, before)
    assert not any(parameter.requires_grad for parameter in loss.tokenizer.parameters())
    assert all(parameter.requires_grad for parameter in own.parameters())
    assert loss.tokenizer_share == 0


class Argmax(nn.Module):
    def __init__(self, scores):
        super().__init__()
        self.scores = scores

    def forward(self, x):
        return self.scores(x).argmax(dim=1)


# ------------------------------------------------------------------ in the embedder


@pytest.mark.parametrize("loss", METHODS)
def test_it_is_found_by_name(loss):
    assert available_losses()[loss].distribution == "sklearn-ssl-masked"


@pytest.mark.parametrize("loss", METHODS)
def test_it_trains_alone_and_goes_on_after_a_pickle(loss):
    settings = SMALL | {"max_epochs": 2, "batch_size": 32, "random_state": 0, "warm_start": True}
    first = SSLImageEmbedder(loss, **settings).fit(pixels())
    again = pickle.loads(pickle.dumps(first))
    for each in (first, again):
        each.set_params(max_epochs=4).fit(pixels())
    np.testing.assert_array_equal(again.transform(pixels()), first.transform(pixels()))
    assert first.transform(pixels()).std(axis=0).max() > 0


@pytest.mark.parametrize("loss", ["simmim", "inpainting"])
def test_it_works_on_a_resnet(loss):
    fitted = SSLImageEmbedder(loss, backbone="resnet18", max_epochs=1, batch_size=64).fit(pixels(side=20))
    assert fitted.transform(pixels(side=20)).shape == (64, 512)


@pytest.mark.parametrize("loss", METHODS)
def test_images_need_not_be_square(loss):
    wide = np.random.default_rng(0).integers(0, 256, (16, 12, 20, 3), dtype=np.uint8)
    fitted = SSLImageEmbedder(loss, max_epochs=1, batch_size=8, warm_start=True, **SMALL).fit(wide)
    assert np.isfinite(fitted.transform(wide)).all()


def test_masked_methods_choose_their_backbone():
    for loss in ("mae", "beit"):
        assert "backbone__patch" in SSLImageEmbedder(loss).get_params()
    for loss in ("simmim", "inpainting"):
        assert "backbone__stem" in SSLImageEmbedder(loss).get_params()


@pytest.mark.parametrize("loss", METHODS)
def test_reconstructions_are_drawn(loss):
    pytest.importorskip("matplotlib")
    settings = SMALL | {"max_epochs": 1, "batch_size": 32, "warm_start": True}
    fitted = SSLImageEmbedder(loss, **settings).fit(pixels())
    original, shown, made = ReconstructionDisplay.from_estimator(fitted, pixels()[:3]).pictures[0]
    np.testing.assert_allclose(original, pixels()[0] / 255, atol=1e-5)
    hidden = (np.abs(shown - 0.5) < 1e-6).all(axis=2)
    assert 0.2 < hidden.mean() < 0.8
    np.testing.assert_allclose(shown[~hidden], original[~hidden], atol=1e-5)
    np.testing.assert_allclose(made[~hidden], original[~hidden], atol=1e-5)
    assert not np.allclose(made[hidden], original[hidden], atol=1e-2)


@pytest.mark.parametrize(
    ("loss", "params", "words"),
    [
        (
            "mae",
            {"backbone": "resnet18"},
            r"only 'vit' allows for; it is a ResNet\. Leave backbone at 'auto'",
        ),
        ("beit", {"backbone": "resnet18"}, r"backbone='vit'"),
        ("mae", {"loss__mask_ratio": 0}, r"loss__mask_ratio=0: .*above 0 and below 1"),
        ("simmim", {"loss__mask_ratio": 1.0}, r"loss__mask_ratio=1\.0: .*above 0 and below 1"),
        ("beit", {"loss__mask_ratio": 1.5}, r"loss__mask_ratio=1\.5"),
        ("inpainting", {"loss__mask_ratio": 0.0}, r"loss__mask_ratio=0\.0"),
        ("inpainting", {"loss__holes": 0}, r"loss__holes=0: give an integer of at least 1"),
        ("inpainting", {"loss__holes": 257}, r"loss__holes=257: give an integer at most 256"),
        (
            "simmim",
            {"backbone": "vit", "loss__mask_size": 3},
            r"loss__mask_size=3: give a multiple of the patch's 4, at most 8",
        ),
        ("beit", {"loss__vocab": 1}, r"loss__vocab=1"),
        ("beit", {"loss__tokenizer": 5}, r"loss__tokenizer=5: give a function of images, a module, or None"),
        ("beit", {"loss__tokenizer": int}, r"loss__tokenizer failed on images of shape \(2, 3, 16, 16\): "),
        ("beit", {"loss__tokenizer_share": 1.0}, r"loss__tokenizer_share=1\.0"),
        ("mae", {"backbone__patch": 5}, r"backbone__patch=5 does not divide images of 16 x 16"),
        ("mae", {"backbone__patch": 16}, r"an image is a single patch .* smaller backbone__patch"),
        ("beit", {"backbone__patch": 16}, r"an image is a single patch"),
        ("inpainting", {"backbone": nn.Flatten()}, r"Flatten does not show its feature maps"),
        ("inpainting", {"backbone": resnet18()}, r"makes 1000 features of 512 maps.*take that off"),
    ],
)
@pytest.mark.filterwarnings("ignore:The backbone ResNet ends in the layer 'fc'")
def test_what_cannot_work_is_named(loss, params, words):
    with pytest.raises(ValueError, match=words):
        SSLImageEmbedder(loss, max_epochs=1, **params).fit(pixels())
