"""The budget: never exceeded, nearly used up, and nearly the best there is."""

import itertools
import math

import pytest
import torch

from lorank.errors import LorankError
from lorank.ranks import Price, Spectra, Spectrum, budget, cost_of
from lorank.ranks.knapsack import choose, fill, lower_bound
from lorank.ranks.per_layer import lost


def total_loss(ranks, spectra, weights=None):
    return sum(
        (weights or {}).get(name, 1.0) * float(lost(spectra[name])[rank])
        for name, rank in ranks.items()
    )


def random_network(seed, layers=3, largest=8):
    g = torch.Generator().manual_seed(seed)

    def whole(low, high):
        return int(torch.randint(low, high + 1, (1,), generator=g))

    spectra = {}
    for i in range(layers):
        m = whole(2, largest)
        n = m * whole(1, 4)
        power = 0.3 + 5 * float(torch.rand(1, generator=g))
        s = torch.rand(m, generator=g, dtype=torch.float64).pow(power)
        price = Price(m * n, m + n)
        calls = whole(1, 50)
        macs = Price(calls * price.dense, calls * price.per_rank)
        s = s.sort(descending=True).values
        spectra[f"l{i}"] = Spectrum(s, (m, n), "channel", price, macs)
    return spectra


def allowed_ranks(layer, unit, multiple):
    price = getattr(layer, unit)
    thin = [
        r
        for r in range(1, layer.full_rank)
        if r % multiple == 0 and r * price.per_rank < price.dense
    ]
    return [*thin, layer.full_rank]


def brute_force(spectra, unit, target, multiple, weights=None):
    """Smallest loss and smallest cost of all combinations."""
    options = [allowed_ranks(layer, unit, multiple) for layer in spectra.values()]
    best, least = math.inf, math.inf
    for combination in itertools.product(*options):
        ranks = dict(zip(spectra, combination, strict=True))
        cost = cost_of(ranks, spectra, unit)
        least = min(least, cost)
        if cost <= target:
            best = min(best, total_loss(ranks, spectra, weights))
    return best, least


def tables(spectra, unit, multiple, weights=None):
    costs, losses = [], []
    for name, layer in spectra.items():
        ranks = torch.tensor(allowed_ranks(layer, unit, multiple))
        costs.append(torch.tensor([layer.cost(int(r), unit) for r in ranks]))
        losses.append((weights or {}).get(name, 1.0) * lost(layer)[ranks])
    return costs, losses


def largest_step(costs, losses):
    """Largest gain between neighbours on any layer's lower convex hull."""
    largest = 0.0
    for cost, loss in zip(costs, losses, strict=True):
        points = sorted(zip(cost.tolist(), loss.tolist(), strict=True))
        hull = []
        for c, f in points:
            while len(hull) > 1 and (hull[-1][1] - hull[-2][1]) * (c - hull[-2][0]) >= (
                f - hull[-2][1]
            ) * (hull[-1][0] - hull[-2][0]):
                hull.pop()
            hull.append((c, f))
        largest = max([largest, *(a[1] - b[1] for a, b in itertools.pairwise(hull))])
    return largest


@pytest.mark.parametrize("seed", range(16))
@pytest.mark.parametrize(("unit", "multiple"), [("params", 1), ("macs", 1), ("params", 2)])
def test_against_all_combinations(seed, unit, multiple):
    spectra = random_network(seed)
    weights = {"l0": 2.0, "l2": 0.25} if seed % 3 == 0 else None
    whole = cost_of({}, spectra, unit)
    least = brute_force(spectra, unit, 0, multiple)[1]
    target = least + (whole - least) * (seed + 1) // 50
    ranks = budget(spectra, **{unit: int(target)}, multiple=multiple, weights=weights)
    assert cost_of(ranks, spectra, unit) <= target
    best = brute_force(spectra, unit, target, multiple, weights)[0]
    costs, losses = tables(spectra, unit, multiple, weights)
    bound = lower_bound(costs, losses, target)
    found = total_loss(ranks, spectra, weights)
    assert bound <= best + 1e-12
    assert best <= found + 1e-12
    # The theorem: one step of one layer at most, from the bound and so from the best.
    assert found - bound <= largest_step(costs, losses) + 1e-12


