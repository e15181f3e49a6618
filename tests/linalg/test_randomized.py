"""Randomized and Gram-matrix decompositions against the bounds that their authors prove."""

import math

import pytest
import torch

from lorank.errors import LorankError
from lorank.linalg import gram_singular_values, gram_svd, leading, randomized_svd, svd, truncate
from lorank.linalg import randomized as module
from lorank.linalg.randomized import TOLERANCE, expected_error, residual, spectral_error
from matrices import falling, with_spectrum
from tolerance import backward, distance, eps, orthonormal

SHAPES = [(60, 40), (40, 60), (50, 50)]


def best(values, rank):
    return float(values[rank:].double().square().sum().sqrt())


def product(factors):
    return (factors.U * factors.S.unsqueeze(-2)) @ factors.Vh


@pytest.mark.parametrize(("m", "n"), SHAPES)
def test_gram_values_are_exact_to_the_root_of_eps(m, n):
    values = falling(min(m, n), 3.0)
    A = with_spectrum(values, m, n).float()
    exact = torch.linalg.svdvals(A.double())
    bound = math.sqrt(backward(m, n, torch.float64)) * float(exact[0])
    assert float((gram_singular_values(A) - exact).abs().max()) <= bound
    # below the rounding of float32 itself, which the same matrix in float32 arithmetic is not
    assert bound < math.sqrt(eps(torch.float32)) * float(exact[0]) / 10


def test_the_same_in_float32_would_lose_small_values():
    A = with_spectrum([1.0, 1e-6], 30, 20).float()
    small = gram_singular_values(A)[1]
    assert float(small) == pytest.approx(1e-6, rel=0.2)
    coarse = torch.linalg.eigvalsh(A.mT @ A).flip(0).clamp_min(0).sqrt()[1]
    assert abs(float(coarse) - 1e-6) > 1e-6


@pytest.mark.parametrize(("m", "n"), SHAPES)
@pytest.mark.parametrize("rank", [1, 7, None])
def test_gram_factors_are_the_best_approximation(m, n, rank):
    values = falling(min(m, n), 1.0)
    A = with_spectrum(values, m, n).float()
    found = gram_svd(A, rank)
    kept = min(m, n) if rank is None else rank
    assert found.U.shape == (m, kept) and found.Vh.shape == (kept, n)
    rounding = backward(m, n, torch.float32) * float(values.norm())
    assert residual(A, found) <= best(values, kept) + rounding
    identity = torch.eye(kept)
    for basis in (found.U.mT @ found.U, found.Vh @ found.Vh.mT):
        assert float((basis - identity).abs().max()) <= orthonormal(max(m, n), torch.float32)


def test_gram_takes_batches_and_float64():
    A = with_spectrum(falling(6), 9, 6, 3)
    assert distance(gram_singular_values(A), torch.linalg.svdvals(A)) <= backward(9, 6, A.dtype) * 9
    assert gram_svd(A).U.dtype == torch.float64
    batch = gram_svd(A.float(), 2)
    assert distance(product(batch), product(truncate(svd(A), 2))) <= 9 * backward(
        9, 6, torch.float32
    )


def test_gram_of_a_matrix_without_full_rank():
    A = with_spectrum([2.0, 1.0], 8, 6).float()
    assert distance(product(gram_svd(A)), A) <= backward(8, 6, torch.float32) * 3
    assert distance(product(gram_svd(torch.zeros(4, 3))), torch.zeros(4, 3)) == 0


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
@pytest.mark.parametrize(("rank", "oversample"), [(4, 4), (8, 10)])
def test_the_sketch_keeps_its_expected_error(power, rank, oversample):
    """Theorem 10.5: the mean error of the whole sketch, without power iterations."""
    values = falling(50, power)
    A = with_spectrum(values, 70, 50)
    errors = []
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        wide = rank + oversample  # all columns of the basis, as the theorem counts them
        found = randomized_svd(A, wide, oversample=0, power_iterations=0, generator=generator)
        errors.append(residual(A, found))
    assert sum(errors) / len(errors) <= expected_error(values, rank, oversample)
    assert min(errors) >= best(values, rank + oversample) * (1 - 1e-12)


def test_power_iterations_come_closer_to_the_best():
    values = falling(80, 0.5)
    A = with_spectrum(values, 90, 80)
    errors = [
        residual(A, randomized_svd(A, 10, oversample=5, power_iterations=q)) for q in (0, 1, 3, 8)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] <= 1.01 * best(values, 10) < errors[0]


def test_a_matrix_of_low_rank_is_found_exactly():
    A = with_spectrum([5.0, 3.0, 1.0], 40, 30)
    found = randomized_svd(A, 3)
    assert distance(found.S, torch.tensor([5.0, 3.0, 1.0])) <= backward(40, 30, A.dtype) * 6
    assert residual(A, found) <= backward(40, 30, A.dtype) * 6


def test_the_spectral_estimate_is_an_upper_bound():
    values = falling(40, 1.0)
    A = with_spectrum(values, 60, 40)
    for seed in range(50):
        generator = torch.Generator().manual_seed(seed)
        estimate = spectral_error(A, truncate(svd(A), 5), generator=generator)
        assert float(values[5]) <= estimate <= 10 * 8 * float(values[5:].norm())


def test_the_same_generator_gives_the_same_bits():
    A = with_spectrum(falling(30), 40, 30).float()
    first, second = randomized_svd(A, 4), randomized_svd(A, 4)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    other = randomized_svd(A, 4, generator=torch.Generator().manual_seed(1))
    assert not torch.equal(other.U, first.U)


@pytest.mark.parametrize(("power", "sketched"), [(2.0, True), (0.3, False)])
def test_a_sketch_is_taken_where_its_error_is_proved_small(power, sketched, monkeypatch):
    values = falling(200, power)
    A = with_spectrum(values, 220, 200).float()
    exact = []
    monkeypatch.setattr(module, "gram_svd", lambda *a: exact.append(1) or gram_svd(*a))
    found = leading(A, 10, gram_singular_values(A))
    assert bool(exact) is not sketched
    assert residual(A, found) <= (1 + TOLERANCE) * best(values, 10) * (1 + 1e-4)


def test_a_rank_near_the_full_one_is_exact_at_once(monkeypatch):
    monkeypatch.setattr(module, "randomized_svd", None)  # would fail if it were called
    A = with_spectrum(falling(60), 60, 60).float()
    assert leading(A, 30, gram_singular_values(A)).S.shape == (30,)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rank": 0}, "between 1 and 3"),
        ({"rank": 4}, "between 1 and 3"),
        ({"oversample": -1}, "count from 0"),
        ({"power_iterations": -1}, "count from 0"),
    ],
)
def test_refusals(change, words):
    arguments = {"rank": 2} | change
    with pytest.raises(LorankError, match=words):
        randomized_svd(torch.eye(3), **arguments)


def test_nan_is_refused():
    bad = torch.full((3, 3), math.nan)
    for function in (gram_singular_values, gram_svd, lambda A: randomized_svd(A, 1)):
        with pytest.raises(LorankError, match="finite"):
            function(bad)
