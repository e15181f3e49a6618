"""The penalty on norms: a sum of squares, and what it does to a layer."""

import math

import pytest
import torch

from lorank import LorankError
from lorank.linalg import BOUNDS, norm_bracket, operator_norm_bound
from lorank.penalties import operator_norm


def test_values_by_hand():
    assert float(operator_norm([torch.tensor(3.0), torch.tensor([4.0])])) == 25.0


def test_precision_and_autocast():
    bounds = [torch.tensor(1 + 1e-3), torch.tensor(2.0, dtype=torch.bfloat16)]
    with torch.autocast("cpu", torch.bfloat16):
        value = operator_norm(iter(bounds))
    assert value.dtype == torch.float32
    assert float(value) == pytest.approx(4 + 1.001**2, rel=1e-6)
    assert operator_norm([torch.tensor(2.0).double()]).dtype == torch.float64


def test_gradient_by_finite_differences():
    made = [torch.tensor(float(k)).double().requires_grad_() for k in (1, 2)]
    assert torch.autograd.gradcheck(lambda *b: operator_norm(b), made)


@pytest.mark.parametrize("method", BOUNDS)
def test_a_few_steps_lower_the_certified_norm(method):
    weight = torch.randn(4, 4, 3, 3, requires_grad=True)
    before = norm_bracket(weight).lower
    for _ in range(5):
        gradient = torch.autograd.grad(operator_norm([operator_norm_bound(weight, method)]), weight)
        with torch.no_grad():
            weight -= 2e-3 * gradient[0]
    assert norm_bracket(weight).upper < before


def test_nothing_to_penalise_and_no_single_numbers():
    with pytest.raises(LorankError, match="no bounds were given"):
        operator_norm([])
    with pytest.raises(LorankError, match=r"one number a layer, found shape \(2,\)"):
        operator_norm([torch.ones(2)])


def test_zero_has_no_gradient():
    bound = torch.tensor(0.0, requires_grad=True)
    value = operator_norm([bound])
    value.backward()
    assert value.item() == 0 and math.isfinite(bound.grad.item())
