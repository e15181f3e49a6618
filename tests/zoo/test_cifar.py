import hashlib
import io
import pickle
import struct

import numpy as np
import pytest
import torch

from lorank.zoo import cifar, load_data

SHA256 = {
    "train_0": "a97dd3ffa78b489bec6bcf5dd411f7f23efd9e1134d1229c9f72bd19dfe10759",
    "train_1": "eb5ced59bc2c6fff9567ee011a4eae7f49986082aad188c0b7df4abbc461bbe3",
    "test": "1fe46ff47f5fb6c1b24f0b5448654cac0e0d3e1e0c16f9cbac842307814b553a",
}
NAMES = (*cifar.FIVE, "test_batch")


def batches():
    rng = np.random.default_rng(0)
    shape = (4, 3, 32, 32)
    return [(rng.integers(0, 256, shape).astype(np.uint8), rng.integers(0, 10, 4)) for _ in NAMES]


def binary(images, labels):
    records = np.concatenate([labels[:, None].astype(np.uint8), images.reshape(len(images), -1)], 1)
    return records.tobytes()


def delta(images):
    out = images.copy()
    out[:, 0] -= images[:, 1]
    out[:, 2] -= images[:, 1]
    for axis in (2, 3):
        out = np.diff(out, axis=axis, prepend=np.zeros_like(out.take([0], axis)))
    return out


def text(value):
    return b"U" + bytes([len(value)]) + value


def number(value):
    return b"J" + struct.pack("<i", value)


def python2(images, labels, dtype=b"u1", by_column=b"\x89", cut=0, key=b"labels"):
    """Byte for byte the kind of pickle that Python 2 wrote for a batch of CIFAR-10."""
    raw = images.tobytes()[: len(images.tobytes()) - cut]
    order = (
        b"cnumpy\ndtype\n(" + text(dtype) + b"K\0K\1tR(K\3" + text(b"|") + b"NNNJ\xff\xff\xff\xff"
    )
    order += b"J\xff\xff\xff\xffK\0tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\0\x85" + text(b"b") + b"tR"
    array += b"(K\1" + number(len(images)) + number(3072) + b"\x86" + order + by_column
    array += b"T" + struct.pack("<i", len(raw)) + raw + b"tb"
    listed = b"](" + b"".join(number(i) for i in labels) + b"e"
    return b"\x80\2}(" + text(b"data") + array + text(key) + listed + b"u."


@pytest.fixture
def bin_folder(tmp_path):
    for name, batch in zip(NAMES, batches(), strict=True):
        (tmp_path / f"{name}.bin").write_bytes(binary(*batch))
    return tmp_path


@pytest.fixture
def py_folder(tmp_path):
    for name, (images, labels) in zip(NAMES, batches(), strict=True):
        (tmp_path / name).write_bytes(python2(images, labels))
    return tmp_path


@pytest.fixture
def npz_folder(tmp_path):
    parts = batches()
    for name, some in (("train_0", parts[:2]), ("train_1", parts[2:5]), ("test", parts[5:])):
        images, labels = (np.concatenate(arrays) for arrays in zip(*some, strict=True))
        np.savez(tmp_path / name, delta=delta(images), labels=labels.astype(np.uint8))
    return tmp_path


@pytest.mark.parametrize("layout", ["bin", "py", "npz"])
def test_each_layout_gives_the_same_images(request, layout):
    folder = request.getfixturevalue(f"{layout}_folder")
    data = load_data(f"cifar10:{folder}")
    parts = batches()
    images = np.concatenate([images for images, _ in parts[:5]])
    assert torch.equal(data.train.images, torch.from_numpy(images))
    assert data.train.labels.tolist() == [i for _, labels in parts[:5] for i in labels]
    assert torch.equal(data.test.images, torch.from_numpy(parts[5][0]))
    assert (data.classes, data.shape) == (10, (3, 32, 32))
    assert (data.augment.pad, data.augment.flip) == (4, True)
    assert data.train.mean == (0.485, 0.456, 0.406)
    assert data.train.std == (0.229, 0.224, 0.225)


@pytest.mark.parametrize("layout", ["bin", "py"])
def test_the_subfolder_of_the_archive(request, tmp_path_factory, layout):
    inside = tmp_path_factory.mktemp("top") / f"cifar-10-batches-{layout}"
    request.getfixturevalue(f"{layout}_folder").rename(inside)
    assert len(load_data(f"cifar10:{inside.parent}").train) == 20


def test_default_folder(bin_folder, monkeypatch, tmp_path_factory, told):
    top = tmp_path_factory.mktemp("top")
    monkeypatch.chdir(top)
    assert told(load_data, "cifar10") == "cifar10: there is no folder data"
    bin_folder.rename(top / "data")
    assert len(load_data("cifar10").test) == 4


def test_missing(told, bin_folder, tmp_path_factory):
    empty = tmp_path_factory.mktemp("empty")
    assert told(load_data, f"cifar10:{empty}") == (
        f"cifar10: the folder {empty} holds none of data_batch_1.bin, train_0.npz, data_batch_1 "
        f"and the files beside them"
    )
    for name in ("data_batch_1.bin", "data_batch_4.bin"):
        (bin_folder / name).unlink()
    assert told(load_data, f"cifar10:{bin_folder}") == (
        f"cifar10: the folder {bin_folder} lacks data_batch_1.bin, data_batch_4.bin"
    )


