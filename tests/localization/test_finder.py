import sys
import types

import numpy as np
import pytest
import torch
from torch import nn

import lorank
from lorank.errors import LorankError
from lorank.files.checkpoint import read_manifest
from lorank.localization import (
    Confidence,
    Projection,
    View,
    Volume,
    fit_confidence,
    load_finder,
    new_finder,
    project,
    synthetic_volume,
)
from lorank.localization.backbone import make_regressor

VIEW = View(rows=32, columns=16, column_mm=12.0)


class Oracle(nn.Module):
    """Knows where the target is: the row that is brighter than all others."""

    def __init__(self):
        super().__init__()
        self.idle = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        rows = x.sum((1, 3)).argmax(1, keepdim=True)
        return (rows - x.shape[2] // 2).float() + self.idle


def marked(row, rows=120):
    image = np.zeros((rows, 16), np.float32)
    image[row] = 1
    return Projection(image, 1.0, rows, 1.0, True, slices=tuple(f"{i}.dcm" for i in range(rows)))


def oracle():
    finder = new_finder("offset_net", VIEW, width=4)
    finder.network = Oracle()
    return finder


@pytest.mark.parametrize("row", [20, 60, 101])
@pytest.mark.parametrize("step", [1, 3])
def test_a_finder_that_knows_the_offsets_finds_the_row(row, step):
    found = oracle().locate(marked(row), step=step)
    assert found.row == row and found.slice == row and found.file == f"{row}.dcm"
    assert found.mm == row and found.confidence is None


@pytest.mark.parametrize("height", [0.625, 2.5])
@pytest.mark.parametrize("axes", ["SPL", "LAI"])
def test_the_slice_is_one_of_the_volume_as_it_was_read(height, axes):
    scan, target = synthetic_volume(3, height=height, axes=axes)
    projection = project(scan, VIEW)
    row = projection.row_of(target)
    image = np.zeros_like(projection.image)
    image[round(row)] = 1
    shown = Projection(image, 1.0, scan.count, height, projection.from_head)
    assert abs(oracle().locate(shown).slice - target) <= max(0.5 / height, 0.5)


def test_a_scan_that_does_not_suit_is_refused():
    finder = oracle()
    with pytest.raises(LorankError, match="at least as high as a window"):
        finder.locate(marked(3, rows=20))
    wide = Projection(np.zeros((99, 17), np.float32), 1.0, 99, 1.0, True)
    with pytest.raises(LorankError, match=r"takes 16 columns .* found 17"):
        finder.locate(wide)
    with pytest.raises(LorankError, match=r"knows its spacing and axes.* found ndarray"):
        finder.locate(np.zeros((4, 200, 60)))


@pytest.mark.parametrize("value", [-1000, 3000])
def test_a_scan_that_shows_nothing_is_refused(value):
    empty = Volume(np.full((4, 200, 60), value, np.int16), (1, 1, 1), "ARS")
    with pytest.raises(LorankError, match="the projection is empty"):
        oracle().locate(empty)


@pytest.mark.parametrize("cut", [False, True])
def test_a_saved_finder_comes_back(tmp_path, cut):
    finder = new_finder("offset_net", VIEW, width=8)
    finder.network.eval()
    if cut:
        spectra = lorank.measure(finder.network, torch.zeros(1, 1, *VIEW.size))
        ranks = lorank.ranks.budget(spectra, macs=0.5)
        finder.network = lorank.fold(lorank.decompose(finder.network, ranks)).eval()
    finder.confidence, finder.facts = Confidence(3.0, -1.0, 10.0, 12), {"valid": {"mean": 1.0}}
    finder.save(tmp_path / "finder.safetensors")
    again = load_finder(tmp_path)
    x = torch.rand(2, 1, *VIEW.size)
    assert torch.equal(again.network(x), finder.network(x))
    assert (again.view, again.confidence, again.facts) == (VIEW, finder.confidence, finder.facts)
    assert bool(read_manifest(tmp_path / "finder.safetensors")["layers"]) is cut


def test_a_file_that_is_no_finder_is_refused(tmp_path):
    lorank.save(nn.Linear(2, 2), tmp_path / "a.safetensors")
    with pytest.raises(LorankError, match="no slice finder"):
        load_finder(tmp_path / "a.safetensors")
    lorank.save(nn.Linear(2, 2), tmp_path / "b.safetensors", info={"kind": "slice finder"})
    with pytest.raises(LorankError, match="damaged description"):
        load_finder(tmp_path / "b.safetensors")
    with pytest.raises(LorankError, match="there is none at"):
        load_finder(tmp_path / "c.safetensors")
    new_finder("offset_net", VIEW, width=4).save(tmp_path / "d.safetensors")
    content = (tmp_path / "d.safetensors").read_bytes()
    (tmp_path / "d.safetensors").write_bytes(content[:-40])
    with pytest.raises(LorankError, match="not a whole safetensors file"):
        load_finder(tmp_path / "d.safetensors")


@pytest.fixture
def mine(monkeypatch):
    """A module of the user's own with backbones."""
    module = types.ModuleType("mine")
    called = []

    def net():
        called.append(1)
        return nn.Sequential(nn.Flatten(), nn.Linear(32 * 16, 3), nn.ReLU(), nn.Linear(3, 1))

    module.net, module.called = net, called
    module.colour = lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1000)
    )
    module.maps = lambda: nn.Conv2d(1, 2, 3)
    module.headless = lambda: nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    module.big = lambda: nn.Sequential(nn.Flatten(), nn.Linear(7, 1))
    monkeypatch.setitem(sys.modules, "mine", module)
    return module


