"""data2vec, I-JEPA, iBOT and DINOv2: prediction of a teacher's tokens."""

import functools
import math

import numpy as np
import pytest
import torch
from sklearn_ssl_masked import IBOT, IJEPA, Data2Vec, DINOv2
from sklearn_ssl_masked.ibot import koleo, sinkhorn
from sklearn_ssl_masked.ijepa import block_size, draw_blocks

from sklearn_ssl import Batch, Spec, SSLImageEmbedder, available_losses
from sklearn_ssl._networks.student import Student, Teacher
from sklearn_ssl._networks.vit import make_vit
from sklearn_ssl.testing import parametrize_with_loss_checks

METHODS = ("data2vec", "dinov2", "ibot", "ijepa")
SMALL = {"backbone": "vit", "backbone__width": 16, "backbone__depth": 3, "batch_size": 8, "random_state": 0}
ORDER = "masks are drawn for one image after the other, so another order hides other patches of each"
separate = functools.partial(IBOT, shared_head=False, local_crops=2, local_size=1.0)


@parametrize_with_loss_checks(
    [functools.partial(Data2Vec, n_layers=1), "dinov2", "ibot", "ijepa", separate],
    expected_failed_checks=lambda loss: {"check_does_not_depend_on_the_order_of_images": ORDER},
)
def test_the_loss_keeps_the_contract(check):
    check()


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def pixels(n=16, side=16):
    return np.random.default_rng(0).integers(0, 256, (n, side, side, 3), dtype=np.uint8)


def networks(loss, side=16, dim=16, depth=3, patch="auto"):
    """Build the loss in double precision, with a student and a teacher that differ, all in eval mode."""
    torch.manual_seed(0)
    backbone = make_vit(3, (side, side), width=dim, depth=depth, patch=patch)
    loss.build(Spec(dim, dim, 64, 4, 3, (side, side), backbone, generator()))
    loss.double().eval()
    student = Student(backbone, torch.nn.Identity()).double()
    teacher = Teacher(student, {name: getattr(loss, name) for name in loss.teacher_heads}).double()
    teacher.eval()
    for tensor in teacher.parameters():
        tensor += 0.1 * torch.randn(tensor.shape, generator=generator(7), dtype=torch.float64)
    return student, teacher


def images(views=1, n=3, side=16):
    return list(torch.randn(views, n, 3, side, side, generator=generator(), dtype=torch.float64))


def batch(views, progress=0.0):
    return Batch(views, torch.arange(len(views[0])), None, 0, progress, generator(1))


@pytest.mark.parametrize("name", METHODS)
def test_it_is_found_by_name(name):
    assert available_losses()[name].distribution == "sklearn-ssl-masked"


@pytest.mark.parametrize("name", METHODS)
def test_a_fit_records_a_finite_loss_and_resumes_exactly(name):
    X = pixels()
    whole = SSLImageEmbedder(name, max_epochs=2, **SMALL).fit(X)
    assert np.isfinite([row["train_loss"] for row in whole.history_]).all()
    first = SSLImageEmbedder(name, max_epochs=1, warm_start=True, **SMALL).fit(X)
    again = first.set_params(max_epochs=2).fit(X)
    assert again.n_iter_ == 2
    assert np.isfinite(again.transform(X)).all()


@pytest.mark.parametrize(("name", "kept"), [("ijepa", "teacher"), ("ibot", "student"), ("dinov2", "student")])
def test_the_encoder_is_the_one_that_is_asked_for(name, kept):
    other = {"teacher": "student", "student": "teacher"}[kept]
    X = pixels()
    default, same, different = (
        SSLImageEmbedder(name, max_epochs=1, loss_params=params, **SMALL).fit_transform(X)
        for params in ({}, {"encoder": kept}, {"encoder": other})
    )
    np.testing.assert_array_equal(default, same)
    assert np.abs(default - different).max() > 1e-4


# ------------------------------------------------------------------ data2vec


def standardized(row):
    return (row - row.mean()) / np.sqrt(row.var() + 1e-5)


def smooth_l1(x, beta):
    return x**2 / (2 * beta) if abs(x) <= beta else abs(x) - beta / 2


