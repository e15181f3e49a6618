"""Convolutions as operators, against the operator written out as a matrix."""

import math
import os
from pathlib import Path

import pytest
import torch
from torch import nn

import lorank
from lorank.compression.operator import operators, quantiles
from lorank.compression.operator_cut import cut_errors
from lorank.errors import LorankError
from lorank.zoo import load_model
from tolerance import backward, eps

LAYERS = {
    "plain": nn.Conv2d(3, 4, 3, padding=1),
    "strided": nn.Conv2d(3, 4, 3, stride=2, padding=1),
    "no border": nn.Conv2d(2, 5, (2, 3)),
    "even, same": nn.Conv2d(2, 2, 4, padding="same"),
    "dilated groups": nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=2),
    "cyclic": nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"),
    "cyclic, cut short": nn.Conv2d(2, 3, 3, stride=2, padding=1, padding_mode="circular"),
    "one axis": nn.Conv1d(3, 2, 5, padding=2),
    "transposed": nn.ConvTranspose2d(4, 3, 3, stride=2, padding=1, output_padding=1),
    "1×1": nn.Conv2d(3, 4, 1),
    "zero": nn.Conv2d(2, 2, 3, padding=1),
}
nn.init.zeros_(LAYERS["zero"].weight)


def matrix(layer, size):
    """The layer as a matrix, by its derivative, whatever it is made of."""
    x = torch.zeros(1, layer.in_channels, *size, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(layer.double(), x)
    return jacobian.reshape(-1, x.numel())


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_the_operator_that_it_is(name):
    layer = LAYERS[name].double()
    size = (7, 5)[: len(layer.kernel_size)]
    T = matrix(layer, size)
    values = torch.linalg.svdvals(T)
    x = torch.zeros(2, layer.in_channels, *size, dtype=torch.float64)
    found = operators(nn.Sequential(layer), x)["0"]
    assert found.size == size and found.kind == "exact"
    near = backward(*T.shape, torch.float64) * (float(values[0]) or 1)
    assert found.values == len(values)
    assert torch.allclose(torch.tensor(found.quantiles), torch.tensor(quantiles(values)), atol=near)
    assert values[0] <= found.upper
    assert found.lower <= found.upper <= max(found.lower * 1.01, 1e-30)
    layer_norm = math.prod(layer.kernel_size) ** 0.5 * found.reshaped_norm
    assert found.lower <= layer_norm * (1 + eps(torch.float32))
    if found.upper > 0:
        energy = found.stable_rank * found.upper**2 * positions(layer, size)
        assert energy == pytest.approx(float(values.square().sum()), rel=1e-9)


def positions(layer, size):
    if layer.transposed:
        return math.prod(size)
    return math.prod(layer(torch.zeros(1, layer.in_channels, *size).double()).shape[2:])


def test_the_norm_is_reached_on_large_images_and_the_reshaped_one_is_too_small():
    layer = nn.Conv2d(3, 4, 3, padding=1).double()
    found = operators(nn.Sequential(layer), torch.zeros(1, 3, 8, 8).double())["0"]
    large = torch.linalg.matrix_norm(matrix(layer, (20, 20)), 2)
    assert 0.97 * found.lower < large <= found.upper
    assert found.reshaped_norm < 0.9 * large


def test_a_wide_stride_is_not_bounded_by_its_polyphase_kernel_on_a_short_cycle():
    """The reason for the exception in ``Kernel.bracket``: √6 on a cycle of 3, √5 by the symbol."""
    layer = nn.Conv1d(1, 1, 3, stride=2, padding=1, padding_mode="circular")
    nn.init.ones_(layer.weight)
    short = operators(nn.Sequential(layer), torch.zeros(1, 1, 3))["0"]
    even = operators(nn.Sequential(layer), torch.zeros(1, 1, 4))["0"]
    assert max(short.quantiles) == pytest.approx(6**0.5) and short.upper >= 6**0.5
    assert even.upper == pytest.approx(5**0.5, rel=0.01)


def test_forms_of_a_layer_have_one_operator():
    dense = nn.Sequential(nn.Conv2d(6, 8, 3, padding=1)).double()
    low = lorank.decompose(dense, {"0": 2})
    x = torch.zeros(1, 6, 6, 6, dtype=torch.float64)
    rebuilt = nn.Sequential(low[0].dense(nn.Parameter(low[0].weight.detach())))
    a, b = operators(low, x)["0"], operators(rebuilt, x)["0"]
    assert a.upper == pytest.approx(b.upper, rel=0.01)
    assert a.quantiles == pytest.approx(b.quantiles, abs=1e-10)


def test_the_largest_image_of_several_calls_counts_and_others_are_skipped_with_a_reason():
    class Own(nn.Conv2d):
        def forward(self, x):
            return 2 * super().forward(x)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 3, padding=1)
            self.idle = nn.Conv2d(2, 2, 3)
            self.own = Own(2, 2, 1)
            self.mirror = nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect")

        def forward(self, x):
            small = self.conv(x[..., ::2, ::2])
            return small.sum() + self.mirror(self.own(self.conv(x))).sum()

    found = operators(Net(), torch.zeros(1, 2, 8, 6))
    assert list(found) == ["conv"] and found["conv"].size == (8, 6)
    assert "does not reach" in found.skipped["idle"]
    assert "its own way" in found.skipped["own"]
    assert "'reflect'" in found.skipped["mirror"]


