import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from lorank.zoo import as_is, load_data
from lorank.zoo.folder import MEAN, STD

Image = pytest.importorskip("PIL.Image")


def picture(path, width=8, height=6, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


@pytest.fixture
def folder(tmp_path):
    for part, count in (("train", 3), ("test", 2)):
        for seed, name in enumerate(("cat", "dog")):
            for i in range(count):
                picture(tmp_path / part / name / f"{i}.png", seed=seed)
    return tmp_path


def test_reads_a_folder(folder):
    data = load_data(f"folder:{folder}")
    assert (len(data.train), len(data.test), data.classes) == (6, 4, 2)
    assert data.shape == (3, 6, 8)
    assert data.name == folder.name
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    image, label = data.train[3]
    pixels = picture(folder / "again.png", seed=1)
    want = (torch.from_numpy(pixels).permute(2, 0, 1) / 255 - torch.tensor(MEAN).view(3, 1, 1)) / (
        torch.tensor(STD).view(3, 1, 1)
    )
    assert label == 1
    torch.testing.assert_close(image, want)


def test_a_batch_is_its_items(folder):
    train = load_data(f"folder:{folder}").train
    images, labels = train.__getitems__([4, 0])
    assert torch.equal(images, torch.stack([train[4][0], train[0][0]]))
    assert labels.tolist() == [1, 0]
    pickle.loads(pickle.dumps(train))
    loaded = next(iter(DataLoader(train, batch_size=6, collate_fn=as_is)))
    assert loaded[0].shape == (6, 3, 6, 8)


def test_a_size(folder):
    picture(folder / "train" / "cat" / "large.jpg", 40, 30)
    data = load_data(f"folder:{folder}@4")
    assert data.shape == (3, 4, 4)
    assert data.train.__getitems__(range(7))[0].shape == (7, 3, 4, 4)


def test_a_folder_with_a_sign_in_its_name(folder, tmp_path_factory):
    named = tmp_path_factory.mktemp("top") / "set@2"
    folder.rename(named)
    assert load_data(f"folder:{named}").shape == (3, 6, 8)
    assert load_data(f"folder:{named}@4").shape == (3, 4, 4)


def test_grey_pictures_and_hidden_files(folder):
    Image.new("L", (8, 6), 255).save(folder / "train" / "cat" / "grey.png")
    (folder / "train" / "cat" / ".hidden").touch()
    (folder / "train" / ".cache").mkdir()
    (folder / "train" / "dog" / "Thumbs.db").touch()
    data = load_data(f"folder:{folder}")
    assert (len(data.train), data.classes) == (7, 2)
    assert data.train[3][0].amin() > 2


def test_root(folder):
    assert load_data(f"folder:{folder.name}@4", root=folder.parent).shape == (3, 4, 4)


def test_missing_folders(told, tmp_path):
    assert told(load_data, "folder") == "folder: name the folder of the images, as folder:PATH"
    assert told(load_data, "folder:/no/such") == "folder: there is no folder /no/such"
    (tmp_path / "train").mkdir()
    said = told(load_data, f"folder:{tmp_path}")
    assert said == f"folder: {tmp_path} must hold the folders train and test, but lacks test"
    (tmp_path / "test").mkdir()
    said = told(load_data, f"folder:{tmp_path}")
    assert said == f"folder: {tmp_path}/train must hold one folder a class, but holds none"


@pytest.mark.parametrize("size", ["0", "x", "", "-3", "1.5"])
def test_wrong_sizes(told, folder, size):
    said = told(load_data, f"folder:{folder}@{size}")
    assert said == f"folder: a size is a whole number of pixels, but got {size!r}"


def test_wrong_classes(told, folder):
    (folder / "train" / "eel").mkdir()
    said = told(load_data, f"folder:{folder}")
    assert said == f"folder: the class folder {folder}/train/eel holds no image"
    (folder / "train" / "eel").rename(folder / "test" / "eel")
    said = told(load_data, f"folder:{folder}")
    assert said == f"folder: every class of {folder}/test must be one of train's, but 'eel' is not"


def test_files_that_are_no_images(told, folder):
    path = folder / "train" / "cat" / "notes.txt"
    path.touch()
    assert told(load_data, f"folder:{folder}") == (
        f"folder: {path} is no image file; their names end in .jpg, .jpeg, .png, .bmp, .webp"
    )
    path = path.rename(path.with_suffix(".png"))
    data = load_data(f"folder:{folder}")
    assert told(data.train.__getitem__, 3).startswith(f"folder: {path} cannot be read as an image")
    whole = (folder / "train" / "cat" / "0.png").read_bytes()
    for content in (whole[:60], whole[:-30], b"<html>"):
        path.write_bytes(content)
        assert told(data.train.__getitem__, 3).startswith(f"folder: {path} cannot be read")


def test_other_sizes(told, folder):
    path = folder / "train" / "cat" / "large.png"
    picture(path, 40, 30)
    train = load_data(f"folder:{folder}").train
    assert told(train.__getitems__, [0, 3]) == (
        f"folder: all images must have one size, 6 × 8 as the first, but {path} has 30 × 40; "
        f"name a size as folder:PATH@32"
    )


def test_sixteen_bits(told, folder):
    path = folder / "train" / "cat" / "0.png"
    Image.fromarray(np.zeros((6, 8), np.uint16)).save(path)
    said = told(load_data, f"folder:{folder}")
    assert said == f"folder: {path} must have 8 bits a channel, but is of mode I;16"
