"""Quaternion layers: the algebra they compute with, and the stages they go through."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lorank
import tolerance
from lorank.linalg.quaternion.algebra import qct, qmatmul
from lorank.linalg.quaternion.unfold import QuaternionUnfolding, real_kernel
from lorank.nn import QuaternionConv2d, QuaternionLinear, SVDQuaternionConv, SVDQuaternionLinear
from lorank.nn.quaternion import quaternion_linear

EPS = torch.finfo(torch.float64).eps


def hamilton(p, q):
    """Product of two quaternions, by Hamilton's rule i² = j² = k² = ijk = −1."""
    a, b, c, d = p
    e, f, g, h = q
    return torch.stack(
        [
            a * e - b * f - c * g - d * h,
            a * f + b * e + c * h - d * g,
            a * g - b * h + c * e + d * f,
            a * h + b * g - c * f + d * e,
        ]
    )


def small_net():
    return nn.Sequential(
        QuaternionConv2d(4, 16, 3, padding=1),
        nn.ReLU(),
        QuaternionConv2d(16, 16, 3, stride=2),
        nn.Flatten(),
        QuaternionLinear(16 * 9, 64),
        nn.ReLU(),
        nn.Linear(64, 5),
    ).double()


def test_linear_multiplies_quaternions_from_the_left():
    layer = QuaternionLinear(12, 8).double()
    nn.init.normal_(layer.bias)
    x = torch.randn(12, dtype=torch.float64)
    want = layer.bias.clone().view(4, 2)
    for out in range(2):
        for into in range(3):
            want[:, out] += hamilton(layer.weight[:, out, into], x.view(4, 3)[:, into])
    assert tolerance.distance(layer(x), want.flatten()) <= tolerance.product(16, x.dtype) * 100


def test_conv_multiplies_quaternions_at_every_tap():
    layer = QuaternionConv2d(8, 4, (2, 3), stride=(1, 2), dilation=(2, 1)).double()
    x = torch.randn(1, 8, 5, 7, dtype=torch.float64)
    got, parts = layer(x), x.view(4, 2, 5, 7)
    want = layer.bias.view(4, 1, 1).expand(4, 3, 3).clone()
    for into in range(2):
        for i in range(2):
            for j in range(3):
                seen = parts[:, into, 2 * i : 2 * i + 3, j : j + 5 : 2]
                want += hamilton(layer.weight[:, 0, into, i, j, None, None], seen)
    assert tolerance.distance(got[0], want) <= tolerance.product(48, x.dtype) * 100


def test_the_real_kernel_is_a_homomorphism():
    A, B = torch.randn(4, 3, 2, dtype=torch.float64), torch.randn(4, 2, 5, dtype=torch.float64)
    view = QuaternionUnfolding(3, 5)
    product = view.product(A, B)
    array = qmatmul(A.movedim(0, -1).contiguous(), B.movedim(0, -1).contiguous())
    allowed = tolerance.product(8, A.dtype) * float(A.norm() * B.norm())
    assert tolerance.distance(product, array.movedim(-1, 0)) <= allowed
    assert tolerance.distance(real_kernel(product), real_kernel(A) @ real_kernel(B)) <= 2 * allowed
    star = qct(A.movedim(0, -1).contiguous()).movedim(-1, 0)
    assert torch.equal(real_kernel(star), real_kernel(A).mT)


def test_a_quaternion_rank_is_four_real_ranks():
    layer = QuaternionLinear(24, 16, bias=False).double()
    values = torch.linalg.svdvals(layer.real_weight().detach())
    found = lorank.measure(layer)[""].values
    assert tolerance.distance(found.repeat_interleave(4), values) <= 100 * 40 * EPS * values[0]
    low = lorank.decompose(layer, {"": 2})
    assert torch.linalg.matrix_rank(real_kernel(low.weight.detach())) == 8
    real = torch.linalg.svdvals((real_kernel(low.weight) - layer.real_weight()).detach())
    assert torch.allclose(real[0], values[8], rtol=1e-10)  # Eckart and Young, spectral norm


