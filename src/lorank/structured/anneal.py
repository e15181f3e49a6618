"""Weights that change from epoch to epoch."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from numbers import Real

from lorank.errors import LorankError, unknown

Weight = float | Callable[[float], float]
"""A number, or any function of the epoch."""

KINDS = ("linear", "stairs", "exp")


@dataclass(frozen=True)
class Anneal:
    """A weight that goes from ``v0`` to ``v1`` between two epochs, by one of three curves.

    It is ``v0`` until ``start``. Then ``linear`` is a straight line that reaches ``v1`` at
    ``end``; ``stairs`` stays and jumps to ``v1`` at ``end`` (classical pre-training); ``exp`` is
    ``v1 + (v0 − v1)·exp(−(t − start)/tau)``, and exactly ``v1`` from ``end`` on, where one is
    given.

    Args:
        kind: ``"linear"``, ``"stairs"`` or ``"exp"``.
        start: the epoch at which it begins to change.
        end: the epoch from which it is ``v1``; only ``"exp"`` does without.
        v0: value at first.
        v1: value at last.
        tau: epochs in which ``"exp"`` falls by e.

    Raises:
        LorankError: if the kind is unknown, a number is missing or not finite, or ``end`` is not
            after ``start``.

    Source: Belharbi et al., Deep multi-task learning with evolving weights, ESANN 2016, for the
    three curves.

    Example:
        >>> fade = Anneal("linear", start=0, end=100)
        >>> fade(0), fade(25), fade(100), fade.rest()(25)
        (1.0, 0.75, 0.0, 0.25)
    """

    kind: str = "linear"
    start: float = 0.0
    end: float | None = None
    v0: float = 1.0
    v1: float = 0.0
    tau: float | None = None

    def __post_init__(self):
        if self.kind not in KINDS:
            raise unknown("annealing", self.kind, KINDS)
        needed = "tau" if self.kind == "exp" else "end"
        if getattr(self, needed) is None:
            raise LorankError(f"annealing of kind {self.kind!r} needs {needed}")
        numbers = {name: getattr(self, name) for name in ("start", "end", "v0", "v1", "tau")}
        for name, value in numbers.items():
            if value is None and name in ("end", "tau"):
                continue
            if not isinstance(value, Real) or not math.isfinite(value):
                raise LorankError(f"annealing needs finite numbers, found {name}={value!r}")
        if self.end is not None and self.end <= self.start:
            raise LorankError(
                f"annealing ends after it starts, found start={self.start:g} and end={self.end:g}"
            )
        if self.tau is not None and self.tau <= 0:
            raise LorankError(f"annealing needs tau above 0, found {self.tau:g}")

    def __call__(self, epoch: float) -> float:
        """The weight at an epoch, whole or between two."""
        if epoch <= self.start:
            return float(self.v0)
        if self.end is not None and epoch >= self.end:
            return float(self.v1)
        return float(self.v1 + (self.v0 - self.v1) * self._share(epoch))

    def _share(self, epoch: float) -> float:
        """What is left of the way."""
        if self.kind == "stairs":
            return 1.0
        if self.kind == "exp":
            assert self.tau is not None
            return math.exp(-(epoch - self.start) / self.tau)
        assert self.end is not None
        return (self.end - epoch) / (self.end - self.start)

    def rest(self) -> "Anneal":
        """``1 − weight``: for a supervised task that is coupled, λ_s + λ_r = 1.

        Then a gain is no hidden change of the learning rate.
        """
        return replace(self, v0=1 - self.v0, v1=1 - self.v1)


def weight_at(weight: Weight, epoch: float) -> float:
    """A weight's value at an epoch.

    Args:
        weight: a number or a function of the epoch.
        epoch: the epoch, from 0.

    Raises:
        LorankError: if the value is negative, not finite or no number.

    Example:
        >>> weight_at(0.5, 3), weight_at(lambda epoch: 1 / (1 + epoch), 3)
        (0.5, 0.25)
    """
    given = weight(epoch) if callable(weight) else weight
    try:
        value = float(given)
    except (TypeError, ValueError):
        raise LorankError(f"a weight is a number or gives one, found {given!r}") from None
    if not math.isfinite(value) or value < 0:
        raise LorankError(f"a weight is a finite number of at least 0, found {value} at {epoch:g}")
    return value
