"""The decomposition that everything rests on."""

import math

import pytest
import torch

import tolerance
from lorank import LorankError
from lorank.linalg import SVD, product_singular_values, product_svd, singular_values, svd, truncate
from matrices import falling, orthonormal_columns, skewed, with_spectrum

SHAPES = {
    "tall": (9, 4),
    "wide": (4, 9),
    "square": (6, 6),
    "row": (1, 7),
    "column": (7, 1),
    "one": (1, 1),
    "batch tall": (3, 8, 5),
    "batch wide": (2, 3, 5, 8),
}
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def eye(r, dtype):
    return torch.eye(r, dtype=dtype)


def assert_thin_svd(factors: SVD, A: torch.Tensor, dtype: torch.dtype):
    m, n = A.shape[-2:]
    r = min(m, n)
    U, S, Vh = factors
    assert all(f.dtype == dtype for f in factors)
    assert U.shape == (*A.shape[:-1], r) and Vh.shape == (*A.shape[:-2], r, n)
    assert (U.mT @ U - eye(r, dtype)).abs().max() <= tolerance.orthonormal(m, dtype)
    assert (Vh @ Vh.mT - eye(r, dtype)).abs().max() <= tolerance.orthonormal(n, dtype)
    assert (S >= 0).all() and (S.diff(dim=-1) <= 0).all()
    back = (U * S.unsqueeze(-2)) @ Vh
    bound = tolerance.backward(m, n, dtype) * float(A.double().norm())
    assert tolerance.distance(back, A) <= bound


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_svd_of_any_shape_and_dtype(shape, dtype):
    A = torch.randn(shape).to(dtype)
    assert_thin_svd(svd(A), A.to(svd(A).S.dtype), torch.promote_types(dtype, torch.float32))


@pytest.mark.parametrize("values", [[3.0, 3, 3, 3], [1.0, 0, 0, 0], [0.0] * 4, [5.0, 5, 1e-9, 0]])
@pytest.mark.parametrize(("m", "n"), [(6, 4), (4, 6), (4, 4)])
def test_known_spectra(values, m, n):
    A = with_spectrum(values, m, n)
    assert_thin_svd(svd(A), A, torch.float64)
    bound = tolerance.backward(m, n, torch.float64) * max(values)
    want = torch.tensor(values, dtype=torch.float64)
    assert (svd(A).S - want).abs().max() <= bound
    assert (singular_values(A) - want).abs().max() <= bound


def test_strided_views_are_read_right():
    big = torch.randn(12, 10, dtype=torch.float64)
    for A in (big.T, big[::2, 1::3], big.T[1:].mT, big[:, :1].expand(12, 3)):
        assert_thin_svd(svd(A), A.contiguous(), torch.float64)


def test_the_scale_of_a_matrix_does_not_matter():
    A = torch.randn(5, 3)
    for scale in (1e-30, 1e30):
        assert_thin_svd(svd(A * scale), A * scale, torch.float32)


def test_no_gradient_history():
    A = torch.randn(4, 3, requires_grad=True)
    assert not any(f.requires_grad for f in svd(A))
    assert not singular_values(A).requires_grad
    assert not any(f.requires_grad for f in product_svd(A, torch.ones(3), torch.eye(3)))


@pytest.mark.parametrize("decompose", [svd, singular_values])
@pytest.mark.parametrize(
    ("matrix", "sentence"),
    [
        (torch.tensor([[1.0, math.nan], [0, 1]]), "finite values, found 1 NaN or Inf among 4"),
        (torch.tensor([[math.inf, -math.inf]]), "finite values, found 2 NaN or Inf among 2"),
        (torch.zeros(0, 3), r"matrix with entries, found shape \(0, 3\)"),
        (torch.zeros(2, 0, 3), r"found shape \(2, 0, 3\)"),
        (torch.ones(3), r"found shape \(3,\)"),
        (torch.ones(()), r"found shape \(\)"),
        (torch.ones(2, 2, dtype=torch.int64), "float tensor, found torch.int64"),
        (torch.ones(2, 2, dtype=torch.bool), "float tensor, found torch.bool"),
        (torch.ones(2, 2, dtype=torch.complex64), "float tensor, found torch.complex64"),
    ],
)
def test_what_cannot_be_decomposed(decompose, matrix, sentence):
    with pytest.raises(LorankError, match=sentence):
        decompose(matrix)


def failing_once(real):
    def call(A, *args, **kwargs):
        if A.dtype == torch.float32:
            raise torch.linalg.LinAlgError("did not converge")
        return real(A, *args, **kwargs)

    return call


