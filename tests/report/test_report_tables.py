import json

import pytest
import torch
from torch import nn

import lorank
from lorank.nn.surgery import sites
from lorank.ranks import Price, Spectrum
from lorank.report import (
    cut_rows,
    layer_rows,
    relative,
    skipped_rows,
    sparkline,
    totals,
)
from lorank.report.tables import kind


def net():
    return nn.Sequential(
        nn.Conv2d(4, 8, (3, 1), groups=2), nn.Flatten(), nn.Linear(8 * 4 * 6, 8), nn.LSTM(8, 4)
    )


IMAGE = torch.zeros(1, 4, 6, 6)


def rows_of(model, keep=0.8):
    spectra = lorank.measure(model, IMAGE)
    return spectra, layer_rows(model, spectra, keep)


def test_a_row_a_layer_ready_for_json():
    spectra, rows = rows_of(net())
    assert json.loads(json.dumps(rows)) == rows
    conv, linear = rows
    assert (conv["layer"], conv["kind"], conv["groups"]) == ("0", "Conv2d 3×1", 2)
    assert (linear["layer"], linear["kind"], linear["groups"]) == ("2", "Linear", 1)
    assert linear["matrix"] == [8, 192] and linear["full_rank"] == 8
    assert linear["break_even"] == spectra["2"].break_even == 7
    assert linear["energy_rank"] == lorank.ranks.energy(spectra, 0.8)["2"]
    assert linear["macs"] == 8 * 192
    assert linear["macs_kept"] == spectra["2"].cost(linear["energy_rank"], "macs")


def test_without_an_example_there_are_no_macs():
    spectra = lorank.measure(net())
    assert not any("macs" in row for row in layer_rows(net(), spectra, 0.9))
    found = totals(spectra, {})
    assert found["macs"] is None and found["params"] == found["params_kept"]


def test_a_layer_in_svd_form_has_its_kernel():
    low = lorank.decompose(nn.Sequential(nn.Conv2d(4, 4, 3)), {"0": 2})
    assert kind(sites(low)[0]) == "SVDConv 3×3"
    assert len(layer_rows(low, lorank.measure(low), 0.9)[0]["spectrum"]) == 2


def test_skipped_weights_have_reasons():
    model = nn.ModuleDict(
        {
            "fc": nn.Linear(9, 9),
            "table": nn.Embedding(5, 3),
            "rnn": nn.GRU(3, 3),
            "head": nn.Linear(9, 2),
        }
    )
    rows = skipped_rows(model, lorank.measure(model, skip=["head"]))
    assert {row["layer"]: row["reason"] for row in rows} == {
        "table": "only looked up, at no MACs",
        "rnn": "GRU has no SVD form here",
        "head": "left out as asked",
    }
    assert len(rows) == 3  # the GRU once, with all its weights
    assert {row["layer"]: row["params"] for row in rows} == {"table": 15, "rnn": 54, "head": 18}


def test_what_becomes_of_a_layer():
    model = net()
    spectra = lorank.measure(model, IMAGE)
    full, dear, cut = (cut_rows(spectra, {"2": rank})[1] for rank in (8, 7, 2))
    assert full["stays_dense"] == "full rank was chosen" and full["energy"] == 1
    assert dear["stays_dense"] is None or "saves nothing" in dear["stays_dense"]
    assert cut["stays_dense"] is None and cut["rank"] == 2
    assert cut["macs_kept"] == 2 * (8 + 192) and cut["params_kept"] == 2 * (8 + 192)
    values = spectra["2"].values.double() ** 2
    assert cut["energy"] == pytest.approx(float(values[:2].sum() / values.sum()))
    assert cut_rows(spectra, {})[0]["stays_dense"] == "not chosen"


def test_a_rank_that_does_not_pay_leaves_the_layer_as_it_is():
    square = {"fc": Spectrum(torch.ones(8), (8, 8), "channel", Price(64, 16), Price(64, 16))}
    row = cut_rows(square, {"fc": 6})[0]
    assert row["stays_dense"] == "rank 6 of 8 saves nothing, only ranks up to 3 do"
    assert row["rank"] == 8 and row["energy"] == 1 and row["macs_kept"] == 64
    thin = {"fc": Spectrum(torch.ones(2), (2, 2), "channel", Price(4, 4))}
    said = cut_rows(thin, {"fc": 1})[0]["stays_dense"]
    assert said == "rank 1 of 2 saves nothing, and no rank does"


def test_totals_are_those_of_cost():
    model = net()
    spectra = lorank.measure(model, IMAGE)
    found = totals(spectra, {"2": 2})
    low = lorank.cost(lorank.fold(lorank.decompose(model, {"2": 2})), IMAGE)
    whole = lorank.cost(model, IMAGE)
    assert (found["params"], found["macs"]) == (whole.params, whole.macs)
    assert (found["params_kept"], found["macs_kept"]) == (low.params, low.macs)


def test_spectra_are_relative_and_groups_pooled():
    two = Spectrum(torch.tensor([[3.0, 0.0], [4.0, 1.0]]), (2, 4), "channel", Price(8, 6))
    assert relative(two) == [1.0, 0.2]
    zero = Spectrum(torch.zeros(2), (2, 2), "channel", Price(4, 4))
    assert relative(zero) == [0.0, 0.0]


@pytest.mark.parametrize(
    ("values", "width", "drawn"),
    [
        ([], 8, ""),
        ([1.0], 8, "█"),
        ([0.0, 0.0], 8, "▁▁"),
        ([1.0, 1.0, 0.0, 0.0], 2, "█▁"),
        ([i / 7 for i in range(7, -1, -1)], 8, "█▇▆▅▄▃▂▁"),
    ],
)
def test_sparkline(values, width, drawn):
    assert sparkline(values, width) == drawn


def test_a_layer_that_no_input_reaches_was_not_left_out():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    spectra = lorank.measure(model, skip=["1"])
    assert [row["reason"] for row in skipped_rows(model, spectra)] == ["left out as asked"]
    (row,) = skipped_rows(model, spectra, unreached=["1"])
    assert row["reason"] == "the inputs of --calibrate do not reach it"
