import shutil

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


NET = "fresh:model"
FRESH = """
import torch
from torch import nn

def model():
    torch.manual_seed(0)
    body = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 10))
"""


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "fresh.py").write_text(FRESH)
    (tmp_path / "rows.py").write_text("from torch import nn\nmodel = lambda: nn.Linear(9, 9)")
    return tmp_path


def test_a_program_of_torch_export(lorank, ended, tmp_path):
    path = tmp_path / "digits.pt2"
    answer = lorank("export", ended.folder, path, "--data", "digits", "--json").json
    assert answer["file_bytes"] == path.stat().st_size and answer["int8"] is None
    assert answer["relative_error"] <= answer["tolerance"] and answer["batches"] == [1, 2]
    assert torch.export.load(path).module()(torch.zeros(5, 1, 8, 8)).shape == (5, 10)


def test_int8_is_written_and_judged(lorank, refused, ended, tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    path = tmp_path / "digits.onnx"
    done = lorank("export", ended.folder, path, "--int8", "--data", "digits", "--json")
    found = done.json["int8"]
    assert found["method"] == "static" and found["int8_bytes"] == path.stat().st_size
    assert 0 < found["relative_error"] < 0.2 and found["cosine"] > 0.98
    answer = lorank("bench", ended.folder, path, *FAST, "--data", "digits", "--limit", "200")
    assert "output error" in answer.out and "cosine" not in answer.out  # there are labels
    said = refused("export", ended.folder, tmp_path / "a.pt2", "--int8")
    assert said.startswith("--int8 is for *.onnx, found")


def test_engines_side_by_side(lorank, fresh, monkeypatch):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    run, ran = runtime.InferenceSession.run, []

    def noted(self, names, inputs, *rest):
        ran.append((self, len(next(iter(inputs.values())))))  # kept, so that no id is used twice
        return run(self, names, inputs, *rest)

    monkeypatch.setattr(runtime.InferenceSession, "run", noted)
    engines = ("--engine", "eager", "--engine", "onnx", "--engine", "int8", "--limit", "60")
    answer = lorank("bench", NET, NET, *engines, *FAST, "--data", "digits", "--json").json
    rows = answer["models"]
    assert [(row["model"], row["engine"]) for row in rows] == [
        (label, engine) for label in (NET, f"{NET} (2)") for engine in ("eager", "onnx", "int8")
    ]
    eager, onnx, int8, again = rows[:4]
    assert eager["relative_error"] is None and again["relative_error"] == 0
    judged, timed = ({id(session) for session, size in ran if size == n} for n in (60, 1))
    assert len(judged & timed) == 4  # onnx and int8 of both: no row is torch's own answer
    # the same function, on some processors to the last bit: eps times what a sum of 144 products
    # may lose, and two such layers
    assert 0 <= onnx["relative_error"] < 10 * 3 * 144 * 2**-23 < int8["relative_error"] < 0.2
    assert onnx["accuracy"] == eager["accuracy"] and int8["int8"] == "static"
    assert int8["file_bytes"] < onnx["file_bytes"] and eager["file_bytes"] is None
    assert all(row["macs"] == eager["macs"] and 0 < row["median"] <= row["p95"] for row in rows)
    assert onnx["speedup"] == pytest.approx(eager["median"] / onnx["median"])


def test_output_error_without_labels_and_channels_last(lorank, fresh):
    done = lorank("bench", NET, NET, *FAST, "--input", "1,8,8", "--channels-last")
    assert "cosine" in done.out and "on 16 inputs" in done.out and "engine" not in done.out
    given = ("--input", "1,8,8", "--channels-last", "--json")
    answer = lorank("bench", NET, NET, *FAST, *given).json
    first, second = answer["models"]
    assert answer["channels_last"] and first["cosine"] is None
    assert (second["relative_error"], second["max_error"], second["cosine"]) == (0, 0, 1)


def test_onnx_files_are_networks_too(lorank, refused, fresh):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    path, still = fresh / "a.onnx", fresh / "still.onnx"
    lorank("export", NET, path, "--input", "1,8,8")
    lorank("export", NET, still, "--input", "1,8,8", "--static")
    answer = lorank("bench", path, still, NET, *FAST, "--json").json
    assert answer["input"] == "1,8,8" and answer["dtype"] == "float32"
    assert [row["engine"] for row in answer["models"]] == ["onnx", "onnx", "eager"]
    assert answer["models"][0]["file_bytes"] == path.stat().st_size
    assert answer["models"][0]["macs"] is None
    assert all(row["relative_error"] < 1e-4 for row in answer["models"][1:])
    said = refused("bench", still, *FAST, "--batch", "2")
    assert said == f"{still} takes 1 inputs at a time, found --batch 2"
    said = refused("bench", path, *FAST, "--input", "1,9,9,9")
    assert said.startswith(f"{path} takes input (open, 1, 8, 8) float32, found (16, 1, 9, 9, 9)")
    (fresh / "bad.onnx").write_bytes(path.read_bytes()[:500])
    assert refused("bench", fresh / "bad.onnx").startswith("ONNX Runtime must run")


@pytest.mark.slow
def test_compiled_says_how_long_that_took(lorank, fresh):
    if not any(shutil.which(name) for name in ("g++", "clang++", "c++")):
        pytest.skip("there is no C++ compiler here")
    given = ("--engine", "eager", "--engine", "compiled", "--data", "digits", "--limit", "3")
    answer = lorank("bench", NET, *FAST, *given, "--json").json
    eager, compiled = answer["models"]
    assert eager["compile_seconds"] is None and compiled["compile_seconds"] > 0
    assert compiled["relative_error"] < 10 * 3 * 144 * 2**-23
    assert compiled["accuracy"] == eager["accuracy"]


def test_compiled_without_a_compiler(refused, fresh):
    from torch._inductor import config

    torch.compiler.reset()
    with config.patch({"cpp.cxx": ("no-such-compiler",), "force_disable_caches": True}):
        said = refused("bench", NET, *FAST, "--engine", "compiled", "--input", "1,8,8")
    torch.compiler.reset()
    assert said == "the engine 'compiled' needs a C++ compiler such as g++, and torch found none"


def test_what_no_engine_takes(refused, fresh):
    assert refused("bench", NET, "--engine", "onx").startswith("unknown engine 'onx': did you mean")
    assert "is not read: torch.export.load unpickles" in refused("bench", "a.pt2")
    assert refused("bench", "none.onnx") == "there is no ONNX file none.onnx"
    said = refused("bench", "rows:model", "--channels-last", "--input", "9")
    assert said == "--channels-last is for images, found an input of 1 axes"
    said = refused("export", NET, "a.txt", "--input", "1,8,8")
    assert said == "the file to write must end in .onnx or .pt2, found a.txt"


def test_onnx_runtime_is_timed_on_the_cpu(refused, fresh):
    said = refused("bench", NET, "--engine", "onnx", "--device", "meta", "--input", "1,8,8")
    assert said == "ONNX Runtime is timed on the CPU here, found --device meta"
