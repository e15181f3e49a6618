import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from lorank.zoo import fashion, load_data
from lorank.zoo.idx import read_idx


def idx(array: np.ndarray) -> bytes:
    head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.astype(np.uint8).tobytes()


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for (images, labels), count in ((fashion.TRAIN, 12), (fashion.TEST, 5)):
        pixels = rng.integers(0, 256, (count, 28, 28))
        (tmp_path / f"{images}.gz").write_bytes(gzip.compress(idx(pixels)))
        (tmp_path / f"{labels}.gz").write_bytes(gzip.compress(idx(np.arange(count) % 10)))
    return tmp_path


def test_reads_a_folder(folder):
    data = load_data(f"fashion-mnist:{folder}")
    assert (len(data.train), len(data.test), data.classes) == (12, 5, 10)
    assert data.shape == (1, 28, 28)
    assert (data.augment.pad, data.augment.flip) == (2, True)
    assert data.train.labels.tolist() == [*range(10), 0, 1]
    pixels = np.random.default_rng(0).integers(0, 256, (12, 28, 28))
    assert torch.equal(data.train.images[:, 0], torch.from_numpy(pixels).byte())


def test_root_and_relative_folders(folder):
    assert len(load_data("fashion-mnist", root=folder).test) == 5
    assert len(load_data(f"fashion-mnist:{folder.name}", root=folder.parent).test) == 5


def test_files_that_are_not_gzipped(folder):
    for path in list(folder.iterdir()):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    assert len(load_data(f"fashion-mnist:{folder}").train) == 12


def test_default_places(folder, monkeypatch, told):
    monkeypatch.setattr(fashion, "PLACES", (Path("no/such"), folder))
    assert len(load_data("fashion-mnist").train) == 12
    monkeypatch.setattr(fashion, "PLACES", (Path("no/such"), Path("nor/this")))
    assert told(load_data, "fashion-mnist") == (
        "fashion-mnist was not found in no/such, nor/this: install Debian's package "
        "dataset-fashion-mnist, or name its folder as fashion-mnist:FOLDER"
    )


def test_the_real_set():
    if not any((place / f"{fashion.TRAIN[0]}.gz").is_file() for place in fashion.PLACES):
        pytest.skip("Fashion-MNIST is not installed: Debian's package dataset-fashion-mnist")
    data = load_data("fashion-mnist")
    assert data.train.labels.bincount().tolist() == [6000] * 10
    assert data.test.labels.bincount().tolist() == [1000] * 10
    assert data.train.images.float().mean() / 255 == pytest.approx(fashion.MEAN[0], abs=1e-3)
    assert data.train.images.float().std() / 255 == pytest.approx(fashion.STD[0], abs=1e-3)


def test_missing_folder_and_files(folder, told):
    said = told(load_data, f"fashion-mnist:{folder}/no")
    assert said == f"fashion-mnist: there is no folder {folder}/no"
    for name in fashion.TRAIN:
        (folder / f"{name}.gz").unlink()
    said = told(load_data, f"fashion-mnist:{folder}")
    assert said == (
        f"fashion-mnist: the folder {folder} lacks train-images-idx3-ubyte.gz, "
        f"train-labels-idx1-ubyte.gz"
    )


@pytest.mark.parametrize("keep", [0, 3, 40, -9])
def test_truncated_gzip(folder, told, keep):
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:keep])
    said = told(load_data, f"fashion-mnist:{folder}")
    assert said.startswith(str(path))
    assert "is not a whole gzip file" in said or "begins with nothing" in said


def test_damaged_and_foreign_gzip(folder, told):
    path = folder / "train-images-idx3-ubyte.gz"
    content = bytearray(path.read_bytes())
    content[200:240] = bytes(40)
    path.write_bytes(content)
    assert "is not a whole gzip file" in told(load_data, f"fashion-mnist:{folder}")
    path.write_text("<html>")
    assert "is not a whole gzip file" in told(load_data, f"fashion-mnist:{folder}")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            b"\0\0\x08\x01\0\0\0\1\7",
            "must begin with 00000803 (IDX, bytes, 3 axes), but begins with",
        ),
        (b"\0\0\x0d\x03" + bytes(12), "but begins with 00000d03"),
        (b"\0\0\x08\x03\0\0", "is cut off within its header of 16 bytes"),
        (idx(np.zeros((2, 2, 2)))[:-1], "must hold 8 bytes for its shape (2, 2, 2), but holds 7"),
        (idx(np.zeros((2, 2, 2))) + b"x", "must hold 8 bytes for its shape (2, 2, 2), but holds 9"),
    ],
)
def test_wrong_idx(told, tmp_path, content, says):
    path = tmp_path / "images"
    path.write_bytes(content)
    said = told(read_idx, path, 3)
    assert said.startswith(str(path))
    assert says in said


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (np.arange(11), "one label an image, but there are 12 images and 11 labels"),
        (np.arange(12), "labels must lie in 0..9, but one is 11"),
    ],
)
def test_wrong_labels(folder, told, labels, says):
    path = folder / "train-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(idx(labels)))
    said = told(load_data, f"fashion-mnist:{folder}")
    assert said.startswith(f"{path}: ")
    assert says in said


def test_wrong_shape(folder, told):
    path = folder / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(idx(np.zeros((5, 8, 8)))))
    said = told(load_data, f"fashion-mnist:{folder}")
    assert said == f"{path} must hold images of shape (1, 28, 28), but they are of shape (1, 8, 8)"
