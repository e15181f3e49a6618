"""Entries of data: what becomes an array, what is too large, and means that leave nothing."""

import numpy as np
import pytest
import torch

from lorank.bayes.entries import as_array, check_range, column_means
from lorank.errors import LorankError


def test_tensors_and_masked_arrays_become_arrays():
    for tensor in (torch.eye(3).bfloat16(), torch.eye(3, requires_grad=True), torch.eye(3).int()):
        assert np.array_equal(as_array(tensor), np.eye(3))
    assert as_array(1j * torch.eye(2)).dtype.kind == "c"  # whoever asks for real numbers refuses it
    masked = np.ma.array([[1, 2], [3, 4]], mask=[[False, True], [False, False]])
    assert np.array_equal(as_array(masked), [[1, np.nan], [3, 4]], equal_nan=True)


@pytest.mark.parametrize("tensor", [torch.eye(3).to_sparse(), torch.eye(3, device="meta")])
def test_tensors_without_numbers_to_read(tensor):
    with pytest.raises(LorankError, match="a dense matrix of real numbers, found a tensor"):
        as_array(tensor)


def test_the_range_of_doubles():
    """At the limit nothing overflows, neither means nor singular values; above it is refused."""
    limit = np.finfo(float).max / (2 * np.sqrt(20))
    X = np.full((4, 5), limit)
    X[::2] *= -1
    check_range(X)
    assert np.isfinite(np.linalg.svd(X - column_means(X), compute_uv=False)).all()
    X[0, 0] = np.nan
    check_range(X)
    X[1, 1] = 1.01 * limit
    with pytest.raises(LorankError, match=r"a 4×5 matrix are at most 2\.01e.307 in size.*found"):
        check_range(X)
    with pytest.raises(LorankError, match="at most"):
        check_range(-X)


@pytest.mark.parametrize("rows", [3, 7, 10, 1000])
@pytest.mark.parametrize("scale", [1.0, 1e-300, 1e300])
def test_a_column_that_is_constant_leaves_nothing(rows, scale):
    values = np.random.default_rng(0).normal(size=5) * scale
    X = np.tile(values, (rows, 1))
    X[0, 0] = np.nan
    assert np.array_equal(column_means(X), values)


def test_means_are_means():
    X = np.random.default_rng(0).normal(size=(50, 4))
    assert np.allclose(column_means(X), X.mean(0), rtol=0, atol=10 * np.finfo(float).eps)
    X[3:9, 1] = np.nan
    assert column_means(X)[1] == pytest.approx(np.nanmean(X[:, 1]), abs=1e-14)
    assert column_means(np.zeros((3, 2))).tolist() == [0, 0]
    X[:, 2] = np.nan
    with pytest.raises(LorankError, match="every column needs an observed entry"):
        column_means(X)