@torch.no_grad()
def test_data2vec_is_the_papers_formula(monkeypatch):
    loss = Data2Vec(n_layers=2, beta=0.3)
    student, teacher = networks(loss)
    [x] = images()
    hidden = torch.rand(3, 16, generator=generator(3)) < 0.5
    monkeypatch.setattr("sklearn_ssl_masked.data2vec.blockwise_mask", lambda *args: hidden)
    predicted = loss.predictor(student.tokens(x, hidden, loss.token)).numpy()
    layers = teacher.tokens(x, n_layers=2).numpy()
    of_images = []
    for i in range(3):
        values = []
        for patch in hidden[i].nonzero().flatten().tolist():
            target = np.mean([standardized(layers[i, k, patch]) for k in range(2)], axis=0)
            values.append(np.mean([smooth_l1(d, 0.3) for d in predicted[i, patch] - target]))
        of_images.append(np.mean(values))
    assert float(loss.step(batch([x]), student, teacher)) == pytest.approx(np.mean(of_images), rel=1e-9)


def test_outputs_of_the_last_layers_end_with_the_tokens():
    vit = make_vit(3, (16, 16), width=16, depth=3).eval()
    [x] = images()
    outputs = vit.tokens(x.float(), n_layers=3, with_class=True)
    assert outputs.shape == (3, 3, 17, 16)
    torch.testing.assert_close(vit.encoder.ln(outputs[:, -1, 1:]), vit.tokens(x.float()))
    torch.testing.assert_close(vit.tokens(x.float(), n_layers=2), outputs[:, 1:, 1:])
    class_token = vit.tokens(x.float(), with_class=True)[:, 0]
    vit.pooling = "class"
    torch.testing.assert_close(vit(x.float()), class_token)


# ------------------------------------------------------------------ I-JEPA


@pytest.mark.parametrize("grid", [(8, 8), (4, 4), (5, 9), (14, 14)])
def test_contexts_and_targets_are_apart(grid):
    for seed in range(20):
        keep, targets = draw_blocks(7, grid, 4, generator(seed))
        assert keep.shape[0] == targets.shape[0] == 7
        assert targets.shape[1] == 4
        for kept, blocks in zip(keep.tolist(), targets.tolist(), strict=True):
            assert len(set(kept)) == len(kept) >= 1
            inside = {patch for block in blocks for patch in block}
            if len(kept) > 1:
                assert not set(kept) & inside
            for block in blocks:
                rows, columns = zip(*(divmod(patch, grid[1]) for patch in block), strict=True)
                height, width = max(rows) - min(rows) + 1, max(columns) - min(columns) + 1
                assert len(set(block)) == height * width


def test_blocks_have_the_papers_size():
    # 0.2 of 14 x 14 patches at an aspect ratio of 1: 39.2, a side of 6.26.
    assert block_size((14, 14), 0.2, 1.0) == (6, 6)
    # 9.6 of 8 x 8 at 1.5: sqrt(14.4) = 3.8 by sqrt(6.4) = 2.5.
    assert block_size((8, 8), 0.15, 1.5) == (4, 3)
    assert block_size((4, 4), 1.0, 1.0) == (4, 4)


@torch.no_grad()
def test_ijepa_is_the_papers_formula():
    loss = IJEPA(predictor_width=8, predictor_depth=1)
    student, teacher = networks(loss)
    [x] = images()
    keep, targets = draw_blocks(3, (4, 4), 4, generator(1))  # as `step` draws them
    s, t = student.encode(x, keep), teacher.tokens(x)
    values = []
    for i in range(3):
        for block in targets[i]:
            context = loss.embed(s[i]) + loss.positions[keep[i]]
            asked = loss.token + loss.positions[block]
            predicted = loss.out(loss.layers(torch.cat([context, asked])[None])[0, len(keep[i]) :])
            for k, patch in enumerate(block):
                target = standardized(t[i, patch].numpy())
                values += [smooth_l1(d, 1.0) for d in predicted[k].numpy() - target]
    assert float(loss.step(batch([x]), student, teacher)) == pytest.approx(np.mean(values), rel=1e-9)


def test_ijepas_momentum_rises_in_a_straight_line():
    assert [IJEPA(momentum=0.9).teacher_momentum(k) for k in (0, 0.5, 1)] == pytest.approx([0.9, 0.95, 1.0])


# ------------------------------------------------------------------ iBOT and DINOv2


def softmax(row):
    e = np.exp(row - row.max())
    return e / e.sum()


