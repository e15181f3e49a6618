"""The certificate holds: against closed forms, random pairs and pairs that were searched for."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lorank
from lorank.compression.lipschitz import lipschitz
from lorank.compression.lipschitz_rules import LAYERS, RULES, SLOPES
from lorank.errors import LorankError
from lorank.zoo.resnet import CifarResNet
from tolerance import eps


def batch_norms_trained(model):
    """Give every BatchNorm statistics and weights as of a trained network."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.running_var, 0.3, 2.0)
            nn.init.normal_(module.running_mean)
            nn.init.normal_(module.weight)
    return model.double().eval()


def searched_gain(model, x, steps=30):
    """The largest gain between two inputs that gradient ascent finds."""
    delta = 1e-3 * torch.randn_like(x)
    best = 0.0
    for _ in range(steps):
        delta = delta.detach().requires_grad_()
        gain = (model(x + delta) - model(x)).norm() / delta.norm()
        best = max(best, gain.item())
        (slope,) = torch.autograd.grad(gain.log(), delta)
        delta = delta + 0.3 * delta.norm() * slope / slope.norm()
    return best


class Dense(nn.Module):
    """Joins, scales, shifts and averages, as many networks do between their layers."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(2, 3, 3, padding=1, groups=1)
        self.second = nn.Conv2d(5, 4, 3, padding=2, dilation=2)
        self.bn = nn.BatchNorm2d(4)
        self.up = nn.ConvTranspose2d(4, 2, 3, stride=2, groups=2)
        self.norm = nn.BatchNorm2d(2)
        self.scale = nn.Parameter(torch.tensor([[[0.5]], [[-3.0]]]))
        self.out = nn.Linear(2, 3)

    def forward(self, x):
        x = torch.cat([x, F.leaky_relu(self.first(x), -1.5)], 1)
        x = F.elu(self.bn(self.second(x)), alpha=2.0)
        x = 2 * self.norm(self.up(x)) - 0.25
        x = F.max_pool2d(x * self.scale, 3, stride=2, padding=1)
        x = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        return self.out(x.flatten(2).sum(2) / x.size(2))


NETWORKS = {
    "resnet, option A": (lambda: CifarResNet(8, width=4), (2, 3, 16, 16)),
    "resnet, option B": (lambda: CifarResNet(8, width=4, shortcut="B"), (1, 3, 16, 16)),
    "joins and pools": (Dense, (1, 2, 9, 8)),
    "in place": (
        lambda: nn.Sequential(nn.Linear(6, 5), nn.ELU(2.0, inplace=True), nn.BatchNorm1d(5)),
        (3, 6),
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_no_pair_beats_the_certificate(name):
    make, shape = NETWORKS[name]
    model = batch_norms_trained(make())
    x = torch.randn(shape, dtype=torch.float64)
    constant = lipschitz(model, x).constant
    pairs = [searched_gain(model, x)]
    for _ in range(10):
        a, b = torch.randn(2, *shape, dtype=torch.float64)
        pairs.append(((model(a) - model(b)).norm() / (a - b).norm()).item())
    assert max(pairs) <= constant
    assert max(pairs) > constant / 1e6  # the pairs do see the network


def test_a_linear_network_is_certified_to_its_norm():
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(12, 6), nn.BatchNorm1d(6), nn.Identity(), nn.Dropout()
    )
    model = batch_norms_trained(model)
    x = torch.zeros(1, 3, 4, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(model, x).reshape(6, 12)
    norm = torch.linalg.matrix_norm(jacobian, 2).item()
    assert norm <= lipschitz(model, x).constant <= norm * (1 + 1000 * eps(torch.float64))


def test_a_batch_norm_is_folded_before_its_convolution_is_bounded():
    """Channels that the kernel enlarges and the BatchNorm reduces cancel."""
    conv, bn = nn.Conv2d(2, 2, 1, bias=False), nn.BatchNorm2d(2)
    with torch.no_grad():
        conv.weight.copy_(torch.diag(torch.tensor([100.0, 0.01]))[..., None, None])
        bn.weight.copy_(torch.tensor([0.01, 100.0]) * math.sqrt(1 + bn.eps))
    found = lipschitz(nn.Sequential(conv, bn), torch.zeros(1, 2, 4, 4))
    assert found.constant == pytest.approx(1, rel=1e-5)
    assert [step.operation for step in found.steps] == ["Conv2d + BatchNorm2d"]
    apart = nn.Sequential(conv, nn.ReLU(), bn)
    assert lipschitz(apart, torch.zeros(1, 2, 4, 4)).constant > 1e3


def test_a_residual_block_is_one_plus_its_branch():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1, bias=False)

        def forward(self, x):
            return x + F.relu(self.conv(x))

    block = Block()
    branch = torch.linalg.matrix_norm(block.conv.weight.flatten(1).double(), 2).item()
    found = lipschitz(block, torch.zeros(1, 3, 4, 4)).constant
    assert found == pytest.approx(1 + branch, rel=1e-4)


def test_forms_of_one_network_have_one_certificate():
    dense = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(96, 8))
    low = lorank.decompose(dense, {"0": 2, "3": 3}).double()
    x = torch.zeros(1, 4, 4, 4, dtype=torch.float64)
    found = lipschitz(low, x).constant
    assert lipschitz(lorank.fold(low), x).constant == pytest.approx(found, rel=1e-2)
    assert found != pytest.approx(lipschitz(dense.double(), x).constant, rel=1e-3)


@pytest.mark.parametrize("name", [n for n in SLOPES if hasattr(F, n) and n not in ("relu_",)])
def test_slopes_are_the_largest(name):
    """A slope is neither too small nor loose by more than a thousandth.

    Some of torch's own derivatives hold constants in float32.
    """
    function = getattr(F, name)
    x = torch.linspace(-8, 8, 160_001, dtype=torch.float64, requires_grad=True)
    if name == "softmax":
        y = torch.autograd.functional.jacobian(lambda z: F.softmax(z, 0), torch.zeros(2).double())
        largest = torch.linalg.matrix_norm(y, 2).item()
    else:
        slope = torch.autograd.grad(function(x).sum(), x)[0]
        largest = slope.abs().max().item()
    assert largest <= SLOPES[name] * (1 + eps(torch.float32)) <= largest * 1.001


@pytest.mark.parametrize(
    ("pool", "size"),
    [
        (nn.MaxPool2d(2), 8),
        (nn.MaxPool2d(3, 2, 1), 9),
        (nn.MaxPool2d(3, 1, 1), 6),
        (nn.MaxPool2d(2, 1, dilation=2), 7),
        (nn.AvgPool2d(2), 8),
        (nn.AvgPool2d(3, 2, 1), 9),
        (nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False), 8),
        (nn.AdaptiveAvgPool2d((3, 1)), 7),
        (nn.AdaptiveMaxPool2d(3), 7),
    ],
    ids=repr,
)
def test_pools_have_their_exact_constant(pool, size):
    """Averages against the matrix's norm; maxima are reached by a change of one shared pixel."""
    x = torch.zeros(1, 1, size, size, dtype=torch.float64)
    found = lipschitz(pool, x).constant
    if "Max" in type(pool).__name__:
        units = torch.eye(size * size, dtype=torch.float64).reshape(-1, 1, size, size)
        exact = pool(units).flatten(1).norm(dim=1).max().item()
    else:
        jacobian = torch.autograd.functional.jacobian(pool, x)
        exact = torch.linalg.matrix_norm(jacobian.reshape(-1, size * size), 2).item()
    assert found == pytest.approx(exact, rel=1000 * eps(torch.float64))


