import pytest
import torch
from torch import nn

import lorank as library
from lorank.ranks import energy
from lorank.zoo import load_model

NETS = """
import torch
from torch import nn

def words():
    return nn.Sequential(nn.Embedding(32, 16), nn.Flatten(), nn.Linear(16 * 4, 8))

def grouped():
    return nn.Sequential(nn.Conv2d(8, 8, 3, groups=2), nn.LSTM(6, 4))

def noisy():
    print("hello from the model")
    return nn.Linear(4, 4)
"""


@pytest.fixture
def nets(tmp_path, monkeypatch):
    (tmp_path / "nets_to_inspect.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    return "nets_to_inspect"


def test_figures_are_those_of_the_library(lorank):
    answer = lorank("inspect", "resnet8", "--energy", "0.8", "--json").json
    torch.manual_seed(0)
    model = load_model("resnet8")
    spectra = library.measure(model, torch.zeros(1, 3, 32, 32))
    assert [row["layer"] for row in answer["layers"]] == list(spectra)
    assert {row["layer"]: row["energy_rank"] for row in answer["layers"]} == energy(spectra, 0.8)
    assert answer["total"]["macs"] == library.cost(model, torch.zeros(1, 3, 32, 32)).macs
    assert answer["total"]["params"] == library.cost(model).params
    assert answer["input"] == "3,32,32" and answer["energy"] == 0.8
    for row in answer["layers"]:
        found = spectra[row["layer"]]
        assert row["macs"] == found.macs.dense and row["layout"] == found.layout
        assert row["macs_kept"] == found.cost(row["energy_rank"], "macs")
        assert len(row["spectrum"]) == row["full_rank"] and row["spectrum"][0] == 1


def test_the_table_is_whole_off_a_terminal(lorank):
    shown = lorank("inspect", "resnet8", "--spectrum").out
    assert "\x1b" not in shown and "…" not in shown
    rows = [line for line in shown.splitlines() if line.startswith("layer3.0.conv2")]
    assert len(rows) == 1 and "192×192" in rows[0] and "█" in rows[0]
    assert "█" not in lorank("inspect", "resnet8").out


def test_random_weights_are_told(lorank, tmp_path):
    said = lorank("inspect", "mlp").err
    assert said.startswith("note: the weights of mlp are drawn at random: give trained ones")
    torch.save(load_model("mlp").state_dict(), tmp_path / "mlp.pt")
    trained = lorank("inspect", "mlp", "--weights", tmp_path / "mlp.pt", "--json")
    assert trained.err == "" and trained.json["random_weights"] is False


def test_the_same_random_weights_each_time(lorank):
    assert lorank("inspect", "lenet", "--json").out == lorank("inspect", "lenet", "--json").out


def test_data_says_what_the_input_is(lorank):
    answer = lorank("inspect", "mlp", "--data", "digits", "--json").json
    assert answer["input"] == "1,8,8" and answer["layers"][0]["matrix"] == [256, 64]


@pytest.mark.parametrize(
    ("options", "shape"),
    [((), "1,28,28"), (("--option", "size=16"), "1,16,16"), (("--input", "2,8,8"), "2,8,8")],
)
def test_natural_input(lorank, options, shape):
    assert lorank("inspect", "mlp", *options, "--json").json["input"] == shape


def test_what_stays_dense_and_why(lorank, nets):
    answer = lorank("inspect", f"{nets}:grouped", "--json").json
    assert answer["layers"][0]["groups"] == 2 and answer["input"] is None
    assert "macs" not in answer["layers"][0] and answer["total"]["macs"] is None
    reasons = {row["layer"]: row["reason"] for row in answer["skipped"]}
    assert reasons == {"1": "LSTM has no SVD form here"}
    shown = lorank("inspect", f"{nets}:grouped").out
    assert "LSTM has no SVD form here" in shown and "× 2 groups" in shown


def test_tokens_and_a_table_that_is_looked_up(lorank, nets):
    answer = lorank("inspect", f"{nets}:words", "--input", "4:int", "--json").json
    assert answer["input"] == "4:int" and answer["total"]["macs"] == 64 * 8
    assert answer["skipped"][0]["reason"] == "only looked up, at no MACs"
    assert answer["skipped"][0]["params"] == 32 * 16


def test_layers_left_out(lorank):
    answer = lorank("inspect", "resnet8", "--skip", "layer*", "--skip", "linear", "--json").json
    assert [row["layer"] for row in answer["layers"]] == ["conv1"]
    assert {row["reason"] for row in answer["skipped"]} == {"left out as asked"}


@pytest.mark.parametrize("layout", ["channel", "spatial"])
def test_layout(lorank, layout):
    layers = lorank("inspect", "resnet8", "--layout", layout, "--json").json["layers"]
    assert layers[0]["layout"] == layout


def test_what_a_model_prints_is_no_answer(lorank, nets):
    done = lorank("inspect", f"{nets}:noisy", "--json")
    assert "hello from the model" in done.err and done.json["layers"]


def test_a_run_and_its_files(lorank, ended):
    svd = lorank("inspect", ended.folder / "svd.safetensors", "--json").json
    assert svd["layers"][1]["kind"].startswith("SVDConv") and not svd["random_weights"]
    plain = lorank("inspect", ended.folder)
    assert "were cut and folded: each is a pair" in plain.err and "layer1.0.conv1.0" in plain.out


def test_a_file_that_does_not_say_its_model(lorank, refused, tmp_path):
    path = tmp_path / "bare.safetensors"
    library.save(load_model("mlp", size=8), path)
    said = refused("inspect", path)
    assert said == f"{path} does not say which model it came from: name it with --model SPEC"
    answer = lorank("inspect", path, "--model", "mlp", "--input", "1,8,8", "--json").json
    assert answer["layers"][0]["matrix"] == [256, 64]
    assert "does not fit Sequential" in refused("inspect", path, "--model", "mlp")


def test_files_that_cannot_be_used(refused, tmp_path, ended):
    whole = ended.folder / "model.safetensors"
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(whole.read_bytes()[:-100])
    assert refused("inspect", cut).startswith(f"{cut} is not a whole safetensors file")
    other = tmp_path / "weights.pt"
    torch.save(nn.Linear(2, 2).state_dict(), other)
    assert refused("inspect", other).startswith("a model file of lorank is *.safetensors")
    assert refused("inspect", tmp_path).startswith(
        "the folder of a run that has ended holds model.safetensors"
    )
    assert refused("inspect", whole, "--weights", other).startswith("--weights are for a model by")
