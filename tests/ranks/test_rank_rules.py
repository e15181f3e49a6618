"""Every rule on the list passes every test here."""

import dataclasses
import math
from dataclasses import replace
from functools import partial

import pytest
import torch

from lorank import ranks
from lorank.errors import LorankError
from lorank.ranks import RULES, Spectra, round_to, rule

PER_LAYER = {
    "energy": ranks.energy,
    "energy 0.99": partial(ranks.energy, keep=0.99),
    "threshold": ranks.threshold,
    "threshold 0.3": partial(ranks.threshold, relative=0.3),
    "stable_rank": ranks.stable_rank,
    "stable_rank 2.5": partial(ranks.stable_rank, scale=2.5),
    "effective_rank": ranks.effective_rank,
    "gavish_donoho": ranks.gavish_donoho,
    "evbmf": ranks.evbmf,
    "optimal_shrinkage": ranks.optimal_shrinkage,
    "csp": ranks.csp,
}
GLOBAL = {
    "params 0.5": partial(ranks.budget, params=0.5),
    "macs 0.4": partial(ranks.budget, macs=0.4),
    "macs weighted": partial(ranks.budget, macs=0.6, weights={"flat": 3.0}),
}
CONTRACT = PER_LAYER | GLOBAL

every_rule = pytest.mark.parametrize("choose", CONTRACT.values(), ids=CONTRACT)
per_layer_rule = pytest.mark.parametrize("choose", PER_LAYER.values(), ids=PER_LAYER)


def test_every_rule_is_on_the_list():
    names = {name.split()[0] for name in CONTRACT}
    assert set(RULES) <= names


@every_rule
def test_ranks_are_plain_and_in_range(choose, network):
    chosen = choose(network)
    assert type(chosen) is dict
    assert list(chosen) == list(network)
    for name, rank in chosen.items():
        assert type(rank) is int
        assert 1 <= rank <= network[name].full_rank


@every_rule
def test_a_plain_dict_and_spectra_give_the_same(choose, network):
    assert choose(network) == choose(Spectra(network))


@every_rule
@pytest.mark.parametrize("scale", [1e-6, 0.3, 7.7, 1e9])
def test_ranks_do_not_depend_on_the_scale_of_the_weights(choose, network, scale):
    scaled = {name: replace(layer, values=scale * layer.values) for name, layer in network.items()}
    assert choose(scaled) == choose(network)


@every_rule
def test_the_input_is_left_alone(choose, network):
    before = {name: layer.values.clone() for name, layer in network.items()}
    choose(network)
    assert all(torch.equal(before[name], layer.values) for name, layer in network.items())


@every_rule
def test_values_may_require_a_gradient_and_be_of_any_precision(choose, network):
    for dtype in (torch.float32, torch.bfloat16):
        cast = {
            name: replace(layer, values=layer.values.to(dtype).requires_grad_())
            for name, layer in network.items()
        }
        exact = {
            name: replace(layer, values=layer.values.to(dtype).double())
            for name, layer in network.items()
        }
        assert choose(cast) == choose(exact)


@every_rule
@pytest.mark.parametrize("multiple", [1, 2, 3])
def test_multiples(choose, network, multiple):
    for name, rank in choose(network, multiple=multiple).items():
        assert rank % multiple == 0 or rank == network[name].full_rank


@per_layer_rule
def test_rounding_goes_up_and_never_above_full_rank(choose, network):
    exact = choose(network)
    for multiple in (4, 8, 100):
        rounded = choose(network, multiple=multiple)
        for name, rank in exact.items():
            up = math.ceil(rank / multiple) * multiple
            assert rounded[name] == min(up, network[name].full_rank)


@every_rule
@pytest.mark.parametrize("multiple", [0, -8, 2.0, True])
def test_a_multiple_is_a_whole_number(choose, network, multiple):
    with pytest.raises(LorankError, match="multiple must be a whole number"):
        choose(network, multiple=multiple)


@every_rule
def test_nothing_measured(choose):
    with pytest.raises(LorankError, match="no layer was measured"):
        choose({})


