"""The documentation is run: each page with Python in it is one program."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
PAGES = sorted(p for p in DOCS.glob("*.md") if BLOCK.search(p.read_text()))


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch, capsys):
    pytest.importorskip("sklearn", reason="the digits need the extra 'data'")
    pytest.importorskip("accelerate", reason="recipes need the extra 'train'")
    monkeypatch.chdir(tmp_path)
    program = "\n".join(BLOCK.findall(page.read_text()))
    exec(compile(program, page.name, "exec"), {"__name__": "page"})
    assert capsys.readouterr().out


def test_the_quickstart_is_among_them():
    assert "quickstart" in [page.stem for page in PAGES]
