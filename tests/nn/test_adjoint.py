"""The transpose of a layer: ⟨W·x, y⟩ = ⟨x, Wᵀ·y⟩ for every kind of layer and layout."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import lorank
import tolerance
from lorank.errors import LorankError
from lorank.nn import Tap
from lorank.nn.adjoint import has_transpose, transpose_apply
from nn.layer_kinds import CASES, KINDS

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")


def obstacle(name):
    """Why a kind has no transpose here."""
    layer = KINDS[name].make()
    if isinstance(layer, nn.Embedding):
        return "transpose"
    if getattr(layer, "padding_mode", "zeros") != "zeros":
        return "zero padding"
    return "maps" if "unbatched" in name else None


def without_bias(layer):
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def assert_adjoint(layer, x):
    """Both inner products, up to rounding of sums of products of these sizes."""
    size = x.shape[2:] if x.ndim > 2 and not isinstance(layer, nn.Linear) else None
    with torch.no_grad():
        Wx = layer(x)
        y = torch.randn_like(Wx)
        back = transpose_apply(layer, y, size)
    assert back.shape == x.shape
    left, right = (Wx * y).sum(), (x * back).sum()
    allowed = tolerance.product(x.numel() + y.numel(), x.dtype)
    assert abs(left - right) <= allowed * (Wx.norm() * y.norm() + x.norm() * back.norm())


@pytest.mark.parametrize(("name", "layout"), [c for c in CASES if not obstacle(c[0])])
def test_adjoint(name, layout):
    dense = without_bias(KINDS[name].layer())
    x = KINDS[name].x()
    low = lorank.decompose(dense, layers=[""], layout=layout)
    assert has_transpose(dense) and has_transpose(low)
    assert_adjoint(dense, x)
    for low.contraction in ("rebuild", "thin"):
        assert_adjoint(low, x)
        if "1-D" in name:
            continue
        low.zero_grad()  # with gradients for what is trained
        y = torch.randn_like(low(x))
        transpose_apply(low, y, x.shape[2:] if "conv" in name else None).sum().backward()
        assert min(p.grad.abs().sum() for p in (low.U, low.S, low.Vh)) > 0


@pytest.mark.parametrize("name", [name for name in KINDS if obstacle(name)])
def test_what_has_no_transpose(name):
    layer, x = KINDS[name].layer(), KINDS[name].x()
    y = layer(x).detach()
    for one in (layer, lorank.decompose(layer, layers=[""])):
        with pytest.raises(LorankError, match=obstacle(name)):
            transpose_apply(one, y, x.shape[-2:])


def test_the_transpose_is_not_the_layer():
    layer = nn.Linear(4, 4, bias=False)
    x = torch.randn(3, 4)
    assert not torch.allclose(transpose_apply(layer, x), layer(x), atol=1e-2)


def test_pairs():
    dense = without_bias(nn.Linear(30, 20).double())
    pair = lorank.fold(lorank.decompose(dense, {"": 4}))
    assert isinstance(pair, lorank.nn.Pair)
    assert_adjoint(pair, torch.randn(3, 30, dtype=torch.float64))
    conv = without_bias(nn.Conv2d(12, 16, 3, stride=2, padding=1).double())
    pair = lorank.fold(lorank.decompose(conv, {"": 3}))
    assert isinstance(pair, lorank.nn.Pair)
    assert_adjoint(pair, torch.randn(2, 12, 8, 9, dtype=torch.float64))


def test_low_rank_cost():
    low = lorank.decompose(nn.Linear(300, 200), {"": 5})
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        transpose_apply(low, torch.ones(7, 200))
    assert counter.get_total_flops() == 2 * 7 * 5 * (300 + 200)


def test_the_smallest_map_is_the_default():
    conv = without_bias(nn.Conv2d(3, 4, 3, stride=2).double())
    assert_adjoint(conv, torch.randn(2, 3, 7, 9, dtype=torch.float64))
    y = torch.ones(1, 4, 3, 4, dtype=torch.float64)
    assert transpose_apply(conv, y).shape == (1, 3, 7, 9)
    assert transpose_apply(conv, y, (8, 10)).shape == (1, 3, 8, 10)
    with pytest.raises(LorankError, match=r"size \(9, 9\) does not give one of size \(3, 4\)"):
        transpose_apply(conv, y, (9, 9))


def test_bad_input():
    with pytest.raises(LorankError, match="rows of 4 outputs"):
        transpose_apply(nn.Linear(3, 4), torch.ones(2, 3))
    with pytest.raises(LorankError, match="linear layer or a convolution, found ReLU"):
        transpose_apply(nn.ReLU(), torch.ones(2, 3))
    with pytest.raises(LorankError, match="no transpose of SVDEmbedding"):
        transpose_apply(lorank.decompose(nn.Embedding(5, 3), layers=[""]), torch.ones(2, 3))


def test_the_way_back_fires_no_hooks():
    """A tap on a folded layer keeps what the network gave."""
    pair = lorank.fold(lorank.decompose(nn.Conv2d(12, 16, 3), {"": 3}))
    with Tap(pair, "0") as tap:
        y = pair(torch.randn(2, 12, 8, 8))
        before = tap["0"]
        transpose_apply(pair, y, (8, 8))
    assert tap["0"] is before
