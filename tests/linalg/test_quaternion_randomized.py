"""Randomized quaternion decompositions against the best ones, their bounds and their memory."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from lorank.errors import LorankError
from lorank.linalg import (
    QuaternionSketch,
    expected_qsvd_error,
    qsvd,
    qsvd_adaptive,
    qsvd_error,
    qsvd_krylov,
    qsvd_lowrank,
    randomized_qsvd,
)
from quaternions import defect, families, normal, product, rebuilt, star, with_values
from tolerance import eps

N, K = 120, 6
FAMILIES = families(N)
LIMIT = {"fast": 1.001, "s-shaped": 1.001, "slow": 1.02, "flat": 1.001}


def best(values, k):
    return float(values[k:].square().sum().sqrt())


def gap(A, found):
    return float((A - rebuilt(*found[:3])).norm())


def made(name, m=N, n=N):
    values = FAMILIES[name][: min(m, n)]
    return with_values(values, m, n), values


@pytest.mark.parametrize("shape", [(N, N), (N, 90), (90, N)])
@pytest.mark.parametrize("name", FAMILIES)
def test_two_power_iterations_are_close_to_the_best(name, shape):
    A, values = made(name, *shape)
    found = randomized_qsvd(A, K)
    assert found.U.shape == (shape[0], K, 4) and found.Vh.shape == (K, shape[1], 4)
    assert max(defect(found.U), defect(star(found.Vh))) <= 1e-12
    assert gap(A, found) <= LIMIT[name] * best(values, K)
    assert (values[:K] * (1 + 1e-12) >= found.S).all()  # a projection has no larger values


def test_plain_complex_sketches_of_the_adjoint_split_pairs():
    """The negative control: torch's own on the adjoint of a flat spectrum."""
    from lorank.linalg import adjoint

    A, _ = made("flat")
    U, _, _ = torch.svd_lowrank(adjoint(A), 2 * (K + 10), niter=1)
    even = U[:, : 2 * K : 2]
    both = torch.cat((even, torch.cat((-even[N:].conj(), even[:N].conj()))), 1)
    assert float((both.mH @ both - torch.eye(2 * K)).norm()) > 0.5


def test_repeated_values_keep_their_vectors():
    A = with_values(torch.cat((torch.ones(10), torch.zeros(N - 10))).double(), N, N)
    for found in (randomized_qsvd(A, 10), qsvd_krylov(A, 10), qsvd_adaptive(A, 1e-10)[:3]):
        assert max(defect(found[0]), defect(star(found[2]))) <= 1e-12
        assert gap(A, found) <= 1e-13 * float(A.norm())


@pytest.mark.parametrize("test_matrix", ["quaternion", "complex", "real"])
@pytest.mark.parametrize("normalizer", ["auto", "qr", "QR"])
def test_options_keep_the_accuracy(test_matrix, normalizer):
    A, values = made("s-shaped")
    found = randomized_qsvd(
        A, K, test_matrix=test_matrix, power_iteration_normalizer=normalizer, driver="bidiag"
    )
    assert gap(A, found) <= 1.001 * best(values, K)


def test_powers_without_bases_lose_small_values():
    values = torch.logspace(0, -12, 40).double()
    A = with_values(values, 50, 40)
    kept = {}
    for normalizer in ("auto", "none"):
        S = randomized_qsvd(A, 30, n_iter=2, power_iteration_normalizer=normalizer).S
        kept[normalizer] = float(((S - values[:30]) / values[:30]).abs().max())
    assert kept["auto"] <= 1e-5 < 1e-2 < kept["none"]


def test_real_test_matrices_are_real():
    from lorank.linalg.quaternion.algebra import rows, times
    from lorank.linalg.quaternion.randomized import normal as draw
    from lorank.linalg.quaternion.randomized import sketch

    A = normal(2, 70, 30)  # more rows than are taken at a time
    omega = torch.zeros(2, 30, 5, 4, dtype=torch.float64)
    omega[..., 0] = draw((2, 30, 5), A, 3)
    expected = times(rows(A), rows(omega))
    assert float((sketch(rows(A), 5, "real", 3) - expected).abs().max()) <= 1e-12
    pair = torch.zeros(2, 30, 5, 4, dtype=torch.float64)
    pair[..., :2] = draw((2, 30, 5, 2), A, 3)
    expected = times(rows(A), rows(pair))
    assert float((sketch(rows(A), 5, "complex", 3) - expected).abs().max()) <= 1e-12


