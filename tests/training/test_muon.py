import math

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import lorank
from lorank.errors import LorankError
from lorank.training.muon import COEFFICIENTS, TURNS, Muon, orthogonal
from lorank.training.optimizers import make_optimizer, matrices, rate, set_rate
from lorank.training.recipe import Optimizer
from tolerance import backward

GROWN = COEFFICIENTS[0] ** TURNS
"""What the quintic makes of an error in a small singular value, at most."""


def quintic(values):
    """What five turns make of singular values, one by one."""
    a, b, c = COEFFICIENTS
    for _ in range(TURNS):
        values = a * values + b * values**3 + c * values**5
    return values


def known(m, n, values, seed=0):
    """A matrix of known singular values, with its vectors."""
    g = torch.Generator().manual_seed(seed)
    U, V = (
        torch.linalg.qr(torch.randn(k, len(values), generator=g, dtype=torch.float64))[0]
        for k in (m, n)
    )
    return U, torch.tensor(values, dtype=torch.float64), V.mT


@pytest.mark.parametrize(("m", "n"), [(6, 6), (9, 4), (4, 9)])
def test_the_iteration_keeps_vectors_and_takes_each_value_through_the_quintic(m, n):
    U, s, Vh = known(m, n, [3.0, 1.0, 0.2, 0.03])
    wanted = (U * quintic(s / torch.linalg.vector_norm(s))) @ Vh
    found = orthogonal((U * s) @ Vh)
    atol = backward(m, n, found.dtype) * GROWN
    torch.testing.assert_close(found, wanted, rtol=0, atol=atol)


def test_values_above_two_thousandths_come_near_one_and_zero_stays():
    found = quintic(torch.logspace(math.log10(0.002), 0, 2000, dtype=torch.float64))
    assert found.min() > 0.68
    assert found.max() < 1.21
    assert quintic(torch.tensor(0.001)) < 0.68
    assert not orthogonal(torch.zeros(3, 5)).any()
    G = torch.randn(3, 5)  # in float32, where the squares of 1e-30 are zero
    atol = backward(3, 5, G.dtype) * GROWN
    torch.testing.assert_close(orthogonal(1e-30 * G), orthogonal(G), rtol=0, atol=atol)


def test_a_stack_is_its_matrices_one_by_one():
    stack = torch.randn(3, 5, 4, dtype=torch.float64)
    one_by_one = torch.stack([orthogonal(matrix) for matrix in stack])
    torch.testing.assert_close(orthogonal(stack), one_by_one)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_a_step_changes_a_matrix_by_its_share_whatever_the_scales(scale):
    torch.manual_seed(0)
    weight = nn.Parameter(scale * torch.randn(6, 4, dtype=torch.float64))
    before = weight.detach().clone()
    weight.grad = torch.randn(6, 4, dtype=torch.float64) / scale
    gradient = weight.grad.clone()
    Muon([weight], lr=0.03).step()
    change = before - weight.detach()
    assert torch.linalg.norm(change) == pytest.approx(0.03 * float(torch.linalg.norm(before)))
    U, _, Vh = torch.linalg.svd(gradient, full_matrices=False)
    aligned = (U.mT @ change @ Vh.mT).diagonal()
    assert (aligned > 0).all()  # down along every singular direction, by nearly the same
    assert aligned.max() < 2 * aligned.min()


def test_momentum_is_nesterovs():
    torch.manual_seed(0)
    weight, vector = (nn.Parameter(torch.randn(s, dtype=torch.float64)) for s in ((4, 3), (5,)))
    optimizer = Muon(
        [{"params": [weight]}, {"params": [vector], "matrices": 0}], lr=0.1, momentum=0.8
    )
    rival = nn.Parameter(vector.detach().clone())
    sgd = torch.optim.SGD([rival], lr=0.1, momentum=0.8, nesterov=True)
    buffer = torch.zeros(4, 3, dtype=torch.float64)
    for _ in range(3):
        weight.grad, vector.grad = torch.randn_like(weight), torch.randn_like(vector)
        rival.grad = vector.grad.clone()
        buffer = 0.8 * buffer + weight.grad
        O = orthogonal(weight.grad + 0.8 * buffer)  # noqa: E741
        wanted = weight - 0.1 * weight.norm() * O / O.norm()
        optimizer.step()
        sgd.step()
        torch.testing.assert_close(weight, wanted)
        torch.testing.assert_close(vector, rival)


def test_a_gradient_of_zeros_moves_nothing():
    weight = nn.Parameter(torch.ones(4, 4))
    weight.grad = torch.zeros(4, 4)
    Muon([weight], lr=0.1).step()
    assert torch.equal(weight.detach(), torch.ones(4, 4))


