import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

from lorank.cli.train import DENSE_EPOCHS
from lorank.files import read_manifest
from lorank.files.checkpoint import read
from lorank.training.log import read_log
from lorank.training.presets import paper, practical
from lorank.training.recipe_text import make_recipe

pytest.importorskip("accelerate")

TINY = ("resnet8", "--option", "width=4", "--data", "digits", "--no-plot")


def epochs(folder):
    return [event for event in read_log(folder) if event["event"] == "epoch"]


def assert_same(found, expected):
    """Two files hold the same manifest, and the same tensors bit by bit."""
    assert found[0] == expected[0] and found[1].keys() == expected[1].keys()
    assert all(torch.equal(value, expected[1][name]) for name, value in found[1].items())


def test_a_run_leaves_its_files_and_says_what_is_next(ended):
    held = {path.name for path in ended.folder.iterdir()}
    assert held >= {
        "dense.safetensors",
        "svd.safetensors",
        "model.safetensors",
        "model.json",
        "log.jsonl",
        "result.json",
        "state.pt",
    }
    assert "picture.png" not in held
    shown = ended.ran.out
    assert f"Next: lorank bench {ended.folder} --data digits" in shown
    assert f"lorank export {ended.folder} digits.onnx" in shown
    assert "low-rank" in shown and "\x1b" not in shown
    assert "low-rank: accuracy" in ended.ran.err


def test_the_file_says_where_it_came_from(ended):
    info = read_manifest(ended.folder / "model.safetensors")["info"]
    assert info == {
        "model": "resnet8",
        "in_channels": 1,
        "size": 8,
        "classes": 10,
        "width": 8,
        "input": "1,8,8",
        "data": "digits",
    }


def test_it_learns_and_keeps_the_budget(ended):
    result = json.loads((ended.folder / "result.json").read_text())
    assert result["dense_accuracy"] > 0.6 and result["accuracy"] > 0.6
    assert result["cost"]["macs"] <= 0.5 * result["dense_cost"]["macs"]


def test_penalties_and_ranks_move(ended):
    sparsify = [event for event in epochs(ended.folder) if event["stage"] == "sparsify"]
    sums = [sum(event["ranks"].values()) for event in sparsify]
    assert sums[0] > sums[-1] and sums == sorted(sums, reverse=True)
    assert all(event["sparsity"] > 0 and event["orthogonality"] > 0 for event in sparsify)
    assert len({event["sparsity"] for event in sparsify}) == len(sparsify)
    assert sparsify[-1]["sparsity"] < sparsify[0]["sparsity"]
    dense = [event for event in epochs(ended.folder) if event["stage"] == "dense"]
    assert dense and not any("sparsity" in event or event["ranks"] for event in dense)
    assert {event["stage"] for event in epochs(ended.folder)} == {"dense", "sparsify", "finetune"}


def test_an_ended_run_is_not_run_again(lorank, ended):
    trained, kept = epochs(ended.folder), read(ended.folder / "model.safetensors")
    answer = lorank(*ended.typed, "--out", ended.folder, "--json")
    assert "this run has ended: nothing is trained again" in answer.err
    assert "dense 1/6" not in answer.err and epochs(ended.folder) == trained
    assert_same(read(ended.folder / "model.safetensors"), kept)
    found = answer.json
    assert found["folder"] == str(ended.folder) and found["data"] == "digits"
    assert found["low_rank"]["macs"] <= 0.5 * found["dense"]["macs"]
    assert {"accuracy", "macs", "params", "bytes"} == set(found["dense"])
    assert {"layer", "layout", "rank", "full_rank", "macs_kept"} <= set(found["layers"][0])
    assert all(os.path.exists(path) for path in found["files"].values())


def test_another_run_in_the_same_folder_is_refused(refused, ended):
    typed = list(ended.typed)
    assert refused(*typed, "--out", ended.folder, "--seed", "1").startswith(
        f"{ended.folder} holds a run of another recipe"
    )
    typed[typed.index("width=8")] = "width=16"
    said = refused(*typed, "--out", ended.folder)
    assert said == (
        f"{ended.folder} holds another run (width 8, now 16): take another folder, or begin anew "
        "with --fresh"
    )


