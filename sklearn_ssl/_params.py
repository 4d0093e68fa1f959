"""Nested parameters: `loss__x` as an entry of `loss_params`, and grids with separate ones per loss."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from keyword import iskeyword
from types import MethodType
from typing import Any, ClassVar, Self

from sklearn.base import BaseEstimator, clone
from sklearn.model_selection import ParameterGrid
from torch import nn

from sklearn_ssl._checks import check_params, shortened

EMPTY = inspect.Parameter.empty
# The kinds of parameters, as `inspect.Parameter.kind` has them.
KEYWORD_ONLY = inspect.Parameter.KEYWORD_ONLY
POSITIONAL_OR_KEYWORD = inspect.Parameter.POSITIONAL_OR_KEYWORD
VAR_KEYWORD = inspect.Parameter.VAR_KEYWORD


def hide_var_keyword(init: Callable) -> Callable:
    """Hide the **kwargs of an `__init__` from `inspect.signature`; a decorator.

    scikit-learn's `check_do_not_raise_errors_in_init_or_set_params` would treat the **kwargs as a parameter
    of that name, and set it.
    """
    signature = inspect.signature(init)
    named = [p for p in signature.parameters.values() if p.kind is not VAR_KEYWORD]
    init.__signature__ = signature.replace(parameters=named)  # type: ignore[attr-defined]  # read by inspect
    return init


def did_you_mean(name: str, known: Iterable[str], prefix: str = "") -> str:
    """Return a sentence, preceded by a space, that suggests the closest known name; or ""."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {prefix + near[0]!r}?" if near else ""


def _lists_parameters(method: Callable) -> Callable:
    """Let the signature of `set_params` list the parameters of its instance, for completion and help."""
    return _ListsParameters(method)  # type: ignore[return-value]  # a function on an instance


class _ListsParameters:
    def __init__(self, method: Callable):
        self._method = method
        self.__doc__ = method.__doc__

    def __get__(self, instance: Any, owner: Any = None) -> Callable:
        if instance is None:
            return self._method

        @functools.wraps(self._method)
        def method(self_: Any, **params: Any) -> Any:
            return self._method(self_, **params)

        # An instance that is not complete, as while it is constructed or unpickled, lists nothing.
        with suppress(Exception):
            method.__signature__ = _signature(instance.get_params())  # type: ignore[attr-defined]
        return MethodType(method, instance)


def _signature(params: Mapping[str, Any]) -> inspect.Signature:
    """Return the signature of a method that takes these parameters, and others, as keywords."""
    named = {name: value for name, value in params.items() if name.isidentifier() and not iskeyword(name)}
    listed = [inspect.Parameter(name, KEYWORD_ONLY, default=value) for name, value in named.items()]
    first, last = inspect.Parameter("self", POSITIONAL_OR_KEYWORD), inspect.Parameter("params", VAR_KEYWORD)
    return inspect.Signature([first, *listed, last])


