import gc
import time

import pytest
import torch
from torch import nn

from lorank.compression.latency import Latency, latency
from lorank.errors import LorankError


class Waits(nn.Module):
    """Says when it runs, and takes a known time."""

    def __init__(self, name="a", seconds=0.0, diary=None):
        super().__init__()
        self.name, self.seconds = name, seconds
        self.diary = [] if diary is None else diary
        self.inner = nn.Dropout()

    def forward(self, x):
        self.diary.append(
            (
                self.name,
                self.training,
                torch.is_inference_mode_enabled(),
                torch.get_num_threads(),
                gc.isenabled(),
            )
        )
        time.sleep(self.seconds)
        return x


def test_models_are_timed_in_turns():
    diary = []
    models = {name: Waits(name, diary=diary) for name in "abc"}
    found = latency(models, torch.ones(1), repeats=3, warmup=2)
    assert [entry[0] for entry in diary] == list("abc") * (1 + 2 + 3)
    assert list(found) == list("abc") and all(f.runs == 3 for f in found.values())


def test_the_time_is_the_time():
    models = {"slow": Waits(seconds=0.02), "fast": Waits(seconds=0.005)}
    found = latency(models, torch.ones(1), repeats=9, warmup=1)
    assert 0.02 <= found["slow"].median <= found["slow"].p95
    assert 0.005 <= found["fast"].median < found["slow"].median


def test_median_and_p95_of_known_runs(monkeypatch):
    ticks = iter(range(10_000))
    clock = [0.0]

    def tick():
        # each pair of looks at the clock lies 1, 2, 3, … seconds apart
        count = next(ticks)
        clock[0] += (count + 1) // 2 if count % 2 else 0
        return clock[0]

    monkeypatch.setattr(time, "perf_counter", tick)
    found = latency({"a": nn.Identity()}, torch.ones(1), repeats=21, warmup=0)
    assert found["a"] == Latency(11.0, 20.0, 21)


def test_evaluation_and_inference_and_threads_are_for_the_time_being():
    before = torch.get_num_threads()
    model = Waits()
    model.inner.eval()
    latency({"a": model}, torch.ones(1), repeats=2, warmup=1, threads=before + 1)
    first, *timed = model.diary
    assert all(entry[1:4] == (False, True, before + 1) for entry in model.diary)
    assert first[4] and not any(entry[4] for entry in timed)
    assert model.training and not model.inner.training
    assert torch.get_num_threads() == before and gc.isenabled()
    assert not torch.is_inference_mode_enabled()


def test_everything_is_restored_after_a_failure():
    before, model = torch.get_num_threads(), nn.Linear(3, 3)
    with pytest.raises(LorankError, match="'a' failed on a tensor of shape \\(1, 4\\)"):
        latency({"a": model}, torch.ones(1, 4), threads=before + 1)
    assert model.training and torch.get_num_threads() == before and gc.isenabled()


@pytest.mark.parametrize(
    "example", [torch.ones(2, 3), (torch.ones(2, 3),), {"input": torch.ones(2, 3)}]
)
def test_examples_of_every_form(example):
    assert latency({"a": nn.Linear(3, 3)}, example, repeats=1)["a"].runs == 1


def test_functions_are_timed_like_modules():
    diary = []
    models = {"module": Waits("module", diary=diary), "function": lambda x: diary.append((x, 1))}
    found = latency(models, torch.ones(1), repeats=2, warmup=0)
    assert [f.runs for f in found.values()] == [2, 2]
    assert [entry[0] == "module" for entry in diary] == [True, False] * 3
    assert latency({"a": lambda: None}, (), repeats=1)["a"].runs == 1


def test_a_function_that_fails_is_named():
    def fails(_):
        raise RuntimeError("no")

    with pytest.raises(LorankError, match="'a' failed on a tensor of shape \\(1,\\): no"):
        latency({"a": fails}, torch.ones(1))


@pytest.mark.parametrize(
    ("models", "counts", "said"),
    [
        ({}, {}, "timing needs at least one model, found none"),
        ({"a": nn.Identity()}, {"repeats": 0}, "repeats must be at least 1, found 0"),
        ({"a": nn.Identity()}, {"warmup": -1}, "warmup must be at least 0, found -1"),
        ({"a": nn.Identity()}, {"threads": 0}, "threads must be at least 1, found 0"),
    ],
)
def test_what_is_refused(models, counts, said):
    with pytest.raises(LorankError) as caught:
        latency(models, torch.ones(1), **counts)
    assert str(caught.value) == said


def test_a_model_without_tensors_is_on_the_cpu():
    assert latency({"a": nn.ReLU()}, torch.ones(1), repeats=1)["a"].median > 0


@pytest.mark.skipif(not torch.accelerator.is_available(), reason="no accelerator here")
def test_an_accelerator_is_waited_for():
    device = torch.accelerator.current_accelerator()
    model = nn.Linear(4096, 4096).to(device)
    found = latency({"a": model}, torch.ones(4096, 4096, device=device), repeats=5)
    assert found["a"].median > 2e-5  # 137 GFLOP: a launch alone takes less
