"""The one place where a model meets the penalties."""

import math

import pytest
import torch
from torch import nn

import lorank
from lorank import LorankError
from lorank.penalties import SPARSITY
from lorank.penalties import orthogonality as orthogonality_of
from lorank.penalties import sparsity as sparsity_of


def network():
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, groups=3), nn.ReLU(), nn.Conv2d(6, 4, 1), nn.Linear(4, 5)
    )


def moved():
    """In SVD form, off the manifold."""
    low = lorank.decompose(network().double())
    with torch.no_grad():
        for p in low.parameters():
            p += 0.1 * torch.randn_like(p)
    return low


def by_hand(low):
    total = 0.0
    for layer in low.modules():
        if isinstance(layer, lorank.nn.Factored):
            blocks = zip(
                layer.U.reshape(-1, *layer.U.shape[-2:]),
                layer.Vh.reshape(-1, *layer.Vh.shape[-2:]),
                strict=True,
            )
            for U, Vh in blocks:
                eye = torch.eye(U.shape[1], dtype=U.dtype)
                gap = (U.T @ U - eye).square().sum() + (Vh @ Vh.T - eye).square().sum()
                total = total + gap / U.shape[1] ** 2
    return total


@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf])
@pytest.mark.parametrize("name", ["orthogonality", "sparsity"])
def test_a_weight_that_is_no_penalty(name, weight):
    with pytest.raises(LorankError, match=f"{name} must be finite and not negative, found"):
        lorank.penalty(lorank.decompose(network()), **{name: weight})


def test_what_is_not_a_module():
    with pytest.raises(LorankError, match=r"a model is a torch\.nn\.Module, found a dict"):
        lorank.penalty({})


@pytest.mark.parametrize("kind", SPARSITY)
def test_the_sum_by_hand(kind):
    low = moved()
    layers = [m for m in low.modules() if isinstance(m, lorank.nn.Factored)]
    sparse = sum(SPARSITY[kind](layer.S) for layer in layers)
    torch.testing.assert_close(lorank.penalty(low), by_hand(low))
    got = lorank.penalty(low, orthogonality=0.5, sparsity=0.1, kind=kind)
    torch.testing.assert_close(got, 0.5 * by_hand(low) + 0.1 * sparse)
    terms = lorank.penalty_terms(low, kind=kind)
    torch.testing.assert_close(terms["orthogonality"], by_hand(low))
    torch.testing.assert_close(terms["sparsity"], sparse)
    factors = [f for m in layers for f in (m.U, m.Vh)]
    torch.testing.assert_close(terms["orthogonality"], orthogonality_of(factors))
    torch.testing.assert_close(terms["sparsity"], sparsity_of([m.S for m in layers], kind))


def test_a_fresh_decomposition_is_orthonormal():
    low = lorank.decompose(network().double())
    assert float(lorank.penalty(low).detach()) < 1e-24


@pytest.mark.parametrize("kind", SPARSITY)
def test_steps_move_both_terms(kind):
    low = moved()
    optimizer = torch.optim.SGD(low.parameters(), 1e-3)
    before = {k: float(v.detach()) for k, v in lorank.penalty_terms(low, kind=kind).items()}
    for _ in range(20):
        optimizer.zero_grad()
        lorank.penalty(low, sparsity=0.1, kind=kind).backward()
        optimizer.step()
    after = {k: float(v.detach()) for k, v in lorank.penalty_terms(low, kind=kind).items()}
    assert after["orthogonality"] < before["orthogonality"]
    assert after["sparsity"] < before["sparsity"]


def test_a_tie_counts_once():
    model = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)})
    model["b"].weight = model["a"].weight
    low = lorank.decompose(model)
    with torch.no_grad():
        low["a"].U += 0.3
    alone = nn.ModuleDict({"a": low["a"]})
    torch.testing.assert_close(
        lorank.penalty(low, sparsity=1.0), lorank.penalty(alone, sparsity=1.0)
    )


def test_float32_under_autocast_and_in_half_precision():
    low = moved().float()
    want = lorank.penalty(low, sparsity=0.1)
    with torch.autocast("cpu", torch.bfloat16):
        got = lorank.penalty(low, sparsity=0.1)
        got.backward()
    assert torch.equal(got, want) and got.dtype == torch.float32
    assert all(p.grad is None or p.grad.dtype == torch.float32 for p in low.parameters())
    half = low.bfloat16()
    assert lorank.penalty(half, sparsity=0.1).dtype == torch.float32


def test_frozen_layers_are_left_out_and_all_frozen_is_an_error():
    low = moved()
    low[0].requires_grad_(False)
    rest = nn.ModuleList([low[2], low[3]])
    torch.testing.assert_close(lorank.penalty(low), lorank.penalty(rest))
    low.requires_grad_(False)
    with pytest.raises(LorankError, match="all 3 layers in SVD form are frozen"):
        lorank.penalty(low)


def test_zeros_in_s_leave_it_finite():
    low = moved()
    with torch.no_grad():
        low[0].S.zero_()
        low[2].S[1] = 0
    for kind in SPARSITY:
        low.zero_grad()
        total = lorank.penalty(low, sparsity=1.0, kind=kind)
        total.backward()
        assert math.isfinite(total.item())
        assert all(torch.isfinite(p.grad).all() for p in low.parameters() if p.grad is not None)


def test_wrong_calls():
    with pytest.raises(LorankError, match=r"in SVD form, and Sequential has none: call"):
        lorank.penalty(network())
    with pytest.raises(LorankError, match=r"needs layers in SVD form"):
        lorank.penalty(lorank.fold(lorank.decompose(network())))
    with pytest.raises(LorankError, match=r"penalty 'hoyr': did you mean 'hoyer'\?"):
        lorank.penalty(moved(), kind="hoyr")