def test_a_matrix_of_zeros_is_trained_though_the_rate_begins_at_zero():
    torch.manual_seed(0)
    target = torch.randn(8, 8, dtype=torch.float64)
    weight = nn.Parameter(torch.zeros(8, 8, dtype=torch.float64))
    optimizer = Muon([weight], lr=0.02)
    settings = Optimizer(name="muon", lr=0.02, warmup=0.05)
    for step in range(400):
        set_rate(optimizer, rate(settings, step / 400))
        weight.grad = weight.detach() - target
        optimizer.step()
        if step == 1:  # the second rate, by the norm of an orthogonal matrix
            moved = float(torch.linalg.norm(weight.detach()))
            assert moved == pytest.approx(rate(settings, 1 / 400) * 8**0.5)
    assert torch.linalg.norm(weight.detach() - target) < 0.1 * torch.linalg.norm(target)


def test_decay_is_decoupled_and_the_step_is_a_share_of_the_weight_before_it():
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(3, 2, dtype=torch.float64))
    weight.grad = torch.randn_like(weight)
    O = orthogonal(weight.grad)  # noqa: E741
    wanted = (1 - 0.5 * 0.1) * weight - 0.5 * weight.norm() * O / O.norm()
    Muon([weight], lr=0.5, weight_decay=0.1).step()
    torch.testing.assert_close(weight, wanted)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_steps_by_the_norm_that_it_cannot_hold(dtype):
    """The norm is 128,000, above the largest float16."""
    weight = nn.Parameter(torch.full((64, 64), 2000.0, dtype=dtype))
    weight.grad = torch.eye(64, dtype=dtype)
    before = weight.detach().double()
    Muon([weight], lr=0.1).step()
    change = torch.linalg.norm(before - weight.detach().double())
    # each entry of the step and of the result is rounded once to the dtype
    rounded = torch.finfo(dtype).eps * (1 + 0.1)
    assert change / torch.linalg.norm(before) == pytest.approx(0.1, abs=2 * rounded)


@pytest.mark.parametrize(
    ("group", "words"),
    [
        ({"params": [nn.Parameter(torch.ones(3))]}, r"\(3,\) .* matrices=0"),
        ({"params": [nn.Parameter(torch.ones(4, 2))], "matrices": 3}, r"\(4, 2\) .* \(3\)"),
        ({"params": [nn.Parameter(torch.ones(0, 2))]}, r"\(0, 2\)"),
        ({"params": [nn.Parameter(torch.ones(2, 2))], "matrices": -1}, "found -1"),
        ({"params": [nn.Parameter(torch.ones(2, 2))], "matrices": 0.5}, "found 0.5"),
        ({"params": [nn.Parameter(torch.ones(2, 2) * 1j)]}, "complex"),
        (
            {"params": [nn.Parameter(torch.ones(2, 2))], "lr": -1.0},
            "lr .* at least 0 and finite, found -1",
        ),
        ({"params": [nn.Parameter(torch.ones(2, 2))], "momentum": 1.0}, r"in \[0, 1\), found 1"),
        ({"params": [nn.Parameter(torch.ones(2, 2))], "lr": float("nan")}, "lr .* found nan"),
        ({"params": [nn.Parameter(torch.ones(2, 2))], "lr": math.inf}, "lr .* found inf"),
        ({"params": [nn.Parameter(torch.ones(2, 2))], "matrices": True}, "found True"),
    ],
)
def test_what_makes_no_step_is_refused_and_not_kept(group, words):
    with pytest.raises(LorankError, match=words):
        Muon([group])
    optimizer = Muon([nn.Parameter(torch.ones(2, 2))])
    with pytest.raises(LorankError, match=words):
        optimizer.add_param_group(group)
    assert len(optimizer.param_groups) == 1


def test_a_sparse_gradient_is_refused_before_anything_moves():
    first, second = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    first.grad, second.grad = torch.eye(2), torch.eye(2).to_sparse()
    with pytest.raises(LorankError, match="sparse"):
        Muon([first, second]).step()
    assert torch.equal(first.detach(), torch.ones(2, 2))


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_every_layer_is_read_by_its_matrices():
    layers = nn.ModuleDict(
        {
            "linear": nn.Linear(4, 6),
            "grouped": nn.Conv2d(4, 8, 3, groups=2),
            "upwards": nn.ConvTranspose1d(4, 6, 3, groups=2),
            "attention": nn.MultiheadAttention(4, 2),
            "unequal": nn.MultiheadAttention(4, 2, kdim=3),
            "rows": nn.Embedding(5, 4),
            "head": nn.Linear(4, 5, bias=False),
            "norm": nn.BatchNorm2d(4),
            "empty": nn.Linear(0, 4),
            "computed": parametrizations.spectral_norm(nn.Linear(4, 4)),
            "quaternions": lorank.nn.QuaternionLinear(4, 8),
        }
    )
    layers["factored"] = lorank.decompose(nn.Sequential(nn.Conv2d(4, 8, 3, groups=2)))
    layers["head"].weight = layers["rows"].weight
    before = {name: value.clone() for name, value in layers.state_dict().items()}
    counts = matrices(layers)
    assert all(torch.equal(value, before[name]) for name, value in layers.state_dict().items())
    found = {name: counts.get(id(p), 0) for name, p in layers.named_parameters()}
    assert {name: count for name, count in found.items() if count} == {
        "linear.weight": 1,
        "grouped.weight": 2,
        "upwards.weight": 2,
        "attention.in_proj_weight": 3,
        "attention.out_proj.weight": 1,
        "unequal.q_proj_weight": 1,
        "unequal.k_proj_weight": 1,
        "unequal.v_proj_weight": 1,
        "unequal.out_proj.weight": 1,
        "factored.0.U": "stack",
        "factored.0.Vh": "stack",
    }
    optimizer = make_optimizer(layers, Optimizer(name="muon", lr=0.01))
    grouped = {id(p): g["matrices"] for g in optimizer.param_groups for p in g["params"]}
    assert grouped == {id(p): found[name] for name, p in layers.named_parameters()}