class ComponentParamsMixin:
    """Mixin that adds nested parameters for the component slots of an estimator.

    For a slot `loss`, the constructor has the parameters `loss` and `loss_params`, and ends with
    ``self._init_nested(nested)``; `loss__x` reads and writes ``loss_params["x"]``, in the constructor,
    `get_params`, `set_params` and searches. The given dict is never changed, but replaced by a new one.

    Attributes
    ----------
    _component_slots : dict of str to callable
        Resolver of each slot. It maps the value of the slot to the class or function whose signature lists
        the parameters, or to an instance, which has none to set; it raises for an unknown name. The nested
        parameters of a class are all its parameters with a default, those of a function its keyword-only
        parameters with a default.
    """

    _component_slots: ClassVar[dict[str, Callable[[Any], Any]]] = {}

    def _init_nested(self, nested: dict[str, Any]) -> None:
        """Store nested parameters; like all others they are checked in `fit`."""
        init = f"{type(self).__name__}.__init__()"
        for key, value in nested.items():
            slot, delimiter, name = key.partition("__")
            if not delimiter or slot not in self._component_slots:
                raise TypeError(f"{init} got an unexpected keyword argument {key!r}")
            if _follows_sklearn(getattr(self, slot)):
                getattr(self, slot).set_params(**{name: value})
        for slot in self._component_slots:
            prefix, given = f"{slot}__", getattr(self, f"{slot}_params")
            inner = {key.removeprefix(prefix): nested[key] for key in nested if key.startswith(prefix)}
            _check_one_value(slot, given, inner)
            mergeable = given is None or isinstance(given, Mapping)  # else `fit` says what is wrong with it
            if inner and mergeable and not _follows_sklearn(getattr(self, slot)):
                setattr(self, f"{slot}_params", _listed(given) | inner)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Get the parameters of this estimator.

        Parameters
        ----------
        deep : bool, default=True
            Whether to include all parameters of each component, with their given values or defaults.

        Returns
        -------
        dict of str to object
            Parameter names mapped to their values.
        """
        params: dict[str, Any] = super().get_params(deep=deep)  # type: ignore[misc]  # of BaseEstimator
        if deep:
            for slot in self._component_slots:
                if not _follows_sklearn(params[slot]):
                    values = self._component_defaults(slot) | _listed(params[f"{slot}_params"])
                    params |= {f"{slot}__{name}": value for name, value in values.items()}
        return params

    @_lists_parameters
    def set_params(self, **params: Any) -> Self:
        """Set parameters of this estimator, of its components and of nested estimators.

        A component that is replaced is reset to its own defaults, except for parameters given in the same
        call.

        Parameters
        ----------
        **params : dict
            Parameter names and values; ``loss__x`` is the parameter ``x`` of the loss.

        Returns
        -------
        self : estimator instance
            Estimator instance.

        Raises
        ------
        ValueError
            If a name is not a parameter of the component that is chosen before or by this call.
        """
        plain = dict(params)
        chosen = self._chosen() | {slot: params[slot] for slot in self._component_slots if slot in params}
        for slot in self._component_slots:
            attribute = f"{slot}_params"
            if self._is_replaced(slot, chosen):
                plain.setdefault(attribute, None)
            if _follows_sklearn(chosen[slot]):
                continue
            prefix = f"{slot}__"
            nested = {key.removeprefix(prefix): plain.pop(key) for key in params if key.startswith(prefix)}
            _check_one_value(slot, params.get(attribute), nested)
            if nested:
                self._check_names(slot, nested, chosen)
                given = check_params(attribute, plain.get(attribute, getattr(self, attribute)))
                plain[attribute] = given | nested
        return super().set_params(**plain)  # type: ignore[misc]  # of BaseEstimator

    def _component_defaults(self, slot: str) -> dict[str, Any]:
        # get_params must never raise: for an unknown name or a broken plugin, no parameters are listed.
        try:
            return tunable_params(self._component(slot, self._chosen()))[0]
        except Exception:
            return {}

    def _chosen(self) -> dict[str, Any]:
        """Return the value of each slot."""
        return {slot: getattr(self, slot) for slot in self._component_slots}

    def _component(self, slot: str, chosen: Mapping[str, Any]) -> Any:
        """Return the class, function or instance that has a slot's parameters, for these slot values."""
        return self._component_slots[slot](chosen[slot])

    def _is_replaced(self, slot: str, chosen: Mapping[str, Any]) -> bool:
        """Return whether these values of the slots replace the component of a slot."""
        return not _same(chosen[slot], getattr(self, slot))

    def _check_names(self, slot: str, names: Iterable[str], chosen: Mapping[str, Any]) -> None:
        """Raise a ValueError for the first name that is not a parameter of the slot's component."""
        component = self._component(slot, chosen)
        defaults, takes_any = tunable_params(component)
        unknown = [] if takes_any else [name for name in names if name not in defaults]
        if unknown and _is_instance(component) and not _is_settings(component):
            raise ValueError(_instance_message(slot, unknown[0], type(component).__name__))
        if unknown:
            taker = f"{slot}={getattr(chosen[slot], '__name__', None) or repr(chosen[slot])}"
            raise ValueError(
                f"Invalid parameter '{slot}__{unknown[0]}' for {type(self).__name__}({taker})."
                + did_you_mean(unknown[0], defaults, prefix=f"{slot}__")
                + f" {taker} takes: {', '.join(sorted(defaults)) or 'no parameters'}. To search over several"
                f" values of {slot!r}, each with its own parameters, use a list of dicts:"
                " sklearn_ssl.param_grid(estimator, grid) makes it from one grid."
            )


