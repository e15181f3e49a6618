"""Vectors of quaternion decompositions, where singular values repeat and where they nearly do."""

import pytest
import torch

from lorank.errors import LorankError
from lorank.linalg import adjoint, qcholesky, qmatmul, qqr, qsvd, qsvdvals
from lorank.linalg.quaternion import svd as module
from lorank.linalg.quaternion.algebra import rows
from lorank.linalg.quaternion.frame import choose, frame_svd
from lorank.linalg.quaternion.householder import complement, householder_qr
from lorank.linalg.quaternion.qr import orth
from quaternions import defect, identity, normal, product, rebuilt, star, unitary, with_values
from tolerance import backward, eps

N = 36


def split(gap):
    """Pairs of values that differ by a little."""
    pairs = torch.linspace(1, 0.1, N // 2).double().repeat_interleave(2)
    return pairs + torch.tensor([0, gap]).double().repeat(N // 2)


SPECTRA = {
    "distinct": torch.logspace(0, -6, N),
    "all one": torch.ones(N),
    "rank 12": torch.cat((torch.ones(12), torch.zeros(N - 12))),
    "triples": torch.linspace(1, 0.1, N // 3).repeat_interleave(3),
    "split by 1e-14": split(1e-14),
    "split by 1e-9": split(1e-9),
    "split by 1e-5": split(1e-5),
    "a chain of 1e-9": 1 - 1e-9 * torch.arange(N).double(),
    "a chain of 1e-14": 1 - 1e-14 * torch.arange(N).double(),
    "down to 1e-18": torch.logspace(0, -18, N).double(),
    "small repeats": torch.cat((torch.ones(2), torch.full((N - 2,), 1e-10))).double(),
    "zero": torch.zeros(N),
}
WRONG = {"all one", "rank 12", "triples", "a chain of 1e-14"}  # for every second vector


def matrix(name, m=N, n=N):
    values = SPECTRA[name].double().sort(descending=True)[0][: min(m, n)]
    return with_values(values, m, n), values


def judge(A, factors):
    """Defects and relative residual, by the oracle's product."""
    U, s, Vh = factors
    size = max(float(A.norm()), 1e-300)
    residual = float((rebuilt(U, s, Vh) - A).norm()) / size
    return defect(U), defect(star(Vh)), residual


@pytest.mark.parametrize("driver", ["auto", "bidiag"])
@pytest.mark.parametrize("name", SPECTRA)
def test_vectors_are_right_whatever_repeats(name, driver):
    A, values = matrix(name)
    found = qsvd(A, driver=driver)
    left, right, residual = judge(A, found)
    assert max(left, right) <= 1e-12 and residual <= 1e-13
    assert float((found.S - values).abs().max()) <= backward(N, N, A.dtype)
    assert (found.S[:-1] >= found.S[1:]).all() and (found.S >= 0).all()


@pytest.mark.parametrize("name", sorted(WRONG))
def test_every_second_vector_of_the_adjoint_is_wrong(name):
    """The negative control: values right, vectors not, as in public code."""
    A, values = matrix(name)
    found = qsvd(A, driver="pairs")
    left, right, _ = judge(A, found)
    assert float((found.S - values).abs().max()) <= backward(N, N, A.dtype)
    assert min(left, right) > 1


def test_every_second_vector_is_right_only_where_values_are_apart():
    A, _ = matrix("split by 1e-9")
    assert 1e-9 < max(judge(A, qsvd(A, driver="pairs"))[:2]) < 1e-3
    B = with_values(torch.linspace(1, 0.1, N).double(), N, N)
    assert max(judge(B, qsvd(B, driver="pairs"))) <= 1e-11


@pytest.mark.parametrize("name", SPECTRA)
def test_the_frame_needs_no_fallback(name):
    A, _ = matrix(name)
    scale = A.abs().max().clamp_min(1e-300)
    assert (frame_svd(rows(A / scale)) is not None) or name == "zero"


def test_a_frame_that_is_not_accurate_is_refused(monkeypatch):
    A, _ = matrix("triples")
    monkeypatch.setattr(module, "frame_svd", lambda P: None)
    assert max(judge(A, qsvd(A))) <= 1e-12
    from lorank.linalg.quaternion import frame

    V = orth(rows(normal(N, N)))  # some unitary matrix that diagonalises nothing
    assert frame._complete(rows(A + normal(N, N, seed=9)), V) is None


def test_choosing_needs_a_frame():
    V = rows(unitary(6, 6))
    half = torch.cat((V[..., :6], V[..., :6], V[..., :6], V[..., :6]), -1)  # three lines, often
    assert choose(half) is None


@pytest.mark.parametrize("shape", [(7, 4), (4, 7), (5, 5), (1, 1), (1, 6), (6, 1), (40, 39)])
@pytest.mark.parametrize("driver", ["auto", "bidiag"])
def test_all_shapes(shape, driver):
    A = normal(*shape)
    found = qsvd(A, driver=driver)
    r = min(shape)
    assert found.U.shape == (shape[0], r, 4) and found.Vh.shape == (r, shape[1], 4)
    assert max(judge(A, found)) <= 1e-13 * r + 1e-14
    expected = torch.linalg.svdvals(adjoint(A))[::2]
    assert float((found.S - expected).abs().max()) <= backward(*shape, A.dtype) * float(expected[0])
    assert torch.equal(qsvd(A, compute_uv=False), qsvdvals(A))


@pytest.mark.parametrize("shape", [(7, 4), (4, 7), (5, 5)])
def test_full_matrices_are_unitary(shape):
    A = normal(*shape)
    U, s, Vh = qsvd(A, full_matrices=True)
    assert U.shape == (shape[0],) * 2 + (4,) and Vh.shape == (shape[1],) * 2 + (4,)
    assert max(defect(U), defect(star(Vh)), defect(star(U)), defect(Vh)) <= 1e-13
    r = min(shape)
    assert float((rebuilt(U[:, :r], s, Vh[:r]) - A).norm()) <= 1e-13 * float(A.norm())


def test_batches_agree_with_single_matrices():
    A = torch.stack([matrix(name)[0] for name in ("all one", "distinct", "triples")])
    batch = qsvd(A)
    assert batch.U.shape == (3, N, N, 4)
    for i in range(3):
        assert max(judge(A[i], [x[i] for x in batch])) <= 1e-12
        single = qsvdvals(A[i])
        assert float((single - batch.S[i]).abs().max()) <= backward(N, N, A.dtype)


def test_simple_values_have_one_gauge():
    A = with_values(torch.linspace(1, 0.1, 10).double(), 12, 10)
    first, second = qsvd(A), qsvd(A, driver="bidiag")
    for a, b in zip(first, second, strict=True):
        assert float((a - b).abs().max()) <= 1e-12
    V = star(first.Vh)
    largest = V.norm(dim=-1).argmax(0)
    pivots = V[largest, torch.arange(10)]
    assert (pivots[:, 0] > 0).all() and float(pivots[:, 1:].abs().max()) <= 1e-15


def test_float32_is_computed_in_float64():
    A, _ = matrix("triples")
    found = qsvd(A.float())
    assert all(x.dtype == torch.float32 for x in found)
    doubles = [x.double() for x in found]
    assert max(judge(A.float().double(), doubles)) <= 4 * N * eps(torch.float32)


def test_the_smallest_floats():
    """Complex division by a subnormal number gives NaN: entries here are divided by one."""
    A = with_values(torch.linspace(1, 0.1, 8).double(), 9, 8)
    small = A * 1e-310
    for factors in (qsvd(small), qsvd(small, driver="bidiag")):
        U, s, Vh = factors
        assert max(judge(small * 1e300 * 1e10, (U, s * 1e300 * 1e10, Vh))) <= 1e-11
    Q, R = qqr(small)
    assert defect(Q) <= 1e-12 and torch.isfinite(R).all()


def test_pivots_below_the_root_of_the_smallest_float_are_not_negative():
    """Their squares underflow to zero, so their direction must not come from these."""
    A = torch.zeros(3, 2, 4, dtype=torch.float64)
    A[0, 0, 0], A[0, 1, 0], A[1, 1, 0] = 1.0, 1.0, -1e-200
    _, R = qqr(A)
    assert float(R[1, 1, 0]) >= 0 and float(qsvd(A).S.min()) >= 0


@pytest.mark.parametrize("scale", [1e-290, 1e290])
def test_extreme_sizes(scale):
    A = with_values(torch.linspace(1, 0.1, 8).double(), 9, 8) * scale
    U, s, Vh = qsvd(A)
    assert max(judge(A / scale, (U, s / scale, Vh))) <= 1e-12


def test_unknown_drivers_are_named():
    with pytest.raises(LorankError, match="unknown driver 'jacobi'"):
        qsvd(normal(2, 2), driver="jacobi")


CONDITIONS = [1e1, 1e6, 1e10, 1e15]


def columns_of(case):
    if isinstance(case, float):
        return ill(case)
    if case == "rank 5 of 10":
        return product(normal(60, 5), normal(5, 10, seed=1))
    if case == "one line twice":  # X and Xj + noise span nearly the same quaternion lines
        X = normal(60, 5)
        j = torch.tensor([0.0, 0, 1, 0]).double().view(1, 1, 4) * identity(5)[..., :1]
        return torch.cat((X, product(X, j) + 1e-14 * normal(60, 5, seed=2)), 1)
    if case == "a zero column":
        Y = normal(60, 10)
        Y[:, 3] = 0
        return Y
    return torch.zeros(60, 10, 4, dtype=torch.float64)


def ill(condition):
    values = torch.logspace(0, -float(torch.tensor(condition).log10()), 10, dtype=torch.float64)
    return with_values(values, 60, 10)


@pytest.mark.parametrize("basis", [orth, lambda Y: householder_qr(Y)[0]])
@pytest.mark.parametrize(
    "case", [*CONDITIONS, "rank 5 of 10", "one line twice", "a zero column", "zero"]
)
def test_bases_are_orthonormal_and_hold_the_range(case, basis):
    Y = columns_of(case)
    Q = torch.view_as_real(basis(rows(Y)).contiguous()).view(60, 10, 4)
    assert defect(Q) <= 1e-13 * 10
    left = Y - product(Q, product(star(Q), Y))
    assert float(left.norm()) <= 1e-13 * max(float(Y.norm()), 1e-300) or case == "zero"


def test_one_step_of_cholesky_would_not_be_enough():
    """The negative control: what the second step mends."""
    Y = ill(1e6)
    X = adjoint(Y)
    R = torch.linalg.cholesky(X.mH @ X).mH
    once = torch.linalg.solve_triangular(R, X, upper=True, left=False)
    gap = once.mH @ once - torch.eye(20)
    assert float(gap.norm()) > 1e-8


@pytest.mark.parametrize("shape", [(9, 6), (6, 9), (1, 1), (3, 9, 6), (60, 50)])
def test_qr_is_triangular_with_a_real_diagonal(shape):
    A = normal(*shape)
    Q, R = qqr(A)
    r = min(shape[-2:])
    assert defect(Q) <= 1e-13 and float((product(Q, R) - A).norm()) <= 1e-13 * float(A.norm())
    diagonal = R.diagonal(dim1=-3, dim2=-2)  # (..., 4, r)
    assert (diagonal[..., 0, :] >= 0).all() and not diagonal[..., 1:, :].any()
    below = torch.ones(r, R.shape[-2]).tril(-1).bool()
    assert not R[..., below, :].any()


def test_qr_does_not_depend_on_the_way_it_is_made():
    A = normal(20, 8)
    by_reflections = [torch.view_as_real(P.contiguous()) for P in householder_qr(rows(A))]
    for ours, other in zip(qqr(A), by_reflections, strict=True):
        assert float((ours - other.reshape(ours.shape)).abs().max()) <= 1e-13


def test_qr_without_full_rank():
    A = columns_of("rank 5 of 10")
    Q, R = qqr(A)
    assert defect(Q) <= 1e-12 and float((product(Q, R) - A).norm()) <= 1e-13 * float(A.norm())


def test_complements_fill_the_space():
    U = unitary(9, 4)
    rest = torch.view_as_real(complement(rows(U)).contiguous()).view(9, 5, 4)
    assert defect(torch.cat((U, rest), 1)) <= 1e-13


def test_cholesky():
    B = normal(6, 9)
    A = product(B, star(B))
    L = qcholesky(A)
    assert float((product(L, star(L)) - A).norm()) <= 1e-13 * float(A.norm())
    upper = torch.ones(6, 6).triu(1).bool()
    assert not L[upper].any() and (L.diagonal(dim1=0, dim2=1)[0] > 0).all()
    with pytest.raises(LorankError, match="positive definite"):
        qcholesky(-A)
    with pytest.raises(LorankError, match="square"):
        qcholesky(B)


def test_the_product_is_that_of_the_library():
    A, _ = matrix("triples")
    U, s, Vh = qsvd(A)
    assert float((qmatmul(U * s[:, None], Vh) - A).norm()) <= 1e-13 * float(A.norm())
