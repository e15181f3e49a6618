"""A teacher of one's own: it is heard, it must fit, and a run goes on with the same one only."""

import pytest
import torch
from torch import nn

from lorank.errors import LorankError
from lorank.training.log import read_log
from lorank.training.presets import practical
from lorank.training.recipe_text import change
from lorank.training.run import train
from lorank.training.teacher import check_teacher, fingerprint

pytest.importorskip("accelerate", reason="training needs the extra 'train'")


class Wrong(nn.Module):
    """Always sure of the class after the right one."""

    def __init__(self, problem):
        super().__init__()
        inputs, labels = (torch.cat(t) for t in zip(*(p.tensors for p in problem[:2]), strict=True))
        self.means = nn.Parameter(torch.stack([inputs[labels == k].mean(0) for k in range(3)]))

    def forward(self, x):
        near = -torch.cdist(x.flatten(1), self.means.flatten(1))
        return 20 * near.roll(1, dims=1)


@pytest.fixture
def recipe():
    plan = practical(epochs=3, dense_epochs=2, macs=0.5, distill=1.0)
    dense = 'stages.0.distillation={"weight":1.0,"temperature":1.0}'
    return change(plan, ["batch_size=16", dense, "augment=false"])


def test_it_is_the_given_teacher_that_teaches(net, problem, recipe, tmp_path):
    wrong = Wrong(problem).eval()
    before = {name: value.clone() for name, value in wrong.state_dict().items()}
    result = train(net, problem, recipe, tmp_path / "a", quiet=True, teacher=wrong)
    assert result.accuracy < 0.2 and result.dense_accuracy < 0.2  # the labels were never heard
    assert all(torch.equal(value, before[name]) for name, value in wrong.state_dict().items())
    taught = [e for e in read_log(tmp_path / "a") if e["event"] == "epoch"]
    assert all("distillation" in event for event in taught)
    alone = train(net, problem, recipe, tmp_path / "b", quiet=True)
    assert alone.dense_accuracy > 0.8 and alone.accuracy > 0.8
    first = next(e for e in read_log(tmp_path / "b") if e["event"] == "epoch")
    assert "distillation" not in first  # nobody teaches the dense stage


def test_a_run_that_broke_off_goes_on_with_the_same_teacher_only(
    net, problem, recipe, tmp_path, monkeypatch
):
    from lorank.training import run

    wrong, other = Wrong(problem), Wrong(problem)
    with torch.no_grad():
        other.means[0, 0, 0, 0] += 1e-3
    whole = train(net, problem, recipe, tmp_path / "whole", quiet=True, teacher=wrong)
    keep, calls = run.save_state, []

    def breaking(*args):
        keep(*args)
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(run, "save_state", breaking)
    with pytest.raises(KeyboardInterrupt):
        train(net, problem, recipe, tmp_path / "parts", quiet=True, teacher=wrong)
    monkeypatch.setattr(run, "save_state", keep)
    for teacher in (None, other):
        with pytest.raises(LorankError, match="a run with another teacher"):
            train(net, problem, recipe, tmp_path / "parts", quiet=True, teacher=teacher)
    parts = train(net, problem, recipe, tmp_path / "parts", quiet=True, teacher=wrong)
    found, wanted = (r.model.state_dict() for r in (parts, whole))
    assert all(torch.equal(found[name], value) for name, value in wanted.items())


@pytest.mark.parametrize(
    ("teacher", "says"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), r"found \(1, 4\) and \(1, 3\)"),
        (nn.Sequential(nn.Flatten(), nn.Linear(63, 3)), r"a tensor of shape .*, and one fails"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).double(), "in torch.float64 and data in"),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused_beforehand(
    net, problem, recipe, tmp_path, teacher, says
):
    with pytest.raises(LorankError, match=says):
        train(net, problem, recipe, tmp_path / "run", quiet=True, teacher=teacher)
    assert not (tmp_path / "run").exists()


def test_a_teacher_that_nobody_hears_is_refused():
    plan = practical(epochs=2, distill=0.0)
    with pytest.raises(LorankError, match="no stage of the recipe has distillation"):
        check_teacher(nn.Linear(4, 3), nn.Linear(4, 3), plan, torch.ones(1, 4))


def test_a_fingerprint_sees_values_types_and_names():
    torch.manual_seed(0)
    net = nn.Linear(3, 2)
    same = nn.Linear(3, 2)
    same.load_state_dict(net.state_dict())
    assert fingerprint(net) == fingerprint(same)
    others = [nn.Linear(3, 2), nn.Sequential(same), nn.Linear(3, 2).bfloat16(), nn.Linear(2, 3)]
    assert len({fingerprint(n) for n in (net, *others)}) == 5
    assert fingerprint(nn.Embedding(0, 3)) != fingerprint(nn.Embedding(0, 4))