def test_seeds():
    A, _ = made("slow")
    one, again = randomized_qsvd(A, K, random_state=1), randomized_qsvd(A, K, random_state=1)
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    generator = torch.Generator().manual_seed(1)
    given = randomized_qsvd(A, K, random_state=generator)
    assert torch.equal(given.U, one.U)
    assert not torch.equal(randomized_qsvd(A, K, random_state=generator).S, one.S)
    assert not torch.equal(randomized_qsvd(A, K).S, one.S)


def test_batches_and_the_twin_of_torch():
    A = torch.stack([made("fast")[0], made("slow")[0]])
    U, S, V = qsvd_lowrank(A, q=K + 5)
    assert U.shape == V.shape == (2, N, K + 5, 4)
    for i, name in enumerate(("fast", "slow")):
        found = (U[i, :, :K], S[i, :K], star(V[i, :, :K]))
        assert max(defect(found[0]), defect(V[i])) <= 1e-12
        assert gap(A[i], found) <= LIMIT[name] * best(FAMILIES[name], K)
    mean = A.mean(-3, keepdim=True)
    centred = qsvd_lowrank(A, q=4, M=mean)
    assert torch.equal(centred[1], qsvd_lowrank(A - mean, q=4)[1])
    with pytest.raises(LorankError, match="a mean broadcasts to its matrix, found"):
        qsvd_lowrank(A, q=4, M=A[:, :7])


def test_numbers_of_numpy_are_whole_numbers():
    A = made("fast")[0]
    asked = {"n_iter": np.int64(1), "random_state": np.int32(3)}
    plain = randomized_qsvd(A, 4, n_iter=1, random_state=3)
    assert torch.equal(randomized_qsvd(A, np.int64(4), **asked).S, plain.S)


def test_factors_of_another_matrix_have_no_error():
    with pytest.raises(LorankError, match="has factors of shapes"):
        qsvd_error(normal(6, 5), qsvd(normal(5, 5)))


def test_float32():
    A, values = made("slow")
    found = randomized_qsvd(A.float(), K)
    assert all(x.dtype == torch.float32 for x in found)
    doubles = [x.double() for x in found]
    assert defect(doubles[0]) <= 4 * K * eps(torch.float32)
    assert gap(A, doubles) <= 1.02 * best(values, K)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1), (4, 6)])
def test_tiny_and_zero_matrices(shape):
    for A in (normal(*shape), torch.zeros(*shape, 4, dtype=torch.float64)):
        for found in (randomized_qsvd(A, 1), qsvd_krylov(A, 1), qsvd_adaptive(A, 0.5)[:3]):
            assert max(defect(found[0]), defect(star(found[2]))) <= 1e-13
        full = randomized_qsvd(A, min(shape), n_oversamples=50)
        assert gap(A, full) <= 1e-13 * float(A.norm())


def test_a_huge_condition_number():
    values = torch.logspace(0, -300, 30).double()
    A = with_values(values, 40, 30)
    found = randomized_qsvd(A, 20)
    assert max(defect(found.U), defect(star(found.Vh))) <= 1e-12
    assert gap(A, found) <= 1e-13


# ---------------------------------------------------------------------------------- errors


def test_measured_errors_are_the_errors():
    A, values = made("slow", N, 90)
    U, S, Vh, error = randomized_qsvd(A, K, return_error=True)
    exact = gap(A, (U, S, Vh))
    assert error.frobenius == pytest.approx(exact, rel=1e-10)
    assert error.relative == pytest.approx(exact / float(A.norm()), rel=1e-10)
    spectral = float(qsvd(A - rebuilt(U, S, Vh)).S[0])
    assert spectral <= error.spectral <= 10 * exact and error.failure < 1e-10
    assert spectral >= float(values[K])
    krylov = qsvd_krylov(A, K, return_error=True)
    assert krylov[3].frobenius == pytest.approx(gap(A, krylov), rel=1e-10)


