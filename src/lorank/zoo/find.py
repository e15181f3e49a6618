"""Where the files of a data set are."""

from collections.abc import Sequence
from pathlib import Path

from lorank.errors import LorankError


def require_folder(folder: Path, source: str) -> Path:
    """Refuse a folder that does not exist.

    Args:
        folder: the folder.
        source: the data set, to be named in the error.

    Returns:
        The same folder.

    Raises:
        LorankError: if there is no such folder.

    Example:
        >>> require_folder(Path("."), "cifar10").is_dir()
        True
    """
    if not folder.is_dir():
        raise LorankError(f"{source}: there is no folder {folder}")
    return folder


def require_files(folder: Path, names: Sequence[str], source: str) -> list[Path]:
    """Find files by name; those that are absent are listed in one error.

    Args:
        folder: where they should be.
        names: the files.
        source: the data set, to be named in the error.

    Returns:
        Their paths, in the order of ``names``.

    Raises:
        LorankError: if one or more are missing.

    Example:
        >>> require_files(Path("."), [], "cifar10")
        []
    """
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise LorankError(f"{source}: the folder {folder} lacks {', '.join(missing)}")
    return [folder / name for name in names]
