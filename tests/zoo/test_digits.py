import sys

import pytest
import torch

from lorank.errors import MissingExtraError
from lorank.zoo import load_data


def test_digits():
    data = load_data("digits")
    assert (len(data.train), len(data.test), data.classes, data.shape) == (1000, 797, 10, (1, 8, 8))
    assert data.augment.pad == 1
    assert not data.augment.flip
    assert data.train.images.max() == 255
    assert data.train.images.dtype == torch.uint8


def test_each_part_has_every_class_in_proportion():
    data = load_data("digits")
    for part, size in ((data.train, 100), (data.test, 80)):
        assert (part.labels.bincount() - size).abs().max() <= 4


def test_the_split_is_always_the_same():
    one, two = load_data("digits"), load_data("digits")
    assert torch.equal(one.train.images, two.train.images)
    assert one.test.labels[:8].tolist() == two.test.labels[:8].tolist()


def test_normalisation_is_that_of_the_training_part():
    x, _ = (data := load_data("digits")).train.__getitems__(range(1000))
    assert x.mean().abs() < 1e-3
    assert abs(x.std() - 1) < 1e-3
    torch.testing.assert_close(x.min().item(), data.augment.fill[0], rtol=1e-5, atol=0)


def test_takes_no_folder(told):
    said = told(load_data, "digits:some")
    assert said == "digits comes with scikit-learn and takes no folder, but got some"


def test_without_scikit_learn(monkeypatch):
    for name in [n for n in sys.modules if n.split(".")[0] == "sklearn"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Absent("sklearn"), *sys.meta_path])
    with pytest.raises(MissingExtraError, match=r"pip install 'lorank\[data\]'"):
        load_data("digits")


class Absent:
    def __init__(self, name):
        self.name = name

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == self.name:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
