"""What is saved comes back, whatever its form; what cannot be loaded is said in one sentence."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import lorank
from lorank import LorankError
from lorank.files import read_manifest
from lorank.files.structure import describe
from lorank.linalg.unfold import LAYOUTS


class Tied(nn.Module):
    """A language model whose output layer is its embedding."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(30, 12)
        self.mix = nn.Linear(12, 12)
        self.head = nn.Linear(12, 30, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.mix(self.embed(x)))


class Twice(nn.Module):
    """One module in two places."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(10, 10)
        self.again = self.first
        self.last = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.again(self.first(x).relu()))


class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(14, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x)[0]


def normalised() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(128, 10)
    )


class Case(NamedTuple):
    """A dense model, the ranks that it is cut to, and an input."""

    make: Callable[[], nn.Module]
    ranks: dict[str, int]
    x: Tensor
    layout: str = "auto"


IMAGE = torch.linspace(-1, 1, 2 * 8 * 9 * 7).reshape(2, 8, 9, 7)
TOKENS = torch.tensor([[1, 2, 3], [4, 5, 29]])
CASES = {
    "root linear": Case(lambda: nn.Linear(12, 9), {"": 2}, IMAGE.reshape(-1, 12)),
    "root embedding": Case(lambda: nn.Embedding(30, 12), {"": 3}, TOKENS),
    "network": Case(normalised, {"0": 2, "3": 2}, IMAGE[:, :3, :6, :6]),
    "grouped": Case(lambda: nn.Conv2d(8, 12, 3, groups=2), {"": 2}, IMAGE),
    "grouped, one axis": Case(lambda: nn.Conv1d(8, 12, 3, groups=4), {"": 1}, IMAGE[:, :, 0]),
    "transposed": Case(lambda: nn.ConvTranspose2d(8, 12, 3, stride=2), {"": 2}, IMAGE),
    "three axes": Case(lambda: nn.Conv3d(8, 6, 3), {"": 2}, IMAGE.reshape(2, 8, 3, 3, 7)),
    "attention": Case(
        Attending, {"attention.q_proj": 2, "attention.out_proj": 3}, IMAGE.reshape(2, -1, 14)
    ),
    "tied": Case(Tied, {"embed": 3, "mix": 2}, TOKENS),
    "used twice": Case(Twice, {"first": 2}, IMAGE.reshape(-1, 2)[:, :1].repeat(1, 10)),
}
for _layout in LAYOUTS:
    CASES[_layout] = Case(lambda: nn.Conv2d(8, 12, (5, 3), stride=2), {"": 2}, IMAGE, _layout)

FORMS = {
    "dense": lambda model, case: model,
    "svd": lambda model, case: lorank.decompose(model, case.ranks, layout=case.layout),
    "folded": lambda model, case: lorank.fold(
        lorank.decompose(model, case.ranks, layout=case.layout)
    ),
}


def made(name: str, form: str, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, nn.Module]:
    """A model in a form, and the dense model that it came from with other weights."""
    case = CASES[name]
    torch.manual_seed(0)
    model = FORMS[form](case.make().to(dtype), case).eval()
    return model, case.make().to(dtype).eval()


def run(model: nn.Module, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    with torch.no_grad():
        return model(x.to(dtype) if x.is_floating_point() else x)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", CASES)
def test_what_is_saved_comes_back(tmp_path, name, form):
    model, dense = made(name, form)
    before = {k: v.clone() for k, v in dense.state_dict().items()}
    lorank.save(model, tmp_path / "a.safetensors")
    back = lorank.load(tmp_path / "a.safetensors", dense)
    assert describe(back) == describe(model)
    assert str(back) == str(model)
    assert len(list(back.parameters())) == len(list(model.parameters()))
    assert torch.equal(run(back, CASES[name].x), run(model, CASES[name].x))
    assert all(torch.equal(v, before[k]) for k, v in dense.state_dict().items())


@pytest.mark.parametrize("form", ["svd", "folded"])
@pytest.mark.parametrize("name", CASES)
def test_the_cases_are_low_rank(name, form):
    forms = {entry["form"] for entry in describe(made(name, form)[0]).values()}
    assert forms == {"svd" if form == "svd" else "pair"}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", CASES)
def test_half_precision_comes_back_bit_by_bit(tmp_path, name, form):
    model, dense = made(name, form, torch.bfloat16)
    lorank.save(model, tmp_path / "a.safetensors")
    back = lorank.load(tmp_path / "a.safetensors", dense)
    pairs = zip(back.state_dict().values(), model.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in pairs)
    assert {p.dtype for p in back.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", CASES)
def test_the_dense_model_may_be_on_meta(tmp_path, name, form):
    model, _ = made(name, form)
    with torch.device("meta"):
        empty = CASES[name].make().eval()
    lorank.save(model, tmp_path / "a.safetensors")
    back = lorank.load(tmp_path / "a.safetensors", empty)
    assert all(p.device.type == "meta" for p in empty.parameters())
    assert len(list(back.parameters())) == len(list(model.parameters()))
    assert torch.equal(run(back, CASES[name].x), run(model, CASES[name].x))


def test_the_dense_model_gives_dtype_modes_and_freezing(tmp_path):
    model, dense = made("network", "svd")
    dense.double().train()
    dense[3].weight.requires_grad_(False)
    lorank.save(model, tmp_path / "a.safetensors")
    back = lorank.load(tmp_path / "a.safetensors", dense)
    assert back.training
    assert back[1].training
    assert {p.dtype for p in back.parameters()} == {torch.float64}
    assert [back[3].U.requires_grad, back[0].U.requires_grad] == [False, True]


def test_the_dtype_is_the_dense_models_on_meta_too(tmp_path):
    model, _ = made("network", "folded", torch.bfloat16)
    with torch.device("meta"):
        empty = normalised()
    lorank.save(model, tmp_path / "a.safetensors")
    back = lorank.load(tmp_path / "a.safetensors", empty)
    assert {p.dtype for p in back.parameters()} == {torch.float32}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("meta", [False, True])
def test_ties_are_saved_once_and_stay(tmp_path, form, meta):
    model, dense = made("tied", form)
    if meta:
        with torch.device("meta"):
            dense = Tied()
    lorank.save(model, tmp_path / "a.safetensors")
    back = lorank.load(tmp_path / "a.safetensors", dense)
    kept = sum(t.numel() for t in load_file(tmp_path / "a.safetensors").values())
    assert kept == sum(p.numel() for p in model.parameters())
    shared = {"dense": ("weight",), "svd": ("U", "S", "Vh"), "folded": ()}[form]
    assert all(getattr(back.head, n) is getattr(back.embed, n) for n in shared)
    if form == "folded":
        assert back.head[1].weight is back.embed[0].weight


def test_a_model_without_the_tie_is_filled_from_the_shared_tensor(tmp_path):
    model, _ = made("tied", "dense")
    untied = Tied()
    untied.head.weight = nn.Parameter(torch.zeros(30, 12))
    lorank.save(model, tmp_path / "a.safetensors")
    back = lorank.load(tmp_path / "a.safetensors", untied)
    assert torch.equal(back.head.weight, model.embed.weight)


def test_weights_that_differ_cannot_fill_a_tie(tmp_path):
    untied = Tied()
    untied.head.weight = nn.Parameter(torch.zeros(30, 12))
    lorank.save(untied, tmp_path / "a.safetensors")
    with pytest.raises(LorankError, match="one tensor in the model, and differ in the file"):
        lorank.load(tmp_path / "a.safetensors", Tied())


def test_padded_pairs_come_back(tmp_path):
    dense = nn.Sequential(nn.Linear(64, 64))
    model = lorank.fold(lorank.decompose(dense, {"0": 5}), multiple=8)
    lorank.save(model, tmp_path / "a.safetensors")
    assert lorank.load(tmp_path / "a.safetensors", dense)[0][0].out_features == 8


def test_a_network_can_be_trained_further_and_saved_again(tmp_path):
    model, dense = made("network", "folded")
    lorank.save(model, tmp_path / "a.safetensors")
    back = lorank.load(tmp_path / "a.safetensors", dense)
    run_loss = back(CASES["network"].x).square().sum()
    run_loss.backward()
    assert all(p.grad is not None for p in back.parameters())
    lorank.save(back, tmp_path / "b.safetensors")
    assert describe(lorank.load(tmp_path / "b.safetensors", dense)) == describe(model)


def test_a_folded_file_is_a_plain_torch_network(tmp_path):
    low = lorank.decompose(normalised(), CASES["network"].ranks, layout="channel")
    model = lorank.fold(low).eval()
    lorank.save(model, tmp_path / "a.safetensors")
    plain = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 2, 3, bias=False), nn.Conv2d(2, 8, 1, bias=False)),
        nn.BatchNorm2d(8),
        nn.Flatten(),
        nn.Sequential(nn.Linear(128, 2, bias=False), nn.Linear(2, 10)),
    ).eval()
    plain.load_state_dict(load_file(tmp_path / "a.safetensors"))
    assert torch.equal(run(plain, CASES["network"].x), run(model, CASES["network"].x))


def test_the_manifest_stands_beside_the_file_and_in_it(tmp_path):
    model, _ = made("network", "svd")
    lorank.save(model, tmp_path / "v1.2.safetensors", info={"accuracy": 0.5})
    assert sorted(os.listdir(tmp_path)) == ["v1.2.json", "v1.2.safetensors"]
    beside = json.loads((tmp_path / "v1.2.json").read_text())
    assert beside == read_manifest(tmp_path / "v1.2.safetensors")
    assert beside["info"] == {"accuracy": 0.5}
    assert beside["layers"]["3"] == {"form": "svd", "layout": "channel", "rank": 2}


# What cannot be saved.


def with_meta() -> nn.Module:
    return nn.Linear(3, 3, device="meta")


def with_words() -> nn.Module:
    class Worded(nn.Linear):
        def get_extra_state(self) -> str:
            return "words"

        def set_extra_state(self, state: str) -> None:
            del state

    return Worded(2, 2)


def with_sparse() -> nn.Module:
    model = nn.Linear(2, 2)
    model.register_buffer("table", torch.eye(2).to_sparse())
    return model


def with_complex() -> nn.Module:
    model = nn.Linear(2, 2)
    model.register_buffer("table", torch.eye(2, dtype=torch.complex128))
    return model


UNSAVED: dict[str, tuple[Callable[[], nn.Module], dict[str, Any], str]] = {
    "meta": (with_meta, {}, "on meta"),
    "words": (with_words, {}, "is a str"),
    "sparse": (with_sparse, {}, "is sparse"),
    "complex": (with_complex, {}, "cannot be written as safetensors"),
    "info": (lambda: nn.Linear(2, 2), {"info": {"when": {1, 2}}}, "what JSON can hold"),
}


@pytest.mark.parametrize("case", UNSAVED)
def test_a_failure_while_saving_leaves_the_old_files(tmp_path, case):
    make, arguments, says = UNSAVED[case]
    model, dense = made("network", "svd")
    lorank.save(model, tmp_path / "a.safetensors")
    before = {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)}
    with pytest.raises(LorankError, match=says) as raised:
        lorank.save(make(), tmp_path / "a.safetensors", **arguments)
    one_sentence(raised.value)
    assert {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)} == before
    assert describe(lorank.load(tmp_path / "a.safetensors", dense)) == describe(model)


def test_a_disk_that_fills_up_leaves_the_old_files(tmp_path, monkeypatch):
    lorank.save(made("network", "svd")[0], tmp_path / "a.safetensors")
    before = {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)}

    def full(tensors: Any, path: Path, metadata: Any) -> None:
        path.write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lorank.files.checkpoint.save_file", full)
    with pytest.raises(OSError, match="No space"):
        lorank.save(made("network", "folded")[0], tmp_path / "a.safetensors")
    assert {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)} == before


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("missing/a.safetensors", "a folder that exists"),
        ("", "folder"),
    ],
)
def test_a_place_that_is_no_file(tmp_path, name, says):
    with pytest.raises(LorankError, match=says):
        lorank.save(nn.Linear(2, 2), tmp_path / name)


def test_what_is_no_model(tmp_path):
    with pytest.raises(LorankError, match="found a dict"):
        lorank.save({}, tmp_path / "a.safetensors")  # type: ignore[arg-type]
    assert not os.listdir(tmp_path)


# What cannot be loaded.


def one_sentence(error: Exception) -> None:
    assert "\n" not in str(error)
    assert 0 < len(str(error)) < 600


def tampered(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Rewrite a file with another manifest, as a person with an editor would."""
    manifest = read_manifest(path)
    changed = change(manifest)
    text = changed if isinstance(changed, str) else json.dumps(manifest)
    save_file(load_file(path), path, metadata={"lorank": text})


