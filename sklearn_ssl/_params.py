"""Nested parameters: `loss__x` as a view on `loss_params`, and grids in which each loss has its own."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

from sklearn.base import BaseEstimator, clone
from sklearn.model_selection import ParameterGrid
from torch import nn

from sklearn_ssl._checks import check_params

EMPTY = inspect.Parameter.empty


KEYWORD_ONLY = inspect.Parameter.KEYWORD_ONLY


POSITIONAL_OR_KEYWORD = inspect.Parameter.POSITIONAL_OR_KEYWORD


VAR_KEYWORD = inspect.Parameter.VAR_KEYWORD


def hide_var_keyword(init: Callable) -> Callable:
    """Decorator of an `__init__`: `inspect.signature` does not see its **kwargs.

    scikit-learn's `check_do_not_raise_errors_in_init_or_set_params` takes the name of the
    **kwargs for a parameter like the others, and sets it.
    """
    signature = inspect.signature(init)
    named = [p for p in signature.parameters.values() if p.kind is not VAR_KEYWORD]
    init.__signature__ = signature.replace(parameters=named)
    return init


def did_you_mean(name: str, known: Iterable[str], prefix: str = "") -> str:
    """A sentence, with a space before it, that names the nearest known name; or nothing."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {prefix + near[0]!r}?" if near else ""


class ComponentParamsMixin:
    """Gives each component slot of an estimator its nested parameters.

    For a slot `loss`, the constructor has `loss` and `loss_params`, and ends with
    ``self._init_nested(nested)``; `loss__x` reads and writes ``loss_params["x"]``, in the
    constructor, `get_params`, `set_params` and searches. The dict that was given is never
    changed: a new one takes its place.

    Attributes
    ----------
    _component_slots : dict of str to callable
        For each slot a resolver: value of the slot -> the class or function whose signature
        lists the parameters, or an instance, which has none to set; raises for an unknown name.
        Of a class, every parameter with a default counts; of a function, the keyword-only ones
        with a default.
    """

    _component_slots: ClassVar[dict[str, Callable[[Any], Any]]] = {}

    def _init_nested(self, nested: dict[str, Any]) -> None:
        for key in nested:
            slot, delimiter, _ = key.partition("__")
            if not delimiter or slot not in self._component_slots:
                raise TypeError(
                    f"{type(self).__name__}.__init__() got an unexpected keyword argument {key!r}"
                )
        self.set_params(**nested)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Parameters of this estimator.

        Parameters
        ----------
        deep : bool, default=True
            Also list every parameter of each component: as given, or its default.

        Returns
        -------
        dict of str to object
        """
        params = super().get_params(deep=deep)
        if deep:
            for slot in self._component_slots:
                if not _follows_sklearn(params[slot]):
                    values = self._component_defaults(slot) | _listed(params[f"{slot}_params"])
                    params |= {f"{slot}__{name}": value for name, value in values.items()}
        return params

    def set_params(self, **params: Any) -> ComponentParamsMixin:
        """Set parameters of this estimator, of its components and of nested estimators.

        A component that is replaced starts from its own defaults, unless new parameters are
        given in the same call.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If a name is not a parameter of the component that is (or becomes) chosen.
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
            if nested:
                self._check_names(slot, nested, chosen)
                given = check_params(attribute, plain.get(attribute, getattr(self, attribute)))
                plain[attribute] = given | nested
        return super().set_params(**plain)

    def _component_defaults(self, slot: str) -> dict[str, Any]:
        # get_params must never raise: an unknown name or a broken plugin lists nothing.
        try:
            return _tunable(self._component(slot, self._chosen()))[0]
        except Exception:
            return {}

    def _chosen(self) -> dict[str, Any]:
        """The value of each slot."""
        return {slot: getattr(self, slot) for slot in self._component_slots}

    def _component(self, slot: str, chosen: Mapping[str, Any]) -> Any:
        """What takes a slot's parameters, where these values are chosen for the slots."""
        return self._component_slots[slot](chosen[slot])

    def _is_replaced(self, slot: str, chosen: Mapping[str, Any]) -> bool:
        """Whether another component takes the slot, where these values are chosen."""
        return not _same(chosen[slot], getattr(self, slot))

    def _check_names(self, slot: str, names: Iterable[str], chosen: Mapping[str, Any]) -> None:
        """Raise a ValueError for the first of the names that the slot's component does not take."""
        component = self._component(slot, chosen)
        defaults, takes_any = _tunable(component)
        unknown = [] if takes_any else [name for name in names if name not in defaults]
        if unknown and _is_instance(component):
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


