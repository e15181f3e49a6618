"""The estimator: scikit-learn's own checks, what it learns from, and what it refuses."""

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="the estimator needs scikit-learn, in the extra 'data'")

from sklearn.base import clone
from sklearn.model_selection import cross_val_score
from sklearn.utils.estimator_checks import check_estimator

from lorank.errors import LorankError
from lorank.structured import StructuredRegressor


def data(rows=150, seed=0):
    draw = np.random.default_rng(seed)
    X = draw.normal(size=(rows, 6))
    return X, np.tanh(X @ draw.normal(size=(6, 2))) @ draw.normal(size=(2, 5)) * 30 + 200


def small(**more):
    about = {"hidden": (24, 12), "epochs": 30, "learning_rate": 3e-3} | more
    return StructuredRegressor(**about)


def test_the_checks_of_scikit_learn():
    results = check_estimator(
        small(hidden=(16,), epochs=15, batch_size=32, learning_rate=0.02),
        on_skip=None,
        on_fail=None,
    )
    failed = [f"{r['check_name']}: {r['exception']}" for r in results if r["status"] == "failed"]
    assert failed == []
    assert sum(r["status"] == "passed" for r in results) > 30


def test_it_learns_and_is_cloned_and_crossed():
    X, Y = data()
    assert small().fit(X[:100], Y[:100]).score(X[100:], Y[100:]) > 0.7
    assert cross_val_score(clone(small(epochs=10)), X, Y, cv=2).shape == (2,)


def test_a_scaled_output_layer_helps_also_beside_a_constant_output():
    X, Y = data()
    Y = np.column_stack([Y, np.full(len(Y), 7.0)])
    plain, scaled = (
        small(label_scale=scale, epochs=12).fit(X[:100], Y[:100]) for scale in (None, "random")
    )
    gap = [np.square(m.predict(X[100:]) - Y[100:]).mean() for m in (scaled, plain)]
    assert gap[0] < gap[1]


def test_missing_labels():
    X, Y = data()
    gappy = Y.copy()
    gappy[60:] = np.nan
    gappy[:20, 3] = np.nan
    model = small(tasks=("in", "out"), hidden=(24, 12)).fit(X, gappy)
    assert (model.n_labelled_, model.n_outputs_) == (60, 5)
    assert np.isfinite(model.predict(X)).all()
    rows = small(tasks=()).fit(X[:60], Y[:60]).predict(X)
    unlabelled = Y.copy()
    unlabelled[60:] = np.nan
    assert not np.allclose(rows, small(tasks=("in",)).fit(X, unlabelled).predict(X))


def test_more_inputs_and_labels_alone():
    X, Y = data()
    model = small(tasks=("in", "out")).fit(X[:50], Y[:50], X_unlabelled=X[50:], y_only=Y[50:])
    assert model.score(X[50:], Y[50:]) > 0.3
    only = small(label_scale="pca").fit(X[:50], Y[:50], y_only=Y[50:])
    assert not np.allclose(only.centre_, Y[:50].mean(0))


def test_one_output_and_a_held_out_part():
    X, Y = data()
    model = small(validation_fraction=0.2).fit(X, Y[:, 0])
    assert model.predict(X).shape == (150,) and len(model.history_.valid) == 30


def test_seeds():
    X, Y = data(60)
    one, same, other = (small(epochs=3, random_state=s).fit(X, Y).predict(X) for s in (0, 0, 1))
    assert np.array_equal(one, same) and not np.allclose(one, other)


@pytest.mark.parametrize(
    ("settings", "change", "sentence"),
    [
        ({}, {"y": np.full((150, 5), np.nan)}, "all labels are missing"),
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
