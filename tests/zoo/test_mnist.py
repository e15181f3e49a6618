import gzip
import pickle
import struct

import numpy as np
import pytest
import torch

from lorank.zoo import load_data


def hand_made(arrays):
    """The opcodes of the file as it was made by numpy 1; numpy 2 would write other names."""
    out = [b"\x80\x02"]

    def string(raw):
        return b"T" + struct.pack("<i", len(raw)) + raw

    def array(a):
        kind = {"f": b"f4", "i": b"i8", "u": b"u1"}[a.dtype.kind]
        shape = b"(" + b"".join(b"J" + struct.pack("<i", n) for n in a.shape) + b"t"
        dtype = b"cnumpy\ndtype\n" + string(kind) + b"K\x00K\x01\x87R"
        dtype += b"(K\x03" + string(b"<") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        head = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
        head += b"K\x00\x85" + string(b"b") + b"\x87R"
        return head + b"(K\x01" + shape + dtype + b"\x89" + string(a.tobytes()) + b"tb"

    pairs = [array(images) + array(labels) + b"\x86" for images, labels in arrays]
    out += [*pairs, b"\x87."]
    return gzip.compress(b"".join(out))


def parts(seed=0, counts=(6, 3, 4)):
    rng = np.random.default_rng(seed)
    made = []
    for count in counts:
        pixels = rng.integers(0, 256, (count, 784)).astype(np.float32) / 256
        made.append((pixels, np.arange(count, dtype=np.int64) % 10))
    return made


def test_reads_the_pickle_without_running_it(tmp_path):
    made = parts()
    (tmp_path / "mnist.pkl.gz").write_bytes(hand_made(made))
    data = load_data(f"mnist:{tmp_path}")
    assert (len(data.train), len(data.test), data.classes, data.shape) == (9, 4, 10, (1, 28, 28))
    assert data.train.labels.tolist() == [0, 1, 2, 3, 4, 5, 0, 1, 2]
    want = np.concatenate([made[0][0], made[1][0]]) * 256
    assert torch.equal(data.train.images.flatten(1), torch.from_numpy(want).byte())
    assert not data.augment.flip, "a digit in the mirror is no digit"


def test_reads_idx_files(tmp_path):
    rng = np.random.default_rng(0)
    for part, count in (("train", 5), ("t10k", 3)):
        pixels = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        head = bytes([0, 0, 8, 3]) + struct.pack(">3I", count, 28, 28)
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(head + pixels.tobytes())
        labels = bytes([0, 0, 8, 1]) + struct.pack(">I", count) + bytes(range(count))
        (tmp_path / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
    data = load_data(f"mnist:{tmp_path}")
    assert (data.name, len(data.train), len(data.test)) == ("mnist", 5, 3)
    assert data.train.mean == (0.1307,)


def test_a_pickle_that_would_run_something(tmp_path, told):
    flag = tmp_path / "ran"

    class Bomb:
        def __reduce__(self):
            return flag.touch, ()

    (tmp_path / "mnist.pkl.gz").write_bytes(gzip.compress(pickle.dumps((Bomb(), 1, 2))))
    assert "cannot be read safely: it names" in told(load_data, f"mnist:{tmp_path}")
    assert not flag.exists()


def wrong_width(made):
    return [(made[0][0][:, :700], made[0][1]), *made[1:]]


def too_bright(made):
    return [(made[0][0] + 1, made[0][1]), *made[1:]]


def in_other_steps(made):
    return [(made[0][0] * np.float32(256 / 255.5), made[0][1]), *made[1:]]


def whole_numbers(made):
    return [(made[0][0].astype(np.uint8), made[0][1]), *made[1:]]


def too_few_labels(made):
    return [(made[0][0], made[0][1][:-1]), *made[1:]]


def eleventh_class(made):
    return [(made[0][0], made[0][1] + 9), *made[1:]]


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (wrong_width, "must hold float32 images (N, 784) and int64 labels (N,)"),
        (whole_numbers, "must hold float32 images"),
        (too_bright, "must hold pixels from 0 to 255/256 in steps of 1/256, but some are others"),
        (in_other_steps, "in steps of 1/256"),
        (too_few_labels, "one label an image, but there are 6 images and 5 labels"),
        (eleventh_class, "labels must lie in 0..9"),
    ],
)
def test_other_contents(tmp_path, told, spoil, says):
    (tmp_path / "mnist.pkl.gz").write_bytes(hand_made(spoil(parts())))
    assert says in told(load_data, f"mnist:{tmp_path}")


def test_damaged_files(tmp_path, told):
    path = tmp_path / "mnist.pkl.gz"
    whole = hand_made(parts())
    longer = gzip.compress(gzip.decompress(whole) + b"?")
    # Without its checksum, or with another, what was read may be anything.
    unsummed, altered = whole[:-8], whole[:-8] + bytes(4) + whole[-4:]
    short = (b"", b"<html>", whole[:200], gzip.compress(b"\x80\x02(."))
    for content in (*short, longer, unsummed, altered):
        path.write_bytes(content)
        assert "cannot be read safely" in told(load_data, f"mnist:{tmp_path}")
    path.write_bytes(gzip.compress(pickle.dumps([1, 2, 3])))
    assert "must hold three pairs" in told(load_data, f"mnist:{tmp_path}")


def test_nothing_there(tmp_path, told):
    assert "lacks train-images" in told(load_data, f"mnist:{tmp_path}")
    assert told(load_data, f"mnist:{tmp_path}/no") == f"mnist: there is no folder {tmp_path}/no"