def _tunable(component: Any) -> tuple[dict[str, Any], bool]:
    """({name: default}, whether any other name is taken as well)."""
    if _is_instance(component):
        return {}, False
    try:
        parameters = inspect.signature(component).parameters.values()
    except ValueError:  # a built-in such as dict: only a call can tell
        return {}, True
    kinds = {KEYWORD_ONLY, POSITIONAL_OR_KEYWORD} if _makes_instances(component) else {KEYWORD_ONLY}
    defaults = {p.name: p.default for p in parameters if p.kind in kinds and p.default is not EMPTY}
    # A module without a constructor has nn.Module's (*args, **kwargs), which takes nothing.
    own_init = getattr(component, "__init__", None) is not nn.Module.__init__
    return defaults, own_init and any(p.kind is VAR_KEYWORD for p in parameters)


def _makes_instances(component: Any) -> bool:
    while isinstance(component, functools.partial):
        component = component.func
    return isinstance(component, type)


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
    # Never == on anything else: arrays and tensors answer with an array.
    return a is b or (isinstance(a, str) and isinstance(b, str) and a == b)


def _listed(given: Any) -> dict[str, Any]:
    # Anything may have been stored: __init__ and set_params check no values, and get_params must not raise.
    given = given if isinstance(given, Mapping) else {}
    return {name: value for name, value in given.items() if isinstance(name, str)}


def param_grid(estimator: BaseEstimator, grid: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A flat grid as the list of dicts that `GridSearchCV` needs: each choice with its own parameters.

    A key that other keys begin with (``ssl__loss`` of ``ssl__loss__temperature``) is a choice, and so is a
    component (``ssl__loss``, ``ssl__backbone``), which decides what else can be set. For each combination of
    choices, those of the other keys stay that the estimator then takes.

    Parameters
    ----------
    estimator : estimator or Pipeline
        What is going to be searched over; left as it is.
    grid : dict of str to list
        Parameter name -> values to try. For `RandomizedSearchCV`, a key that is not a choice may
        have a distribution.

    Returns
    -------
    list of dict
        For `param_grid` of `GridSearchCV`. Choices that take the same parameters share a dict.

    Raises
    ------
    ValueError
        If a name is taken by no combination of the choices.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import Pipeline
    >>> from sklearn.tree import DecisionTreeClassifier
    >>> pipe = Pipeline([("clf", LogisticRegression())])
    >>> param_grid(pipe, {"clf": [LogisticRegression(), DecisionTreeClassifier()], "clf__C": [0.1, 1]})
    [{'clf': [LogisticRegression()], 'clf__C': [0.1, 1]}, {'clf': [DecisionTreeClassifier()]}]
    """
    choices = sorted(key for key in grid if _is_choice(estimator, key, grid))
    ParameterGrid({key: grid[key] for key in choices})  # its words for values that are not a list
    grid = {key: list(values) if key in choices else values for key, values in grid.items()}

    chosen: list[dict[str, Any]] = [{}]
    for key in choices:  # sorted: `ssl` before `ssl__loss`
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
    """One combination of choices, times the values of a further one, if it is taken there."""
    if _refusal(estimator, chosen, key):
        return [chosen]
    return [chosen | {key: [value]} for value in values]


def _with_taken(estimator: BaseEstimator, chosen: dict, grid: dict, choices: list[str]) -> dict:
    """One combination of choices, and the other keys of the grid that are taken there."""
    others = [key for key in grid if key not in choices and not _refusal(estimator, chosen, key)]
    return {key: chosen.get(key, grid[key]) for key in grid if key in chosen or key in others}


def _configured(estimator: BaseEstimator, chosen: dict) -> BaseEstimator:
    # Values are cloned, as GridSearchCV does: an estimator among them must not be changed.
    return clone(estimator).set_params(**{key: clone(value, safe=False) for key, [value] in chosen.items()})


def _refusal(estimator: BaseEstimator, chosen: dict, name: str) -> Exception | None:
    """What set_params says against a name, after these choices; None if it is taken."""
    try:
        _configured(estimator, chosen).set_params(**{name: None})
    except (ValueError, AttributeError) as error:  # AttributeError: nothing to nest in, as in "passthrough"
        return error
    return None


def _merged(dicts: list[dict], key: str, choices: list[str]) -> list[dict]:
    """Dicts that differ in the value of one choice only, as one dict; values are the same if identical."""
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
