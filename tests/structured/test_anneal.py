"""Annealed weights at their ends and between, and what is refused."""

import math

import pytest

from lorank.errors import LorankError
from lorank.structured import Anneal
from lorank.structured.anneal import weight_at


@pytest.mark.parametrize(
    ("kind", "middle"), [("linear", 0.5), ("stairs", 1.0), ("exp", math.exp(-50 / 20))]
)
def test_start_middle_end(kind, middle):
    fade = Anneal(kind, start=10, end=110, tau=20)
    assert [fade(t) for t in (0, 10, 110, 500)] == [1, 1, 0, 0]
    assert fade(60) == pytest.approx(middle)


def test_other_values_and_the_coupled_weight():
    fade = Anneal("linear", 0, 4, v0=0.2, v1=0.6)
    assert [round(fade(t), 12) for t in range(6)] == [0.2, 0.3, 0.4, 0.5, 0.6, 0.6]
    for curve in (fade, Anneal("stairs", 0, 4), Anneal("exp", tau=3.0)):
        assert all(curve(t) + curve.rest()(t) == pytest.approx(1) for t in (0, 0.5, 3, 4, 99))


def test_exp_without_an_end_never_is_zero():
    fade = Anneal("exp", tau=40)
    assert fade(40) == pytest.approx(math.exp(-1)) and 0 < fade(400) < 1e-4


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"kind": "line"}, "unknown annealing 'line': did you mean 'linear'"),
        ({"kind": "linear"}, "'linear' needs end"),
        ({"kind": "exp", "end": 5}, "'exp' needs tau"),
        ({"end": 0}, "ends after it starts"),
        ({"end": math.inf}, "finite numbers, found end=inf"),
        ({"kind": "exp", "tau": 0.0}, "tau above 0"),
        ({"end": "5"}, "finite numbers, found end='5'"),
        ({"end": 5, "v0": None}, "finite numbers, found v0=None"),
    ],
)
def test_bad_input(arguments, sentence):
    with pytest.raises(LorankError, match=sentence):
        Anneal(**arguments)


def test_a_weight_is_a_number_or_a_function():
    assert weight_at(2, 5) == 2.0 and weight_at(lambda t: t / 10, 5) == 0.5
    for bad in (-1.0, math.nan, lambda t: -t):
        with pytest.raises(LorankError, match="finite number of at least 0"):
            weight_at(bad, 5)
    for bad in (None, "one", lambda t: None):
        with pytest.raises(LorankError, match="a weight is a number or gives one"):
            weight_at(bad, 5)
