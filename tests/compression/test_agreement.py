import math

import pytest
import torch

from lorank.compression.agreement import Compared
from lorank.errors import LorankError

DATA = torch.Generator().manual_seed(0)


def agreement(*pairs):
    found = Compared()
    for expected, other in pairs:
        found.add(expected, other)
    return found.agreement()


def test_it_is_what_one_would_compute_at_once():
    y = torch.randn(9, 4, 3, generator=DATA, dtype=torch.float64)
    z = y + 0.1 * torch.randn(9, 4, 3, generator=DATA, dtype=torch.float64)
    found = agreement(*(([a], [b]) for a, b in zip(y.split(2), z.split(2), strict=True)))
    assert found.relative_error == pytest.approx(float((z - y).norm() / y.norm()), rel=1e-12)
    assert found.max_error == float((z - y).abs().max() / y.abs().max())
    cosine = torch.cosine_similarity(y.flatten(1), z.flatten(1)).mean()
    assert found.cosine == pytest.approx(float(cosine), rel=1e-12)


def test_several_outputs_count_together():
    y, z = (
        [torch.tensor([[3.0]]), torch.tensor([[4.0]])],
        [torch.tensor([[3.0]]), torch.zeros(1, 1)],
    )
    assert agreement((y, z))[:2] == (0.8, 1.0)


def test_the_same_is_the_same_and_the_opposite_is_not():
    y = torch.randn(3, 5, generator=DATA)
    y[1] = 0
    assert agreement(([y], [y])) == (0.0, 0.0, 1.0)
    y = y[:1]
    assert agreement(([y], [-y])) == pytest.approx((2.0, 2.0, -1.0))


def test_a_number_that_is_not_finite_is_seen():
    y, z = torch.ones(2, 2), torch.tensor([[1.0, math.nan], [1.0, 1.0]])
    assert all(map(math.isnan, agreement(([y], [z]), ([y], [y]))))
    assert agreement(([torch.zeros(1, 2)], [torch.ones(1, 2)])).relative_error == math.inf


def test_what_is_refused():
    with pytest.raises(LorankError, match="have the same shapes, found"):
        agreement(([torch.ones(2, 2)], [torch.ones(2, 3)]))
    with pytest.raises(LorankError, match="at least one input, found none"):
        Compared().agreement()
