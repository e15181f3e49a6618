"""How long does a forward pass take? Models are timed in turns, so that drift hits all alike."""

import gc
import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import torch
from torch import nn

from lorank.compression.trace import Example, describe, evaluating, run
from lorank.errors import LorankError


class Latency(NamedTuple):
    """Wall time of one forward pass, in seconds.

    Attributes:
        median: half of the runs were faster.
        p95: 95 % of the runs were faster.
        runs: how many were timed.
    """

    median: float
    p95: float
    runs: int


def latency(
    models: Mapping[str, nn.Module],
    example: Example,
    *,
    repeats: int = 50,
    warmup: int = 5,
    threads: int | None = None,
) -> dict[str, Latency]:
    """Time models side by side on one input: a round runs each of them once (A B A B …).

    A processor that heats up, or a neighbour that wakes, then slows all of them, and the ratio
    of two medians keeps its meaning. Models run in evaluation mode under
    ``torch.inference_mode``, an accelerator is waited for, and garbage is collected outside the
    timed rounds.

    Args:
        models: name → model, all on the example's device; their modes are restored.
        example: what each is called with: a tensor, a tuple of arguments or a dict of named ones.
        repeats: timed rounds.
        warmup: rounds before, which are not counted.
        threads: threads that one operation may use on the CPU; by default as torch is set. Torch's
            setting is restored.

    Returns:
        Name → latency, in the order given.

    Raises:
        LorankError: if there is no model, a count is out of range, or a model does not run on
            the example.

    Example:
        >>> found = latency({"a": nn.Linear(4, 4)}, torch.ones(1, 4), repeats=3)
        >>> found["a"].runs, 0 < found["a"].median <= found["a"].p95
        (3, True)
    """
    _check(models, repeats, warmup, threads)
    times: dict[str, list[float]] = {name: [] for name in models}
    with ExitStack() as stack:
        for model in models.values():
            stack.enter_context(evaluating(model))
        stack.enter_context(torch.inference_mode())
        stack.enter_context(_threads(threads))
        for name, model in models.items():
            _try(name, model, example)
        stack.enter_context(_no_garbage())
        for turn in range(warmup + repeats):
            for name, model in models.items():
                seconds = _timed(model, example)
                if turn >= warmup:
                    times[name].append(seconds)
    return {name: _summary(runs) for name, runs in times.items()}


def _check(models: Mapping[str, nn.Module], repeats: int, warmup: int, threads: int | None) -> None:
    if not models:
        raise LorankError("timing needs at least one model, found none")
    for name, value, least in (
        ("repeats", repeats, 1),
        ("warmup", warmup, 0),
        ("threads", threads, 1),
    ):
        if value is not None and value < least:
            raise LorankError(f"{name} must be at least {least}, found {value}")


def _try(name: str, model: nn.Module, example: Example) -> None:
    """Run once before anything is timed, and say which model fails.

    Raises:
        LorankError: if it does.
    """
    try:
        run(model, example)
    except Exception as error:
        raise LorankError(
            f"each model must run on the example, and {name!r} failed on {describe(example)}: "
            f"{error}"
        ) from error


def _timed(model: nn.Module, example: Example) -> float:
    device = _device(model)
    _wait(device)
    began = time.perf_counter()
    run(model, example)
    _wait(device)
    return time.perf_counter() - began


def _device(model: nn.Module) -> torch.device:
    tensor = next((t for t in (*model.parameters(), *model.buffers())), None)
    return torch.device("cpu") if tensor is None else tensor.device


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _summary(runs: list[float]) -> Latency:
    p95 = torch.tensor(runs, dtype=torch.float64).quantile(0.95)
    return Latency(statistics.median(runs), float(p95), len(runs))


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    try:
        if count is not None:
            torch.set_num_threads(count)
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _no_garbage() -> Iterator[None]:
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
