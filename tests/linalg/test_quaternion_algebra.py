"""The algebra of quaternion matrices against Hamilton's table, and arrays as they come and go."""

import math

import numpy as np
import pytest
import torch

from lorank.errors import LorankError
from lorank.linalg import (
    adjoint,
    from_adjoint,
    from_complex_pair,
    from_parts,
    from_real_counterpart,
    from_rgb,
    qct,
    qmatmul,
    qnorm,
    qpinv,
    qqr,
    qsvd,
    qsvd_adaptive,
    qsvd_krylov,
    qsvdvals,
    randomized_qsvd,
    real_counterpart,
    to_complex_pair,
    to_parts,
    to_rgb,
)
from lorank.linalg.quaternion.algebra import rows
from lorank.linalg.quaternion.kinds import arrive
from quaternions import hamilton, normal, product, rebuilt, star
from tolerance import distance
from tolerance import product as rounding

SHAPES = [((5, 7), (7, 3)), ((1, 1), (1, 1)), ((2, 5, 7), (2, 7, 3)), ((2, 5, 7), (7, 3))]


def test_the_oracle_is_hamiltons():
    i, j, k = torch.eye(4, dtype=torch.float64)[1:].unsqueeze(1).unsqueeze(1)
    minus = torch.tensor([-1.0, 0, 0, 0], dtype=torch.float64)
    assert all(torch.equal(product(x, x).flatten(), minus) for x in (i, j, k))
    assert torch.equal(product(product(i, j), k).flatten(), minus)
    assert hamilton().abs().sum() == 16


@pytest.mark.parametrize("method", ["auto", "complex", "8"])
@pytest.mark.parametrize(("left", "right"), SHAPES)
def test_products_follow_the_table(left, right, method):
    A, B = normal(*left), normal(*right, seed=1)
    bound = rounding(4 * A.shape[-2], A.dtype) * float(A.norm() * B.norm())
    assert distance(qmatmul(A, B, method=method), product(A, B)) <= bound


def test_large_products_take_eight_and_agree():
    A, B = normal(400, 410), normal(410, 405, seed=1)
    bound = rounding(4 * 410, A.dtype) * float(A.norm() * B.norm())
    assert distance(qmatmul(A, B), qmatmul(A, B, method="complex")) <= bound
    assert torch.equal(qmatmul(A, B), qmatmul(A, B, method="8"))
    assert not torch.equal(qmatmul(A, B), qmatmul(A, B, method="complex"))


@pytest.mark.parametrize("method", ["complex", "8"])
def test_products_are_differentiable(method):
    A, B = normal(3, 4).requires_grad_(), normal(4, 2, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: qmatmul(a, b, method=method), (A, B))


def test_the_conjugate_transpose_turns_products_around():
    A, B = normal(5, 7), normal(7, 3, seed=1)
    assert torch.equal(qct(A), star(A))
    assert distance(qct(product(A, B)), product(qct(B), qct(A))) <= 1e-12
    plain = product(B.transpose(0, 1), A.transpose(0, 1))
    assert distance(product(A, B).transpose(0, 1), plain) > 1  # the plain transpose does not


@pytest.mark.parametrize("form", [adjoint, real_counterpart])
def test_other_forms_multiply_as_quaternions_do(form):
    A, B = normal(4, 6), normal(6, 3, seed=1)
    gap = form(product(A, B)) - form(A) @ form(B)
    assert float(gap.abs().max()) <= rounding(24, A.dtype) * float(A.norm() * B.norm())
    flipped = form(A).mH
    assert torch.equal(flipped, form(star(A)))


def test_forms_come_back():
    A = normal(2, 4, 6)
    assert torch.equal(from_adjoint(adjoint(A)), A)
    assert torch.equal(from_real_counterpart(real_counterpart(A)), A)
    assert torch.equal(from_parts(*to_parts(A)), A)
    assert torch.equal(from_complex_pair(*to_complex_pair(A)), A)
    assert torch.equal(from_rgb(to_rgb(A))[..., 1:], A[..., 1:])


