"""An int8 file is smaller, runs in whole numbers, and says how far it is from float."""

import os
import sys

import pytest
import torch
from torch import Tensor, nn

import lorank
from lorank import LorankError, MissingExtraError
from lorank.files import OnnxModel, export, export_int8, quantize

onnx = pytest.importorskip("onnx", reason="the extra 'onnx' is not installed")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

DATA = torch.Generator().manual_seed(0)
IMAGES = torch.randn(32, 3, 8, 8, generator=DATA)
CALIBRATION = list(torch.randn(64, 3, 8, 8, generator=DATA).split(16))
WORDS = torch.randn(16, 128, generator=DATA)


def convolutional() -> nn.Module:
    torch.manual_seed(0)
    features = [nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1)]
    return nn.Sequential(
        *features, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)
    )


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(128, 256), nn.GELU(), nn.Linear(256, 128))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Float files: of the convolutional network, and of a folded one of linear layers."""
    folder = tmp_path_factory.mktemp("int8")
    export(convolutional(), IMAGES[:1], folder / "conv.onnx")
    low = lorank.decompose(linear(), {"0": 32, "2": 32})
    export(lorank.fold(low), WORDS[:1], folder / "linear.onnx")
    return folder


def kinds(path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


def test_linear_layers_are_quantized_at_each_call(files, tmp_path):
    found = quantize(files / "linear.onnx", tmp_path / "a.onnx", WORDS)
    assert (found.method, found.layers, found.float_layers) == ("dynamic", 4, 0)
    assert kinds(tmp_path / "a.onnx").count("MatMulInteger") == 4
    assert found.int8_bytes == (tmp_path / "a.onnx").stat().st_size < found.float_bytes / 2
    expected, given = OnnxModel(files / "linear.onnx")(WORDS), OnnxModel(tmp_path / "a.onnx")(WORDS)
    error = float((given - expected).norm() / expected.norm())
    assert found.relative_error == pytest.approx(error)
    assert 0 < error < 0.05 and found.cosine > 0.999


def test_convolutions_take_their_scales_from_calibration(files, tmp_path):
    given = {"calibration": CALIBRATION}
    found = quantize(files / "conv.onnx", tmp_path / "a.onnx", IMAGES, **given)
    assert (found.method, found.layers, found.float_layers) == ("static", 3, 0)
    assert 0 < found.relative_error < 0.1 and found.cosine > 0.99
    assert OnnxModel(tmp_path / "a.onnx")(IMAGES[:5]).shape == (5, 10)  # the batch stays open


def test_calibration_matters(files, tmp_path):
    """Negative control: scales from data a hundred times too small cut off what is larger."""
    given = {"calibration": [x / 100 for x in CALIBRATION]}
    found = quantize(files / "conv.onnx", tmp_path / "a.onnx", IMAGES, **given)
    assert found.relative_error > 0.3


def test_without_data_convolutions_are_dynamic_too(files, tmp_path):
    found = quantize(files / "conv.onnx", tmp_path / "a.onnx", IMAGES)
    assert (found.method, found.layers, found.float_layers) == ("dynamic", 3, 0)
    assert kinds(tmp_path / "a.onnx").count("ConvInteger") == 2
    assert 0 < found.relative_error < 0.05


def test_weights_of_one_byte_and_no_path_of_this_machine(files, tmp_path):
    for name, batches in (("conv", CALIBRATION), ("linear", ())):
        x = IMAGES if name == "conv" else WORDS
        quantize(files / f"{name}.onnx", tmp_path / "a.onnx", x, calibration=batches)
        content = (tmp_path / "a.onnx").read_bytes()
        assert str(tmp_path).encode() not in content and str(files).encode() not in content
        stored = onnx.load(tmp_path / "a.onnx").graph.initializer
        assert max(len(w.dims) and w.data_type == 1 and max(w.dims) for w in stored) <= 256
    assert os.listdir(tmp_path) == ["a.onnx"]
    assert sorted(os.listdir(files)) == ["conv.onnx", "linear.onnx"]


def test_from_a_network_in_one_go(tmp_path):
    before = linear().train()
    parity, found = export_int8(before, WORDS, tmp_path / "a.onnx")
    assert parity.relative_error <= parity.tolerance and before.training
    assert os.listdir(tmp_path) == ["a.onnx"]
    expected = before.eval()(WORDS).detach()
    error = (OnnxModel(tmp_path / "a.onnx")(WORDS) - expected).norm() / expected.norm()
    assert float(error) == pytest.approx(found.relative_error, rel=1e-3)


class Attending(nn.Module):
    """Named inputs, an embedding, linear layers on three axes, and products of two maps."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(50, 32)
        self.layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.layer(self.embed(ids), src_key_padding_mask=mask)


