"""``lorank inspect --operator``: the figures of the library, a picture, clear refusals."""

import pytest
import torch

from lorank.compression.lipschitz import lipschitz
from lorank.compression.operator import operators
from lorank.zoo import load_model

NET = ("resnet8", "--option", "width=4", "--input", "3,8,8")
NETS = """
from torch import nn

def mirrored():
    return nn.Sequential(nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), nn.Conv2d(3, 4, 3))
"""


@pytest.fixture
def nets(tmp_path, monkeypatch):
    (tmp_path / "nets_with_operators.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)


def test_figures_are_those_of_the_library(lorank):
    answer = lorank("inspect", *NET, "--operator", "--json").json
    torch.manual_seed(0)
    model = load_model("resnet8", width=4)
    example = torch.zeros(1, 3, 8, 8)
    found = operators(model, example)
    assert [row["layer"] for row in answer["operators"]] == list(found)
    ranks = {row["layer"]: row["energy_rank"] for row in answer["layers"]}
    for row in answer["operators"]:
        assert row["upper"] == pytest.approx(found[row["layer"]].upper)
        assert row["size"] == list(found[row["layer"]].size)
        assert row["cut"]["rank"] == ranks[row["layer"]]
        assert row["cut"]["norm"][0] <= row["cut"]["norm"][1]
    constant = lipschitz(model, example).constant
    assert answer["certificate"]["constant"] == pytest.approx(constant)
    assert "operators" not in lorank("inspect", *NET, "--json").json


def test_the_table_and_the_picture(lorank, tmp_path):
    pytest.importorskip("matplotlib")
    shown = lorank("inspect", *NET, "--plot", tmp_path / "spectra.svg").out
    assert "layer3.0.conv2" in shown and "Certified for the whole network" in shown
    assert "<svg" in (tmp_path / "spectra.svg").read_text()[:1000]
    assert [p.name for p in tmp_path.iterdir()] == ["spectra.svg"]


def test_what_cannot_be_described_is_told(lorank, nets):
    spec = ("nets_with_operators:mirrored", "--input", "2,8,8", "--operator")
    answer = lorank("inspect", *spec, "--json").json
    assert [row["layer"] for row in answer["operators"]] == ["1"]
    assert "reflect" in answer["operators_skipped"][0]["reason"]
    assert answer["certificate"]["constant"] is None
    assert "layer '0'" in answer["certificate"]["refused"]
    shown = lorank("inspect", *spec).out
    assert "0 is not described" in shown and "No certificate" in shown


def test_bad_pictures_are_refused_before_any_work(refused, tmp_path):
    assert ".png, .svg, .pdf" in refused("inspect", *NET, "--plot", tmp_path / "spectra.txt")
    assert "folder" in refused("inspect", *NET, "--plot", tmp_path / "none" / "spectra.png")


def test_a_network_without_convolutions(refused):
    assert "needs convolutions" in refused("inspect", "mlp", "--operator")