def test_float64_where_the_fast_driver_fails(monkeypatch):
    A = torch.randn(6, 4)
    monkeypatch.setattr(torch.linalg, "svd", failing_once(torch.linalg.svd))
    monkeypatch.setattr(torch.linalg, "svdvals", failing_once(torch.linalg.svdvals))
    assert_thin_svd(svd(A), A, torch.float32)
    bound = tolerance.backward(6, 4, torch.float32) * float(A.norm())
    assert (singular_values(A) - svd(A).S).abs().max() <= bound


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_truncate_is_the_best_approximation(rank):
    values = falling(5)
    A = with_spectrum(values, 9, 5)
    U, S, Vh = truncate(svd(A), rank)
    error = float((A - (U * S) @ Vh).norm())
    tail = float(values[rank:].norm())
    assert abs(error - tail) <= tolerance.backward(9, 5, torch.float64) * float(A.norm())


def test_another_cut_is_worse():
    """Negative control: any other two of the triplets lose more than the first two do."""
    values = falling(5)
    A = with_spectrum(values, 9, 5)
    U, S, Vh = svd(A)
    best = float(values[2:].norm())
    for kept in ([0, 2], [1, 2], [3, 4]):
        worse = float((A - (U[:, kept] * S[kept]) @ Vh[kept]).norm())
        assert worse > best * 1.05


@pytest.mark.parametrize("rank", [0, -1, 6])
def test_truncate_refuses_a_rank_out_of_range(rank):
    with pytest.raises(LorankError, match=f"between 1 and 5, found {rank}"):
        truncate(svd(torch.randn(9, 5)), rank)


PRODUCTS = {
    "tall": (9, 3, 5),
    "wide": (5, 3, 9),
    "rank 1": (6, 1, 4),
    "more ranks than rows": (3, 7, 8),
    "more ranks than both": (3, 7, 4),
    "batch": (8, 4, 6, 2),
    "batch, more ranks": (3, 5, 4, 2, 3),
}


def product_case(m, r, n, *batch):
    U, Vh = skewed(m, r, *batch), skewed(n, r, *batch, seed=3).mT
    return U, torch.randn(*batch, r, dtype=torch.float64), Vh


@pytest.mark.parametrize("sizes", PRODUCTS.values(), ids=PRODUCTS)
@pytest.mark.parametrize("change", ["plain", "zeros", "one value", "equal"])
def test_product_svd_against_the_dense_matrix(sizes, change):
    U, s, Vh = product_case(*sizes)
    if change == "zeros":
        s[..., 0] = 0
    elif change == "one value":
        s[..., 1:] = 0
    elif change == "equal":
        s[:] = -2.0
    dense = (U * s.abs().unsqueeze(-2)) @ Vh
    m, r, n = U.shape[-2], s.shape[-1], Vh.shape[-1]
    k = min(m, r, n)
    got = product_svd(U, s, Vh)
    assert got.U.shape[-1] == got.S.shape[-1] == got.Vh.shape[-2] == k
    assert (got.U.mT @ got.U - eye(k, torch.float64)).abs().max() <= tolerance.orthonormal(
        m, U.dtype
    )
    assert (got.Vh @ got.Vh.mT - eye(k, torch.float64)).abs().max() <= tolerance.orthonormal(
        n, U.dtype
    )
    # Backward errors of two QRs and the core, relative to the factors' norms (Higham, 19.3).
    scale = float(U.norm() * s.norm() * Vh.norm())
    bound = tolerance.backward(m + r, n + r, torch.float64) * scale
    assert tolerance.distance((got.U * got.S.unsqueeze(-2)) @ got.Vh, dense) <= bound
    assert (got.S - torch.linalg.svdvals(dense)[..., :k]).abs().max() <= bound
    assert (product_singular_values(U, s, Vh)[..., :k] - got.S).abs().max() <= bound


def test_the_entries_of_s_are_not_the_singular_values():
    """Negative control: with factors that are not orthonormal, |s| is another spectrum."""
    U, s, Vh = product_case(9, 3, 5)
    raw = s.abs().sort(descending=True).values
    assert (product_svd(U, s, Vh).S - raw).abs().max() > 0.1
    Q = orthonormal_columns(9, 3)
    agrees = product_svd(Q, s, orthonormal_columns(5, 3).mT).S
    assert (agrees - raw).abs().max() <= tolerance.backward(9, 5, torch.float64) * float(raw[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_product_svd_computes_in_float32_also_under_autocast(dtype):
    U, s, Vh = (f.to(dtype) for f in product_case(9, 3, 5))
    want = torch.linalg.svdvals((U.double() * s.double().abs()) @ Vh.double())[:3]
    with torch.autocast("cpu", torch.bfloat16):
        got = product_svd(U, s, Vh)
    assert all(f.dtype == torch.float32 for f in got)
    scale = float(U.double().norm() * s.double().norm() * Vh.double().norm())
    assert (got.S - want).abs().max() <= tolerance.backward(12, 8, torch.float32) * scale


@pytest.mark.parametrize("which", range(3))
def test_product_svd_refuses_nan(which):
    factors = list(product_case(4, 2, 3))
    factors[which] = torch.full_like(factors[which], math.nan)
    with pytest.raises(LorankError, match=r"finite values, found [0-9]+ NaN or Inf"):
        product_svd(*factors)
