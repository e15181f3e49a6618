"""An exported file is small as the folded network is, and computes what torch computes."""

import logging
import os
import sys
import warnings

import pytest
import torch
from torch import Tensor, nn

import lorank
from lorank import LorankError, MissingExtraError
from lorank.files import OnnxModel, export
from lorank.files.parity import difference

pytest.importorskip("onnxscript", reason="the extra 'onnx' is not installed")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

IMAGE = torch.linspace(-1, 1, 4 * 3 * 8 * 8).reshape(4, 3, 8, 8)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10))


def folded() -> nn.Module:
    return lorank.fold(lorank.decompose(network(), {"0": 2, "3": 3}, layout="channel"))


def weights(path) -> list[tuple[str, tuple[int, ...]]]:
    """Operation and weight shape of every node that multiplies by a stored matrix or kernel."""
    graph = onnx.load(path).graph
    stored = {entry.name: tuple(entry.dims) for entry in graph.initializer}
    products = [node for node in graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    return [(node.op_type, stored[node.input[1]]) for node in products]


def parameters(path) -> int:
    """Float numbers that a file stores."""
    kept = onnx.load(path).graph.initializer
    return sum(onnx.numpy_helper.to_array(e).size for e in kept if e.data_type != 7)


def outputs(path, *inputs: Tensor) -> list[Tensor]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    feeds = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
    return [torch.from_numpy(y) for y in session.run(None, feeds)]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "small.onnx"
    model = folded().train()
    parity = export(model, IMAGE[:1], path)
    return model, path, parity


def test_the_file_agrees_with_torch(exported):
    model, path, parity = exported
    assert parity.batches == (1, 2)
    assert 0 <= parity.relative_error < 1e-5 < parity.tolerance == 1000 * 2**-23
    expected = model(IMAGE).detach()
    torch.testing.assert_close(outputs(path, IMAGE)[0], expected, rtol=1e-5, atol=1e-6)
    assert onnx.load(path).graph.output[0].name == "output"


def test_a_pair_stays_two_thin_nodes(exported):
    model, path, _ = exported
    assert weights(path) == [
        ("Conv", (2, 3, 3, 3)),
        ("Conv", (8, 2, 1, 1)),
        ("Gemm", (3, 512)),
        ("Gemm", (10, 3)),
    ]
    assert parameters(path) == sum(p.numel() for p in model.parameters())
    assert parameters(path) < sum(p.numel() for p in network().parameters()) / 2


def test_the_model_is_not_changed_and_the_folder_holds_one_file(exported):
    model, path, _ = exported
    assert all(module.training for module in model.modules())
    assert os.listdir(path.parent) == ["small.onnx"]


def test_the_file_names_no_source_file_of_this_machine(exported):
    _, path, _ = exported
    assert b"test_onnx.py" not in path.read_bytes()
    assert b"/torch/" not in path.read_bytes()


def test_a_rebuilt_weight_would_lose_the_saving(tmp_path):
    """Why layers in SVD form are refused: the exporter makes one dense weight of the factors."""

    class Rebuilding(nn.Module):
        def __init__(self):
            super().__init__()
            self.U, self.V = nn.Parameter(torch.ones(40, 2)), nn.Parameter(torch.ones(2, 50))

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.linear(x, self.U @ self.V)

    export(Rebuilding(), torch.ones(1, 50), tmp_path / "a.onnx")
    assert weights(tmp_path / "a.onnx") == [("Gemm", (40, 50))]


def test_exporting_is_silent(tmp_path, capfd, caplog):
    with warnings.catch_warnings(), caplog.at_level(logging.DEBUG):
        warnings.simplefilter("error")
        export(nn.Linear(3, 2), torch.ones(1, 3), tmp_path / "a.onnx")
    assert "".join(capfd.readouterr()) == ""
    assert logging.root.manager.disable == logging.NOTSET


class Named(nn.Module):
    """Named inputs, one of them integer, one a mask, one a plain number; several outputs."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, ids: Tensor, mask: Tensor, scale: float = 1.0) -> dict[str, Tensor]:
        x = self.embed(ids)
        y, _ = self.attention(x, x, x, key_padding_mask=mask, need_weights=False)
        return {"vectors": scale * y, "longest": (~mask).sum(1)}


def test_named_inputs_integers_and_attention(tmp_path):
    low = lorank.decompose(Named(), {"embed": 2, "attention.q_proj": 2, "attention.out_proj": 2})
    model = lorank.fold(low).eval()
    example = {
        "mask": torch.tensor([[False, False, True], [False, False, False]]),
        "ids": torch.tensor([[1, 2, 3], [4, 5, 6]]),
        "scale": 2.5,
    }
    parity = export(model, example, tmp_path / "a.onnx")
    assert parity.batches == (2, 3)
    more = {k: v.repeat(3, 1) if isinstance(v, Tensor) else v for k, v in example.items()}
    with torch.no_grad():
        expected = model(**more)
    vectors, longest = outputs(tmp_path / "a.onnx", more["mask"], more["ids"])
    torch.testing.assert_close(vectors, expected["vectors"], rtol=1e-5, atol=1e-6)
    assert torch.equal(longest, expected["longest"])


def test_a_tuple_of_inputs(tmp_path):
    export(nn.Bilinear(3, 4, 2), (torch.ones(2, 3), torch.ones(2, 4)), tmp_path / "a.onnx")
    assert outputs(tmp_path / "a.onnx", torch.ones(5, 3), torch.ones(5, 4))[0].shape == (5, 2)


def test_half_precision(tmp_path):
    parity = export(folded().half(), IMAGE.half(), tmp_path / "a.onnx")
    assert parity.tolerance == 20 * torch.finfo(torch.float16).eps
    assert outputs(tmp_path / "a.onnx", IMAGE[:1].half())[0].dtype == torch.float16


def test_double_precision(tmp_path):
    model = lorank.fold(lorank.decompose(nn.Sequential(nn.Linear(8, 8)), {"0": 2})).double()
    parity = export(model, torch.ones(2, 8).double(), tmp_path / "a.onnx")
    assert parity.relative_error < 1e-14


def test_an_operator_set_can_be_asked_for(tmp_path):
    export(nn.Linear(3, 2), torch.ones(1, 3), tmp_path / "a.onnx", opset=18)
    assert [o.version for o in onnx.load(tmp_path / "a.onnx").opset_import if not o.domain] == [18]


def test_attention_with_a_padding_mask_and_any_length(tmp_path):
    """torch's fast path would write zeros where the mask hides; no exporter follows it."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    model = nn.TransformerEncoder(layer, 2).eval()
    example = {
        "src": torch.linspace(-1, 1, 2 * 6 * 16).reshape(2, 6, 16),
        "src_key_padding_mask": torch.tensor([[False] * 6, [False] * 4 + [True] * 2]),
    }
    small = lorank.fold(lorank.decompose(model, {"layers.0.linear1": 4, "layers.1.linear2": 4}))
    export(small, example, tmp_path / "a.onnx", dynamic_length=True)
    longer = {k: torch.cat([x, x], 1).repeat(2, *[1] * (x.ndim - 1)) for k, x in example.items()}
    seen = ~longer["src_key_padding_mask"]
    with torch.no_grad():
        expected = small(**longer)[seen]
    found = OnnxModel(tmp_path / "a.onnx")(**longer)[seen]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


LAYERS = {
    "transposed 1-d": (nn.ConvTranspose1d(3, 6, 3, stride=2), torch.ones(1, 3, 9)),
    "3-d": (nn.Conv3d(2, 4, 3), torch.ones(1, 2, 4, 4, 4)),
    "linear on 3-d": (nn.Linear(8, 8), torch.ones(2, 5, 8)),
}


@pytest.mark.parametrize("case", LAYERS)
def test_layers_of_every_kind(tmp_path, case):
    layer, x = LAYERS[case]
    small = lorank.fold(lorank.decompose(nn.Sequential(layer), {"0": 1}))
    assert not isinstance(small[0], type(layer))  # two thin ones
    assert export(small, x, tmp_path / "a.onnx").batches == (len(x), len(x) + 1)


class FixedBatch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.view(4, -1).sum(1)


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1 if x.shape[0] == 4 else x + 2


def test_a_fixed_batch_can_be_asked_for(tmp_path):
    x = torch.arange(20.0).reshape(4, 5)
    parity = export(FixedBatch(), x, tmp_path / "a.onnx", dynamic_batch=False)
    assert parity.batches == ()
    assert torch.equal(outputs(tmp_path / "a.onnx", x)[0], x.sum(1))


def test_infinities_and_constants_agree(tmp_path):
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x.log(), 0 * x

    assert export(Odd(), torch.tensor([[0.0, 1.0]]), tmp_path / "a.onnx").max_error == 0


class Deciding(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x
        return -x


REFUSED = {
    "a decision on the data": (
        Deciding,
        (torch.ones(2, 3),),
        {},
        r"that of Deciding depends on them at 'if x\.sum\(\) > 0' \(test_onnx\.py, line \d+",
    ),
    "length": (
        network,
        (IMAGE,),
        {"dynamic_length": True},
        "batch size and length must stay open, and the model fails on",
    ),
    "SVD form": (
        lambda: lorank.decompose(network(), {"3": 3}),
        (IMAGE,),
        {},
        "'3' is in SVD form: call lorank.fold first",
    ),
    "meta": (lambda: nn.Linear(3, 3, device="meta"), (torch.ones(1, 3),), {}, "on the meta"),
    "bfloat16": (
        lambda: nn.Linear(3, 3).bfloat16(),
        (torch.ones(1, 3).bfloat16(),),
        {},
        "found torch.bfloat16: export model.float",
    ),
    "wrong example": (network, (IMAGE[:, :2],), {}, "must run on the example, and failed on"),
    "no output": (lambda: nn.Identity(), (None,), {}, "must return tensors"),
    "no row": (lambda: nn.Linear(3, 3), (torch.ones(0, 3),), {}, "at least one row"),
    "fixed batch": (
        FixedBatch,
        (torch.ones(4, 5),),
        {},
        r"the model fails on .* \(5, 5\): pass dynamic_batch=False",
    ),
    "branch on the batch": (
        Branching,
        (torch.ones(4, 5),),
        {},
        "stay open, and torch's exporter failed on Branching: .*: pass dynamic_batch=False",
    ),
    "batches that differ": (
        lambda: nn.CosineSimilarity(),
        (torch.ones(1, 3), torch.ones(4, 3)),
        {},
        "first axes differ: 1, 4",
    ),
    "opset": (
        lambda: nn.Linear(3, 3),
        (torch.ones(1, 3),),
        {"opset": 99},
        "opset 99 was asked for, and torch's exporter gave",
    ),
    "no kernel": (
        lambda: nn.Conv1d(1, 1, 2).double(),
        (torch.ones(1, 1, 3).double(),),
        {},
        "ONNX Runtime must run the file, and failed: NotImplemented",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_exported_is_said_in_one_sentence(tmp_path, case):
    make, example, arguments, says = REFUSED[case]
    with pytest.raises(LorankError, match=says) as raised:
        export(make(), example, tmp_path / "a.onnx", **arguments)
    assert "\n" not in str(raised.value)
    assert os.listdir(tmp_path) == []


def test_a_file_that_disagrees_is_not_written(tmp_path, monkeypatch):
    (tmp_path / "a.onnx").write_text("the file of before")
    honest = lorank.files.onnx._run
    monkeypatch.setattr("lorank.files.onnx._run", lambda *args: [1.001 * y for y in honest(*args)])
    with pytest.raises(LorankError, match=r"found 1\.0e-03: nothing was written"):
        export(nn.Linear(3, 2), torch.ones(1, 3), tmp_path / "a.onnx")
    assert os.listdir(tmp_path) == ["a.onnx"]
    assert (tmp_path / "a.onnx").read_text() == "the file of before"


@pytest.mark.parametrize(
    ("found", "error"),
    [
        ([1.0, 2.0], 0.0),
        ([1.0, 2.5], 0.25),
        ([1.0, float("nan")], float("inf")),
        ([1.0, float("inf")], float("inf")),
        ([1.0, 2.0, 3.0], float("inf")),
    ],
)
def test_the_error_is_relative_to_the_largest_entry(found, error):
    assert difference(torch.tensor([1.0, 2.0]), torch.tensor(found))[1] == error


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named_with_the_command(tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"'{package}'.*pip install 'lorank\[onnx\]'"):
        export(nn.Linear(3, 2), torch.ones(1, 3), tmp_path / "a.onnx")
