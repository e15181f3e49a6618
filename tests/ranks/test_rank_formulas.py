"""Each rule against values computed by hand, and against its own limits."""

import itertools
import math

import pytest
import torch

from lorank.errors import LorankError
from lorank.ranks import effective_rank, energy, stable_rank, threshold


def one(rule, layer, *args, **kwargs):
    return rule({"layer": layer}, *args, **kwargs)["layer"]


# Energy: squares 16, 9, 4, 1 of total 30.
@pytest.mark.parametrize(
    ("keep", "rank"),
    [(0.1, 1), (16 / 30, 1), (0.54, 2), (25 / 30, 2), (0.84, 3), (29 / 30, 3), (0.97, 4), (1.0, 4)],
)
def test_energy_by_hand(make, keep, rank):
    assert one(energy, make([4.0, 3.0, 2.0, 1.0]), keep=keep) == rank


def test_energy_ties_are_kept_whatever_the_scale(make):
    for scale in (1.0, 0.1, 1 / 3, 1e-5):
        s = scale * torch.tensor([3.0, 1.0], dtype=torch.float64)
        assert one(energy, make(s), keep=0.9) == 1
        assert one(energy, make(scale * torch.ones(10, dtype=torch.float64)), keep=0.7) == 7


def test_energy_of_the_smallest_shares_is_exact(make):
    """The paper removes 3e-6 of the energy: a running sum in float32 would not see it."""
    tail = torch.full((1000,), 1e-4, dtype=torch.float64)
    layer = make(torch.cat([torch.tensor([1.0]), tail]))
    removed = 3e-6
    kept = 1 + math.ceil(1000 - removed * (1 + 1e-5) / 1e-8)
    assert one(energy, layer, keep=1 - removed) == kept


def test_all_the_energy_drops_zeros_only(make):
    assert one(energy, make([1.0, 1e-9, 0.0]), keep=1.0) == 2


def test_energy_is_monotone(network):
    grid = [0.05, 0.3, 0.5, 0.9, 0.99, 0.9999, 1.0]
    chosen = [energy(network, keep=keep) for keep in grid]
    for low, high in itertools.pairwise(chosen):
        assert all(low[name] <= high[name] for name in network)
    assert chosen[0] != chosen[-1]


def test_groups_pool_their_energy(make):
    # 1 + 100, 1 + 0: the pooled share of rank 1 is 101/102, one group's alone would be 1/2.
    layer = make([[1.0, 1.0], [10.0, 0.0]])
    assert one(energy, layer, keep=101 / 102) == 1
    assert one(energy, layer, keep=0.995) == 2


@pytest.mark.parametrize("keep", [0.0, -0.1, 1.1, math.nan])
def test_a_share_is_a_share(make, keep):
    with pytest.raises(LorankError, match="share of the energy"):
        one(energy, make([1.0]), keep=keep)


@pytest.mark.parametrize(
    ("relative", "rank"), [(0.0, 3), (0.05, 3), (0.1, 2), (0.4, 2), (0.5, 1), (0.99, 1)]
)
def test_threshold_by_hand(make, relative, rank):
    assert one(threshold, make([2.0, 1.0, 0.2, 0.0]), relative=relative) == rank


@pytest.mark.parametrize("relative", [-0.1, 1.0, math.nan])
def test_a_fraction_is_a_fraction(make, relative):
    with pytest.raises(LorankError, match="fraction of the largest"):
        one(threshold, make([1.0]), relative=relative)


@pytest.mark.parametrize(
    ("values", "scale", "rank"),
    [
        ([1.0] * 7, 1.0, 7),
        ([2.0, 1.0, 1.0, 1.0, 1.0], 1.0, 2),
        ([2.0, 1.0, 1.0, 1.0, 1.01], 1.0, None),
        ([2.0, 1.01, 1.0, 1.0, 1.0], 1.0, 3),
        ([2.0, 1.0, 1.0, 1.0, 1.0], 2.0, 4),
        ([2.0, 1.0, 1.0, 1.0, 1.0], 100.0, 5),
    ],
)
def test_stable_rank_by_hand(make, values, scale, rank):
    if rank is None:
        with pytest.raises(LorankError, match="descending"):
            one(stable_rank, make(values))
    else:
        assert one(stable_rank, make(values), scale=scale) == rank


@pytest.mark.parametrize("scale", [0, -1.0, math.inf, math.nan])
def test_a_scale_is_positive(make, scale):
    with pytest.raises(LorankError, match="positive"):
        one(stable_rank, make([1.0]), scale=scale)


def test_effective_rank_by_hand(make):
    assert one(effective_rank, make([5.0] * 9)) == 9
    assert one(effective_rank, make([1.0, 1.0, 0.0])) == 2
    # p = 1/2, 1/4, 1/4: entropy 1.5 log 2, exponential 2.83.
    assert one(effective_rank, make([2.0, 1.0, 1.0])) == 3
    # p = 0.9, 0.1: exponential 1.384.
    assert one(effective_rank, make([9.0, 1.0])) == 2


def test_effective_rank_is_between_stable_rank_and_rank(network):
    stable, effective = stable_rank(network), effective_rank(network)
    assert all(stable[name] <= effective[name] for name in network)
    assert effective["steep"] < network["steep"].full_rank
