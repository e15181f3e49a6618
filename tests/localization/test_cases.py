import numpy as np
import pytest

from lorank.errors import LorankError
from lorank.localization import View, read_cases, synthetic_column, synthetic_volume
from lorank.localization import cases as room
from lorank.localization.cases import read_table

VIEW = View(columns=32, column_mm=6.0)


def table(folder, lines, head="scan,slice,spacing,axes"):
    (folder / "cases.csv").write_text("\n".join([head, *lines]) + "\n")
    return folder / "cases.csv"


@pytest.fixture
def three(tmp_path):
    """Three scans as arrays, with their targets, in a table."""
    lines = []
    for i in range(3):
        scan, target = synthetic_volume(i, height=2.5)
        np.save(tmp_path / f"{i}.npy", scan.values)
        spacing = "x".join(f"{length:g}" for length in scan.spacing)
        lines.append(f"{i}.npy,{target},{spacing},SPL")
    return table(tmp_path, lines)


def test_a_table_of_scans_is_read(three):
    cases = read_cases(three, VIEW)
    assert sorted(case.split for case in cases) == ["train", "train", "valid"]
    for i, case in enumerate(cases):
        truth = synthetic_column(i)
        assert abs(case.target - truth.target) <= 1.25 + 1e-9  # half of a slice
        assert case.projection.slice_at(case.target) == int(read_table(three)[i].slice)


def test_a_scan_stays_on_its_side_when_the_table_grows(tmp_path):
    lines = [f"{i}/scan.npy,1" for i in range(400)]  # one file name, as archives have it
    few, many = (
        room._with_splits(read_table(table(tmp_path, lines[:n], "scan,slice")), 0.2, 0)
        for n in (40, 400)
    )
    assert [row.split for row in few] == [row.split for row in many][:40]
    aside = [i for i, row in enumerate(many) if row.split == "valid"]
    assert abs(len(aside) - 80) < 4 * np.sqrt(400 * 0.2 * 0.8)
    assert abs(np.mean(aside) - 199.5) < 4 * 400 / np.sqrt(12 * len(aside))  # not the first ones


def test_two_series_of_one_folder_are_two_scans(tmp_path):
    lines = ["s,1,1.2.3", "s,2,1.2.4"]
    assert len(read_table(table(tmp_path, lines, "scan,slice,series"))) == 2
    with pytest.raises(LorankError, match="found s 2 times"):
        read_table(table(tmp_path, [*lines, "s,3,1.2.4"], "scan,slice,series"))


def test_a_slice_that_was_written_anew_is_noticed(tmp_path):
    (tmp_path / "s").mkdir()
    slices = [tmp_path / "s" / name for name in "ab"]
    for path in slices:
        path.write_bytes(b"one")
    row = room.Row(tmp_path / "s", 1.0)
    before = room._stamp(row)
    assert room._stamp(row) == before
    slices[0].write_bytes(b"another")
    assert room._stamp(row) != before


def test_projections_are_read_from_the_cache(three, tmp_path, monkeypatch):
    first = read_cases(three, VIEW, cache=tmp_path / "c.safetensors")
    calls = []
    real = room.read_volume
    monkeypatch.setattr(room, "read_volume", lambda *a, **k: calls.append(1) or real(*a, **k))
    again = read_cases(three, VIEW, cache=tmp_path / "c.safetensors")
    assert not calls
    for a, b in zip(first, again, strict=True):
        assert np.array_equal(a.projection.image, b.projection.image)
        assert (a.target, a.split, a.projection.from_head) == (
            b.target,
            b.split,
            b.projection.from_head,
        )
    read_cases(three, View(columns=30, column_mm=6.0), cache=tmp_path / "c.safetensors")
    assert len(calls) == 3  # another view: made anew
    (tmp_path / "c.safetensors").write_bytes(b"damaged")
    read_cases(three, VIEW, cache=tmp_path / "c.safetensors")
    assert len(calls) == 6
    np.save(tmp_path / "0.npy", np.load(tmp_path / "0.npy")[:, :, ::-1])
    read_cases(three, VIEW, cache=tmp_path / "c.safetensors")
    assert len(calls) == 9  # a scan has changed


@pytest.mark.parametrize(
    ("head", "lines", "says"),
    [
        ("scan,row", ["a.npy,1"], "names the columns scan and slice"),
        ("scan,slice", [], "no line beyond its names"),
        ("scan,slice", ["a.npy,L3"], "line 2: a slice is a number"),
        ("scan,slice", ["a.npy,nan"], "a scan and its slice are needed"),
        ("scan,slice", ["a.npy,1,2"], "more cells than names"),
        ("scan,slice", ["a.npy,1", "a.npy,2"], "found a.npy 2 times"),
        ("scan,slice,split", ["a.npy,1,training"], "a split is train, valid or test"),
        ("scan,slice,split", ["a.npy,1,train", "b.npy,1,"], "of every scan or of none"),
        ("scan,slice,spacing", ["a.npy,1,1x2xc"], "a spacing is such as"),
        ("scan,slice", ["a.npy,1"], "there is no file"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(tmp_path, head, lines, says):
    with pytest.raises(LorankError, match=says):
        read_cases(table(tmp_path, lines, head), VIEW)


def test_an_empty_file_is_no_table(tmp_path):
    (tmp_path / "cases.csv").write_text("")
    with pytest.raises(LorankError, match=r"names the columns scan and slice.* found nothing"):
        read_cases(tmp_path / "cases.csv", VIEW)


def test_columns_are_made_from_the_front(tmp_path):
    with pytest.raises(LorankError, match="seen from the front, found plane 'lateral'"):
        read_cases("synthetic:2", View(plane="lateral"))
    for height in (0.0, -1.0, 100.0):
        with pytest.raises(LorankError, match="a made scan: a scan needs the millimetres"):
            synthetic_volume(0, height=height)


def test_a_slice_that_is_not_in_the_scan_is_refused(three):
    text = three.read_text().replace(",SPL", ",SPL").split("\n")
    cells = text[1].split(",")
    cells[1] = "9999"
    three.write_text("\n".join([text[0], ",".join(cells), *text[2:]]))
    with pytest.raises(LorankError, match="has the slices 0 to"):
        read_cases(three, VIEW)


@pytest.mark.parametrize("spec", ["synthetic:", "synthetic:0", "synthetic:a", "synthetic:3:4:5"])
def test_made_columns_are_asked_for_by_number(spec):
    with pytest.raises(LorankError, match="synthetic:N"):
        read_cases(spec, VIEW)


def test_splits_and_seeds_share_no_column():
    every = [case for seed in (0, 1) for case in read_cases(f"synthetic:3:{seed}", VIEW)]
    images = {case.projection.image.tobytes() for case in every}
    assert len(images) == 2 * (3 + 1 + 1)


def test_columns_vary_and_hold_their_target():
    made = [synthetic_column(seed, VIEW) for seed in range(85, 120)]
    assert {c.kind for c in made} == {"plain", "six", "fused"}
    for column in made:
        assert 0 < column.target < len(column.image) - 20
        assert min(abs(o - column.target) for o in column.others) == 0
        gaps = np.diff(column.others)
        assert gaps.min() > 12 and gaps.max() < 60
    assert np.std([len(c.image) for c in made]) > 20
    assert synthetic_column(0, VIEW).kind == "four"
