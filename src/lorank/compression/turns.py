"""Time calls in turns (A B A B …), so that a slow moment of the machine hits all of them."""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, TypeVar

import torch

from lorank.compression.latency import no_garbage, threads_set, wait

Key = TypeVar("Key")

SHORT = 3e-4
"""Seconds: what takes less is called several times between two looks at the clock."""

FEWEST = 5
"""Rounds that are timed however long they take."""


def turns(
    calls: Mapping[Key, Callable[[], Any]],
    *,
    device: torch.device,
    repeats: int,
    warmup: int = 2,
    threads: int | None = None,
    seconds: float = math.inf,
) -> dict[Key, list[float]]:
    """Time calls against each other: a round runs each of them once.

    A short call is run several times in a row, and an accelerator is waited for at the end of
    them only: that is how layers follow each other in a network.

    Args:
        calls: key → what to call, without arguments.
        device: where the calls work.
        repeats: timed rounds, at most.
        warmup: rounds before, which are not counted.
        threads: threads of one operation on the CPU; torch's setting is restored.
        seconds: about how long the timed rounds may take in all; at least five are run.

    Returns:
        Key → seconds of one call, an entry a round.

    Example:
        >>> found = turns({"a": lambda: 1}, device=torch.device("cpu"), repeats=3)
        >>> len(found["a"])
        3
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        stack.enter_context(threads_set(threads))
        stack.enter_context(no_garbage())
        for call in calls.values():
            call()  # what is made or chosen at a first call is not timed
        first = {key: _timed(call, 1, device) for key, call in calls.items()}
        in_a_row = {key: _often(took) for key, took in first.items()}
        for _ in range(warmup):
            for key, call in calls.items():
                _timed(call, in_a_row[key], device)
        found: dict[Key, list[float]] = {key: [] for key in calls}
        began = time.perf_counter()
        for turn in range(repeats):
            if turn >= FEWEST and time.perf_counter() - began > seconds:
                break
            for key, call in calls.items():
                found[key].append(_timed(call, in_a_row[key], device))
    return found


def ratio(times: Sequence[float], others: Sequence[float]) -> float:
    """Median of the ratios of paired rounds: a busy moment hits both of a pair.

    On a machine with four times more work than processors it scattered by 2 %, where the ratio of
    quartiles scattered by 14 %, and that of the smallest by 67 %.

    Example:
        >>> ratio([2.0, 9.0, 2.0], [4.0, 8.0, 4.0])
        0.5
    """
    return statistics.median(a / b for a, b in zip(times, others, strict=True))


def quartile(times: Sequence[float]) -> float:
    """Lower quartile of times.

    Example:
        >>> quartile([1.0, 2.0, 3.0, 4.0, 90.0])
        2.0
    """
    return statistics.quantiles(times, n=4, method="inclusive")[0] if times[1:] else times[0]


def _often(took: float) -> int:
    return max(1, min(100, math.ceil(SHORT / max(took, 1e-9)))) if took < SHORT else 1


def _timed(call: Callable[[], Any], times: int, device: torch.device) -> float:
    wait(device)
    began = time.perf_counter()
    for _ in range(times):
        call()
    wait(device)
    return (time.perf_counter() - began) / times
