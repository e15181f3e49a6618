"""Sums over patterns of spikes and slabs: against drawn sticks, and against all patterns."""

import itertools
import math

import pytest
import torch

from lorank.bayes.stick import Walk, counts, log_evidence, slabs

DRAWS = 400_000


def drawn(H, alpha, draws=DRAWS):
    """Slab weights ``1 − π_h`` of sticks broken by the book; the last slot is a spike."""
    torch.manual_seed(0)
    beta = torch.distributions.Beta(1.0, torch.tensor(alpha, dtype=torch.float64))
    v = beta.sample((draws, H))
    slab = (1 - v).cumprod(1)
    slab[:, -1] = 0
    return slab


@pytest.mark.parametrize("alpha", [1.0, 5.0])
def test_evidence_and_slabs_against_drawn_sticks(alpha):
    odds = torch.tensor([4.0, 1.5, 0.3, -1.0, 0.5, -2.0], dtype=torch.float64)
    weight = drawn(len(odds), alpha)
    parts = torch.stack([(1 - weight).expand_as(weight), weight * odds.exp()])
    like = parts.sum(0).prod(1)
    found = slabs(odds, alpha)
    # The error of a Monte Carlo mean over 400 000 draws, four standard deviations.
    spread = 4 * float(like.std() / like.mean()) / math.sqrt(DRAWS)
    assert float(found.log_evidence) == pytest.approx(float(like.mean().log()), abs=spread)
    slab = (like[:, None] * parts[1] / parts.sum(0)).mean(0) / like.mean()
    assert torch.allclose(found.slab, slab, atol=4e-3)
    assert float(log_evidence(odds, alpha)) == pytest.approx(float(found.log_evidence), abs=1e-12)
    # Negative control: the sticks of another α give another answer.
    assert not torch.allclose(slabs(odds, 3 * alpha).slab, slab, atol=4e-3)


def test_the_number_of_slabs_against_all_patterns():
    """With a few drawn sticks the sum over 2^H patterns can be written out."""
    odds = torch.tensor([2.0, 0.5, -0.5, 1.0], dtype=torch.float64)
    weight = drawn(len(odds), 2.0)
    by_count = torch.zeros(len(odds) + 1, dtype=torch.float64)
    for pattern in itertools.product([0, 1], repeat=len(odds)):
        z = torch.tensor(pattern)
        by_count[int(z.sum())] += (
            torch.where(z == 1, weight * odds.exp(), 1 - weight).prod(1).mean()
        )
    assert torch.allclose(counts(odds, 2.0), by_count / by_count.sum(), atol=4e-3)


@pytest.mark.parametrize(("H", "alpha"), [(12, 5.0), (6, 1.0), (40, 2.0)])
def test_the_prior_number_of_slabs(H, alpha):
    found = slabs(torch.zeros(H, dtype=torch.float64), alpha)
    expected = alpha * (1 - (alpha / (1 + alpha)) ** (H - 1))
    assert float(found.slab.sum()) == pytest.approx(expected, abs=0.02)
    number = float((found.count * torch.arange(H + 1)).sum())
    assert number == pytest.approx(float(found.slab.sum()), abs=1e-9)
    assert float(found.log_evidence) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("alpha", [0.5, 5.0, 60.0])
def test_a_step_has_its_mean_and_second_moment(alpha):
    walk = Walk(alpha, torch.zeros(1))
    step = walk.forward(walk.start(()))
    assert float((step * walk.points).sum()) == pytest.approx(1 / alpha, rel=1e-3)
    assert float((step * walk.points**2).sum()) == pytest.approx(2 / alpha**2, rel=1e-2)


def test_the_grid_is_fine_enough(monkeypatch):
    odds = torch.tensor([4.0, 1.5, 0.3, -1.0, 0.5, -2.0], dtype=torch.float64)
    coarse = slabs(odds, 5.0)
    monkeypatch.setattr("lorank.bayes.stick.STEP", 0.005)
    fine = slabs(odds, 5.0)
    assert (fine.slab - coarse.slab).abs().max() < 1e-4
    assert float((fine.log_evidence - coarse.log_evidence).abs()) < 1e-4


def test_the_backward_step_is_the_transpose_of_the_forward_one():
    g = torch.Generator().manual_seed(0)
    walk = Walk(3.0, torch.zeros(1))
    a, b = torch.rand(2, len(walk.points), generator=g, dtype=torch.float64)
    forward, backward = (walk.forward(a) * b).sum(), (a * walk.backward(b)).sum()
    assert float(forward) == pytest.approx(float(backward), rel=1e-10)
    assert float(walk.forward(a).sum()) == pytest.approx(float(a.sum()), rel=1e-10)


def test_huge_odds_do_not_overflow():
    odds = torch.tensor([1e8, 900.0, -1e8, -5.0], dtype=torch.float64)
    found = slabs(odds, 5.0, 0.5)
    assert torch.isfinite(found.slab).all() and torch.isfinite(found.log_evidence)
    assert found.slab[:2].tolist() == pytest.approx([1, 1])
    assert int(found.count.argmax()) == 2


def test_a_batch_is_its_members():
    g = torch.Generator().manual_seed(0)
    odds = 3 * torch.randn(5, 4, generator=g, dtype=torch.float64)
    batch = slabs(odds, 5.0, 0.1)
    for i in range(5):
        for whole, one in zip(batch, slabs(odds[i], 5.0, 0.1), strict=True):
            assert torch.allclose(whole[i], one, rtol=1e-10)


def test_the_probability_of_nothing():
    odds = torch.zeros(8, dtype=torch.float64)
    none, some = counts(odds, 5.0, 0.25), counts(odds, 5.0)
    assert float(none[0]) == pytest.approx(0.25 + 0.75 * float(some[0]), abs=1e-6)


def test_marked_slots_are_counted():
    """All spikes marked and no slab: the count is that of spikes."""
    odds = torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64)
    marked = torch.stack([torch.ones(3), torch.zeros(3)]).double()
    spikes = counts(odds, 2.0, marked=marked)
    assert torch.allclose(spikes, counts(odds, 2.0).flip(0), atol=1e-12)
