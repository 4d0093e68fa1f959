"""Whether two fits are the same one."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from sklearn_ssl.fingerprint import fingerprint
from sklearn_ssl.losses import NTXent


def scaled(x, by=2):
    return x * by


class Thing:
    def __init__(self, size):
        self.size = size

    def show(self):
        return self.size


class Adds:
    by = 1

    def view(self, x):
        return x + self.by


class AddsOtherwise(Adds):
    def view(self, x):
        return x - self.by


def made(body):
    """A class as a notebook's cell makes it: of one name, each time it is run."""
    names = {"__name__": "notebook"}
    exec(f"class Mine:\n    {body}", names)
    return names["Mine"]


class HoldsItself:
    def __init__(self):
        self.me = self

    def __repr__(self):
        return super().__repr__()


def linear(seed=0, width=2):
    torch.manual_seed(seed)
    return nn.Linear(3, width)


def times(k):
    return lambda x: k * x


# Each differs from all others.
VALUES = {
    "None": lambda: None,
    "True": lambda: True,
    "1": lambda: 1,
    "1.0": lambda: 1.0,
    "'1'": lambda: "1",
    "list": lambda: [1, 2],
    "tuple": lambda: (1, 2),
    "nested": lambda: [[1], 2],
    "nested otherwise": lambda: [[1, 2]],
    "dict": lambda: {"a": 1, "b": 2},
    "other dict": lambda: {"a": 2, "b": 1},
    "set": lambda: {"a", "b", "c"},
    "path": lambda: Path("1"),
    "array": lambda: np.arange(4),
    "floats": lambda: np.arange(4.0),
    "square": lambda: np.arange(4).reshape(2, 2),
    "objects": lambda: np.array([1, "a", None], dtype=object),
    "tensor": lambda: torch.arange(4),
    "bfloat16": lambda: torch.arange(4).to(torch.bfloat16),
    "module": lambda: linear(),
    "other weights": lambda: linear(seed=1),
    "other width": lambda: linear(width=4),
    "loss": lambda: NTXent(0.1),
    "other loss": lambda: NTXent(0.5),
    "bound method": lambda: Thing(1).show,
    "other bound method": lambda: Thing(2).show,
    "class of a cell": lambda: made("def f(self): return 1"),
    "class of the same cell, edited": lambda: made("def f(self): return 2"),
    "class with an attribute": lambda: made("rate = 1"),
    "class with another": lambda: made("rate = 2"),
    "base class": lambda: Adds,
    "subclass": lambda: AddsOtherwise,
    "a dict in a dict": lambda: {"x": {"a": 1}, "y": 2},
    "a longer dict in a dict": lambda: {"x": {"a": 1, "y": 2}},
    "holds itself": HoldsItself,
    "numpy module": lambda: np,
    "scalar array": lambda: np.array(1.0),
    "scalar tensor": lambda: torch.tensor(1.0),
    "class": lambda: Thing,
    "instance": lambda: Thing(1),
    "other instance": lambda: Thing(2),
    "function": lambda: scaled,
    "partial": lambda: functools.partial(scaled, by=3),
    "other partial": lambda: functools.partial(scaled, by=4),
    "lambda": lambda: lambda x: x + 1,
    "other lambda": lambda: lambda x: x + 2,
    "closure": lambda: times(2),
    "other closure": lambda: times(3),
    "built-in": lambda: len,
    "device": lambda: torch.device("cpu"),
    "dtype": lambda: torch.float32,
    "new generator": lambda: np.random.default_rng(0),
    "other new generator": lambda: np.random.default_rng(1),
    "generator": lambda: np.random.RandomState(0),
    "other generator": lambda: np.random.RandomState(1),
}


def test_different_things_differ():
    digits = {name: fingerprint(make()) for name, make in VALUES.items()}
    assert len(set(digits.values())) == len(VALUES)
    assert all(len(each) == 32 for each in digits.values())


@pytest.mark.parametrize("name", VALUES)
def test_equal_things_are_equal(name):
    assert fingerprint(VALUES[name]()) == fingerprint(VALUES[name]())


def test_neither_the_order_of_a_dict_nor_the_layout_of_an_array_counts():
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    x = torch.rand(2, 3, 4, 5)
    assert fingerprint(x) == fingerprint(x.to(memory_format=torch.channels_last))


def test_where_values_end_counts():
    assert fingerprint("ab", "c") != fingerprint("a", "bc")
    assert fingerprint([1], [2, 3]) != fingerprint([1, 2], [3])


def test_it_is_the_same_in_every_process():
    code = (
        "import runpy; from sklearn_ssl.fingerprint import fingerprint\n"
        f"values = runpy.run_path({__file__!r})['VALUES']\n"
        "print([fingerprint(values[name]()) for name in values])"
    )
    out = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert out[0] == out[1]
    assert len(out[0]) > 32 * len(VALUES)
