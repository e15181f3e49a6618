"""Tied auto-encoders as loss terms: their formula, their gradients, their optimum, their cost."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import lorank
from lorank.errors import LorankError
from lorank.structured import InputTask, OutputTask

NAN = float("nan")


def network(dtype=torch.float64):
    layers = nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.Sigmoid()
    return nn.Sequential(*layers, nn.Linear(4, 3)).to(dtype)


def test_the_input_task_is_its_formula():
    model, x = network(), torch.randn(7, 8).double()
    task = InputTask(["0", "1", "2", "3"], corruption=0).bind(model)
    nn.init.normal_(task.biases[0])
    nn.init.normal_(task.biases[1])
    h = model[:4](x)
    back = torch.tanh(h @ model[2].weight + task.biases[1]) @ model[0].weight + task.biases[0]
    assert torch.allclose(task(x), (back - x).square().mean())
    summed = InputTask(["0", "1", "2", "3"], corruption=0, scale="sum", decay=0.5).bind(model)
    summed.load_state_dict(task.state_dict())
    norms = model[0].weight.square().sum() + model[2].weight.square().sum()
    assert torch.allclose(summed(x), 8 * task(x) + 0.5 * norms)


def test_the_output_task_is_its_formula():
    model, y = network(), torch.randn(7, 3).double()
    task = OutputTask(["4", "5", "6"], code="3").bind(model)
    nn.init.normal_(task.biases[0])
    nn.init.normal_(task.biases[1])
    code = torch.sigmoid(y @ model[6].weight + task.biases[1])
    code = (code @ model[4].weight + task.biases[0]).relu()
    assert torch.allclose(task(y), (model[4:](code) - y).square().mean())


def test_the_code_is_centred_in_this_path():
    model, x = network(), torch.randn(7, 8).double()
    task = InputTask(["0", "1"], corruption=0, centre=True).bind(model)
    h = model[:2](x)
    back = (h - h.mean(0)) @ model[0].weight
    assert torch.allclose(task(x), (back - x).square().mean())


def test_gradients_stay_in_the_tasks_layers():
    model, x, y = network(), torch.randn(7, 8).double(), torch.randn(7, 3).double()
    InputTask(["0", "1"]).bind(model)(x).backward()
    assert model[0].weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in model[1:].parameters())
    model.zero_grad()
    OutputTask(["6"], code="5").bind(model)(y).backward()
    assert model[6].weight.grad.abs().sum() > 0
    assert all(p.grad is None or not p.grad.any() for p in model[:6].parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_layers_in_svd_form_are_the_same_task(dtype):
    dense, x, y = network(dtype), torch.randn(7, 8, dtype=dtype), torch.randn(7, 3, dtype=dtype)
    low = lorank.decompose(dense)
    for make, given in (
        (lambda: InputTask(["0", "1", "2"], corruption=0, decay=0.1), x),
        (lambda: OutputTask(["4", "5", "6"], code="3", decay=0.1), y),
    ):
        one, other = make().bind(dense)(given), make().bind(low)(given)
        assert one.dtype == dtype
        assert torch.allclose(one, other, rtol=1e3 * torch.finfo(dtype).eps)
        other.backward()
    assert low[0].S.grad.abs().sum() > 0 and low[6].U.grad.abs().sum() > 0


def test_low_rank_cost():
    low = lorank.decompose(nn.Sequential(nn.Linear(400, 300), nn.ReLU()), {"0": 5})
    task = InputTask(["0", "1"], corruption=0).bind(low)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        task(torch.ones(11, 400))
    assert counter.get_total_flops() == 2 * 2 * 11 * 5 * (400 + 300)


def test_the_best_linear_tied_output_task_is_the_label_pca():
    """Eckart and Young: no rank-2 reconstruction is better than the principal subspace."""
    y = torch.randn(200, 6).double() @ torch.randn(6, 6).double()
    y = y - y.mean(0)
    values = torch.linalg.svdvals(y)
    least = values[2:].square().sum() / y.numel()
    model = nn.Sequential(nn.Linear(2, 6).double())
    task = OutputTask(["0"]).bind(model)
    optimizer = torch.optim.LBFGS([*model.parameters(), *task.parameters()], max_iter=500)

    def closure():
        optimizer.zero_grad()
        loss = task(y)
        loss.backward()
        return loss

    for _ in range(4):
        optimizer.step(closure)
    assert float(task(y)) >= float(least) * (1 - 1e-9)
    assert float(task(y)) == pytest.approx(float(least), rel=1e-3)
    V = torch.linalg.svd(y, full_matrices=False).Vh[:2].mT
    Q = torch.linalg.qr(model[0].weight.detach()).Q
    assert torch.linalg.svdvals(Q.mT @ V).min() > 0.999  # cosines between the subspaces


def test_convolutions_go_back_too():
    model = nn.Sequential(nn.Conv2d(2, 3, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten())
    model.append(nn.Linear(48, 5))
    x = torch.randn(4, 2, 7, 8)
    for tried in (model, lorank.decompose(model, {"0": 2, "3": 3})):
        task = InputTask(["0", "1", "2", "3"], corruption=0).bind(tried)
        task(x).backward()
        assert all(p.grad is not None for p in task.touched())


def test_steps_after_the_last_linear_layer():
    model, x = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten()), torch.randn(4, 2, 7, 8)
    with_it, without = (InputTask([*model][:n], corruption=0) for n in (3, 2))
    assert torch.equal(with_it(x), without(x))
    with pytest.raises(LorankError, match="MaxPool2d changes the shape"):
        InputTask([*[*model][:2], nn.MaxPool2d(2)])(x)


def test_a_sequence_stands_for_what_is_in_it():
    """As one step it would be run on the way forth, and left out on the way back."""
    model, x = network(), torch.randn(7, 8).double()
    block = nn.Sequential(model[0], nn.Sequential(model[1], model[2]), model[3])
    one, other = (InputTask(links, corruption=0) for links in ([block], [*model][:4]))
    assert torch.equal(one(x), other(x)) and len(one.chain.layers) == 2


def test_an_activation_with_a_parameter_stays_on_the_way_back():
    model = nn.Sequential(nn.Linear(8, 6), nn.PReLU(init=0.1), nn.Linear(6, 5)).double()
    x = torch.randn(7, 8).double()
    back = model[1](model(x) @ model[2].weight) @ model[0].weight
    assert torch.allclose(InputTask([*model], corruption=0)(x), (back - x).square().mean())


def test_labels_of_another_precision():
    model, y = network(torch.float32), torch.randn(7, 3)
    task = OutputTask(["6"]).bind(model)
    assert torch.allclose(task(y.double()).float(), task(y))


def test_one_row_with_a_centred_code():
    """Its code is zero, and what comes back are the biases."""
    model, x = network(), torch.randn(1, 8).double()
    task = InputTask(["0", "1"], corruption=0, centre=True).bind(model)
    assert torch.allclose(task(x), x.square().mean())


def test_frozen_layers_stay():
    model, x = network(), torch.randn(7, 8).double()
    model.requires_grad_(False)
    task = InputTask(["0", "1"]).bind(model)
    task(x).backward()
    assert task.biases[0].grad.any() and model[0].weight.grad is None


def test_corruption_is_the_generators_and_only_in_training():
    model, x = network(), torch.ones(50, 8).double()

    def loss(seed, corruption=0.5):
        given = torch.Generator().manual_seed(seed)
        task = InputTask(["0", "1"], corruption=corruption, generator=given).bind(model)
        return task(x).item(), task.eval()(x).item()

    assert loss(1) == loss(1)
    assert loss(1)[0] != loss(2)[0] and loss(1)[1] == loss(2)[1]
    assert loss(1)[1] == pytest.approx(loss(1, 0.0)[0])


def test_missing_rows_are_left_out():
    model, x, y = network(), torch.randn(7, 8).double(), torch.randn(7, 3).double()
    task = InputTask(["0", "1"], corruption=0).bind(model)
    gappy = x.clone()
    gappy[2:] = NAN
    assert torch.allclose(task(gappy), task(x[:2]))
    output = OutputTask(["6"]).bind(model)
    gappy = y.clone()
    gappy[2:, 1] = NAN
    assert torch.allclose(output(gappy), output(y[:2]))
    for empty in (torch.full((3, 3), NAN).double(), y[:0]):
        nothing = output(empty)
        nothing.backward()
        assert float(nothing) == 0 and not model[6].weight.grad.any()


def test_untied_has_weights_of_its_own():
    model, x = network(), torch.randn(7, 8).double()
    task = InputTask(["0", "1"], tied=False).bind(model)
    assert [tuple(p.shape) for p in task.parameters()] == [(8, 6), (8,)]
    task(x).backward()
    assert task.own[0].weight.grad.abs().sum() > 0


def test_modules_instead_of_paths_are_not_registered_twice():
    model = network()
    task = InputTask([model[0], torch.tanh], corruption=0)
    assert [n for n, _ in task.named_parameters()] == ["biases.0"]
    task(torch.randn(3, 8).double()).backward()
    again = copy.deepcopy(nn.ModuleList([model, task]))
    again[1](torch.randn(3, 8).double()).backward()  # the copied task is on the copied network
    assert again[1].chain.layers[0] is again[0][0] is not model[0]


def test_autocast_sums_in_float32():
    model, y = network(torch.float32), 300 * torch.ones(64, 3)
    task = OutputTask(["6"]).bind(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = task(y)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(task(y).item(), rel=0.05)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda m: InputTask(["9"]).bind(m), "no layer '9' in Sequential"),
        (lambda m: InputTask(["1"]).bind(m), "at least one linear layer, found Tanh"),
        (lambda m: InputTask(["0"])(torch.ones(1, 8)), "bound first"),
        (lambda m: InputTask([3]), "paths, layers or functions, found 3"),
        (lambda m: InputTask([m[0]], scale="total"), "unknown scale 'total'"),
        (lambda m: InputTask([m[0]], corruption=1.0), "below 1, found 1.0"),
        (lambda m: InputTask([m[0]], decay=-1.0), "decay is at least 0"),
        (lambda m: InputTask([m[0]], decay=NAN), "decay is at least 0"),
        (lambda m: OutputTask([m[6]], noise=NAN), "noise is a standard deviation"),
        (lambda m: OutputTask([m[6]])(torch.ones(2, 3).long()), "labels that are floating-point"),
        (lambda m: InputTask([m[0]])(torch.ones(2, 8).long()), "inputs that are floating-point"),
        (lambda m: InputTask([nn.TransformerEncoderLayer(8, 2)]), "has several inside"),
        (lambda m: OutputTask([m[6]], noise=-1.0), "noise is a standard deviation"),
        (lambda m: InputTask([nn.Conv2d(1, 1, 3)], tied=False), "for linear layers"),
    ],
)
def test_bad_input(make, sentence):
    with pytest.raises(LorankError, match=sentence):
        make(network())
