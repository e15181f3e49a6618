"""Shrinkage of singular values: closed forms against each other and against drawn matrices."""

import math

import pytest
import torch

from lorank.errors import LorankError
from lorank.linalg import denoised_value, detection_edge, median_noise, shrink

SHAPES = [(50, 50), (20, 400), (120, 80)]


def observed(d, shape, noise):
    """Limit of the observed singular value of a signal d (Benaych-Georges and Nadakuditi)."""
    m, n = shape
    v = noise**2
    return ((d**2 + m * v) * (d**2 + n * v)).sqrt() / d


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("noise", [1.0, 0.03])
def test_denoising_undoes_the_noise(shape, noise):
    edge = detection_edge(shape, noise)
    d = edge * torch.linspace(1.01, 50, 40, dtype=torch.float64)
    # At the edge the inverse has a root: an error ε there becomes √ε.
    assert torch.allclose(denoised_value(observed(d, shape, noise), shape, noise), d, rtol=1e-9)
    bulk = noise * (math.sqrt(shape[0]) + math.sqrt(shape[1]))
    y = bulk * torch.tensor([0.0, 0.5, 0.999], dtype=torch.float64)
    assert denoised_value(y, shape, noise).tolist() == [0, 0, 0]
    assert float(observed(torch.tensor(edge).double(), shape, noise)) == pytest.approx(bulk)


@pytest.mark.parametrize("shape", SHAPES)
def test_shrinkage_is_the_published_formula(shape):
    m, n = shape
    y = (math.sqrt(m) + math.sqrt(n)) * torch.linspace(1.001, 30, 50, dtype=torch.float64)
    formula = ((y**2 - m - n) ** 2 - 4 * m * n).sqrt() / y
    assert torch.allclose(shrink(y, shape, 1.0), formula, rtol=1e-10)


def test_no_other_weights_have_a_smaller_error():
    """The best weights of the observed directions are known when the signal is."""
    g = torch.Generator().manual_seed(0)
    m, n, d = 300, 400, torch.tensor([60.0, 40.0, 30.0], dtype=torch.float64)
    U, V = (torch.linalg.qr(torch.randn(k, 3, generator=g, dtype=torch.float64)).Q for k in (m, n))
    M = (U * d) @ V.T
    Y = M + torch.randn(m, n, generator=g, dtype=torch.float64)
    L, s, Rh = torch.linalg.svd(Y, full_matrices=False)
    best = torch.einsum("ik,ij,kj->k", L, M, Rh)
    found = shrink(s, (m, n), 1.0)
    # Finite size moves a value by about σ.
    assert torch.allclose(found[:3], best[:3], atol=2.0)
    assert (found[4:] == 0).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_the_median_of_noise(shape):
    g = torch.Generator().manual_seed(1)
    s = torch.linalg.svdvals(0.3 * torch.randn(*shape, generator=g, dtype=torch.float64))
    assert median_noise(s, shape) == pytest.approx(0.3, rel=0.05)
    assert median_noise(s, shape[::-1]) == median_noise(s, shape)


def test_without_noise_nothing_shrinks():
    s = torch.tensor([3.0, 1.0, 0.0], dtype=torch.float64)
    assert torch.allclose(shrink(s, (3, 5), 0.0), s)


@pytest.mark.parametrize("noise", [-1.0, math.nan, math.inf])
def test_a_noise_level_is_not_negative(noise):
    with pytest.raises(LorankError, match="at least 0"):
        shrink(torch.ones(2), (2, 2), noise)


@pytest.mark.parametrize("noise", [1e70, 1e80, 1e200, 1e300])
def test_shrinkage_of_any_scale(noise):
    s = torch.tensor([5.0, 4.5, 3.9], dtype=torch.float64)
    one, many = shrink(s, (4, 4), 1.0), shrink(s * noise, (4, 4), noise)
    assert torch.allclose(many / noise, one, rtol=1e-12)
    assert shrink(s, (4, 4), noise).tolist() == [0, 0, 0]
