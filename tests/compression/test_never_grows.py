"""A network in plain layers is never larger or slower than the dense one, whatever the ranks."""

import itertools

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import lorank
import tolerance
from compression.networks import draw, mixed
from nn.layer_kinds import CASES, KINDS

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")

LAYERS = [case for case in CASES if not KINDS[case[0]].table]


def params(model):
    return sum(p.numel() for p in model.parameters())


def macs(model, x):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x)
    return counter.get_total_flops() // 2


def is_pair(model):
    return isinstance(model, nn.Sequential)


@pytest.mark.parametrize(("name", "layout"), CASES)
def test_folding_never_grows_and_costs_what_cost_says(name, layout):
    kind = KINDS[name]
    dense, x = kind.layer(), kind.x()
    full = min(kind.view(layout).shape)
    for rank in {1, (full + 1) // 2, full}:
        low = lorank.decompose(dense, {"": rank}, layout=layout)
        for example in (None, x):
            folded = lorank.fold(low, example=example)
            assert params(folded) <= params(dense)
            price = lorank.cost(low, example)
            assert price.params == params(folded)
            if example is None:
                continue
            assert price.macs == macs(folded, x)
            if not kind.table:  # a table is read at no MACs: it can only save memory
                assert price.macs <= macs(dense, x)
                assert is_pair(folded) == (
                    price.params < params(dense) or price.macs < macs(dense, x)
                )
            assert price == lorank.cost(folded, example)


@pytest.mark.parametrize(("name", "layout"), LAYERS)
def test_a_pair_starts_exactly_at_break_even(name, layout):
    """Dense at a rank that saves nothing, a pair one rank below where it saves both."""
    kind = KINDS[name]
    dense, x = kind.layer(), kind.x()
    spectrum = lorank.measure(dense, x, layout=layout, layers=[""])[""]
    around = {1, spectrum.break_even, spectrum.break_even + 1, spectrum.full_rank}
    for rank in around & set(range(1, spectrum.full_rank + 1)):
        folded = lorank.fold(lorank.decompose(dense, {"": rank}, layout=layout), example=x)
        prices = [(p.dense, rank * p.per_rank) for p in (spectrum.params, spectrum.macs)]
        neither_dearer = all(pair <= whole for whole, pair in prices)
        assert is_pair(folded) == (neither_dearer and any(p < w for w, p in prices))
        assert is_pair(folded) == (rank <= spectrum.break_even)


@pytest.mark.parametrize(("m", "n"), [(8, 8), (6, 12), (16, 48)])
def test_break_even_of_a_linear_layer(m, n):
    """r(m + n) < mn, strictly: at equality a pair is two layers for the price of one."""
    for rank in range(1, min(m, n) + 1):
        folded = lorank.fold(lorank.decompose(nn.Linear(n, m), {"": rank}))
        assert is_pair(folded) == (rank * (m + n) < m * n)


@pytest.mark.parametrize(("name", "layout"), CASES)
def test_padding_keeps_the_function_and_the_guard(name, layout):
    kind = KINDS[name]
    dense, x = kind.layer(), kind.x()
    low = lorank.decompose(dense, {"": 1}, layout=layout)
    plain = lorank.fold(low, example=x)
    for multiple in (2, 8):
        padded = lorank.fold(low, multiple=multiple, example=x)
        allowed = tolerance.product(200, x.dtype if not kind.table else torch.float64)
        want = plain(x).detach()
        assert tolerance.distance(padded(x), want) <= allowed * (1 + float(want.norm()))
        assert params(plain) <= params(padded) <= params(dense)
        if not kind.table:
            assert macs(plain, x) <= macs(padded, x) <= macs(dense, x)
        assert is_pair(padded) == is_pair(plain)


def test_ranks_are_padded_where_that_still_pays():
    def width(rank, multiple, size=64):
        low = lorank.decompose(nn.Linear(size, size), {"": rank})
        folded = lorank.fold(low, multiple=multiple)
        return folded[0].out_features if is_pair(folded) else None

    assert width(9, 8) == 16
    assert width(16, 8) == 16
    assert width(25, 8) == 25  # 32 would cost what the dense layer costs
    assert width(31, 8) == 31
    assert width(32, 8) is None
    assert width(3, 1) == 3


def test_a_whole_network_never_grows_at_any_ranks():
    dense, x = mixed(), draw()
    start = lorank.cost(dense, x)
    full = {name: s.full_rank for name, s in lorank.measure(dense).items()}
    for share, multiple in itertools.product((0.01, 0.3, 0.6, 0.9, 1.0), (1, 4)):
        ranks = {name: max(1, int(share * r)) for name, r in full.items()}
        low = lorank.decompose(dense, ranks)
        for example in (None, x):
            folded = lorank.fold(low, multiple=multiple, example=example)
            end = lorank.cost(folded, x)
            assert params(folded) == end.params <= start.params
            assert end.bytes <= start.bytes
        assert end.macs <= start.macs
        if multiple == 1:
            assert lorank.cost(low, x) == end


@pytest.mark.parametrize("multiple", [0, -1, 2.0, True, "8"])
def test_multiple_is_a_positive_whole_number(multiple):
    with pytest.raises(lorank.LorankError, match="multiple must be a whole number of at least 1"):
        lorank.fold(lorank.decompose(nn.Linear(4, 4)), multiple=multiple)
