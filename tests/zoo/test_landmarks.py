"""Files of faces: read, turned round, refused."""

from pathlib import Path

import numpy as np
import pytest
import torch

from lorank.errors import LorankError
from lorank.structured.points import landed, point_errors
from lorank.zoo.landmarks import MIRRORED, landmarks, mirrored, read_faces

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "landmarks"
real = pytest.mark.skipif(not SHARED.is_dir(), reason="needs the faces of shared/data/landmarks")


def arrays(n=3):
    draw = np.random.default_rng(0)
    box = np.concatenate([draw.uniform(0, 9, (n, 2)), draw.uniform(50, 90, (n, 2))], 1)
    inside = draw.uniform(0, 1, (n, 68, 2))
    return {
        "images": draw.integers(20, 200, (n, 50, 50)).astype(np.uint8),
        "points": (inside * box[:, None, 2:] + box[:, None, :2]).astype(np.float32),
        "box": box.astype(np.float32),
    }, inside


def written(folder, name="lfpw_train.npz", **changed):
    found, inside = arrays()
    np.savez(folder / name, **(found | changed))
    return folder / name, inside


def test_pixels_and_points(tmp_path):
    path, inside = written(tmp_path)
    faces = read_faces(path)
    assert (faces.x.amin(1) == 0).all() and (faces.x.amax(1) == 1).all()
    assert torch.allclose(faces.y[:, :68], torch.tensor(inside[..., 0] - 0.5).float(), atol=1e-5)
    assert torch.allclose(faces.y[:, 68:], torch.tensor(inside[..., 1] - 0.5).float(), atol=1e-5)
    assert faces.sides.shape == (3, 2)


def test_a_mirror_twice_is_none(tmp_path):
    faces = read_faces(written(tmp_path)[0])
    once = mirrored(faces)
    assert all(torch.equal(a, b) for a, b in zip(mirrored(once), faces, strict=True))
    assert sorted(MIRRORED) == list(range(68))
    assert torch.equal(once.y[:, 36], -faces.y[:, 45])  # outer corners of the eyes


def test_sets_and_what_is_missing(tmp_path):
    written(tmp_path)
    with pytest.raises(LorankError, match=r"lacks lfpw_test\.npz"):
        landmarks(tmp_path)
    written(tmp_path, "lfpw_test.npz")
    assert [len(faces.x) for faces in landmarks(tmp_path)] == [3, 3]
    with pytest.raises(LorankError, match="unknown set of faces 'lfwp': did you mean 'lfpw'"):
        landmarks(tmp_path, "lfwp")
    with pytest.raises(LorankError, match="there is no folder"):
        landmarks(tmp_path / "none")


@pytest.mark.parametrize(
    "changed",
    [
        {"images": np.zeros((3, 40, 40), np.uint8)},
        {"points": np.zeros((3, 5, 2), np.float32)},
        {"points": np.full((3, 68, 2), np.nan, np.float32)},
        {"box": np.zeros((3, 4), np.float32)},
        {"images": np.full((3, 50, 50), np.nan)},
        {"images": np.full((3, 50, 50), "a")},
        {"images": np.array(5)},
    ],
)
def test_arrays_that_are_no_faces(tmp_path, changed):
    with pytest.raises(LorankError, match=r"lfpw_train\.npz: "):
        read_faces(written(tmp_path, **changed)[0])


def test_a_pickle_is_not_loaded(tmp_path):
    path = tmp_path / "bad.npz"
    np.savez(path, images=np.array([{}], dtype=object), points=1, box=1)
    with pytest.raises(LorankError, match="no file of faces"):
        read_faces(path)
    whole = written(tmp_path)[0].read_bytes()
    for damaged in (b"nothing", b"", whole[: len(whole) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(LorankError, match="no file of faces") as said:
            read_faces(path)
        assert "pickle" not in str(said.value)


def test_pixels_of_any_range_are_stretched(tmp_path):
    fractions = arrays()[0]["images"] / 1000
    flat = np.zeros((1, 50, 50))
    faces = read_faces(written(tmp_path, images=np.concatenate([fractions[:2], flat]))[0])
    assert faces.x.amin(1).tolist() == [0, 0, 0] and faces.x.amax(1).tolist() == [1, 1, 0]


@real
@pytest.mark.parametrize(
    ("name", "auc", "cdf"), [("lfpw", 0.6883, 0.3036), ("helen", 0.6455, 0.2333)]
)
def test_the_mean_shape_of_the_published_protocol(name, auc, cdf):
    train, test = landmarks(SHARED, name)
    mean = train.y.mean(0).expand_as(test.y)
    found = landed(point_errors(mean, test.y, test.sides))
    assert found.auc == pytest.approx(auc, abs=1e-3) and found.cdf == pytest.approx(cdf, abs=1e-3)


@real
def test_faces_are_about_symmetric():
    """A wrong table of mirrored points would move the mean face by far more."""
    train, _ = landmarks(SHARED)
    gap = (train.y.mean(0) - mirrored(train).y.mean(0)).abs().max()
    assert gap < 0.05 < (train.y.mean(0) - train.y.mean(0).flip(0)).abs().max()
