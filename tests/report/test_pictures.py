import sys

import pytest

from lorank.errors import MissingExtraError
from lorank.report.pictures import Epoch, Spread, available, draw_run, require

EPOCHS = [
    Epoch("dense", 0.5, 0),
    Epoch("dense", 0.8, 0),
    Epoch("sparsify", 0.7, 30),
    Epoch("finetune", 0.9, 12),
]
LAYERS = {f"layer{i}": Spread([4.0, 2.0, 1.0], [3.0, 1.0], 2) for i in range(6)}


@pytest.mark.parametrize("name", ["run.png", "run.svg", "run.pdf"])
def test_a_run_is_drawn(tmp_path, name):
    pytest.importorskip("matplotlib")
    draw_run(tmp_path / name, EPOCHS, LAYERS, title="a run")
    assert (tmp_path / name).stat().st_size > 5000


def test_what_is_in_the_picture(tmp_path):
    pytest.importorskip("matplotlib")
    draw_run(tmp_path / "run.svg", EPOCHS, LAYERS, title="a run")
    import matplotlib

    with matplotlib.rc_context({"svg.fonttype": "none"}):
        draw_run(tmp_path / "run.svg", EPOCHS, LAYERS, title="a run")
    text = (tmp_path / "run.svg").read_text()
    for word in ("a run", "dense", "sparsify", "finetune", "accuracy", "sum of ranks"):
        assert word in text
    assert all(f"{name}  2 of 3" in text for name in LAYERS)


@pytest.mark.parametrize(
    ("epochs", "layers"),
    [
        ([], {}),
        (EPOCHS[:1], {}),
        ([], LAYERS),
        (EPOCHS, {"dead": Spread([0.0, 0.0], [0.0], 1)}),
        (EPOCHS, {"gone": Spread([], [], 1)}),
    ],
)
def test_little_to_draw(tmp_path, epochs, layers):
    pytest.importorskip("matplotlib")
    draw_run(tmp_path / "run.png", epochs, layers)
    assert (tmp_path / "run.png").read_bytes()[:4] == b"\x89PNG"


def test_no_window_and_no_globals(tmp_path):
    pytest.importorskip("matplotlib")
    before = "matplotlib.pyplot" in sys.modules
    draw_run(tmp_path / "run.png", EPOCHS, LAYERS)
    assert ("matplotlib.pyplot" in sys.modules) == before


def test_without_matplotlib(tmp_path, monkeypatch):
    for name in [n for n in sys.modules if n.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert not available()
    with pytest.raises(MissingExtraError, match=r"pip install 'lorank\[plot\]'"):
        require()
    with pytest.raises(MissingExtraError):
        draw_run(tmp_path / "run.png", EPOCHS, LAYERS)
