import json
import re
import shlex

import numpy as np
import pytest
import typer

from lorank.cli.app import app
from lorank.cli.slice import SLICE
from lorank.localization import synthetic_volume

pytest.importorskip("accelerate", reason="training needs the extra 'train'")

GROUP = typer.main.get_command(app).commands["slice"]
NAMES = [command.__name__ for command in SLICE]
SMALL = ("--rows", 64, "--columns", 12, "--column-mm", 10, "--option", "width=4", "--windows", 6)
SHORT = ("--epochs", 1, "--tune", 1)


def examples(text):
    return [line.strip() for line in text.splitlines() if line.strip().startswith("lorank ")]


@pytest.fixture(scope="module")
def run(tmp_path_factory, lorank):
    """A finder trained for a moment on twenty columns, and what the command said."""
    folder = tmp_path_factory.mktemp("runs") / "a"
    command = ("slice", "train", "synthetic:20", "--out", folder, *SMALL, *SHORT, "--json")
    return folder, lorank(*command).json, command


@pytest.fixture
def scan(tmp_path):
    made, target = synthetic_volume(4, height=2.5)
    np.save(tmp_path / "scan.npy", made.values)
    spacing = "x".join(f"{length:g}" for length in made.spacing)
    return tmp_path / "scan.npy", spacing, target, made.count


def test_the_group_alone_shows_its_commands(lorank):
    shown = lorank("slice").out
    for name in NAMES:
        assert re.search(rf"^  {name} ", shown, re.M)
    assert re.search(r"^  slice ", lorank("--help").out, re.M)


@pytest.mark.parametrize("name", NAMES)
def test_help_teaches(lorank, name):
    shown = lorank("slice", name, "--help").out
    command = GROUP.commands[name]
    assert 2 <= len(examples(shown)) <= 4
    assert all(line.split()[1:3] == ["slice", name] for line in examples(shown))
    for parameter in command.params:
        assert parameter.help, parameter.name
        if parameter.param_type_name == "option":
            assert parameter.opts[0] in shown
    prose = [line for line in shown.splitlines() if not line.strip().startswith("lorank ")]
    assert max(map(len, prose)) <= 80 and max(map(len, examples(shown))) <= 96


@pytest.mark.parametrize(
    ("name", "line"),
    [(name, line) for name in NAMES for line in examples(GROUP.commands[name].help)],
)
def test_every_example_can_be_typed(name, line):
    words = shlex.split(line)[3:]
    assert GROUP.commands[name].make_context(name, words).params


def test_training_says_what_it_kept_and_its_errors(run):
    folder, answer, _ = run
    assert answer["scans"] == {"train": 20, "valid": 10, "test": 10}
    assert answer["macs_share"] <= 0.5 and answer["test"]["scans"] == 10
    assert (folder / "finder.safetensors").is_file() and answer["view"]["rows"] == 64


def test_a_run_that_has_ended_is_not_trained_again(run, lorank):
    folder, answer, command = run
    before = (folder / "log.jsonl").read_bytes()
    assert lorank(*command).json["valid"] == answer["valid"]
    assert (folder / "log.jsonl").read_bytes() == before


def test_the_slice_of_an_array_is_found(run, scan, lorank):
    path, spacing, _, count = scan
    words = ("slice", "predict", run[0], path, "--spacing", spacing, "--axes", "SPL")
    answer = lorank(*words, "--json").json
    (row,) = answer["scans"]
    assert 0 <= row["slice"] < count and 0 <= row["confidence"] <= 1
    assert answer["errors"] is None and answer["tolerance_mm"] == 10
    # The axis runs from the feet: a slice and its distance from the head add up to the height.
    height = (count - 1) * 2.5
    assert row["slice"] * 2.5 + row["mm_from_top"] == pytest.approx(height, abs=1.26)
    shown = lorank(*words).out
    assert str(row["slice"]) in shown and "confidence" in shown


def test_the_errors_of_a_table_are_summed_up(run, scan, lorank, tmp_path):
    path, spacing, target, _ = scan
    text = f"scan,slice,spacing,axes\n{path.name},{target},{spacing},SPL\n"
    (tmp_path / "t.csv").write_text(text)
    answer = lorank("slice", "predict", run[0], tmp_path / "t.csv", "--step", 4, "--json").json
    (row,) = answer["scans"]
    assert row["target"] == target and answer["errors"]["scans"] == 1
    assert abs(row["error_mm"]) == pytest.approx(answer["errors"]["mean"], abs=1e-3)