def test_a_wide_cyclic_layer_is_refused_and_its_norm_would_be_wrong():
    """Padding beyond the kernel's reach writes pixels twice; half of it is certified."""
    twice = nn.Sequential(nn.Conv2d(1, 1, 3, padding=3, padding_mode="circular"))
    with pytest.raises(LorankError, match=r"'0'.*cyclically"):
        lipschitz(twice, torch.zeros(1, 1, 4, 4))
    once = nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular", stride=2, bias=False)
    nn.init.ones_(once.weight)
    flat = torch.autograd.functional.jacobian(once, torch.zeros(1, 1, 3, 3)).reshape(-1, 9)
    found = lipschitz(once, torch.zeros(1, 1, 3, 3)).constant
    strided = lipschitz(nn.Conv2d(1, 1, 3, stride=2).requires_grad_(False), torch.zeros(1, 1, 4, 4))
    assert torch.linalg.matrix_norm(flat, 2) <= found
    assert strided.constant > 0


class Attends(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(4, 4)

    def forward(self, x):
        return x * self.gate(x)


class Branches(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    ("model", "shape", "says"),
    [
        (nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)), (2, 4), "layer '1'"),
        (Attends(), (2, 4), "'mul'.*depend on the input"),
        (
            nn.Sequential(nn.Conv1d(2, 2, 3, padding=1, padding_mode="reflect")),
            (1, 2, 8),
            "reflect",
        ),
        (nn.Sequential(nn.BatchNorm1d(4, track_running_stats=False)), (2, 4), "batch's own"),
        (Branches(), (2, 4), "trace"),
        (nn.Sequential(nn.Linear(4, 4)), (2, 5), "run on the example"),
        (nn.Sequential(nn.Upsample(scale_factor=2)), (1, 1, 4, 4), "layer '0'"),
    ],
)
def test_what_is_not_known_is_refused_by_name(model, shape, says):
    with pytest.raises(LorankError, match=says):
        lipschitz(model, torch.zeros(shape))


