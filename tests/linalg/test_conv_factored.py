"""A layer in SVD form as an operator: its small core against its dense kernel."""

import pytest
import torch
from conv_cases import kernel

import tolerance
from lorank import LorankError
from lorank.linalg import SVD, Unfolding, factored_singular_values, operator_matrix
from lorank.linalg.convolution.pair import PairOperator, pair_operator

D = torch.float64

LAYERS = {
    "channel": (Unfolding(6, 5, (3, 3)), {}),
    "channel_reversed": (Unfolding(6, 5, (3, 3), layout="channel_reversed"), {}),
    "spatial": (Unfolding(6, 5, (3, 2), layout="spatial"), {}),
    "spatial_reversed": (Unfolding(5, 6, (2, 3), layout="spatial_reversed"), {}),
    "1-d": (Unfolding(6, 5, (3,)), {}),
    "3-d, spatial": (Unfolding(3, 2, (2, 3, 2), layout="spatial"), {}),
    "groups": (Unfolding(6, 4, (3, 3), groups=2), {}),
    "groups, spatial": (Unfolding(6, 4, (3, 3), groups=2, layout="spatial"), {}),
    "stride": (Unfolding(6, 5, (3, 3)), {"stride": 2}),
    "stride, spatial": (Unfolding(6, 5, (3, 3), layout="spatial"), {"stride": 2}),
    "dilation, spatial": (Unfolding(6, 5, (3, 3), layout="spatial"), {"dilation": 2}),
    "transposed": (Unfolding(6, 5, (3, 3), transposed=True), {"stride": 2}),
    "transposed, reversed": (
        Unfolding(6, 5, (3, 3), transposed=True, layout="channel_reversed"),
        {"stride": 2},
    ),
    "transposed, spatial": (
        Unfolding(6, 4, (3, 2), groups=2, transposed=True, layout="spatial"),
        {"stride": 2},
    ),
}


def layer(view: Unfolding, rank: int, dtype=D) -> SVD:
    """Factors that are not orthonormal, with signs in S."""
    rows, columns = view.shape
    groups = (view.groups,) if view.groups > 1 else ()
    S = kernel((*groups, rank, 1), 2).squeeze(-1) * rank**0.5
    return SVD(
        *(
            f.to(dtype)
            for f in (kernel((*groups, rows, rank)), S, kernel((*groups, rank, columns), 1))
        )
    )


def dense(view: Unfolding, factors: SVD):
    U, S, Vh = factors
    return view.kernel((U * S.abs().unsqueeze(-2)) @ Vh)


def truth(view, factors, size, **settings):
    T = operator_matrix(
        dense(view, factors), size, groups=view.groups, transposed=view.transposed, **settings
    )
    return torch.linalg.svdvals(T)


@pytest.mark.parametrize("rank", [2, 9])
@pytest.mark.parametrize("padding", ["zeros", "circular", "valid"])
@pytest.mark.parametrize("name", LAYERS)
def test_the_core_has_the_layer_s_values(name, padding, rank):
    view, settings = LAYERS[name]
    size = 4 if name.startswith("3-d") else 6
    factors = layer(view, rank)
    want = truth(view, factors, size, padding=padding, **settings)
    # Backward errors of two QRs and of the core, relative to the factors' norms.
    scale = float(factors.U.norm() * factors.S.norm() * factors.Vh.norm()) * 9
    bound = tolerance.backward(len(want), len(want), D) * scale
    methods = ["exact", "circular"] if padding == "circular" else ["exact"]
    for method in methods:
        found = factored_singular_values(
            view, factors, size, padding=padding, method=method, **settings
        )
        assert found.kind == "exact"
        assert found.values.shape == want.shape, "as many as of the dense layer"
        assert (found.values - want).abs().max() <= bound


@pytest.mark.parametrize("name", ["channel", "spatial", "groups, spatial", "stride, spatial"])
@pytest.mark.parametrize("method", ["energy", "extrapolated", "leading"])
def test_estimates_of_the_core(name, method):
    view, settings = LAYERS[name]
    factors = layer(view, 2)
    size = 20 if "stride" in settings else 12
    want = truth(view, factors, size, **settings)
    found = factored_singular_values(view, factors, size, method=method, **settings)
    counted = want[: len(found.values)] > 0.1 * want[0]
    error = ((found.values - want[: len(found.values)]).abs() / want[: len(found.values)])[counted]
    assert float(error.mean()) <= found.error + 1e-12


def test_a_small_rank_has_small_problems():
    view = Unfolding(64, 64, (3, 3), layout="spatial")
    pair = pair_operator(view, layer(view, 4), 8)
    assert pair.symbols(torch.zeros(1, 2)).shape[-2:] == (4, 4)
    assert pair.shape == (4 * 64, 4 * 64)
    full = pair_operator(view, layer(view, 192), 8)
    assert full.shape == (64 * 64, 64 * 64), "never more than the dense layer's"


def test_the_pair_never_forms_the_dense_kernel():
    """Its energy is that of a layer whose dense kernel would not fit in memory."""
    view = Unfolding(40_000, 40_000, (3, 3), layout="spatial")
    rows, columns = view.shape
    factors = SVD(torch.ones(rows, 1), torch.ones(1), torch.ones(1, columns))
    pair = pair_operator(view, factors, 4)
    assert isinstance(pair, PairOperator)
    want = (40_000 * (4 + 3 + 3)) ** 2  # of each factor: taps that fit, on four pixels
    assert abs(pair.energy() / want - 1) < 1e-12


def test_a_channel_layout_is_as_exact_in_float32():
    view = Unfolding(8, 8, (3, 3))
    factors = layer(view, 3, torch.float32)
    found = factored_singular_values(view, factors, 6)
    assert found.values.dtype == torch.float32
    want = truth(view, SVD(*(f.double() for f in factors)), 6)
    scale = float(factors.U.norm() * factors.S.norm() * factors.Vh.norm()) * 9
    assert (found.values - want).abs().max() <= tolerance.backward(8, 8, torch.float32) * scale


@pytest.mark.parametrize("name", ["channel", "spatial"])
@pytest.mark.parametrize("which", range(3))
def test_nan_is_refused(name, which):
    view, _ = LAYERS[name]
    factors = list(layer(view, 2))
    factors[which] = torch.full_like(factors[which], torch.nan)
    with pytest.raises(LorankError, match="NaN"):
        factored_singular_values(view, SVD(*factors), 6)


def test_a_linear_layer_is_no_convolution():
    view = Unfolding(4, 3)
    with pytest.raises(LorankError, match="one to three axes"):
        factored_singular_values(view, layer(view, 2), 6)
