import pickle

import pytest
import torch
from torch.utils.data import DataLoader, Subset, TensorDataset

from lorank.zoo import Images, as_is
from lorank.zoo.images import black, check_labels, normalised

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.1)


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (10, 3, 4, 5), generator=generator, dtype=torch.uint8)
    return Images(pixels, torch.arange(10) % 3, MEAN, STD)


def test_an_item_is_normalised(images):
    image, label = images[4]
    assert image.dtype == torch.float32
    assert label == 1
    for c in range(3):
        want = (images.images[4, c].double() / 255 - MEAN[c]) / STD[c]
        torch.testing.assert_close(image[c].double(), want, rtol=0, atol=1e-5)


def test_a_batch_is_its_items(images):
    batch, labels = images.__getitems__([7, 0, 7])
    assert torch.equal(batch, torch.stack([images[i][0] for i in (7, 0, 7)]))
    assert labels.tolist() == [1, 0, 1]
    assert labels.dtype == torch.int64


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_gets_ready_batches(images, workers):
    data = Subset(images, list(range(1, 10)))
    loader = DataLoader(
        data,
        batch_size=4,
        collate_fn=as_is,
        num_workers=workers,
        # Other tests of this process have started threads, which a fork would stop in their tracks.
        multiprocessing_context="spawn" if workers else None,
    )
    got = list(loader)
    assert [len(x) for x, _ in got] == [4, 4, 1]
    assert torch.equal(torch.cat([x for x, _ in got]), images.__getitems__(range(1, 10))[0])


def test_as_is_collates_samples():
    data = TensorDataset(torch.randn(6, 2), torch.arange(6))
    x, y = next(iter(DataLoader(data, batch_size=6, collate_fn=as_is)))
    assert torch.equal(x, data.tensors[0])
    assert torch.equal(y, data.tensors[1])


def test_pickles(images):
    assert torch.equal(pickle.loads(pickle.dumps(images))[2][0], images[2][0])


def test_black_is_a_black_pixel():
    pixel = normalised(torch.zeros(1, 3, 1, 1, dtype=torch.uint8), MEAN, STD)
    torch.testing.assert_close(pixel.flatten(), torch.tensor(black(MEAN, STD)))


@pytest.mark.parametrize(
    ("shape", "dtype", "labels", "std", "says"),
    [
        ((2, 3, 4), torch.uint8, 2, STD, "must be uint8 of shape (N, C, H, W)"),
        ((2, 3, 4, 4), torch.float32, 2, STD, "but are torch.float32 of shape (2, 3, 4, 4)"),
        ((2, 3, 4, 4), torch.uint8, 3, STD, "2 images and labels of shape (3,)"),
        ((2, 3, 4, 4), torch.uint8, 2, (1.0,), "one value a channel (3), std positive"),
        ((2, 3, 4, 4), torch.uint8, 2, (1.0, 1.0, 0.0), "std positive, but are"),
    ],
)
def test_errors(told, shape, dtype, labels, std, says):
    pixels = torch.zeros(shape, dtype=dtype)
    assert says in told(Images, pixels, torch.zeros(labels), MEAN, std)


@pytest.mark.parametrize(
    ("labels", "images", "says"),
    [
        ([0, 1], 3, "f.gz: there must be one label an image, but there are 3 images and 2 labels"),
        ([], 0, "f.gz: a data set needs at least one image, but there is none"),
        ([0, 4], 2, "f.gz: labels must lie in 0..3, but one is 4"),
        ([-1, 0], 2, "f.gz: labels must lie in 0..3, but one is -1"),
    ],
)
def test_label_errors(told, labels, images, says):
    labels = torch.tensor(labels, dtype=torch.long)
    assert told(check_labels, labels, images, 4, "f.gz") == says
