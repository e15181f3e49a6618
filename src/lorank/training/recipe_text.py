"""Recipes in words: read from a file, checked, changed setting by setting."""

import json
import tomllib
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lorank.errors import LorankError, unknown
from lorank.training.recipe import Recipe


def read_recipe(path: str | Path) -> Recipe:
    """Read a recipe from a TOML or JSON file.

    Raises:
        LorankError: if the file is missing, cannot be parsed, or breaks a rule of the recipe.
    """
    path = Path(path)
    try:
        text = path.read_text()
        table = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise LorankError(
            f"a recipe is a file, and {path} cannot be read: {error.strerror}"
        ) from None
    except ValueError as error:
        raise LorankError(f"{path} is not {path.suffix.lstrip('.') or 'toml'}: {error}") from None
    return make_recipe(table, str(path))


def make_recipe(table: Any, where: str = "recipe") -> Recipe:
    """Check a table as a recipe.

    Raises:
        LorankError: if it breaks a rule.

    Example:
        >>> make_recipe({"stages": [{"name": "only", "epochs": 1}]}).stages[0].form
        'svd'
    """
    try:
        return Recipe.model_validate(table)
    except ValidationError as error:
        raise LorankError(f"{where}: {fault(error)}") from None


def fault(error: ValidationError) -> str:
    """Say where a recipe breaks which rule, and what was found."""
    first = error.errors()[0]
    place = ".".join(str(step) for step in first["loc"])
    return f"{place + ': ' if place else ''}{first['msg']}, found {first['input']!r:.80}"


def change(recipe: Recipe, settings: list[str]) -> Recipe:
    """Change a recipe by settings in words, ``batch_size=64`` or ``stages.0.optimizer.lr=0.1``.

    Args:
        recipe: where to start; it is not changed.
        settings: ``path=value``; values are JSON, and text where they are not.

    Raises:
        LorankError: if a path does not exist, or a value breaks a rule.

    Example:
        >>> from lorank.training.presets import practical
        >>> change(practical(epochs=3), ["stages.0.sparsity=0.5"]).stages[0].sparsity
        0.5
    """
    table = recipe.model_dump(mode="json")
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals:
            raise LorankError(f"a setting is path=value, found {setting!r}")
        _assign(table, path.split("."), _value(text), setting)
    return make_recipe(table)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _assign(table: Any, steps: list[str], value: Any, setting: str) -> None:
    for depth, step in enumerate(steps):
        key: Any = int(step) if isinstance(table, list) and step.isdigit() else step
        known = range(len(table)) if isinstance(table, list) else table
        if not isinstance(table, (list, dict)) or key not in known:
            names = [str(k) for k in known] if isinstance(table, (list, dict)) else []
            raise unknown(f"setting {setting!r}, at", ".".join(steps[: depth + 1]), names)
        if depth == len(steps) - 1:
            table[key] = value
        else:
            table = table[key]
