"""A run's folder, read into the record that a report is made from."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from lorank.errors import LorankError
from lorank.ranks import Spectra, cost_of
from lorank.report.record import Cut, Epoch, Figures, Layer, Record
from lorank.report.record import layers as described
from lorank.report.tables import cut_rows
from lorank.training.log import NAME as LOG
from lorank.training.reading import first_fault
from lorank.training.run import DENSE, FOLDED
from lorank.training.spectra import NAME as SPECTRA
from lorank.training.spectra import Kept, read_spectra

Ranks = dict[str, int]


class _PlannedCut(BaseModel):
    macs: int | float | None = None
    params: int | float | None = None
    rule: str | None = None


class _PlannedStage(BaseModel):
    epochs: int = 0
    cut: _PlannedCut | None = None


class _Plan(BaseModel):
    """What a report takes from a recipe; one of an older lorank may have other parts."""

    stages: list[_PlannedStage] = []
    seed: int | None = None


class _Event(BaseModel):
    """A line of the log: what a report takes from it, each in its own kind."""

    model_config = ConfigDict(extra="allow")

    event: str
    stage: str | None = None
    epoch: int | None = None
    accuracy: float | None = None
    seconds: float | None = None
    ranks: Ranks | None = None
    energy: dict[str, float] | None = None
    cost: dict[str, int | None] | None = None
    recipe: dict[str, Any] | None = None
    info: dict[str, Any] | None = None
    processes: int | None = None
    command: str | None = None
    versions: dict[str, str] | None = None

    @property
    def plan(self) -> _Plan:
        """The recipe, as far as it is needed."""
        return _Plan.model_validate(self.recipe or {})

    def terms(self) -> dict[str, float | None]:
        """Means of the terms of the loss; what is not a finite number is ``None``."""
        return {
            name: float(value) if math.isfinite(value) else None
            for name, value in (self.model_extra or {}).items()
            if isinstance(value, (int, float)) and not isinstance(value, bool)
        }


def read_run(folder: str | Path) -> Record:
    """Read what a run has left so far.

    Args:
        folder: of a run, ended or not.

    Returns:
        Its record; what the run does not have is left out.

    Raises:
        LorankError: if there is no run, or one of its files is damaged; it says which.
    """
    folder = Path(folder)
    events, torn = _events(folder)
    start = _first(events, "start") or _Event(event="start")
    end, dense = _first(events, "end"), _first(events, "decompose")
    kept = read_spectra(folder)
    spectra = Spectra() if kept is None else kept.spectra()
    return Record(
        title=folder.resolve().name,
        kind="train",
        ended=end is not None,
        names=("dense", "low-rank"),
        facts=_facts(start),
        asked=_asked(start),
        before=_figures(folder / DENSE, dense),
        after=_figures(folder / FOLDED, end),
        layers=_layers(kept, spectra, events),
        skipped=[] if kept is None else kept.skipped,
        epochs=list(_epochs(events, spectra)),
        cuts=list(_cuts(events)),
        command=start.command,
        versions=start.versions or {},
        seed=start.plan.seed,
        recipe=start.recipe,
        notes=list(_notes(start, events, end is not None, torn, kept is None)),
    )


def _events(folder: Path) -> tuple[list[_Event], bool]:
    """Read the log; says too whether its last line was torn off, as by a killed process."""
    path = folder / LOG
    if not folder.is_dir():
        raise LorankError(f"a run is a folder, and there is none at {folder}")
    if not path.is_file():
        raise LorankError(f"a run's folder holds {LOG}, found none in {folder}")
    lines = path.read_bytes().splitlines(keepends=True)
    torn = bool(lines) and not lines[-1].endswith(b"\n")
    whole = lines[:-1] if torn else lines
    events = [_event(path, number, line) for number, line in enumerate(whole, 1)]
    if not events:
        raise LorankError(f"{path} holds no whole line: the run has not begun, or the log is lost")
    return events, torn


def _event(path: Path, number: int, line: bytes) -> _Event:
    try:
        event = _Event.model_validate(json.loads(line))
        _ = event.plan  # refuse a damaged recipe here, where the line is known
        return event
    except ValidationError as error:
        told = first_fault(error)
    except (ValueError, RecursionError) as error:
        told = str(error)
    raise LorankError(f"{path} is damaged in line {number}: {told}") from None


def _first(events: list[_Event], name: str) -> _Event | None:
    return next((event for event in events if event.event == name), None)


def _facts(start: _Event) -> dict[str, str]:
    found = {key.replace("_", " "): str(value) for key, value in (start.info or {}).items()}
    if start.processes is not None and start.processes > 1:
        found["processes"] = str(start.processes)
    return found


def _asked(start: _Event) -> str | None:
    """Say the target of the last cut in words."""
    cut = next((stage.cut for stage in reversed(start.plan.stages) if stage.cut), None)
    if cut is None:
        return None
    for value, words in ((cut.macs, "of the MACs"), (cut.params, "of the parameters")):
        if value is not None:
            share = isinstance(value, float) and value <= 1
            return f"{100 * value:g} % {words}" if share else f"{value:,} {words}"
    return None if cut.rule is None else f"the rule {cut.rule}"


def _figures(path: Path, event: _Event | None) -> Figures | None:
    """Take figures from an event, and the size of the file that goes with it."""
    if event is None:
        return None
    known = {unit: (event.cost or {}).get(unit) for unit in ("macs", "params", "bytes")}
    size = path.stat().st_size if path.is_file() else None
    return Figures(accuracy=event.accuracy, file_bytes=size, **known)


def _epochs(events: list[_Event], spectra: Spectra) -> Iterator[Epoch]:
    for event in events:
        if event.event == "epoch":
            yield Epoch(
                stage=event.stage or "",
                terms=event.terms(),
                accuracy=event.accuracy,
                seconds=event.seconds,
                ranks=sum(event.ranks.values()) if event.ranks else None,
                macs=_macs(event.ranks, spectra),
            )


def _macs(ranks: Ranks | None, spectra: Spectra) -> int | None:
    """Cost of the network at ranks, as folding would give it back."""
    if spectra.macs is None or ranks is None or not ranks.keys() <= spectra.keys():
        return None
    return cost_of(ranks, spectra, "macs")


def _cuts(events: list[_Event]) -> Iterator[Cut]:
    epochs = 0
    for place, event in enumerate(events):
        epochs += event.event == "epoch"
        if event.event == "cut":
            cost = event.cost or {}
            yield Cut(epochs, _stage(events[:place]), cost.get("macs"), cost.get("params"))
        if event.event == "truncate":  # it is told before the epoch that it ends
            yield Cut(epochs + 1)


def _stage(events: list[_Event]) -> str | None:
    return next((e.stage for e in reversed(events) if e.event == "epoch"), None)


def _layers(kept: Kept | None, spectra: Spectra, events: list[_Event]) -> list[Layer]:
    """Describe every layer at the ranks that it has now."""
    if kept is None:
        return []
    ranks = next((e.ranks for e in reversed(events) if e.ranks and e.event != "truncate"), {})
    rows = cut_rows(spectra, ranks)
    energies = _energies(events)
    cut = _was_cut(events)
    found = {row.layer: row for row in kept.layers}
    layers = described(spectra, rows, {row.layer: row.kind for row in kept.layers})
    return [
        Layer(
            **vars(layer)
            | {
                "rank": layer.rank if cut else None,
                "energy": energies.get(layer.layer) if cut else None,
                "plain_energy": layer.energy if cut and not layer.stays_dense else None,
                "params_kept": layer.params_kept if cut else None,
                "macs_kept": layer.macs_kept if cut else None,
                "stays_dense": layer.stays_dense if cut else None,
                "groups": found[layer.layer].groups,
                "after": found[layer.layer].after,
            }
        )
        for layer in layers
    ]


def _was_cut(events: list[_Event]) -> bool:
    return any(event.event in ("cut", "truncate", "end") for event in events)


def _energies(events: list[_Event]) -> dict[str, float]:
    """Multiply what each cut kept of a layer; a run that was never cut has none."""
    kept: dict[str, float] = {}
    for event in events:
        for name, share in (event.energy or {}).items():
            kept[name] = kept.get(name, 1.0) * share
    return kept


def _notes(
    start: _Event, events: list[_Event], ended: bool, torn: bool, bare: bool
) -> Iterator[str]:
    if not ended:
        done = sum(event.event == "epoch" for event in events)
        planned = sum(stage.epochs for stage in start.plan.stages)
        yield (
            f"This run has not ended: {done} of {planned} epochs are done. "
            "The same command goes on."
        )
    if torn:
        yield f"The last line of {LOG} is cut off, and was left out."
    if bare and ended:
        yield f"This run kept no {SPECTRA}: the same command writes it, and trains nothing again."