def test_fresh_begins_anew(lorank, ended, tmp_path):
    run = shutil.copytree(ended.folder, tmp_path / "run")
    typed = ("train", *TINY, "--dense-epochs", "0", "--epochs", "1", "--macs", "0.9")
    lorank(*typed, "--seed", "5", "--out", run, "--fresh")
    assert read_log(run)[0]["recipe"]["seed"] == 5
    assert len(epochs(run)) == 1


def test_trained_weights_need_no_dense_training(lorank, ended, tmp_path):
    weights = ended.folder / "dense.safetensors"
    typed = ("train", *ended.typed[1:6], "--no-plot", "--epochs", "2", "--macs", "0.6")
    done = lorank(*typed, "--weights", weights, "--out", tmp_path / "a", "--json")
    assert {event["stage"] for event in epochs(tmp_path / "a")} == {"sparsify", "finetune"}
    before = json.loads((ended.folder / "result.json").read_text())["dense_accuracy"]
    assert done.json["dense"]["accuracy"] == pytest.approx(before)
    assert done.json["weights"] == str(weights) and "note" not in done.err
    short = ("--data", "digits", "--no-plot", "--epochs", "1")
    lorank("train", weights, *short, "--out", tmp_path / "b")
    assert len(epochs(tmp_path / "b")) == 1


def test_a_network_that_was_cut_is_no_beginning(refused, ended, tmp_path):
    for name in ("svd.safetensors", "model.safetensors"):
        said = refused("train", ended.folder / name, "--data", "digits", "--out", tmp_path / "run")
        assert said.startswith("training begins with a dense network")


def test_the_paper_s_recipe(lorank, tmp_path):
    typed = ("train", *TINY, "--recipe", "paper", "--epochs", "1", "--energy", "0.9", "--json")
    answer = lorank(*typed, "--out", tmp_path / "run").json
    assert [event["stage"] for event in epochs(tmp_path / "run")] == [
        "pretrain",
        "sparsify",
        "finetune",
    ]
    assert "linear" not in {row["layer"] for row in answer["layers"]}


