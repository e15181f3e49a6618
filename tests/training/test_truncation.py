import torch

import lorank
from lorank.ranks import cost_of
from lorank.training.recipe import Cut, Stage, Truncation
from lorank.training.truncation import cut_ranks, step_ranks, step_share


def stage(**options) -> Stage:
    return Stage(name="a", epochs=10, truncation=Truncation(until=0.5), **options)


def test_steps_are_quick_at_first_and_arrive_in_time():
    shares = [step_share(stage(), epoch) for epoch in range(1, 11)]
    assert shares == sorted(shares)
    assert shares[0] > 0.3
    assert shares[4:] == [1.0] * 6


def test_ranks_walk_towards_the_budget_and_reach_it(net):
    spectra = lorank.measure(net, torch.zeros(1, 1, 8, 8))
    plan = stage(cut=Cut(macs=0.4))
    costs = [cost_of(step_ranks(plan, spectra, e), spectra, "macs") for e in range(1, 7)]
    assert costs == sorted(costs, reverse=True)
    assert costs[0] > 0.5 * spectra.macs
    assert costs[-1] <= 0.4 * spectra.macs
    assert cost_of(cut_ranks(plan.cut, spectra), spectra, "macs") <= 0.4 * spectra.macs


def test_an_absolute_budget_walks_too(net):
    spectra = lorank.measure(net)
    target = int(0.5 * spectra.params)
    plan = stage(cut=Cut(params=target))
    assert cost_of(step_ranks(plan, spectra, 5), spectra, "params") <= target


def test_dead_values_are_cut_without_any_budget(net):
    model = lorank.decompose(net)
    with torch.no_grad():
        model[4].S[5:] = 1e-6
    ranks = step_ranks(stage(), lorank.measure(model), 1)
    assert ranks["4"] == 5
    assert ranks["8"] == 3


def test_ranks_never_exceed_what_the_factors_have(net):
    model = lorank.prune(lorank.decompose(net), {"0": 2, "4": 3, "8": 1})
    ranks = cut_ranks(Cut(rule="energy:1.0"), lorank.measure(model))
    assert ranks == {"0": 2, "4": 3, "8": 1}
