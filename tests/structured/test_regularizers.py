"""One loss of several tasks, and the form with one update for each."""

import copy

import pytest
import torch
from torch import nn

import lorank
from lorank.errors import LorankError
from lorank.nn import Tap
from lorank.structured import (
    Anneal,
    InputTask,
    OutputTask,
    Regularizers,
    Tapped,
    alternate,
    optimizers_of,
)

NAN = float("nan")


def network():
    layers = nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)
    return nn.Sequential(*layers)


def terms(**weights):
    return {
        "in": InputTask(["0", "1"], weights.get("x", 1.0), corruption=0),
        "out": OutputTask(["4"], weights.get("y", 1.0), code="3"),
    }


def data(rows=10):
    return torch.randn(rows, 8), torch.randn(rows, 3)


def mixed():
    """Four pairs, three inputs alone, three labels alone."""
    x, y = data()
    x[7:], y[4:7] = NAN, NAN
    return x, y


def test_the_total_is_the_weighted_sum_of_the_parts():
    model, (x, y) = network(), mixed()
    whole = Regularizers(model, terms(x=0.3, y=2.0), supervised=0.5)
    total, parts = whole.loss((x, y))
    expected = {
        "supervised": (model(x[:4]) - y[:4]).square().mean(),
        "in": whole.term("in")(x[:7]),
        "out": whole.term("out")(torch.cat([y[:4], y[7:]])),
    }
    assert parts.keys() == expected.keys()
    assert all(torch.allclose(parts[name], expected[name]) for name in parts)
    want = 0.5 * parts["supervised"] + 0.3 * parts["in"] + 2 * parts["out"]
    assert torch.allclose(total, want)
    assert not any(part.requires_grad for part in parts.values())


def test_parts_that_are_absent():
    whole, (x, y) = Regularizers(network(), terms()), data()
    assert set(whole.loss((x, None))[1]) == {"in"}
    assert set(whole.loss((None, y))[1]) == {"out"}
    assert set(whole.loss((x, torch.full_like(y, NAN)))[1]) == {"in"}
    assert set(whole.loss((x, y), only=["out"])[1]) == {"out"}
    plain = Regularizers(network())
    total, parts = plain.loss((x, None))  # nothing to learn from: a zero that has a gradient
    total.backward()
    assert float(total.detach()) == 0 and parts == {}
    assert not any(p.grad.any() for p in plain.parameters())


def test_a_term_of_weight_zero_is_not_computed():
    calls = []

    def penalty(h, y):
        calls.append(1)
        return h.square().mean()

    fade = Anneal("linear", 0, 2)
    whole = Regularizers(network(), {"norm": Tapped("1", penalty, fade)}, supervised=fade.rest())
    assert whole.weights(1) == {"supervised": 0.5, "norm": 0.5}
    whole.loss(data(), epoch=0)
    assert set(whole.loss(data(), epoch=2)[1]) == {"supervised"} and len(calls) == 1


def test_a_tapped_penalty_sees_the_layer_and_the_labels():
    model, (x, y) = network(), data()
    seen = {}

    def penalty(h, labels):
        seen["h"], seen["y"] = h, labels
        return h.square().sum()

    total, _ = Regularizers(model, {"norm": Tapped("1", penalty, 2.0)}, supervised=0.0).loss((x, y))
    assert torch.equal(seen["h"], model[:2](x)) and torch.equal(seen["y"], y)
    total.backward()
    assert model[0].weight.grad.any() and model[4].weight.grad is None
    assert all(not m._forward_hooks for m in model.modules())


def test_each_parameter_is_there_once():
    model = network()
    whole = Regularizers(model, terms())
    own = ["tasks.in.biases.0", "tasks.out.biases.0"]
    names = [name for name, _ in whole.named_parameters()]
    assert sorted(names) == sorted([*(f"model.{n}" for n, _ in model.named_parameters()), *own])


def test_a_copy_trains_the_copied_network():
    whole = copy.deepcopy(Regularizers(network(), terms()))
    whole.loss(data())[0].backward()
    assert all(p.grad is not None for p in whole.parameters())


def test_layers_in_svd_form():
    dense, batch = network(), mixed()
    low = lorank.decompose(dense)
    one, other = (Regularizers(m, terms()).loss(batch)[0] for m in (dense, low))
    assert torch.allclose(one, other, rtol=1e-4)


def test_another_loss_and_classes():
    model, x = network(), torch.randn(6, 8)
    y = torch.tensor([0, 1, 2, -100, -100, 1])
    whole = Regularizers(model, {"in": terms()["in"]}, loss=nn.functional.cross_entropy)
    _, parts = whole.loss((x, y))
    known = y >= 0
    assert torch.allclose(
        parts["supervised"], nn.functional.cross_entropy(model(x[known]), y[known])
    )
    assert torch.allclose(parts["in"], whole.term("in")(x))