@torch.no_grad()
@pytest.mark.parametrize(("shared", "crops"), [(True, 0), (False, 0), (True, 2)])
def test_ibot_is_the_papers_formula(shared, crops, monkeypatch):
    loss = IBOT(out_dim=6, hidden=8, bottleneck=4, shared_head=shared, local_crops=crops, local_size=1.0)
    student, teacher = networks(loss)
    loss.center.copy_(torch.randn(2, 6, generator=generator(4)) / 10)
    center = loss.center.numpy().copy()
    views = images(views=2 + crops)
    hidden = torch.rand(6, 16, generator=generator(3)) < 0.4
    monkeypatch.setattr("sklearn_ssl_masked.ibot.blockwise_mask", lambda *args: hidden)

    patch_head = loss.teacher_heads[-1]
    masks = hidden.split(3)
    s = [student.tokens(v, masks[i], loss.token, with_class=True) for i, v in enumerate(views[:2])]
    s += [student.tokens(v, with_class=True) for v in views[2:]]
    t = [teacher.tokens(v, with_class=True) for v in views[:2]]

    def log_p(token, name):
        return np.log(softmax(getattr(loss, name)(token[None])[0].numpy() / 0.1))

    def q(token, name, which):
        return softmax((teacher.heads[name](token[None])[0].numpy() - center[which]) / 0.04)

    of_classes = [
        -np.mean([q(t[i][k, 0], "head", 0) @ log_p(s[j][k, 0], "head") for k in range(3)])
        for i in range(2)
        for j in range(2 + crops)
        if i != j
    ]
    of_patches = []
    for v in range(2):
        for k in range(3):
            where = hidden[3 * v + k].nonzero().flatten().tolist()
            each = [q(t[v][k, 1 + p], patch_head, 1) @ log_p(s[v][k, 1 + p], patch_head) for p in where]
            of_patches.append(-np.mean(each))
    terms = loss.step(batch(views), student, teacher)
    assert float(terms["class"]) == pytest.approx(np.mean(of_classes), rel=1e-9)
    assert float(terms["patch"]) == pytest.approx(np.mean(of_patches), rel=1e-9)
    assert float(terms["loss"]) == pytest.approx(np.mean(of_classes) + np.mean(of_patches), rel=1e-9)
    logits = torch.cat([teacher.heads["head"](each[:, 0]) for each in t]).numpy()
    np.testing.assert_allclose(loss.center[0].numpy(), 0.9 * center[0] + 0.1 * logits.mean(axis=0))


def test_sinkhorn_by_hand():
    # Already balanced: two rows that prefer one output each stay as they are.
    weights = torch.tensor([[3.0, 1.0], [1.0, 3.0]], dtype=torch.float64)
    torch.testing.assert_close(sinkhorn(weights.log()), weights / 4)
    # Equal rows cannot be told apart: every output gets half of each, whatever they prefer.
    torch.testing.assert_close(
        sinkhorn(torch.tensor([[5.0, 1.0]] * 2, dtype=torch.float64)), torch.full((2, 2), 0.5).double()
    )


def test_koleo_by_hand():
    # Three unit vectors: the first two at right angles, the third opposite to the first. The nearest other of
    # each is sqrt(2) away.
    x = torch.tensor([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0]], dtype=torch.float64)
    assert float(koleo(x)) == pytest.approx(-math.log(math.sqrt(2)), rel=1e-6)


@torch.no_grad()
def test_dinov2_balances_the_teacher_and_adds_koleo():
    loss = DINOv2(out_dim=6, hidden=8, bottleneck=4, local_crops=0)
    student, teacher = networks(loss)
    assert loss.teacher_heads == ("head", "patch_head")
    terms = loss.step(batch(images(views=2)), student, teacher)
    assert set(terms) == {"loss", "class", "patch", "koleo"}
    total = terms["class"] + terms["patch"] + 0.1 * terms["koleo"]
    assert float(terms["loss"]) == pytest.approx(float(total))
    assert not loss.center.any()  # not used


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Data2Vec(n_layers=0), "loss__n_layers=0"),
        (lambda: networks(Data2Vec(n_layers=4)), "the backbone has 3 layers. Give at most 3"),
        (lambda: Data2Vec(beta=0), "loss__beta=0"),
        (lambda: IJEPA(encoder="both"), "loss__encoder='both'"),
        (lambda: networks(IJEPA(), patch=8), "2 x 2 patches, too few for blocks"),
        (lambda: IBOT(centering="none"), "loss__centering='none'"),
        (lambda: IBOT(teacher_temp=0), "loss__teacher_temp=0"),
        (lambda: DINOv2(koleo_weight=-1), "loss__koleo_weight=-1"),
    ],
)
def test_what_cannot_work_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("name", METHODS)
def test_a_backbone_without_tokens_is_refused_before_training(name):
    with pytest.raises(ValueError, match="vit"):
        SSLImageEmbedder(name, backbone="resnet10", max_epochs=1).fit(pixels())


def test_features_are_finite_where_few_patches_are_left():
    for seed in range(10):
        fitted = SSLImageEmbedder("ijepa", max_epochs=1, **{**SMALL, "random_state": seed}).fit(pixels(8))
        assert np.isfinite(fitted.history_[0]["train_loss"])
