import json

import pytest
import torch
from torch import nn

from lorank.compression.operator import operators
from lorank.compression.operator_cut import cut_errors
from lorank.report.operators import draw_operators, operator_rows


@pytest.fixture(scope="module")
def rows():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 2, (1, 3)))
    x = torch.zeros(1, 2, 5, 6)
    return operator_rows(operators(model, x), cut_errors(model, {"0": 1}, x))


def test_rows_are_ready_for_json(rows):
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    assert [row["cut"] is None for row in rows] == [False, True]
    assert rows[1]["padding"] == [0, 0]


@pytest.mark.parametrize("form", ["png", "svg", "pdf"])
def test_operators_are_drawn(tmp_path, rows, form):
    pytest.importorskip("matplotlib")
    draw_operators(tmp_path / f"spectra.{form}", rows, title="two layers")
    draw_operators(tmp_path / "unnamed", rows, form=form)
    for path in tmp_path.iterdir():
        assert path.stat().st_size > 4000


def test_what_is_in_the_picture(tmp_path, rows):
    matplotlib = pytest.importorskip("matplotlib")
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        draw_operators(tmp_path / "spectra.svg", rows, title="two layers")
    text = (tmp_path / "spectra.svg").read_text()
    for word in ("two layers", "0  5×6, exact", "certified norm", "reshaped kernel's norm"):
        assert word in text


def test_no_layers_at_all(tmp_path):
    pytest.importorskip("matplotlib")
    draw_operators(tmp_path / "none.png", [])
    assert (tmp_path / "none.png").exists()
