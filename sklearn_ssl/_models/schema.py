"""Schemas of plain content: which values a file may contain, and where."""

from __future__ import annotations

from typing import Any


class SchemaError(ValueError):
    """Raised if content does not match its schema."""


def check_schema(value: Any, schema: Any, where: str) -> None:
    """Compare content with a schema.

    Parameters
    ----------
    value : dict, list, tuple, Tensor, str, int, float, bool or None, nested
        Content to check.
    schema : type, None, callable, tuple, list or dict
        One of:

        - a type, matched exactly (a bool is not an int), or object, which matches anything;
        - None, which matches None;
        - a function, which returns whether it accepts the value;
        - a tuple of schemas, one of which must match;
        - a list of one schema, which every item of a list or tuple must match;
        - a dict from names to the schemas of their values. A name that ends in "?" is optional, and names
          that the schema does not contain are ignored;
        - a dict from one type, which every key must match, to the schema of every value.
    where : str
        Path of the value in the content, for the message.

    Raises
    ------
    SchemaError
        If the content does not match; the message names the first path that differs.
    """
    if isinstance(schema, dict):
        _check_dict(value, schema, where)
    elif isinstance(schema, list):
        if not isinstance(value, list | tuple):
            raise _mismatch(value, where)
        for i, item in enumerate(value):
            check_schema(item, schema[0], f"{where}/{i}")
    elif not any(_matches(value, each) for each in (schema if isinstance(schema, tuple) else (schema,))):
        raise _mismatch(value, where)


def _check_dict(value: Any, schema: dict, where: str) -> None:
    if not isinstance(value, dict):
        raise _mismatch(value, where)
    for name, inner in schema.items():
        if isinstance(name, type):
            for key, item in value.items():
                check_schema(key, name, f"{where}/")
                check_schema(item, inner, f"{where}/{key}")
        elif name.removesuffix("?") in value:
            check_schema(value[name.removesuffix("?")], inner, f"{where}/{name.removesuffix('?')}")
        elif not name.endswith("?"):
            raise SchemaError(f"{where}/{name} is missing")


def _matches(value: Any, schema: Any) -> bool:
    if schema is None or schema is object:
        return value is None or schema is object
    if isinstance(schema, type):
        return type(value) is schema
    if isinstance(schema, list | dict):
        try:
            check_schema(value, schema, "")
        except SchemaError:
            return False
        return True
    return schema(value)


def _mismatch(value: Any, where: str) -> SchemaError:
    return SchemaError(f"{printable(where)} is {value!r:.80}")


def is_count(value: Any) -> bool:
    """Return whether a value is an int of at least 0."""
    return type(value) is int and value >= 0


def printable(text: str, max_length: int = 100) -> str:
    """Return untrusted text, truncated and with control characters escaped, for output to a terminal."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text[:max_length])