def test_the_spectral_estimate_misses_as_rarely_as_it_says():
    """One probe of a matrix of rank one, the worst case: χ² with four degrees of freedom."""
    A = with_values(torch.ones(1).double(), 8, 8)
    zero = (A[:, :1] * 0, torch.zeros(1).double(), A[:1] * 0)
    trials = 600
    missed = sum(qsvd_error(A, zero, probes=1, seed=s).spectral < 1 for s in range(trials))
    share = 1 - 1.5 * math.exp(-0.5)
    assert abs(missed / trials - share) <= 4 * math.sqrt(share * (1 - share) / trials)


def test_errors_in_blocks_and_batches(monkeypatch):
    from lorank.linalg.quaternion import errors

    A = torch.stack([made("fast")[0], made("slow")[0]])
    found = randomized_qsvd(A, K)
    whole = qsvd_error(A, found)
    monkeypatch.setattr(errors, "BLOCK", 7 * 2 * 2 * N)
    parts = qsvd_error(A, found)
    assert whole.frobenius.shape == (2,)
    assert float((whole.frobenius - parts.frobenius).abs().max()) <= 1e-13
    assert float((whole.spectral - parts.spectral).abs().max()) <= 1e-13


def study(n, k, p, draws, values, norm="fro", n_iter=0):
    """Errors of the whole basis over a seeded study."""
    A = with_values(values, n, n)
    errors = []
    for seed in range(draws):
        found = randomized_qsvd(A, k + p, n_oversamples=0, n_iter=n_iter, random_state=seed)
        rest = A - rebuilt(*found)
        errors.append(float(rest.norm()) if norm == "fro" else float(qsvd(rest).S[0]))
    return errors


@pytest.mark.parametrize("p", [0, 2, 5])
@pytest.mark.parametrize("norm", ["fro", "2"])
def test_published_bounds_hold_on_every_draw(p, norm):
    values = torch.arange(1, 41).double() ** -0.8
    errors = study(40, 6, p, 12, values, norm)
    bound = expected_qsvd_error(values, 6, p, norm=norm)
    assert max(errors) <= bound or (p == 0 and sum(errors) / 12 <= bound)
    lowest = best(values, 6 + p) if norm == "fro" else float(values[6 + p])
    assert min(errors) >= lowest * (1 - 1e-12)


def test_the_bound_of_powers():
    values = torch.arange(1, 41).double() ** -0.8
    for q in (1, 2):
        bound = expected_qsvd_error(values, 6, 5, n_iter=q, norm="2")
        assert max(study(40, 6, 5, 6, values, "2", q)) <= bound
        assert bound < expected_qsvd_error(values, 6, 5, norm="2")


@pytest.mark.slow
@pytest.mark.parametrize("p", [0, 1, 2, 5, 10])
@pytest.mark.parametrize("decay", ["slow", "fast", "flat"])
def test_published_bounds_hold_in_a_long_study(p, decay):
    values = families(200)[decay]
    errors = study(200, 20, p, 100, values)
    bound = expected_qsvd_error(values, 20, p)
    assert sum(errors) / len(errors) <= bound
    assert max(errors) <= bound or p == 0


