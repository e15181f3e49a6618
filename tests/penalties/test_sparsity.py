"""The sparsity penalties: values by hand, gradients, zeros, and one batch for all layers."""

import math

import pytest
import torch

from lorank.errors import LorankError
from lorank.penalties import SPARSITY, hoyer, hoyer_square, l1, sparsity

every_kind = pytest.mark.parametrize("kind", SPARSITY)
scale_free = pytest.mark.parametrize("kind", ["hoyer", "hoyer_square"])


def normal(*shape, dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, generator=g, dtype=dtype)


def layers(dtype=torch.float64, requires_grad=False):
    shapes = [(5,), (3,), (5,), (1,), (8,), (3, 4), (2, 1), (5,)]
    return [
        normal(*shape, seed=7 * i).to(dtype).requires_grad_(requires_grad)
        for i, shape in enumerate(shapes)
    ]


@pytest.mark.parametrize(
    ("values", "sums"),
    [
        ([3.0, 4.0], (7, 0.4, 0.96)),
        ([-3.0, 4.0], (7, 0.4, 0.96)),
        ([2.0], (2, 0, 0)),
        ([0.0, -2.0, 0.0], (2, 0, 0)),
        ([1.0] * 9, (9, 2, 8)),
        ([0.0] * 4, (0, 0, 0)),
        ([0.0], (0, 0, 0)),
        ([[3.0, 4.0], [1.0, 1.0], [0.0, 0.0]], (9, 0.4 + math.sqrt(2) - 1, 0.96 + 1)),
    ],
)
def test_values_by_hand(values, sums):
    s = torch.tensor(values, dtype=torch.float64)
    for f, want in zip((l1, hoyer, hoyer_square), sums, strict=True):
        assert float(f(s)) == pytest.approx(want, abs=1e-14)


@every_kind
def test_all_layers_at_once_are_one_by_one(kind):
    made = layers(requires_grad=True)
    batched, plain = sparsity(made, kind), sum(SPARSITY[kind](s) for s in made)
    torch.testing.assert_close(batched, plain, rtol=1e-13, atol=0)
    for got, want in zip(
        torch.autograd.grad(batched, made), torch.autograd.grad(plain, made), strict=True
    ):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-14)


@every_kind
def test_groups_are_summed(kind):
    s = normal(3, 4)
    rows = [SPARSITY[kind](row) for row in s]
    torch.testing.assert_close(SPARSITY[kind](s), sum(rows))


@every_kind
def test_gradient_by_finite_differences(kind):
    made = layers(requires_grad=True)
    assert torch.autograd.gradcheck(lambda *s: sparsity(s, kind), made)
    assert torch.autograd.gradgradcheck(lambda *s: sparsity(s, kind), made[:2])


def test_hoyer_s_gradient_is_the_formula():
    s = normal(6).requires_grad_()
    got = torch.autograd.grad(hoyer(s), s)[0]
    n1, n2 = s.abs().sum(), s.norm()
    want = s.sign() / n2 - s * n1 / n2**3
    torch.testing.assert_close(got, want)
    # Entries below ‖s‖₂²/‖s‖₁ shrink under descent, larger ones grow.
    shrinks = (got * s) > 0
    assert torch.equal(shrinks, s.abs() < n2**2 / n1)
    assert shrinks.any()
    assert not shrinks.all()


@scale_free
@pytest.mark.parametrize("scale", [1e-8, 0.37, 1e6])
def test_scale_free(kind, scale):
    made = layers()
    scaled = [scale * s for s in made]
    torch.testing.assert_close(sparsity(scaled, kind), sparsity(made, kind), rtol=1e-12, atol=0)
    # A gradient of a scale-free function is orthogonal to its argument.
    s = normal(7).requires_grad_()
    gradient = torch.autograd.grad(SPARSITY[kind](s), s)[0]
    assert abs(float(gradient @ s.detach())) < 1e-12


def test_l1_is_not_scale_free():
    """Negative control of the test above."""
    assert float(sparsity([torch.ones(3)], "l1")) != float(sparsity([2 * torch.ones(3)], "l1"))


@every_kind
@pytest.mark.parametrize("values", [[0.0], [0.0] * 5, [[0.0, 0.0], [1.0, 2.0]], [1.0, 0.0, 2.0]])
def test_zeros_are_safe_and_get_no_gradient(kind, values):
    s = torch.tensor(values, requires_grad=True)
    other = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], requires_grad=True)
    value = sparsity([s, other], kind)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(s.grad).all()
    assert (s.grad[s.detach() == 0] == 0).all()
    assert (other.grad != 0).any()


@every_kind
def test_the_sign_means_nothing(kind):
    made = layers()
    torch.testing.assert_close(sparsity(made, kind), sparsity([-s for s in made], kind))


@every_kind
def test_a_step_along_the_gradient_helps(kind):
    made = layers(requires_grad=True)
    before = sparsity(made, kind)
    before.backward()
    with torch.no_grad():
        after = sparsity([s - 1e-3 * s.grad for s in made], kind)
        worse = sparsity([s + 1e-3 * s.grad for s in made], kind)
    assert after < before < worse


@scale_free
def test_descent_makes_values_few(kind):
    s = torch.linspace(1, 0.1, 10, dtype=torch.float64).requires_grad_()
    start = s.detach().clone()
    for _ in range(200):
        step = torch.autograd.grad(SPARSITY[kind](s), s)[0]
        s = (s - 0.01 * step).detach().requires_grad_()
    s = s.detach()
    assert float(s[0] / s.norm()) > float(start[0] / start.norm())
    assert int((s.abs() < 0.05).sum()) >= 3


@every_kind
@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(kind, low):
    made = [s.detach().to(low).requires_grad_() for s in layers()]
    value = sparsity(made, kind)
    assert value.dtype == torch.float32
    exact = sparsity([s.detach().double() for s in made], kind)
    assert float(value.detach()) == pytest.approx(float(exact), rel=1e-5)
    value.backward()
    assert all(s.grad.dtype == low for s in made)


@every_kind
def test_autocast_changes_nothing(kind):
    made = layers(torch.float32, requires_grad=True)
    plain = sparsity(made, kind)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = sparsity(made, kind)
        single = SPARSITY[kind](made[0])
    assert cast.dtype == single.dtype == torch.float32
    assert torch.equal(cast, plain)


@every_kind
def test_double_stays_double(kind):
    assert sparsity(layers(), kind).dtype == torch.float64
    assert sparsity([normal(3), normal(3).float()], kind).dtype == torch.float64


def test_hoyer_is_the_default():
    made = layers()
    assert torch.equal(sparsity(made), sparsity(made, "hoyer"))


def test_a_generator_will_do():
    made = layers()
    assert torch.equal(sparsity(s for s in made), sparsity(made))


@pytest.mark.parametrize("kind", ["hoyr", "L1", "", None])
def test_a_wrong_kind_lists_the_right_ones(kind):
    with pytest.raises(LorankError, match="Known: hoyer, hoyer_square, l1"):
        sparsity(layers(), kind)


def test_nothing_to_penalise():
    with pytest.raises(LorankError, match="no singular values were given"):
        sparsity([])


@pytest.mark.parametrize("shape", [(), (0,), (2, 2, 2), (3, 0)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(LorankError, match="found shape"):
        sparsity([torch.ones(2), torch.ones(shape)])
