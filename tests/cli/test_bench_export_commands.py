import pytest
import torch

import lorank as library
from lorank.zoo import load_model

FAST = ("--repeats", "5", "--warmup", "1", "--threads", "1")


def test_a_run_is_compared_with_its_dense_network(lorank, ended):
    answer = lorank("bench", ended.folder, "--data", "digits", *FAST, "--json").json
    first, second = answer["models"]
    assert first["model"].endswith("dense.safetensors")
    assert second["model"].endswith("model.safetensors")
    result = ended.ran.out
    assert f"{100 * second['accuracy']:.2f} %" in result
    assert f"{100 * first['accuracy']:.2f} %" in result
    assert second["macs_share"] <= 0.5 and second["params_share"] < 1
    assert second["file_bytes"] == (ended.folder / "model.safetensors").stat().st_size
    assert second["speedup"] == pytest.approx(first["median"] / second["median"])
    assert 0 < second["median"] <= second["p95"] and second["runs"] == 5
    assert {k: answer[k] for k in ("device", "threads", "batch", "input", "dtype")} == {
        "device": str(torch.accelerator.current_accelerator() or "cpu"),
        "threads": 1,
        "batch": 1,
        "input": "1,8,8",
        "dtype": "float32",
    }


def test_names_and_files_side_by_side(lorank, ended):
    small = ended.folder / "model.safetensors"
    done = lorank("bench", "resnet8", "resnet8", small, *FAST, "--batch", "3", "--json")
    rows = {row["model"]: row for row in done.json["models"]}
    assert list(rows) == ["resnet8", "resnet8 (2)", str(small)]
    # the file says the input and the classes for the models by name
    assert done.json["input"] == "1,8,8" and done.json["batch"] == 3
    dense = load_model("resnet8", in_channels=1, classes=10)
    assert rows["resnet8"]["macs"] == library.cost(dense, torch.zeros(1, 1, 8, 8)).macs
    assert rows["resnet8"]["macs_share"] == 1 and rows["resnet8"]["file_bytes"] is None
    assert "note: the weights of resnet8 are drawn at random" in done.err


def test_svd_form_is_folded_first(lorank, ended):
    svd, small = ended.folder / "svd.safetensors", ended.folder / "model.safetensors"
    done = lorank("bench", svd, small, *FAST, "--data", "digits", "--limit", "99", "--json")
    assert f"note: {svd} is in SVD form: it was folded into plain layers first" in done.err
    first, second = done.json["models"]
    assert (first["macs"], first["params"]) == (second["macs"], second["params"])
    assert first["accuracy"] == second["accuracy"]


def test_the_table_states_how_it_was_measured(lorank, ended):
    shown = lorank("bench", ended.folder, *FAST).out
    assert "1 thread, float32, batch 1 of 1,8,8, 5 calls each, in turns" in shown
    assert "median ms" in shown and "1.00×" in shown and "accuracy" not in shown


HALF = """
from torch import nn

def model():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)).bfloat16()
"""


def test_weights_in_bfloat16_take_inputs_in_bfloat16(lorank, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "in_half.py").write_text(HALF)
    model, small = "in_half:model", tmp_path / "small.safetensors"
    assert lorank("inspect", model, "--input", "1,8,8", "--json").json["total"]["macs"] == 2368
    digits = ("--data", "digits", "--limit", "50", "--json")
    cut = lorank("compress", model, "--macs", "0.6", "--recalibrate", "1", "-o", small, *digits)
    answer = lorank("bench", model, small, *FAST, *digits).json
    assert answer["dtype"] == "bfloat16"
    assert answer["models"][1]["macs"] == cut.json["after"]["macs"] <= 0.6 * 2368
    assert answer["models"][1]["accuracy"] == cut.json["after"]["accuracy"]


def test_what_cannot_be_compared(refused, ended, tmp_path, monkeypatch):
    (tmp_path / "nets_to_time.py").write_text("from torch import nn\nnet = lambda: nn.Linear(9, 9)")
    monkeypatch.chdir(tmp_path)
    assert refused("bench", "nets_to_time:net").startswith("timing needs the size of an input")
    assert refused("bench", "mlp", "--input", "1,28,27").startswith("the model must run on the ex")
    assert refused("bench", ended.folder, "--weights", "a.pt").startswith("--weights are for")
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "model.safetensors").touch()
    assert "holds dense.safetensors" in refused("bench", tmp_path / "half")


def test_onnx(lorank, ended, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    path = tmp_path / "digits.onnx"
    answer = lorank("export", ended.folder, path, "--data", "digits", "--json").json
    assert answer["file_bytes"] == path.stat().st_size and answer["input"] == "1,8,8"
    assert answer["relative_error"] <= answer["tolerance"] and not answer["folded"]
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    assert session.run(None, {name: torch.zeros(5, 1, 8, 8).numpy()})[0].shape == (5, 10)


def test_onnx_of_the_network_in_svd_form(lorank, ended, tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    path = tmp_path / "digits.onnx"
    done = lorank("export", ended.folder / "svd.safetensors", path, "--static")
    assert "is in SVD form: it was folded into plain layers first" in done.err
    assert "for a batch of 1 of 1,8,8" in done.out and "ONNX Runtime agrees with torch" in done.out
    # folded: the file is about as large as the plain network, not as the dense one
    assert path.stat().st_size < 0.9 * (ended.folder / "dense.safetensors").stat().st_size


def test_export_needs_an_input(refused, tmp_path, monkeypatch):
    (tmp_path / "nets_to_send.py").write_text("from torch import nn\nnet = lambda: nn.Linear(9, 9)")
    monkeypatch.chdir(tmp_path)
    said = refused("export", "nets_to_send:net", "net.onnx")
    assert said == "export needs the size of an input: name it with --input or --data"
