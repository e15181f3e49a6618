import json
import sys

import numpy as np
import pytest


@pytest.fixture
def noisy(tmp_path):
    draw = np.random.default_rng(0)
    M = draw.normal(size=(40, 3)) @ draw.normal(size=(3, 25))
    np.save(tmp_path / "noisy.npy", M + 0.3 * draw.normal(size=M.shape))
    return tmp_path / "noisy.npy", M


def test_rank_noise_and_matrix(lorank, noisy, tmp_path):
    place, M = noisy
    answer = lorank("matrix", "bayes", place, "-o", tmp_path / "clean.npy", "--json").json
    assert answer["rank"] == answer["ranks"]["mode"] == 3
    assert answer["noise"] == pytest.approx(0.3, rel=0.1)
    assert len(answer["values"]) == len(answer["shrunk"]) == 25
    clean, given = np.load(tmp_path / "clean.npy"), np.load(place)
    assert np.square(clean - M).sum() < 0.5 * np.square(given - M).sum()
    assert np.allclose(
        np.linalg.svd(clean, compute_uv=False), sorted(answer["shrunk"])[::-1], atol=1e-9
    )


def test_csv_gives_the_same_as_npy(lorank, noisy, tmp_path):
    place, _ = noisy
    names = ",".join(f"s{i}" for i in range(25))
    np.savetxt(tmp_path / "noisy.csv", np.load(place), "%.17g", ",", header=names, comments="")
    both = [
        lorank("matrix", "bayes", each, "--json").json for each in (place, tmp_path / "noisy.csv")
    ]
    assert (both[0]["header"], both[1]["header"]) == (False, True)
    same = {"matrix": None, "header": None}
    assert {**both[0], **same} == {**both[1], **same}


def test_a_person_reads_rank_and_probabilities(lorank, noisy):
    out = lorank("matrix", "bayes", noisy[0]).out
    assert "40 × 25, rank 3 (probability" in out and "noise 0.3" in out
    assert "P(signal)" in out and "100.0 %" in out


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_a_picture(lorank, noisy, tmp_path, ending):
    pytest.importorskip("matplotlib")
    lorank("matrix", "bayes", noisy[0], "--plot", tmp_path / f"signal.{ending}")
    start = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[ending]
    assert (tmp_path / f"signal.{ending}").read_bytes().startswith(start)


def test_options(lorank, noisy, tmp_path):
    place, _ = noisy
    np.save(tmp_path / "lifted.npy", np.load(place) + 50)
    assert lorank("matrix", "bayes", tmp_path / "lifted.npy", "--json").json["rank"] == 4
    centered = ("matrix", "bayes", tmp_path / "lifted.npy", "--center", "-o", tmp_path / "c.csv")
    answer = lorank(*centered, "--json").json
    assert (answer["rank"], answer["centered"]) == (3, True)
    clean = np.loadtxt(tmp_path / "c.csv", delimiter=",")
    assert clean.mean() == pytest.approx(50, abs=1)
    assert lorank("matrix", "bayes", place, "--noise", "30", "--json").json["rank"] == 0
    assert json.loads(lorank("matrix", "bayes", place, "--alpha", "1", "--json").out)["rank"] == 3


@pytest.mark.parametrize(
    ("matrix", "sentence"),
    [
        (np.ones((1, 5)), "at least two rows and two columns, found 1×5"),
        (np.array([[1, 2], [np.nan, 4.0]]), "1 of 4 entries are missing"),
        (np.array([[1, 2], [np.inf, 4.0]]), "found 1 infinite"),
        (np.ones(5), "one matrix of real numbers"),
    ],
)
def test_matrices_that_have_no_rank(refused, tmp_path, matrix, sentence):
    np.save(tmp_path / "m.npy", matrix)
    assert sentence in refused("matrix", "bayes", tmp_path / "m.npy")


def test_a_constant_matrix_has_no_component_beside_its_mean(lorank, tmp_path):
    """The mean of 0.1 is not 0.1, and what rounding leaves over is not told from noise."""
    np.save(tmp_path / "m.npy", np.full((7, 5), 0.1))
    place = tmp_path / "clean.npy"
    answer = lorank("matrix", "bayes", tmp_path / "m.npy", "--center", "-o", place, "--json").json
    assert (answer["rank"], answer["noise"]) == (0, 0)
    assert np.array_equal(np.load(place), np.full((7, 5), 0.1))


@pytest.mark.parametrize("center", [(), ("--center",)])
def test_entries_that_are_too_large(refused, tmp_path, center):
    np.save(tmp_path / "m.npy", 1.7e308 * np.eye(4))
    said = refused("matrix", "bayes", tmp_path / "m.npy", *center)
    assert "entries of a 4×4 matrix are at most 2.25e+307 in size" in said


def test_nothing_is_left_where_a_picture_cannot_be_drawn(refused, noisy, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    before = sorted(tmp_path.iterdir())
    places = "-o", tmp_path / "clean.npy", "--plot", tmp_path / "signal.png"
    assert "lorank[plot]" in refused("matrix", "bayes", noisy[0], *places)
    assert sorted(tmp_path.iterdir()) == before


def test_a_zero_matrix(lorank, tmp_path):
    np.save(tmp_path / "m.npy", np.zeros((4, 5)))
    answer = lorank("matrix", "bayes", tmp_path / "m.npy", "--json").json
    assert (answer["rank"], answer["noise"]) == (0, 0)


def test_places_and_options_that_cannot_be(refused, noisy, tmp_path):
    place, _ = noisy
    assert "there is no file" in refused("matrix", "bayes", tmp_path / "no.npy")
    assert "ending of a matrix" in refused("matrix", "bayes", tmp_path / "m.txt")
    assert "ending of a matrix" in refused("matrix", "bayes", place, "-o", tmp_path / "m.png")
    assert "found one twice" in refused("matrix", "bayes", place, "-o", place)
    assert "format of pictures" in refused("matrix", "bayes", place, "--plot", tmp_path / "m.txt")
    assert "positive standard deviation" in refused("matrix", "bayes", place, "--noise", "0")
    assert "positive and finite" in refused("matrix", "bayes", place, "--alpha", "-1")


def test_names_that_are_years(lorank, refused, noisy, tmp_path):
    place, _ = noisy
    years = ",".join(str(1984 + i) for i in range(25))
    np.savetxt(tmp_path / "years.csv", np.load(place), "%.17g", ",", header=years, comments="")
    given, found = (
        lorank("matrix", "bayes", each, "--json").json for each in (place, tmp_path / "years.csv")
    )
    assert (found["header"], found["row_names"]) == (True, False)
    assert (found["rows"], found["rank"], found["noise"]) == (40, 3, given["noise"])
    assert (
        "40 × 25 (line 1 read as names), rank 3"
        in lorank("matrix", "bayes", tmp_path / "years.csv").out
    )
    # Negative control: as data the years are a component of their own.
    as_data = lorank("matrix", "bayes", tmp_path / "years.csv", "--no-header", "--json").json
    assert (as_data["header"], as_data["rows"], as_data["values"][0] > 9000) == (False, 41, True)
    assert "only a CSV has a line of names" in refused("matrix", "bayes", place, "--header")