def with_entry(name: str, **values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda manifest: manifest["layers"][name].update(values)


MANIFESTS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "rank too high": (with_entry("3", rank=11), "ranks go from 1 to 10"),
    "rank zero": (with_entry("3", rank=0), "ranks go from 1 to 10"),
    "rank of another tensor": (with_entry("3", rank=3), "size mismatch"),
    "rank as a word": (with_entry("3", rank="2"), "cannot have the form"),
    "unknown layout": (with_entry("3", layout="chanel"), "did you mean 'channel'"),
    "layout of images": (with_entry("3", layout="spatial"), "cannot have the form"),
    "unknown form": (with_entry("3", form="tucker"), "cannot have the form"),
    "another form": (with_entry("3", form="pair"), "issing key"),
    "no rank": (lambda m: m["layers"]["3"].pop("rank") and None, "cannot have the form"),
    "unknown layer": (lambda m: m["layers"].update({"7": m["layers"]["3"]}), "unknown layer '7'"),
    "layer of no kind": (lambda m: m["layers"].update({"1": m["layers"]["3"]}), "unknown layer"),
    "newer version": (lambda m: m.update(version=2), "version 2, and this lorank reads up to 1"),
    "version as a word": (lambda m: m.update(version="1"), "damaged manifest"),
    "no version": (lambda m: m.pop("version") and None, "damaged manifest"),
    "layers as a list": (lambda m: m.update(layers=["3"]), "damaged manifest"),
    "layers as words": (lambda m: m.update(layers={"3": "svd"}), "damaged manifest"),
    "tied to nothing": (lambda m: m.update(tied={"3.U": "9.U"}), "damaged manifest"),
    "tied as a list": (lambda m: m.update(tied=["3.U"]), "damaged manifest"),
    "no JSON": (lambda m: "{", "damaged manifest"),
    "a number": (lambda m: "3", "damaged manifest"),
}


