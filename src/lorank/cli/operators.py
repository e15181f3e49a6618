"""The part of ``lorank inspect`` about convolutions as operators."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from torch import nn

from lorank.atomic import replacing
from lorank.cli.network import Network
from lorank.cli.show import Column, show, table
from lorank.compression.lipschitz import lipschitz
from lorank.compression.operator import Operators, operators
from lorank.compression.operator_cut import cut_errors
from lorank.errors import LorankError
from lorank.report.operators import draw_operators, operator_rows
from lorank.report.pictures import require

ENDINGS = (".png", ".svg", ".pdf")


def check_picture(path: Path | None) -> None:
    """Refuse a picture that cannot be drawn, before any work is done.

    Raises:
        LorankError: if the ending is no picture's, the folder is missing, or matplotlib is.
    """
    if path is None:
        return
    if path.suffix not in ENDINGS:
        raise LorankError(f"a picture ends in one of {', '.join(ENDINGS)}, found {path}")
    if not path.parent.is_dir():
        raise LorankError(f"a picture is written into a folder that exists, found none: {path}")
    require()


def operator_answer(
    found: Network, ranks: Mapping[str, int], layout: str, skip: Sequence[str] | None
) -> dict[str, Any]:
    """Describe the convolutions, what a cut to some ranks does to them, and the certificate."""
    example = found.example()
    if example is None:
        raise LorankError(
            "an operator depends on the image's size, and this network's is not known: give --input"
        )
    known = operators(found.model, example, skip=_convolutions(found.model, skip))
    cuts = cut_errors(
        found.model, {n: r for n, r in ranks.items() if n in known}, example, layout=layout
    )
    return {
        "operators": operator_rows(known, cuts),
        "operators_skipped": _reasons(known),
        "certificate": _certificate(found.model, example),
    }


def _convolutions(model: nn.Module, skip: Sequence[str] | None) -> list[str]:
    """Layers left out as asked, of those that are convolutions."""
    names = [n for n, m in model.named_modules() if hasattr(m, "kernel_size")]
    return [n for n in names if any(fnmatchcase(n, pattern) for pattern in skip or ())]


def _reasons(known: Operators) -> list[dict[str, str]]:
    return [{"layer": name, "reason": reason} for name, reason in known.skipped.items()]


def _certificate(model: nn.Module, example: Any) -> dict[str, Any]:
    try:
        found = lipschitz(model, example)
    except LorankError as error:
        return {"constant": None, "refused": str(error)}
    return {"constant": found.constant, "steps": [step._asdict() for step in found.steps]}


def draw(path: Path, answer: Mapping[str, Any]) -> None:
    """Write the picture of all spectra."""
    with replacing(path) as draft:
        draw_operators(draft, answer["operators"], answer["model"], form=path.suffix[1:])


COLUMNS = [
    Column("layer", "layer"),
    Column("shown_size", "image"),
    Column("bounds", "norm, certified"),
    Column("reshaped_norm", "reshaped", "{:.3g}".format),
    Column("ratio", "ratio", "{:.2f}".format),
    Column("median", "median value", "{:.3g}".format),
    Column("stable_rank", "stable", "{:.1f}".format),
    Column("reshaped_stable_rank", "reshaped stable", "{:.1f}".format),
    Column("method", "method"),
    Column("error", "error", "{:.1g}".format),
    Column("rank", "cut to"),
    Column("cut_norm", "error of the cut"),
    Column("cut_predicted", "reshaped says", "{:.3f}".format),
]


def show_operators(answer: Mapping[str, Any]) -> None:
    """Print the table and the certificate."""
    show("", "Convolutions as operators:", "")
    show(table([row | _extra(row) for row in answer["operators"]], COLUMNS))
    for row in answer["operators_skipped"]:
        show(f"{row['layer']} is not described: {row['reason']}")
    show(
        "",
        "Norm: the largest gain of the layer on any image, between two certified numbers. Reshaped:"
        " of the kernel as a matrix, and the ratio to it. Stable: stable rank in channels. Error of"
        " the cut: of the operator's norm at the energy rank, and what the matrix foretells.",
        _certified(answer["certificate"]),
    )


def _extra(row: Mapping[str, Any]) -> dict[str, Any]:
    cut, values = row["cut"], row["quantiles"]
    shown: dict[str, Any] = {
        "shown_size": "×".join(map(str, row["size"])),
        "bounds": f"{row['lower']:.4g} to {row['upper']:.4g}",
        "median": values[len(values) // 2],
        "method": f"{row['method']}, {row['kind']}" if row["kind"] != row["method"] else "exact",
    }
    if cut is not None:
        shown["rank"] = cut["rank"]
        shown["cut_norm"] = f"{cut['norm'][0]:.3f} to {cut['norm'][1]:.3f}"
        shown["cut_predicted"] = cut["predicted_norm"]
    return shown


def _certified(certificate: Mapping[str, Any]) -> str:
    if certificate["constant"] is None:
        return f"No certificate of the whole network: {certificate['refused']}"
    return (
        "Certified for the whole network: a change of the input becomes at most "
        f"{certificate['constant']:.4g} times larger (Euclidean norm)."
    )
