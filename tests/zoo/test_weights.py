import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lorank.zoo import load_weights


class Bomb:
    def __reduce__(self):
        return (open, ("exploded", "w"))


@pytest.fixture
def net():
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


@pytest.fixture
def state(net):
    return {k: torch.randn(v.shape) for k, v in net.state_dict().items() if v.ndim}


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".th", ".safetensors"])
def test_reads_each_kind_without_counters(net, state, tmp_path, suffix):
    path = tmp_path / f"w{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(state, path)
    assert load_weights(net, path) is net
    for name, value in state.items():
        assert torch.equal(net.state_dict()[name], value)


def test_own_state_dict_round_trip(net, tmp_path):
    torch.save(net.state_dict(), tmp_path / "w.pt")
    load_weights(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)), tmp_path / "w.pt")


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_wrappers_and_prefixes(net, state, tmp_path, wrapper, prefix):
    found = {prefix + k: v for k, v in state.items()}
    torch.save({wrapper: found, "epoch": 3} if wrapper else found, tmp_path / "w.pt")
    load_weights(net, tmp_path / "w.pt")
    assert torch.equal(net[0].weight, state["0.weight"])


def test_a_missing_file(net, told, tmp_path):
    path = tmp_path / "w.pt"
    assert told(load_weights, net, path) == f"there is no weights file {path}"


def test_another_suffix(net, told, tmp_path):
    (tmp_path / "w.onnx").touch()
    said = told(load_weights, net, tmp_path / "w.onnx")
    assert said == "a weights file ends in one of .safetensors, .pt, .pth, .th, but got w.onnx"


def test_what_does_not_fit_is_named_and_nothing_written(net, state, told, tmp_path):
    before = net[0].bias.clone()
    state["0.weight"] = torch.zeros(5, 3)
    state["new"] = state.pop("1.bias")
    torch.save(state, tmp_path / "w.pt")
    said = told(load_weights, net, tmp_path / "w.pt")
    assert said == (
        f"{tmp_path / 'w.pt'} does not fit the model: 1 missing (1.bias); 1 unexpected (new); "
        f"1 of another shape (0.weight (5, 3) for (2, 3))"
    )
    assert torch.equal(net[0].bias, before)


def test_only_the_first_names_are_listed(net, told, tmp_path):
    torch.save({f"k{i}": torch.zeros(1) for i in range(9)}, tmp_path / "w.pt")
    assert "9 unexpected (k0, k1, k2, …)" in told(load_weights, net, tmp_path / "w.pt")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ([torch.zeros(1)], "must hold a dict of tensors by name, but holds list"),
        ({}, "but holds dict without entries"),
        ({"a": torch.zeros(1), "b": 3}, "must hold tensors by name, but its entry 'b' is int"),
        ({1: torch.zeros(1)}, "but its entry 1 is Tensor"),
    ],
)
def test_other_contents(net, told, tmp_path, content, says):
    torch.save(content, tmp_path / "w.pt")
    assert says in told(load_weights, net, tmp_path / "w.pt")


@pytest.mark.parametrize("save", [torch.save, lambda x, path: path.write_bytes(pickle.dumps(x, 2))])
def test_code_is_never_run(net, told, tmp_path, monkeypatch, save):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "w.pt"
    save({"0.weight": Bomb()}, path)
    said = told(load_weights, net, path)
    assert f"{path} cannot be read as plain tensors" in said
    assert not (tmp_path / "exploded").exists()


def test_whole_modules_are_refused(net, told, tmp_path):
    torch.save(net, tmp_path / "w.pt")
    assert "cannot be read as plain tensors" in told(load_weights, net, tmp_path / "w.pt")


@pytest.mark.parametrize(
    ("suffix", "says"),
    [
        (".pt", "cannot be read as plain tensors"),
        (".safetensors", "is not a whole safetensors file"),
    ],
)
@pytest.mark.parametrize("keep", [0, 5, 0.5, 0.98])
def test_truncated_files(net, state, told, tmp_path, suffix, says, keep):
    path = tmp_path / f"w{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(state, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: keep if isinstance(keep, int) else int(len(whole) * keep)])
    said = told(load_weights, net, path)
    assert said.startswith(f"{path} {says}")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_foreign_files(net, told, tmp_path, suffix):
    path = tmp_path / f"w{suffix}"
    path.write_text("<html>not found</html>\n" * 20)
    assert told(load_weights, net, path).startswith(str(path))


def test_names_are_renamed_after_the_prefixes(net, state, tmp_path):
    theirs = {
        "module." + k.replace("1.", "norm.").replace("0.", "fc."): v for k, v in state.items()
    }
    torch.save(theirs, tmp_path / "w.pt")
    load_weights(net, tmp_path / "w.pt", rename={"fc.": "0.", "norm.": "1."})
    for name, value in state.items():
        assert torch.equal(net.state_dict()[name], value)


def test_renaming_that_gives_one_name_twice_is_refused(net, state, told, tmp_path):
    before = {name: value.clone() for name, value in net.state_dict().items()}
    path = tmp_path / "w.pt"
    torch.save({**state, "fc.weight": state["0.weight"]}, path)
    said = told(load_weights, net, path, rename={"fc.": "0."})
    assert said == (
        f"every tensor needs a name of its own, but renaming the entries of {path} makes "
        "0.weight of both 0.weight and fc.weight"
    )
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("bad", [{1: "x"}, {"0.": None}, {"": "x"}, [("0.", "1.")], "0.", 0, False])
def test_renaming_by_anything_but_parts_of_names_is_refused(net, told, tmp_path, bad):
    said = told(load_weights, net, tmp_path / "there_is_none.pt", rename=bad)
    assert said == (
        f"rename maps parts of names, which are not empty, to what takes their place, found {bad!r}"
    )


def test_names_that_renaming_misses_are_told_as_they_are(net, state, told, tmp_path):
    torch.save(state, tmp_path / "w.pt")
    said = told(load_weights, net, tmp_path / "w.pt", rename={"0.": "fc."})
    assert "2 missing (0.weight, 0.bias)" in said
    assert "2 unexpected (fc.weight, fc.bias)" in said
