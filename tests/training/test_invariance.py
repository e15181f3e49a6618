"""Class-wise invariance in a run: the term is there, weighted, logged, and does its work."""

import pytest
import torch
from torch import nn

from lorank.errors import LorankError
from lorank.nn import Tap
from lorank.nn.surgery import opened
from lorank.penalties import class_invariance
from lorank.training.invariance import check_layers, invariance_of, tapped
from lorank.training.log import read_log
from lorank.training.presets import practical
from lorank.training.recipe import Invariance, Recipe, Stage
from lorank.training.recipe_text import change

pytest.importorskip("accelerate", reason="training needs the extra 'train'")
from lorank.training.run import train

LAYER = "7"
"""The flattened map before the classifier of the small network."""


def stage(**settings):
    return Stage(name="a", epochs=1, invariance=Invariance(layer=LAYER, **settings))


def test_the_term_is_the_penalty_with_its_weight(net):
    x, y = torch.randn(9, 1, 8, 8), torch.arange(9) % 3
    asked = stage(weight=0.3, kind="centre", reduce="mean", normalise="l2")
    with tapped(asked, net) as tap:
        net(x)
        weight, value = invariance_of(asked, tap, y)["invariance"]
        want = class_invariance(tap.value, y, "centre", reduce="mean", normalise="l2")
    assert weight == 0.3
    assert torch.equal(value, want)


def test_without_it_nothing_is_tapped(net):
    plain = Stage(name="a", epochs=1)
    with tapped(plain, net) as tap:
        assert tap is None
        assert invariance_of(plain, tap, torch.zeros(1)) == {}
    assert not net._forward_pre_hooks


def share_within(model, problem):
    x, y = problem.test.tensors
    with torch.no_grad(), Tap(model.eval(), LAYER) as tap:
        model(x)
    return float(class_invariance(tap.value, y, normalise="spread"))


def two_stages(invariance):
    dense = Stage(name="dense", form="dense", epochs=2, invariance=invariance)
    svd = Stage(name="svd", epochs=1, invariance=invariance)
    return Recipe(stages=(dense, svd), batch_size=32)


def test_a_run_brings_classes_together_and_says_so(net, problem, tmp_path):
    how = Invariance(layer=LAYER, weight=1.0, normalise="spread")
    plain, kept = (
        train(net, problem, two_stages(h), tmp_path / name, quiet=True)
        for name, h in (("plain", None), ("kept", how))
    )
    assert share_within(kept.model, problem) < 0.8 * share_within(plain.model, problem)
    assert kept.accuracy > 0.8
    assert not any(m._forward_hooks for m in kept.model.modules())
    epochs = [e for e in read_log(tmp_path / "kept") if e["event"] == "epoch"]
    assert [e["stage"] for e in epochs] == ["dense"] * 2 + ["svd"]
    assert all(e["invariance"] > 0 for e in epochs)
    assert not any("invariance" in e for e in read_log(tmp_path / "plain"))


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_a_layer_that_is_not_there_is_refused_before_anything_is_trained(
    net, problem, tmp_path, stage
):
    recipe = change(
        practical(epochs=1, dense_epochs=1, macs=0.5),
        [f'stages.{stage}.invariance={{"layer": "fc.act"}}'],
    )
    with pytest.raises(LorankError, match=r"there is no layer 'fc.act'"):
        train(net, problem, recipe, tmp_path, quiet=True)
    assert [e["event"] for e in read_log(tmp_path)] == ["start"]


def test_a_layer_that_is_there_once_attention_is_opened():
    packed = nn.TransformerEncoderLayer(8, 2, 8, batch_first=True)
    new = {n for n, _ in opened(packed).named_modules()} - {n for n, _ in packed.named_modules()}
    svd, dense = (
        Stage(name=form, form=form, epochs=1, invariance=Invariance(layer=min(new)))
        for form in ("svd", "dense")
    )
    check_layers([svd, dense], packed)
    with pytest.raises(LorankError, match="there is no layer"):
        check_layers([dense, svd], packed)


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ('{"weight": 0.1}', "layer: Field required"),
        ('{"layer": "7", "weight": -1}', "greater than or equal to 0"),
        ('{"layer": "7", "weight": Infinity}', "finite number"),
        ('{"layer": "7", "kind": "pair"}', "'pairs'"),
        ('{"layer": "7", "wight": 1}', "wight: Extra inputs are not permitted"),
    ],
)
def test_wrong_settings(setting, says):
    with pytest.raises(LorankError, match=says):
        change(practical(epochs=1), [f"stages.0.invariance={setting}"])


def test_a_network_whose_layer_does_not_run():
    class Sleeping(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x):
            return self.used(x)

    asked = Stage(name="a", epochs=1, invariance=Invariance(layer="unused"))
    model = Sleeping()
    with tapped(asked, model) as tap:
        model(torch.zeros(2, 4))
        with pytest.raises(LorankError, match="has not run"):
            invariance_of(asked, tap, torch.zeros(2, dtype=torch.long))
