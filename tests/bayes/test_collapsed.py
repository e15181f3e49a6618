"""The collapsed posterior: quadrature, equivariance, planted matrices, limits, bad input."""

import math
import sys
from fractions import Fraction

import numpy as np
import pytest
import torch

from lorank.bayes import Prior, collapsed
from lorank.bayes.collapsed import _Fit, _nothing
from lorank.bayes.quadrature import rule
from lorank.errors import LorankError
from lorank.linalg import detection_edge, median_noise, shrink


def planted(m, n, edges, seed=0, noise=1.0):
    """SVD of a matrix with signals of these strengths in detection edges, and the signal."""
    g = torch.Generator().manual_seed(seed)
    d = noise * detection_edge((m, n)) * torch.tensor(edges, dtype=torch.float64)
    U, V = (
        torch.linalg.qr(torch.randn(k, max(1, len(d)), generator=g, dtype=torch.float64)).Q
        for k in (m, n)
    )
    M = (U[:, : len(d)] * d) @ V[:, : len(d)].T
    Y = M + noise * torch.randn(m, n, generator=g, dtype=torch.float64)
    return torch.linalg.svd(Y, full_matrices=False), M


def error(factors, shrunk, M):
    U, _, Vh = factors
    return float(((U * shrunk) @ Vh - M).square().sum() / M.square().sum())


@pytest.mark.parametrize("prior", [Prior(), Prior(shifted=False), Prior(shape=2.0, spike=0.1)])
def test_the_prior_is_a_density(prior):
    """Oracle: a fine sum over d in logs, from far below the spike to far out in the tail."""
    edge = 3.0
    x = torch.linspace(math.log(1e-9), math.log(1e9), 400_001, dtype=torch.float64)
    d = x.exp()
    for log_density in (prior.log_spike(d, edge), prior.log_slab(d, edge)):
        mass = float(torch.trapezoid(log_density.exp() * d, x))
        assert mass == pytest.approx(1, abs=1e-4)
    if prior.shifted:
        assert prior.log_slab(d[d < edge], edge).max() == -math.inf


def test_the_nodes_integrate_gaussians_on_their_windows():
    """A posterior of width σ at the place where the observed value says: to rounding."""
    y = torch.tensor([40.0, 22.0, 15.0], dtype=torch.float64)
    nodes = rule(y, (30, 60), torch.tensor([1.0], dtype=torch.float64))
    edge = detection_edge((30, 60))
    for h, centre in enumerate((38.7, 19.0, 9.0)):
        bell = torch.exp(-0.5 * (nodes.d[0, h] - centre) ** 2) / math.sqrt(2 * math.pi)
        assert float((bell * nodes.log_weight[0, h].exp()).sum()) == pytest.approx(1, abs=1e-6)
    spike = torch.exp(-nodes.d / (0.05 * edge)) / (0.05 * edge)
    assert (spike * nodes.log_weight.exp()).sum(-1)[0].tolist() == pytest.approx([1] * 3, abs=1e-6)


@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (50, 50)])
@pytest.mark.parametrize("seed", range(3))
def test_a_planted_matrix_is_recovered(shape, seed):
    factors, M = planted(*shape, [4.0, 3.0, 2.2], seed)
    found = collapsed(factors.S, shape)
    assert found.rank() == found.rank("mode") == found.rank("slabs") == 3
    assert found.noise == pytest.approx(1, rel=4 / math.sqrt(2 * shape[0] * shape[1]) + 0.02)
    own, given = error(factors, found.shrunk, M), error(factors, factors.S.clone(), M)
    best = error(factors, shrink(factors.S, shape, 1.0), M)
    assert own < 0.5 * given
    assert own < 1.05 * best  # optimal shrinkage was told the noise
    # The mean of d lies within the posterior's own error of what was planted.
    d = detection_edge(shape) * torch.tensor([4.0, 3.0, 2.2], dtype=torch.float64)
    assert ((found.mean[:3] - d).abs() < 4 * found.sd[:3]).all()


@pytest.mark.parametrize("shape", [(30, 20), (50, 50), (10, 300)])
def test_noise_has_rank_0(shape):
    ranks = [collapsed(planted(*shape, [], seed)[0].S, shape).rank() for seed in range(8)]
    assert ranks.count(0) >= 7


