"""Fingerprints: equal for equal values and code, different otherwise."""

import enum
import functools
import logging
import os
import random
import subprocess
import sys
import threading
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from sklearn_ssl._hashing import fingerprint, told_by_address
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
    """Create a class as a notebook cell does: a new one of the same name at each run."""
    names = {"__name__": "notebook", "np": np, "torch": torch}
    exec(f"class Mine:\n    {body}", names)
    return names["Mine"]


def module(**values):
    made = types.ModuleType("settings")
    vars(made).update(values)
    return made


class HoldsItself:
    def __init__(self):
        self.me = self

    def __repr__(self):
        return super().__repr__()


def in_notebook(body, **names):
    """Create a function f as a notebook cell does, with global names."""
    names = {"__name__": "notebook", "torch": torch, **names}
    exec(body, names)
    return names["f"]


class Slots:
    __slots__ = ("_scale", "missing")

    def __init__(self, scale):
        self._scale = scale


class Private(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self._scale = scale


class Buffer(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.register_buffer("scale", torch.tensor(scale), persistent=False)


class Color(enum.Enum):
    RED = 1
    BLUE = 2


def with_sentinel(x, y=object()):  # noqa: B008
    return x if y is None else y


def with_empty_cell():
    def f():
        return later

    if f is None:
        later = 1
    return f


def with_attribute(value):
    def f():
        pass

    f.value = value
    return f


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
    "class with an array": lambda: made("rate = np.arange(3)"),
    "class with another array": lambda: made("rate = np.arange(1, 4)"),
    "class with a number of numpy": lambda: made("rate = np.float32(1)"),
    "class with a tensor": lambda: made("rate = torch.ones(3)"),
    "class with another tensor": lambda: made("rate = torch.zeros(3)"),
    "class with a set": lambda: made("rate = {1}"),
    "class with another set": lambda: made("rate = {2}"),
    "class with None": lambda: made("rate = None"),
    "class with a property": lambda: made("rate = property(lambda self: 1)"),
    "class with another property": lambda: made("rate = property(lambda self: 2)"),
    "class with a static method": lambda: made("rate = staticmethod(lambda: 1)"),
    "global number": lambda: in_notebook("def f(x): return x * TAU", TAU=0.1),
    "other global number": lambda: in_notebook("def f(x): return x * TAU", TAU=5.0),
    "global tensor": lambda: in_notebook("def f(x): return x * TAU", TAU=torch.ones(2)),
    "other global tensor": lambda: in_notebook("def f(x): return x * TAU", TAU=torch.zeros(2)),
    "global function": lambda: in_notebook("def f(x): return g(x)", g=in_notebook("def f(x): return x")),
    "other global function": lambda: in_notebook(
        "def f(x): return g(x)", g=in_notebook("def f(x): return 2")
    ),
    "global class": lambda: in_notebook("def f(x): return C(x)", C=made("rate = 1")),
    "other global class": lambda: in_notebook("def f(x): return C(x)", C=made("rate = 2")),
    "global of an inner function": lambda: in_notebook("def f(x): return [TAU * y for y in x]", TAU=1),
    "other global of an inner function": lambda: in_notebook("def f(x): return [TAU * y for y in x]", TAU=2),
    "global of a method": lambda: in_notebook("class f:\n    def g(self): return TAU", TAU=1),
    "other global of a method": lambda: in_notebook("class f:\n    def g(self): return TAU", TAU=2),
    "value of a module": lambda: in_notebook("def f(x): return c.TAU", c=module(TAU=1)),
    "other value of a module": lambda: in_notebook("def f(x): return c.TAU", c=module(TAU=2)),
    "recursion": lambda: in_notebook("def f(x): return f(x - 1)"),
    "enum": lambda: Color.RED,
    "other enum": lambda: Color.BLUE,
    "slots": lambda: Slots(1),
    "other slots": lambda: Slots(2),
    "private attribute of a module": lambda: Private(1),
    "other private attribute of a module": lambda: Private(30),
    "buffer that is in no state": lambda: Buffer(1.0),
    "other buffer that is in no state": lambda: Buffer(2.0),
    "attribute of a function": lambda: with_attribute(1),
    "other attribute of a function": lambda: with_attribute(2),
    "sentinel": object,
    "sentinel as a default": lambda: with_sentinel,
    "lock": threading.Lock,
    "lock that can be taken twice": threading.RLock,
    "logger": lambda: logging.getLogger("some"),
    "empty cell": with_empty_cell,
    "generator of torch": lambda: torch.Generator().manual_seed(1),
    "other generator of torch": lambda: torch.Generator().manual_seed(2),
    "generator of Python": lambda: random.Random(1),
    "other generator of Python": lambda: random.Random(2),
    "bits": lambda: np.random.PCG64(1),
    "other bits": lambda: np.random.PCG64(2),
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
        "import runpy; from sklearn_ssl._hashing import fingerprint\n"
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


def test_all_of_these_are_found_again_by_another_process():
    assert told_by_address([make() for make in VALUES.values()]) == []


def test_what_only_an_address_tells_is_named():
    class Loss:
        def __init__(self):
            self.rows = iter([1, 2])

    loss = in_notebook("def f(x): return next(ROWS)", ROWS=[iter([3])])
    given = {"loss": Loss(), "augment": loss, "other": [1, "at 0x10"], "backbone_params": {"a": zip()}}
    assert told_by_address(given) == ["augment.ROWS", "backbone_params.a", "loss.rows"]


def test_other_versions_of_the_packages_make_other_numbers(monkeypatch):
    before = [fingerprint(value) for value in (nn.Linear, np.mean, scaled, 1)]
    monkeypatch.setattr("sklearn_ssl._hashing._version", lambda package: f"{package} of tomorrow")
    after = [fingerprint(value) for value in (nn.Linear, np.mean, scaled, 1)]
    assert [a == b for a, b in zip(before, after, strict=True)] == [False, False, False, True]


def test_code_that_refers_to_code_deeply_is_no_problem():
    f = in_notebook("def f(x): return x")
    for _ in range(3000):
        f = in_notebook("def f(x): return g(x)", g=f)
    assert len(fingerprint(f)) == 32
