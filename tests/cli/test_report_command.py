import json
import re
import shutil
from pathlib import Path

import pytest
import torch

import lorank as library
from lorank.cli.record import read_record
from lorank.report.page import GENERATOR
from lorank.zoo import load_model

FAST = ("--repeats", "3", "--warmup", "1", "--threads", "1")


@pytest.fixture
def run(ended, tmp_path):
    """A copy of a run, to change."""
    return Path(shutil.copytree(ended.folder, tmp_path / "digits"))


@pytest.fixture
def record(lorank, ended, tmp_path):
    """The record of a compression, and what the command answered."""
    dense, out, path = ended.folder / "dense.safetensors", tmp_path / "s.safetensors", "r.json"
    typed = ("compress", dense, "--macs", "0.5", "-o", out, "--data", "digits")
    answer = lorank(*typed, "--record", tmp_path / path, "--json").json
    return tmp_path / path, answer


def words(page):
    """What a person reads on a page."""
    return " ".join(re.sub(r"<(style|script)>.*?</\1>|<[^>]+>", " ", page, flags=re.S).split())


def test_a_run_becomes_a_page(lorank, run, ended):
    answer = lorank("report", run, "--json").json
    page = (run / "report.html").read_text()
    assert answer["page"] == str(run / "report.html") and answer["ended"]
    assert answer["page_bytes"] == len(page.encode()) < 300_000
    result = json.loads((run / "result.json").read_text())
    shown = words(page)
    for accuracy in (result["accuracy"], result["dense_accuracy"]):
        assert f"{100 * accuracy:.2f} %" in shown
    typed = "lorank train resnet8 --option width=8 --data digits --no-plot --dense-epochs 6"
    assert f"{typed} --epochs 6 --macs 0.5 --out {ended.folder}" in shown
    assert f"torch {torch.__version__}" in shown and f"lorank {library.__version__}" in shown
    assert "Asked: 50 % of the MACs." in shown
    assert answer["layers"] == len(result["ranks"]) and answer["epochs"] == 12
    assert all(name in shown for name in result["ranks"])
    assert f"Wrote {run / 'report.html'}" in lorank("report", run).out


def test_a_compression_becomes_a_page(lorank, record, ended):
    path, answer = record
    page = path.with_suffix(".html")
    done = lorank("report", path, "--json").json
    assert done["page"] == str(page) and done["epochs"] == 0
    shown = words(page.read_text())
    assert "Asked: 50 % of the MACs." in shown and "Training" not in shown
    assert f"--record {path}" in shown
    assert f"{100 * answer['after']['accuracy']:.2f} %" in shown
    for row in answer["layers"]:
        if row["stays_dense"] is None:
            assert f"rank {row['rank']} of {row['full_rank']}" in shown


def test_a_record_holds_what_was_measured(record, ended):
    path, answer = record
    found = read_record(path)
    options = {"in_channels": 1, "classes": 10, "size": 8, "width": 8}
    dense = library.load(ended.folder / "dense.safetensors", load_model("resnet8", **options))
    spectra = library.measure(dense, torch.zeros(1, 1, 8, 8))
    rows = {row["layer"]: row for row in answer["layers"]}
    assert [layer.layer for layer in found.layers] == list(spectra) == list(rows)
    for layer in found.layers:
        values = spectra[layer.layer].values
        torch.testing.assert_close(torch.tensor(layer.before), values, rtol=6e-6, atol=1e-6)
        assert layer.rank == rows[layer.layer]["rank"]
        assert layer.energy == rows[layer.layer]["energy"]
    assert found.after.macs == answer["after"]["macs"]
    assert found.after.file_bytes == answer["file_bytes"]
    assert found.before.file_bytes == (ended.folder / "dense.safetensors").stat().st_size
    assert found.plain() == json.loads(path.read_text()) | {"names": ("before", "after")} | {
        "layers": found.plain()["layers"]
    }


