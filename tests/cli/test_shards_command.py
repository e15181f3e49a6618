"""``lorank compress hf:FOLDER -o FOLDER``: the command around the tensor-by-tensor run."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "files"))
from folders import contents, make


@pytest.fixture
def dense(tmp_path):
    return make(tmp_path / "dense")


def test_a_folder_becomes_a_smaller_one(lorank, dense, tmp_path):
    out = tmp_path / "small"
    done = lorank("compress", f"hf:{dense}", "--params", "0.6", "-o", out)
    assert "model.layers.0.up" in done.out and "Parameters: " in done.out
    assert "told by their names" in done.err
    again = lorank("compress", f"hf:{dense}", "--params", "0.6", "-o", out, "--json").json
    assert again["after"]["params"] <= 0.6 * again["before"]["params"]
    assert again["run"]["asked"] == {"params": 0.6}


@pytest.mark.parametrize("target", [("--rule", "energy:0.9"), ("--macs", "0.5")])
def test_every_kind_of_target(target, lorank, dense, tmp_path):
    answer = lorank("compress", f"hf:{dense}", *target, "-o", tmp_path / "s", "--json").json
    assert answer["after"]["macs"] < answer["before"]["macs"]


def test_ranks_in_multiples_and_layers_left_alone(lorank, dense, tmp_path):
    more = ("--multiple", "4", "--skip", "*.down", "-o", tmp_path / "s", "--json")
    answer = lorank("compress", f"hf:{dense}", "--params", "0.8", *more).json
    assert {row["rank"] % 4 for row in answer["layers"]} == {0}
    assert all(row["layer"].endswith("up") for row in answer["layers"])


def test_one_of_several_processes_says_nothing(lorank, dense, tmp_path, monkeypatch):
    whole = tmp_path / "whole"
    lorank("compress", f"hf:{dense}", "--params", "0.6", "-o", whole)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    done = lorank("compress", f"hf:{dense}", "--params", "0.6", "-o", whole)
    assert done.out == done.err == ""  # the run had ended, and the other process says so


def test_refusals(refused, dense, tmp_path):
    ask = ("compress", f"hf:{dense}", "-o", tmp_path / "small")
    assert "give one of --macs, --params" in refused(*ask)
    assert "without running the model: --input cannot" in refused(
        *ask, "--params", "0.5", "--input", "8:int"
    )
    assert "cannot be reached" in refused(*ask, "--params", "0.01")
    words = refused("compress", "hf:no/such", "--params", "0.5", "-o", tmp_path / "other")
    assert "download it first" in words
    assert "must lie outside" in refused("compress", f"hf:{dense}", "--params", "0.5", "-o", dense)
    assert set(contents(tmp_path / "small")) >= {".lorank-run/run.json"}  # can go on