def test_the_joint_loss_trains():
    torch.manual_seed(1)
    whole, (x, y) = Regularizers(network(), terms()), mixed()
    optimizer = torch.optim.Adam(whole.parameters(), 0.02)
    losses = []
    for epoch in range(60):
        total, _ = whole.loss((x, y), epoch)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        losses.append(total.item())
    assert losses[-1] < 0.5 * losses[0]


def by_hand(model, tasks, x, y, rate):
    """Three plain gradient steps in turn: inputs, labels, the whole sum on the pairs."""

    def step(loss, parameters):
        grads = torch.autograd.grad(loss, parameters, allow_unused=True)
        with torch.no_grad():
            for p, g in zip(parameters, grads, strict=True):
                p -= rate * (torch.zeros_like(p) if g is None else g)

    step(tasks["in"](x[:7]), tasks["in"].touched())
    step(2 * tasks["out"](torch.cat([y[:4], y[7:]])), tasks["out"].touched())
    both = [*model.parameters(), *tasks["in"].parameters(), *tasks["out"].parameters()]
    pairs = (model(x[:4]) - y[:4]).square().mean()
    step(pairs + tasks["in"](x[:4]) + 2 * tasks["out"](y[:4]), both)


def test_three_updates_are_three_steps():
    model, (x, y) = network(), mixed()
    twin = copy.deepcopy(model)
    tasks = {name: task.bind(twin) for name, task in terms(y=2.0).items()}
    whole = Regularizers(model, terms(y=2.0))
    optimizers = optimizers_of(whole, lambda p: torch.optim.SGD(p, 0.1))
    parts = alternate(whole, (x, y), 0, optimizers)
    by_hand(twin, tasks, x, y, 0.1)
    assert parts.keys() == {"in", "out", "supervised"}
    for mine, other in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(mine, other, atol=1e-6)


def test_the_coupled_form_steps_on_the_supervised_loss_alone():
    model, (x, y) = network(), data()
    fade = Anneal("stairs", 0, 1)
    task = InputTask(["0", "1"], fade)
    whole = Regularizers(model, {"in": task}, supervised=fade.rest())
    optimizers = optimizers_of(whole, lambda p: torch.optim.SGD(p, 0.1))
    before = [p.clone() for p in model[2:].parameters()]
    assert set(alternate(whole, (x, y), 0, optimizers, last="supervised")) == {"in"}
    assert all(torch.equal(a, b) for a, b in zip(before, model[2:].parameters(), strict=True))
    first = model[0].weight.clone()
    assert set(alternate(whole, (x, y), 1, optimizers, last="supervised")) == {"supervised"}
    assert not torch.equal(first, model[0].weight)


def test_several_processes_wait_for_no_gradient(tmp_path):
    """DistributedDataParallel stops at the second pass where a parameter had no gradient."""
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(Regularizers(network(), terms()))
        x, y = data()
        for batch in ((x, y), (x, None), (None, y), (x, torch.full_like(y, NAN)), (x, y)):
            total, _ = wrapped(*batch, 0)
            total.backward()
        assert all(p.grad is not None for p in wrapped.parameters())
    finally:
        torch.distributed.destroy_process_group()


def test_the_tasks_layers_are_looked_at_once():
    model, batch = network(), data()
    for links in (["2", "3"], ["0", torch.relu, "2"]):
        with pytest.raises(LorankError, match="not what the model runs first"):
            Regularizers(model, {"in": InputTask(links)}).loss(batch)
    with pytest.raises(LorankError, match="not what the model runs last"):
        Regularizers(model, {"out": OutputTask(["2"])}).loss(batch)
    for links in ([model[2], model[3]], ["2", model[3]]):  # layers themselves, too
        with pytest.raises(LorankError, match="not what the model runs first"):
            Regularizers(model, {"in": InputTask(links)}).loss(batch)
    with pytest.raises(LorankError, match="not what the model runs last"):
        Regularizers(model, {"out": OutputTask([model[2]])}).loss(batch)
    with pytest.raises(LorankError, match=r"the model's own, and Linear.* is not in it"):
        Regularizers(model, {"in": InputTask([nn.Linear(8, 6)])}).loss(batch)
    trusted = Regularizers(model, {"in": InputTask(["0", torch.relu, "2"])}, check=False)
    assert set(trusted.loss(batch)[1]) == {"in", "supervised"}


