"""Validation of parameters: numbers within limits, choices, booleans, keywords; errors name the parameter."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from sklearn_ssl._checks import check_bool, check_choice, check_number, check_params, is_whole, shortened


def message_of(call, *args, **kwargs):
    with pytest.raises(ValueError) as caught:
        call(*args, **kwargs)
    return str(caught.value)


@pytest.mark.parametrize("value", [0.5, np.float32(0.5), np.float64(0.5), Fraction(1, 2)])
def test_a_number_of_any_kind_comes_back_as_a_float(value):
    checked = check_number("x", value, above=0)
    assert type(checked) is float
    assert checked == 0.5


@pytest.mark.parametrize("value", [3, np.int8(3), np.uint64(3)])
def test_a_whole_number_of_any_kind_comes_back_as_an_int(value):
    checked = check_number("x", value, whole=True, at_least=3, at_most=3)
    assert type(checked) is int
    assert checked == 3


@pytest.mark.parametrize(
    "value",
    [
        *(True, np.True_, "1", None, 1j, np.nan, np.inf, -np.inf, 1e39, 10**400, -(10**400)),
        *([1], np.ones(1), np.array(1.0), torch.tensor(1.0), int),
    ],
)
def test_what_is_no_finite_number_is_refused(value):
    assert message_of(check_number, "loss__x", value) == f"loss__x={shortened(value)}: give a finite number."


def test_a_whole_number_has_no_fraction():
    assert message_of(check_number, "x", 2.0, whole=True) == "x=2.0: give an integer."


def test_limits_are_told_together():
    limits = {"above": 0, "at_most": 1}
    assert [check_number("x", value, **limits) for value in (1e-9, 1)] == [1e-9, 1]
    for value in (0, 1.001):
        assert message_of(check_number, "x", value, **limits, instead=("auto", None)) == (
            f"x={value}: give a finite number above 0 and at most 1, or 'auto', or None."
        )
    limits = {"at_least": 0, "below": 1}
    assert [check_number("x", value, **limits) for value in (0, 0.999)] == [0, 0.999]
    for value in (-1e-9, 1):
        assert "give a finite number of at least 0 and below 1." in message_of(
            check_number, "x", value, **limits
        )


def test_words_may_stand_in_the_place_of_a_number():
    assert check_number("x", "auto", instead=("auto", None)) == "auto"
    assert check_number("x", None, instead=("auto", None)) is None
    assert "x='Auto'" in message_of(check_number, "x", "Auto", instead=("auto", None))


def test_a_choice_is_one_of_those_that_there_are():
    assert check_choice("x", "b", ("a", "b")) == "b"
    for value in ("c", ["a"], np.array(["a", "b"]), None, 0):
        assert message_of(check_choice, "x", value, ("a", "b", "d")) == (
            f"x={shortened(value)}: give 'a', 'b' or 'd'."
        )


def test_true_and_false_are_no_words_or_numbers():
    assert [check_bool("x", value) for value in (True, False, np.True_)] == [True, False, True]
    assert check_bool("x", "auto", instead=("auto",)) == "auto"
    for value in ("no", 0, 1, None, [], np.ones(1, bool)):
        assert message_of(check_bool, "x", value) == f"x={shortened(value)}: give True or False."


def test_keywords_are_a_dict_of_names():
    assert check_params("loss_params", None) == {}
    given = {"a": 1}
    checked = check_params("loss_params", given)
    assert checked == given
    assert checked is not given
    for value in (5, [], "", {1: 2}, [("a", 1)]):
        assert message_of(check_params, "loss_params", value).startswith(
            f"loss_params={value!r}: give a dict"
        )


def test_true_is_no_whole_number():
    assert [is_whole(value) for value in (1, np.int64(1), True, 1.0, "1")] == [
        True,
        True,
        False,
        False,
        False,
    ]


def test_long_values_are_cut_in_messages():
    assert shortened("x") == "'x'"
    assert shortened(10**400) == "1" + 96 * "0" + "..."
