"""JSON files of lorank read back, with every value checked: anybody may have edited them."""

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from lorank.errors import LorankError

T = TypeVar("T")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        LorankError: if it is damaged.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.json"
        >>> _ = path.write_text("[1, 2]")
        >>> read_json(path)
        [1, 2]
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise LorankError(f"{path} is damaged or no JSON: {error}") from None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON")


def checked(path: Path, content: Any, wanted: type[T]) -> T:
    """Make a dataclass of what a file holds.

    Raises:
        LorankError: if a value in it is missing or of the wrong kind; it says which.
    """
    try:
        return TypeAdapter(wanted).validate_python(content)
    except ValidationError as error:
        raise LorankError(f"{path} is damaged: {first_fault(error)}") from None


def first_fault(error: ValidationError) -> str:
    """Say the first thing that is wrong, and where."""
    first = error.errors(include_url=False)[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place or 'all of it'}: {first['msg']}"


def read_format(path: Path, wanted: type[T], name: str, version: int) -> T:
    """Read a JSON file that names its format.

    Raises:
        LorankError: as :func:`read_json` and :func:`checked`, or if it is of another format or
            version.
    """
    content = read_json(path)
    if not isinstance(content, dict) or content.get("format") != name:
        raise LorankError(f'{path} is no {name}: it has no "format": "{name}"')
    if content.get("version") != version:
        raise LorankError(
            f"{path} has version {content.get('version')!r}, and this lorank reads {version}"
        )
    return checked(
        path, {k: v for k, v in content.items() if k not in ("format", "version")}, wanted
    )
