"""Write files so that a reader sees the old one or the new one, never half of one."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lorank.errors import LorankError


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside the target; move it onto the target when all went well.

    Args:
        path: the file to write or to replace.

    Yields:
        A path in the same folder to write to.

    A symbolic link stays one: the file that it names is replaced.

    Raises:
        LorankError: if the folder does not exist or cannot be written to, or the target is a
            folder.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "note.txt"
        >>> with replacing(target) as draft:
        ...     _ = draft.write_text("done")
        >>> target.read_text()
        'done'
    """
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise LorankError(f"a file is written into a folder that exists, found none: {target}")
    if target.is_dir():
        raise LorankError(f"a file was to be written, and {target} is a folder")
    draft = _draft(target)
    try:
        yield draft
        _flush(draft)
        draft.chmod(0o666 & ~_umask())
        os.replace(draft, target)
    finally:
        draft.unlink(missing_ok=True)


def _draft(target: Path) -> Path:
    """Make an empty file beside the target."""
    try:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name[:32]}.")
    except OSError as error:
        raise LorankError(f"{target} cannot be written: {error.strerror}") from error
    os.close(handle)
    return Path(name)


def _flush(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