def test_a_function_that_only_a_file_names_is_not_called(tmp_path, mine):
    new_finder("mine:net", VIEW).save(tmp_path / "a.safetensors")
    before = len(mine.called)
    with pytest.raises(LorankError, match="name it to have it called"):
        load_finder(tmp_path / "a.safetensors")
    with pytest.raises(LorankError, match="has the backbone 'mine:net'"):
        load_finder(tmp_path / "a.safetensors", backbone="mine:big")
    assert len(mine.called) == before
    assert (
        load_finder(tmp_path / "a.safetensors", backbone="mine:net").backbone["spec"] == "mine:net"
    )


def test_words_that_only_a_file_has_are_not_passed_on(tmp_path, monkeypatch):
    made, path = [], tmp_path / "a.safetensors"

    def create_model(name, checkpoint_path="", **options):
        made.append(checkpoint_path)
        return nn.Sequential(nn.Flatten(), nn.Linear(32 * 16, 1))

    timm = types.ModuleType("timm")
    timm.create_model = create_model
    monkeypatch.setitem(sys.modules, "timm", timm)
    new_finder("timm:net", VIEW, checkpoint_path="mine.pth").save(path)
    with pytest.raises(LorankError, match="options that are no numbers, checkpoint_path"):
        load_finder(path)
    assert made == ["mine.pth"]
    load_finder(path, backbone="timm:net")
    assert len(made) == 2
    new_finder("timm:net", VIEW, width=4).save(path)
    load_finder(path)
    new_finder("timm:hub:a/net", VIEW).save(path)
    with pytest.raises(LorankError, match="name it to have it called"):
        load_finder(path)


def test_options_that_cannot_be_kept_are_refused_before_training():
    with pytest.raises(LorankError, match="values that JSON holds"):
        new_finder("offset_net", VIEW, width=np.int64(4))


def test_a_backbone_of_three_channels_and_a_thousand_classes_is_adapted(mine):
    made = make_regressor("mine:colour", VIEW, scale=10.0)
    x = torch.rand(2, 1, *VIEW.size)
    assert made.channels == 3 and made.backbone[3].out_features == 1
    assert torch.allclose(made(x), 10 * made.backbone(x.expand(-1, 3, -1, -1)))