@pytest.mark.parametrize("case", MANIFESTS)
def test_a_manifest_edited_by_hand(tmp_path, case):
    change, says = MANIFESTS[case]
    model, dense = made("network", "svd")
    lorank.save(model, tmp_path / "a.safetensors")
    tampered(tmp_path / "a.safetensors", change)
    with pytest.raises(LorankError, match=says) as raised:
        lorank.load(tmp_path / "a.safetensors", dense)
    one_sentence(raised.value)
    assert "a.safetensors" in str(raised.value)


def written(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def truncated(share: float) -> Callable[[Path], object]:
    def cut(path: Path) -> None:
        lorank.save(made("network", "svd")[0], path)
        whole = path.read_bytes()
        path.write_bytes(whole[: int(share * len(whole))])

    return cut


FOREIGN: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "there is none at"),
    "folder": (lambda path: path.mkdir(), "there is none at"),
    "empty": (written(b""), "not a whole safetensors file"),
    "text": (written(b"accuracy: 0.9\n" * 20), "not a whole safetensors file"),
    "pickle": (written(pickle.dumps({"0.weight": [1.0] * 50})), "not a whole safetensors file"),
    "torch.save": (lambda path: torch.save(nn.Linear(2, 2).state_dict(), path), "not a whole"),
    "truncated header": (truncated(0.05), "not a whole safetensors file"),
    "truncated tensors": (truncated(0.9), "not a whole safetensors file"),
    "no manifest": (
        lambda path: save_file({"0.weight": torch.ones(2)}, path),
        "without lorank's manifest: load it with torch's own",
    ),
    "another library's": (
        lambda path: save_file({"0.weight": torch.ones(2)}, path, {"format": "pt"}),
        "without lorank's manifest",
    ),
}


