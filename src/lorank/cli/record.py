"""The record of a ``lorank compress``: written by it, read by ``lorank report``."""

import json
import platform
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

import lorank
from lorank.atomic import replacing
from lorank.cli import clock
from lorank.cli.network import Network, writable
from lorank.errors import LorankError
from lorank.nn.surgery import opened, sites
from lorank.ranks import Spectra
from lorank.report.record import FORMAT, VERSION, Figures, Record, Skipped, layers
from lorank.report.tables import kind
from lorank.training.reading import read_format

UNITS = {
    "macs": "of the MACs",
    "params": "of the parameters",
    "bytes": "of the memory",
    "latency": "of the time",
}

Option = Annotated[
    Path | None,
    typer.Option(
        "--record",
        metavar="FILE",
        help="Keep figures and spectra as JSON too: lorank report FILE makes a page of them.",
    ),
]


def origin(context: typer.Context) -> dict[str, Any]:
    """Say how something came about: what was typed, and which programs were at work."""
    typed = context.find_root().obj or ()
    return {
        **({"command": shlex.join(["lorank", *typed])} if typed else {}),
        "versions": {
            "lorank": lorank.__version__,
            "torch": str(torch.__version__),
            "Python": platform.python_version(),
        },
    }


def check_place(path: Path | None, output: Path) -> None:
    """Refuse a place for a record before any work is done.

    Raises:
        LorankError: if it cannot be written to, or is that of the network's manifest.
    """
    if path is None:
        return
    writable(path, ".json")
    if path.resolve() == output.with_suffix(".json").resolve():
        raise LorankError(
            f"{path} will be the manifest of {output}: give --record a file of its own"
        )


def write_record(
    path: Path | None,
    answer: Mapping[str, Any],
    spectra: Spectra,
    found: Network,
    made: Mapping[str, Any],
) -> None:
    """Write the record of a compression atomically, where one is wanted.

    Args:
        path: the file, or ``None``.
        answer: what the command answers.
        spectra: what the ranks were chosen from.
        found: the network.
        made: see :func:`origin`.
    """
    if path is None:
        return
    record = make_record(answer, spectra, found, made)
    with replacing(path) as draft:
        draft.write_text(json.dumps(record.plain(), allow_nan=False) + "\n")


def make_record(
    answer: Mapping[str, Any], spectra: Spectra, found: Network, made: Mapping[str, Any]
) -> Record:
    """Put a compression into the form of a report; see :func:`write_record`."""
    kinds = {site.name: kind(site) for site in sites(opened(found.model))}
    return Record(
        title=Path(answer["file"]).stem,
        kind="compress",
        facts=_facts(answer, found),
        asked=_asked(answer["asked"]),
        before=_figures(answer["before"], found.file),
        after=_figures(answer["after"], Path(answer["file"])),
        layers=layers(spectra, answer["layers"], kinds),
        skipped=[Skipped(**_only(Skipped, row)) for row in answer["skipped"]],
        notes=list(_notes(answer, found)),
        **made,
    )


def _facts(answer: Mapping[str, Any], found: Network) -> dict[str, str]:
    facts = {"model": str(answer["model"]), **_options(found.info), "file": str(answer["file"])}
    if "latency" in answer:
        facts["measured time"] = (
            clock.in_words(answer["latency"]).removeprefix("Time: ").rstrip(".")
        )
    return facts


def _options(info: Mapping[str, Any]) -> dict[str, str]:
    return {key.replace("_", " "): str(value) for key, value in info.items() if key != "model"}


def _asked(asked: Mapping[str, Any]) -> str:
    """Say a target in words.

    Example:
        >>> _asked({"target": "macs", "value": 0.5}), _asked({"target": "rule", "value": "evbmf"})
        ('50 % of the MACs', 'rule evbmf')
    """
    target, value = asked["target"], asked["value"]
    if target not in UNITS:
        return f"{target} {value}"
    share = isinstance(value, float) and value <= 1
    return f"{100 * value:g} % {UNITS[target]}" if share else f"{value:,} {UNITS[target]}"


def _figures(row: Mapping[str, Any], file: Path | None) -> Figures:
    size = file.stat().st_size if file is not None and file.is_file() else None
    return replace(Figures(**_only(Figures, row)), file_bytes=size)


def _only(kind: type, row: Mapping[str, Any]) -> dict[str, Any]:
    """Keep the entries that a record has a place for."""
    return {key: value for key, value in row.items() if key in kind.__dataclass_fields__}


def _notes(answer: Mapping[str, Any], found: Network) -> list[str]:
    notes = []
    if found.trained is False:
        notes.append("The weights were drawn at random: figures say nothing about a trained net.")
    if answer["layers"] and all(row["stays_dense"] for row in answer["layers"]):
        notes.append("Every layer stays dense: no rank that was chosen saves anything.")
    return notes


def read_record(path: Path) -> Record:
    """Read a record back.

    Raises:
        LorankError: if the file is damaged, no record, or of another version.
    """
    return read_format(path, Record, FORMAT, VERSION)
