"""Habits of the repository that a machine can see."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

import lorank
from sources import MODULES, ROOT

MACHINE = re.compile(r"(?<![\w.:/-])/(?:home|root|Users|work|mnt)/\w|\b[A-Z]:\\\\?Users\\")
"""An absolute path of somebody's machine."""

LINK = re.compile(r"\]\(\s*<?([^)\s>]+)")
FENCED = re.compile(r"^```.*?^```", re.M | re.S)
"""Code, where `f[i](x[rows])` is a call and no link."""

MARKS = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")


def kept_files() -> list[Path]:
    """Files that git tracks, or would: those that it does not ignore."""
    asked = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this copy is not a git repository")
    return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def texts() -> list[tuple[Path, str]]:
    found = []
    for path in kept_files():
        try:
            found.append((path.relative_to(ROOT), path.read_text(encoding="utf-8")))
        except UnicodeDecodeError:
            continue
    return found


def test_no_path_of_a_machine():
    own = [str(ROOT), str(Path.home())]
    bad = [
        f"{path}: {line.strip()[:80]}"
        for path, text in texts()
        for line in text.splitlines()
        if MACHINE.search(line) or any(o in line for o in own if len(o) > 5)
    ]
    assert bad == []


@pytest.mark.parametrize(
    ("line", "bad"),
    [("cd /ho" + "me/ada/net", True), ("see docs/home/start.md", False), ("n/ro" + "ot/2", False)],
)
def test_the_pattern_knows_a_path(line, bad):
    assert bool(MACHINE.search(line)) is bad


def test_one_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["version"] == lorank.__version__


def test_constraints_pin_every_package_that_the_tests_install():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = project["dependencies"] + [
        entry for name in ("train", "data", "onnx", "plot", "test") for entry in extras[name]
    ]
    names = {re.split(r"[\[<>=~! ]", entry)[0] for entry in wanted} - {"lorank"}
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pinned = {line.split("==")[0] for line in pins.splitlines() if "==" in line}
    assert names <= pinned


def test_links_lead_somewhere():
    broken = [
        f"{path}: {target}"
        for path, text in texts()
        if path.suffix == ".md"
        for target in LINK.findall(FENCED.sub("", text))
        if not re.match(r"[a-z]+:|#", target)
        and not (ROOT / path.parent / target.split("#")[0]).exists()
    ]
    assert broken == []


def test_nothing_is_left_for_later():
    marked = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in MODULES
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if MARKS.search(line)
    ]
    assert marked == []