def tunable_params(component: Any) -> tuple[dict[str, Any], bool]:
    """Return ({name: default}, whether the component accepts any other name as well)."""
    if _is_settings(component):
        return {field.name: getattr(component, field.name) for field in dataclasses.fields(component)}, False
    if _is_instance(component):
        return {}, False
    try:
        parameters = inspect.signature(component).parameters.values()
    except ValueError:  # a built-in such as dict has no signature: only a call can tell
        return {}, True
    kinds = {KEYWORD_ONLY, POSITIONAL_OR_KEYWORD} if _makes_instances(component) else {KEYWORD_ONLY}
    defaults = {p.name: p.default for p in parameters if p.kind in kinds and p.default is not EMPTY}
    # A module without a constructor inherits the (*args, **kwargs) of nn.Module, which accepts no arguments.
    own_init = getattr(component, "__init__", None) is not nn.Module.__init__
    return defaults, own_init and any(p.kind is VAR_KEYWORD for p in parameters)


def _makes_instances(component: Any) -> bool:
    while isinstance(component, functools.partial):
        component = component.func
    return isinstance(component, type)


def _is_settings(component: Any) -> bool:
    """Return whether it is an instance of frozen settings: another one can have other values."""
    return dataclasses.is_dataclass(component) and not isinstance(component, type)


def _is_instance(component: Any) -> bool:
    return not (isinstance(component, (type, functools.partial)) or inspect.isroutine(component))


def _instance_message(slot: str, name: str, kind: str) -> str:
    return (
        f"Cannot set '{slot}__{name}': {slot} is an instance of {kind}, whose parameters are already set:"
        f" pass the class, {slot}={kind}."
    )


def _follows_sklearn(value: Any) -> bool:
    return hasattr(value, "get_params") and hasattr(value, "set_params") and not isinstance(value, type)


def _same(a: Any, b: Any) -> bool:
    # No == for other types: arrays and tensors return an array.
    return a is b or (isinstance(a, str | int | float) and isinstance(b, type(a)) and a == b)


def _check_one_value(slot: str, params: Any, nested: Mapping[str, Any]) -> None:
    """Refuse a parameter that is given twice, as ``loss_params`` and as ``loss__x``, with two values.

    With one value it is what `get_params` lists, which constructor and `set_params` take back.
    """
    params = _listed(params)
    for name, value in nested.items():
        if name in params and not _same(params[name], value):
            raise ValueError(
                f"{slot}_params={shortened(params)} and {slot}__{name}={shortened(value)} contradict each "
                f"other: give one of them."
            )


def _listed(given: Any) -> dict[str, Any]:
    # Any object may be stored: __init__ and set_params do not validate values, and get_params must not raise.
    given = given if isinstance(given, Mapping) else {}
    return {name: value for name, value in given.items() if isinstance(name, str)}


