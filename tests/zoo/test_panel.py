"""Economic panels: FRED-MD's CSV and R's data frames, from made-up files."""

import sys
import types

import numpy as np
import pytest

from lorank.errors import LorankError, MissingExtraError
from lorank.zoo.panel import Panel, read_panel

FRED = """sasdate,RPI,IPDMAT,UNRATE
Transform:,5,5.0,2
1/1/1983,100,50,10
2/1/1983,110,51,
3/1/1983,121,52,9.5
,,,
"""


@pytest.fixture
def fred(tmp_path):
    place = tmp_path / "fred_md.csv"
    place.write_text(FRED)
    return place


def test_fred_md(fred):
    panel = read_panel(fred)
    assert panel.dates == ("1983-01", "1983-02", "1983-03")
    assert panel.names == ("RPI", "IPDMAT", "UNRATE")
    assert panel.codes == (5, 5, 2)
    assert panel.values[2].tolist() == [121, 52, 9.5]
    assert np.isnan(panel.values[1, 2]) and np.isnan(panel.values).sum() == 1


def test_choosing(fred):
    panel = read_panel(fred).take(["UNRATE", "RPI"]).between("1983-02", "1983-12")
    assert panel.dates == ("1983-02", "1983-03")
    assert panel.codes == (2, 5)
    assert panel.values[1].tolist() == [9.5, 121]
    with pytest.raises(LorankError, match="did you mean 'UNRATE'"):
        panel.take(["UNRAT"])
    with pytest.raises(LorankError, match="at least one series"):
        panel.take([])
    with pytest.raises(LorankError, match="no date of the panel, 1983-02 to 1983-03"):
        panel.between("1990-01", "1991-01")


def test_growth(fred):
    found = read_panel(fred).take(["RPI"]).growth()
    assert found.dates == ("1983-02", "1983-03")
    assert np.allclose(found.values[:, 0], 100 * np.log(1.1))


def test_every_code():
    x = np.array([1.0, 2.0, 4.0, 7.0])
    panel = Panel(tuple("abcd"), tuple("1234567"), np.tile(x[:, None], 7), (1, 2, 3, 4, 5, 6, 7))
    found = panel.transformed().values
    log = np.log(x)
    change = x[1:] / x[:-1] - 1
    nan = np.nan
    expected = [
        x,
        [nan, *np.diff(x)],
        [nan, nan, *np.diff(x, 2)],
        log,
        [nan, *np.diff(log)],
        [nan, nan, *np.diff(log, 2)],
        [nan, nan, *np.diff(change)],
    ]
    assert np.allclose(found.T, expected, equal_nan=True)


def test_r_data(tmp_path):
    pyreadr = pytest.importorskip("pyreadr", reason="R's files need the extra 'panel'")
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(
        {"date": ["1947-01-01", "1947-02-01"], "total": [10.0, np.nan], "mining": [3.0, 4.0]}
    )
    pyreadr.write_rdata(str(tmp_path / "ip.rda"), frame, df_name="IPindices")
    panel = read_panel(tmp_path / "ip.rda")
    assert (panel.dates, panel.names) == (("1947-01", "1947-02"), ("total", "mining"))
    assert panel.values[0].tolist() == [10, 3] and np.isnan(panel.values[1, 0])
    (tmp_path / "bad.rda").write_bytes(b"not R")
    with pytest.raises(LorankError, match="no data of R"):
        read_panel(tmp_path / "bad.rda")


def test_a_frame_without_dates(tmp_path, monkeypatch):
    """As BVAR's fred_md.rda is; a stand-in for pyreadr gives what pyreadr gives for it."""
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"RPI": [2583.56, 2593.6, 2610.4], "CLAIMS": [291.0, None, 294.0]})
    _stand_in(monkeypatch, frame)
    place = tmp_path / "fred_md.rda"
    place.write_bytes(b"RDX3")
    with pytest.raises(LorankError, match=r"row 0 and RPI 2583.56; give start='1959-01'"):
        read_panel(place)
    panel = read_panel(place, start="1959-11")
    assert panel.dates == ("1959-11", "1959-12", "1960-01")
    assert panel.names == ("RPI", "CLAIMS")
    assert panel.values[:, 0].tolist() == frame["RPI"].tolist() and np.isnan(panel.values[1, 1])
    with pytest.raises(LorankError, match="a month is written like 1984-01, found '1959'"):
        read_panel(place, start="1959")
    for dated in (
        frame.set_index(pandas.Index(["1959-01-01", "1959-02-01", "1959-03-01"])),
        frame.assign(RPI=["1959-01-01", "1959-02-01", "1959-03-01"]),
    ):
        _stand_in(monkeypatch, dated)
        assert read_panel(place).dates == ("1959-01", "1959-02", "1959-03")
        with pytest.raises(LorankError, match="start is for rows without dates, found 1959-01"):
            read_panel(place, start="1959-01")
    for empty in (frame[[]], frame[:0]):
        _stand_in(monkeypatch, empty)
        with pytest.raises(LorankError, match="one date and one cell"):
            read_panel(place, start="1959-01")
    (tmp_path / "panel.csv").write_text(FRED)
    with pytest.raises(LorankError, match="not for a CSV"):
        read_panel(tmp_path / "panel.csv", start="1959-01")