def test_a_slab_that_reaches_below_the_edge_cannot_be_ruled_out():
    """Negative control: what a shifted slab is for."""
    factors, _ = planted(30, 20, [], 1)
    plain = Prior(shifted=False, nothing=0.0)
    assert collapsed(factors.S, (30, 20), prior=plain).rank("slabs") > 0
    assert collapsed(factors.S, (30, 20)).rank("slabs") == 0


def test_a_signal_below_the_edge_is_not_found():
    factors, _ = planted(60, 60, [0.5] * 6)
    assert collapsed(factors.S, (60, 60)).rank() == 0


@pytest.mark.parametrize("scale", [7.0, 1e-8, 1e12])
def test_the_fit_scales_with_the_data(scale):
    factors, _ = planted(30, 40, [3.0, 1.8])
    one, many = collapsed(factors.S, (30, 40)), collapsed(scale * factors.S, (30, 40))
    assert torch.allclose(many.shrunk / scale, one.shrunk, rtol=1e-9, atol=1e-11)
    assert many.noise / scale == pytest.approx(one.noise, rel=1e-11)
    assert torch.allclose(many.signal, one.signal, atol=1e-9)
    shift = -30 * 40 * math.log(scale)
    assert many.log_evidence == pytest.approx(one.log_evidence + shift, abs=1e-6)


def test_the_order_of_rows_and_columns_does_not_matter():
    factors, _ = planted(30, 40, [3.0, 1.8])
    assert torch.equal(collapsed(factors.S, (30, 40)).shrunk, collapsed(factors.S, (40, 30)).shrunk)


def test_distributions_of_the_rank_agree_with_their_parts():
    factors, _ = planted(50, 50, [3.0, 2.0, 1.4], 2)
    found = collapsed(factors.S, (50, 50))
    numbers = torch.arange(len(found.slab_count), dtype=torch.float64)
    assert float(found.slab_count.sum()) == pytest.approx(1)
    assert float(found.slab_count @ numbers) == pytest.approx(float(found.signal.sum()), abs=1e-6)
    assert float(found.edge_count @ numbers) == pytest.approx(float(found.above.sum()), abs=1e-6)


def test_the_noise_is_the_highest_evidence():
    factors, _ = planted(30, 20, [3.0, 2.0])
    found, unit = collapsed(factors.S, (30, 20)), float(factors.S[0])
    fit = _Fit(factors.S / unit, 20, 30, None, None, Prior())
    noise, _ = fit.noise()
    scores = fit.score(noise * torch.tensor([0.97, 1.0, 1.03], dtype=torch.float64))
    assert found.noise == pytest.approx(unit * noise, rel=1e-12)
    assert float(scores[1]) - 600 * math.log(unit) == pytest.approx(found.log_evidence, abs=1e-6)
    assert scores.argmax() == 1
    # Its standard deviation is near that of n·m normal numbers, less those that the signal took.
    left = 30 * 20 - 2 * (30 + 20 - 2)
    assert found.noise_sd == pytest.approx(found.noise / math.sqrt(2 * left), rel=0.2)
    # A noise that is given has the components that are seen at it: a hair's breadth apart.
    given = collapsed(factors.S, (30, 20), noise=found.noise).log_evidence
    assert given == pytest.approx(found.log_evidence, abs=0.02)


def test_pairs_find_more_and_leave_noise_alone(monkeypatch):
    """A weak component is likelier beside four strong ones; noise alone stays as it is."""
    strong = [planted(50, 50, [8.0, 6.9, 5.8, 4.8, 1.4], seed)[0].S for seed in range(6)]
    noise = [planted(50, 50, [], seed)[0].S for seed in range(3)]
    coupled = [collapsed(s, (50, 50)) for s in strong + noise]
    module = sys.modules["lorank.bayes.collapsed"]  # the package has a function of its name
    monkeypatch.setattr(module, "log_coupling", lambda *_: 0.0)
    alone = [collapsed(s, (50, 50)) for s in strong + noise]
    fifth = [(float(c.signal[4]), float(a.signal[4])) for c, a in zip(coupled, alone, strict=True)]
    assert all(with_pairs >= without - 1e-3 for with_pairs, without in fifth[:6])
    assert sum(a - b for a, b in fifth[:6]) > 0.05
    for c, a in zip(coupled[6:], alone[6:], strict=True):
        assert float((c.signal - a.signal).abs().max()) < 0.05


