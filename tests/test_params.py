import functools
import inspect
import pickle
import pydoc
from types import MappingProxyType

import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils import estimator_html_repr
from sklearn.utils.estimator_checks import check_do_not_raise_errors_in_init_or_set_params
from torch import nn

from sklearn_ssl._params import ComponentParamsMixin, hide_var_keyword, param_grid


class Warm:
    def __init__(self, temperature=0.5, scale=1.0):
        self.factor = scale / temperature


class Cool:
    def __init__(self, temperature=0.1):
        self.factor = 1 / temperature


class Stiff:
    def __init__(self, std_coeff=25.0):
        self.factor = std_coeff


class Open:
    def __init__(self, width=8, **more):
        self.factor = width + len(more)


class Bare(nn.Module):
    pass


def keyword_only(x, y=2, *, power=3):
    return power


LOSSES = {"warm": Warm, "cool": Cool, "stiff": Stiff}


def resolve_loss(value):
    if isinstance(value, str) and value not in LOSSES:
        raise ValueError(f"Unknown loss {value!r}.")
    return LOSSES[value] if isinstance(value, str) else value


def resolve_optimizer(value):
    return {
        "fast": functools.partial(Warm, scale=3.0),
        "quick": Warm,
        "slow": functools.partial(keyword_only, 1),
    }[value]


class Toy(ComponentParamsMixin, TransformerMixin, BaseEstimator):
    """Estimator that multiplies by the factor of its loss."""

    _component_slots = {"loss": resolve_loss, "optimizer": resolve_optimizer}  # noqa: RUF012

    @hide_var_keyword
    def __init__(
        self, loss="warm", *, loss_params=None, optimizer="fast", optimizer_params=None, shift=0.0, **nested
    ):
        self.loss = loss
        self.loss_params = loss_params
        self.optimizer = optimizer
        self.optimizer_params = optimizer_params
        self.shift = shift
        self._init_nested(nested)

    def fit(self, X, y=None):
        self.factor_ = resolve_loss(self.loss)(**(self.loss_params or {})).factor
        return self

    def transform(self, X):
        return X * self.factor_ + self.shift


def nested(estimator, slot="loss"):
    prefix = f"{slot}__"
    params = estimator.get_params()
    return {key.removeprefix(prefix): value for key, value in params.items() if key.startswith(prefix)}


# ---------------------------------------------------------------------------- reading


def test_completion_and_help_know_nested_names():
    listed = inspect.signature(Toy(loss__scale=3.0).set_params).parameters
    assert listed["loss__scale"].default == 3.0
    assert listed["loss__temperature"].default == 0.5
    assert listed["shift"].kind is inspect.Parameter.KEYWORD_ONLY
    assert "loss__std_coeff=25.0" in pydoc.render_doc(Toy("stiff").set_params)
    odd = Toy(loss_params={"not a name": 1, "class": 2})
    assert "loss__class" in inspect.signature(odd.set_params).parameters
    # Parameters of a loss that is chosen in the same call.
    inspect.signature(Toy().set_params).bind(loss="stiff", loss__std_coeff=1.0)


def test_set_params_is_a_bound_method():
    toy = Toy()
    assert toy.set_params.__self__ is toy
    assert pickle.loads(pickle.dumps(toy.set_params))(shift=2.0).shift == 2.0
    with pytest.raises(TypeError, match="takes 1 positional argument but 2 were given"):
        toy.set_params({"shift": 1.0})
    incomplete = Toy.__new__(Toy)
    assert callable(incomplete.set_params)


def test_get_params_lists_every_parameter_of_the_chosen_loss_with_its_default():
    assert nested(Toy()) == {"temperature": 0.5, "scale": 1.0}
    assert nested(Toy("stiff")) == {"std_coeff": 25.0}
    assert nested(Toy(loss_params={"scale": 3.0})) == {"temperature": 0.5, "scale": 3.0}
    assert "loss__temperature" not in Toy().get_params(deep=False)


def test_of_a_class_every_default_counts_and_of_a_function_the_keyword_only_ones():
    assert nested(Toy(Open)) == {"width": 8}
    assert nested(Toy(keyword_only)) == {"power": 3}
    assert nested(Toy(Bare)) == {}
    assert nested(Toy(), "optimizer") == {"temperature": 0.5, "scale": 3.0}
    assert nested(Toy(optimizer="slow"), "optimizer") == {"power": 3}