@pytest.mark.slow
@pytest.mark.parametrize(("k", "p"), [(20, 5), (50, 10), (10, 1)])
def test_the_moment_of_the_pseudo_inverse(k, p):
    """``E‖Ω†‖_F² = k/(4p + 2)``, on which the bounds rest, within four standard errors."""
    draws = []
    for seed in range(400):
        values = qsvd(normal(k, k + p, seed=seed), compute_uv=False)
        draws.append(float((1 / values.square()).sum()))
    spread = np.std(draws) / math.sqrt(len(draws))
    assert abs(np.mean(draws) - k / (4 * p + 2)) <= 4 * spread


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda v: expected_qsvd_error(v, 0), "1 ≤ rank ≤ 5"),
        (lambda v: expected_qsvd_error(v, 2, -1), "oversample ≥ 0"),
        (lambda v: expected_qsvd_error(v, 2, norm="nuc"), "norms fro and 2"),
    ],
)
def test_bounds_out_of_range(call, sentence):
    with pytest.raises(LorankError, match=sentence):
        call(torch.ones(5))
    assert expected_qsvd_error(torch.ones(5), 5, norm="2") == 0.0


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"n_components": 0}, "between 1 and 5, found 0"),
        ({"n_components": 6}, "between 1 and 5, found 6"),
        ({"n_components": 2.5}, "whole number between 1 and 5, found 2.5"),
        ({"n_oversamples": -1}, "n_oversamples is a whole number from 0, found -1"),
        ({"n_iter": -1}, "n_iter is a whole number from 0, found -1"),
        ({"driver": "fast"}, "unknown driver 'fast'"),
        ({"test_matrix": "octonion"}, "unknown test matrix 'octonion'"),
        ({"power_iteration_normalizer": "lu"}, "unknown normalizer 'lu'"),
        ({"random_state": "x"}, "a seed or a torch.Generator, found 'x'"),
        ({"random_state": 2**64}, "64 bits as a seed"),
    ],
)
def test_arguments_out_of_range(options, sentence):
    with pytest.raises(LorankError, match=sentence):
        randomized_qsvd(normal(7, 5), **{"n_components": 2, **options})


# ---------------------------------------------------------------------------------- slow spectra


def test_krylov_is_better_at_the_same_products():
    A, values = made("slow")
    lowest = best(values, K)
    for q in (1, 2, 3):
        krylov, power = qsvd_krylov(A, K, n_iter=q), randomized_qsvd(A, K, n_iter=q)
        assert max(defect(krylov.U), defect(star(krylov.Vh))) <= 1e-12
        assert (gap(A, krylov) - lowest) < 0.5 * (gap(A, power) - lowest)
    assert gap(A, krylov) <= 1.0001 * lowest


def test_krylov_ends_at_the_whole_space():
    A = normal(20, 12)
    found = qsvd_krylov(A, 12, n_iter=5)
    assert gap(A, found) <= 1e-13 * float(A.norm())
    low = product(normal(30, 3), normal(3, 20, seed=1))
    found = qsvd_krylov(low, 8, n_iter=3, n_oversamples=0)  # blocks that add nothing but noise
    assert max(defect(found.U), defect(star(found.Vh))) <= 1e-12
    assert gap(low, found) <= 1e-13 * float(low.norm())


@pytest.mark.parametrize("n_iter", [1, 2, 3])
@pytest.mark.parametrize(("k", "p"), [(15, 0), (4, 1)])
def test_krylov_of_what_the_first_block_holds_wholly(n_iter, k, p):
    """Later blocks add exactly nothing: what is put in their place must not lean on the first."""
    A = torch.ones(20, 30, 4, dtype=torch.float64)
    found = qsvd_krylov(A, k, n_oversamples=p, n_iter=n_iter)
    assert max(defect(found.U), defect(star(found.Vh))) <= 1e-12
    assert gap(A, found) <= 1e-13 * float(A.norm()) and (found.S >= 0).all()


# ---------------------------------------------------------------------------------- unknown rank


@pytest.mark.parametrize("tol", [1e-1, 1e-3, 1e-6, 1e-9])
@pytest.mark.parametrize("block", [1, 7, 30])
def test_the_adaptive_rank_meets_its_tolerance(tol, block):
    values = torch.logspace(0, -13, 60).double()
    A = with_values(values, 70, 60)
    *found, growth = qsvd_adaptive(A, tol, block)
    left = gap(A, found) / float(A.norm())
    assert growth.converged and left <= tol * (1 + 1e-9)
    assert growth.error == pytest.approx(left, rel=1e-3, abs=1e-14)
    lowest = next(r for r in range(1, 61) if best(values, r) <= tol * float(values.norm()))
    assert lowest <= growth.rank <= lowest + 2 and growth.columns <= lowest + 3 * block + 4
    assert max(defect(found[0]), defect(star(found[2]))) <= 1e-12


def test_the_adaptive_form_keeps_small_values():
    values = torch.logspace(0, -13, 60).double()
    A = with_values(values, 70, 60)
    S = qsvd_adaptive(A, 1e-11)[1]
    error = (S[:40] - values[:40]).abs() / values[:40]
    assert float(error.max()) <= 60 * eps(torch.float64) / float(values[39])