def test_a_known_noise_is_taken_as_it_is():
    factors, _ = planted(30, 20, [3.0])
    found = collapsed(factors.S, (30, 20), noise=1.0)
    assert (found.noise, found.noise_sd) == (1.0, 0.0)
    assert collapsed(factors.S, (30, 20), noise=10.0).rank() == 0
    assert collapsed(factors.S, (30, 20), noise=0.1).rank() > 1


def test_the_truncation_bounds_the_rank():
    """It bounds it, and does not stop before it: H components can all be signal."""
    factors, _ = planted(40, 40, [5.0, 4.0, 3.0, 2.5])
    for most in (1, 3):
        bounded = collapsed(factors.S, (40, 40), truncation=most, noise=1.0)
        assert len(bounded.signal) == len(bounded.above) == len(bounded.slab_count) - 1 == most
        assert [bounded.rank(by) for by in ("edge", "mode", "slabs")] == [most] * 3
        assert float(bounded.edge_count.sum()) == pytest.approx(1, abs=1e-12)
    assert collapsed(factors.S, (40, 40), truncation=9).rank() == 4
    more = collapsed(factors.S, (40, 40), truncation=20)
    few = collapsed(factors.S, (40, 40), truncation=9)
    # Slots that are noise change the prior of the others a little, and nothing else.
    assert torch.allclose(more.shrunk[:4], few.shrunk[:4], rtol=1e-3)


@pytest.mark.parametrize("rank", [1, 4, 8])
def test_an_exactly_low_rank_matrix(rank):
    s = torch.cat([torch.linspace(3, 1, rank), torch.zeros(20 - rank)])
    found = collapsed(s, (20, 30))
    assert found.rank() == rank
    assert torch.allclose(found.shrunk[:rank], s[:rank].double(), rtol=1e-6)
    assert found.noise < 1e-8


def test_a_zero_matrix():
    found = collapsed(torch.zeros(5), (5, 9))
    assert (found.rank(), found.noise) == (0, 0.0)
    assert torch.equal(found.shrunk, torch.zeros(5, dtype=torch.float64))


@pytest.mark.parametrize("shape", [(2, 1000), (3, 200), (4, 200), (7, 288)])
def test_all_components_but_one_can_be_signal(shape):
    """The noise is learned from the last value alone: of n − m + 1 numbers, five of their spreads.

    One component fewer than these would have to take a strong one for noise.
    """
    m, n = shape
    factors, _ = planted(m, n, torch.linspace(6, 3, m - 1).tolist())
    found = collapsed(factors.S, shape)
    assert [found.rank(by) for by in ("edge", "mode", "slabs")] == [m - 1] * 3
    assert float(found.signal.min()) > 0.9
    assert found.noise == pytest.approx(1, abs=5 / math.sqrt(2 * (n - m + 1)))


def test_two_by_two():
    found = collapsed(torch.tensor([2.0, 1.0]), (2, 2))
    assert torch.isfinite(found.shrunk).all()
    assert len(found.signal) == 1 and found.rank() == int(found.above[0] > 0.5)
    assert collapsed(torch.tensor([200.0, 1.0]), (2, 2)).rank("slabs") == 1


def test_the_shrunk_values_shrink():
    for seed in range(4):
        factors, _ = planted(25, 60, [3.0, 1.5], seed)
        shrunk = collapsed(factors.S, (25, 60)).shrunk
        assert (shrunk >= 0).all() and (shrunk < factors.S).all()


