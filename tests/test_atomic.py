"""A reader sees the old file or the new one, never half of one."""

import os
import stat

import pytest

from lorank import LorankError
from lorank.atomic import replacing


def test_a_new_file(tmp_path):
    target = tmp_path / "a.txt"
    with replacing(target) as draft:
        draft.write_text("new")
        assert draft.parent == tmp_path
        assert not target.exists()
    assert target.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_string_is_a_path(tmp_path):
    with replacing(str(tmp_path / "a.txt")) as draft:
        draft.write_text("new")
    assert (tmp_path / "a.txt").read_text() == "new"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, error):
    target = tmp_path / "a.txt"
    target.write_text("old")

    def fail_halfway():
        with replacing(target) as draft:
            draft.write_text("half")
            raise error

    with pytest.raises(error):
        fail_halfway()
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_failure_before_the_first_file_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), replacing(tmp_path / "a.txt"):
        raise RuntimeError
    assert os.listdir(tmp_path) == []


def test_permissions_are_those_of_an_ordinary_file(tmp_path):
    (tmp_path / "plain").write_text("")
    with replacing(tmp_path / "ours") as draft:
        draft.write_text("")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "ours")}
    assert len(modes) == 1


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "run").mkdir()
    real, link = tmp_path / "run" / "best.txt", tmp_path / "latest.txt"
    real.write_text("old")
    link.symlink_to(real)
    with replacing(link) as draft:
        draft.write_text("new")
    assert link.is_symlink()
    assert real.read_text() == "new"


@pytest.mark.parametrize(
    ("name", "says"),
    [("missing/a.txt", "a folder that exists"), ("", "is a folder")],
)
def test_a_place_that_cannot_be_written(tmp_path, name, says):
    with pytest.raises(LorankError, match=says), replacing(tmp_path / name) as draft:
        draft.write_text("new")
    assert os.listdir(tmp_path) == []


def test_a_folder_without_permission(tmp_path, monkeypatch):
    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    with (
        pytest.raises(LorankError, match="cannot be written: Permission"),
        replacing(tmp_path / "a"),
    ):
        pass
