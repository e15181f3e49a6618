"""The estimator: scikit-learn's own checks, what it learns from, and what it refuses."""

import pickle

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn", reason="the estimator needs scikit-learn, in the extra 'data'")

from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import cross_val_score
from sklearn.utils.estimator_checks import check_estimator

from lorank.errors import LorankError
from lorank.structured import StructuredRegressor, label_statistics


def data(rows=150, seed=0):
    draw = np.random.default_rng(seed)
    X = draw.normal(size=(rows, 6))
    return X, np.tanh(X @ draw.normal(size=(6, 2))) @ draw.normal(size=(2, 5)) * 30 + 200


def small(**more):
    about = {"hidden": (24, 12), "epochs": 15, "learning_rate": 6e-3} | more
    return StructuredRegressor(**about)


def test_the_checks_of_scikit_learn():
    results = check_estimator(
        small(hidden=(8,), epochs=8, batch_size=64, learning_rate=0.03),
        on_skip=None,
        on_fail=None,
    )
    failed = [f"{r['check_name']}: {r['exception']}" for r in results if r["status"] == "failed"]
    assert failed == []
    assert sum(r["status"] == "passed" for r in results) > 30


def test_it_learns_and_is_cloned_and_crossed():
    X, Y = data()
    assert small().fit(X[:100], Y[:100]).score(X[100:], Y[100:]) > 0.7
    assert cross_val_score(clone(small(epochs=3)), X, Y, cv=2).shape == (2,)


def test_the_output_layer_starts_with_the_labels_scale_also_beside_a_constant_output():
    X, Y = data()
    Y = np.column_stack([Y, np.full(len(Y), 7.0)])
    still = {"epochs": 1, "learning_rate": 1e-9}
    model = small(**still).fit(X, Y)
    found = label_statistics(torch.tensor((Y - model.centre_) / model.unit_).float())
    lengths = model.network_[-1].weight.detach().norm(dim=0)
    assert len(found.deviations) == 2  # the rank of the labels; the constant adds nothing
    assert torch.allclose(lengths[:2], found.deviations, rtol=1e-4) and lengths[2:].max() < 1e-6
    assert (small(label_scale=None, **still).fit(X, Y).network_[-1].weight != 0).all()


def test_missing_labels():
    X, Y = data()
    gappy = Y.copy()
    gappy[60:] = np.nan
    gappy[:20, 3] = np.nan
    model = small(tasks=("in", "out"), epochs=5).fit(X, gappy)
    assert (model.n_labelled_, model.n_outputs_) == (60, 5)
    assert np.isfinite(model.predict(X)).all()
    rows = small(epochs=2).fit(X[:60], Y[:60]).predict(X)
    unlabelled = Y.copy()
    unlabelled[60:] = np.nan
    assert not np.allclose(rows, small(tasks=("in",), epochs=2).fit(X, unlabelled).predict(X))


def test_more_inputs_and_labels_alone():
    X, Y = data()
    model = small(tasks=("in", "out")).fit(X[:50], Y[:50], X_unlabelled=X[50:], y_only=Y[50:])
    assert model.score(X[50:], Y[50:]) > 0.3
    only = small(label_scale="pca", epochs=1).fit(X[:50], Y[:50], y_only=Y[50:])
    assert not np.allclose(only.centre_, Y[:50].mean(0))


def test_one_output_and_a_held_out_part():
    X, Y = data()
    model = small(validation_fraction=0.2).fit(X, Y[:, 0])
    assert model.predict(X).shape == (150,) and len(model.history_.valid) == 15


def test_seeds():
    X, Y = data(60)
    one, same, other = (small(epochs=3, random_state=s).fit(X, Y).predict(X) for s in (0, 0, 1))
    assert np.array_equal(one, same) and not np.allclose(one, other)
    made = (np.random.RandomState(0), np.random.RandomState(0), np.random.default_rng(0))
    one, same, other = (small(epochs=1, random_state=s).fit(X, Y).predict(X) for s in made)
    assert np.array_equal(one, same) and not np.allclose(one, other)
    before = torch.get_rng_state()
    small(epochs=1, tasks=("in",)).fit(X, Y)
    assert torch.equal(before, torch.get_rng_state())  # torch's own seed is left alone


