"""The one error style: a sentence that states the rule and what was found."""

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType


class LorankError(ValueError):
    """Input that cannot be used; the message is one sentence for a person to read."""


class MissingExtraError(LorankError, ImportError):
    """An optional package is needed and not installed; the message has the install command."""


def unknown(kind: str, name: object, known: Iterable[str]) -> LorankError:
    """Make the error for a name that is not in a table: it lists the names that are.

    Args:
        kind: what is being named, for example ``"penalty"``.
        name: the name that was given.
        known: the names of the table.

    Returns:
        An error to raise.

    Example:
        >>> print(unknown("layout", "chanel", ["channel", "spatial"]))
        unknown layout 'chanel': did you mean 'channel'? Known: channel, spatial
    """
    names = sorted(known)
    close = difflib.get_close_matches(str(name), names, n=1)
    hint = f" did you mean '{close[0]}'?" if close else ""
    return LorankError(f"unknown {kind} {name!r}:{hint} Known: {', '.join(names) or 'none'}")


def extra(module: str, name: str) -> ModuleType:
    """Import an optional package, or say in one sentence how to install it.

    Args:
        module: the module to import, for example ``"onnx"``.
        name: the extra of lorank that brings it.

    Returns:
        The imported module.

    Raises:
        MissingExtraError: if the package is not installed.

    Example:
        >>> extra("json", "train").dumps([1])
        '[1]'
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise
        package = module.split(".")[0]
        raise MissingExtraError(
            f"this needs the package {package!r}, which is not installed: "
            f"pip install 'lorank[{name}]'"
        ) from None
