"""Budgets of measured time, from times that are made up, so that the right answer is known."""

import itertools
import math
from dataclasses import replace

import pytest
import torch

from lorank.errors import LorankError
from lorank.ranks import Price, Spectra, Spectrum, Times, budget, cost_of
from lorank.ranks.per_layer import lost
from lorank.ranks.times import fit


def layer(values, times, limit=None):
    size = len(values)
    even = size // 2 if limit is None else limit
    s = torch.tensor(sorted(values, reverse=True), dtype=torch.float64)
    price = Price(size * size, 2 * size)
    return Spectrum(s, (size, size), "channel", price, price, even, times)


@pytest.fixture
def clocked():
    g = torch.Generator().manual_seed(3)

    def values(power):
        return (torch.rand(32, generator=g, dtype=torch.float64) ** power).tolist()

    return Spectra(
        {
            "steep": layer(values(5), Times(1000, {4: 300, 8: 400, 16: 700}, 4)),
            "flat": layer(values(0.3), Times(900, {4: 350, 8: 500, 16: 880}, 4)),
            "slow": layer(values(3), Times(200, {4: 210, 8: 220, 16: 260}, 4)),
            "idle": layer(values(3), Times(0, {}, 4)),
        },
        latency=2600,
    )


def every_choice(spectra):
    """All ranks that may be chosen, one by one: multiples that are faster and pay, or full."""
    offers = []
    for one in spectra.values():
        thin = range(one.times.multiple, one.full_rank, one.times.multiple)
        fast = [r for r in thin if r <= one.break_even and one.times.at(r) < one.times.dense]
        offers.append([*fast, one.full_rank])
    for ranks in itertools.product(*offers):
        yield dict(zip(spectra, ranks, strict=True))


def loss(ranks, spectra):
    return sum(float(lost(spectra[name])[rank]) for name, rank in ranks.items())


@pytest.mark.parametrize("share", [0.55, 0.6, 0.7, 0.8, 0.9, 0.99])
def test_the_budget_holds_and_is_near_the_best_of_all(clocked, share):
    ranks = budget(clocked, latency=share)
    assert cost_of(ranks, clocked, "latency") <= share * 2600
    fits = [r for r in every_choice(clocked) if cost_of(r, clocked, "latency") <= share * 2600]
    best = min(loss(r, clocked) for r in fits)
    # the bound of the knapsack: one step of one layer, here at most the largest step
    steps = [
        float(lost(one)[a] - lost(one)[b])
        for one in clocked.values()
        for a, b in itertools.pairwise([4, 8, 12, 16, 32])
    ]
    assert best <= loss(ranks, clocked) <= best + max(steps)


def test_a_layer_that_is_not_faster_stays_dense(clocked):
    for share in (0.55, 0.7, 0.9):
        ranks = budget(clocked, latency=share)
        assert ranks["slow"] == 32 and ranks["idle"] == 32
    assert min(budget(replace_times(clocked, "slow", {4: 10}), latency=0.5).values()) == 4


def replace_times(spectra, name, ranks):
    old = spectra[name]
    new = replace(old, times=Times(old.times.dense, ranks, old.times.multiple))
    return Spectra({**spectra, name: new}, latency=spectra.latency)


def test_ranks_keep_to_the_multiples_that_were_timed(clocked):
    for multiple, step in ((1, 4), (2, 4), (6, 12), (8, 8)):
        ranks = budget(clocked, latency=0.8, multiple=multiple)
        assert all(r % step == 0 or r == 32 for r in ranks.values())


def test_never_above_the_break_even(clocked):
    short = Spectra({n: replace(s, limit=8) for n, s in clocked.items()}, latency=2600)
    assert all(r <= 8 or r == 32 for r in budget(short, latency=0.8).values())


