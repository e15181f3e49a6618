"""Spectra that are made, so that the right ranks are known."""

import pytest
import torch

from lorank.ranks import Price, Spectrum


@pytest.fixture
def make():
    """Spectrum of an m×n matrix (as wide as its values are long, unless told), with prices."""

    def spectrum(values, m=None, n=None, dtype=torch.float64):
        s = torch.as_tensor(values, dtype=dtype)
        groups = s.shape[0] if s.ndim == 2 else 1
        m = m or s.shape[-1]
        n = n or m
        price = Price(groups * m * n, groups * (m + n))
        return Spectrum(s, (m, n), "channel", price, Price(49 * price.dense, 49 * price.per_rank))

    return spectrum


@pytest.fixture
def network(make):
    """A small network: steep, flat, wide, cut before, grouped and one-row layers."""
    g = torch.Generator().manual_seed(0)

    def values(*shape, power):
        s = torch.rand(shape, generator=g, dtype=torch.float64) ** power
        return s.sort(-1, descending=True).values

    return {
        "steep": make(values(24, power=6), n=40),
        "flat": make(values(16, power=0.2)),
        "wide": make(values(8, power=2), n=90),
        "cut": make(values(5, power=2), m=12, n=12),
        "grouped": make(values(3, 6, power=3), n=9),
        "row": make(values(1, power=1), n=30),
    }


@pytest.fixture
def planted(make):
    """Spectrum of a matrix of known rank and signal, in Gaussian noise of variance 1."""

    def spectrum(m, n, rank, signal, seed=0, noise=1.0):
        g = torch.Generator().manual_seed(seed)
        U = torch.linalg.qr(torch.randn(m, rank, generator=g, dtype=torch.float64))[0]
        V = torch.linalg.qr(torch.randn(n, rank, generator=g, dtype=torch.float64))[0]
        N = torch.randn(m, n, generator=g, dtype=torch.float64)
        W = signal * max(m, n) ** 0.5 * U @ V.T + noise * N
        return make(torch.linalg.svdvals(W), m=m, n=n)

    return spectrum