def test_measured_times_are_taken_along(lorank, run, record, tmp_path):
    answer = lorank("bench", run, *FAST, "--json")
    (run / "bench.json").write_text(answer.out)
    lorank("report", run)
    shown = words((run / "report.html").read_text())
    medians = [row["median"] for row in answer.json["models"]]
    assert "Measured time" in shown and "batch 1" in shown
    assert f"Latency, median {1000 * medians[1]:.3g} ms from {1000 * medians[0]:.3g} ms" in shown
    other = tmp_path / "other.json"
    other.write_text(answer.out)
    lorank("report", record[0], "--bench", other)
    assert "Measured time" in words(record[0].with_suffix(".html").read_text())
    lorank("report", record[0])
    assert "Measured time" not in words(record[0].with_suffix(".html").read_text())


def test_pictures_for_a_paper(lorank, run, record, tmp_path):
    pytest.importorskip("matplotlib")
    folder = tmp_path / "figures"
    drawn = lorank("report", run, "--pictures", folder, "--format", "svg", "--json").json
    assert drawn["pictures"] == [str(folder / "training.svg"), str(folder / "spectra.svg")]
    assert all(Path(path).read_text().startswith("<?xml") for path in drawn["pictures"])
    drawn = lorank("report", record[0], "--pictures", folder, "--json").json
    assert drawn["pictures"] == [str(folder / "spectra.png")]
    assert (folder / "spectra.png").read_bytes().startswith(b"\x89PNG")


def test_only_pages_of_its_own_are_written_over(lorank, refused, run, tmp_path):
    lorank("report", run)
    lorank("report", run)
    page = tmp_path / "diary.html"
    page.write_text("<p>Dear diary")
    assert "is another file" in refused("report", run, "-o", page)
    assert page.read_text() == "<p>Dear diary"
    lorank("report", run, "-o", tmp_path / "new.html")
    assert GENERATOR in (tmp_path / "new.html").read_text()


def test_names_in_a_record_are_harmless(lorank, record, tmp_path):
    path, _ = record
    bad = "</script><script>alert(1)</script>"
    held = json.loads(path.read_text())
    held["layers"][0]["layer"] = held["title"] = held["command"] = bad
    path.write_text(json.dumps(held))
    lorank("report", path)
    page = path.with_suffix(".html").read_text()
    assert bad not in page and page.count("<script") == 1
    assert "&lt;script&gt;alert(1)" in page


def test_an_interrupted_run_is_told_so(lorank, run):
    log = run / "log.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:5]))
    done = lorank("report", run)
    assert "Note: This run has not ended: 4 of 12 epochs are done." in done.out
    assert "not ended" in words((run / "report.html").read_text())


def test_what_no_page_is_made_of(refused, run, record, tmp_path):
    path, _ = record
    assert refused("report", tmp_path / "no").startswith("a report is about the folder of a run")
    (tmp_path / "empty").mkdir()
    assert "holds log.jsonl, found none" in refused("report", tmp_path / "empty")
    assert "must end in .html" in refused("report", run, "-o", tmp_path / "page.txt")
    assert "folder that exists" in refused("report", run, "-o", tmp_path / "no" / "page.html")
    assert "unknown format of pictures 'gif'" in refused("report", run, "--format", "gif")
    assert "cannot be one" in refused("report", run, "--pictures", path / "in")
    assert "found none" in refused("report", run, "--bench", tmp_path / "no.json")
    (run / "bench.json").write_text('{"models": [{"model": "a"}]}')
    assert "bench.json is damaged: models.0.median" in refused("report", run)
    held = path.read_text()
    for spoiled, said in (
        (held[:-99], "is damaged or no JSON"),
        ("[]", "is no lorank record"),
        (held.replace('"version": 1', '"version": 9'), "has version 9"),
        (held.replace('"full_rank": ', '"full_rank": "x", "y": ', 1), "layers.0.full_rank"),
        (held.replace('"before": [', '"before": [NaN, ', 1), "NaN"),
    ):
        path.write_text(spoiled)
        assert said in refused("report", path)
    assert not list(tmp_path.glob("**/*.html"))


def test_a_record_has_a_file_of_its_own(refused, ended, tmp_path):
    typed = ("compress", ended.folder / "dense.safetensors", "--macs", "0.5")
    out = ("-o", tmp_path / "s.safetensors")
    assert "manifest" in refused(*typed, *out, "--record", tmp_path / "s.json")
    assert "must end in .json" in refused(*typed, *out, "--record", tmp_path / "s.txt")
    assert not (tmp_path / "s.safetensors").exists()