def test_the_whole_is_what_is_left_alone_and_the_layers(clocked):
    assert cost_of({}, clocked, "latency") == 2600
    assert cost_of({"steep": 8}, clocked, "latency") == 2600 - 1000 + 400
    assert cost_of({"steep": 12}, clocked, "latency") == 2600 - 1000 + 550
    # a rank that folds as a pair takes the pair's time, also where that is no gain
    assert cost_of({"slow": 8}, clocked, "latency") == 2600 - 200 + 220
    assert cost_of({"slow": 20}, clocked, "latency") == 2600


def test_all_of_the_time_changes_nothing(clocked):
    assert set(budget(clocked, latency=1.0).values()) == {32}


def test_too_little_time_says_what_can_be_reached(clocked):
    with pytest.raises(LorankError, match="smallest possible") as error:
        budget(clocked, latency=0.1)
    least = 2600 - 1000 - 900 + 300 + 350
    assert f"the smallest possible is {least}" in str(error.value)
    assert cost_of(budget(clocked, latency=least / 2600 + 1e-6), clocked, "latency") == least


@pytest.mark.parametrize("asked", [0, 1, 5, True, 0.0, -0.5, 1.5, math.nan, "0.5"])
def test_a_share_of_the_time_is_a_fraction(clocked, asked):
    with pytest.raises(LorankError, match="fraction of the dense network's time"):
        budget(clocked, latency=asked)


def test_times_must_be_there(clocked):
    bare = {name: replace(one, times=None) for name, one in clocked.items()}
    for ask in (lambda: budget(bare, latency=0.7), lambda: cost_of({"flat": 4}, bare, "latency")):
        with pytest.raises(LorankError, match="nobody looked at a clock"):
            ask()


def test_one_budget_of_four(clocked):
    with pytest.raises(LorankError, match="exactly one of the four"):
        budget(clocked, latency=0.7, macs=0.5)


@pytest.mark.parametrize(
    ("dense", "ranks"),
    [(-1, {}), (1.5, {}), (True, {}), (math.nan, {}), (5, {8: -2}), (5, {8: math.nan})],
)
def test_times_are_whole_and_not_negative(dense, ranks):
    with pytest.raises(LorankError, match="a whole number of nanoseconds"):
        Times(dense, ranks)


@pytest.mark.parametrize("ranks", [{8: 5, 4: 9}, {4: 9, 8: 5}])
def test_times_are_in_order(ranks):
    with pytest.raises(LorankError, match="by ascending rank and do not fall"):
        Times(10, ranks)


@pytest.mark.parametrize("seconds", [math.nan, math.inf, -1e-9])
def test_a_time_that_is_no_time(seconds):
    with pytest.raises(LorankError, match="finite and not negative"):
        fit(1e-6, {8: seconds})
    with pytest.raises(LorankError, match="finite and not negative"):
        fit(seconds, {})


def test_between_and_beyond_what_was_timed():
    times = Times(100, {8: 10, 16: 30, 32: 40})
    asked = torch.tensor([1, 8, 12, 16, 24, 32, 50])
    assert times.at(asked).tolist() == [10, 10, 20, 30, 35, 40, 40]
    assert [times.at(r) for r in asked.tolist()] == times.at(asked).tolist()
    assert Times(100, {}).at(asked).tolist() == [100] * 7


def test_the_fit_is_the_nearest_that_does_not_fall():
    """Pooling must meet the conditions that single out the projection on a convex cone."""
    g = torch.Generator().manual_seed(0)
    for _ in range(50):
        seen = torch.rand(7, generator=g, dtype=torch.float64).tolist()
        found = fit(1.0, {8 * (i + 1): t for i, t in enumerate(seen)})
        t = [value / 1e9 for value in found.ranks.values()]
        assert all(a <= b for a, b in itertools.pairwise(t))
        rest = [m - v for m, v in zip(seen, t, strict=True)]
        rounding = 7 * 1e-9  # times are whole nanoseconds
        assert abs(sum(r * v for r, v in zip(rest, t, strict=True))) <= rounding
        assert all(sum(rest[k:]) <= rounding for k in range(7))
    assert list(fit(1.0, {8: 1e-6, 16: 2e-6}).ranks.values()) == [1000, 2000]
