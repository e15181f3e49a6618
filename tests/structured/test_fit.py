"""The loop, the arms, and how landmarks are judged."""

import pytest
import torch
from torch import nn

from lorank.errors import LorankError
from lorank.structured import Regularizers
from lorank.structured.arms import ARMS, FIRST, Arm, modern, perceptron, published, published_plan
from lorank.structured.fit import Plan, fit, held_out
from lorank.structured.points import landed, point_errors

EPOCHS = 4
BENT = ("sigmoid", "sigmoid", "tanh", "tanh")


def data(rows=60):
    drawn = torch.Generator().manual_seed(0)
    x = torch.randn(rows, 8, generator=drawn)
    return x, torch.tanh(x[:, :4] @ torch.randn(4, 3, generator=drawn)) / 3


def trained(name, seed=0, **more):
    x, y = data()
    torch.manual_seed(seed)
    model = perceptron((8, 16, 12, 3))
    whole = modern(ARMS[name], model, y, EPOCHS, seed=seed)
    done = fit(whole, x[:40], y[:40], Plan(epochs=EPOCHS, learning_rate=3e-3), seed=seed, **more)
    return model, done


@pytest.mark.parametrize("name", ARMS)
def test_every_arm_learns_and_repeats_itself(name):
    x, _ = data()
    model, done = trained(name, x_only=x[40:] if "in" in ARMS[name].tasks else None)
    assert done.losses[-1] < done.losses[0] and done.updates == EPOCHS * 3
    again, _ = trained(name, x_only=x[40:] if "in" in ARMS[name].tasks else None)
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True)
    )
    assert not model.training


def test_seeds_differ():
    weights = [trained("sup", seed=seed)[0][0].weight for seed in (0, 1)]
    assert not torch.equal(*weights)


def test_arms_of_one_seed_start_alike():
    _, y = data()
    starts = []
    for name in FIRST:
        torch.manual_seed(3)
        model = perceptron((8, 16, 12, 3))
        modern(ARMS[name], model, y, 8, seed=3)
        starts.append(model)
    assert all(torch.equal(m[0].weight, starts[0][0].weight) for m in starts)
    scaled = [not torch.equal(m[-1].weight, starts[0][-1].weight) for m in starts]
    assert scaled == [name == "scaled sup" for name in FIRST]


def test_the_best_weights_on_held_out_pairs_are_kept():
    x, y = data()
    model, done = trained("sup", valid=(x[40:], y[40:]))
    assert done.best == min(range(EPOCHS), key=done.valid.__getitem__)
    assert held_out(model, x[40:], y[40:]) == pytest.approx(min(done.valid), rel=1e-6)


@pytest.mark.parametrize("name", ["sup", "in", "out", "in+out"])
def test_the_published_setting(name):
    x, y = data()
    torch.manual_seed(0)
    model = perceptron((8, 10, 7, 5, 3), BENT, published=True)
    reach = 4 * (6 / 18) ** 0.5
    assert reach * 0.8 < model[0].weight.abs().max() <= reach and not model[0].bias.any()
    plan = published_plan(10)
    done = fit(published(ARMS[name], model, 10), x[:40], y[:40], plan)
    assert (plan.learning_rate, done.updates) == (0.1, 40)
    assert done.losses[-1] < done.losses[0]


def test_weights_of_the_published_setting():
    model = perceptron((8, 10, 7, 5, 3), BENT, published=True)
    whole = published(ARMS["in+out"], model, 100)
    assert whole.weights(0) == {"supervised": 1, "in": 1, "out": 1}
    assert whole.weights(30) == pytest.approx({"supervised": 1, "in": 0.5, "out": 2 / 3})
    assert whole.weights(70) == {"supervised": 1, "in": 0, "out": 0}
    with pytest.raises(LorankError, match="takes no label scale"):
        published(ARMS["scaled sup"], model, 100)