def _stand_in(monkeypatch, frame):
    reader = types.SimpleNamespace(read_r=lambda path: {"frame": frame})
    monkeypatch.setitem(sys.modules, "pyreadr", reader)


def test_without_pyreadr(tmp_path, monkeypatch):
    (tmp_path / "ip.rda").write_bytes(b"RDX3")
    monkeypatch.setitem(sys.modules, "pyreadr", None)
    with pytest.raises(MissingExtraError, match=r"lorank\[panel\]"):
        read_panel(tmp_path / "ip.rda")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "one date and one cell"),
        ("date,a\n1984-01,1\n1984-02,1,2\n", "one date and one cell"),
        ("date,a\n1984-01,one\n", "a number, found 'one'"),
        ("date,a\nspring,1\n", "a date is like 1984-01"),
        ("date,a\n1984-02,1\n1984-01,2\n", "ascend"),
        ("date,a\nTransform:,9\n1984-02,1\n", "from 1 to 7"),
        ("date,a\nTransform:,\n1984-02,1\n", "from 1 to 7"),
        ("date,a\nTransform:,inf\n1984-02,1\n", "from 1 to 7"),
        ("date,a\nTransform:,5.7\n1984-02,1\n", "from 1 to 7"),
        ("date,a\n1984-01,1_000\n", "a number, found '1_000'"),
        ("date,a\n١٩٨٤-01,1\n", "a date is like 1984-01"),
        ("date,a\nTransform:,5,5\n1984-02,1\n", "one code"),
        ("date,a\nTransform:,5\n", "one date and one cell"),
        ("date\n1984-01\n", "one date and one cell"),
        ("date,a\n1984-13,1\n", "month from 1 to 12, found '1984-13'"),
        ("date,a\n13/1/1984,1\n", "month from 1 to 12"),
        ("date,a\n1984Q1,1\n", "a date is like 1984-01"),
        ("date,a\n1984-011,1\n", "a date is like 1984-01"),
        ("date,a\n1984-01,inf\n", "a number, found 'inf'"),
        ("date,a,a\n1984-01,1,2\n", "found 'a' twice"),
        ("date;a\n1984-01;1\n", "one date and one cell"),
    ],
)
def test_damaged_files(tmp_path, text, sentence):
    place = tmp_path / "panel.csv"
    place.write_text(text, encoding="utf-8")
    with pytest.raises(LorankError, match=sentence):
        read_panel(place)


def test_a_file_cut_anywhere_is_read_or_refused(fred, tmp_path):
    """What is left of a file has its first dates, or gets one sentence."""
    text, whole = FRED.removesuffix(",,,\n"), read_panel(fred)
    for length in range(len(text)):
        (tmp_path / "cut.csv").write_text(text[:length])
        try:
            panel = read_panel(tmp_path / "cut.csv")
        except LorankError:
            continue
        assert panel.dates == whole.dates[: len(panel.dates)]
        assert panel.names == whole.names
    (tmp_path / "cut.csv").write_bytes(b"date,a\n\xff\xfe\x00")
    with pytest.raises(LorankError, match="no text with commas"):
        read_panel(tmp_path / "cut.csv")


def test_months_that_are_none(fred):
    for start in ("1984", "1983-2", "1983-13", 1983):
        with pytest.raises(LorankError, match="a month is written like 1984-01"):
            read_panel(fred).between(start, "1983-12")


def test_files_that_are_none(tmp_path):
    with pytest.raises(LorankError, match="there is no file"):
        read_panel(tmp_path / "panel.csv")
    with pytest.raises(LorankError, match="ending of a panel"):
        read_panel(tmp_path / "panel.xls")


def test_what_cannot_be_transformed():
    panel = Panel(("a", "b"), ("x",), np.array([[1.0], [-1.0]]))
    with pytest.raises(LorankError, match="had none"):
        panel.transformed()
    with pytest.raises(LorankError, match="found -1 in 'x'"):
        panel.growth()
    with pytest.raises(LorankError, match="between two dates, found 1"):
        Panel(("a",), ("x",), np.ones((1, 1))).growth()
    with pytest.raises(LorankError, match="other than 0: 'x'"):
        Panel(("a", "b"), ("x",), np.array([[0.0], [1.0]]), (7,)).transformed()
