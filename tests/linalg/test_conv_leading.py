"""Block Lanczos on matrices of known spectrum."""

import pytest
import torch

import tolerance
from lorank import LorankError
from lorank.linalg.convolution.leading import leading_values
from matrices import falling, with_spectrum

D = torch.float64


def search(A, count, block=None, tolerance=1e-9):
    start = torch.randn(block or count + 2, A.shape[1], dtype=A.dtype)
    return leading_values(lambda x: x @ A.mT, lambda y: y @ A, start, count, tolerance=tolerance)


@pytest.mark.parametrize("shape", [(60, 40), (40, 60)])
@pytest.mark.parametrize("count", [1, 4])
def test_known_values(shape, count):
    A = with_spectrum(falling(40, 0.3), *shape)
    found = search(A, count)
    want = falling(40, 0.3)[:count]
    assert (found.values - want).abs().max() <= found.residuals.max() + tolerance.backward(
        60, 40, D
    )


def test_a_close_second_needs_restarts():
    values = torch.cat([torch.tensor([1.0, 0.9999, 0.9998], dtype=D), 0.999 * falling(397, 0.01)])
    A = with_spectrum(values, 400, 400)
    assert (search(A, 3).values - values[:3]).abs().max() <= 1e-9


def test_every_copy_of_a_value_is_found():
    values = [2.0] * 4 + [1.0] * 26
    assert (
        search(with_spectrum(values, 30, 30), 5).values - torch.tensor([2.0] * 4 + [1])
    ).abs().max() < 1e-9


def test_a_small_or_singular_matrix():
    assert search(torch.zeros(3, 4, dtype=D), 2).values.tolist() == [0, 0]
    A = with_spectrum([3.0, 0, 0], 5, 4)
    assert (search(A, 3, 4).values - torch.tensor([3.0, 0, 0], dtype=D)).abs().max() < 1e-12


def test_a_search_that_cannot_end_says_so(monkeypatch):
    monkeypatch.setattr("lorank.linalg.convolution.leading.STEPS", 2)
    with pytest.raises(LorankError, match="did not reach a relative residual of 1e-09 in 2 blocks"):
        search(with_spectrum(falling(100, 0.1), 100, 100), 2)


def test_a_narrow_block_is_refused():
    with pytest.raises(LorankError, match="a block of 3 vectors finds 3 values, found 2"):
        search(torch.eye(9, dtype=D), 3, 2)
