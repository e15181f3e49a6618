"""A torch.export program computes what the model computes, and holds nothing else."""

import io
import os
import pickle
import zipfile

import pytest
import torch
from torch import Tensor, nn

import lorank
from lorank import LorankError
from lorank.files import export_program

IMAGE = torch.linspace(-1, 1, 4 * 3 * 8 * 8).reshape(4, 3, 8, 8)


def folded() -> nn.Module:
    torch.manual_seed(0)
    dense = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10)
    )
    return lorank.fold(lorank.decompose(dense, {"0": 2, "3": 3}, layout="channel"))


def encoder() -> nn.Module:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    return nn.TransformerEncoder(layer, 2).eval()


PADDED = {
    "src": torch.linspace(-1, 1, 2 * 6 * 16).reshape(2, 6, 16),
    "src_key_padding_mask": torch.tensor([[False] * 6, [False] * 4 + [True] * 2]),
}


def read(path) -> nn.Module:
    """Our own file, of this very test."""
    return torch.export.load(path).module()


def test_the_file_is_the_network_for_any_batch(tmp_path):
    model = folded()
    parity = export_program(model.train(), IMAGE[:1], tmp_path / "a.pt2")
    assert parity.batches == (1, 2)
    assert parity.relative_error <= parity.tolerance == 1000 * 2**-23
    assert all(module.training for module in model.modules())
    assert os.listdir(tmp_path) == ["a.pt2"]
    again = read(tmp_path / "a.pt2")
    torch.testing.assert_close(again(IMAGE), model.eval()(IMAGE), rtol=1e-5, atol=1e-6)
    assert sum(p.numel() for p in again.parameters()) == sum(p.numel() for p in model.parameters())


def test_the_file_holds_no_example_no_pickle_and_no_path(tmp_path):
    x = torch.full((2, 3, 8, 8), 0.123456789)
    export_program(folded(), x, tmp_path / "a.pt2")
    content = (tmp_path / "a.pt2").read_bytes()
    assert b"test_exported.py" not in content and b"/torch/" not in content
    assert x[0, 0, 0].numpy().tobytes() not in content
    with zipfile.ZipFile(tmp_path / "a.pt2") as archive:
        for name in archive.namelist():
            assert not archive.read(name).startswith(b"\x80\x02"), name
            assert not zipfile.is_zipfile(io.BytesIO(archive.read(name))), name


def test_why_no_program_is_read(tmp_path):
    """torch.export.load runs what a file says: an example input may be any pickle."""

    class Runs:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "made by a file"),))

    export_program(nn.Linear(3, 2), torch.ones(1, 3), tmp_path / "a.pt2")
    with (
        zipfile.ZipFile(tmp_path / "a.pt2") as good,
        zipfile.ZipFile(tmp_path / "evil.pt2", "w") as evil,
    ):
        for name in good.namelist():
            content = good.read(name)
            if "sample_inputs" in name:
                buffer = io.BytesIO()
                torch.save(Runs(), buffer, pickle_module=pickle)
                content = buffer.getvalue()
            evil.writestr(name, content)
    with pytest.raises(Exception):  # noqa: B017 - whatever it says afterwards, it was too late
        torch.export.load(tmp_path / "evil.pt2")
    assert (tmp_path / "made by a file").is_dir()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_precision(tmp_path, dtype):
    parity = export_program(folded().to(dtype), IMAGE.to(dtype), tmp_path / "a.pt2")
    room = 1000 if dtype == torch.float64 else 20
    assert parity.relative_error <= parity.tolerance == room * torch.finfo(dtype).eps


def test_attention_with_a_padding_mask_and_any_length(tmp_path):
    export_program(encoder(), PADDED, tmp_path / "a.pt2", dynamic_length=True)
    longer = {key: torch.cat([x, x], 1).repeat(2, *[1] * (x.ndim - 1)) for key, x in PADDED.items()}
    seen = ~longer["src_key_padding_mask"]
    with torch.no_grad():
        expected = encoder()(**longer)[seen]
        found = read(tmp_path / "a.pt2")(**longer)[seen]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


LAYERS = {
    "transposed 1-d": (nn.ConvTranspose1d(3, 6, 3, stride=2), torch.ones(1, 3, 9)),
    "transposed 2-d": (nn.ConvTranspose2d(4, 4, 3, stride=2, groups=2), torch.ones(1, 4, 5, 5)),
    "3-d": (nn.Conv3d(2, 4, 3), torch.ones(1, 2, 4, 4, 4)),
    "circular": (nn.Conv1d(2, 4, 3, padding=1, padding_mode="circular"), torch.ones(1, 2, 6)),
    "linear on 3-d": (nn.Linear(8, 8), torch.ones(2, 5, 8)),
}