def test_repeated_singular_values_are_cut_to_an_orthonormal_basis():
    """Where every second vector of the adjoint is no singular vector."""
    layer = QuaternionLinear(24, 24, bias=False).double()
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[2] = torch.eye(6)  # j times the identity: all values are one
    low = lorank.decompose(layer)
    for factor, gram in zip(low.sides(), ("left", "right"), strict=True):
        G = factor.mT @ factor if gram == "left" else factor @ factor.mT
        assert tolerance.distance(G, torch.eye(24).double()) <= 24 * tolerance.orthonormal(
            24, G.dtype
        )
    assert tolerance.distance(low.weight, layer.weight) <= 100 * 48 * EPS * 5
    assert lorank.penalty(low, orthogonality=1.0).item() < 1e-20


def test_init_keeps_the_size_of_signals():
    torch.manual_seed(0)
    layer = QuaternionLinear(1024, 1024)
    x = torch.randn(64, 1024)
    for criterion, gain in (("he", 2.0), ("glorot", 1.0)):
        layer.reset_parameters(criterion)
        # 65536 outputs, each the sum of 1024 terms: the share's standard error is below 1 %.
        assert layer(x).square().mean().item() == pytest.approx(gain, rel=0.03)
        parts = layer.weight.detach().flatten(1)
        share = parts.square().mean(1) / parts.square().mean()
        assert torch.allclose(share, torch.ones(4), atol=0.03)
    with pytest.raises(lorank.LorankError, match="unknown criterion 'xavier'"):
        layer.reset_parameters("xavier")


def test_the_stages_take_quaternion_networks(tmp_path):
    torch.manual_seed(0)
    net, x = small_net(), torch.randn(3, 4, 7, 7, dtype=torch.float64)
    spectra = lorank.measure(net, x)
    assert list(spectra) == ["0", "2", "4", "6"]
    full = lorank.decompose(net)
    kinds = [type(m) for m in (full[0], full[2], full[4])]
    assert kinds == [SVDQuaternionConv, SVDQuaternionConv, SVDQuaternionLinear]
    assert torch.allclose(full(x), net(x), rtol=1e-9, atol=1e-10)
    assert lorank.cost(net, x).macs == spectra.macs
    again = lorank.measure(full, x)
    for name, one in spectra.items():
        assert torch.allclose(again[name].values, one.values, atol=1e-9 * one.values.max())
        assert again[name].macs == one.macs

    ranks = {"0": 1, "2": 2, "4": 3}
    low = lorank.prune(full, ranks)
    direct = lorank.decompose(net, ranks, layout={n: spectra[n].layout for n in ranks})
    assert torch.allclose(low(x), direct(x), rtol=1e-8, atol=1e-9)
    folded = lorank.fold(low, example=x)
    assert torch.allclose(folded(x), low(x), rtol=1e-9, atol=1e-10)
    assert sum(p.numel() for p in folded.parameters()) == lorank.cost(low, x).params
    assert lorank.cost(folded, x).macs == lorank.cost(low, x).macs < lorank.cost(net, x).macs

    for name, model in (("low", low), ("folded", folded)):
        lorank.save(model, tmp_path / f"{name}.safetensors")
        other = lorank.load(tmp_path / f"{name}.safetensors", small_net())
        assert torch.equal(other(x), model(x))


def test_the_raw_cut_keeps_the_largest_entries():
    low = lorank.decompose(QuaternionLinear(24, 16).double())
    with torch.no_grad():
        low.S.copy_(torch.tensor([0.5, -3.0, 1.0, 2.0]))
    cut = lorank.prune(low, {"": 2}, by="raw")
    assert cut.S.tolist() == [3.0, 2.0]
    assert torch.equal(cut.U, low.U[..., [1, 3]]) and torch.equal(cut.Vh, low.Vh[:, [1, 3]])


def test_the_penalty_pulls_the_factors_back():
    torch.manual_seed(0)
    low = lorank.decompose(nn.Sequential(QuaternionLinear(16, 12)))
    with torch.no_grad():
        low[0].U += 0.2 * torch.randn_like(low[0].U)
        low[0].Vh += 0.2 * torch.randn_like(low[0].Vh)
    optimizer = torch.optim.SGD(low.parameters(), lr=0.5)
    start = lorank.penalty(low).item()
    for _ in range(200):
        optimizer.zero_grad()
        loss = lorank.penalty(low)
        loss.backward()
        optimizer.step()
    assert loss.item() < 1e-3 * start
    # The penalty is that of the quaternion Gram matrix, ‖U*U − I‖² / (4·r²) a side.
    array = low[0].U.detach().double().movedim(0, -1).contiguous()
    G = qmatmul(qct(array), array)
    G[..., 0] -= torch.eye(3)
    real = low[0].sides()[0].detach().double()
    defect = (real.mT @ real - torch.eye(12)).square().sum() / 12**2
    assert float(defect) == pytest.approx(float(G.square().sum()) / (4 * 3**2), rel=1e-6)


