import copy
import pickle

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lorank.zoo import MODELS, CifarResNet, cifar, load_weights
from lorank.zoo.resnet import PadShortcut

PARAMETERS = {8: 75_290, 20: 269_722, 32: 464_154, 44: 658_586, 56: 853_018, 110: 1_727_962}
PROJECTIONS = 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64  # two 1×1 convolutions and their normalisation


def count(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("depth", PARAMETERS)
def test_parameters_are_the_published_ones(depth):
    assert count(MODELS[f"resnet{depth}"]()) == PARAMETERS[depth]


@pytest.mark.parametrize("depth", [8, 20])
def test_option_b_adds_two_projections(depth):
    assert count(MODELS[f"resnet{depth}-b"]()) == PARAMETERS[depth] + PROJECTIONS


@pytest.mark.parametrize(("shortcut", "more"), [("A", 0), ("B", 2 * 16 * 32 * 256)])
def test_macs_of_resnet20(shortcut, more):
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        CifarResNet(20, shortcut=shortcut)(torch.zeros(1, 3, 32, 32))
    assert counter.get_total_flops() == 2 * (40_550_400 + 640 + more)


def test_depth_counts_layers():
    model = CifarResNet(56)
    layers = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    assert len(layers) == 56


@pytest.mark.parametrize("stride", [1, 2])
def test_pad_shortcut_against_a_loop(stride):
    x = torch.randn(2, 3, 5, 4)
    y = PadShortcut(3, 8, stride)(x)
    want = torch.zeros(2, 8, -(-5 // stride), -(-4 // stride))
    for channel in range(3):
        for row in range(want.shape[2]):
            for column in range(want.shape[3]):
                want[:, 2 + channel, row, column] = x[:, channel, row * stride, column * stride]
    assert torch.equal(y, want)


@pytest.mark.parametrize("shortcut", ["A", "B"])
@pytest.mark.parametrize("size", [8, 28, 33])
def test_any_image_size_width_and_channels(shortcut, size):
    model = CifarResNet(8, in_channels=1, classes=7, width=5, shortcut=shortcut).eval()
    assert model(torch.randn(2, 1, size, size)).shape == (2, 7)


def test_names_of_option_b():
    names = {k for k in CifarResNet(8, shortcut="B").state_dict() if "shortcut" in k and "we" in k}
    stages = ("layer2.0", "layer3.0")
    assert names == {f"{stage}.shortcut.{i}.weight" for stage in stages for i in (0, 1)}


def test_kaiming_normal():
    torch.manual_seed(0)
    weight = CifarResNet(8, width=64).layer3[0].conv2.weight
    assert weight.std().item() == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.01)


@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_copies_and_pickles(shortcut):
    model = CifarResNet(8, width=4, shortcut=shortcut).eval()
    x = torch.randn(2, 3, 16, 16)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(x), model(x))


@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_exports_with_a_dynamic_batch(shortcut):
    model = CifarResNet(8, width=4, shortcut=shortcut).eval()
    batch = torch.export.Dim("batch")
    example = (torch.randn(2, 3, 16, 16),)
    program = torch.export.export(model, example, dynamic_shapes={"x": {0: batch}})
    x = torch.randn(5, 3, 16, 16)
    torch.testing.assert_close(program.module()(x), model(x))


def test_compiles_as_one_graph():
    model = CifarResNet(8, width=4).eval()
    x = torch.randn(2, 3, 16, 16)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), model(x))


@pytest.mark.parametrize(
    ("depth", "options", "says"),
    [
        (18, {}, "depth must be 6n + 2 with n at least 1 (8, 14, 20, …), but got 18"),
        (2, {}, "but got 2"),
        (8, {"shortcut": "C"}, "unknown shortcut 'C': Known: A, B"),
        (8, {"width": 0}, "width must be at least 1, but got 0"),
        (8, {"classes": 0}, "classes must be at least 1, but got 0"),
        (8, {"in_channels": -1}, "in_channels must be at least 1, but got -1"),
    ],
)
def test_errors(told, depth, options, says):
    assert says in told(CifarResNet, depth, **options)


@pytest.mark.parametrize("depth", [20, 32, 44, 56])
def test_published_weights_load(shared, depth):
    path = shared(f"resnet_cifar10/resnet{depth}.safetensors")
    load_weights(CifarResNet(depth), path)


def test_published_weights_are_accurate(shared):
    model = load_weights(CifarResNet(20), shared("resnet_cifar10/resnet20.safetensors")).eval()
    images, labels = cifar._read_delta(shared("cifar10/test.npz"))
    images, labels = torch.from_numpy(images[:1000]), torch.from_numpy(labels[:1000])
    test = cifar.Images(images, labels, cifar.MEAN, cifar.STD)
    right = 0
    with torch.inference_mode():
        for start in range(0, 1000, 250):
            x, y = test.__getitems__(range(start, start + 250))
            right += int((model(x).argmax(1) == y).sum())
    assert right >= 900
