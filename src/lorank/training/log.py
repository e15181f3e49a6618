"""What a run says: a JSON line for each event, TensorBoard where installed, and a progress bar."""

import importlib.util
import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

NAME = "log.jsonl"


class Log:
    """Writes a run's events to its folder, and shows them to a person.

    Only the main process of a distributed run writes or shows anything.
    """

    def __init__(self, folder: Path, *, main: bool = True, quiet: bool = False):
        self.path = folder / NAME
        self.main = main
        self.console = Console(stderr=True, quiet=quiet or not main)
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self.board = _board(folder) if main else None

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.progress.stop()
        if self.board is not None:
            self.board.close()

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self.path.stat().st_size if self.path.exists() else 0

    def rewind(self, size: int) -> None:
        """Forget what was written after a state that is resumed."""
        if self.main and self.path.exists():
            os.truncate(self.path, size)

    def write(self, event: str, sentence: str = "", **facts: Any) -> None:
        """Append an event, and show a sentence about it."""
        if not self.main:
            return
        with self.path.open("a") as file:
            file.write(json.dumps({"event": event, **facts}) + "\n")
        if sentence:
            self.console.print(sentence, highlight=False, soft_wrap=True)

    def curves(self, step: int, values: dict[str, float]) -> None:
        """Add a point to each curve in TensorBoard."""
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(name, value, step)


def _board(folder: Path) -> Any:
    if importlib.util.find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder / "tensorboard"))


def read_log(folder: str | Path) -> list[dict[str, Any]]:
    """Read the events of a run.

    Example:
        >>> import tempfile
        >>> log = Log(Path(tempfile.mkdtemp()), quiet=True)
        >>> log.write("cut", ranks={"a": 3})
        >>> read_log(log.path.parent)
        [{'event': 'cut', 'ranks': {'a': 3}}]
    """
    lines = (Path(folder) / NAME).read_text().splitlines()
    return [json.loads(line) for line in lines]
