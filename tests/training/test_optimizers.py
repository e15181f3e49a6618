import math

import pytest
import torch
from torch import nn

import lorank
from lorank.training.optimizers import make_optimizer, parameter_groups, rate
from lorank.training.recipe import Optimizer


def test_factors_have_a_decay_of_their_own_and_biases_none(net):
    model = lorank.decompose(net, skip=["8"])
    decays = {
        id(p): group["weight_decay"]
        for group in parameter_groups(model, 0.5, 0.25)
        for p in group["params"]
    }
    by_name = {name: decays[id(p)] for name, p in model.named_parameters()}
    assert by_name["0.U"] == by_name["0.S"] == by_name["0.Vh"] == 0.25
    assert by_name["8.weight"] == 0.5
    assert by_name["8.bias"] == by_name["1.weight"] == 0.0


def test_every_trainable_parameter_is_in_one_group_and_frozen_ones_in_none():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    model[0].bias.requires_grad_(False)
    found = [p for group in parameter_groups(model, 0.1) for p in group["params"]]
    assert len(found) == 2
    assert len({id(p) for p in found}) == 2


def test_cosine_is_a_half_wave_after_the_warmup():
    settings = Optimizer(lr=2.0, schedule="cosine", warmup=0.2)
    assert rate(settings, 0.1) == pytest.approx(1.0)
    assert rate(settings, 0.2) == pytest.approx(2.0)
    assert rate(settings, 0.6) == pytest.approx(1.0)
    assert rate(settings, 1.0) == pytest.approx(0.0, abs=1e-12)


def test_steps_fall_at_the_milestones():
    settings = Optimizer(lr=1.0, schedule="step", milestones=(0.5, 0.75))
    assert [rate(settings, p) for p in (0, 0.49, 0.5, 0.74, 0.75)] == pytest.approx(
        [1, 1, 0.1, 0.1, 0.01]
    )
    assert math.isclose(rate(Optimizer(lr=3.0, schedule="constant"), 0.9), 3.0)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)],
)
def test_optimizers_by_name(net, name, kind):
    assert type(make_optimizer(net, Optimizer(name=name))) is kind