def param_grid(estimator: BaseEstimator, grid: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Split a flat parameter grid into a list of grids in which each component has its own parameters.

    A key that is a prefix of other keys (``ssl__loss`` of ``ssl__loss__temperature``) is a choice, and so is
    the slot of a component (``ssl__loss``, ``ssl__backbone``), since it decides which other parameters exist.
    Each combination of choices keeps those of the other keys that the estimator then accepts.

    Parameters
    ----------
    estimator : estimator or Pipeline
        Estimator to search over; not changed.
    grid : dict of str to list
        Parameter names mapped to the values to try. For `RandomizedSearchCV`, a key that is not a choice may
        have a distribution.

    Returns
    -------
    list of dict
        Grids for the parameter `param_grid` of `GridSearchCV`. Choices with the same parameters share a dict.

    Raises
    ------
    ValueError
        If no combination of the choices accepts a name.

    See Also
    --------
    sklearn.model_selection.GridSearchCV : Exhaustive search over a grid or a list of grids.
    sklearn.model_selection.RandomizedSearchCV : Random search, which accepts such a list, too.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import Pipeline
    >>> from sklearn.tree import DecisionTreeClassifier
    >>> from sklearn_ssl import param_grid
    >>> pipe = Pipeline([("clf", LogisticRegression())])
    >>> param_grid(pipe, {"clf": [LogisticRegression(), DecisionTreeClassifier()], "clf__C": [0.1, 1]})
    [{'clf': [LogisticRegression()], 'clf__C': [0.1, 1]}, {'clf': [DecisionTreeClassifier()]}]
    """
    choices = sorted(key for key in grid if _is_choice(estimator, key, grid))
    # Raises scikit-learn's errors for values that are not a list.
    ParameterGrid({key: grid[key] for key in choices})
    grid = {key: list(values) if key in choices else values for key, values in grid.items()}

    chosen: list[dict[str, Any]] = [{}]
    for key in choices:  # sorted, so that `ssl` is set before `ssl__loss`
        chosen = [more for one in chosen for more in _with_choice(estimator, one, key, grid[key])]
    dicts = [_with_taken(estimator, one, grid, choices) for one in chosen]

    for key in grid:
        if not any(key in one for one in dicts):
            raise ValueError(_not_taken_message(estimator, key, chosen)) from _refusal(
                estimator, chosen[0], key
            )
    for key in choices:
        dicts = _merged(dicts, key, choices)
    return dicts


def _is_choice(estimator: BaseEstimator, key: str, grid: Mapping[str, Any]) -> bool:
    if any(other.startswith(f"{key}__") for other in grid):
        return True
    owner, _, slot = key.rpartition("__")
    owner = estimator.get_params().get(owner) if owner else estimator
    return slot in getattr(owner, "_component_slots", ())


def _with_choice(estimator: BaseEstimator, chosen: dict, key: str, values: list) -> list[dict]:
    """Extend a combination of choices by each value of a further choice, if it is accepted there."""
    if _refusal(estimator, chosen, key):
        return [chosen]
    return [chosen | {key: [value]} for value in values]


def _with_taken(estimator: BaseEstimator, chosen: dict, grid: dict, choices: list[str]) -> dict:
    """Extend a combination of choices by the other keys of the grid that are accepted there."""
    others = [key for key in grid if key not in choices and not _refusal(estimator, chosen, key)]
    return {key: chosen.get(key, grid[key]) for key in grid if key in chosen or key in others}


def _configured(estimator: BaseEstimator, chosen: dict) -> BaseEstimator:
    # Values are cloned, as in GridSearchCV: an estimator among them must not be changed.
    return clone(estimator).set_params(**{key: clone(value, safe=False) for key, [value] in chosen.items()})


def _refusal(estimator: BaseEstimator, chosen: dict, name: str) -> Exception | None:
    """Return the error of setting a name after these choices, or None if it is accepted."""
    try:
        _configured(estimator, chosen).set_params(**{name: None})
    except (ValueError, AttributeError) as error:  # AttributeError: of a step such as "passthrough"
        return error
    return None


def _merged(dicts: list[dict], key: str, choices: list[str]) -> list[dict]:
    """Merge dicts that differ in the value of one choice only; values are compared by identity."""
    groups: dict[tuple, list[dict]] = {}
    for one in dicts:
        others = [(k, *map(id, one[k])) for k in choices if k in one and k != key]
        groups.setdefault((*one, *others), []).append(one)
    return [
        same[0] | {key: [value for one in same for value in one[key]]} if key in same[0] else same[0]
        for same in groups.values()
    ]


def _not_taken_message(estimator: BaseEstimator, key: str, chosen: list[dict]) -> str:
    known = {name for one in chosen for name in _configured(estimator, one).get_params()}
    name = key.rpartition("__")[2]
    prefix = key.removesuffix(name)
    beside = sorted(
        k.removeprefix(prefix) for k in known if k.startswith(prefix) and "__" not in k[len(prefix) :]
    )
    suggestion = did_you_mean(name, beside, prefix) if beside else did_you_mean(key, known)
    possible = ", ".join(prefix + name for name in beside) or f"nothing that begins with {prefix!r}"
    return f"No choice in the grid takes {key!r}.{suggestion} Possible: {possible}."