def test_hooks_are_refused():
    model = nn.Sequential(nn.Linear(4, 4))
    model[0].register_forward_hook(lambda *_: None)
    with pytest.raises(LorankError, match="hooks"):
        lipschitz(model, torch.zeros(2, 4))


def test_hooks_of_layers_without_weights_and_of_the_network_are_refused():
    for at in ("1", ""):
        model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        model.get_submodule(at).register_forward_hook(lambda m, i, out: 10 * out)
        with pytest.raises(LorankError, match="hooks"):
            lipschitz(model, torch.zeros(2, 4))


class Does(nn.Module):
    """A network of one function."""

    def __init__(self, function, layer=None):
        super().__init__()
        self.function, self.layer = function, layer

    def forward(self, x):
        return self.function(self.layer, x)


def written_through_a_view(_, x):
    whole = x * 1.0
    whole.flatten(1).mul_(5)
    return whole


def written_twice(_, x):
    first = x * 1.0
    first.relu_().mul_(5)
    return first


def written_in_part(_, x):
    whole = x * 1.0
    whole.chunk(2, 1)[0].mul_(9)
    return whole


def written_before_its_norm(layer, x):
    y = layer[0](x)
    y.mul_(10)
    return layer[1](y)


ODD_WAYS = {
    "attribute": Does(lambda _, x: x.mT),
    "data": Does(lambda _, x: 3 * x.data),
    "axis": Does(lambda _, x: x.mean(axis=1)),
    "no axes": Does(lambda _, x: x.sum(dim=[])),
    "layer by name": Does(lambda layer, x: layer(input=x), nn.ReLU()),
    "given twice": Does(lambda _, x: (x, x, x)),
    "view": Does(written_through_a_view),
    "twice": Does(written_twice),
    "part": Does(written_in_part),
    "between": Does(written_before_its_norm, nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))),
}


@pytest.mark.parametrize("name", ODD_WAYS)
def test_odd_ways_to_write_a_network_do_not_hide_its_gain(name):
    model = ODD_WAYS[name].double().eval()
    x = torch.rand(2, 4, 3, 3, dtype=torch.float64)

    def whole(x):
        y = model(x.clone())
        return torch.cat([part.flatten() for part in y]) if isinstance(y, tuple) else y.flatten()

    with torch.no_grad():
        units = torch.eye(x.numel(), dtype=x.dtype).reshape(-1, *x.shape)
        J = torch.stack([(whole(x + 1e-3 * u) - whole(x)) / 1e-3 for u in units], dim=1)
    seen = torch.linalg.matrix_norm(J, 2).item()
    assert 0 < seen <= lipschitz(model, x).constant * (1 + 1e-9)


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda x: torch.clamp(x, min=5 * x), "besides the first"),
        (lambda x: torch.div(x, 3.0, rounding_mode="floor"), "rounds"),
        (lambda x: torch.mul(x, 9.0, out=x * 1.0), "was there before"),
        (lambda x: F.softplus(x, 1.0, -3.0), "threshold"),
        (lambda x: F.celu(x, -0.2), "alpha"),
        (lambda x: x * math.nan, "not finite"),
    ],
)
def test_arguments_that_take_the_constant_away(function, says):
    with pytest.raises(LorankError, match=says):
        lipschitz(Does(lambda _, x: function(x)), torch.rand(2, 3))


def test_a_slope_that_is_no_number_is_refused():
    with pytest.raises(LorankError, match="not finite"):
        lipschitz(nn.Sequential(nn.PReLU(1, math.nan)), torch.rand(2, 3))


def test_a_layer_that_runs_in_its_own_way_is_not_taken_for_torchs():
    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    with pytest.raises(LorankError, match="linear"):
        lipschitz(nn.Sequential(Doubled(4, 4)), torch.zeros(2, 4))


def test_every_layer_of_the_table_has_a_rule():
    assert set(LAYERS.values()) <= set(RULES)


def test_the_model_keeps_its_modes():
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout()).train()
    model[1].eval()
    lipschitz(model, torch.zeros(2, 4))
    assert [m.training for m in model] == [True, False]
