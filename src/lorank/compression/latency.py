"""How long does a forward pass take? Models are timed in turns, so that drift hits all alike."""

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lorank.compression.trace import Example, describe, evaluating, run
from lorank.errors import LorankError

Network = nn.Module | Callable[..., Any]
"""What is timed: a module, or any function that is called like one."""


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
    models: Mapping[str, Network],
    example: Example,
    *,
    repeats: int = 50,
    warmup: int = 5,
    threads: int | None = None,
    device: torch.device | None = None,
) -> dict[str, Latency]:
    """Time models side by side on one input: a round runs each of them once (A B A B …).

    A processor that heats up, or a neighbour that wakes, then slows all of them, and the ratio
    of two medians keeps its meaning. Models run in evaluation mode under
    ``torch.inference_mode``, an accelerator is waited for, and garbage is collected outside the
    timed rounds.

    Args:
        models: name → model, all on the example's device; their modes are restored. A function
            that is called like a model, such as another engine's, will do.
        example: what each is called with: a tensor, a tuple of arguments or a dict of named ones.
        repeats: timed rounds.
        warmup: rounds before, which are not counted.
        threads: threads that one operation may use on the CPU; by default as torch is set. Torch's
            setting is restored.
        device: what is waited for; by default the device of each model, and of the example for
            a function.

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
            if isinstance(model, nn.Module):
                stack.enter_context(evaluating(model))
        stack.enter_context(torch.inference_mode())
        stack.enter_context(threads_set(threads))
        for name, model in models.items():
            _try(name, model, example)
        stack.enter_context(no_garbage())
        for turn in range(warmup + repeats):
            for name, model in models.items():
                seconds = _timed(model, example, device)
                if turn >= warmup:
                    times[name].append(seconds)
    return {name: _summary(runs) for name, runs in times.items()}


def _check(models: Mapping[str, Network], repeats: int, warmup: int, threads: int | None) -> None:
    if not models:
        raise LorankError("timing needs at least one model, found none")
    for name, value, least in (
        ("repeats", repeats, 1),
        ("warmup", warmup, 0),
        ("threads", threads, 1),
    ):
        if value is not None and value < least:
            raise LorankError(f"{name} must be at least {least}, found {value}")


def _try(name: str, model: Network, example: Example) -> None:
    """Run once before anything is timed, and say which model fails.

    Raises:
        LorankError: if it does.
    """
    try:
        run(model, example)  # type: ignore[arg-type]
    except Exception as error:
        raise LorankError(
            f"each model must run on the example, and {name!r} failed on {describe(example)}: "
            f"{error}"
        ) from error


def _timed(model: Network, example: Example, device: torch.device | None) -> float:
    device = _where(model, example) if device is None else device
    wait(device)
    began = time.perf_counter()
    run(model, example)  # type: ignore[arg-type]
    wait(device)
    return time.perf_counter() - began


def _where(model: Network, example: Example) -> torch.device:
    """Device of a model; of a function, that of its inputs."""
    if isinstance(model, nn.Module):
        return device_of(model)
    tensor = next((x for x in tree_leaves(example) if isinstance(x, Tensor)), None)
    return torch.device("cpu") if tensor is None else tensor.device


def device_of(model: nn.Module) -> torch.device:
    """Device of a model's first tensor; the CPU where it has none."""
    tensor = next((t for t in (*model.parameters(), *model.buffers())), None)
    return torch.device("cpu") if tensor is None else tensor.device


def wait(device: torch.device) -> None:
    """Wait until an accelerator has done what it was given."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _summary(runs: list[float]) -> Latency:
    p95 = torch.tensor(runs, dtype=torch.float64).quantile(0.95)
    return Latency(statistics.median(runs), float(p95), len(runs))


@contextmanager
def threads_set(count: int | None) -> Iterator[None]:
    """Let one operation use so many threads for a while."""
    before = torch.get_num_threads()
    try:
        if count is not None:
            torch.set_num_threads(count)
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def no_garbage() -> Iterator[None]:
    """Collect garbage now, and not for a while."""
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