def test_nearly_always_the_best_there_is():
    """The gap above is the worst case; over 40 networks nearly all are solved exactly."""
    exact = 0
    for seed in range(40):
        spectra = random_network(1000 + seed)
        whole = cost_of({}, spectra)
        least = brute_force(spectra, "params", 0, 1)[1]
        target = int(least + (whole - least) * 0.5)
        found = total_loss(budget(spectra, params=target), spectra)
        exact += found <= brute_force(spectra, "params", target, 1)[0] + 1e-12
    assert exact >= 36


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("unit", ["params", "macs"])
@pytest.mark.parametrize("fraction", [0.3, 0.55, 0.8, 0.95])
@pytest.mark.parametrize("multiple", [1, 4])
def test_large_networks_use_what_they_may_spend(seed, unit, fraction, multiple):
    spectra = random_network(seed, layers=25, largest=48)
    target = math.floor(fraction * cost_of({}, spectra, unit))
    ranks = budget(spectra, **{unit: fraction}, multiple=multiple)
    cost = cost_of(ranks, spectra, unit)
    assert cost <= target
    assert all(r % multiple == 0 or r == spectra[n].full_rank for n, r in ranks.items())
    costs, losses = tables(spectra, unit, multiple)
    gap = total_loss(ranks, spectra) - lower_bound(costs, losses, target)
    assert -1e-12 <= gap <= largest_step(costs, losses)
    # No layer alone could still do better with what is left.
    for name, layer in spectra.items():
        for better in allowed_ranks(layer, unit, multiple):
            if float(lost(layer)[better]) < float(lost(layer)[ranks[name]]):
                assert cost_of(ranks | {name: better}, spectra, unit) > target


def test_a_global_budget_beats_the_same_share_everywhere():
    spectra = random_network(3, layers=20, largest=40)
    equal = {
        name: max(1, math.floor(0.5 * layer.params.dense / layer.params.per_rank))
        for name, layer in spectra.items()
    }
    ranks = budget(spectra, params=cost_of(equal, spectra))
    assert total_loss(ranks, spectra) < 0.9 * total_loss(equal, spectra)
    assert cost_of(ranks, spectra) <= cost_of(equal, spectra)


def test_a_rank_that_saves_nothing_is_never_chosen():
    for seed in range(10):
        spectra = random_network(seed, layers=12, largest=20)
        for name, rank in budget(spectra, params=0.8).items():
            layer = spectra[name]
            assert rank == layer.full_rank or rank <= layer.break_even


@pytest.mark.parametrize("asked", [1.0, 10**9])
def test_a_budget_of_everything_changes_nothing(network, asked):
    full = {name: layer.full_rank for name, layer in network.items()}
    assert budget(network, params=asked) == full
    assert budget(network, macs=asked) == full
    assert budget(network, params=cost_of({}, network)) == full
    assert budget(network, params=cost_of({}, network) - 1) != full


def test_the_whole_network_counts_where_its_cost_is_known(network):
    measured = cost_of({}, network)
    spectra = Spectra(network, params=measured + 1000, macs=10**6)
    ranks = budget(spectra, params=0.8)
    assert cost_of(ranks, spectra) <= 0.8 * (measured + 1000)
    assert cost_of(ranks, network) == cost_of(ranks, spectra) - 1000
    # What is never cut must be paid by the layers that are.
    assert cost_of(ranks, network) < cost_of(budget(network, params=0.8), network)


def test_a_budget_too_small_says_what_can_be_reached(network):
    spectra = Spectra(network, params=cost_of({}, network) + 1000)
    with pytest.raises(LorankError, match="smallest possible is") as error:
        budget(spectra, params=0.01)
    words = str(error.value).split()
    least, share = int(words[words.index("is") + 1].strip(",")), float(words[-5])
    for smallest in (least, share):
        ranks = budget(spectra, params=smallest)
        assert cost_of(ranks, spectra) == least
    with pytest.raises(LorankError, match="smallest possible"):
        budget(spectra, params=least - 1)


def test_a_multiple_raises_the_smallest_budget(network):
    with pytest.raises(LorankError, match="smallest possible"):
        budget(network, params=0.3, multiple=8)
    assert budget(network, params=0.3)


def test_weights_move_ranks(network):
    plain = budget(network, params=0.5)
    loved = budget(network, params=0.5, weights={"flat": 100.0})
    scorned = budget(network, params=0.5, weights={"flat": 0.0})
    assert scorned["flat"] == 1
    assert loved["flat"] > plain["flat"] or plain["flat"] == network["flat"].full_rank
    # Only ratios count.
    tenth = dict.fromkeys(network, 1e-9)
    assert budget(network, params=0.5, weights=tenth) == plain


def test_a_floor_under_every_layer(network):
    ranks = budget(network, params=0.7, keep=0.6)
    assert all(float(lost(network[name])[rank]) <= 0.4 for name, rank in ranks.items())
    assert any(
        float(lost(network[name])[rank]) > 0.4 for name, rank in budget(network, params=0.3).items()
    )
    with pytest.raises(LorankError, match="share of the energy"):
        budget(network, params=0.7, keep=1.5)


def test_identical_layers_share_a_budget(make):
    """All steps tie: the multiplier alone would take all of them or none."""
    spectra = {f"l{i}": make([4.0, 3.0, 2.0, 1.0] + [0.5] * 16) for i in range(10)}
    for fraction in (0.15, 0.33, 0.5, 0.77):
        ranks = budget(spectra, params=fraction)
        assert 4000 * fraction - cost_of(ranks, spectra) < 400


