"""Every example in a docstring runs, and every public name has one.

Examples may use ``torch`` and ``lorank`` without importing them.
"""

import doctest
import importlib
import importlib.util
import inspect
import pkgutil
from pathlib import Path

import pytest
import torch

import lorank
from sources import imports

ROOMS = [
    "lorank",
    "lorank.linalg",
    "lorank.bayes",
    "lorank.nn",
    "lorank.penalties",
    "lorank.ranks",
    "lorank.colour",
    "lorank.structured",
    "lorank.localization",
]

SPEAKING_FOR_THEMSELVES = {
    *("SVD", "Price", "Cost", "Spectrum", "Spectra"),  # plain values: verbs show them at work
    *("Batch", "Collapsed", "Compressed", "Rival"),  # the same
    *("Case", "Found", "Confidence"),  # the same
    *("LorankError", "MissingExtraError"),
    "Factored",  # the base of the layers in SVD form, which nobody makes
}


def module_names() -> list[str]:
    found = pkgutil.walk_packages(lorank.__path__, "lorank.")
    return sorted(["lorank", *(m.name for m in found if not m.name.endswith("__main__"))])


def missing_extra(name: str) -> str | None:
    """An outside package that a module needs and that is not installed."""
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    needed = {i.module.split(".")[0] for i in imports(Path(spec.origin))}
    return next((n for n in sorted(needed) if importlib.util.find_spec(n) is None), None)


@pytest.mark.parametrize("name", module_names())
def test_examples_run(name):
    missing = missing_extra(name)
    if missing:
        pytest.skip(f"{missing} is not installed")
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    given = {"torch": torch, "lorank": lorank}
    module = importlib.import_module(name)
    assert doctest.testmod(module, extraglobs=given, optionflags=flags).failed == 0


def exported() -> list[tuple[str, str]]:
    rooms = ((room, importlib.import_module(room)) for room in ROOMS)
    return [
        (room, name)
        for room, module in rooms
        for name in module.__all__
        if callable(getattr(module, name)) and name not in SPEAKING_FOR_THEMSELVES
    ]


@pytest.mark.parametrize(("room", "name"), exported())
def test_public_names_have_an_example(room, name):
    thing = getattr(importlib.import_module(room), name)
    assert "Example" in (inspect.getdoc(thing) or "")
