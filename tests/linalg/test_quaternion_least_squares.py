"""Quaternion equations against the conditions that define their solutions."""

import pytest
import torch

from lorank.errors import LorankError
from lorank.linalg import qlstsq, qpinv, qsolve, qtls
from quaternions import identity, normal, product, rebuilt, star, unitary, with_values


def close(A, B, bound=1e-12):
    return float((A - B).norm()) <= bound * max(1.0, float(B.norm()))


@pytest.mark.parametrize("shape", [(8, 5), (5, 8), (6, 6)])
@pytest.mark.parametrize("full", [True, False])
def test_the_pseudo_inverse_meets_penroses_conditions(shape, full):
    A = normal(*shape) if full else product(normal(shape[0], 3), normal(3, shape[1], seed=1))
    X = qpinv(A)
    left, right = product(A, X), product(X, A)
    assert close(product(left, A), A) and close(product(right, X), X)
    assert close(star(left), left) and close(star(right), right)


def test_small_values_count_as_zero_where_asked():
    A = with_values(torch.tensor([1.0, 1e-6]), 5, 4)
    assert float(qpinv(A).norm()) == pytest.approx(1e6, rel=1e-6)
    assert float(qpinv(A, rcond=1e-3).norm()) == pytest.approx(1.0, rel=1e-9)
    assert not qpinv(torch.zeros(3, 2, 4)).any()


def test_equations_are_solved():
    A, B = normal(2, 7, 7), normal(2, 7, 3, seed=1)
    X = qsolve(A, B)
    assert close(product(A, X), B)
    assert close(qlstsq(A, B), X, 1e-11)
    assert close(qsolve(A[0], identity(7)), qpinv(A[0]), 1e-11)


def test_least_squares_leave_a_residual_at_right_angles():
    A, B = normal(9, 4), normal(9, 2, seed=1)
    X = qlstsq(A, B)
    assert float(product(star(A), B - product(A, X)).norm()) <= 1e-12 * float(A.norm() * B.norm())


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: qsolve(normal(4, 3), normal(4, 1)), "square matrix"),
        (lambda: qsolve(normal(4, 4), normal(3, 1)), "as many columns on the left"),
        (lambda: qsolve(torch.ones(3, 3, 4), normal(3, 1)), "full rank"),
        (lambda: qsolve(torch.zeros(3, 3, 4), normal(3, 1)), "full rank"),
        (lambda: qlstsq(normal(4, 3), normal(5, 1)), "as many rows"),
        (lambda: qtls(normal(4, 3), normal(5, 1), 1), "as many rows"),
        (lambda: qtls(normal(4, 3), normal(4, 1), 4), "between 1 and 3"),
        (lambda: qtls(normal(4, 3), normal(4, 1), 1, method="lsq"), "unknown method 'lsq'"),
    ],
)
def test_equations_that_do_not_fit(call, sentence):
    with pytest.raises(LorankError, match=sentence):
        call()


def problem(noise, m=120, n=60, k=8):
    """A of rank k and b in its range, both disturbed; and the solution of least norm."""
    left, right = unitary(m, k), unitary(n, k, seed=1)
    values = torch.linspace(2, 1, k).double()
    x = product(right, normal(k, 1, seed=2))
    A = rebuilt(left, values, star(right))
    b = product(A, x)
    A, b = A + noise * normal(m, n, seed=3), b + noise * normal(m, 1, seed=4)
    return A, b, x


def off(found, x):
    return float((found - x).norm() / x.norm())


def test_total_least_squares_of_exact_data_is_the_solution_of_least_norm():
    A, b, x = problem(0.0)
    for method in ("full", "randomized", "auto"):
        assert off(qtls(A, b, 8, method=method), x) <= 1e-11


def test_truncation_is_what_keeps_noise_out():
    A, b, x = problem(1e-3)
    full, sketched = qtls(A, b, 8, method="full"), qtls(A, b, 8, method="randomized")
    assert off(full, x) <= 0.05 and off(sketched, full) <= 1e-6
    assert off(qtls(A, b, 60, method="full"), x) > 1  # untruncated


def test_total_least_squares_beat_plain_ones_where_the_matrix_is_noisy():
    """Errors in A bias plain least squares towards zero; the mean of the draws shows it."""
    totals, plain = [], []
    for seed in range(10):
        A0, x = normal(400, 3, seed=seed), normal(3, 1, seed=100 + seed)
        b = product(A0, x) + 0.5 * normal(400, 1, seed=200 + seed)
        A = A0 + 0.5 * normal(400, 3, seed=300 + seed)
        totals.append(off(qtls(A, b, 3), x))
        plain.append(off(qlstsq(A, b), x))
    assert sum(totals) < 0.7 * sum(plain)


def test_a_problem_without_a_solution_is_named():
    A = with_values(torch.tensor([1e-3, 1e-4]), 6, 2)
    b = normal(6, 1, seed=9)
    b = b - product(A, qlstsq(A, b))
    with pytest.raises(LorankError, match="take another k"):
        qtls(A, 1e3 * b / b.norm(), 1, method="full")
