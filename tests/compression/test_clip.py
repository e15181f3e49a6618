"""A cap holds for the layer, in its dtype and form, and its cost is what it says."""

import math

import pytest
import torch
from torch import nn

import lorank
from lorank import LorankError
from lorank.linalg import norm_bracket, svd
from lorank.linalg.convolution.clip import cap_kernel

LAYERS = {
    "conv": (nn.Conv2d(3, 5, 3, padding=1), (1, 3, 6, 6)),
    "even": (nn.Conv2d(3, 4, 2), (1, 3, 6, 6)),
    "1x1": (nn.Conv2d(4, 6, 1), (1, 4, 3, 3)),
    "stride": (nn.Conv2d(3, 4, 3, stride=2), (1, 3, 7, 7)),
    "dilation": (nn.Conv2d(3, 4, 3, dilation=2), (1, 3, 7, 7)),
    "groups": (nn.Conv2d(4, 6, 3, groups=2), (1, 4, 6, 6)),
    "depthwise": (nn.Conv2d(4, 4, 3, groups=4, padding=1), (1, 4, 6, 6)),
    "line": (nn.Conv1d(3, 4, 5, stride=3), (1, 3, 12)),
    "transposed": (nn.ConvTranspose2d(4, 3, 4, stride=2), (1, 4, 4, 4)),
    "linear": (nn.Linear(7, 5), (1, 7)),
}


def settings(layer):
    if isinstance(layer, nn.Linear):
        return {}
    return {name: getattr(layer, name) for name in ("stride", "dilation", "groups")}


def operator_norm(layer, shape):
    """Norm of the layer itself, from its Jacobian."""
    x = torch.zeros(shape, dtype=layer.weight.dtype)
    J = torch.autograd.functional.jacobian(layer, x)
    return float(torch.linalg.matrix_norm(J.reshape(-1, x.numel()), 2))


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("share", [0.3, 0.8])
def test_the_cap_holds_for_the_layer(name, share):
    layer, shape = LAYERS[name]
    cap = share * norm_bracket(layer.weight, **settings(layer)).lower
    found = lorank.clip(layer, cap, tol=1e-2)
    report = found.layers[""]
    assert norm_bracket(found.model.weight, **settings(layer)).lower <= cap
    assert report.after <= cap < report.before
    assert operator_norm(found.model, shape) <= cap * (1 + 1e-5)
    assert report.after > 0.97 * cap  # and no more is taken than need be
    change = (found.model.weight - layer.weight).norm() / layer.weight.norm()
    assert report.change == pytest.approx(change.item(), rel=1e-5)
    assert torch.equal(found.model.bias, layer.bias)


def test_a_linear_layer_is_capped_as_its_matrix():
    layer = nn.Linear(6, 5)
    U, S, Vh = svd(layer.weight)
    cap = float(S[2])
    want = (U * S.clamp_max(cap)) @ Vh
    got = lorank.clip(layer, cap, tol=1e-6).model.weight
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layout", ["channel", "channel_reversed", "spatial"])
def test_a_layer_in_svd_form_keeps_its_form_and_rank(layout):
    low = lorank.decompose(nn.Sequential(nn.Conv2d(6, 8, 3)), {"0": 3}, layout=layout)
    cap = 0.5 * norm_bracket(low[0].weight).lower
    found = lorank.clip(low, cap)
    layer = found.model[0]
    assert isinstance(layer, lorank.nn.SVDConv) and layer.rank == 3
    assert layer.view.layout == layout
    assert norm_bracket(layer.weight).lower <= cap
    assert found.layers["0"].after <= cap


def test_scaling_alone_changes_more():
    """Negative control: to cap by scaling the whole kernel is the cheap way, and costs more."""
    weight = torch.randn(6, 6, 3, 3)
    norm = norm_bracket(weight).upper
    found = lorank.clip(_layer(weight), 0.5 * norm)
    assert found.layers[""].change < 0.45 < 0.5


def test_one_round_leaves_far_more_than_the_target():
    weight = torch.randn(6, 6, 3, 3)
    target = 0.5 * norm_bracket(weight).upper
    left = [norm_bracket(cap_kernel(weight, target, rounds=r).weight).upper for r in (1, 5, 30)]
    assert left[0] > 1.15 * target
    assert left[0] > left[1] > left[2]
    assert left[2] < 1.08 * target


def _layer(weight):
    layer = nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2:], bias=False)
    layer.weight = nn.Parameter(weight)
    return layer