@pytest.mark.parametrize("loss", ["wram", None, 3, np.zeros(3), torch.zeros(3), Bare(), object()])
@pytest.mark.parametrize("loss_params", [None, 3, {"x": 1}, {1: 2}, np.zeros(3), "temperature"])
def test_get_params_never_raises(loss, loss_params):
    params = Toy(loss, loss_params=loss_params).get_params()
    assert params["loss"] is loss
    assert params["loss_params"] is loss_params


# ---------------------------------------------------------------------------- writing


@pytest.mark.parametrize("params", [5, {1: 2}, "abc", []])
def test_what_is_no_dict_of_names_is_refused_where_it_is_needed(params):
    toy = Toy(loss_params=params)
    assert toy.get_params()["loss_params"] is params
    assert toy.get_params()["loss__temperature"] == 0.5  # the default: nothing else is known
    with pytest.raises(ValueError, match=r"loss_params=.*: give a dict of names and values"):
        toy.set_params(loss__temperature=0.1)
    assert toy.loss_params is params


def test_a_built_in_without_a_signature_takes_what_it_is_called_with():
    assert Toy(loss=dict, loss__anything=1).loss_params == {"anything": 1}


def test_a_nested_name_is_a_view_on_the_dict():
    toy = Toy(loss__temperature=0.1)
    assert toy.loss_params == {"temperature": 0.1}
    toy.set_params(loss__scale=2.0)
    assert toy.loss_params == {"temperature": 0.1, "scale": 2.0}
    assert toy.get_params()["loss__scale"] == 2.0
    assert Toy(loss_params={"scale": 2.0}, loss__temperature=0.1).loss_params == toy.loss_params


def test_the_given_dict_is_stored_as_it_is_and_never_changed():
    given = {"temperature": 0.1}
    toy = Toy(loss_params=given)
    assert toy.loss_params is given
    toy.set_params(loss__temperature=0.2)
    assert given == {"temperature": 0.1}
    assert toy.loss_params == {"temperature": 0.2}
    toy.set_params(loss_params=given, loss__scale=5.0)
    assert given == {"temperature": 0.1}
    assert toy.loss_params == {"temperature": 0.1, "scale": 5.0}


def test_any_mapping_will_do_for_a_dict():
    toy = Toy(loss_params=MappingProxyType({"temperature": 0.1}))
    assert nested(toy) == {"temperature": 0.1, "scale": 1.0}
    assert toy.set_params(loss__scale=2.0).loss_params == {"temperature": 0.1, "scale": 2.0}


def test_another_loss_starts_from_its_own_defaults():
    toy = Toy(loss__temperature=0.3).set_params(loss="cool")
    assert toy.loss_params is None
    assert nested(toy) == {"temperature": 0.1}
    assert toy.set_params(loss="warm", loss__scale=4.0).loss_params == {"scale": 4.0}
    assert toy.set_params(loss="stiff", loss_params={"std_coeff": 1.0}).loss_params == {"std_coeff": 1.0}
    assert toy.set_params(loss=StandardScaler()).loss_params is None


def test_the_same_loss_keeps_its_parameters():
    given = {"temperature": 0.3}
    toy = Toy(loss_params=given)
    same_word = "".join(["wa", "rm"])
    assert toy.set_params(loss=same_word, shift=1.0).loss_params is given
    assert toy.set_params(loss="warm", loss__scale=2.0).loss_params == {"temperature": 0.3, "scale": 2.0}


def test_slots_do_not_touch_each_other():
    toy = Toy(loss__temperature=0.3, optimizer__scale=7.0).set_params(loss="cool")
    assert toy.optimizer_params == {"scale": 7.0}


def test_arrays_and_tensors_are_never_compared_with_equals():
    toy = Toy(Open, loss__weights=np.zeros(3)).set_params(loss__weights=torch.ones(2), shift=np.ones(4))
    assert toy.set_params(loss=np.zeros(3)).set_params(loss=torch.zeros(3)).loss_params is None


def test_a_component_with_var_keyword_takes_any_name():
    assert Toy(Open, loss__anything=1).fit(None).factor_ == 9  # width 8, and one more
    with pytest.raises(ValueError, match="takes: no parameters"):
        Toy().set_params(loss=Bare, loss__anything=1)  # nn.Module's own constructor names nothing


# ---------------------------------------------------------------------------- unknown names


def test_the_constructor_stores_names_that_it_does_not_look_up():
    assert Toy("nowhere", loss__temprature=0.1).loss_params == {"temprature": 0.1}
    with pytest.raises(TypeError, match=r"Toy.__init__\(\) got an unexpected keyword argument 'los__x'"):
        Toy(los__x=1)


