"""``lorank compress hf:FOLDER``: a Hugging Face folder in, a Hugging Face folder out."""

import os
from pathlib import Path
from typing import Any

import lorank
from lorank.cli.figures import LAYERS, layer_shares
from lorank.cli.show import asides, count, note, percent, share, show, show_json, table
from lorank.errors import LorankError
from lorank.files.huggingface_run import Choice, Settings, compress_folder

PREFIX = "hf:"


def is_folder_job(model: str, output: Path) -> bool:
    """Whether a whole Hugging Face folder is to be written: tensor by tensor, in any size.

    Example:
        >>> is_folder_job("hf:bert", Path("small")), is_folder_job("hf:bert", Path("b.safetensors"))
        (True, False)
    """
    return model.startswith(PREFIX) and output.suffix != ".safetensors"


def compress_shards(
    model: str,
    output: Path,
    asked: tuple[str, Any],
    *,
    multiple: int = 1,
    layout: str = "auto",
    skip: list[str] | None = None,
    as_json: bool = False,
    unused: dict[str, Any] | None = None,
) -> None:
    """Compress a folder tensor by tensor, with the processes that ``torchrun`` started.

    Raises:
        LorankError: if an option cannot be used here, or the folder cannot be compressed.
    """
    given = [name for name, value in (unused or {}).items() if value]
    if given:
        raise LorankError(
            f"a Hugging Face folder is compressed tensor by tensor, without running the model: "
            f"{', '.join(given)} cannot be used"
        )
    process, processes = _processes()
    words = {asked[0]: asked[1]} | ({"multiple": multiple} if multiple > 1 else {})
    settings = Settings(choice(asked, multiple), words, layout, tuple(skip or ()))
    with asides():
        answer = compress_folder(
            Path(local(model)),
            output,
            settings,
            process=process,
            processes=processes,
            tell=note if process == 0 else lambda sentence: None,
        )
    if process > 0:
        return
    answer = {"model": model, "folder": str(output), **answer}
    show_json(answer) if as_json else _show(answer)


def new_folder(output: Path) -> Path:
    """Refuse a folder that holds something already.

    Raises:
        LorankError: if it does, or is a file.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise LorankError(f"the folder to write must be new or empty, and {output} is not")
    return output


def local(model: str) -> str:
    """Path of the folder that ``hf:FOLDER`` names.

    Raises:
        LorankError: if it is not here.
    """
    path = Path(model.removeprefix(PREFIX))
    if not path.is_dir():
        raise LorankError(
            f"{model} is compressed from a local folder, and {path} is none: download it first"
        )
    return str(path)


def _processes() -> tuple[int, int]:
    """Which process this is and how many ``torchrun`` started."""
    try:
        process, processes = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    except (KeyError, ValueError):
        return 0, 1
    return process, processes


def choice(asked: tuple[str, Any], multiple: int) -> Choice:
    """Make the function that chooses ranks, from a target and its value as they were typed."""
    name, value = asked
    if name == "rule":
        return lorank.ranks.rule(value, multiple=multiple)
    return lambda spectra: lorank.ranks.budget(spectra, **{name: value}, multiple=multiple)


COLUMNS = [column for column in LAYERS if column.key != "macs_share"]
"""Of a linear layer the share of the MACs is that of the parameters."""


def _show(answer: dict[str, Any]) -> None:
    show(table([row | layer_shares(row) for row in answer["layers"]], COLUMNS), "")
    before, after = answer["before"], answer["after"]
    kept = {unit: share(after[unit], before[unit]) or 0.0 for unit in before}
    show(
        f"Parameters: {count(before['params'])} → {count(after['params'])}, "
        f"{percent(kept['params'])}. MACs of all layers for one token: "
        f"{count(before['macs'])} → {count(after['macs'])}, {percent(kept['macs'])}.",
        f"Wrote {answer['folder']}: lorank.load({answer['folder']!r}) gives the model.",
    )
