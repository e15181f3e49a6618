"""A pair answers what a dense layer is asked: by the values, or without forming them."""

import copy

import pytest
import torch
from layer_kinds import CASES, KINDS, Conv1D
from torch import nn

import lorank
from lorank.errors import LorankError
from lorank.nn import Pair, SVDConv1D
from lorank.nn.pair import Product
from lorank.nn.surgery import svd_form
from tolerance import product


def pair_of(name, layout="auto", rank=1):
    dense = KINDS[name].layer()
    low = lorank.decompose(dense, {"": rank}, layout=layout)
    return dense, low, low.plain(True)


@pytest.mark.parametrize(("name", "layout"), CASES)
def test_its_weight_is_the_layers_weight(name, layout):
    dense, low, pair = pair_of(name, layout)
    assert pair.weight.shape == low.weight.shape == dense.weight.shape
    gap = torch.linalg.vector_norm(pair.weight - low.weight)
    assert gap <= product(4, torch.float64) * torch.linalg.vector_norm(low.weight)
    bias = getattr(dense, "bias", None)
    assert (pair.bias is None) == (bias is None)
    assert bias is None or torch.equal(pair.bias, bias)


@pytest.mark.parametrize("name", KINDS)
def test_it_has_the_layers_settings(name):
    dense, low, pair = pair_of(name)
    assert type(low).settings
    for setting in type(low).settings:
        if hasattr(dense, setting):
            want = getattr(dense, setting)
            expected = getattr(low, setting) if want == "valid" else want
            assert getattr(pair, setting) == expected, setting


def test_questions_form_no_product(monkeypatch):
    _, _, pair = pair_of("linear")
    monkeypatch.setattr(Pair, "product", None)  # would fail if it were called
    weight = pair.weight
    assert isinstance(weight, torch.Tensor) and isinstance(weight, Product)
    assert weight.dtype == torch.float64 and weight.device.type == "cpu"
    assert weight.shape == weight.size() == (5, 7) and weight.ndim == weight.dim() == 2
    assert weight.numel() == 35 and weight.is_floating_point() and not weight.is_cuda
    with pytest.raises(TypeError):
        weight + 1


def test_values_are_those_of_the_product_and_differentiable():
    _, _, pair = pair_of("linear")
    x = torch.randn(3, 7, dtype=torch.float64)
    out = nn.functional.linear(x, pair.weight)
    assert type(out) is torch.Tensor
    assert torch.equal(out, nn.functional.linear(x, pair[1].weight @ pair[0].weight))
    out.sum().backward()
    assert all(layer.weight.grad.abs().sum() > 0 for layer in pair)


def test_it_is_a_sequential_on_disk_and_when_copied():
    _, _, pair = pair_of("linear")
    assert isinstance(pair, nn.Sequential)
    assert list(pair.state_dict()) == ["0.weight", "1.weight", "1.bias"]
    again = copy.deepcopy(pair)
    assert again.in_features == 7 and torch.equal(again.weight + 0, pair.weight + 0)
    with pytest.raises(AttributeError, match="stride"):
        _ = pair.stride


class ReadsDtype(nn.Module):
    """What T5 does with its output layer."""

    def __init__(self):
        super().__init__()
        self.wo = nn.Linear(16, 16)

    def forward(self, x):
        return self.wo(x.to(self.wo.weight.dtype))


def test_models_that_read_a_weights_dtype_run_compile_and_export():
    low = lorank.fold(lorank.decompose(ReadsDtype(), {"wo": 3}))
    x = torch.randn(4, 16)
    want = low(x)
    assert torch.allclose(torch.compile(low, backend="eager", fullgraph=True)(x), want)
    program = torch.export.export(low, (x,))
    assert torch.allclose(program.module()(x), want)
    products = [n for n in program.graph.nodes if "matmul" in str(n.target)]
    assert not [n for n in products if n.users]
    assert low.half().wo.weight.dtype == torch.float16


def test_conv1d_is_known_by_its_full_name_alone():
    assert svd_form(Conv1D(4, 3)) is SVDConv1D
    namesake = type("Conv1D", (nn.Module,), {"__module__": "elsewhere.pytorch_utils"})
    assert svd_form(namesake()) is None


def test_conv1d_comes_back_as_itself_where_a_pair_does_not_pay():
    dense = nn.Sequential(Conv1D(6, 6))
    drawn = torch.get_rng_state()
    again = lorank.fold(lorank.decompose(dense))
    assert type(again[0]) is Conv1D and torch.equal(torch.get_rng_state(), drawn)
    gap = torch.linalg.vector_norm(again[0].weight - dense[0].weight)
    assert gap <= product(12, torch.float32) * torch.linalg.vector_norm(dense[0].weight)


def test_conv1d_of_a_subclass_that_runs_otherwise_stays():
    class Scaled(Conv1D):
        def forward(self, x):
            return 2 * super().forward(x)

    with pytest.raises(lorank.LorankError, match="runs in its own way"):
        lorank.decompose(Scaled(4, 3))


def test_a_conv1d_tied_to_a_linear_layer_stays_dense():
    linear, other = nn.Linear(4, 4), Conv1D(4, 4)
    other.weight = linear.weight
    with pytest.raises(lorank.LorankError, match="read the weight in different ways"):
        lorank.decompose(nn.Sequential(linear, other))


def test_writing_into_its_weight_is_refused():
    pair = lorank.fold(lorank.decompose(nn.Linear(8, 6), {"": 2}))
    before = [p.clone() for p in pair.parameters()]
    with torch.no_grad(), pytest.raises(LorankError, match="zero_ would not reach them"):
        pair.weight.zero_()
    with pytest.raises(LorankError, match="would not reach them"):
        nn.init.normal_(pair.weight)
    assert all(map(torch.equal, before, pair.parameters()))


def test_torchscript_runs_it():
    net = nn.Sequential(lorank.fold(lorank.decompose(nn.Linear(8, 6), {"": 2})))
    x = torch.ones(3, 8)
    torch.testing.assert_close(torch.jit.script(net)(x), net(x))