def test_scans_of_a_dicom_folder_name_the_file(run, lorank, tmp_path):
    pytest.importorskip("pydicom", reason="DICOM needs the extra 'scan'")
    import importlib.util
    from pathlib import Path

    place = Path(__file__).parents[1] / "localization" / "scans.py"
    spec = importlib.util.spec_from_file_location("made_scans", place)
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    volume, _ = synthetic_volume(4, height=5.0)
    made.write_series(volume, tmp_path / "s")
    answer = lorank("slice", "predict", run[0], tmp_path / "s", "--step", 4, "--json").json
    assert (tmp_path / "s" / answer["scans"][0]["file"]).is_file()


def test_one_scan_that_cannot_be_used_leaves_the_others(run, scan, outcome, tmp_path):
    path, spacing, _, _ = scan
    words = ("slice", "predict", run[0], path, tmp_path / "none.npy", "--spacing", spacing)
    done = outcome(*words, "--axes", "SPL", "--step", 4, "--json")
    assert done.code == 2 and len(done.json["scans"]) == 1
    assert [one["scan"] for one in done.json["failed"]] == [str(tmp_path / "none.npy")]
    assert "1 of 2 scans could not be used: there is no file" in done.err
    assert done.err.count("none.npy") == 1


def test_what_cannot_be_used_is_said_in_one_sentence(run, scan, refused, tmp_path):
    folder, path = run[0], scan[0]
    said = refused("slice", "predict", folder, path)
    assert "give its spacing" in said
    assert "three lengths" in refused("slice", "predict", folder, path, "--spacing", "1,1,1")
    words = ("--spacing", "1x1x1", "--axes", "RRS")
    assert "three letters" in refused("slice", "predict", folder, path, *words)
    assert "there is no scan" in refused("slice", "predict", folder, tmp_path / "none")
    assert "no device" in refused("slice", "predict", folder, path, "--device", "moon")
    assert "unknown decision" in refused("slice", "predict", folder, "synthetic:1", "--rule", "x")
    assert "there is none at" in refused("slice", "predict", tmp_path, path)
    words = ("slice", "predict", folder, "synthetic:1", "--axes", "RAS")
    assert "leave --spacing, --axes and --series out" in refused(*words)
    out = ("--out", tmp_path / "b")
    assert "there is no file" in refused("slice", "train", tmp_path / "t.csv", *out)
    assert "unknown model" in refused("slice", "train", "synthetic:4", "--backbone", "n", *out)
    assert "found nan" in refused("slice", "train", "synthetic:4", "--lr", "nan", *out)
    assert "found 1.5" in refused("slice", "train", "synthetic:4", "--macs", "1.5", *out)
    assert "even number" in refused("slice", "train", "synthetic:4", "--rows", 33, *out)
    assert "--seed" in refused("slice", "train", "synthetic:4", "--seed", 2**63, *out)
    (tmp_path / "t.csv").write_text("")
    assert "found nothing" in refused("slice", "train", tmp_path / "t.csv", *out)
    for width in (-1, 1.5):
        words = ("slice", "train", "synthetic:4", "--option", f"width={width}", *out)
        assert "'offset_net' cannot be made" in refused(*words)


def test_a_refused_run_leaves_the_folder_as_it_was(refused, tmp_path):
    refused("slice", "train", tmp_path / "none.csv", "--out", tmp_path / "new")
    assert not (tmp_path / "new").exists()
    refused("slice", "train", tmp_path / "none.csv", "--out", tmp_path / "old/new/a")
    assert not (tmp_path / "old").exists()
    said = refused("slice", "train", tmp_path / "none.csv", "--out", tmp_path / ("a" * 300))
    assert "a run needs a folder" in said
    (tmp_path / "old").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note").touch()
    for name in ("old", "full"):
        refused("slice", "train", tmp_path / "none.csv", "--out", tmp_path / name)
        assert (tmp_path / name).is_dir()
    assert (tmp_path / "full" / "note").is_file()


def test_another_view_in_a_run_s_folder_is_refused(run, refused):
    folder, _, command = run
    words = [str(word) for word in command]
    for option, value, says in (
        ("--epochs", "2", "another recipe"),
        ("--rows", "72", "another view"),
        ("--columns", "14", "another view"),
        ("--windows", "5", "another windows"),
    ):
        changed = list(words)
        changed[words.index(option) + 1] = value
        assert says in refused(*changed)
    held = json.loads((folder / "finder.json").read_text())
    assert held["info"]["view"]["rows"] == 64