def test_the_alternation_goes_to_the_nearest_kernel():
    """Any feasible kernel on the way back to the original is no nearer: a convex projection."""
    weight = torch.randn(3, 3, 3)
    target = 0.6 * norm_bracket(weight).upper
    nearest = cap_kernel(weight, target, rounds=600, excess=0).weight
    base = (weight - nearest).norm()
    for seed in range(20):
        g = torch.Generator().manual_seed(seed)
        other = nearest + 0.02 * torch.randn(3, 3, 3, generator=g)
        other = other * min(1.0, target / norm_bracket(other).upper)
        assert (weight - other).norm() > base * (1 - 5e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_cap_holds_in_the_weights_dtype(dtype):
    layer = nn.Conv2d(4, 4, 3).to(dtype)
    found = lorank.clip(layer, 0.3)
    assert found.model.weight.dtype == dtype
    assert norm_bracket(found.model.weight).upper <= 0.3 * (1 + 5e-3)
    assert norm_bracket(found.model.weight).lower <= 0.3
    assert found.layers[""].after <= 0.3


def test_layers_below_the_cap_are_left_alone():
    model = nn.Sequential(nn.Linear(4, 4), nn.Conv2d(2, 2, 3))
    found = lorank.clip(model, 100.0)
    assert all(layer.change == 0 and layer.rounds == 0 for layer in found.layers.values())
    for old, new in zip(model.parameters(), found.model.parameters(), strict=True):
        assert torch.equal(old, new) and old is not new


def test_a_table_names_layers_and_skip_leaves_some_out():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    assert list(lorank.clip(model, {"1": 0.1}).layers) == ["1"]
    assert list(lorank.clip(model, 0.1, skip=["0"]).layers) == ["1", "2"]
    assert torch.equal(lorank.clip(model, {"1": 0.1}).model[0].weight, model[0].weight)


def test_ties_stay_and_the_scores_are_told():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    found = lorank.clip(model, 0.1, evaluate=lambda m: m[1].weight.norm().item())
    assert found.model[0].weight is found.model[1].weight
    assert list(found.layers) == ["0"]
    assert found.before == pytest.approx(model[0].weight.norm().item())
    assert found.after < found.before


def test_zero_weights_stay_zero():
    layer = nn.Linear(3, 3)
    nn.init.zeros_(layer.weight)
    assert lorank.clip(layer, 0.1).layers[""].after <= 0.1


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: lorank.clip(nn.Linear(2, 2), 0.0), "finite and above zero, found 0.0"),
        (lambda: lorank.clip(nn.Linear(2, 2), -1.0), "finite and above zero, found -1.0"),
        (lambda: lorank.clip(nn.Linear(2, 2), math.nan), "finite and above zero, found nan"),
        (lambda: lorank.clip(nn.ReLU(), 1.0), "needs parameters"),
        (lambda: lorank.clip(nn.Sequential(nn.Linear(2, 2)), {"9": 1.0}), "unknown layer '9'"),
        (
            lambda: lorank.clip(nn.Sequential(nn.Embedding(2, 2)), 1.0, layers=["0"]),
            "clip takes linear layers and convolutions, and '0' is a Embedding",
        ),
        (
            lambda: lorank.clip(nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"), 1e-3),
            "layer '': no bound .* 'reflect'",
        ),
        (lambda: lorank.clip({}, 1.0), "found a dict"),
    ],
)
def test_bad_input(call, sentence):
    with pytest.raises(LorankError, match=sentence):
        call()


def test_nan_names_the_layer():
    layer = nn.Linear(2, 2)
    with torch.no_grad():
        layer.weight[0, 0] = math.nan
    with pytest.raises(LorankError, match=r"layer '0': .* 1 NaN or Inf"):
        lorank.clip(nn.Sequential(layer), 1.0)


def test_a_cyclic_layer_whose_stride_does_not_divide_the_image_is_capped():
    layer = nn.Conv2d(2, 2, 3, stride=2, padding=1, padding_mode="circular")
    with torch.no_grad():
        layer.weight.abs_()
    found = lorank.clip(layer, 0.3, tol=1e-2).model
    assert operator_norm(found, (1, 2, 5, 5)) <= 0.3 * (1 + 1e-5)
    polyphase = norm_bracket(found.weight, stride=2).upper
    assert operator_norm(found, (1, 2, 5, 5)) > polyphase  # its bound would not have held


def test_a_cyclic_layer_that_writes_pixels_twice_is_refused():
    layer = nn.Conv2d(1, 1, 3, padding=3, padding_mode="circular")
    with pytest.raises(LorankError, match=r"cyclically by .*more than half"):
        lorank.clip(layer, 0.3)


def test_layers_that_move_one_weight_differently_are_refused():
    model = nn.Sequential(nn.Conv2d(3, 3, 3, stride=3), nn.Conv2d(3, 3, 3))
    model[1].weight = model[0].weight
    with pytest.raises(LorankError, match="shares its weight with '1'"):
        lorank.clip(model, 0.1)


@pytest.mark.parametrize("cap", [0, -1.0, math.nan, math.inf, "x", None, True])
def test_caps_that_are_none(cap):
    with pytest.raises(LorankError, match=r"a cap .* is finite and above zero"):
        lorank.clip(nn.Linear(2, 2), cap)


def test_rounds_are_counted_from_zero_and_a_tied_embedding_alone_is_not_capped():
    with pytest.raises(LorankError, match="number of rounds"):
        lorank.clip(nn.Conv2d(2, 2, 3), 0.01, rounds=-1)
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5))
    model[1].weight = model[0].weight
    with pytest.raises(LorankError, match="has none that it may change"):
        lorank.clip(model, 0.1)
