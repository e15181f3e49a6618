"""Matrices in files: what is written comes back, and what is no matrix is refused."""

import numpy as np
import pytest

from lorank.errors import LorankError
from lorank.files.matrix import read_matrix, write_matrix


@pytest.mark.parametrize("ending", [".npy", ".csv"])
def test_what_is_written_comes_back(tmp_path, ending):
    matrix = np.random.default_rng(0).normal(size=(5, 3)) * 10.0 ** np.arange(-150, 150, 100)[:3]
    write_matrix(tmp_path / f"m{ending}", matrix)
    assert np.array_equal(read_matrix(tmp_path / f"m{ending}"), matrix)
    assert [path.name for path in tmp_path.iterdir()] == [f"m{ending}"]


@pytest.mark.parametrize(
    ("text", "matrix"),
    [
        ("1,2\n3,4\n", [[1, 2], [3, 4]]),
        ("a,b\n1,2\n3,4\n", [[1, 2], [3, 4]]),
        (",a,b\n0,1,2\n1,3,4\n", [[1, 2], [3, 4]]),
        ("a,b\n1,1,2\n2,3,4\n", [[1, 2], [3, 4]]),
        ("month,a,b\n1984-01,1,2\n1984-02,3,4\n", [[1, 2], [3, 4]]),
        ("1984-01,1,2\n1984-02,3,4\n", [[1, 2], [3, 4]]),
        ("\ufeffa,b\r\n1,\r\nNA,4\r\n\r\n", [[1, np.nan], [np.nan, 4]]),
        ("1\n2\n", [[1], [2]]),
    ],
)
def test_csv(tmp_path, text, matrix):
    (tmp_path / "m.csv").write_text(text, newline="")
    assert np.array_equal(read_matrix(tmp_path / "m.csv"), matrix, equal_nan=True)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "no line of numbers"),
        ("a,b\n", "no line of numbers"),
        ("1;2\n3;4\n5;6\n", "line 2 has no numbers; commas"),
        ("1,2\n3\n", "2 numbers first and 1 in line 2"),
        ("1,2\n3,four\n", "line 2 has 'four'"),
    ],
)
def test_a_csv_that_is_no_matrix(tmp_path, text, sentence):
    (tmp_path / "m.csv").write_text(text)
    with pytest.raises(LorankError, match=sentence):
        read_matrix(tmp_path / "m.csv")


def test_arrays_that_are_no_matrix(tmp_path):
    for name, array in (("cube", np.ones((2, 2, 2))), ("complex", np.ones((2, 2)) * 1j)):
        np.save(tmp_path / f"{name}.npy", array)
        with pytest.raises(LorankError, match="one matrix of real numbers"):
            read_matrix(tmp_path / f"{name}.npy")
    np.save(tmp_path / "objects.npy", np.array([[print, 1]], dtype=object), allow_pickle=True)
    (tmp_path / "cut.npy").write_bytes(b"\x93NUMPY\x01")
    (tmp_path / "other.npy").write_bytes(b"1,2\n")
    for name in ("objects", "cut", "other"):
        with pytest.raises(LorankError, match="no array of numbers"):
            read_matrix(tmp_path / f"{name}.npy")


@pytest.mark.parametrize("shape", [b"(2, 2  ", b"(99999999, 9999999)"])
def test_an_array_whose_header_is_false(tmp_path, shape):
    head = b"{'descr': '<f8', 'fortran_order': False, 'shape': " + shape + b", }"
    head = head.ljust(117) + b"\n"
    size = len(head).to_bytes(2, "little")
    (tmp_path / "m.npy").write_bytes(b"\x93NUMPY\x01\x00" + size + head + bytes(32))
    with pytest.raises(LorankError, match="no array of numbers"):
        read_matrix(tmp_path / "m.npy")


def test_files_that_are_none(tmp_path):
    with pytest.raises(LorankError, match="there is no file"):
        read_matrix(tmp_path / "m.csv")
    with pytest.raises(LorankError, match="ending of a matrix"):
        read_matrix(tmp_path / "m.xlsx")
    (tmp_path / "m.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(LorankError, match="no text with commas"):
        read_matrix(tmp_path / "m.csv")