@pytest.mark.parametrize("make", [Toy, lambda **kw: Toy().set_params(**kw)])
def test_two_values_of_one_parameter_contradict_each_other(make):
    words = r"loss_params=\{'scale': 2.0\} and loss__scale=3.0 contradict each other: give one of them"
    with pytest.raises(ValueError, match=words):
        make(loss_params={"scale": 2.0}, loss__scale=3.0)
    assert make(loss_params={"scale": 2.0}, loss__scale=2.0).loss_params == {"scale": 2.0}


def test_an_unknown_name_is_answered_with_the_nearest_and_the_way_out():
    with pytest.raises(ValueError) as caught:
        Toy().set_params(loss__temprature=0.1)
    assert str(caught.value) == (
        "Invalid parameter 'loss__temprature' for Toy(loss='warm'). Did you mean 'loss__temperature'?"
        " loss='warm' takes: scale, temperature. To search over several values of 'loss', each with its own"
        " parameters, use a list of dicts: sklearn_ssl.param_grid(estimator, grid) makes it from one grid."
    )


def test_names_are_judged_by_the_loss_that_is_set_in_the_same_call():
    toy = Toy().set_params(loss="stiff", loss__std_coeff=1.0)
    with pytest.raises(ValueError, match=r"Toy\(loss=Warm\)\. loss=Warm takes: scale, temperature\."):
        toy.set_params(loss=Warm, loss__std_coeff=2.0)
    assert (toy.loss, toy.loss_params) == ("stiff", {"std_coeff": 1.0})


def test_parameters_of_an_unknown_loss_raise_what_the_lookup_raises():
    toy = Toy("wram")
    with pytest.raises(ValueError, match=r"^Unknown loss 'wram'"):
        toy.set_params(loss__temperature=0.1)


@pytest.mark.parametrize("name", ["temperature", "shift__x", "nowhere__x", "loss_"])
def test_other_unknown_keywords_of_the_constructor_are_python_s_own_error(name):
    with pytest.raises(TypeError, match=rf"^Toy\.__init__\(\) got an unexpected keyword argument '{name}'$"):
        Toy(**{name: 1})


def test_other_unknown_names_in_set_params_are_scikit_learn_s_own_error():
    with pytest.raises(ValueError, match="Invalid parameter 'nowhere' for estimator Toy"):
        Toy().set_params(nowhere__x=1)


def test_the_parameters_of_an_instance_are_set_already():
    with pytest.raises(ValueError) as caught:
        Toy(Warm()).set_params(loss__temperature=0.1)
    assert str(caught.value) == (
        "Cannot set 'loss__temperature': loss is an instance of Warm, whose parameters are already set:"
        " pass the class, loss=Warm."
    )


def test_a_component_with_scikit_learn_s_protocol_is_set_in_scikit_learn_s_way():
    scaler = StandardScaler()
    toy = Toy(scaler).set_params(loss__with_mean=False)
    assert scaler.with_mean is False
    assert toy.loss_params is None
    assert toy.get_params()["loss__with_mean"] is False
    assert Toy(scaler, loss_params={"with_mean": True}).get_params()["loss__with_mean"] is False
    with pytest.raises(ValueError, match="Invalid parameter 'nowhere' for estimator StandardScaler"):
        toy.set_params(loss__nowhere=1)


# ---------------------------------------------------------------------------- scikit-learn's tools


@pytest.mark.parametrize(
    "toy", [Toy(), Toy("cool", loss__temperature=0.3), Toy(Open, loss__weights=np.zeros(2))]
)
def test_clone_and_get_params_agree(toy):
    copied = clone(toy)
    assert copied is not toy
    assert copied.loss is toy.loss
    assert repr(copied.get_params()) == repr(toy.get_params())
    assert copied.loss_params is not toy.loss_params or toy.loss_params is None


def test_the_flat_parameters_make_an_estimator_with_the_same_components():
    toy = Toy("cool", loss__temperature=0.3, optimizer__scale=2.0)
    for copied in (Toy().set_params(**toy.get_params()), Toy(**toy.get_params())):
        assert nested(copied) == {"temperature": 0.3}
        assert nested(copied, "optimizer") == {"temperature": 0.5, "scale": 2.0}


@pytest.mark.parametrize("toy", [Toy(), Toy("cool", loss__temperature=0.3), Toy(loss__scale=1.5, shift=2.0)])
def test_the_repr_is_a_program(toy):
    assert eval(repr(toy)).get_params() == toy.get_params()


