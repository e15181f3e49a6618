import pytest
import torch

from lorank.zoo import load_model


@pytest.mark.parametrize("size", [8, 28, 32])
def test_mlp_and_vgg_of_any_size(size):
    x = torch.randn(2, 3, size, size)
    for name in ("mlp", "vgg"):
        model = load_model(name, in_channels=3, classes=4, size=size, width=6)
        assert model(x).shape == (2, 4)


@pytest.mark.parametrize("size", [12, 13, 15, 28, 33])
def test_lenet_of_any_size(size):
    model = load_model("lenet", size=size)
    assert model(torch.randn(2, 1, size, size)).shape == (2, 10)


def test_lenet_is_lenet_5():
    assert sum(p.numel() for p in load_model("lenet").parameters()) == 61_706


def test_lenet_refuses_small_images(told):
    said = told(load_model, "lenet", size=8)
    assert said == "lenet needs images of at least 12 × 12 pixels, but got 8 × 8"
