"""A tutorial is a program and the page made from it: they say the same, and the program runs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = sorted((ROOT / "docs" / "tutorials").glob("*.py"))
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)

tutorials = pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: p.stem)


def code_cells(text):
    """The cells with code of a program in percent format."""
    cells = re.split(r"^# %%", text, flags=re.MULTILINE)[1:]
    bodies = [
        cell.partition("\n")[2].strip() for cell in cells if not cell.startswith(" [markdown]")
    ]
    return [body for body in bodies if body]


def test_there_are_tutorials():
    assert PROGRAMS


@tutorials
def test_a_page_shows_its_program(program):
    page = program.with_suffix(".md").read_text()
    shown = [block.strip() for block in BLOCK.findall(page)]
    assert shown == code_cells(program.read_text()), "./run tutorials makes the page anew"


@tutorials
def test_a_page_has_its_pictures_and_no_traceback(program):
    page = program.with_suffix(".md").read_text()
    pictures = re.findall(r"!\[png\]\((.*?)\)", page)
    assert pictures
    assert all((program.parent / picture).is_file() for picture in pictures)
    assert "Traceback" not in page
    assert not re.search("^    .*(has not run here|no results yet)", BLOCK.sub("", page), re.M)
    assert not re.search(r"/(home|tmp|work|Users)/", page)


@pytest.mark.slow
@tutorials
def test_a_program_runs(program):
    environment = os.environ | {"MPLBACKEND": "Agg", "PYTHONPATH": str(ROOT / "src")}
    subprocess.run([sys.executable, program], check=True, cwd=ROOT, env=environment)
