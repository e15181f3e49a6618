"""Keep a table of measured times as JSON, and read it again."""

import json
from pathlib import Path

from lorank.atomic import replacing
from lorank.compression.latency_table import LatencyTable
from lorank.errors import LorankError


def save_table(table: LatencyTable, path: str | Path) -> Path:
    """Write a table of measured times as JSON.

    Args:
        table: of :func:`lorank.compression.latency_table`.
        path: the file to write or to replace.

    Returns:
        The path.

    Raises:
        LorankError: if the file cannot be written.

    Example:
        >>> import tempfile
        >>> model, x = torch.nn.Sequential(torch.nn.Linear(64, 64)), torch.ones(9, 64)
        >>> table = lorank.compression.latency_table(model, x, lorank.measure(model, x), repeats=3)
        >>> load_table(save_table(table, Path(tempfile.mkdtemp()) / "times.json")) == table
        True
    """
    with replacing(path) as draft:
        draft.write_text(json.dumps(table.plain(), indent=2) + "\n", encoding="utf-8")
    return Path(path)


def load_table(path: str | Path) -> LatencyTable:
    """Read a table that :func:`save_table` wrote.

    Args:
        path: a JSON file.

    Returns:
        The table; :func:`lorank.compression.latency_plan` refuses it in another setting.

    Raises:
        LorankError: if there is no such file, or it holds no table of times.

    Example:
        >>> load_table("nowhere.json")
        Traceback (most recent call last):
        ...
        lorank.errors.LorankError: there is no table of times nowhere.json
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LorankError(f"there is no table of times {path}") from None
    except (OSError, ValueError) as error:
        raise LorankError(f"{path} cannot be read as a table of times: {error}") from None
    return LatencyTable.read(content)
