"""The one place where a model meets the penalties."""

import copy
import math

import pytest
import torch
from torch import nn

import lorank
from lorank import LorankError
from lorank.linalg import BOUNDS, norm_bracket
from lorank.penalties import SPARSITY
from lorank.penalties import orthogonality as orthogonality_of
from lorank.penalties import sparsity as sparsity_of
from lorank.training.penalty import norm_bounds


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


class TestNorms:
    """The norms of layers as operators, dense and in SVD form."""

    def test_the_sum_by_hand_beside_the_others(self):
        low = moved()
        layers = [low[0], low[2], low[3]]
        norms = [norm_bracket(low[0].weight, groups=3, tol=1e-4).upper]
        norms += [norm_bracket(layer.weight, tol=1e-4).upper for layer in layers[1:]]
        want = sum(n**2 for n in norms)
        terms = lorank.penalty_terms(low, bound="refined")
        assert sorted(terms) == ["operator_norm", "orthogonality", "sparsity"]
        assert terms["operator_norm"].item() == pytest.approx(want, rel=4e-3)
        both = lorank.penalty(low, orthogonality=0.5, operator_norm=0.1, bound="refined")
        torch.testing.assert_close(both, 0.5 * by_hand(low) + 0.1 * terms["operator_norm"])

    @pytest.mark.parametrize("bound", BOUNDS)
    def test_alone_on_dense_layers(self, bound):
        model = network()
        value = lorank.penalty(model, orthogonality=0, sparsity=0, operator_norm=1.0, bound=bound)
        value.backward()
        exact = sum(
            norm_bracket(m.weight, groups=getattr(m, "groups", 1)).lower ** 2
            for m in (model[0], model[2], model[3])
        )
        assert value.item() >= exact
        for layer in (model[0], model[2], model[3]):
            assert layer.weight.grad.abs().sum() > 0

    @pytest.mark.parametrize("layout", ["channel", "spatial", "auto"])
    def test_a_layer_in_svd_form_has_the_norm_of_its_dense_weight(self, layout):
        dense = nn.Sequential(nn.Conv2d(6, 8, 3, stride=2), nn.ConvTranspose2d(8, 6, 3)).double()
        low = lorank.decompose(dense, {"0": 2, "1": 3}, layout=layout)
        rebuilt = lorank.fold(low)
        got, want, dense_bounds = (
            norm_bounds(m, "refined")
            for m in (
                low,
                rebuilt,
                nn.ModuleList([_dense(dense[0], low[0]), _dense(dense[1], low[1])]),
            )
        )
        for a, b, c in zip(got, want, dense_bounds, strict=True):
            assert a.item() == pytest.approx(b.item(), rel=3e-3)
            assert a.item() == pytest.approx(c.item(), rel=3e-3)

    def test_ties_count_once_and_frozen_layers_not_at_all(self):
        model = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4), "c": nn.Linear(4, 4)})
        model["b"].weight = model["a"].weight
        model["c"].requires_grad_(False)
        assert len(norm_bounds(model)) == 1
        model.requires_grad_(False)
        with pytest.raises(LorankError, match="has 2, all frozen"):
            norm_bounds(model)

    def test_bad_input(self):
        with pytest.raises(LorankError, match="ReLU has none"):
            norm_bounds(nn.ReLU())
        with pytest.raises(LorankError, match="unknown bound 'gird'"):
            norm_bounds(network(), "gird")
        bad = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"))
        with pytest.raises(LorankError, match=r"layer '0': no bound .* 'reflect'"):
            norm_bounds(bad)
        for weight in (-1.0, math.nan, math.inf):
            with pytest.raises(LorankError, match="operator_norm must be finite"):
                lorank.penalty(network(), operator_norm=weight)


def _dense(like, low):
    layer = copy.deepcopy(like)
    layer.weight = nn.Parameter(low.weight.detach())
    return layer


class Standardised(nn.Conv2d):
    """Runs with another weight than the one it holds."""

    def forward(self, x):
        return self._conv_forward(x, 10 * self.weight, self.bias)


@pytest.mark.parametrize(
    ("layer", "says"),
    [
        (nn.Conv2d(1, 1, 3, padding=3, padding_mode="circular"), "cyclically"),
        (Standardised(2, 2, 3), "in its own way"),
        (nn.LazyConv2d(2, 3), "no weights yet"),
        (nn.Conv2d(2, 2, 3, device="meta"), "no weights yet"),
    ],
)
def test_layers_without_a_bound_are_refused(layer, says):
    with pytest.raises(LorankError, match=f"layer '':.*{says}|layer '' has {says}"):
        norm_bounds(layer)


def test_a_free_bias_makes_no_weight_trainable():
    layer = nn.Conv2d(2, 2, 3)
    layer.weight.requires_grad_(False)
    with pytest.raises(LorankError, match="all frozen"):
        norm_bounds(layer)


def test_a_shared_weight_counts_once_for_each_way_to_move_it():
    model = nn.Sequential(nn.Conv2d(2, 2, 3), nn.Conv2d(2, 2, 3), nn.Conv2d(2, 2, 3, stride=2))
    model[1].weight = model[2].weight = model[0].weight
    assert len(norm_bounds(model)) == 2