def test_a_cut_is_judged_by_the_operator():
    layer = nn.Conv2d(6, 5, 3, padding=1).double()
    model = nn.Sequential(layer)
    x = torch.zeros(1, 6, 9, 9, dtype=torch.float64)
    found = cut_errors(model, {"0": 3}, x, layout="channel")["0"]
    low = lorank.decompose(model, {"0": 3}, layout="channel")
    rest = nn.Conv2d(6, 5, 3, padding=1).double()
    rest.weight.data = layer.weight.detach() - low[0].weight.detach()
    T, D = matrix(layer, (9, 9)), matrix(rest, (9, 9))
    assert found.frobenius == pytest.approx(float(D.norm() / T.norm()), rel=1e-9)
    values = torch.linalg.svdvals(layer.weight.detach().flatten(1))
    assert found.predicted_norm == pytest.approx(float(values[3] / values[0]))
    # The symbol on a grid of 64 angles is within 1/cos²(π/64) of its largest norm (D = 1).
    tops = [torch.linalg.svdvals(symbols(k))[..., 0].max() for k in (rest.weight, layer.weight)]
    near = 1 / math.cos(math.pi / 64) ** 2
    assert found.norm[0] / near <= float(tops[0] / tops[1]) <= found.norm[1] * near
    assert found.norm[1] <= found.norm[0] * 1.01**2 * (1 + 1e-9)
    low_found = cut_errors(lorank.decompose(model, layout="channel"), {"0": 3}, x)["0"]
    assert low_found.norm == pytest.approx(found.norm, rel=0.02)


def symbols(weight, n=64):
    """Symbols at the frequencies of a discrete Fourier transform, (n, n, out, in)."""
    return torch.fft.fft2(weight.detach(), s=(n, n)).permute(2, 3, 0, 1)


def test_full_rank_leaves_nothing_and_other_layers_are_left_out():
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(12, 2)).double()
    x = torch.zeros(1, 2, 4, 4, dtype=torch.float64)
    found = cut_errors(model, {"0": 3, "2": 1}, x, layout="channel")
    assert list(found) == ["0"] and found["0"].predicted_norm == 0
    assert found["0"].norm[1] < 1e-12 and found["0"].frobenius < 1e-12


def test_the_matrix_misjudges_cuts_of_a_trained_network():
    """By more than a third on some layer, in both directions; Frobenius errors agree."""
    folder = os.environ.get("LORANK_DATA", Path(__file__).resolve().parents[3] / "shared" / "data")
    weights = Path(folder) / "resnet_cifar10" / "resnet20.safetensors"
    if not weights.exists():
        pytest.skip("no trained ResNet-20: set LORANK_DATA to the folder of the shared data")
    model = load_model("resnet20", weights=weights).eval()
    x = torch.zeros(1, 3, 32, 32)
    ranks = lorank.ranks.energy(lorank.measure(model, layout="channel"), 0.9)
    found = cut_errors(model, ranks, x, layout="channel").values()
    ratios = [cut.predicted_norm / cut.norm[0] for cut in found]
    assert max(max(ratios), 1 / min(ratios)) > 4 / 3
    assert all(cut.frobenius == pytest.approx(cut.predicted_frobenius, rel=0.1) for cut in found)


@pytest.mark.parametrize(
    ("model", "ranks", "says"),
    [
        (nn.Sequential(nn.Linear(4, 4)), {}, "has none"),
        (nn.Sequential(nn.Conv2d(4, 4, 3)), {"1": 1}, "unknown layer '1'"),
        (nn.Sequential(nn.Conv2d(4, 4, 3)), {"0": 0}, "'0': a rank must be"),
        (nn.Sequential(nn.LazyConv2d(4, 3)), {"0": 1}, "lazy"),
    ],
)
def test_bad_input_of_a_cut(model, ranks, says):
    with pytest.raises(LorankError, match=says):
        cut_errors(model, ranks, torch.zeros(1, 4, 6, 6))


def test_bad_input_of_operators():
    with pytest.raises(LorankError, match="run on the example"):
        operators(nn.Sequential(nn.Conv2d(4, 4, 3)), torch.zeros(1, 3, 6, 6))
    with pytest.raises(LorankError, match="unknown layer"):
        operators(nn.Sequential(nn.Conv2d(4, 4, 3)), torch.zeros(1, 4, 6, 6), layers=["9"])
    broken = nn.Sequential(nn.Conv2d(4, 4, 3))
    broken[0].weight.data[0] = math.nan
    with pytest.raises(LorankError, match=r"layer '0'.*NaN"):
        operators(broken, torch.zeros(1, 4, 6, 6))