def test_quaternion_cut_beats_a_real_one_of_equal_size():
    """On a matrix that is a quaternion one of low rank, and noise: it knows the structure."""
    torch.manual_seed(0)
    A, B = torch.randn(4, 16, 2).double(), torch.randn(4, 2, 16).double()
    layer = QuaternionLinear(64, 64, bias=False).double()
    with torch.no_grad():
        layer.weight.copy_(QuaternionUnfolding(16, 16).product(A, B))
        layer.weight += 0.01 * torch.randn_like(layer.weight)
    real = nn.Linear(64, 64, bias=False).double()
    real.weight = nn.Parameter(layer.real_weight().detach())
    numbers = 4 * 2 * (16 + 16)
    assert numbers == 2 * (64 + 64)
    cuts = lorank.decompose(layer, {"": 2}), lorank.decompose(real, {"": 2})
    x = torch.randn(100, 64).double()
    want = layer(x)
    errors = [float((cut(x) - want).norm() / want.norm()) for cut in cuts]
    assert errors[0] < 0.05 < 0.5 < errors[1]


def test_calibration_leaves_quaternion_layers_alone():
    net = nn.Sequential(nn.Linear(8, 8), QuaternionLinear(8, 8))
    assert list(lorank.calibrate(net, [torch.randn(32, 8)])) == ["0"]
    with pytest.raises(lorank.LorankError, match="calibrate"):
        lorank.calibrate(net[1:], [torch.randn(32, 8)])


def test_tied_quaternion_layers_stay_tied():
    layer = QuaternionLinear(8, 8)
    net = lorank.fold(lorank.decompose(nn.ModuleList([layer, layer]), {"0": 1}))
    assert net[0] is net[1]
    other = copy.deepcopy(layer)
    other.weight = layer.weight
    low = lorank.decompose(nn.ModuleList([layer, other]), {"0": 1})
    assert low[0].U is low[1].U


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: QuaternionLinear(6, 8), "come in fours, found 6"),
        (lambda: QuaternionLinear(8, 0), "come in fours, found 0"),
        (lambda: QuaternionLinear(8, 8.0), "come in fours, found 8.0"),
        (lambda: QuaternionConv2d(3, 8, 3), "come in fours, found 3"),
        (lambda: QuaternionConv2d(4, 8, 0), "kernel_size is a whole number of at least 1"),
        (lambda: QuaternionConv2d(4, 8, 3.0), "kernel_size is .* found 3.0"),
        (lambda: QuaternionConv2d(4, 8, (3, 3, 3)), "kernel_size is .* found .3, 3, 3."),
        (lambda: QuaternionConv2d(4, 8, 3, padding=-1), "padding is .* found -1"),
        (lambda: QuaternionConv2d(4, 8, 3, 2, "same"), "'same' at stride 1"),
        (lambda: QuaternionConv2d(4, 8, 3, padding_mode="mirror"), "padding_mode is one of"),
        (lambda: quaternion_linear(nn.Parameter(torch.ones(3, 2, 2)), None), "found shape"),
    ],
)
def test_bad_sizes_are_refused_in_one_sentence(make, said):
    with pytest.raises(lorank.LorankError, match=said):
        make()


def test_not_finite_weights_are_named():
    net = nn.Sequential(QuaternionLinear(8, 8))
    with torch.no_grad():
        net[0].weight[0, 0, 0] = math.nan
    with pytest.raises(lorank.LorankError, match=r"layer '0': .*found 1 NaN or Inf"):
        lorank.decompose(net)


def test_it_trains_like_its_real_counterpart():
    """One step of gradient descent on the parts is the projected step on the real matrix."""
    layer = QuaternionLinear(8, 8).double()
    x, target = torch.randn(16, 8).double(), torch.randn(16, 8).double()
    F.mse_loss(layer(x), target).backward()
    real = layer.real_weight().detach().requires_grad_()
    F.mse_loss(F.linear(x, real, layer.bias.detach()), target).backward()
    blocks = real.grad.view(4, 2, 4, 2)
    first = blocks[0, :, 0] + blocks[1, :, 1] + blocks[2, :, 2] + blocks[3, :, 3]
    assert torch.allclose(layer.weight.grad[0], first, rtol=1e-10)
