"""Matrices in files: what is written comes back, and what is no matrix is refused."""

import numpy as np
import pytest

from lorank.errors import LorankError
from lorank.files.matrix import read_matrix, read_table, write_matrix


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
        ("1_1,1_2\n1,2\n3,4\n", [[1, 2], [3, 4]]),
        ("1_1,1,2\n1_2,3,4\n", [[1, 2], [3, 4]]),
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
        ("1,2\n3,1_000\n", "line 2 has '1_000'"),
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
        with pytest.raises(LorankError, match="no array of numbers") as told:
            read_matrix(tmp_path / f"{name}.npy")
        assert "unsafe" not in str(told.value)  # nobody is advised to unpickle
    np.savez(tmp_path / "several.npz", a=np.eye(2), b=np.eye(2))
    (tmp_path / "several.npz").rename(tmp_path / "several.npy")
    with pytest.raises(LorankError, match="found an archive"):
        read_matrix(tmp_path / "several.npy")


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


YEARS = "1984,1985,1986,1987"
ROWS = ("3,1,2,5", "4,0,2,1")


@pytest.mark.parametrize(
    ("lines", "header", "shape"),
    [
        ((YEARS, *ROWS), True, (2, 4)),
        (("," + YEARS, "a,3,1,2,5", "b,4,0,2,1"), True, (2, 4)),
        (("," + YEARS, "0,3,1,2,5", "1,4,0,2,1"), True, (2, 4)),
        (("sector," + YEARS, "a,3,1,2,5", "b,4,0,2,1"), True, (2, 4)),
        (("1980,1990,2000,2010", *ROWS), True, (2, 4)),
        (("0,1,2,3", *ROWS), True, (2, 4)),
        # Too few to be sure, every line alike, steps that differ, no whole numbers, falling.
        (("1984,1985,1986", "3,1,2"), False, (2, 3)),
        (("0,1,2,3", "4,5,6,7", "8,9,10,11"), False, (3, 4)),
        (("1,2,4,5", *ROWS), False, (3, 4)),
        (("1.0,2.0,3.0,4.0", *ROWS), False, (3, 4)),
        (("4,3,2,1", *ROWS), False, (3, 4)),
        (("2,2,2,2", *ROWS), False, (3, 4)),
        ((YEARS,), False, (1, 4)),
    ],
)
def test_names_that_are_numbers(tmp_path, lines, header, shape):
    (tmp_path / "m.csv").write_text("\n".join(lines))
    found = read_table(tmp_path / "m.csv")
    assert (found.header, found.values.shape) == (header, shape)
    assert np.isfinite(found.values).all()


def test_a_header_that_is_asked_for(tmp_path):
    (tmp_path / "m.csv").write_text("1,9\n2,3\n")
    assert read_matrix(tmp_path / "m.csv").shape == (2, 2)
    assert read_matrix(tmp_path / "m.csv", header=True).tolist() == [[2, 3]]
    (tmp_path / "m.csv").write_text("\n".join((YEARS, *ROWS)))
    assert read_matrix(tmp_path / "m.csv", header=False).shape == (3, 4)
    (tmp_path / "m.csv").write_text("1,a\n2,3\n")
    with pytest.raises(LorankError, match="line 1 has 'a', which is no number"):
        read_matrix(tmp_path / "m.csv", header=False)
    np.save(tmp_path / "m.npy", np.eye(2))
    with pytest.raises(LorankError, match="only a CSV"):
        read_matrix(tmp_path / "m.npy", header=True)
