"""``lorank inspect``: measure."""

from pathlib import Path
from typing import Annotated, Any

import typer

import lorank
from lorank.cli import options as opt
from lorank.cli.network import Network, network, source, warn_if_random
from lorank.cli.operators import check_picture, draw, operator_answer, show_operators
from lorank.cli.show import Column, asides, count, note, percent, share, show, show_json, table
from lorank.report import layer_rows, skipped_rows, sparkline, totals


def inspect(
    model: opt.Model,
    energy: Annotated[
        float, typer.Option(metavar="SHARE", help="Share of a layer's energy to keep, in (0, 1].")
    ] = 0.9,
    layout: opt.Layout = "auto",
    skip: opt.Skip = None,
    spectrum: Annotated[
        bool, typer.Option("--spectrum", help="Draw each layer's singular values.")
    ] = False,
    operator: Annotated[
        bool,
        typer.Option(
            "--operator",
            help="Show convolutions as operators: singular values, certified norm, what a cut to "
            "the energy rank does, and a Lipschitz certificate of the network.",
        ),
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Draw the operators' spectra: .png, .svg or .pdf; as --operator."
        ),
    ] = None,
    weights: opt.Weights = None,
    option: opt.ModelOption = None,
    spec: opt.Spec = None,
    data: opt.Data = None,
    root: opt.Root = None,
    shape: opt.Input = None,
    as_json: opt.Json = False,
) -> None:
    """Show the singular values of every layer, and what low rank would save.

    Start here: it says whether a network has low-rank layers at all, and which weights stay dense
    and why. Nothing is changed, and only --plot writes.

    Examples:
      lorank inspect resnet20 --weights resnet20.th --spectrum
      lorank inspect torchvision:resnet18 --option pretrained=true --energy 0.95
      lorank inspect runs/digits --json
      lorank inspect resnet20 --weights resnet20.th --operator --plot resnet20.png
    """
    with asides():
        check_picture(plot)
        found = network(model, source(weights, spec, option, data, root, shape))
        answer = _measured(model, found, energy, layout, skip)
        if operator or plot:
            ranks = {row["layer"]: row["energy_rank"] for row in answer["layers"]}
            answer |= operator_answer(found, ranks, layout, skip)
        warn_if_random(model, found)
        pairs = sum(entry["form"] == "pair" for entry in found.layers.values())
        if pairs:
            note(f"{pairs} layers of {found.file} were cut and folded: each is a pair, .0 and .1")
        if plot:
            draw(plot, answer)
    show_json(answer) if as_json else _show(answer, spectrum)


def _measured(
    name: str, found: Network, energy: float, layout: str, skip: list[str] | None
) -> dict[str, Any]:
    spectra = lorank.measure(found.model, found.example(), layout=layout, skip=skip)
    rows = layer_rows(found.model, spectra, energy)
    return {
        "model": name,
        "input": str(found.shape) if found.shape else None,
        "random_weights": found.trained is False,
        "energy": energy,
        "layers": rows,
        "skipped": skipped_rows(found.model, spectra),
        "total": totals(spectra, {row["layer"]: row["energy_rank"] for row in rows}),
    }


COLUMNS = [
    Column("layer", "layer"),
    Column("kind", "kind"),
    Column("layout", "layout"),
    Column("shown_matrix", "matrix"),
    Column("full_rank", "full"),
    Column("stable_rank", "stable"),
    Column("effective_rank", "effective"),
    Column("energy_rank", "energy"),
    Column("break_even", "pays to"),
    Column("macs", "MACs", count),
    Column("params", "params", count),
    Column("saves", "saves", percent),
    Column("drawn", "spectrum"),
]
SKIPPED = [
    Column("layer", "stays dense"),
    Column("kind", "kind"),
    Column("params", "params", count),
    Column("reason", "why"),
]


def _show(answer: dict[str, Any], spectrum: bool) -> None:
    rows = [row | _extra_columns(row, spectrum) for row in answer["layers"]]
    show(table(rows, COLUMNS), "")
    if answer["skipped"]:
        show(table(answer["skipped"], SKIPPED), "")
    show(
        "Ranks: full; stable and effective (how many directions a layer uses); energy (keeps "
        f"{percent(answer['energy'])} of the squared singular values);",
        "pays to (the largest rank that is cheaper than the dense layer). "
        f"Saves: {'MACs' if answer['total']['macs'] else 'parameters'} of the layer at its energy "
        "rank.",
        _total(answer),
    )
    if "operators" in answer:
        show_operators(answer)


def _extra_columns(row: dict[str, Any], spectrum: bool) -> dict[str, Any]:
    unit = "macs" if "macs" in row else "params"
    saved = 1 - row[f"{unit}_kept"] / max(1, row[unit])
    groups = f" × {row['groups']} groups" if row["groups"] > 1 else ""
    return {
        "shown_matrix": "×".join(map(str, row["matrix"])) + groups,
        "saves": saved if saved > 0 else None,
        "drawn": sparkline(row["spectrum"]) if spectrum else None,
    }


def _total(answer: dict[str, Any]) -> str:
    found = answer["total"]
    parts = []
    for unit, word in (("macs", "MACs"), ("params", "parameters")):
        kept = share(found[f"{unit}_kept"], found[unit])
        if kept is not None:
            parts.append(f"{count(found[unit])} {word}, {percent(kept)} of them at energy ranks")
    about = f" for one input of {answer['input']}" if answer["input"] else ""
    return f"Total{about}: " + "; ".join(parts)
