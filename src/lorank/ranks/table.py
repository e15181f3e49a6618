"""The names of the rules, for whoever types one."""

import functools
import inspect
from collections.abc import Callable, Mapping

from lorank.errors import LorankError, unknown
from lorank.ranks.budgets import budget
from lorank.ranks.csp import csp
from lorank.ranks.dimensions import effective_rank, stable_rank
from lorank.ranks.noise import gavish_donoho
from lorank.ranks.shares import energy, threshold
from lorank.ranks.shrinkage import optimal_shrinkage
from lorank.ranks.spectrum import Spectrum
from lorank.ranks.variational import evbmf

Rule = Callable[[Mapping[str, Spectrum]], dict[str, int]]


def params(spectra: Mapping[str, Spectrum], target: float, *, multiple: int = 1) -> dict[str, int]:
    """Name for the command line: :func:`budget` in weights."""
    return budget(spectra, params=target, multiple=multiple)


def macs(spectra: Mapping[str, Spectrum], target: float, *, multiple: int = 1) -> dict[str, int]:
    """Name for the command line: :func:`budget` in multiply-accumulates."""
    return budget(spectra, macs=target, multiple=multiple)


RULES: dict[str, Callable[..., dict[str, int]]] = {
    "energy": energy,
    "threshold": threshold,
    "stable_rank": stable_rank,
    "effective_rank": effective_rank,
    "gavish_donoho": gavish_donoho,
    "evbmf": evbmf,
    "optimal_shrinkage": optimal_shrinkage,
    "csp": csp,
    "params": params,
    "macs": macs,
}
"""Name → rule. A rule takes the spectra, at most one value by position, and ``multiple``."""


def rule(text: str, *, multiple: int = 1) -> Rule:
    """Read a rule as it is typed: ``name`` or ``name:value``.

    Args:
        text: a key of :data:`RULES`, with a value for the rule's own argument where it has one:
            ``energy:0.99``, ``evbmf``, ``macs:0.3``, ``params:1000000``.
        multiple: ranks are rounded up to a multiple of it.

    Returns:
        A function from spectra to ranks.

    Raises:
        LorankError: if the name is unknown, the value is not a number, or the rule lacks a value
            it needs or is given one it has no use for.

    Example:
        >>> import torch
        >>> from lorank.ranks import Price, Spectrum
        >>> fc = Spectrum(torch.tensor([3.0, 1.0, 0.1]), (3, 9), "channel", Price(27, 12))
        >>> rule("energy:0.99")({"fc": fc})
        {'fc': 2}
    """
    name, colon, value = text.strip().partition(":")
    if name not in RULES:
        raise unknown("rank rule", name, RULES)
    values = [_number(value, text)] if colon else []
    _check_values(name, values)
    return lambda spectra: RULES[name](spectra, *values, multiple=multiple)


def _check_values(name: str, values: list[float]) -> None:
    own = _own_argument(name)
    if values and own is None:
        raise LorankError(f"the rank rule {name!r} takes no value, found {values[0]}")
    if not values and own is not None and own.default is inspect.Parameter.empty:
        raise LorankError(f"the rank rule {name!r} needs a value, such as {name}:0.5")


@functools.cache
def _own_argument(name: str) -> inspect.Parameter | None:
    positional = [
        argument
        for argument in inspect.signature(RULES[name]).parameters.values()
        if argument.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    ]
    return positional[1] if len(positional) > 1 else None


def _number(value: str, text: str) -> float:
    # A whole number stays one: to a budget, 1 is one weight and 1.0 the whole network.
    for read in (int, float):
        try:
            return read(value)
        except ValueError:
            continue
    raise LorankError(f"the value of a rank rule is a number, found {text!r}")
