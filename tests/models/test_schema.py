"""Schemas of the content of model files."""

import pytest

from sklearn_ssl._models.schema import SchemaError, check_schema, is_count, printable

SCHEMA = {
    "steps": is_count,
    "rate": (int, float),
    "rows": [{"epoch": int}],
    "state": ({str: int}, None),
    "note?": str,
    "any": object,
}
GOOD = {"steps": 3, "rate": 0.1, "rows": [{"epoch": 1, "more": "x"}], "state": {"a": 1}, "any": [None]}


@pytest.mark.parametrize(
    "change", [{}, {"rate": 1}, {"rows": ()}, {"state": None}, {"note": "x"}, {"new": 1}]
)
def test_content_that_matches_passes(change):
    check_schema({**GOOD, **change}, SCHEMA, "content")


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"steps": -1}, "content/steps is -1"),
        ({"steps": True}, "content/steps is True"),
        ({"rate": "fast"}, "content/rate is 'fast'"),
        ({"rows": 5}, "content/rows is 5"),
        ({"rows": [{"epoch": 1}, {}]}, "content/rows/1/epoch is missing"),
        ({"state": {"a": "b"}}, "content/state is {'a': 'b'}"),
        ({"state": {1: 1}}, "content/state is {1: 1}"),
        ({"note": None}, "content/note is None"),
    ],
)
def test_the_first_place_that_is_otherwise_is_named(change, where):
    with pytest.raises(SchemaError) as caught:
        check_schema({**GOOD, **change}, SCHEMA, "content")
    assert str(caught.value) == where


def test_a_missing_part_is_named():
    with pytest.raises(SchemaError, match="content/steps is missing"):
        check_schema({}, SCHEMA, "content")


def test_text_of_strangers_does_not_steer_the_terminal():
    assert printable("Tiny\x1b[2J\nnext") == r"Tiny\x1b[2J\nnext"
    assert len(printable("x" * 1000)) == 100