def test_what_is_no_adjoint_is_projected():
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(6, 8, generator=generator, dtype=torch.complex128)
    near = adjoint(from_adjoint(X))
    # the gap of an orthogonal projection is at right angles to every adjoint
    others = adjoint(normal(3, 4, seed=5))
    assert abs(float(torch.vdot((X - near).flatten(), others.flatten()).real)) <= 1e-12


def test_row_forms_are_views():
    A = normal(4, 3)
    assert rows(A).data_ptr() == A.data_ptr()


def test_norms_of_all_forms_agree():
    A = normal(5, 7)
    frobenius = float(A.square().sum().sqrt())
    assert float(qnorm(A)) == pytest.approx(frobenius, rel=1e-14)
    assert float(torch.linalg.norm(adjoint(A))) == pytest.approx(
        math.sqrt(2) * frobenius, rel=1e-14
    )
    assert float(torch.linalg.norm(real_counterpart(A))) == pytest.approx(2 * frobenius, rel=1e-14)
    spectral = float(torch.linalg.matrix_norm(real_counterpart(A), 2))
    assert float(qnorm(A, 2)) == pytest.approx(spectral, rel=1e-13)
    nuclear = float(torch.linalg.matrix_norm(real_counterpart(A), "nuc")) / 4
    assert float(qnorm(A, "nuc")) == pytest.approx(nuclear, rel=1e-13)


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_norms_do_not_overflow(scale):
    A = normal(5, 7)
    assert float(qnorm(A * scale)) == pytest.approx(float(A.norm()) * scale, rel=1e-14)
    assert float(qnorm(torch.zeros(2, 3, 4))) == 0.0


def test_numpy_comes_back_as_numpy_without_a_copy():
    A = normal(4, 3).numpy()
    assert np.shares_memory(arrive(A)[0].numpy(), A)
    assert isinstance(qct(A), np.ndarray) and qct(A).dtype == np.float64
    U, s, Vh = qsvd(A.astype(np.float32))
    assert [x.dtype.name for x in (U, s, Vh)] == ["float32"] * 3
    assert isinstance(qnorm(A), float)
    assert all(isinstance(x, np.ndarray) for x in randomized_qsvd(A, 2))


def test_any_layout_of_an_array_is_understood():
    A = normal(4, 6).numpy()
    right = qmatmul(A, qct(A))
    reverse = A[::-1][::-1]
    big_endian = A.astype(">f8")
    frozen = A.copy()
    frozen.setflags(write=False)
    sliced = np.concatenate([A, A], 1)[:, ::2][:, :3]
    assert all(np.array_equal(qmatmul(x, qct(A)), right) for x in (reverse, big_endian, frozen))
    assert np.array_equal(qct(sliced), qct(np.ascontiguousarray(sliced)))
    assert np.array_equal(qct(np.asfortranarray(A)), qct(A))


def test_a_slice_of_a_flat_buffer_is_understood():
    """No complex number starts at an odd place, and fields of records are no torch view."""
    A = normal(3, 4)
    odd = torch.cat((A.new_zeros(1), A.flatten()))[1:].view(3, 4, 4)
    assert odd.is_contiguous() and odd.storage_offset() == 1
    records = np.zeros(3, dtype=[("flag", "i1"), ("row", "f8", (4, 4))])
    records["row"] = A.numpy()
    for slice_ in (odd, torch.from_numpy(records["row"].copy()), records["row"]):
        assert torch.equal(torch.as_tensor(qsvdvals(slice_)), qsvdvals(A))
        assert torch.equal(torch.as_tensor(qmatmul(slice_, qct(A))), qmatmul(A, qct(A)))


def test_lazy_signs_are_resolved():
    A = normal(3, 4)
    assert torch.equal(qct(torch._neg_view(A)), qct(-A))


def test_arrays_of_numpy_quaternion_are_views():
    quaternion = pytest.importorskip("quaternion", reason="numpy-quaternion is not installed")
    A = normal(4, 3).numpy()
    scalars = quaternion.as_quat_array(A)
    assert np.shares_memory(arrive(scalars)[0].numpy(), A)
    flipped = qct(scalars)
    assert flipped.dtype == scalars.dtype and flipped.shape == (3, 4)
    assert np.array_equal(quaternion.as_float_array(flipped), qct(A))
    U, s, Vh = qsvd(scalars)
    assert U.dtype == scalars.dtype and s.dtype == np.float64
    parts = (torch.from_numpy(quaternion.as_float_array(x)) for x in (U, Vh))
    left, right = parts
    gap = rebuilt(left, torch.from_numpy(s), right) - torch.from_numpy(A)
    assert float(gap.abs().max()) <= 1e-13


