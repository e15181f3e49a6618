"""A function of the user's own code by its name, ``package.module:function``."""

import importlib
import os
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from lorank.errors import LorankError, unknown


def named(spec: str) -> Callable[..., Any]:
    """Import the function that ``spec`` names; the current directory counts as importable.

    Args:
        spec: ``package.module:function``.

    Returns:
        The function (or any other callable).

    Raises:
        LorankError: if the text is not of that form, or there is no such module or function, or
            what it names cannot be called.

    Example:
        >>> named("math:hypot")(3, 4)
        5.0
    """
    module_name, _, name = spec.partition(":")
    if not all(part.isidentifier() for part in [*module_name.split("."), name]):
        raise LorankError(
            f"a function is named as package.module:function, for example my_nets:small, "
            f"but got {spec!r}"
        )
    module = _module(module_name)
    if not hasattr(module, name):
        raise unknown(f"function of the module {module_name!r}", name, _callables(module))
    function = getattr(module, name)
    if not callable(function):
        raise LorankError(f"{spec!r} must name a function, but it is {_a(function)}")
    return function


def _module(name: str) -> ModuleType:
    here = os.getcwd()
    # At the end, so that a file here never hides an installed package; and it stays, because
    # worker processes that unpickle the user's classes must find the module as well.
    if here not in sys.path:
        sys.path.append(here)
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if name == missing or name.startswith(missing + "."):
            raise LorankError(
                f"there is no module {name!r}, neither in {here} nor among the installed packages"
            ) from None
        raise LorankError(
            f"the module {name!r} needs {missing!r}, which is not installed"
        ) from None


def _callables(module: ModuleType) -> list[str]:
    return [k for k, v in vars(module).items() if callable(v) and not k.startswith("_")]


def _a(value: object) -> str:
    return f"a value of type {type(value).__name__}"
