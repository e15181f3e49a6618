"""Charts as inline SVG: plain values in, a string out; the style sheet of the page has the colours.

Everything that comes from outside is escaped here. A value that is missing, not finite, or has no
logarithm on a logarithmic axis leaves a gap.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT = 380, 230
LEFT, RIGHT, TOP, BOTTOM = 52, 10, 22, 30
SMALL_WIDTH, SMALL_HEIGHT = 180, 118
SMALL_LEFT, SMALL_RIGHT, SMALL_TOP, SMALL_BOTTOM = 28, 6, 6, 18
POINTS = 90
"""Most points that a small curve is drawn with: more do not show on its width."""

MOST_DOTS = 60
"""Most epochs at which every epoch still gets a dot to point at."""

LOWEST, HIGHEST = 1e-6, 0.1
"""Between these lies the lower end of the axis of spectra."""

Values = Sequence[float | None]


class Line(NamedTuple):
    """A curve: its name, and a value (or none) for every epoch."""

    name: str
    values: Values


class Span(NamedTuple):
    """A stage: its name, and the epochs from ``start`` up to ``stop``, counted from 0."""

    name: str
    start: int
    stop: int


def line_chart(
    lines: Sequence[Line],
    label: str,
    *,
    spans: Iterable[Span] = (),
    marks: Iterable[tuple[int, bool]] = (),
    level: float | None = None,
    log: bool = False,
    write: Callable[[float], str] = "{:g}".format,
) -> str:
    """Draw curves over epochs.

    Args:
        lines: curves of one length; the first is drawn strongest.
        label: what the picture says, for those who do not see it.
        spans: stages, drawn as bands with their names.
        marks: counts of epochs after which ranks were lowered, and whether that ended a stage:
            then it is an upright line, and a short one at the bottom otherwise.
        level: a value to compare with, drawn as a dashed line.
        log: whether the axis is logarithmic.
        write: how a value is written at the axis and beside a point.

    Example:
        >>> drawn = line_chart([Line("loss", [2.0, None, 1.0])], "the loss falls")
        >>> drawn.startswith("<svg"), drawn.count("<circle")
        (True, 2)
    """
    epochs = max((len(line.values) for line in lines), default=0)
    lines = [line._replace(values=[_usable(v, log) for v in line.values]) for line in lines]
    found = [v for line in lines for v in line.values if v is not None]
    levels = [] if level is None or not math.isfinite(level) else [level]
    axis = _Axis.around([*found, *levels], log)

    def x(epoch: float) -> float:
        return LEFT + (epoch + 0.5) / max(1, epochs) * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - axis.place(value) * (HEIGHT - TOP - BOTTOM)

    parts = [*_bands(spans, x), *_grid(axis, y, write), *_epoch_ticks(epochs, x)]
    ground = HEIGHT - BOTTOM
    for after, whole in marks:
        parts.append(_upright("mark", x(after - 0.5), TOP if whole else ground - 9, ground))
    parts += [_level("level", LEFT, WIDTH - RIGHT, y(value)) for value in levels]
    for index in reversed(range(len(lines))):
        parts += _curve(lines[index], index, x, y, write, dots=epochs <= MOST_DOTS)
    if not found:
        middle = f'x="{WIDTH / 2:g}" y="{HEIGHT / 2:g}" text-anchor="middle"'
        parts.append(f"<text {middle}>no finite values</text>")
    return _svg("chart", WIDTH, HEIGHT, label, parts)


def spectrum_chart(
    before: Sequence[float],
    label: str,
    *,
    after: Sequence[float] = (),
    rank: int | None = None,
    floor: float = 1e-3,
) -> str:
    """Draw a layer's singular values over the largest, on a logarithmic axis, with its cut.

    Args:
        before: dense, largest first.
        label: what the picture says, for those who do not see it.
        after: those of the low-rank layer, where they were trained since.
        rank: how many are kept; ``None`` where nothing was cut.
        floor: lower end of the axis; smaller values, and zero, are drawn on it.

    Example:
        >>> drawn = spectrum_chart([2.0, 1.0, 0.0], "three values", rank=1)
        >>> 'class="cut"' in drawn, 'class="after"' in drawn
        (True, False)
    """
    length = max(len(before), len(after), 1)
    inner = SMALL_WIDTH - SMALL_LEFT - SMALL_RIGHT
    axis = _Axis(math.log10(floor), 0.0, log=True)
    ground = SMALL_HEIGHT - SMALL_BOTTOM

    def x(index: float) -> float:
        return SMALL_LEFT + index / length * inner

    def y(value: float) -> float:
        return ground - axis.place(max(value, floor)) * (ground - SMALL_TOP)

    parts = [_decade(power, y) for power in range(0, round(axis.low) - 1, -1)]
    if rank is not None:
        parts += _kept_area(before, rank, x, y, ground)
    parts += _spectrum("before", before, x, y)
    parts += _spectrum("after", after, x, y)
    if rank is not None and rank < length:
        parts.append(_upright("cut", x(rank), SMALL_TOP, ground))
    parts.append(_text(x(0.5), SMALL_HEIGHT - 5, "1", "start"))
    parts.append(_text(SMALL_WIDTH - SMALL_RIGHT, SMALL_HEIGHT - 5, str(length), "end"))
    if rank is not None and 0.12 < rank / length < 0.82:
        parts.append(_text(x(rank), SMALL_HEIGHT - 5, str(rank), "middle", "at"))
    return _svg("spectrum", SMALL_WIDTH, SMALL_HEIGHT, label, parts)


def shared_floor(spectra: Iterable[Sequence[float]]) -> float:
    """Choose one lower end for the axes of all spectra: the decade below nearly all values.

    Layers are compared at a glance only on one axis; a few tiny values must not flatten it.

    Example:
        >>> shared_floor([[4.0, 2.0], [1.0, 0.02]])
        0.01
    """
    tops = ((values, max(values, default=0.0)) for values in spectra)
    shares = sorted(v / top for values, top in tops for v in values if v > 0)
    if not shares:
        return HIGHEST
    low = shares[len(shares) // 50]
    return min(max(10.0 ** math.floor(math.log10(low)), LOWEST), HIGHEST)


class _Axis(NamedTuple):
    """A range of values, or of their logarithms, onto 0 … 1."""

    low: float
    high: float
    log: bool

    @classmethod
    def around(cls, values: Sequence[float], log: bool) -> "_Axis":
        found = [math.log10(v) for v in values] if log else list(values)
        low, high = (min(found), max(found)) if found else (0.0, 1.0)
        if log:
            low, high = math.floor(low), math.ceil(high)
            return cls(low, high if high > low else low + 1, log)
        room = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
        # Shares and losses have a natural zero: no room below it.
        return cls(max(0.0, low - room) if low >= 0 else low - room, high + room, log)

    def place(self, value: float) -> float:
        found = math.log10(value) if self.log else value
        return (found - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        if self.log:
            step = max(1, math.ceil((self.high - self.low) / 5))
            return [10.0**p for p in range(int(self.low), int(self.high) + 1, step)]
        return ticks(self.low, self.high)


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Choose round numbers between two.

    Example:
        >>> ticks(0.03, 0.97)
        [0.2, 0.4, 0.6, 0.8]
    """
    rough = (high - low) / most
    scale = 10.0 ** math.floor(math.log10(rough))
    step = next(s * scale for s in (1, 2, 2.5, 5, 10) if s * scale >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [float(f"{index * step:.12g}") for index in range(first, last + 1)]


def _usable(value: float | None, log: bool) -> float | None:
    if value is None or not math.isfinite(value) or (log and value <= 0):
        return None
    return value


def _svg(kind: str, width: int, height: int, label: str, parts: Iterable[str]) -> str:
    name = escape(label)
    return (
        f'<svg class="{kind}" viewBox="0 0 {width} {height}" role="img" aria-label="{name}">'
        + "".join(parts)
        + "</svg>"
    )


def _text(x: float, y: float, words: str, anchor: str, kind: str = "") -> str:
    about = f' class="{kind}"' if kind else ""
    return f'<text{about} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _upright(kind: str, x: float, top: float, bottom: float) -> str:
    return f'<path class="{kind}" d="M{x:.1f} {top:.1f}V{bottom:.1f}"/>'


def _level(kind: str, left: float, right: float, y: float) -> str:
    return f'<path class="{kind}" d="M{left:.1f} {y:.1f}H{right:.1f}"/>'


def _bands(spans: Iterable[Span], x: Callable[[float], float]) -> list[str]:
    parts = []
    for index, span in enumerate(spans):
        left, right = x(span.start - 0.5), x(span.stop - 0.5)
        size = (
            f'x="{left:.1f}" y="{TOP}" width="{right - left:.1f}" height="{HEIGHT - TOP - BOTTOM}"'
        )
        parts.append(
            f'<rect class="band{index % 2}" {size}><title>{escape(span.name)}</title></rect>'
        )
        room = int((right - left) / 6)
        if room >= 3:
            name = span.name if len(span.name) <= room else span.name[: room - 1] + "…"
            parts.append(_text((left + right) / 2, TOP - 7, name, "middle", "stage"))
    return parts


def _grid(axis: _Axis, y: Callable[[float], float], write: Callable[[float], str]) -> Iterable[str]:
    for value in axis.ticks():
        yield _level("grid", LEFT, WIDTH - RIGHT, y(value))
        yield _text(LEFT - 7, y(value) + 4, write(value), "end")


def _epoch_ticks(epochs: int, x: Callable[[float], float]) -> Iterable[str]:
    step = max(1, math.ceil(epochs / 8))
    step = next(s for s in (1, 2, 5, 10, 20, 50, 100, 200, 500, step) if s >= step)
    shown = sorted({1, *range(step, epochs + 1, step)}) if epochs else []
    for number in shown:
        if number == 1 or number >= 1 + step / 2:
            yield _text(x(number - 1), HEIGHT - BOTTOM + 18, str(number), "middle")


def _curve(
    line: Line,
    index: int,
    x: Callable[[float], float],
    y: Callable[[float], float],
    write: Callable[[float], str],
    dots: bool,
) -> list[str]:
    parts = []
    path, pen_down = [], False
    for epoch, value in enumerate(line.values):
        if value is not None:
            path.append(f"{'L' if pen_down else 'M'}{x(epoch):.1f} {y(value):.1f}")
        pen_down = value is not None
    parts.append(f'<path class="line l{index}" d="{"".join(path)}"/>')
    for epoch, value in enumerate(line.values):
        if value is None or not (dots or _alone(line.values, epoch)):
            continue
        told = escape(f"{line.name}, epoch {epoch + 1}: {write(value)}")
        place = f'cx="{x(epoch):.1f}" cy="{y(value):.1f}"'
        parts.append(f'<circle class="l{index}" {place} r="2.5"><title>{told}</title></circle>')
    return parts


def _alone(values: Values, at: int) -> bool:
    """Whether a value has a gap on both sides: no line would show it."""
    return all(not 0 <= near < len(values) or values[near] is None for near in (at - 1, at + 1))


def _decade(power: int, y: Callable[[float], float]) -> str:
    at = y(10.0**power)
    line = _level("grid", SMALL_LEFT, SMALL_WIDTH - SMALL_RIGHT, at)
    name = "1" if power == 0 else f"10{str(power).translate(_RAISED)}"
    return line + _text(SMALL_LEFT - 4, at + 3, name, "end")


_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def _spectrum(
    kind: str, values: Sequence[float], x: Callable[[float], float], y: Callable[[float], float]
) -> list[str]:
    points = _points(values)
    if not points:
        return []
    path = "L".join(f"{x(i + 0.5):.1f} {y(v):.1f}" for i, v in points)
    if len(points) == 1:  # a line of one point would not show
        path += "h.1"
    return [f'<path class="{kind}" d="M{path}"/>']


def _kept_area(
    values: Sequence[float],
    rank: int,
    x: Callable[[float], float],
    y: Callable[[float], float],
    ground: float,
) -> list[str]:
    points = _points(values[:rank])
    if not points:
        return []
    path = "".join(f"L{x(i + 0.5):.1f} {y(v):.1f}" for i, v in points)
    start, end = f"M{x(0):.1f} {ground}V{y(points[0][1]):.1f}", f"H{x(rank):.1f}V{ground}Z"
    return [f'<path class="kept" d="{start}{path}{end}"/>']


def _points(values: Sequence[float]) -> list[tuple[int, float]]:
    """Values over the largest with their places, thinned evenly; first and last are kept."""
    top = max((v for v in values if math.isfinite(v)), default=0.0) or 1.0
    last = len(values) - 1
    if last < POINTS:
        places: Iterable[int] = range(last + 1)
    else:
        places = sorted({round(k * last / (POINTS - 1)) for k in range(POINTS)})
    return [(i, values[i] / top) for i in places if math.isfinite(values[i])]