def test_wrong_binary(told, bin_folder):
    path = bin_folder / "data_batch_2.bin"
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    assert told(load_data, f"cifar10:{bin_folder}") == (
        f"{path} must be a whole number of records of 3073 bytes, but has {4 * 3073 - 5} bytes"
    )
    path.write_bytes(b"")
    assert "needs at least one image" in told(load_data, f"cifar10:{bin_folder}")
    path.write_bytes(b"\x0b" + whole[1:])
    said = told(load_data, f"cifar10:{bin_folder}")
    assert said == f"{path}: labels must lie in 0..9, but one is 11"


def test_the_stand_ins_agree_with_a_real_pickle():
    # With a real unpickler as the oracle: the tests' own bytes are what Python 2 wrote.
    images, labels = batches()[0]
    content = python2(images, labels)
    content = content.replace(b"numpy.core.multiarray", b"numpy._core.multiarray")
    real = pickle.load(io.BytesIO(content), encoding="bytes")
    assert np.array_equal(real[b"data"], images.reshape(4, -1))
    assert real[b"labels"] == labels.tolist()


def test_a_pickle_by_columns(tmp_path):
    images, labels = batches()[0]
    turned = np.asfortranarray(images.reshape(4, -1))
    by_column = np.frombuffer(turned.tobytes("F"), np.uint8).reshape(images.shape)
    (tmp_path / "b").write_bytes(python2(by_column, labels, by_column=b"\x88"))
    assert np.array_equal(cifar.read_pickled(tmp_path / "b")[0], images.reshape(4, -1))


class Bomb:
    def __reduce__(self):
        return (open, ("exploded", "w"))


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps({b"data": Bomb(), b"labels": []}),
        pickle.dumps(np.zeros((2, 3072), np.uint8)),
        python2(*batches()[0])[:-700],
        python2(*batches()[0])[:50],
        b"",
        b"<html>",
    ],
)
def test_pickles_that_are_refused(told, tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "data_batch_1"
    path.write_bytes(content)
    said = told(cifar.read_pickled, path)
    assert said.startswith(f"{path} cannot be read safely: ")
    assert said.endswith("use the binary version of CIFAR-10")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps([1, 2]),
        pickle.dumps({b"data": b"", b"labels": [1]}),
        pickle.dumps({b"data": b""}),
        python2(*batches()[0], dtype=b"O8"),
        python2(*batches()[0], cut=1),
        python2(*batches()[0], key=b"fine_labels"),
        python2(batches()[0][0], [1, 2, 3, -1]),
    ],
)
def test_pickles_of_other_things(told, tmp_path, content):
    path = tmp_path / "data_batch_1"
    path.write_bytes(content)
    said = told(cifar.read_pickled, path)
    assert said.startswith(f"{path} must hold a dict of an array 'data' (N, 3072)")


def test_pickled_counts_must_match(told, py_folder):
    path = py_folder / "data_batch_3"
    path.write_bytes(python2(batches()[0][0], [1, 2, 3]))
    assert f"{path}: there must be one label an image" in told(load_data, f"cifar10:{py_folder}")


def test_wrong_npz(told, npz_folder):
    path = npz_folder / "train_1.npz"
    whole = path.read_bytes()
    spec = f"cifar10:{npz_folder}"
    says = f"{path} is not a whole .npz file with the arrays delta and labels"
    for content in (whole[:-100], whole[:9], b"", b"<html>", damaged(whole)):
        path.write_bytes(content)
        assert told(load_data, spec).startswith(says)
        assert "unsafe" not in told(load_data, spec)  # nobody is advised to unpickle
    np.savez(path, images=np.zeros(3))
    assert told(load_data, spec).startswith(says)
    np.savez(path, delta=np.array([{}]), labels=np.zeros(1, np.uint8))
    assert told(load_data, spec).startswith(says)


def damaged(content):
    return content[:2000] + bytes(200) + content[2200:]


@pytest.mark.parametrize(
    ("shape", "dtype", "labels", "says"),
    [
        ((2, 3, 32, 32), np.int32, [1, 2], "must hold uint8 delta (N, 3, 32, 32) and labels (N,)"),
        ((2, 32, 32), np.uint8, [1, 2], "but holds uint8 (2, 32, 32)"),
        ((2, 3, 8, 8), np.uint8, [1, 2], "must hold uint8 images of shape (3, 32, 32)"),
        ((2, 3, 32, 32), np.uint8, [1], "2 images and 1 labels"),
        ((2, 3, 32, 32), np.uint8, [1, 10], "labels must lie in 0..9, but one is 10"),
    ],
)
def test_wrong_arrays(told, npz_folder, shape, dtype, labels, says):
    path = npz_folder / "train_0.npz"
    np.savez(path, delta=np.zeros(shape, dtype), labels=np.array(labels, np.uint8))
    said = told(load_data, f"cifar10:{npz_folder}")
    assert said.startswith(str(path))
    assert says in said


@pytest.mark.parametrize("name", SHA256)
def test_the_real_arrays(shared, name):
    images, labels = cifar._read_delta(shared(f"cifar10/{name}.npz"))
    assert hashlib.sha256(images.tobytes()).hexdigest() == SHA256[name]
    assert labels.max() == 9


@pytest.mark.slow
def test_the_real_set(shared):
    data = load_data(f"cifar10:{shared('cifar10')}")
    assert data.train.labels.bincount().tolist() == [5000] * 10
    assert data.test.labels.bincount().tolist() == [1000] * 10