@pytest.mark.parametrize("asked", [True, False, 0, -5, 0.0, -0.5, 1.5, math.nan, "0.5"])
def test_a_budget_is_a_fraction_or_a_count(network, asked):
    with pytest.raises(LorankError, match="a float in \\(0, 1\\], or a count"):
        budget(network, params=asked)


@pytest.mark.parametrize("both", [{}, {"params": 0.5, "macs": 0.5}])
def test_exactly_one_budget(network, both):
    with pytest.raises(LorankError, match="exactly one"):
        budget(network, **both)


def test_macs_need_an_example(make):
    layer = make([2.0, 1.0])
    blind = {"fc": Spectrum(layer.values, layer.shape, layer.layout, layer.params)}
    for ask in (lambda: budget(blind, macs=0.5), lambda: cost_of({"fc": 1}, blind, "macs")):
        with pytest.raises(LorankError, match="pass an example input to measure"):
            ask()
    assert budget(blind, params=1.0) == {"fc": 2}


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        ({"flatt": 1.0}, "did you mean 'flat'"),
        ({"flat": -1.0}, "'flat' must be finite"),
        ({"flat": math.nan}, "'flat' must be finite"),
    ],
)
def test_bad_weights(network, weights, sentence):
    with pytest.raises(LorankError, match=sentence):
        budget(network, params=0.5, weights=weights)


def test_cost_of_by_hand(make):
    spectra = {"a": make([1.0] * 10), "b": make([1.0] * 4, n=9)}
    assert cost_of({}, spectra) == 136
    assert cost_of({"a": 2, "b": 1}, spectra) == 40 + 13
    assert cost_of({"a": 2}, spectra) == 40 + 36
    assert cost_of({"a": 5}, spectra) == 136  # break-even: 5 · 20 is the dense 100
    assert cost_of({"a": 2}, spectra, "macs") == 49 * 76


@pytest.mark.parametrize(
    ("ranks", "unit", "sentence"),
    [
        ({"c": 1}, "params", "unknown layer 'c'"),
        ({"a": 0}, "params", "between 1 and 10, found 0"),
        ({"a": 11}, "params", "between 1 and 10, found 11"),
        ({"a": 1}, "flops", "unknown unit 'flops'"),
    ],
)
def test_cost_of_refuses(make, ranks, unit, sentence):
    with pytest.raises(LorankError, match=sentence):
        cost_of(ranks, {"a": make([1.0] * 10)}, unit)


def test_a_layer_that_costs_nothing_stays_whole(make):
    """Never called by the example: no MACs, so nothing to save."""
    layer = make([2.0, 1.0])
    idle = Spectrum(layer.values, layer.shape, layer.layout, layer.params, Price(0, 0))
    spectra = {"idle": idle, "used": make([2.0, 1.0, 1.0, 1.0])}
    assert budget(spectra, macs=0.5)["idle"] == 2


def test_the_greedy_fill_takes_the_best_step_that_fits():
    costs = [torch.tensor([1, 4]), torch.tensor([1, 3])]
    losses = [torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.0])]
    assert fill(costs, losses, [0, 0], 5) == [1, 0]
    assert fill(costs, losses, [0, 0], 4) == [0, 1]
    assert fill(costs, losses, [0, 0], 7) == [1, 1]
    assert fill(costs, losses, [0, 0], 2) == [0, 0]
    assert choose(costs, losses, 5) == [1, 0]


def test_a_second_look_mends_what_the_first_cannot_see():
    """The dear jump gains most, but only if the other layer gives up what it would take first."""
    costs = [torch.tensor([1, 2]), torch.tensor([1, 10])]
    losses = [torch.tensor([0.2, 0.0]), torch.tensor([1.0, 0.0])]
    assert fill(costs, losses, [0, 0], 11) == [1, 0]
    assert choose(costs, losses, 11) == [0, 1]


@pytest.mark.parametrize("scale", [1, 10**5, 10**9])
def test_costs_may_be_large(scale):
    """A forward pass has 1e10 MACs and more: float32 would round them by hundreds."""
    costs = [torch.arange(1, 9) * 7 * scale, torch.arange(1, 9) * 5 * scale]
    losses = [torch.linspace(1, 0, 8).double() ** 2, torch.linspace(1, 0, 8).double() ** 3]
    assert choose(costs, losses, 47 * scale + scale // 2) == choose(costs, losses, 47 * scale)
    small = [cost // scale for cost in costs]
    assert choose(costs, losses, 47 * scale) == choose(small, losses, 47)
    bound = lower_bound(costs, losses, 47 * scale)
    assert bound == pytest.approx(lower_bound(small, losses, 47), rel=1e-12)
