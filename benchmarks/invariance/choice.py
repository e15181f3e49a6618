"""How an arm's settings are chosen: by held-out images of another seed, all arms alike."""

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

from invariance.arms import ARMS

RATES = {"mlp": (0.002, 0.004, 0.008), "cnn": (0.001, 0.002, 0.004)}
GROWTH = 2

Judge = Callable[[str, "Setting"], float]
"""Held-out error of an arm with a setting, over the seeds for choosing."""


class Setting(NamedTuple):
    """What is chosen for an arm."""

    strength: float
    lr: float
    wd: float


def choose(net: str, name: str, chosen: dict[str, Setting], judge: Judge) -> tuple[Setting, int]:
    """The best of all pairs of a strength and a rate; and how many settings were tried.

    The weight decay of a penalty or of dropout is that of its own tuned baseline. Where the best
    lies at the end of a grid, one more value beyond is tried with it, at most twice.
    """
    arm = ARMS[name]
    wd = None if arm.base is None else chosen[arm.base].wd
    tried: dict[Setting, float] = {}

    def attempt(strength: float, lr: float) -> None:
        setting = Setting(strength, lr, strength if wd is None else wd)
        if setting not in tried:
            tried[setting] = judge(name, setting)

    for strength, lr in itertools.product(arm.grid, RATES[net]):
        attempt(strength, lr)
    for _ in range(GROWTH):
        best = min(tried, key=tried.__getitem__)
        largest = 0.9 if arm.strength == "dropout" else math.inf
        for strength in beyond(best.strength, sorted({s.strength for s in tried}), largest):
            attempt(strength, best.lr)
        for lr in beyond(best.lr, sorted({s.lr for s in tried})):
            attempt(best.strength, lr)
    return min(tried, key=tried.__getitem__), len(tried)


def beyond(best: float, values: list[float], largest: float = math.inf) -> list[float]:
    """The next value of a geometric grid, if the best lies at one of its ends."""
    if len(values) == 1 or best not in (values[0], values[-1]):
        return []
    near = values[1] if best == values[0] else values[-2]
    return [value for value in [float(f"{best * best / near:.1g}")] if value <= largest]
