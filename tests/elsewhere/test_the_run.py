"""A recipe trains, cuts, stops and goes on upon another device, and ends where the CPU ends."""

import pytest
import torch
from torch.utils.data import TensorDataset

from lorank.training import run
from lorank.training.presets import practical
from lorank.training.recipe_text import change
from lorank.zoo import Augment
from training.conftest import Problem, images, small_net

state = pytest.importorskip("accelerate.state", reason="training needs the extra 'train'")

RECIPES = {
    "plain": [],
    "muon": [f"stages.{i}.optimizer.name=muon" for i in range(3)],
    "calibrated": ["stages.1.cut.calibration=4", "stages.2.label_smoothing=0.1"],
    "mixed": [f"stages.{i}.mixup=0.5" for i in range(3)],
    "taught": [f"stages.{i}.distillation.others=2" for i in (1, 2)],
    "bounded": ["stages.1.operator_norm=0.01", "recalibrate=4"],
    "under autocast": ["precision=bf16"],  # which leaves float64 as it is: that it runs
}


@pytest.fixture
def engine(there, monkeypatch):
    """Accelerate made to believe in a device; on the CPU it would choose that."""

    def on(device):
        real = run.extra("accelerate", "train").Accelerator

        def made(recipe):
            state.AcceleratorState._reset_state(True)
            real(mixed_precision=recipe.precision, cpu=True)
            state.PartialState._shared_state["device"] = device
            return real(mixed_precision=recipe.precision)

        monkeypatch.setattr(run, "_accelerator", made)

    yield on
    state.AcceleratorState._reset_state(True)


def double(data):
    x, labels = data.tensors
    return TensorDataset(x.double(), labels)


def trained(folder, recipe):
    torch.manual_seed(0)
    problem = Problem(
        *(double(images(*which)) for which in ((96, 0), (60, 1))),
        Augment(pad=1, flip=True, fill=(0.0,)),
    )
    return run.train(small_net().double(), problem, recipe, folder, quiet=True)


@pytest.mark.parametrize("changes", RECIPES.values(), ids=RECIPES)
def test_a_run_ends_there_as_on_the_cpu(changes, engine, there, tmp_path, monkeypatch):
    recipe = practical(epochs=3, dense_epochs=1, macs=0.5)
    recipe = change(recipe, ["batch_size=16", *changes])
    monkeypatch.setattr(torch.nn.Dropout, "forward", lambda _, x: x)  # masks are a device's own
    found = {}
    for device in (torch.device("cpu"), there):
        engine(device)
        found[device] = trained(tmp_path / device.type, recipe)
    wanted, result = found.values()
    assert result.ranks == wanted.ranks
    x = images(8, 3).tensors[0].double()
    with torch.no_grad():
        torch.testing.assert_close(result.model.cpu()(x), wanted.model(x), rtol=1e-6, atol=1e-6)


def test_a_run_that_broke_off_goes_on_there(engine, there, tmp_path, monkeypatch):
    engine(there)
    recipe = change(practical(epochs=3, dense_epochs=1, macs=0.5), ["batch_size=16"])
    whole = trained(tmp_path / "whole", recipe)
    train_epoch, done = run.train_epoch, []

    def breaking(*args):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(1)
        return train_epoch(*args)

    with monkeypatch.context() as patch:
        patch.setattr(run, "train_epoch", breaking)
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path / "parts", recipe)
    parts = trained(tmp_path / "parts", recipe)
    assert parts.ranks == whole.ranks
    first, second = (found.model.state_dict() for found in (whole, parts))
    assert all(torch.equal(value.cpu(), second[name].cpu()) for name, value in first.items())