def test_dropout_stands_in_front():
    _, y = data()
    model = perceptron((8, 16, 12, 3), dropout=0.5)
    whole = modern(ARMS["in+out"], model, y, 8)
    assert whole.term("in").chain.names == ["0", "1", "2"]
    whole.loss(data())[0].backward()


@pytest.mark.parametrize(
    ("act", "sentence"),
    [
        (lambda x, y: perceptron((3,)), "inputs and outputs"),
        (lambda x, y: perceptron((3, 3, 3), "relo"), "did you mean 'relu'"),
        (lambda x, y: perceptron((3, 0, 3)), "units, at least 1, found 0"),
        (lambda x, y: perceptron((3, 2.5, 3)), "units, at least 1, found 2.5"),
        (lambda x, y: Plan(learning_rate="fast"), "learning_rate is above 0, found 'fast'"),
        (lambda x, y: modern(Arm(("in", "out")), perceptron((8, 4, 3)), y, 5), "3 linear layers"),
        (lambda x, y: modern(ARMS["scaled sup"], perceptron((8, 3), ("tanh",)), y, 5), "Tanh"),
        (lambda x, y: Plan(epochs=0), "epochs is a whole number"),
        (
            lambda x, y: fit(Regularizers(nn.Linear(8, 3)), x, y * float("nan")),
            "the pairs need a label, found none in 60 rows",
        ),
        (
            lambda x, y: fit(Regularizers(nn.Linear(8, 3)), x, y, valid=(x, y * float("nan"))),
            "the held-out pairs need a label, found none in 60 rows",
        ),
        (
            lambda x, y: fit(Regularizers(nn.Linear(8, 3)), x, y, valid=(x[:0], y[:0])),
            "found none in 0 rows",
        ),
        (
            lambda x, y: fit(Regularizers(nn.Linear(8, 3).requires_grad_(False)), x, y),
            "'supervised' are frozen",
        ),
        (lambda x, y: Plan(learning_rate=0), "learning_rate is above 0"),
        (lambda x, y: Plan(weight_decay=-1), "weight_decay is at least 0"),
        (lambda x, y: Plan(optimizer="adam"), "did you mean 'adamw'"),
        (
            lambda x, y: fit(
                Regularizers(nn.Linear(8, 3)), x, y, Plan(optimizer="sgd", learning_rate=1e9)
            ),
            "not finite in epoch",
        ),
    ],
)
def test_bad_input(act, sentence):
    with pytest.raises(LorankError, match=sentence):
        act(*data())


def test_errors_of_points_are_in_the_picture():
    true = torch.tensor([[0.0, 0.5, 0.0, 0.0]])  # two points, half a box apart
    sides = torch.tensor([[80.0, 40.0]])
    moved = true + torch.tensor([[0.0, 0.0, 0.1, 0.1]])  # 4 pixels down; the eyes are 40 apart
    assert point_errors(moved, true, sides, (0, 1)).item() == pytest.approx(0.1)
    moved = true + torch.tensor([[0.1, 0.1, 0.0, 0.0]])  # 8 pixels to the side
    assert point_errors(moved, true, sides, (0, 1)).item() == pytest.approx(0.2)
    with pytest.raises(LorankError, match="one is zero"):
        point_errors(true, true * 0, sides, (0, 1))
    with pytest.raises(LorankError, match="on both sides"):
        point_errors(true, true[:, :2], sides, (0, 1))
    with pytest.raises(LorankError, match="width and height"):
        point_errors(true, true, sides[:, :1], (0, 1))


def test_area_of_known_errors():
    errors = torch.linspace(0, 0.5, 5001)  # uniform: the CDF is a straight line up to 0.5
    found = landed(errors)
    assert found.nrmse == pytest.approx(0.25) and found.cdf == pytest.approx(0.2, abs=1e-3)
    assert found.auc == pytest.approx(0.5 * 0.998**2, abs=1e-3)
    assert landed(torch.zeros(3)).auc == pytest.approx(0.998)
    assert landed(torch.ones(3)) == (1.0, 0.0, 0.0)
