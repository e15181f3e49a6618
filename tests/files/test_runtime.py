"""An ONNX file is called like a model, and says in one sentence what it takes."""

import pytest
import torch
from torch import Tensor, nn

from lorank import LorankError, MissingExtraError
from lorank.files import OnnxModel, export

pytest.importorskip("onnxscript", reason="the extra 'onnx' is not installed")
pytest.importorskip("onnxruntime")


class Two(nn.Module):
    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return ids * mask, mask.sum(1)


@pytest.fixture(scope="module")
def linear(tmp_path_factory):
    path = tmp_path_factory.mktemp("runtime") / "a.onnx"
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    export(model, torch.ones(1, 3), path)
    return model, path


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    path = tmp_path_factory.mktemp("runtime") / "two.onnx"
    export(Two(), {"ids": torch.ones(2, 3), "mask": torch.ones(2, 3)}, path, dynamic_length=True)
    return path


def test_it_computes(linear):
    model, path = linear
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(OnnxModel(path, threads=1)(x), model(x).detach())


def test_inputs_by_name_come_in_any_order(two):
    ids, mask = torch.full((1, 4), 3.0), torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    file = OnnxModel(two)
    assert [str(slot) for slot in file.inputs] == [
        "ids (open, open) float32",
        "mask (open, open) float32",
    ]
    for found in (file(mask=mask, ids=ids), file(ids, mask)):
        assert found[0].tolist() == [[3, 3, 0, 0]] and found[1].tolist() == [2]


@pytest.mark.parametrize(
    ("x", "found"),
    [
        ((torch.ones(2, 4),), r"\(2, 4\) float32"),
        ((torch.ones(2, 3).double(),), r"\(2, 3\) float64"),
        ((torch.ones(3),), r"\(3,\) float32"),
        ((torch.ones(2, 3), torch.ones(1)), r"\(2, 3\) float32; \(1,\) float32"),
        ((), "none"),
    ],
)
def test_what_does_not_fit(linear, x, found):
    with pytest.raises(LorankError, match=rf"takes input \(open, 3\) float32, found {found}$"):
        OnnxModel(linear[1], called="it")(*x)


@pytest.mark.parametrize("content", [b"", b"not a graph", None])
def test_a_damaged_file(linear, tmp_path, content):
    whole = linear[1].read_bytes()
    (tmp_path / "a.onnx").write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(LorankError, match=r"must run .*a\.onnx, and failed: ") as raised:
        OnnxModel(tmp_path / "a.onnx")
    assert "\n" not in str(raised.value)


def test_a_missing_file_and_a_missing_package(tmp_path, monkeypatch):
    with pytest.raises(LorankError, match=r"there is no ONNX file .*a\.onnx"):
        OnnxModel(tmp_path / "a.onnx")
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'lorank\[onnx\]'"):
        OnnxModel(tmp_path / "a.onnx")