def nan(A):
    A = A.clone()
    A[0, 0, 0] = math.nan
    return A


VERBS = [
    qsvd,
    qsvdvals,
    qqr,
    qpinv,
    lambda A: randomized_qsvd(A, 1),
    lambda A: qsvd_krylov(A, 1),
    lambda A: qsvd_adaptive(A, 0.1),
]
BAD = [
    (torch.ones(3, 3, 3), r"shape \(\.\.\., m, n, 4\).*found \(3, 3, 3\)"),
    (torch.ones(3, 4), r"shape \(\.\.\., m, n, 4\).*found \(3, 4\)"),
    (torch.ones(3, 3, 4, dtype=torch.int64), "needs float32 or float64, found int64"),
    (torch.ones(3, 3, 4, dtype=torch.float16), "needs float32 or float64, found float16"),
    (torch.ones(3, 3, 4, dtype=torch.bfloat16), "needs float32 or float64, found bfloat16"),
    (torch.ones(3, 3, 4, dtype=torch.complex64), "needs float32 or float64, found complex64"),
    (np.ones((3, 3, 4), dtype=np.uint8), "needs float32 or float64, found uint8"),
    (np.ones((3, 3, 4), dtype=np.longdouble), "needs float32 or float64, found"),
    (np.array([["a"]]), "needs float32 or float64, found"),
    ([[1.0]], "tensor or a NumPy array, found list"),
    (torch.ones(0, 3, 4), r"at least one entry, found shape \(0, 3, 4\)"),
    (torch.ones(3, 3, 4).to_sparse(), "needs a dense tensor, found torch.sparse_coo"),
    (torch.ones(3, 3, 4, device="meta"), "needs values, found a tensor on the device meta"),
    (nan(torch.ones(3, 3, 4)), "finite values, found 1 NaN or Inf among 36"),
    (nan(torch.ones(3, 3, 4)) * torch.inf, "finite values, found"),
]


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(("bad", "sentence"), BAD)
def test_what_is_no_quaternion_matrix_is_refused_in_one_sentence(verb, bad, sentence):
    with pytest.raises(LorankError, match=sentence) as caught:
        verb(bad)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb is not qpinv])
def test_results_that_no_float_holds_are_refused_in_one_sentence(verb):
    with pytest.raises(LorankError, match="leave the range of their type"):
        verb(torch.full((3, 3, 4), 3e38))


def test_a_finite_matrix_whose_sum_overflows_is_accepted():
    A = torch.full((3, 3, 4), 1e308, dtype=torch.float64)
    assert float(qsvdvals(A / 1e10)[0]) == pytest.approx(6e298, rel=1e-12)
    assert torch.isfinite(qsvd(A / 1e3).U).all()


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda A: qmatmul(A, A), "as many columns on the left as rows"),
        (lambda A: qmatmul(A, normal(5, 3).to("meta")), "on one device, found cpu and meta"),
        (lambda A: qmatmul(A.expand(2, 3, 5, 4), normal(3, 5, 3)), "leading axes broadcast"),
        (lambda A: qmatmul(A, qct(A), method="9"), "unknown quaternion product '9'"),
        (lambda A: qnorm(A, "inf"), "unknown quaternion norm 'inf'"),
        (lambda A: from_adjoint(A), "needs a complex matrix"),
        (lambda A: from_adjoint(torch.ones(3, 4) + 0j), "multiples of 2"),
        (lambda A: from_real_counterpart(torch.ones(3, 4)), "multiples of 4"),
        (lambda A: from_parts(A, A, A, A[..., 0]), "matrices of one shape"),
        (lambda A: from_rgb(A), "height, width, 3"),
        (lambda A: from_complex_pair(A, A), "needs complex matrices"),
    ],
)
def test_what_does_not_fit_is_refused(call, sentence):
    with pytest.raises(LorankError, match=sentence):
        call(normal(3, 5))