class Functional(nn.Module):
    """A network whose activations are functions."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(8, 5), nn.Linear(5, 3)

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


def test_functions_in_the_forward_stand_as_functions():
    task = InputTask(["first", torch.tanh])
    output = OutputTask(["second"], code=torch.tanh)
    total, parts = Regularizers(Functional(), {"x": task, "y": output}).loss(data())
    total.backward()
    assert len(parts) == 3


def test_training_and_evaluation_are_left_as_they_were():
    model = nn.Sequential(nn.BatchNorm1d(8), *network()).train()
    before = model[0].running_mean.clone()
    whole = Regularizers(model, {"out": OutputTask(["5"])})
    whole._check(torch.randn(4, 8) + 5)
    assert model.training and torch.equal(model[0].running_mean, before)


@pytest.mark.parametrize(
    ("act", "sentence"),
    [
        (lambda m: Regularizers(m, {"a": 3}), "a Tapped, and 'a' is a int"),
        (lambda m: Regularizers(m, {"supervised": terms()["in"]}), "a name of its own"),
        (lambda m: Regularizers(m, {"n": Tapped("9", torch.mul)}), "no layer '9'"),
        (lambda m: Regularizers(m).loss(torch.ones(2, 8)), r"a pair \(x, y\)"),
        (lambda m: Regularizers(m).loss((None, None)), "found nothing in it"),
        (lambda m: Regularizers(m).loss((torch.ones(2, 8), torch.ones(3, 3))), "found 2 and 3"),
        (lambda m: Regularizers(m).loss((torch.ones(2, 8).numpy(), None)), "found ndarray"),
        (
            lambda m: Regularizers(m).loss((data()[0], data()[1].to("meta"))),
            "on one device, found inputs on cpu and labels on meta",
        ),
        (lambda m: Regularizers(m, {"n": Tapped("1", lambda h, y: h)}).loss(data()), "'n' is"),
        (lambda m: alternate(Regularizers(m), torch.ones(3, 2), 0, {"supervised": 0}), "a pair"),
        (
            lambda m: alternate(Regularizers(m), (data()[0], data(3)[1]), 0, {"supervised": 0}),
            "found 10 and 3",
        ),
        (lambda m: optimizers_of(Regularizers(m.requires_grad_(False)), list), "are frozen"),
        (lambda m: Regularizers(m).loss(data(), only=["sup"]), "unknown part 'sup'"),
        (lambda m: Regularizers(m, supervised=-1.0).loss(data()), "at least 0, found -1"),
        (lambda m: Regularizers(m).term("in"), "unknown term 'in'"),
        (lambda m: alternate(Regularizers(m, terms()), data(), 0, {}), "'supervised' has none"),
        (lambda m: alternate(Regularizers(m), data(), 0, {}, last="all"), "unknown last step"),
    ],
)
def test_bad_input(act, sentence):
    with pytest.raises(LorankError, match=sentence):
        act(network())


def test_a_tapped_layer_that_never_runs():
    skipping = nn.Module()
    skipping.used, skipping.spare = nn.Linear(8, 3), nn.Linear(3, 3)
    skipping.forward = skipping.used.forward
    whole = Regularizers(skipping, {"n": Tapped("spare", lambda h, y: h.sum())}, check=False)
    with pytest.raises(LorankError, match="'spare' has not run"):
        whole.loss(data())
    assert isinstance(whole._tap, Tap) and not skipping.spare._forward_hooks


def test_layers_are_paths_or_modules_or_both():
    model, batch = network(), data()
    one = Regularizers(model, terms()).loss(batch)[1]
    mixed_up = {
        "in": InputTask(["0", model[1]], corruption=0),
        "out": OutputTask([model[4]], code=model[3]),
    }
    assert Regularizers(model, mixed_up).loss(batch)[1] == one


def test_surgery_after_binding_is_noticed():
    """The task would go on training a layer that the network no longer has."""
    whole = Regularizers(network(), terms())
    whole.loss(data())
    whole.model[0] = nn.Linear(8, 6)
    with pytest.raises(LorankError, match="'0' has been replaced since the task was bound"):
        whole.loss(data())
    whole = Regularizers(network(), terms())
    whole.model[3] = nn.Tanh()  # the activation that the output task's code goes through
    with pytest.raises(LorankError, match="'3' has been replaced since the task was bound"):
        whole.loss(data())


def test_parameters_of_a_penalty_have_names_of_their_own():
    """A name that another term could have would push that term out."""

    class Learned(nn.Module):
        def __init__(self):
            super().__init__()
            self.centre = nn.Parameter(torch.zeros(6))

        def forward(self, h, y):
            return (h - self.centre).square().mean()

    tasks = {"a_": terms()["in"], "a": Tapped("1", Learned())}
    whole = Regularizers(network(), tasks)
    total, parts = whole.loss(data())
    total.backward()
    assert parts.keys() == {"a", "a_", "supervised"}
    assert whole.functions["a"].centre.grad.any()


@pytest.mark.slow  # for the compiler's import
def test_compiled_whole():
    whole = Regularizers(network(), terms() | {"n": Tapped("1", lambda h, y: h.square().mean())})
    batch = data()
    expected = whole(*batch)[0]
    found = torch.compile(whole, backend="eager")(*batch)[0]
    assert torch.allclose(found, expected)
