import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from lorank.compression import cost, measure
from lorank.errors import LorankError
from lorank.files import load
from lorank.report.page import render
from lorank.training.log import NAME as LOG
from lorank.training.log import read_log
from lorank.training.presets import practical
from lorank.training.record import read_run
from lorank.training.run import train
from lorank.training.spectra import NAME as SPECTRA
from lorank.training.spectra import read_spectra
from training.conftest import Problem, flip, images, small_net

ORIGIN = {"command": "lorank train net --data x", "versions": {"torch": "2"}}


@pytest.fixture(scope="module")
def recipe():
    return practical(epochs=4, dense_epochs=2, macs=0.5)


@pytest.fixture
def broken_off(net, problem, recipe, tmp_path, monkeypatch):
    """Make the folder of a run that broke off after some epochs."""

    def break_off(epochs):
        from lorank.training import run

        whole, left = run.train_epoch, [epochs]

        def breaking(*args):
            if not left[0]:
                raise InterruptedError
            left[0] -= 1
            return whole(*args)

        monkeypatch.setattr(run, "train_epoch", breaking)
        with pytest.raises(InterruptedError):
            train(net, problem, recipe, tmp_path / "run", quiet=True)
        return tmp_path / "run"

    return break_off


@pytest.fixture(scope="module")
def once(recipe, tmp_path_factory):
    """The folder of a run that has ended; nobody changes it."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    torch.manual_seed(0)
    net = small_net()
    problem = Problem(images(192, 0), images(120, 1), flip)
    train(net, problem, recipe, folder, quiet=True, info={"model": "net"}, origin=ORIGIN)
    return folder


@pytest.fixture
def ended(once, tmp_path):
    """A copy of it to change."""
    return Path(shutil.copytree(once, tmp_path / "run"))


def test_a_run_is_read_whole(ended, net, recipe):
    record, result = read_run(ended), json.loads((ended / "result.json").read_text())
    assert record.ended and record.kind == "train" and record.title == "run"
    assert record.before.accuracy == result["dense_accuracy"]
    assert record.after.accuracy == result["accuracy"]
    assert record.before.macs == cost(net, torch.zeros(1, 1, 8, 8)).macs
    assert {u: getattr(record.after, u) for u in ("macs", "params", "bytes")} == result["cost"]
    assert record.after.file_bytes == (ended / "model.safetensors").stat().st_size
    assert record.command == ORIGIN["command"] and record.versions == ORIGIN["versions"]
    assert record.facts == {"model": "net"} and record.seed == recipe.seed
    assert record.recipe == recipe.model_dump(mode="json") and record.notes == []
    log = [e for e in read_log(ended) if e["event"] == "epoch"]
    assert [e.stage for e in record.epochs] == [e["stage"] for e in log]
    assert [e.terms["loss"] for e in record.epochs] == [e["loss"] for e in log]
    assert [e.accuracy for e in record.epochs] == [e["accuracy"] for e in log]
    # at the last ranks the network costs what the folded one was counted to cost
    assert record.epochs[-1].macs == result["cost"]["macs"]
    json.dumps(record.plain(), allow_nan=False)


def test_the_layers_are_those_of_the_networks(ended, net):
    record = read_run(ended)
    ranks = json.loads((ended / "result.json").read_text())["ranks"]
    dense, low = load(ended / "dense.safetensors", net), load(ended / "svd.safetensors", net)
    before = measure(dense, torch.zeros(1, 1, 8, 8))
    after = measure(low, layers=list(ranks))
    assert [layer.layer for layer in record.layers] == list(before)
    for layer in record.layers:
        found = before[layer.layer]
        assert layer.layout == found.layout and layer.matrix == found.shape
        # six digits are kept: half of one in the sixth
        torch.testing.assert_close(
            torch.tensor(layer.before), found.values.float(), rtol=6e-6, atol=0
        )
        torch.testing.assert_close(
            torch.tensor(layer.after), after[layer.layer].values.float(), rtol=6e-6, atol=0
        )
        if layer.stays_dense is None:
            assert layer.rank == ranks[layer.layer] == len(layer.after)
            assert layer.macs_kept == found.cost(layer.rank, "macs")
    assert any(layer.stays_dense is None for layer in record.layers)


def test_energy_is_what_the_cuts_kept(ended):
    record = read_run(ended)
    kept = dict.fromkeys((layer.layer for layer in record.layers), 1.0)
    for event in read_log(ended):
        if event["event"] in ("cut", "truncate"):
            assert event["energy"].keys() == event["ranks"].keys()
            for name, share in event["energy"].items():
                assert 0 < share <= 1
                kept[name] *= share
    assert {layer.layer: layer.energy for layer in record.layers} == pytest.approx(kept)
    assert min(kept.values()) < 1


@pytest.mark.parametrize("epochs", [0, 1, 5])
def test_a_run_that_has_not_ended(broken_off, recipe, epochs):
    record = read_run(broken_off(epochs))
    planned = sum(stage.epochs for stage in recipe.stages)
    assert not record.ended and record.after is None and len(record.epochs) == epochs
    assert f"{epochs} of {planned} epochs" in record.notes[0]
    assert "not ended" in render(record)


def test_before_its_first_cut_a_run_has_no_choice(broken_off, recipe):
    dense = recipe.stages[0].epochs
    folder = broken_off(dense)  # decomposed, nothing trained in SVD form
    record = read_run(folder)
    assert record.layers and all(layer.before for layer in record.layers)
    assert {(layer.rank, layer.energy, layer.macs_kept) for layer in record.layers} == {
        (None, None, None)
    }
    assert record.before.accuracy is not None


def test_resuming_keeps_how_it_began(broken_off, net, problem, recipe, monkeypatch):
    folder = broken_off(5)
    monkeypatch.undo()
    train(net, problem, recipe, folder, quiet=True, origin={"command": "another"})
    record = read_run(folder)
    assert record.ended and record.command is None  # the first one had none
    assert all(layer.after for layer in record.layers)


def test_an_ended_run_without_spectra_gets_them(ended, net, problem, recipe):
    whole = (ended / SPECTRA).read_text()
    (ended / SPECTRA).unlink()
    bare = read_run(ended)
    assert bare.layers == [] and SPECTRA in bare.notes[0] and bare.epochs
    assert "Layers" not in render(bare).split("<body>")[1]
    train(net, problem, recipe, ended, quiet=True, info={"model": "net"})
    again, first = json.loads((ended / SPECTRA).read_text()), json.loads(whole)
    assert [row["layer"] for row in again["layers"]] == [row["layer"] for row in first["layers"]]
    for old, new in zip(first["layers"], again["layers"], strict=True):
        assert new["before"] == pytest.approx(old["before"], rel=1e-5)


def test_groups_are_pooled(problem, recipe, tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, groups=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 3),
    )
    train(net, problem, recipe, tmp_path, quiet=True)
    layer = next(layer for layer in read_run(tmp_path).layers if layer.groups > 1)
    assert layer.groups == 2 and len(layer.before) == layer.full_rank
    before = measure(load(tmp_path / "dense.safetensors", net))[layer.layer]
    assert before.values.shape[0] == 2
    assert sum(v * v for v in layer.before) == pytest.approx(float((before.values**2).sum()), 1e-5)
    assert "Groups" in render(read_run(tmp_path))


def test_a_torn_last_line_is_left_out(ended):
    log = ended / LOG
    log.write_bytes(log.read_bytes()[:-40])
    record = read_run(ended)
    assert not record.ended and any("cut off" in note for note in record.notes)


def test_losses_that_are_no_numbers_are_gaps(ended):
    events = read_log(ended)
    at = [i for i, e in enumerate(events) if e["event"] == "epoch"]
    events[at[2]]["loss"], events[at[3]]["loss"] = math.nan, math.inf
    (ended / LOG).write_text("".join(json.dumps(e) + "\n" for e in events))
    record = read_run(ended)
    losses = [e.terms["loss"] for e in record.epochs]
    assert losses[2] is None and losses[3] is None and losses[4] is not None
    json.dumps(record.plain(), allow_nan=False)


def spoil(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("name", "spoiled", "said"),
    [
        (LOG, lambda p: p.write_text(""), "holds no whole line"),
        (LOG, lambda p: p.write_text('{"event": 1}\n'), "damaged in line 1: event"),
        (LOG, lambda p: p.write_text("[]\n"), "damaged in line 1"),
        (LOG, lambda p: p.write_bytes(b"\xff\xfe\n"), "damaged in line 1"),
        (LOG, lambda p: spoil(p, '"event": "epoch",', '"event" "epoch",'), "damaged in line"),
        (LOG, lambda p: spoil(p, '"ranks": {', '"ranks": 7, "x": {'), "damaged in line"),
        (LOG, lambda p: spoil(p, '"stages": [', '"stages": [3, '), "damaged in line 1: stages.0"),
        (LOG, lambda p: p.unlink(), f"holds {LOG}, found none"),
        (SPECTRA, lambda p: p.write_text(p.read_text()[:99]), "is damaged or no JSON"),
        (SPECTRA, lambda p: p.write_text("[" * 100_000), "is damaged or no JSON"),
        (SPECTRA, lambda p: p.write_text("{}"), "is no lorank spectra"),
        (SPECTRA, lambda p: spoil(p, '"version": 1', '"version": 2'), "has version 2"),
        (SPECTRA, lambda p: spoil(p, '"layout": "', '"lay": "'), "layers.0.layout"),
        (SPECTRA, lambda p: spoil(p, '"before": [', '"before": ["a", '), "layers.0.before.0"),
        (SPECTRA, lambda p: spoil(p, '"before": [', '"before": [NaN, '), "NaN is no number"),
        (SPECTRA, lambda p: spoil(p, '"before": [', '"before": [1e-9, '), "is damaged"),
        (SPECTRA, lambda p: spoil(p, '"before": [', '"before": [], "b": ['), "is damaged"),
    ],
)
def test_a_damaged_file_is_named(ended, name, spoiled, said):
    spoiled(ended / name)
    with pytest.raises(LorankError) as caught:
        read_run(ended)
    told = str(caught.value)
    assert said in told and "\n" not in told
    assert str(ended / name) in told or str(ended) in told


def test_what_is_no_run(tmp_path):
    with pytest.raises(LorankError, match="a run is a folder, and there is none"):
        read_run(tmp_path / "nowhere")
    with pytest.raises(LorankError, match=r"holds log\.jsonl, found none"):
        read_run(tmp_path)


def test_a_run_that_never_decomposed_has_no_spectra(tmp_path):
    assert read_spectra(tmp_path) is None