def test_the_repr_shows_what_was_changed():
    assert repr(Toy()) == "Toy()"
    assert repr(Toy(loss__temperature=0.1)) == "Toy(loss_params={'temperature': 0.1})"


@pytest.mark.parametrize("loss", ["warm", "wram", Warm, Bare(), StandardScaler()])
def test_the_html_repr_works(loss):
    pipe = Pipeline([("toy", Toy(loss)), ("clf", LogisticRegression())])
    assert "LogisticRegression" in estimator_html_repr(pipe)


@pytest.mark.skipif(
    not hasattr(BaseEstimator, "_get_params_html"), reason="scikit-learn before 1.7 shows what was given"
)
def test_the_html_repr_shows_nested_parameters():
    assert "loss__temperature" in estimator_html_repr(Toy(loss__temperature=np.linspace(0, 1, 5)))


def test_any_value_is_accepted_as_scikit_learn_checks_it():
    check_do_not_raise_errors_in_init_or_set_params("Toy", Toy())


def test_a_search_over_one_dict_sets_nested_parameters():
    X, y = load_iris(return_X_y=True)
    pipe = Pipeline([("toy", Toy()), ("clf", LogisticRegression(max_iter=1000))])
    grid = {"toy__loss": ["warm", "cool"], "toy__loss__temperature": [0.5, 1.0]}
    search = GridSearchCV(pipe, grid, cv=2, error_score="raise").fit(X, y)
    assert len(search.cv_results_["params"]) == 4
    assert search.best_estimator_["toy"].factor_ in (1.0, 2.0)


def test_a_search_with_a_name_that_one_loss_lacks_ends_with_the_way_out():
    X, y = load_iris(return_X_y=True)
    pipe = Pipeline([("toy", Toy()), ("clf", LogisticRegression(max_iter=1000))])
    grid = {"toy__loss": ["warm", "stiff"], "toy__loss__temperature": [1.0]}
    with pytest.raises(ValueError, match=r"Toy\(loss='stiff'\).* a list of dicts: sklearn_ssl\.param_grid"):
        GridSearchCV(pipe, grid, cv=2).fit(X, y)


# ---------------------------------------------------------------------------- param_grid


def test_in_a_param_grid_each_loss_has_only_the_parameters_it_takes():
    pipe = Pipeline([("toy", Toy()), ("clf", LogisticRegression())])
    grid = {
        "toy__loss": ["warm", "cool", "stiff"],
        "toy__loss__temperature": [0.1, 0.5],
        "toy__loss__std_coeff": [10, 25],
        "clf__C": [0.1, 1],
    }
    assert param_grid(pipe, grid) == [
        {"toy__loss": ["warm", "cool"], "toy__loss__temperature": [0.1, 0.5], "clf__C": [0.1, 1]},
        {"toy__loss": ["stiff"], "toy__loss__std_coeff": [10, 25], "clf__C": [0.1, 1]},
    ]


def test_a_search_over_a_param_grid_tries_each_combination_once():
    X, y = load_iris(return_X_y=True)
    pipe = Pipeline([("toy", Toy()), ("clf", LogisticRegression(max_iter=1000))])
    grid = {
        "toy__loss": ["warm", "stiff"],
        "toy__loss__temperature": [1.0, 2.0, 4.0],
        "toy__loss__std_coeff": [1, 2],
    }
    search = GridSearchCV(pipe, param_grid(pipe, grid), cv=2, error_score="raise").fit(X, y)
    tried = [(p["toy__loss"], len(p)) for p in search.cv_results_["params"]]
    assert tried == [("warm", 2)] * 3 + [("stiff", 2)] * 2


def test_a_param_grid_combines_the_choices_of_several_slots():
    grid = {
        "loss": ["warm", "stiff"],
        "loss__std_coeff": [1],
        "optimizer": ["fast", "slow"],
        "optimizer__power": [2, 3],
    }
    assert param_grid(Toy(), grid) == [
        {"loss": ["warm"], "optimizer": ["fast"]},
        {"loss": ["warm"], "optimizer": ["slow"], "optimizer__power": [2, 3]},
        {"loss": ["stiff"], "loss__std_coeff": [1], "optimizer": ["fast"]},
        {"loss": ["stiff"], "loss__std_coeff": [1], "optimizer": ["slow"], "optimizer__power": [2, 3]},
    ]


