"""One HTML page about a compression, whole in itself: it asks no network for anything."""

import base64
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

from jinja2 import Environment, FunctionLoader, StrictUndefined

from lorank.report import words
from lorank.report.charts import Line, Span, line_chart, shared_floor, spectrum_chart
from lorank.report.record import Figures, Layer, Record

GENERATOR = "lorank report"
"""Stands in the head of every page, so that one is known again."""

PENALTIES = ("orthogonality", "sparsity", "operator_norm")


Curves = Mapping[str, Sequence[float | None]]


class Tile(NamedTuple):
    """One figure before and after."""

    name: str
    before: str | None
    after: str | None
    change: str | None
    share: float | None


class Chart(NamedTuple):
    """A picture with its heading and the names of its curves."""

    title: str
    names: Sequence[str]
    drawn: str


class Small(NamedTuple):
    """The picture of one layer's spectrum, with its caption."""

    layer: str
    state: str
    caption: str
    drawn: str


class Heading(NamedTuple):
    """A column of the table of layers: the field that it shows, and how it is written."""

    field: str
    name: str
    about: str
    write: Callable[[Any], str] = str
    number: bool = True


def render(record: Record) -> str:
    """Make the page.

    Layer names, commands and whatever else comes from files is escaped, and a content policy
    forbids the page to load anything, or to run any script but its own.

    Args:
        record: what happened.

    Returns:
        HTML.

    Example:
        >>> page = render(Record("<digits>", "train"))
        >>> "&lt;digits&gt;" in page, "<digits>" in page
        (True, False)
    """
    script = _file("page.js")
    return (
        _environment()
        .get_template("page.html")
        .render(
            record=record,
            generator=GENERATOR,
            style=_file("page.css"),
            script=script,
            script_hash=_hash(script),
            tiles=list(_tiles(record)),
            errors=any(row.relative_error is not None for row in record.timings),
            charts=list(_charts(record)),
            smalls=list(_smalls(record.layers)),
            headings=_headings(record.layers),
            epochs=list(_epoch_rows(record)),
            epoch_names=_epoch_names(record),
            state=layer_state,
            value=_value,
            words=words,
            recipe=None if record.recipe is None else json.dumps(record.recipe, indent=2),
        )
    )


