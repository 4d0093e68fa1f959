"""Wrong parameters: is each rejected with an error message of this package?

`python benchmarks/fuzz.py --parameters` runs this module.

Every parameter of the constructor and of each component is set to each of VALUES in turn, for a fit of one
step on four small images. A fit that succeeds counts as "right" if RANGES allows the value, else as "silent".
An error counts as "refused" if it is a ValueError or TypeError that names the parameter as the user writes
it, or if it reports that a loss failed in training or a function in reading. Any other error counts as "raw",
and so does a fit that takes more than SECONDS.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import re
import signal
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageColor
from skorch.callbacks import Callback
from torch import nn

from sklearn_ssl import SSLImageEmbedder, available_losses, get_loss
from sklearn_ssl._images.lazy import UnreadableImage

SECONDS = 20
VALUES = (
    *(None, True, False, 0, 1, -1, 2, 3, 0.5, -0.5, 1.5),
    *(float("nan"), float("inf"), float("-inf"), 1e30, 1e300, 10**12, 10**60, 10**400),
    *("", "x", "1", "auto", b"x", Path("x"), 1j, Decimal("0.5"), Fraction(1, 2)),
    *([], [1], (), (1, 2), [[1]], {}, {"a": 1}, {1: 2}, {1}, range(3)),
    *(np.float32(0.5), np.int64(2), np.bool_(True), np.float64("nan"), np.zeros(3), np.array("x")),
    *(torch.tensor(0.5), torch.zeros(2), int, dict, object(), len, lambda: None, nn.Linear(3, 3), Callback()),
)


# ------------------------------------------------------------------ valid values


def number(low: float, high: float = 1e38, *, whole: bool = False, ends: str = "[]", also: tuple = ()):
    """Return a test for numbers in a range, with "(" and ")" for open ends, and for some words."""

    def is_valid(value: Any) -> bool:
        if isinstance(value, str | None):
            return value in also
        if isinstance(value, bool) or not isinstance(value, Integral if whole else Real):
            return False
        above = value > low if ends[0] == "(" else value >= low
        return bool(above and (value < high if ends[1] == ")" else value <= high))

    return is_valid


def one_of(*choices: Any) -> Callable[[Any], bool]:
    """Return a test for values that equal one of the choices and have its type."""
    return lambda value: any(type(value) is type(choice) and value == choice for choice in choices)


def is_bool(value: Any) -> bool:
    return isinstance(value, bool | np.bool_)


def is_names(value: Any) -> bool:
    return value is None or (isinstance(value, dict) and not value)


def is_widths(value: Any) -> bool:
    positive = number(1, whole=True)
    return isinstance(value, tuple | list | range) and len(value) > 0 and all(map(positive, value))


def is_random_state(value: Any) -> bool:
    return value is None or number(0, 2**32 - 1, whole=True)(value)


def is_path(value: Any) -> bool:
    return isinstance(value, str | os.PathLike | None)


def is_color(value: Any) -> bool:
    try:
        return bool(ImageColor.getrgb(value))
    except (ValueError, AttributeError, TypeError):
        return False


SHARE, PROBABILITY, POSITIVE = number(0, 1, ends="(]"), number(0, 1), number(0, ends="(]")
AT_LEAST_0, COUNT = number(0), number(1, whole=True)
COUNT_OR_AUTO = number(1, whole=True, also=("auto",))
SEVERAL = number(2, whole=True)
DECAY = number(0, 1, ends="[)")

# Keys are parameter names, preceded by the name of the loss if the same name means different things.
RANGES: dict[str, Callable[[Any], bool]] = {
    # of the constructor
    "loss": one_of(*available_losses()),
    "backbone": one_of("auto"),
    "projector": lambda value: is_widths(value) or (isinstance(value, str) and value == "auto"),
    "augment": one_of("auto", "none"),
    "image_shape": lambda value: value is None,
    "image_size": lambda value: COUNT_OR_AUTO(value) or (is_widths(value) and len(value) == 2),
    "reader": one_of(None),
    "max_epochs": COUNT_OR_AUTO,
    "max_time": number(0, ends="(]", also=(None,)),
    "batch_size": number(2, whole=True, also=("auto",)),
    "frozen_fraction": DECAY,
    "micro_batches": COUNT,
    "optimizer": one_of("auto"),
    "lr": number(0, 1e6, ends="(]", also=("auto",)),
    "weight_decay": number(0, 1e6, also=("auto",)),
    "warmup": number(0, 1, also=("auto",)),
    "device": one_of("auto"),
    "precision": one_of("auto"),
    "compile": is_bool,
    "validation_fraction": lambda value: value == 0,  # of four images nothing can be held back
    "eval_metrics": one_of("auto"),
    "eval_every": COUNT_OR_AUTO,
    "callbacks": lambda value: value is None or (isinstance(value, list | tuple) and not value),
    "checkpoint": is_path,
    "warm_start": is_bool,
    "random_state": is_random_state,
    "verbose": lambda value: is_bool(value) or number(0, whole=True)(value),
    **{f"{slot}_params": is_names for slot in ("loss", "backbone", "augment", "optimizer", "reader")},
    # of backbones
    "backbone__stem": one_of("auto"),
    "backbone__weights": lambda value: value is None,
    "backbone__patch": COUNT_OR_AUTO,
    "backbone__heads": COUNT_OR_AUTO,
    "backbone__width": COUNT,
    "backbone__depth": COUNT,
    "backbone__pooling": one_of("mean", "class"),
    # of augmentations
    **{
        f"augment__{name}": number(0, high, also=("auto",))
        for high, names in {
            1e38: ("brightness", "contrast", "saturation", "noise"),
            1: (
                *("flip", "vertical_flip", "quarter_turns", "color_jitter", "grayscale", "blur"),
                *("cutout", "solarize", "sobel"),
            ),
            180: ("rotation",),
            80: ("shear",),
            0.5: ("hue",),
        }.items()
        for name in names
    },
    "augment__crop": number(0, 1, ends="(]", also=("auto",)),
    # optimizers'
    "optimizer__momentum": DECAY,
    "optimizer__nesterov": is_bool,
    "optimizer__clip_norm": number(0, ends="(]", also=(None,)),
    "optimizer__betas": lambda value: False,
    "optimizer__eps": AT_LEAST_0,
    "optimizer__trust": POSITIVE,
    "optimizer__rows": COUNT,
    "optimizer__iterations": COUNT,
    # the reader's
    "reader__on_error": one_of("raise", "skip"),
    "reader__read": lambda value: value is None,
    "reader__background": is_color,
    "reader__cache": is_path,
    "reader__workers": number(1, math.inf, whole=True, also=("auto",)),
    "reader__max_pixels": COUNT,
    **dict.fromkeys(("reader__memory_limit", "reader__cache_limit"), number(1, math.inf, whole=True)),
    # losses'
    "loss__temperature": POSITIVE,
    "loss__momentum": PROBABILITY,
    "loss__asymmetric_views": is_bool,
    "loss__encoder": one_of("student", "teacher"),
    "loss__n_views": number(2, 100, whole=True),
    "loss__lambd": PROBABILITY,
    "loss__n_directions": number(1, 2**16, whole=True),
    "loss__queue_size": number(4, whole=True, also=("auto",)),
    "loss__local_crops": number(0, 100, whole=True, also=("auto",)),
    "loss__local_size": lambda value: (
        all(map(SHARE, value)) and len(value) > 0 if isinstance(value, tuple | list) else SHARE(value)
    ),
    "loss__mask_ratio": number(0, 1, ends="()"),
    "loss__decoder_width": COUNT,
    "loss__grid": number(2, 3, whole=True, also=("auto",)),
    "cpc loss__grid": number(2, whole=True, also=("auto",)),
    "loss__head_width": COUNT,
    "loss__head_depth": number(0, whole=True),
    "loss__predictor_dim": number(1, whole=True, also=(None,)),
    "barlow_twins loss__lambd": AT_LEAST_0,
    "barlow_twins loss__scale": POSITIVE,
    "data2vec loss__n_layers": number(1, 3, whole=True),
    "data2vec loss__beta": POSITIVE,
    "diet loss__label_smoothing": DECAY,
    **{
        f"{loss} loss__{name}": is_valid
        for loss in ("ibot", "dinov2")
        for name, is_valid in {
            "out_dim": SEVERAL,
            "hidden": COUNT,
            "bottleneck": COUNT,
            "shared_head": is_bool,
            "student_temp": POSITIVE,
            "teacher_temp": POSITIVE,
            "centering": one_of("mean", "sinkhorn"),
            "center_momentum": PROBABILITY,
            "koleo_weight": AT_LEAST_0,
        }.items()
    },
    "ijepa loss__n_blocks": COUNT,
    "ijepa loss__predictor_width": COUNT,
    "ijepa loss__predictor_depth": COUNT,
    "mmcr loss__lambd": AT_LEAST_0,
    "emp_ssl loss__n_patches": number(2, 1000, whole=True),
    "emp_ssl loss__patch_area": SHARE,
    "emp_ssl loss__weight": AT_LEAST_0,
    "emp_ssl loss__epsilon": POSITIVE,
    "simsiam loss__predictor_schedule": one_of("cosine", "constant"),
    "tico loss__beta": PROBABILITY,
    "tico loss__rho": AT_LEAST_0,
    "beit loss__tokenizer": lambda value: value is None,
    "beit loss__vocab": SEVERAL,
    "beit loss__tokenizer_share": number(0, 1, ends="()"),
    "beit loss__tokenizer_width": COUNT,
    "beit loss__kl_weight": AT_LEAST_0,
    "colorization loss__bins": SEVERAL,
    "cpc loss__steps": COUNT,
    "cpc loss__dim": COUNT,
    "dclw loss__sigma": POSITIVE,
    "deepcluster loss__n_clusters": number(2, 4, whole=True, also=("auto",)),
    "deepcluster loss__n_groupings": COUNT,
    "deepcluster loss__kmeans_iterations": COUNT,
    "deepcluster loss__passes": one_of("none", "first", "all"),
    "dino loss__out_dim": SEVERAL,
    "dino loss__student_temp": POSITIVE,
    "dino loss__teacher_temp": POSITIVE,
    "dino loss__warmup_teacher_temp": POSITIVE,
    "dino loss__teacher_temp_warmup": PROBABILITY,
    "dino loss__center_momentum": PROBABILITY,
    "dino loss__freeze_last_layer": number(0, whole=True),
    "dino loss__initial_weight_decay": PROBABILITY,
    "inpainting loss__holes": number(1, 64, whole=True),
    "jigsaw loss__permutations": SEVERAL,
    "jigsaw loss__tiles": one_of("together", "apart"),
    "mae loss__decoder_depth": number(0, whole=True),
    "mae loss__normalize_targets": is_bool,
    "margin loss__margin": POSITIVE,
    # int is a function of progress that returns 0 until the end.
    **dict.fromkeys(
        ("meanshift loss__momentum", "moco loss__momentum"), lambda value: PROBABILITY(value) or value is int
    ),
    "meanshift loss__k": COUNT,
    "relative_location loss__drop_colors": lambda value: is_bool(value) or one_of("auto")(value),
    "simmim loss__mask_size": COUNT_OR_AUTO,
    "swav loss__n_prototypes": number(2, 4, whole=True, also=("auto",)),
    "swav loss__epsilon": POSITIVE,
    "swav loss__sinkhorn_iterations": COUNT,
    "swav loss__freeze_epochs": number(0, whole=True),
    "swav loss__queue_from": PROBABILITY,
    "triplet loss__margin": AT_LEAST_0,
    "triplet loss__negatives": one_of("violating", "hardest"),
    "vicreg loss__sim_coeff": AT_LEAST_0,
    "vicreg loss__std_coeff": AT_LEAST_0,
    "vicreg loss__cov_coeff": AT_LEAST_0,
    "vicregl loss__alpha": PROBABILITY,
    "vicregl loss__matches": SHARE,
    "vicregl loss__sim_coeff": AT_LEAST_0,
    "vicregl loss__std_coeff": AT_LEAST_0,
    "vicregl loss__cov_coeff": AT_LEAST_0,
    "wmse loss__w_size": number(2, 4, whole=True, also=("auto",)),
    "wmse loss__w_iter": COUNT,
    "wmse loss__w_eps": AT_LEAST_0,
    "yaware loss__sigma": POSITIVE,
}
# Numbers of layers or iterations, which have no upper limit: large values are valid, but take too long.
LOOPS = (
    *("backbone__depth", "loss__decoder_depth", "loss__head_depth", "loss__kmeans_iterations"),
    *("loss__predictor_depth", "loss__n_blocks", "loss__n_patches", "loss__n_views"),
    *("loss__n_groupings", "loss__sinkhorn_iterations", "loss__w_iter", "optimizer__iterations"),
)


# ------------------------------------------------------------------ fits


class Tiny(nn.Module):
    """One convolution, which returns feature maps for images of any size."""

    def __init__(self, in_channels: int):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x).relu()


class Stepped(Exception):
    """Raised after the first step, when the parameters have been accepted."""


class StopAfterAStep(Callback):
    """Callback that ends a fit after its first step, however long its parameters make it."""

    def on_batch_end(self, net: Any, **_: Any) -> None:
        raise Stepped


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, _too_slow)
    outcomes: Counter = Counter()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for settings, name, is_valid in parameters():
            for value in VALUES:
                if is_left_out(name, value):
                    continue
                outcome, words = outcome_of(settings, name, value, is_valid)
                outcomes[outcome] += 1
                if outcome in ("raw", "silent"):
                    where = " ".join(f"{key}={given!r}" for key, given in settings.items())
                    print(f"{outcome}: {where} {name}={value!r:.40}: {words:.300}", flush=True)
    print(f"{sum(outcomes.values())} values of {len(list(parameters()))} parameters: {dict(outcomes)}")


def parameters() -> Iterator[tuple[dict[str, Any], str, Callable[[Any], bool]]]:
    """Generate (other settings, name, test of validity) of every parameter, component by component."""
    for name in SSLImageEmbedder().get_params(deep=False):
        yield {}, name, RANGES[name]
    chosen = {
        "loss": list(available_losses()),
        "backbone": ["resnet18", "vit", "mobilenet_v3_small"],
        "augment": ["photo"],
        "optimizer": ["muon", "adamw", "sgd"],
        "reader": [None],
    }
    for slot, values in chosen.items():
        for value in values:
            for name in SSLImageEmbedder(**{slot: value}).get_params():
                if name.startswith(f"{slot}__"):
                    yield {slot: value}, name, RANGES.get(f"{value} {name}") or RANGES[name]


def is_left_out(name: str, value: Any) -> bool:
    """Return whether a value would need a compiler or take forever."""
    takes_forever = name in LOOPS and isinstance(value, int) and value == 10**12
    return takes_forever or (name == "compile" and is_bool(value))


def outcome_of(
    settings: dict[str, Any], name: str, value: Any, is_valid: Callable[[Any], bool]
) -> tuple[str, str]:
    signal.alarm(SECONDS)
    try:
        fit(settings, name, value)
    except Stepped:
        pass
    except Exception as error:
        words = f"{type(error).__name__}: {error}"
        return ("refused" if is_ours(error, name) else "raw"), words
    finally:
        signal.alarm(0)
    return ("right" if is_valid(value) else "silent"), ""


def fit(settings: dict[str, Any], name: str, value: Any) -> None:
    small = dict(backbone=Tiny, projector=(4,), max_epochs=1, batch_size=4, random_state=0, device="cpu")
    loss = settings.get("loss", "ntxent")
    if getattr(get_loss(loss), "defaults", {}).get("backbone") == "vit":
        small["backbone"] = "vit"
    if "vit" in (small["backbone"], settings.get("backbone")):
        small["backbone_params"] = dict(width=8, depth=3 if loss == "data2vec" else 1)
    if settings.get("loss") == "meanshift":
        small["loss_params"] = dict(k=2)
    if name in ("max_epochs", "max_time", "verbose"):
        small["callbacks"] = [StopAfterAStep()]
    estimator = SSLImageEmbedder(**{**small, **settings, name: value})
    repr(estimator)
    estimator.get_params()
    if name.startswith("reader__"):
        estimator.fit(files())
    else:
        estimator.fit(images(settings.get("loss")), [0, 0, 1, 1])
        estimator.transform(images(settings.get("loss")))


def is_ours(error: Exception, name: str) -> bool:
    """Return whether an error names the parameter, or is about the loss or the reading function."""
    if name == "reader__read" and isinstance(error, UnreadableImage):
        return True
    if isinstance(error, RuntimeError | FloatingPointError):
        return str(error).startswith("The loss '")
    names = rf"\b({name}\b|{name.removesuffix('_params')}__)"  # loss_params={'x': 1} is also loss__x=1
    return isinstance(error, ValueError | TypeError) and re.search(names, str(error)) is not None


@functools.cache
def images(loss: str | None) -> np.ndarray:
    side = 32 if loss in ("cpc", "jigsaw", "relative_location") else 8
    return np.random.default_rng(0).integers(0, 256, (4, side, side, 3), dtype=np.uint8)


@functools.cache
def files() -> list[Path]:
    paths = [Path(f"{number}.png").absolute() for number in range(4)]
    for path, image in zip(paths, images(None), strict=True):
        Image.fromarray(image).save(path)
    return paths


def _too_slow(*_: Any) -> None:
    raise TimeoutError(f"more than {SECONDS} seconds")