def test_the_adaptive_rank_of_a_matrix_without_full_rank():
    A = product(normal(50, 7), normal(7, 40, seed=1))
    *found, growth = qsvd_adaptive(A, 0.0)
    assert growth.columns <= 20 and gap(A, found) <= 1e-13 * float(A.norm())
    assert qsvd_adaptive(A, 1e-10)[-1].rank == 7


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_tolerance_below_rounding_ends_at_the_numerical_rank(dtype):
    A = torch.ones(20, 30, 4, dtype=dtype)
    *found, growth = qsvd_adaptive(A, 0.0)
    assert growth.rank == 1 and not growth.converged
    assert growth.error <= 40 * eps(dtype)
    assert gap(A, found) <= 40 * eps(dtype) * float(A.norm())


def test_the_adaptive_rank_has_a_limit():
    A, _ = made("slow")
    *found, growth = qsvd_adaptive(A, 1e-8, max_rank=13)
    assert growth.rank == growth.columns == 13 and not growth.converged
    assert growth.error == pytest.approx(gap(A, found) / float(A.norm()), rel=1e-6)
    assert qsvd_adaptive(torch.zeros(4, 3, 4), 0.1)[-1] == (1, 3, 0.0, True)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"tol": 1.0}, "between 0 and 1, found 1"),
        ({"tol": -1e-3}, "between 0 and 1, found -0.001"),
        ({"block_size": 0}, "at least one column, found 0"),
        ({"max_rank": 9}, "between 1 and 5, found 9"),
        ({"max_rank": 2.0}, "whole number between 1 and 5, found 2.0"),
        ({"block_size": 2.0}, "whole number from 0, found 2.0"),
        ({"tol": "a"}, "between 0 and 1, found 'a'"),
        ({"n_iter": -1}, "n_iter is a whole number from 0"),
    ],
)
def test_adaptive_arguments_out_of_range(options, sentence):
    with pytest.raises(LorankError, match=sentence):
        qsvd_adaptive(normal(7, 5), **{"tol": 0.1, **options})
    with pytest.raises(LorankError, match="one matrix"):
        qsvd_adaptive(normal(2, 7, 5), 0.1)


# ---------------------------------------------------------------------------------- one pass


def pieces(A, sketch, step=17):
    for start in range(0, len(A), step):
        sketch.update(A[start : start + step])
    return sketch


def one_pass_bound(values, k, width, height):
    """Root mean square error of ``H·(ΨH)†·W``, then of its cut to k triplets.

    ``(1 + 4s/(4(l − s) + 2))·min_ρ (1 + 4ρ/(4(s − ρ) + 2))·τ²``: the argument of Tropp and others,
    2017, theorem 4.3, with ``E‖Ω†‖_F² = k/(4p + 2)``; a cut adds the best error and this again.
    """
    whole = min(
        (1 + 4 * r / (4 * (width - r) + 2)) * best(values, r) ** 2 for r in range(1, width + 1)
    )
    return best(values, k) + 2 * math.sqrt((1 + 4 * width / (4 * (height - width) + 2)) * whole)


@pytest.mark.parametrize("name", ["fast", "s-shaped", "slow"])
def test_one_pass_is_within_its_bound(name):
    A, values = made(name, N, 90)
    *found, estimate = pieces(A, QuaternionSketch((N, 90), K)).finalize(return_error=True)
    assert max(defect(found[0]), defect(star(found[2]))) <= 1e-12
    assert gap(A, found) <= one_pass_bound(values, K, K + 10, 2 * (K + 10))
    assert gap(A, found) <= 2 * best(values, K)
    assert estimate == pytest.approx(gap(A, found), rel=4 / math.sqrt(2 * 4 * 10))


def test_wider_sketches_come_closer():
    A, values = made("fast", N, 90)
    wide = QuaternionSketch((N, 90), K, range_columns=40)
    assert gap(A, pieces(A, wide).finalize()) <= 1.001 * best(values, K)