@pytest.mark.parametrize(
    ("y", "shape", "more", "sentence"),
    [
        ([1.0], (1, 4), {}, "at least two rows"),
        ([1.0, 0.5], (3, 4), {}, "all singular values"),
        ([1.0, math.nan], (2, 4), {}, "finite, found 1"),
        ([0.5, 1.0], (2, 4), {}, "descend"),
        ([1.0, -1.0], (2, 4), {}, "not negative"),
        ([1.0, 0.5], (2, 4), {"noise": 0.0}, "positive standard deviation"),
        ([1.0, 0.5], (2, 4), {"noise": math.nan}, "positive standard deviation"),
        ([1.0, 0.5], (2, 4), {"truncation": 2}, "from 1 to 1, found 2"),
        ([1.0, 0.5], (2, 4), {"truncation": 0}, "from 1 to 1, found 0"),
        ([1.0, 0.5], (2, 4), {"truncation": 1.0}, "from 1 to 1, found 1.0"),
        ([1.0, 0.5], (2, 4), {"noise": "1"}, "positive standard deviation"),
        ([1.0, 0.5], (2, 4), {"noise": 1e300}, "order of magnitude"),
        ([1.0, 0.5], (2, 4), {"noise": 1e-300}, "order of magnitude"),
        ([1.0, 0.5], (2, 4), {"prior": "csp"}, "is a lorank.bayes.Prior"),
        ([1.0, 0.5j], (2, 4), {}, "real numbers, found torch.complex64"),
    ],
)
def test_what_cannot_be_read_is_refused(y, shape, more, sentence):
    with pytest.raises(LorankError, match=sentence):
        collapsed(torch.tensor(y), shape, **more)


@pytest.mark.parametrize(
    ("choice", "sentence"),
    [
        ({"alpha": 0.0}, "positive and finite"),
        ({"spike": math.inf}, "positive and finite"),
        ({"scale": "wide"}, "is a number"),
        ({"alpha": 1e10}, "at most 100"),
        ({"nothing": 1.0}, r"in \[0, 1\)"),
        ({"nothing": "some"}, "is a number"),
        ({"shifted": "no"}, "True or False"),
    ],
)
def test_a_prior_without_sense(choice, sentence):
    with pytest.raises(LorankError, match=sentence):
        Prior(**choice)


@pytest.mark.parametrize(
    "shape", [(2, 4, 1), (2,), 2, "24", None, (2.0, 4.0), (2, -4), (2, 0), (2, "4")]
)
def test_a_shape_that_is_none(shape):
    with pytest.raises(LorankError, match="the shape is two whole numbers"):
        collapsed(torch.tensor([1.0, 0.5]), shape)


def test_values_that_are_no_tensor():
    with pytest.raises(LorankError, match="found list"):
        collapsed([1.0, 0.5], (2, 4))
    with pytest.raises(LorankError, match=r"found torch.float32 on meta"):
        collapsed(torch.ones(2, device="meta"), (2, 4))


def test_the_posterior_of_zeros_is_where_they_are():
    found = _nothing(torch.zeros(4, device="meta").double(), 2, 0.0, (4, 5), Prior())
    for each in (found.shrunk, found.signal, found.sd, found.edge_count):
        assert (each.device.type, each.dtype) == ("meta", torch.float64)


@pytest.mark.parametrize("number", [np.float32(3), np.int64(3), Fraction(3)])
def test_a_prior_of_any_kind_of_number(number):
    assert Prior(alpha=number) == Prior(alpha=3.0)
    assert type(Prior(alpha=number).alpha) is float


@pytest.mark.parametrize("noise", [1e-12, 1e59])
def test_a_known_noise_far_from_the_data(noise):
    found = collapsed(torch.tensor([1.0, 0.5]), (2, 4), noise=noise)
    assert found.shrunk.isfinite().all() and found.rank() == (noise < 1)


def test_an_unknown_rule():
    with pytest.raises(LorankError, match="did you mean 'slabs'"):
        collapsed(torch.tensor([2.0, 1.0]), (2, 2)).rank("slab")


CASES = {
    "A": (30, 20, [3, 2.2, 1.6]),
    "B": (100, 50, [3, 2.5, 2, 1.6, 1.3]),
    "C2": (50, 50, [3, 2]),
    "C5": (50, 50, [3, 2.6, 2.2, 1.8, 1.4]),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_the_error_is_below_optimal_shrinkage_on_average(case):
    """Twenty seeds, noise unknown to both; values in units of √max(m, n)."""
    m, n, values = CASES[case]
    edges = [v * math.sqrt(max(m, n)) / detection_edge((m, n)) for v in values]
    own, other, close = 0.0, 0.0, 0
    for seed in range(20):
        factors, M = planted(m, n, edges, seed)
        found = collapsed(factors.S, (m, n))
        own += error(factors, found.shrunk, M) / 20
        median = median_noise(factors.S, (m, n))
        other += error(factors, shrink(factors.S, (m, n), median), M) / 20
        close += abs(found.rank() - len(values)) <= 1
    assert own <= other + 0.002
    assert close >= 19