def test_a_layer_that_has_seen_no_input_is_named():
    with pytest.raises(LorankError, match=r"'1' must see an input"):
        make_optimizer(nn.Sequential(nn.ReLU(), nn.LazyLinear(3)), Optimizer(name="muon"))


STEP = Optimizer(name="muon", lr=0.1, weight_decay=0)


@pytest.mark.parametrize("outputs", [2, 6])
def test_groups_of_a_kernel_are_stepped_one_by_one(outputs):
    torch.manual_seed(0)
    whole = nn.Conv1d(4, outputs, 3, groups=2, bias=False).double()
    whole.weight.grad = torch.randn_like(whole.weight)
    halves = [nn.Parameter(half.flatten(1)) for half in whole.weight.detach().clone().chunk(2)]
    for half, gradient in zip(halves, whole.weight.grad.chunk(2), strict=True):
        half.grad = gradient.flatten(1)
    make_optimizer(whole, STEP).step()
    Muon(halves, lr=0.1).step()
    torch.testing.assert_close(whole.weight.detach().flatten(1), torch.cat(halves).detach())


def test_factors_of_groups_are_stepped_one_by_one():
    torch.manual_seed(0)
    low = lorank.decompose(nn.Sequential(nn.Conv2d(4, 6, 3, groups=2, bias=False).double()))[0]
    for factor in (low.U, low.S, low.Vh):
        factor.grad = torch.randn_like(factor)
    before = low.U.detach().clone()
    make_optimizer(low, STEP).step()
    for index in range(2):
        O = orthogonal(low.U.grad[index])  # noqa: E741
        wanted = before[index] - 0.1 * before[index].norm() * O / O.norm()
        torch.testing.assert_close(low.U.detach()[index], wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("start", [torch.eye, lambda size: torch.zeros(size, size)])
def test_a_state_that_is_loaded_goes_on_as_before(start, dtype):
    torch.manual_seed(0)
    gradients = torch.randn(8, 7, 7, dtype=dtype)

    def steps(weight, optimizer, some):
        for gradient in some:
            weight.grad = gradient.clone()
            optimizer.step()

    whole, part = (nn.Parameter(start(7).to(dtype)) for _ in range(2))
    steps(whole, Muon([whole], lr=0.1), gradients)
    first = Muon([part], lr=0.1)
    steps(part, first, gradients[:3])
    second = Muon([part], lr=0.1)
    second.load_state_dict(first.state_dict())
    steps(part, second, gradients[3:])
    assert torch.equal(whole, part)


def test_it_learns_an_ill_conditioned_map_faster_than_sgd():
    """Target and inputs with singular values that fall by a hundred: the Hessian's by 10⁴."""
    torch.manual_seed(0)
    U, s, Vh = known(16, 16, [10.0 ** (-i / 7.5) for i in range(16)])
    target = (U * s) @ Vh

    def loss_after(make, rates):
        best = float("inf")
        for lr in rates:
            weight = nn.Parameter(0.1 * torch.eye(16, dtype=torch.float64))
            skewed = torch.diag(s)
            optimizer = make([weight], lr)
            for step in range(200):
                optimizer.zero_grad()
                loss = ((weight - target) @ skewed).square().sum()
                loss.backward()
                optimizer.param_groups[0]["lr"] = lr * (1 - step / 200)
                optimizer.step()
            if math.isfinite(loss.item()):
                best = min(best, loss.item())
        return best

    sgd = loss_after(
        lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.95, nesterov=True),
        [0.03, 0.1, 0.3, 1.0, 3.0],  # the last one diverges
    )
    assert math.isfinite(sgd)
    assert loss_after(lambda p, lr: Muon(p, lr=lr), [0.02, 0.05, 0.1]) < sgd
