"""A command's docstring is its help."""

from collections.abc import Callable
from inspect import cleandoc
from typing import Any


def taught(function: Callable[..., Any]) -> dict[str, Any]:
    """Give a docstring as help; its examples keep their lines."""
    text = cleandoc(function.__doc__ or "").replace("Examples:", "\b\nExamples:")
    return {"help": text, "short_help": text.splitlines()[0]}