def test_a_pickle_and_settings_of_numpy():
    X, Y = data(40)
    grid = {"epochs": np.int64(2), "batch_size": np.int32(8), "hidden": [np.int64(5)]}
    model = small(**grid, tasks=["in"]).fit(X, Y)
    assert np.array_equal(pickle.loads(pickle.dumps(model)).predict(X), model.predict(X))
    assert clone(model).get_params() == model.get_params()


def test_columns_with_names():
    pandas = pytest.importorskip("pandas", reason="tables with names need pandas")
    X, Y = (pandas.DataFrame(part, columns=list("abcdef")[: part.shape[1]]) for part in data(20))
    model = small(epochs=1, tasks=("in",))
    model.fit(X, Y, X_unlabelled=X)
    assert np.array_equal(
        model.predict(X), model.fit(X.values, Y.values, X_unlabelled=X.values).predict(X.values)
    )
    with pytest.raises(LorankError, match="in their order, a, b, c, d, e, f, found f, e"):
        model.fit(X, Y, X_unlabelled=X[list("fedcba")])


def test_one_labelled_row_and_one_row():
    """One label has a mean and no scale."""
    X, Y = data(10)
    Y[1:] = np.nan
    model = small(epochs=1).fit(X, Y)
    assert model.n_labelled_ == 1 and np.allclose(model.centre_, Y[0])
    with pytest.raises(ValueError, match="minimum of 2"):
        small().fit(X[:1], Y[:1])
    with pytest.raises(NotFittedError):
        small().predict(X)


@pytest.mark.parametrize(
    ("settings", "change", "sentence"),
    [
        ({}, {"y": np.full((150, 5), np.nan)}, "all labels are missing"),
        ({}, {"y": np.where(np.arange(5) == 2, np.nan, np.ones((150, 5)))}, "NaN in output 2"),
        ({"hidden": 8}, {}, "hidden is a tuple, found 8"),
        ({"hidden": (-3,)}, {}, "units, at least 1, found -3"),
        ({"tasks": "in"}, {}, "tasks is a tuple, found 'in'"),
        ({"tasks": None}, {}, "tasks is a tuple, found None"),
        ({"tasks": ("in",), "task_weight": -1.0}, {}, "at least 0, found -1"),
        ({"tasks": ("in",), "task_weight": "one"}, {}, "finite numbers, found v0='one'"),
        ({"random_state": "a"}, {}, "random_state is a number"),
        ({"random_state": -1}, {}, "a seed is from 0 .* found -1"),
        ({"random_state": 2**70}, {}, "a seed is from 0 and below"),
        ({}, {"y": 1e200 * np.arange(750.0).reshape(150, 5)}, "labels have a finite deviation"),
        ({}, {"X": 1e200 * np.arange(900.0).reshape(150, 6)}, "inputs have a finite deviation"),
        ({"validation_fraction": "half"}, {}, "below 1, found 'half'"),
        ({"label_scale": "rand"}, {}, "unknown label_scale 'rand'"),
        ({"activation": "relo"}, {}, "unknown activation"),
        ({"tasks": ("inn",)}, {}, "unknown task 'inn'"),
        ({"tasks": ("in", "out"), "hidden": (4,)}, {}, "at least 3 linear layers"),
        ({"validation_fraction": 0.001}, {}, "leaves one part empty"),
        ({"validation_fraction": 1.0}, {}, "below 1"),
        ({"epochs": 0}, {}, "epochs is a whole number"),
        ({}, {"X_unlabelled": np.ones((3, 6))}, "of no use"),
        ({"tasks": ("in",)}, {"X_unlabelled": np.ones((3, 5))}, "6, found 5"),
        ({}, {"y": np.ones((149, 5))}, "found 149 and 150"),
    ],
)
def test_bad_input(settings, change, sentence):
    X, Y = data()
    given = {"X": X, "y": Y} | change
    with pytest.raises(LorankError, match=sentence):
        small(**settings).fit(**given)


def test_torch_s_default_dtype_means_nothing():
    X, Y = data(20)
    wanted = small(epochs=1, tasks=("in", "out")).fit(X, Y).predict(X)
    torch.set_default_dtype(torch.float64)
    try:
        found = small(epochs=1, tasks=("in", "out")).fit(X, Y).predict(X)
    finally:
        torch.set_default_dtype(torch.float32)
    assert np.array_equal(found, wanted)