@pytest.mark.parametrize("case", FOREIGN)
@pytest.mark.parametrize("read", [lambda path: lorank.load(path, nn.Linear(2, 2)), read_manifest])
def test_files_that_are_not_ours(tmp_path, case, read):
    write, says = FOREIGN[case]
    write(tmp_path / "a.safetensors")
    with pytest.raises(LorankError, match=says) as raised:
        read(tmp_path / "a.safetensors")
    one_sentence(raised.value)


def lazy() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.LazyLinear(10))


def positioned() -> nn.Module:
    model = normalised()
    model.register_buffer("position", torch.ones(3, device="meta"), persistent=False)
    return model


def wider() -> nn.Module:
    model = normalised()
    model[3] = nn.Linear(128, 12)
    return model


OTHERS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "another class": (Twice, "does not fit Twice: unknown layer '0'"),
    "a root layer": (lambda: nn.Linear(8, 8), "does not fit Linear"),
    "another shape": (wider, "size mismatch for 3.U"),
    "more layers": (lambda: nn.Sequential(*normalised(), nn.Linear(10, 10)), "Missing key"),
    "fewer layers": (lambda: nn.Sequential(*list(normalised())[:3]), "unknown layer '3'"),
    "in SVD form": (lambda: made("network", "svd")[0], "must be the dense one"),
    "folded": (lambda: made("network", "folded")[0], "unknown layer"),
    "lazy": (lazy, "'3'"),
    "a buffer on meta": (positioned, "'position' is on the meta device"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_models_that_the_file_does_not_fit(tmp_path, case):
    make, says = OTHERS[case]
    lorank.save(made("network", "svd")[0], tmp_path / "a.safetensors")
    with pytest.raises(LorankError, match=says) as raised:
        lorank.load(tmp_path / "a.safetensors", make())
    one_sentence(raised.value)
