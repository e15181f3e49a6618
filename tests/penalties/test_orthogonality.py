"""The orthogonality penalty against its plain formula, its gradient, and its precision."""

import pytest
import torch

from lorank.errors import LorankError
from lorank.penalties import orthogonality

SHAPES = [(6, 6), (9, 4), (4, 9), (9, 4), (1, 5), (5, 1), (1, 1), (4, 9), (3, 7, 2), (2, 2, 5)]


def normal(*shape, dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, generator=g, dtype=dtype)


def formula(A):
    """‖G − I‖_F² / r² of one matrix, as it is written."""
    A = A if A.shape[0] <= A.shape[1] else A.T
    r = A.shape[0]
    return (A @ A.T - torch.eye(r, dtype=A.dtype)).pow(2).sum() / r**2


def one_by_one(factors):
    return sum(formula(A) for F in factors for A in (F if F.ndim == 3 else [F]))


def factors(dtype=torch.float64, requires_grad=False):
    return [
        normal(*shape, seed=7 * i).to(dtype).requires_grad_(requires_grad)
        for i, shape in enumerate(SHAPES)
    ]


def test_batched_is_one_by_one():
    made = factors(requires_grad=True)
    batched, plain = orthogonality(made), one_by_one(made)
    torch.testing.assert_close(batched, plain, rtol=1e-12, atol=0)
    for got, want in zip(
        torch.autograd.grad(batched, made), torch.autograd.grad(plain, made), strict=True
    ):
        torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-12)


def test_values_by_hand():
    # The Gram matrix of c·I is c²·I: (c² − 1)²·r/r².
    assert float(orthogonality([2 * torch.eye(3)])) == pytest.approx(3.0)
    assert float(orthogonality([torch.zeros(5, 2)])) == pytest.approx(0.5)
    assert float(orthogonality([torch.tensor([[3.0, 4.0]])])) == pytest.approx(24.0**2)


@pytest.mark.parametrize("shape", [(8, 8), (40, 6), (6, 40), (5, 1), (3, 10, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zero_for_orthonormal_factors(shape, dtype):
    A = torch.nn.init.orthogonal_(torch.empty(*shape[-2:], dtype=torch.float64)).to(dtype)
    A = A.expand(shape).clone().requires_grad_()
    value = orthogonality([A])
    # Each Gram entry is right to about 10·n·eps, the measure of torch's own orthogonality test.
    entry = 10 * max(shape) * torch.finfo(dtype).eps
    groups = shape[0] if len(shape) == 3 else 1
    assert 0 <= float(value.detach()) <= groups * entry**2
    assert float(torch.autograd.grad(value, A)[0].abs().max()) <= 4 * entry * groups


def test_almost_orthonormal_is_seen():
    """Negative control: a deviation of 1e-6 in float32 is not lost in rounding."""
    A = torch.eye(8)
    A[0, 1] = 1e-6
    assert float(orthogonality([A])) == pytest.approx(2e-12 / 64, rel=1e-4)


def test_the_rank_is_the_short_side():
    """Tall and wide are the same matrix; repeated, not orthonormal, columns cost."""
    A = normal(9, 4)
    torch.testing.assert_close(orthogonality([A]), orthogonality([A.T]))
    assert float(orthogonality([torch.ones(4, 2) / 2])) == pytest.approx(2 / 4)


def test_gradient_by_finite_differences():
    made = factors(requires_grad=True)
    assert torch.autograd.gradcheck(lambda *f: orthogonality(f), made)


def test_second_derivative():
    made = [normal(3, 2).requires_grad_(), normal(2, 4).requires_grad_()]
    assert torch.autograd.gradgradcheck(lambda *f: orthogonality(f), made)


def test_a_step_along_the_gradient_helps():
    made = factors(requires_grad=True)
    before = orthogonality(made)
    before.backward()
    with torch.no_grad():
        after = orthogonality([A - 1e-3 * A.grad for A in made])
        worse = orthogonality([A + 1e-3 * A.grad for A in made])
    assert after < before < worse


def test_some_factors_may_be_frozen():
    free, frozen = normal(4, 3).requires_grad_(), normal(4, 3, seed=1)
    orthogonality([free, frozen]).backward()
    assert free.grad is not None
    assert frozen.grad is None
    assert not orthogonality([frozen]).requires_grad


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(low):
    made = [A.detach().to(low).requires_grad_() for A in factors()]
    value = orthogonality(made)
    assert value.dtype == torch.float32
    exact = one_by_one([A.detach().double() for A in made])
    assert float(value.detach()) == pytest.approx(float(exact), rel=1e-5)
    value.backward()
    assert all(A.grad.dtype == low for A in made)


@pytest.mark.parametrize("inside", [True, False], ids=["backward inside", "backward outside"])
def test_autocast_changes_nothing(inside):
    made = factors(torch.float32, requires_grad=True)
    plain = orthogonality(made)
    want = torch.autograd.grad(plain, made)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        # Negative control: autocast is on, and would have been noticed.
        assert (made[0] @ made[0]).dtype == torch.bfloat16
        cast = orthogonality(made)
        got = torch.autograd.grad(cast, made) if inside else None
    got = got or torch.autograd.grad(cast, made)
    assert cast.dtype == torch.float32
    assert torch.equal(cast, plain)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_precisions_may_be_mixed():
    mixed = [normal(4, 3), normal(4, 3).float(), normal(4, 3).bfloat16()]
    value = orthogonality(mixed)
    assert value.dtype == torch.float64
    assert float(value.detach()) == pytest.approx(3 * float(formula(normal(4, 3))), rel=0.05)


def test_a_generator_will_do():
    made = factors()
    torch.testing.assert_close(orthogonality(A for A in made), orthogonality(made))


def test_nothing_to_penalise():
    with pytest.raises(LorankError, match="no factors were given"):
        orthogonality([])


@pytest.mark.parametrize("shape", [(3,), (), (2, 2, 2, 2), (0, 3), (3, 0)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(LorankError, match="found shape"):
        orthogonality([torch.eye(2), torch.ones(shape)])