def test_pieces_may_come_in_any_order_and_as_sums():
    A, _ = made("slow", 60, 50)
    rows = pieces(A, QuaternionSketch((60, 50), 4)).finalize()
    other = QuaternionSketch((60, 50), 4)
    for row in (40, 0, 20):
        for column in (25, 0):
            block = A[row : row + 20, column : column + 25]
            other.update(block / 4, at=(row, column)).update(3 * block / 4, at=(row, column))
    for a, b in zip(rows, other.finalize(), strict=True):
        assert float((a - b).abs().max()) <= 1e-9


def test_a_sketch_of_low_rank_is_exact():
    A = product(normal(40, 3), normal(3, 30, seed=1))
    found = pieces(A, QuaternionSketch((40, 30), 5)).finalize()
    assert gap(A, found) <= 1e-11 * float(A.norm())
    zero = QuaternionSketch((4, 3), 1).finalize()
    assert float(zero.S[0]) == 0 and defect(zero.U) <= 1e-13


def test_a_sketch_holds_sketches_only():
    sketch = pieces(normal(400, 300), QuaternionSketch((400, 300), 4))
    held = sum(x.numel() * 2 for x in vars(sketch).values() if isinstance(x, torch.Tensor))
    assert held <= 4 * (400 + 300) * (3 * 14 + 10)
    assert held < 4 * 400 * 300 / 3


def test_a_sketch_reads_a_file_that_is_mapped(tmp_path):
    A, values = made("fast", N, 60)
    np.save(tmp_path / "a.npy", A.numpy())
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    found = pieces(mapped, QuaternionSketch((N, 60), K)).finalize()
    assert isinstance(found.U, np.ndarray)
    assert gap(A, [torch.from_numpy(x) for x in found]) <= 2 * best(values, K)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: QuaternionSketch((5, 4), 5), "between 1 and 4, found 5"),
        (lambda: QuaternionSketch((5, 4), 2.0), "whole number between 1 and 4, found 2.0"),
        (lambda: QuaternionSketch((5.0, 4), 1), r"is \(m, n\), two whole numbers, found"),
        (lambda: QuaternionSketch((5, 4, 4), 1), r"is \(m, n\), two whole numbers, found"),
        (lambda: QuaternionSketch((5, 4), 1).update(normal(1, 4), at=(0,)), "place is"),
        (lambda: QuaternionSketch((9, 9), 2, range_columns=4, corange_rows=3), "rows of Ψ"),
        (lambda: QuaternionSketch((9, 9), 2, dtype=torch.float16), "float32 or float64"),
        (lambda: QuaternionSketch((5, 4), 1).update(normal(5, 3)), "have 4 entries, found 3"),
        (lambda: QuaternionSketch((5, 4), 1).update(normal(6, 4)), "inside the matrix of 5 × 4"),
        (
            lambda: QuaternionSketch((5, 4), 1).update(normal(2, 2), at=(4, 0)),
            "inside the matrix of 5 × 4",
        ),
        (lambda: QuaternionSketch((5, 4), 1).update(normal(1, 5, 4)), "one matrix"),
    ],
)
def test_pieces_that_do_not_fit(call, sentence):
    with pytest.raises(LorankError, match=sentence):
        call()


# ---------------------------------------------------------------------------------- memory

PEAK = """
import sys, torch
torch.set_num_threads(1)
import lorank.linalg as L

def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024

A = torch.zeros({m}, {n}, 4, dtype=torch.float64)
for row in A:
    row.normal_()
L.randomized_qsvd(A[:200, :200], 40)  # libraries take their buffers
before = peak()
U, S, Vh = L.randomized_qsvd(A, {k}, n_iter=2)
size = A.numel() * 8
factors = (U.numel() + Vh.numel()) * 8
print((peak() - before + size - factors) / size)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(
    ("m", "n", "k"),
    [(1000, 1000, 50), pytest.param(700, 1400, 30, marks=pytest.mark.slow)],
)
def test_peak_memory_stays_below_its_share_of_the_input(m, n, k):
    """Everything but the factors themselves, the input counted once: at most 1.6 of the input."""
    code = PEAK.format(m=m, n=n, k=k)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) <= 1.6
