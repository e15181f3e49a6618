import itertools
import math
import re
from xml.etree import ElementTree

import pytest

from lorank.report.charts import (
    HEIGHT,
    POINTS,
    TOP,
    WIDTH,
    Line,
    Span,
    line_chart,
    shared_floor,
    spectrum_chart,
    ticks,
)

NASTY = "</svg><script>alert(1)</script>\"'&"


def parts(drawn, kind):
    """Elements of a class; the parser insists on well-formed XML."""
    return [e for e in ElementTree.fromstring(drawn).iter() if kind in e.get("class", "").split()]


def pens(path):
    """How often a path puts the pen down anew."""
    return path.get("d").count("M")


def test_a_value_that_is_no_number_is_a_gap():
    whole = line_chart([Line("loss", [3.0, 2.0, 1.5, 1.0, 0.5])], "loss")
    broken = line_chart([Line("loss", [3.0, 2.0, math.nan, 1.0, 0.5])], "loss")
    assert [pens(p) for p in parts(whole, "line")] == [1]
    assert [pens(p) for p in parts(broken, "line")] == [2]
    assert whole.count("<circle") == 5 and broken.count("<circle") == 4
    assert "nan" not in broken.lower()


@pytest.mark.parametrize("values", [[], [None, None], [math.nan], [math.inf, -math.inf]])
@pytest.mark.parametrize("log", [False, True])
def test_nothing_to_draw_is_said(values, log):
    drawn = line_chart([Line("loss", values)], "loss", log=log)
    assert "no finite values" in drawn and "<circle" not in drawn
    ElementTree.fromstring(drawn)


def test_zero_has_no_logarithm():
    drawn = line_chart([Line("penalty", [1.0, 0.0, 0.1])], "penalty", log=True)
    assert pens(parts(drawn, "line")[0]) == 2
    linear = line_chart([Line("penalty", [1.0, 0.0, 0.1])], "penalty")
    assert pens(parts(linear, "line")[0]) == 1


def test_points_lie_where_their_values_say():
    drawn = line_chart([Line("a", [0.0, 1.0, 2.0])], "a")
    dots = [e for e in ElementTree.fromstring(drawn) if e.tag == "circle"]
    x, y = ([float(dot.get(axis)) for dot in dots] for axis in ("cx", "cy"))
    assert x[1] - x[0] == pytest.approx(x[2] - x[1], abs=0.11)  # written to a tenth
    assert y[0] - y[1] == pytest.approx(y[1] - y[2], abs=0.11) and y[0] > y[2]
    assert all(0 < v < WIDTH for v in x) and all(TOP <= v < HEIGHT for v in y)


def test_stages_and_cuts_are_marked():
    drawn = line_chart(
        [Line("a", [1.0] * 10)],
        "a",
        spans=[Span("dense", 0, 5), Span(NASTY, 5, 10)],
        marks=[(5, True), (7, False)],
        level=0.9,
    )
    assert len(parts(drawn, "band0")) == len(parts(drawn, "band1")) == 1
    long, short = (p.get("d") for p in parts(drawn, "mark"))
    assert f" {TOP:.1f}V" in long and f" {TOP:.1f}V" not in short
    assert len(parts(drawn, "level")) == 1
    assert "<script>" not in drawn


def test_names_are_harmless():
    for drawn in (
        line_chart([Line(NASTY, [1.0, 2.0])], NASTY),
        spectrum_chart([2.0, 1.0], NASTY, rank=1),
    ):
        root = ElementTree.fromstring(drawn)
        assert root.get("aria-label") == NASTY
        assert not [e for e in root.iter() if e.tag == "script"]


def test_a_cut_stands_at_its_rank():
    drawn = spectrum_chart([4.0, 3.0, 2.0, 1.0], "four", rank=2, after=[3.9, 3.1])
    cut = float(re.findall(r"M([\d.]+)", parts(drawn, "cut")[0].get("d"))[0])
    before = re.findall(r"([\d.]+) ([\d.]+)", parts(drawn, "before")[0].get("d"))
    places = [float(x) for x, _ in before]
    assert places[1] < cut < places[2] and len(parts(drawn, "after")) == 1
    whole = spectrum_chart([4.0, 3.0], "two", rank=2)
    assert not parts(whole, "cut") and parts(whole, "kept")
    assert not parts(spectrum_chart([4.0, 3.0], "two"), "kept")


def test_long_spectra_are_thinned_but_keep_their_ends():
    values = [1.0 - i / 2000 for i in range(2000)]
    path = parts(spectrum_chart(values, "long"), "before")[0].get("d")
    points = re.findall(r"([\d.]+) [\d.]+", path)
    short = parts(spectrum_chart(values[:POINTS], "short"), "before")[0].get("d")
    assert len(points) == POINTS == short.count("L") + 1


@pytest.mark.parametrize("values", [[], [0.0, 0.0], [1.0], [1.0, 0.0, 0.0], [math.nan, 1.0]])
def test_odd_spectra(values):
    drawn = spectrum_chart(values, "odd", rank=min(1, len(values)))
    ElementTree.fromstring(drawn)
    assert "nan" not in drawn and "inf" not in drawn


@pytest.mark.parametrize(
    ("spectra", "floor"),
    [
        ([], 0.1),
        ([[0.0]], 0.1),
        ([[5.0, 4.0]], 0.1),
        ([[100.0, 0.4]], 1e-3),
        ([[1.0] * 99 + [1e-12]], 0.1),  # one tiny value must not flatten all
        ([[1.0, 1e-30]], 1e-6),
    ],
)
def test_one_axis_for_all_spectra(spectra, floor):
    assert shared_floor(spectra) == pytest.approx(floor)


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0.913, 0.917), (1e-9, 3e-9), (-5, 12_345), (99, 99.5)]
)
def test_ticks_are_few_and_inside(low, high):
    found = ticks(low, high)
    room = (high - low) * 1e-6
    assert 2 <= len(found) <= 6
    assert low - room <= found[0] and found[-1] <= high + room
    steps = {round((b - a) / (high - low), 6) for a, b in itertools.pairwise(found)}
    assert len(steps) == 1
