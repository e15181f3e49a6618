import sys

import pytest

from lorank.zoo.named import named


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current directory; what is imported from it is forgotten after the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and "own_" in name:
            del sys.modules[name]


def test_the_current_directory_is_importable(here):
    (here / "own_nets.py").write_text("def small():\n    return 7\n")
    assert named("own_nets:small")() == 7


def test_an_installed_module_wins_over_a_file_here(here, monkeypatch):
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    (here / "colorsys.py").write_text("raise SystemExit\n")
    assert named("colorsys:rgb_to_hsv")(0, 0, 0) == (0, 0, 0)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("a:", "a function is named as package.module:function, for example my_nets:small"),
        (":b", "but got ':b'"),
        ("..a:b", "a function is named as"),
        ("a/b.py:c", "a function is named as"),
        ("own_absent:f", "there is no module 'own_absent', neither in "),
        ("json.own_absent:f", "there is no module 'json.own_absent', neither in "),
        ("json.decoder.x:f", "there is no module 'json.decoder.x', neither in "),
        ("json:dump_s", "unknown function of the module 'json' 'dump_s': did you mean 'dumps'?"),
        ("math:pi", "'math:pi' must name a function, but it is a value of type float"),
    ],
)
def test_errors(here, told, spec, says):
    assert says in told(named, spec)


def test_a_module_that_needs_another(here, told):
    (here / "own_needy.py").write_text("import own_absent\n")
    said = told(named, "own_needy:f")
    assert said == "the module 'own_needy' needs 'own_absent', which is not installed"


def test_errors_of_the_users_code_pass(here):
    (here / "own_broken.py").write_text("1 / 0\n")
    with pytest.raises(ZeroDivisionError):
        named("own_broken:f")
