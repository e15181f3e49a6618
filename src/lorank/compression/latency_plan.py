"""Which ranks make a network take a share of its dense time, on a clock and not on paper?"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

from torch import nn

from lorank.compression.latency import device_of
from lorank.compression.latency_table import (
    LatencyTable,
    check_counts,
    check_setting,
    latency_table,
    timed,
)
from lorank.compression.trace import Example, evaluating, run
from lorank.compression.turns import ratio, turns
from lorank.compression.twin import thin_twin
from lorank.errors import LorankError
from lorank.nn.surgery import opened, sites
from lorank.ranks import Spectra, Spectrum, budget, cost_of
from lorank.ranks.per_layer import lost

CHOICES = 6
"""Choices that are timed, after the quickest one, before the best of them is taken."""

LOW, AIM, HIGH = 0.95, 0.98, 1.02
"""A measured share within these multiples of the asked one is near enough."""

STEP = 0.03
"""After each choice in a row that was too slow, so much less is aimed at."""

SECONDS = 8.0
"""Seconds that timing one choice against the dense network may take; five rounds at least."""

NAMED = 3
"""Layers that a refusal names."""


class Trial(NamedTuple):
    """A choice of ranks that was timed: its share of the dense time, by the table and the clock."""

    ranks: dict[str, int]
    predicted: float
    measured: float


class Plan(NamedTuple):
    """Ranks for a share of the dense time, with what was measured on the way.

    Attributes:
        ranks: layer name → rank; layers that are not named stay dense.
        layouts: layer name → layout, for the same layers.
        asked: share of the dense time.
        predicted: share by the table of layers.
        measured: share by the clock: median of paired rounds of whole networks.
        smallest: smallest share that any ranks were seen to reach.
        trials: every choice that was timed.
        table: times of the layers, and what they were measured on.
        spectra: with these times, in the layouts chosen.
    """

    ranks: dict[str, int]
    layouts: dict[str, str]
    asked: float
    predicted: float
    measured: float
    smallest: float
    trials: list[Trial]
    table: LatencyTable
    spectra: Spectra

    def plain(self) -> dict[str, Any]:
        """Return what a person should know, in the words of JSON."""
        return {
            "asked": self.asked,
            "predicted": round(self.predicted, 4),
            "measured": round(self.measured, 4),
            "smallest": round(self.smallest, 4),
            "trials": [[round(t.predicted, 4), round(t.measured, 4)] for t in self.trials],
            "setting": self.table.plain()["setting"],
        }


def latency_plan(
    model: nn.Module,
    example: Example,
    spectra: Mapping[str, Spectrum] | Sequence[Mapping[str, Spectrum]],
    latency: float,
    *,
    multiple: int = 8,
    threads: int | None = None,
    repeats: int = 31,
    warmup: int = 2,
    tables: Sequence[LatencyTable] | None = None,
    **rules: Any,
) -> Plan:
    """Choose ranks whose network really takes a share of the dense time; nothing is cut yet.

    Layers do not add up exactly: caches, memory and the calls in between differ. So a choice is
    not believed but timed, as a network of the same shapes with random weights, in turns with the
    dense one. First the quickest one, which tells what can be reached; then the budget's for a
    predicted share that is interpolated between those timed so far, six times at most.

    Args:
        model: the network, on the device and in the order in memory that it will run in.
        example: what it is called with, with the batch that matters.
        spectra: of :func:`lorank.measure`, or several of them in different layouts: each layer
            takes the layout that keeps most in the asked share of its dense time.
        latency: share of the dense time, in (0, 1].
        multiple: ranks are multiples of it.
        threads: threads of one operation on the CPU; by default as torch is set.
        repeats: rounds, at most.
        warmup: rounds before, which are not counted.
        tables: measured before, one for each of the spectra.
        rules: more for :func:`lorank.ranks.budget`, such as ``keep``.

    Raises:
        LorankError: if the share cannot be reached: it says what can, and what holds it up; and
            where :func:`latency_table` or :func:`lorank.ranks.budget` does.

    Cost: a second for each distinct layer and layout, and for each of up to seven choices about
    8 seconds, or five forward passes of both networks where these take longer.

    Example:
        >>> import torch, lorank
        >>> model, x = nn.Sequential(nn.Linear(2048, 2048)), torch.ones(256, 2048)
        >>> spectra = lorank.measure(model, x)
        >>> plan = latency_plan(model, x, spectra, 0.8, threads=1, repeats=7)
        >>> plan.ranks["0"] % 8, plan.measured < 1
        (0, True)
    """
    _check_share(latency)
    check_counts(repeats, warmup, threads)
    several = [spectra] if isinstance(spectra, Mapping) else list(spectra)
    reference = _dense(model)
    tables = _tables(reference, example, several, tables, multiple, threads)
    priced = quickest([timed(s, t) for s, t in zip(several, tables, strict=True)], latency)
    timing = {"repeats": repeats, "warmup": warmup, "threads": threads}
    search = _Search(reference, example, priced, timing)
    _search(search, latency, {"multiple": multiple, **rules})
    best = max(
        (t for t in search.trials[latency < 1 :] if t.measured <= HIGH * latency),
        key=lambda trial: trial.predicted,
    )
    return Plan(
        ranks=best.ranks,
        layouts={name: priced[name].layout for name in best.ranks},
        asked=latency,
        predicted=best.predicted,
        measured=best.measured,
        smallest=min(trial.measured for trial in search.trials),
        trials=search.trials[1:],
        table=_joined(tables, priced),
        spectra=priced,
    )


def quickest(several: Sequence[Spectra], share: float) -> Spectra:
    """Take for each layer the layout that keeps most in a share of its dense time.

    Where no layout has a rank that quick, the one with the quickest rank is taken.

    Args:
        several: spectra with times of the same layers, in different layouts.
        share: of the dense time, in (0, 1].

    Returns:
        One table.

    Example:
        >>> import torch
        >>> from lorank.ranks import Price, Times
        >>> plain = Spectrum(torch.ones(4), (4, 9), "channel", Price(36, 13))
        >>> slow = Spectra(fc=replace(plain, times=Times(9, {1: 8, 2: 9})))
        >>> fast = Spectra(fc=replace(plain, layout="spatial", times=Times(9, {1: 3, 2: 4})))
        >>> quickest([slow, fast], 0.5)["fc"].layout
        'spatial'
    """
    if not several:
        raise LorankError("ranks are chosen from at least one table of lorank.measure, found none")
    names = [list(spectra) for spectra in several]
    if any(other != names[0] for other in names):
        raise LorankError("spectra in several layouts must be of the same layers, and are not")
    taken = Spectra(several[0], params=several[0].params, macs=several[0].macs)
    for name in several[0]:
        taken[name] = max((s[name] for s in several), key=lambda one: _worth(one, share))
    dense = sum(one.times.dense for one in taken.values() if one.times)
    # Each table times the whole anew; the median of them, and what it holds.
    taken.latency = max(dense, round(statistics.median(s.latency or 0 for s in several)))
    return taken


def paired(
    dense: nn.Module,
    other: nn.Module,
    *,
    example: Example,
    repeats: int = 31,
    warmup: int = 2,
    threads: int | None = None,
) -> float:
    """Time of a network as a share of the dense one's: the median of the ratios of paired rounds.

    Example:
        >>> import torch
        >>> net = nn.Linear(4, 4)
        >>> 0 < paired(net, net, example=torch.ones(1, 4), repeats=5)
        True
    """
    with evaluating(dense), evaluating(other):
        calls = {0: partial(run, dense, example), 1: partial(run, other, example)}
        found = turns(
            calls,
            device=device_of(dense),
            repeats=repeats,
            warmup=warmup,
            threads=threads,
            seconds=SECONDS,
        )
    return ratio(found[1], found[0])


@dataclass
class _Search:
    """Choices that were timed so far; the dense network is the first."""

    model: nn.Module
    example: Example
    spectra: Spectra
    timing: Mapping[str, Any]
    trials: list[Trial] = field(default_factory=lambda: [Trial({}, 1.0, 1.0)])

    def share(self, ranks: Mapping[str, int]) -> float:
        return cost_of(ranks, self.spectra, "latency") / cost_of({}, self.spectra, "latency")

    def attempt(self, ranks: dict[str, int]) -> Trial:
        twin = thin_twin(self.model, ranks, self.spectra)
        seen = paired(self.model, twin, example=self.example, **self.timing) if ranks else 1.0
        self.trials.append(Trial(ranks, self.share(ranks), seen))
        return self.trials[-1]


def _search(search: _Search, latency: float, rules: Mapping[str, Any]) -> None:
    """Time the quickest choice, and choices between it and the dense network until one fits.

    Raises:
        LorankError: if the quickest one is not quick enough.
    """
    if latency == 1:
        return
    ranks = {n: s.times.fastest() for n, s in search.spectra.items() if s.times is not None}
    quick = search.attempt({name: rank for name, rank in ranks.items() if rank is not None})
    if quick.measured > HIGH * latency:
        raise _unreachable(search.spectra, quick, latency, rules["multiple"])
    slow = 0
    for _ in range(CHOICES):
        if any(LOW * latency <= t.measured <= HIGH * latency for t in search.trials[1:]):
            return
        aim = between(search.trials, latency * max(LOW * LOW, AIM - STEP * slow))
        aim = min(1.0, max(aim, quick.predicted * (1 + 1e-6)))
        found = budget(search.spectra, latency=aim, **rules)
        ranks = {n: r for n, r in found.items() if r <= search.spectra[n].break_even}
        if any(ranks == trial.ranks for trial in search.trials):
            return
        slow = slow + 1 if search.attempt(ranks).measured > HIGH * latency else 0


def between(trials: Sequence[Trial], measured: float) -> float:
    """Predicted share at which a measured one is to be expected: on the line between neighbours.

    Example:
        >>> between([Trial({}, 1.0, 1.0), Trial({"fc": 8}, 0.4, 0.6)], 0.8)
        0.7
    """
    low = max((t for t in trials if t.measured <= measured), key=lambda t: t.predicted)
    above = [t for t in trials if t.measured > measured and t.predicted > low.predicted]
    if not above:
        return low.predicted
    high = min(above, key=lambda t: t.predicted)
    part = (measured - low.measured) / (high.measured - low.measured)
    return round(low.predicted + part * (high.predicted - low.predicted), 9)


def _worth(spectrum: Spectrum, share: float) -> tuple[float, float]:
    """What a layer keeps in a share of its dense time, and how quick it can be."""
    times = spectrum.times
    if times is None or not times.ranks:
        return -1.0, 0.0
    fits = [rank for rank, time in times.ranks.items() if time <= share * times.dense]
    kept = 1 - float(lost(spectrum)[max(fits)]) if fits else -1.0
    return round(kept, 4), -float(min(times.ranks.values()))


def _dense(model: nn.Module) -> nn.Module:
    ready = [site.name for site in sites(opened(model)) if site.factored]
    if ready:
        raise LorankError(
            f"a share of the dense time is planned for a dense network, and {ready[0]!r} is in SVD "
            "form: plan before decomposing"
        )
    return model


def _check_share(latency: object) -> None:
    if not isinstance(latency, float) or not 0 < latency <= 1:
        raise LorankError(
            "a budget of latency is a fraction of the dense network's time, a float in (0, 1]; "
            f"found {latency!r}"
        )


def _tables(
    model: nn.Module,
    example: Example,
    several: Sequence[Mapping[str, Spectrum]],
    tables: Sequence[LatencyTable] | None,
    multiple: int,
    threads: int | None,
) -> list[LatencyTable]:
    """Tables given, of this setting, or measured now."""
    if tables is None:
        return [
            latency_table(model, example, spectra, multiple=multiple, threads=threads)
            for spectra in several
        ]
    if len(tables) != len(several):
        raise LorankError(
            f"each table of spectra needs its table of times, found {len(several)} and "
            f"{len(tables)}"
        )
    for table in tables:
        check_setting(table, model, example, threads)
    return list(tables)


def _joined(tables: Sequence[LatencyTable], spectra: Spectra) -> LatencyTable:
    """One table of the layouts that were taken."""
    times = {name: layer.times for name, layer in spectra.items() if layer.times is not None}
    layouts = {name: layer.layout for name, layer in spectra.items()}
    dense = spectra.latency if spectra.latency is not None else tables[0].dense
    return replace(tables[0], dense=dense, layers=times, layouts=layouts)


def _unreachable(spectra: Spectra, quick: Trial, latency: float, multiple: int) -> LorankError:
    """Say what can be reached, and where the time stays."""
    dense = {name: layer.times.dense for name, layer in spectra.items() if layer.times}
    left = {name: spectra[name].cost(quick.ranks[name], "latency") or 0 for name in quick.ranks}
    stuck = {name: time for name, time in dense.items() if name not in left and time > 0}
    fixed = (spectra.latency or 0) - sum(dense.values())
    whole = max(1, fixed + sum(left.values()) + sum(stuck.values()))
    parts = [f"{fixed / whole:.0%} is spent outside the layers that can be cut"]
    if stuck:
        parts.append(
            f"{sum(stuck.values()) / whole:.0%} in layers that no multiple of {multiple} makes "
            f"faster ({_longest(stuck)})"
        )
    if left:
        parts.append(f"{sum(left.values()) / whole:.0%} in those cut ({_longest(left)})")
    return LorankError(
        f"a latency of {latency:g} of the dense network cannot be reached here: the smallest "
        f"measured is {math.ceil(1e3 * quick.measured) / 1e3:g}, with every layer at its quickest "
        f"rank; of that time {', '.join(parts)}"
    )


def _longest(times: Mapping[str, int]) -> str:
    names = sorted(times, key=lambda name: -times[name])
    more = f", and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