@every_rule
def test_what_is_no_table(choose):
    with pytest.raises(LorankError, match=r"the table of lorank\.measure, found a Linear"):
        choose(torch.nn.Linear(2, 2))


@every_rule
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_values_that_are_not_finite_name_their_layer(choose, network, bad):
    network["wide"].values[2] = bad
    with pytest.raises(LorankError, match=r"'wide'.*finite, found 1"):
        choose(network)


@every_rule
@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ([1.0, 2.0], "descending"),
        ([1.0, -1.0], "negative"),
        ([1.0] * 10, "at most 9"),
        ([[[1.0]]], "shape"),
        ([], "with entries"),
    ],
)
def test_spectra_that_are_none_name_their_layer(choose, network, make, values, fault):
    network["flat"] = make(values, m=9)
    with pytest.raises(LorankError, match=f"'flat'.*{fault}"):
        choose(network)


@every_rule
@pytest.mark.parametrize(
    ("values", "found"), [(torch.ones(3) * 1j, "complex64"), ([3.0, 1.0], "list")]
)
def test_values_that_are_no_real_tensor_name_their_layer(choose, network, make, values, found):
    network["flat"] = dataclasses.replace(make([1.0]), values=values)
    with pytest.raises(LorankError, match=f"'flat'.*tensor of real numbers, found.*{found}"):
        choose(network)


@per_layer_rule
@pytest.mark.parametrize("values", [[0.0] * 5, [3.0, 0.0, 0.0], [2.0], [0.0], [[0.0] * 4] * 3])
def test_zero_rank_one_and_single_values_have_rank_one(choose, make, values):
    assert choose({"layer": make(values)}) == {"layer": 1}
    assert choose({"layer": make(values, m=6, n=50)}) == {"layer": 1}


@per_layer_rule
def test_equal_groups_are_judged_like_one(choose, make):
    s = torch.linspace(3, 0.1, 12, dtype=torch.float64) ** 3
    one = choose({"layer": make(s, n=20)})
    assert choose({"layer": make(torch.stack([s, s, s]), n=20)}) == one


@every_rule
def test_no_layer_of_zeros_is_kept_at_a_price(choose, network, make):
    network["zero"] = make([0.0] * 16)
    assert choose(network)["zero"] == 1


def test_round_to(make):
    spectra = {"a": make([1.0] * 20), "b": make([1.0] * 20)}
    assert round_to({"a": 1, "b": 17}, spectra, 8) == {"a": 8, "b": 20}
    assert round_to({"a": 8}, spectra, 8) == {"a": 8}


@pytest.mark.parametrize(
    ("text", "direct"),
    [
        ("energy:0.99", partial(ranks.energy, keep=0.99)),
        ("energy", ranks.energy),
        ("threshold: 0.1", partial(ranks.threshold, relative=0.1)),
        ("stable_rank:2", partial(ranks.stable_rank, scale=2)),
        ("effective_rank", ranks.effective_rank),
        (" evbmf", ranks.evbmf),
        ("gavish_donoho:0.01", partial(ranks.gavish_donoho, noise=0.01)),
        ("csp:0.01", partial(ranks.csp, noise=0.01)),
        ("params:0.5", partial(ranks.budget, params=0.5)),
        ("macs:60000", partial(ranks.budget, macs=60_000)),
    ],
)
def test_a_typed_rule_is_the_function(text, direct, network):
    assert rule(text)(network) == direct(network)
    assert rule(text, multiple=4)(network) == direct(network, multiple=4)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("enrgy:0.9", "did you mean 'energy'"),
        ("", "unknown rank rule ''"),
        ("energy:much", "is a number, found 'energy:much'"),
        ("energy:", "is a number"),
        ("evbmf:3", "takes no value, found 3"),
        ("macs", "needs a value, such as macs:0.5"),
    ],
)
def test_a_mistyped_rule_is_refused_when_it_is_read(text, sentence):
    with pytest.raises(LorankError, match=sentence):
        rule(text)
