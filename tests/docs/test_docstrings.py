"""Every public object is documented as numpydoc requires."""

import importlib
import re
from pathlib import Path

import pytest
from numpydoc.validate import validate

DOORS = ("sklearn_ssl", "sklearn_ssl.augment", "sklearn_ssl.losses", "sklearn_ssl.testing")
OBJECTS = sorted({f"{door}.{name}" for door in DOORS for name in importlib.import_module(door).__all__})
# Codes of numpydoc for parameters (PR), returned values (RT), the summary (SS) and its absence (GL08).
CHECKED = {"PR01", "PR02", "PR03", "PR04", "PR07", "RT01", "RT02", "SS01", "SS03", "SS06", "GL08"}
PROTOCOLS = ("sklearn_ssl.losses.Student", "sklearn_ssl.losses.Teacher")  # have no constructor to document


@pytest.mark.parametrize("name", [name for name in OBJECTS if name not in PROTOCOLS])
def test_a_public_object_is_documented(name):
    errors = [words for code, words in validate(name)["errors"] if code in CHECKED]
    assert errors == []


def test_the_api_page_lists_every_public_object():
    page = (Path(__file__).parents[2] / "docs" / "api.rst").read_text()
    module, listed = None, set()
    for line in page.splitlines():
        if line.startswith(".. currentmodule::"):
            module = line.split()[-1]
        elif module and re.fullmatch(r"   \w+", line):
            listed.add(f"{module}.{line.strip()}")
    # Names that `sklearn_ssl.losses` shares with `sklearn_ssl`; the built-in losses have pages of their own.
    elsewhere = {f"sklearn_ssl.losses.{name}" for name in ("Batch", "Spec", "SSLLoss", "ViewSpec")}
    elsewhere |= {f"sklearn_ssl.losses.{name}" for name in ("DCL", "NTXent", "VICReg")}
    metrics = {
        f"sklearn_ssl.metrics.{name}" for name in importlib.import_module("sklearn_ssl.metrics").__all__
    }
    assert {*OBJECTS, *metrics} - elsewhere == listed
