"""The CIFAR-10 benchmark trains every method on another device."""

import dataclasses
import sys

import pytest
import torch
from torch import nn

import lorank
from elsewhere.device import waits
from lorank.training.recipe import Distillation, Optimizer
from test_cifar10_benchmark import BENCHMARKS, OURS, RIVALS, fitted, job_of, method_of, share_of


@pytest.fixture(autouse=True, scope="module")
def benchmarks():
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))


def moved(job, device):
    from cifar10.data import Cifar, Part

    cifar = job.cifar
    parts = [
        Part(*(t.to(device) for t in part)) for part in (cifar.train, cifar.judge, cifar.whole)
    ]
    return dataclasses.replace(
        job,
        dense=job.dense.to(device, memory_format=torch.channels_last),
        cifar=Cifar(*parts, cifar.padded.to(device)),
        example=job.example.to(device),
    )


def with_schedule(job, **change):
    schedule = job.experiment.schedule.model_copy(update=change)
    experiment = job.experiment.model_copy(update={"schedule": schedule})
    return dataclasses.replace(job, experiment=experiment)


METHODS = [case for case in OURS + RIVALS if not hasattr(case, "marks")]  # no slow ones


@pytest.mark.parametrize(("use", "options"), METHODS)
def test_a_method_trains_there(use, options, there, tmp_path):
    from cifar10 import loop

    method_of(job_of(use, **options))  # skips where its package is missing
    job = moved(job_of(use, **options), there)
    model, progress = fitted(job, tmp_path)
    assert progress.epoch == 2
    assert {value.device for value in model.state_dict().values()} == {there}
    assert (0.1 if use == "aimet" else 0.3) < share_of(job, model) <= 0.4
    assert 0 <= loop.judge(model, job.cifar.judge) <= 1
    lorank.save(model, tmp_path / "model.safetensors")

    again, _ = fitted(job, tmp_path)  # from the kept state of the last epoch
    x = torch.randn(2, 3, 16, 16).to(there)
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(x).cpu(), model.eval()(x).cpu())


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "muon"])
def test_another_optimizer_and_the_teacher_work_there(optimizer, there, tmp_path):
    from cifar10 import loop, teachers
    from cifar10.plan import Schedule

    job = job_of("svd", sparsify=0.5)
    schedule = Schedule.model_validate(
        {
            "epochs": 2,
            "batch": 12,
            "optimizer": {"name": optimizer, "lr": 0.001, "clip": 1.0},
            "distillation": {"weight": 0.9, "temperature": 4.0},
            "smoothing": 0.1,
        }
    )
    job = moved(with_schedule(job, **dict(schedule)), there)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(teachers, "pretrained", lambda _: lorank.zoo.load_model("resnet8").eval())
        model, progress = loop.fit(job, method_of(job), tmp_path, tmp_path / "t", compiled=False)
    assert progress.epoch == 2
    assert all(isinstance(p, nn.Parameter) and p.device == there for p in model.parameters())


@pytest.mark.parametrize("resumed", [False, True], ids=["begun", "resumed"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "muon"])
@pytest.mark.parametrize(
    ("use", "options"), [("svd", {"sparsify": 1.0, "steps": 1}), ("dense", {})]
)
def test_no_step_waits_for_the_device(use, options, optimizer, resumed, there, tmp_path):
    """An epoch of many steps waits as often as one of few: for its order and for its loss."""
    from cifar10 import loop
    from cifar10.data import to, view

    job = moved(job_of(use, budget=0.5, **options), there)
    change = {
        "optimizer": Optimizer(name=optimizer, lr=0.001, clip=1.0),
        "distillation": Distillation(others=2.0),
    }
    job = with_schedule(job, **change)
    method = method_of(job)
    model, stepped, progress = loop._started(job, method, tmp_path)
    seen = to(view(0, 0.0, job.cifar.train.places), there)
    answers = torch.randn(len(job.cifar.whole.labels), 10).to(there)

    def waited(batch):
        now = with_schedule(job, batch=batch)
        waits.clear()
        loop._epoch(now, method, model, stepped, 1, (seen, answers), False)
        return len(waits)

    waited(12)  # what is made once
    if resumed:
        loop._keep(job, model, stepped, progress, tmp_path)
        model, stepped, progress = loop._started(job, method, tmp_path)
    assert waited(12) == waited(4) == 2