def test_choices_that_take_the_same_names_share_one_dict():
    grid = {
        "loss": ["warm", "cool"],
        "loss__temperature": [0.1],
        "optimizer": ["fast", "quick"],
        "optimizer__scale": [1, 2],
    }
    assert param_grid(Toy(), grid) == [grid]


def test_the_steps_of_a_pipeline_can_be_choices_and_have_choices_of_their_own():
    toy, scaler, tree, line = Toy(), MinMaxScaler(), DecisionTreeClassifier(), LogisticRegression()
    pipe = Pipeline([("first", toy), ("clf", line)])
    grid = {
        "first": [toy, scaler, "passthrough"],
        "first__loss": ["warm", "stiff"],
        "first__loss__std_coeff": [1, 2],
        "first__clip": [True],
        "clf": [line, tree],
        "clf__C": [0.1],
    }
    dicts = param_grid(pipe, grid)
    assert len(dicts) == 8  # (toy warm, toy stiff, scaler, passthrough) x (line, tree)
    assert {
        "first": [toy],
        "first__loss": ["stiff"],
        "first__loss__std_coeff": [1, 2],
        "clf": [tree],
    } in dicts
    assert {"first": ["passthrough"], "clf": [line], "clf__C": [0.1]} in dicts
    assert {"first": [scaler], "first__clip": [True], "clf": [tree]} in dicts
    assert (line.C, scaler.clip, toy.loss) == (1.0, False, "warm")


def test_a_component_with_var_keyword_keeps_any_name_in_a_param_grid():
    grid = {"loss": [Open, Warm], "loss__depth": [1, 2]}
    assert param_grid(Toy(), grid) == [{"loss": [Open], "loss__depth": [1, 2]}, {"loss": [Warm]}]


def test_a_param_grid_without_choices_is_the_grid():
    assert param_grid(Toy(), {"shift": [1, 2], "loss__temperature": [1]}) == [
        {"shift": [1, 2], "loss__temperature": [1]}
    ]


def test_a_param_grid_leaves_estimator_and_grid_alone():
    toy, grid = Toy(loss__temperature=0.2), {"loss": np.array(["stiff"]), "loss__std_coeff": (1, 2)}
    assert param_grid(toy, grid) == [{"loss": ["stiff"], "loss__std_coeff": (1, 2)}]
    assert (toy.loss, toy.loss_params) == ("warm", {"temperature": 0.2})
    assert isinstance(grid["loss"], np.ndarray)


def test_a_param_grid_may_hold_distributions_for_a_random_search():
    class Uniform:
        def rvs(self, random_state=None):
            return random_state.uniform(1, 2)

    X, y = load_iris(return_X_y=True)
    pipe = Pipeline([("toy", Toy()), ("clf", LogisticRegression(max_iter=1000))])
    grid = {"toy__loss": ["warm", "stiff"], "toy__loss__temperature": Uniform()}
    dicts = param_grid(pipe, grid)
    search = RandomizedSearchCV(pipe, dicts, n_iter=4, cv=2, random_state=0, error_score="raise").fit(X, y)
    assert {p["toy__loss"] for p in search.cv_results_["params"]} == {"warm", "stiff"}


def test_a_name_that_no_choice_takes_is_answered_with_the_nearest_and_the_possible():
    pipe = Pipeline([("toy", Toy()), ("clf", LogisticRegression())])
    with pytest.raises(ValueError) as caught:
        param_grid(pipe, {"toy__loss": ["warm", "stiff"], "toy__loss__temprature": [1], "clf__C": [1]})
    assert str(caught.value) == (
        "No choice in the grid takes 'toy__loss__temprature'. Did you mean 'toy__loss__temperature'?"
        " Possible: toy__loss__scale, toy__loss__std_coeff, toy__loss__temperature."
    )
    with pytest.raises(
        ValueError, match=r"takes 'tyo__loss'\. Did you mean 'toy__loss'\? Possible: nothing that"
    ):
        param_grid(pipe, {"tyo__loss": ["warm"]})


def test_an_unknown_choice_is_the_stated_cause():
    with pytest.raises(ValueError, match="No choice in the grid takes 'loss__temperature'") as caught:
        param_grid(Toy(), {"loss": ["wram"], "loss__temperature": [1]})
    assert str(caught.value.__cause__) == "Unknown loss 'wram'."


def test_a_choice_that_is_no_list_is_refused_in_scikit_learn_s_words():
    with pytest.raises(
        TypeError, match="for parameter 'loss' needs to be a list or a numpy array, but got 'warm'"
    ):
        param_grid(Toy(), {"loss": "warm", "loss__scale": [1]})