@cache
def _environment() -> Environment:
    return Environment(
        loader=FunctionLoader(_file),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _file(name: str) -> str:
    return resources.files("lorank.report").joinpath("templates", name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _tiles(record: Record) -> Iterator[Tile]:
    """Compare what is known of both networks, or of one."""
    before, after = record.before or Figures(), record.after or Figures()
    if (before.accuracy, after.accuracy) != (None, None):
        yield _accuracy_tile(before.accuracy, after.accuracy)
    for name, unit, write in (
        ("MACs", "macs", words.count),
        ("Parameters", "params", words.count),
        ("Memory", "bytes", words.size),
        ("File", "file_bytes", words.size),
        ("Latency, median", "latency", lambda s: f"{words.milliseconds(s)} ms"),
    ):
        old, new = getattr(before, unit), getattr(after, unit)
        if (old, new) == (None, None):
            continue
        part = words.share(new, old)
        change = None if part is None else f"{words.percent(part)} of {record.names[0]}"
        yield Tile(name, _written(old, write), _written(new, write), change, part)


def _accuracy_tile(old: float | None, new: float | None) -> Tile:
    change = None
    if old is not None and new is not None:
        points = round(100 * (new - old), 2)
        change = "unchanged" if points == 0 else f"{points:+.2f} points".replace("-", "−")
    figures = _written(old, words.precise), _written(new, words.precise)
    return Tile("Accuracy", *figures, change, None)


def _written(value: Any, write: Callable[[Any], str]) -> str | None:
    return None if value is None else write(value)


def _charts(record: Record) -> Iterator[Chart]:
    """Draw the curves that the run has."""
    epochs = record.epochs
    whole = None if record.before is None else record.before.macs
    dense = None if record.before is None else record.before.accuracy
    terms = {name: [e.terms.get(name) for e in epochs] for name in _terms(record)}
    losses = {name: terms[name] for name in terms if name not in PENALTIES}
    penalties = {name: terms[name] for name in terms if name in PENALTIES}
    curves: list[tuple[str, Curves, Callable[[float], str], dict[str, Any]]] = [
        ("Accuracy", {"accuracy": [e.accuracy for e in epochs]}, _percent, {"level": dense}),
        ("Loss", losses, _short, {}),
        ("Penalties", penalties, _short, {"log": True}),
        ("Sum of ranks", {"ranks": [e.ranks for e in epochs]}, words.count, {}),
        ("MACs of dense", {"MACs": [words.share(e.macs, whole) for e in epochs]}, _percent, {}),
    ]
    marks = [(cut.epochs, cut.stage is not None) for cut in record.cuts]
    about = {"spans": _spans(record), "marks": marks}
    for title, values, write, options in curves:
        # A loss that never was a number is drawn too: the empty chart says so.
        lines = [Line(n, v) for n, v in values.items() if n == "loss" or _drawable(v, **options)]
        if lines:
            told = "; ".join(_in_words(line, write) for line in lines)
            label = f"{title} by epoch. {told}"
            drawn = line_chart(lines, label, write=write, **about, **options)
            yield Chart(title, [line.name for line in lines], drawn)


def _drawable(values: Sequence[float | None], log: bool = False, **_: Any) -> bool:
    return any(v is not None and math.isfinite(v) and (v > 0 or not log) for v in values)


def _in_words(line: Line, write: Callable[[float], str]) -> str:
    found = [(n, v) for n, v in enumerate(line.values, 1) if v is not None and math.isfinite(v)]
    if not found:
        return f"{line.name}: no finite values"
    (first, start), (last, end) = found[0], found[-1]
    return f"{line.name}: {write(start)} in epoch {first}, {write(end)} in epoch {last}"


def _terms(record: Record) -> list[str]:
    """Names of the parts of the loss, the loss itself first."""
    names = dict.fromkeys(name for epoch in record.epochs for name in epoch.terms)
    return sorted(names, key=lambda name: name != "loss")


def _spans(record: Record) -> list[Span]:
    spans: list[Span] = []
    for index, epoch in enumerate(record.epochs):
        if spans and spans[-1].name == epoch.stage:
            spans[-1] = spans[-1]._replace(stop=index + 1)
        else:
            spans.append(Span(epoch.stage, index, index + 1))
    return spans


def _percent(share: float) -> str:
    return f"{100 * share:.4g} %"


def _short(value: float) -> str:
    return f"{value:.3g}"


def _smalls(layers: Sequence[Layer]) -> Iterator[Small]:
    drawable = [layer for layer in layers if layer.before]
    floor = shared_floor([layer.before for layer in drawable])
    for layer in drawable:
        rank = None if layer_state(layer) == "unknown" else layer.rank
        caption = _caption(layer)
        label = f"Singular values of {layer.layer}: {caption}"
        drawn = spectrum_chart(layer.before, label, after=layer.after, rank=rank, floor=floor)
        yield Small(layer.layer, layer_state(layer), caption, drawn)


def _caption(layer: Layer) -> str:
    if layer.rank is None:
        return f"{layer.full_rank} values, nothing chosen"
    if layer.stays_dense:
        return f"dense, {layer.full_rank} values"
    energy = "" if layer.energy is None else f" · {_energy(layer.energy)}"
    unbroken = energy.replace(" %", "\N{NO-BREAK SPACE}%")
    return f"rank {layer.rank} of {layer.full_rank}{unbroken}"


def _energy(share: float) -> str:
    """Write a share of energy so that nearly all is not taken for all."""
    for digits in (1, 2, 3):
        text = f"{100 * share:.{digits}f}"
        if share >= 1 or float(text) < 100:
            return f"{text} %"
    return "> 99.999 %"


def layer_state(layer: Layer) -> str:
    """Say in a word what became of a layer.

    Example:
        >>> layer_state(Layer("fc", 8)), layer_state(Layer("fc", 8, rank=2))
        ('unknown', 'cut')
    """
    if layer.rank is None:
        return "unknown"
    return "dense" if layer.stays_dense else "cut"


def _headings(layers: Sequence[Layer]) -> list[Heading]:
    """Columns that some layer has a value for."""
    grouped = any(layer.groups > 1 for layer in layers)
    return [
        heading
        for heading in HEADINGS
        if any(_value(layer, heading.field) is not None for layer in layers)
        and (heading.field != "groups" or grouped)
    ]


def _value(layer: Layer, name: str) -> Any:
    """Give a field of a layer, or a share that follows from two."""
    if name == "macs_share":
        return words.share(layer.macs_kept, layer.macs)
    if name == "params_share":
        return words.share(layer.params_kept, layer.params)
    return getattr(layer, name)


def _matrix(sizes: Sequence[int]) -> str:
    return " × ".join(map(str, sizes))


HEADINGS = [
    Heading("layer", "Layer", "name in the network", number=False),
    Heading("kind", "Kind", "type and kernel", number=False),
    Heading("layout", "Layout", "how the kernel is a matrix", number=False),
    Heading("matrix", "Matrix", "rows × columns, of one group", _matrix),
    Heading("groups", "Groups", "cut alike"),
    Heading("rank", "Rank", "singular values kept"),
    Heading("full_rank", "Of", "singular values of the dense weight"),
    Heading("energy", "Energy kept", "share of ‖W‖² that the cuts kept", _energy),
    Heading("plain_energy", "Untrained energy", "what the same rank keeps of the dense weight",
            _energy),
    Heading("macs", "MACs", "before", words.count),
    Heading("macs_kept", "MACs after", "after", words.count),
    Heading("macs_share", "MACs left", "share of the dense layer's", words.percent),
    Heading("params", "Params", "before, without bias", words.count),
    Heading("params_kept", "Params after", "after, without bias", words.count),
    Heading("params_share", "Params left", "share of the dense layer's", words.percent),
    Heading("stays_dense", "Stays dense because", "reason", number=False),
]  # fmt: skip


def _epoch_names(record: Record) -> list[str]:
    """Columns of the table of epochs."""
    own = ("accuracy", "ranks", "macs", "seconds")
    given = [n for n in own if any(getattr(epoch, n) is not None for epoch in record.epochs)]
    return ["stage", *_terms(record), *given]


def _epoch_rows(record: Record) -> Iterator[list[str]]:
    write: dict[str, Callable[[Any], str]] = {
        "accuracy": words.precise,
        "ranks": str,
        "macs": words.count,
        "seconds": "{:.1f}".format,
    }
    for epoch in record.epochs:
        row = [epoch.stage]
        for name in _epoch_names(record)[1:]:
            value = getattr(epoch, name) if name in write else epoch.terms.get(name)
            gap = value is None or not math.isfinite(value)
            row.append("–" if gap else write.get(name, "{:.4g}".format)(value))
        yield row