def test_a_trained_backbone_gets_the_scale_it_was_trained_on(mine):
    module = sys.modules["mine"]
    module.trained = lambda pretrained: module.colour()
    made = make_regressor("mine:trained", VIEW, pretrained=True)
    x = torch.rand(2, 1, *VIEW.size)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    assert torch.allclose(made(x), made.scale * made.backbone((x - mean) / std))


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("mine:maps", "tensor \\(N, outputs\\)"),
        ("mine:headless", "ends in no linear layer"),
        ("mine:big", r"does not run on windows of 32 × 16: with 1 channel\(s\) .*; with 3 channel"),
        ("offsetnet", "unknown model"),
    ],
)
def test_a_backbone_that_cannot_be_used_is_refused(mine, spec, says):
    with pytest.raises(LorankError, match=says):
        make_regressor(spec, VIEW)


@pytest.mark.parametrize("width", [-1, 1.5, "wide"])
def test_options_that_make_no_network_are_refused(width):
    with pytest.raises(LorankError, match="'offset_net' cannot be made: "):
        make_regressor("offset_net", VIEW, width=width)


@pytest.mark.parametrize("spec", ["resnet8", "vgg"])
def test_networks_of_the_zoo_can_be_backbones(spec):
    made = make_regressor(spec, VIEW, width=4)
    assert made(torch.rand(2, 1, *VIEW.size)).shape == (2, 1) and made.channels == 1


def test_confidence_is_the_chance_of_being_right():
    g = torch.Generator().manual_seed(0)
    s = torch.rand(4000, generator=g, dtype=torch.float64)
    true = torch.sigmoid(8 * s - 3)
    wrong = torch.rand(4000, generator=g, dtype=torch.float64) > true
    found = fit_confidence(s.tolist(), torch.where(wrong, 35.0, 2.0).tolist())
    # Standard errors of a logistic fit with 4000 samples: 0.3 of the slope, 0.1 of the bias.
    assert found.slope == pytest.approx(8, abs=1.2) and found.bias == pytest.approx(-3, abs=0.5)
    assert found.scans == 4000 and found.tolerance == 10


def test_confidence_is_never_certain_nor_upside_down():
    sure = fit_confidence([0.9] * 30, [0.0] * 30)
    assert 0.9 < sure.of(0.9) < 1
    upside = fit_confidence([0.9] * 10 + [0.1] * 10, [35.0] * 10 + [0.0] * 10)
    assert upside.slope == 0 and upside.of(0.9) == pytest.approx(0.5)
    apart = fit_confidence([0.9] * 10 + [0.1] * 10, [0.0] * 10 + [35.0] * 10)
    assert apart.of(0.9) > 0.85 and apart.of(0.1) < 0.15


def test_few_scans_give_no_confidence():
    assert fit_confidence([0.5] * 9, [0.0] * 9) is None
    with pytest.raises(LorankError, match="one error a score"):
        fit_confidence([0.5], [])
    for score, error in ((float("nan"), 0.0), (0.5, float("inf"))):
        with pytest.raises(LorankError, match="finite, found NaN or Inf"):
            fit_confidence([score] * 20, [error] * 20)


@pytest.mark.parametrize(
    "change",
    [
        {"confidence": ["a", 0.0, 10.0, 12]},
        {"confidence": [float("nan"), 0.0, 10.0, 12]},
        {"confidence": [1.0]},
        {"facts": [1]},
        {"view": {"rows": 32.0, "columns": 16}},
        {"backbone": {"spec": "offset_net", "options": {}, "channels": 1, "trained": False}},
        {"backbone": {"scale": "a"}},
        {"backbone": {"scale": None}},
    ],
)
def test_a_damaged_description_is_refused(tmp_path, change):
    finder = new_finder("offset_net", VIEW, width=4)
    finder.save(tmp_path / "a.safetensors")
    info = read_manifest(tmp_path / "a.safetensors")["info"]
    if "scale" in change.get("backbone", {}):
        change = {"backbone": info["backbone"] | change["backbone"]}
    lorank.save(finder.network, tmp_path / "a.safetensors", info=info | change)
    with pytest.raises(LorankError, match="damaged description"):
        load_finder(tmp_path / "a.safetensors")