def test_an_encoder_with_named_inputs_of_any_length(tmp_path):
    torch.manual_seed(0)
    ids = torch.randint(0, 50, (4, 6), generator=DATA)
    example = {"mask": torch.zeros(4, 6, dtype=torch.bool), "ids": ids}
    _, found = export_int8(Attending(), example, tmp_path / "a.onnx", dynamic_length=True)
    assert found.layers == 4 and found.relative_error < 0.05
    file = OnnxModel(tmp_path / "a.onnx")
    assert file(ids=ids[:2, :3], mask=example["mask"][:2, :3]).shape == (2, 3, 32)


def test_a_file_may_replace_itself(files, tmp_path):
    (tmp_path / "a.onnx").write_bytes((files / "linear.onnx").read_bytes())
    found = quantize(tmp_path / "a.onnx", tmp_path / "a.onnx", WORDS)
    assert found.int8_bytes == (tmp_path / "a.onnx").stat().st_size < found.float_bytes


class Small(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x)


REFUSED = {
    "nothing to quantize": (Small, WORDS, {}, "needs a linear layer or a convolution with stored"),
    "half precision": (
        lambda: linear().half(),
        WORDS.half(),
        {},
        r"starts from weights in float32, and '.*' is of another dtype",
    ),
    "static without data": (linear, WORDS, {"method": "static"}, "needs calibration data, found n"),
    "unknown method": (linear, WORDS, {"method": "statc"}, "did you mean 'static'"),
    "calibration of another shape": (
        linear,
        WORDS,
        {"method": "static", "calibration": [WORDS[:, :5]]},
        r"takes input \(open, 128\) float32, found \(16, 5\) float32",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_quantized_is_said_in_one_sentence(tmp_path, case):
    make, example, arguments, says = REFUSED[case]
    with pytest.raises(LorankError, match=says) as raised:
        export_int8(make(), example, tmp_path / "a.onnx", **arguments)
    assert "\n" not in str(raised.value) and os.listdir(tmp_path) == []


def test_a_damaged_file_and_a_missing_one(files, tmp_path):
    whole = (files / "linear.onnx").read_bytes()
    (tmp_path / "bad.onnx").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(LorankError, match=r"must run .*bad\.onnx, and failed: "):
        quantize(tmp_path / "bad.onnx", tmp_path / "a.onnx", WORDS)
    with pytest.raises(LorankError, match=r"there is no ONNX file"):
        quantize(tmp_path / "none.onnx", tmp_path / "a.onnx", WORDS)
    assert os.listdir(tmp_path) == ["bad.onnx"]


def test_outputs_that_are_not_finite_are_not_written(files, tmp_path, monkeypatch):
    honest = OnnxModel.outputs

    def spoiled(self, example):
        found = honest(self, example)
        return [y * float("nan") for y in found] if self._called == "the int8 file" else found

    monkeypatch.setattr(OnnxModel, "outputs", spoiled)
    with pytest.raises(LorankError, match="found an error of nan: nothing was written"):
        quantize(files / "linear.onnx", tmp_path / "a.onnx", WORDS)
    assert os.listdir(tmp_path) == []


def test_a_missing_package_is_named_with_the_command(files, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"'onnxruntime'.*pip install 'lorank\[onnx\]'"):
        quantize(files / "linear.onnx", tmp_path / "a.onnx", WORDS)


def test_recurrent_layers_are_counted_as_float(tmp_path):
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.fc = nn.LSTM(16, 32, batch_first=True), nn.Linear(32, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.lstm(x)[0][:, -1])

    _, found = export_int8(Last(), torch.randn(4, 5, 16, generator=DATA), tmp_path / "a.onnx")
    assert (found.layers, found.float_layers) == (1, 1)