def test_recipes_are_printed_and_read_back(lorank, tmp_path):
    done = lorank("train", "resnet8", "--print-recipe")
    assert make_recipe(done.json) == practical(dense_epochs=DENSE_EPOCHS)
    assert f"{DENSE_EPOCHS} dense epochs come first" in done.err
    typed = ("train", "mlp", "--recipe", "paper", "--energy", "0.99", "--epochs", "3")
    own = lorank(*typed, "--print-recipe", "--set", "batch_size=7", "--seed", "4")
    assert own.err == ""
    expected = paper(epochs=3, energy=0.99).model_copy(update={"batch_size": 7, "seed": 4})
    assert make_recipe(own.json) == expected
    (tmp_path / "own.json").write_text(own.out)
    again = lorank("train", "mlp", "--recipe", tmp_path / "own.json", "--print-recipe")
    assert again.out == own.out
    toml = 'seed = 3\n[[stages]]\nname = "only"\nepochs = 2\nform = "svd"\n'
    (tmp_path / "own.toml").write_text(toml)
    read = lorank("train", "mlp", "--recipe", tmp_path / "own.toml", "--print-recipe").json
    assert read["seed"] == 3 and read["stages"][0]["name"] == "only"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "training needs --out"),
        (("--recipe", "papr"), "unknown recipe 'papr': did you mean 'paper'?"),
        (("--recipe", "no.toml"), "a recipe is a file, and no.toml cannot be read"),
        (("--recipe", "paper", "--macs", "0.5"), "the recipe 'paper' has no --macs: it takes"),
        (("--energy", "0.5"), "the recipe 'practical' has no --energy: it takes --epochs, --dense"),
        (("--macs", "0.5", "--params", "0.5"), "give one of --macs and --params, found both"),
        (("--macs", "none"), "invalid value for '--macs'"),
        (("--set", "batch_size"), "a setting is path=value, found 'batch_size'"),
        (("--set", "batchsize=3"), "unknown setting 'batchsize=3', at 'batchsize': did you mean"),
        (("--set", "batch_size=0"), "recipe: batch_size: Input should be greater"),
        (("--epochs", "-1"), "invalid value for '--epochs'"),
        (("--set", "layout=diagonal", "--out", "run"), "unknown layout 'diagonal'"),
        (("--set", 'skip=["lineal"]', "--out", "run"), "unknown layer 'lineal': did you mean"),
        (("--macs", "0.001", "--out", "run"), "a budget of"),
        (("--out", "file/run"), "a run needs a folder, and file/run cannot be one"),
    ],
)
def test_what_is_refused(refused, tmp_path, monkeypatch, options, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    short = () if "--recipe" in options or "--dense-epochs" in options else ("--dense-epochs", "0")
    assert refused("train", *TINY, *short, *options).startswith(said)


def test_both_are_missing(refused):
    assert refused("train", "mlp") == "training needs --data and --out"


def test_a_recipe_of_a_file_takes_no_other_options(refused, tmp_path):
    (tmp_path / "own.json").write_text(practical().model_dump_json())
    said = refused("train", "mlp", "--recipe", tmp_path / "own.json", "--epochs", "3")
    assert said == "a recipe of a file has no --epochs: change it with --set"


def test_a_picture(lorank, ended):
    pytest.importorskip("matplotlib")
    typed = [word for word in ended.typed if word != "--no-plot"]
    answer = lorank(*typed, "--out", ended.folder, "--json").json
    picture = ended.folder / "picture.png"
    assert answer["picture"] == str(picture)
    assert picture.read_bytes()[:4] == b"\x89PNG"
    picture.unlink()


def test_a_picture_that_cannot_be_drawn(lorank, refused, ended, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    typed = [word for word in ended.typed if word != "--no-plot"]
    said = refused(*typed, "--out", ended.folder, "--plot")
    assert "'matplotlib'" in said and "pip install 'lorank[plot]'" in said


def test_ctrl_c_says_how_to_go_on(monkeypatch, tmp_path, capsys):
    from lorank.cli import main, train

    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "carry_out", stopped)
    code = main(["train", *TINY, "--dense-epochs", "0", "--out", str(tmp_path / "run")])
    assert code == 130
    said = capsys.readouterr().err
    assert "the same command goes on from the last whole epoch" in said
    assert said.endswith("interrupted\n")


def test_killed_and_resumed_is_as_if_nothing_had_happened(ended, lorank, tmp_path):
    folder = tmp_path / "run"
    words = [sys.executable, "-m", "lorank", *ended.typed, "--out", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(words, env=environment, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 120
        while not (log := folder / "log.jsonl").exists() or log.read_text().count('"epoch"') < 8:
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (folder / "model.safetensors").exists()
    resumed = lorank(*ended.typed, "--out", folder)
    assert "resumed at stage" in resumed.err
    for name in ("dense.safetensors", "svd.safetensors", "model.safetensors"):
        assert_same(read(folder / name), read(ended.folder / name))
    assert [e["loss"] for e in epochs(folder)] == [e["loss"] for e in epochs(ended.folder)]


@pytest.mark.slow
def test_two_processes(tmp_path):
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m"]
    typed = ["lorank", "train", *TINY, "--dense-epochs", "2", "--epochs", "2", "--json"]
    done = subprocess.run(
        [*words, *typed, "--out", str(tmp_path / "run")],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["folder"] == str(tmp_path / "run")
    assert done.stderr.count("dense 2/2") == 1
    assert len(epochs(tmp_path / "run")) == 4


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_demo(lorank, tmp_path, seed):
    typed = ("train", "resnet8", "--data", "digits", "--seed", seed, "--no-plot", "--json")
    answer = lorank(*typed, "--out", tmp_path / "run").json
    dense, low = answer["dense"], answer["low_rank"]
    assert dense["accuracy"] >= 0.975 and low["accuracy"] >= dense["accuracy"] - 0.005
    assert low["macs"] <= 0.35 * dense["macs"]


def test_a_run_of_another_network_teaches(ended, lorank, refused, tmp_path):
    typed = (*ended.typed, "--dense-epochs", "1", "--epochs", "2")
    teacher = ("--teacher", ended.folder / "dense.safetensors")
    lorank(*typed, *teacher, "--out", tmp_path / "a")
    assert all("distillation" in e for e in epochs(tmp_path / "a") if e["stage"] != "dense")
    said = refused(*typed, "--out", tmp_path / "a")
    assert "a run with another teacher" in said
    said = refused(*typed, "--teacher", "resnet20", "--out", tmp_path / "b")
    assert "a teacher has trained weights" in said and not (tmp_path / "b").exists()
    said = refused(*typed, "--teacher-weights", "x.th", "--out", tmp_path / "b")
    assert "there is none" in said