@pytest.mark.parametrize("case", LAYERS)
def test_layers_of_every_kind(tmp_path, case):
    layer, x = LAYERS[case]
    model = nn.Sequential(layer)
    small = lorank.fold(lorank.decompose(model, {"0": 1}))
    assert not isinstance(small[0], type(layer))  # two thin ones
    assert export_program(small, x, tmp_path / "a.pt2").batches == (len(x), len(x) + 1)


class Answer(dict):
    """An output of a class of its own."""


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(20, 8)

    def forward(self, ids: Tensor, mask: Tensor) -> Answer:
        x = self.embed(ids) * mask[..., None]
        return Answer(vectors=x, sums=x.sum(1))


def test_named_inputs_and_outputs_of_another_class(tmp_path):
    torch.utils._pytree.register_pytree_node(
        Answer, lambda a: (list(a.values()), list(a)), lambda v, k: Answer(zip(k, v, strict=True))
    )
    try:
        model = Named()
        ids = torch.tensor([[1, 2, 3], [4, 5, 6]])
        example = {"mask": torch.ones(2, 3), "ids": ids}
        export_program(model, example, tmp_path / "a.pt2", dynamic_length=True)
    finally:
        torch.utils._pytree._deregister_pytree_node(Answer)
    vectors, sums = read(tmp_path / "a.pt2")(ids=ids[:1, :2], mask=torch.ones(1, 2))
    expected = model(ids[:1, :2], torch.ones(1, 2))
    assert torch.equal(vectors, expected["vectors"]) and torch.equal(sums, expected["sums"])


class Positions(nn.Module):
    """Its length ends where its table of positions does."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.linspace(-1, 1, 16 * 4).reshape(16, 4))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.table[: x.shape[1]]


def test_a_length_that_a_table_of_positions_bounds(tmp_path):
    export_program(Positions(), torch.ones(2, 5, 4), tmp_path / "a.pt2", dynamic_length=True)
    again = read(tmp_path / "a.pt2")
    for x in (torch.ones(1, 2, 4), torch.ones(3, 16, 4)):
        assert torch.equal(again(x), Positions()(x))


class Deciding(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x
        return -x


class FixedBatch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.view(4, -1).sum(1)


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1 if x.shape[0] == 4 else x + 2


REFUSED = {
    "SVD form": (
        lambda: lorank.decompose(nn.Sequential(nn.Linear(8, 8)), {"0": 2}),
        torch.ones(1, 8),
        "'0' is in SVD form: call lorank.fold first",
    ),
    "meta": (lambda: nn.Linear(3, 3, device="meta"), torch.ones(1, 3), "on the meta"),
    "wrong example": (folded, IMAGE[:, :2], "must run on the example, and failed on"),
    "a decision on the data": (
        Deciding,
        torch.ones(2, 3),
        r"that of Deciding depends on them at 'if x\.sum\(\) > 0' \(test_exported\.py, line \d+",
    ),
    "fixed batch": (FixedBatch, torch.ones(4, 5), r"fails on .* \(5, 5\): pass dynamic_batch=Fal"),
    "branch on the batch": (Branching, torch.ones(4, 5), "torch.export failed on Branching: "),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_exported_is_said_in_one_sentence(tmp_path, capfd, case):
    make, example, says = REFUSED[case]
    with pytest.raises(LorankError, match=says) as raised:
        export_program(make(), example, tmp_path / "a.pt2")
    assert "\n" not in str(raised.value)
    assert os.listdir(tmp_path) == [] and "".join(capfd.readouterr()) == ""


def test_a_fixed_batch_can_be_asked_for(tmp_path):
    x = torch.arange(20.0).reshape(4, 5)
    parity = export_program(FixedBatch(), x, tmp_path / "a.pt2", dynamic_batch=False)
    assert parity.batches == () and torch.equal(read(tmp_path / "a.pt2")(x), x.sum(1))


@pytest.mark.parametrize("damage", ["truncated", "another network"])
def test_a_file_that_went_wrong_is_not_kept(tmp_path, monkeypatch, damage):
    (tmp_path / "a.pt2").write_text("the file of before")
    save = torch.export.save

    def spoiled(program, file):
        if damage == "truncated":
            save(program, file)
            file.truncate(file.tell() // 2)
        else:
            save(torch.export.export(nn.Linear(3, 2), (torch.ones(2, 3),)), file)

    monkeypatch.setattr(torch.export, "save", spoiled)
    with pytest.raises(LorankError, match=r"must read the file again|must agree|must run"):
        export_program(nn.Linear(3, 2), torch.ones(2, 3), tmp_path / "a.pt2")
    assert (tmp_path / "a.pt2").read_text() == "the file of before"
    assert os.listdir(tmp_path) == ["a.pt2"]
