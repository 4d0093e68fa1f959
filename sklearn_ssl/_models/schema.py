"""The form of plain content: what a file may hold, and where."""

from __future__ import annotations

from typing import Any


class FormError(ValueError):
    """Content has not the form that it should have."""


def check_form(value: Any, form: Any, where: str) -> None:
    """Compare content with its form.

    Parameters
    ----------
    value : dict, list, tuple, Tensor, str, int, float, bool or None, nested
    form : type, None, callable, tuple, list or dict
        A type, which is the value's own (a bool is no int; object: anything); None; a function that says
        whether it accepts the value; a tuple of forms, one of which the value has; a list of one form, which
        the items of a list or tuple have. Of a dict, names with the forms of their values, where "name?" may
        be missing and other names are not looked at; or one type of all keys, with the form of all values.
    where : str
        Place of the value, for the message.

    Raises
    ------
    FormError
        It names the first place where they differ.
    """
    if isinstance(form, dict):
        _check_dict(value, form, where)
    elif isinstance(form, list):
        if not isinstance(value, list | tuple):
            raise _wrong(value, where)
        for i, item in enumerate(value):
            check_form(item, form[0], f"{where}/{i}")
    elif not any(_fits(value, each) for each in (form if isinstance(form, tuple) else (form,))):
        raise _wrong(value, where)


def _check_dict(value: Any, form: dict, where: str) -> None:
    if not isinstance(value, dict):
        raise _wrong(value, where)
    for name, inner in form.items():
        if isinstance(name, type):
            for key, item in value.items():
                check_form(key, name, f"{where}/")
                check_form(item, inner, f"{where}/{key}")
        elif name.removesuffix("?") in value:
            check_form(value[name.removesuffix("?")], inner, f"{where}/{name.removesuffix('?')}")
        elif not name.endswith("?"):
            raise FormError(f"{where}/{name} is missing")


def _fits(value: Any, form: Any) -> bool:
    if form is None or form is object:
        return value is None or form is object
    if isinstance(form, type):
        return type(value) is form
    if isinstance(form, list | dict):
        try:
            check_form(value, form, "")
        except FormError:
            return False
        return True
    return form(value)


def _wrong(value: Any, where: str) -> FormError:
    return FormError(f"{printable(where)} is {value!r:.80}")


def is_count(value: Any) -> bool:
    """A whole number of at least 0."""
    return type(value) is int and value >= 0


def printable(text: str, most: int = 100) -> str:
    """Text of a stranger's file for a terminal: characters that would steer it are escaped."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text[:most])
