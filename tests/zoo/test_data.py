import pytest
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

from lorank.zoo import DATASETS, Data, Images, as_is, holdout, load_data

IMAGES = torch.randn(6, 1, 4, 4)


class Targets(Dataset):
    def __init__(self, targets):
        self.targets = targets

    def __getitem__(self, index):
        return IMAGES[index], self.targets[index]

    def __len__(self):
        return len(self.targets)


def whole():
    train = Targets([0, 1])
    return Data("mine", train, train, 5, (1, 4, 4))


def pair_of_tensors():
    data = TensorDataset(IMAGES, torch.tensor([0, 1, 2, 0, 1, 6]))
    return data, data


def pair_with_targets():
    return [Targets([0, 2]), Targets([1])]


def pair_of_images():
    data = Images(
        torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.tensor([0, 3]), (0,) * 3, (1,) * 3
    )
    return data, data


def three():
    return 1, 2, 3


def nothing():
    return None


def no_labels():
    return Targets(None), Targets(None)


def no_items():
    data = Targets([0])
    data.__class__ = type("Odd", (Targets,), {"__getitem__": lambda self, i: 3})
    return data, data


def flat_items():
    data = TensorDataset(torch.randn(6, 16), torch.arange(6))
    return data, data


def real_labels():
    data = TensorDataset(IMAGES, torch.randn(6))
    return data, data


def negative_labels():
    return Targets([0, -1]), Targets([0])


@pytest.mark.parametrize(
    ("name", "classes", "shape"),
    [
        ("whole", 5, (1, 4, 4)),
        ("pair_of_tensors", 7, (1, 4, 4)),
        ("pair_with_targets", 3, (1, 4, 4)),
        ("pair_of_images", 4, (3, 4, 4)),
    ],
)
def test_the_users_own(name, classes, shape):
    data = load_data(f"{__name__}:{name}")
    assert isinstance(data, Data)
    assert (data.classes, data.shape, data.augment) == (classes, shape, None)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("three", "must return a lorank.zoo.Data or a pair (train, test), but returned tuple"),
        ("nothing", "but returned NoneType"),
        ("no_items", "the items of its training set must be pairs (image, label), the image a"),
        ("flat_items", "the image a tensor (C, H, W), but the first is not"),
        ("real_labels", "its training set must have whole numbers from 0 as labels, targets or"),
        ("negative_labels", "must have whole numbers from 0 as labels"),
        ("no_labels", "must have whole numbers from 0 as labels"),
        ("absent", "unknown function of the module"),
    ],
)
def test_errors_of_functions(told, name, says):
    assert says in told(load_data, f"{__name__}:{name}")


def test_unknown_names(told):
    said = told(load_data, "cifar")
    assert said.startswith("unknown data set 'cifar': did you mean 'cifar10'? Known: ")
    for name in (*DATASETS, "package.module:function"):
        assert name in said


def test_holdout_is_a_part_of_the_training_set():
    data = load_data("digits")
    chosen = holdout(data, 0.25, seed=3)
    assert chosen.name == "digits-holdout"
    assert (len(chosen.train), len(chosen.test)) == (750, 250)
    assert sorted(chosen.train.indices + chosen.test.indices) == list(range(1000))
    assert chosen.train.dataset is data.train
    assert chosen.test.dataset is data.train
    assert chosen.augment == data.augment


def test_holdout_is_decided_by_its_seed():
    data = load_data("digits")
    state = torch.get_rng_state()
    assert holdout(data, seed=1).test.indices == holdout(data, seed=1).test.indices
    assert holdout(data, seed=1).test.indices != holdout(data, seed=2).test.indices
    assert torch.equal(torch.get_rng_state(), state)


def test_holdout_gives_batches():
    chosen = holdout(load_data("digits"))
    x, y = next(iter(DataLoader(chosen.test, batch_size=32, collate_fn=as_is)))
    assert (x.shape, y.shape) == ((32, 1, 8, 8), (32,))


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5])
def test_holdout_fractions(told, fraction):
    said = told(holdout, whole(), fraction)
    assert said == f"fraction must lie between 0 and 1, but got {fraction}"


def test_holdout_of_too_little(told):
    said = told(holdout, whole(), 0.1)
    assert said == "holding out 0.1 of 2 images leaves one part empty"
