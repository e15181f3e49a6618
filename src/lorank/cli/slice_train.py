"""``lorank slice train``: a finder from scans with a known slice."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from lorank.cli.options import Json, ModelOption, Weights, amount, pairs
from lorank.cli.record import origin
from lorank.cli.show import asides, note, percent, say, show, show_json
from lorank.errors import LorankError
from lorank.localization.cases import read_cases, taken
from lorank.localization.finder import FILE, new_finder
from lorank.localization.projection import View
from lorank.localization.train import error_figures, located, recipe, train_finder

CACHE = "projections.safetensors"
NO_CUT = "none"


def train(
    context: typer.Context,
    data: Annotated[
        str,
        typer.Argument(
            metavar="TABLE",
            help="A CSV with the columns scan and slice (and split, spacing, axes, series), or "
            "synthetic:N.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path, typer.Option(metavar="RUN", help="Folder of the run; the same command resumes it.")
    ],
    backbone: Annotated[
        str,
        typer.Option(
            metavar="SPEC",
            help="offset_net, a name of the zoo, timm:NAME, torchvision:NAME or "
            "package.module:function.",
        ),
    ] = "offset_net",
    plane: Annotated[
        str, typer.Option(metavar="NAME", help="Seen from the front or the side: frontal, lateral.")
    ] = "frontal",
    rows: Annotated[int, typer.Option(metavar="N", help="Rows of a window, of 1 mm.")] = 128,
    columns: Annotated[int, typer.Option(metavar="N", help="Columns of the projection.")] = 96,
    column_mm: Annotated[float, typer.Option(metavar="MM", help="Width of a column.")] = 2.0,
    epochs: Annotated[int, typer.Option(metavar="N", min=0, help="Of dense training.")] = 12,
    tune: Annotated[int, typer.Option(metavar="N", min=0, help="Epochs after the cut.")] = 6,
    macs: Annotated[
        str, typer.Option(metavar="BUDGET", help="MACs to keep: a share, a count, or none.")
    ] = "0.5",
    lr: Annotated[float, typer.Option(metavar="RATE", help="Peak learning rate.")] = 2e-3,
    windows: Annotated[
        int, typer.Option(metavar="N", min=1, help="Windows of each training scan.")
    ] = 64,
    seed: Annotated[
        int, typer.Option(metavar="N", min=0, max=2**63 - 1, help="Of weights, order and splits.")
    ] = 0,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Begin anew where the folder holds a run.")
    ] = False,
    weights: Weights = None,
    option: ModelOption = None,
    as_json: Json = False,
) -> None:
    """Train a network that says how far a slice lies from a window of a scan.

    Each scan is projected once, in rows of 1 mm, and the projections are kept in the run's
    folder. The network is trained dense, cut to its budget, tuned, and its score calibrated on
    the scans of the split "valid". A run that was stopped goes on when the same command is given
    again. Scans are NIfTI files, folders of DICOM files, or .npy arrays (with spacing and axes).

    Examples:
      lorank slice train cases.csv --out runs/l3
      lorank slice train cases.csv --backbone timm:resnet18 --option pretrained=true --out runs/r
      lorank slice train synthetic:60 --epochs 4 --tune 2 --out runs/trial
    """
    view = View(plane=plane, rows=rows, columns=columns, column_mm=column_mm)
    budget = None if macs == NO_CUT else amount(macs)
    with asides():
        torch.manual_seed(seed)
        finder = new_finder(backbone, view, weights=weights, **pairs(option))
        plan = recipe(epochs=epochs, tune=tune, macs=budget, lr=lr, seed=seed)
        with _folder(out) as folder:
            cases = read_cases(data, view, seed=seed, cache=folder / CACHE)
            try:
                trained, result = train_finder(
                    finder,
                    cases,
                    folder,
                    plan,
                    per_scan=windows,
                    fresh=fresh,
                    origin=origin(context),
                )
            except KeyboardInterrupt:
                say("stopped: the same command goes on from the last whole epoch")
                raise
    if trained.confidence is None:
        note("fewer than 10 scans for validation: predictions come without a confidence")
    kept, dense = result.cost, result.dense_cost
    answer: dict[str, Any] = {
        "folder": str(out),
        "file": str(out / FILE),
        "data": data,
        "backbone": finder.backbone,
        "view": view.as_dict(),
        "scans": {name: len(taken(cases, name)) for name in ("train", "valid", "test")},
        "macs_share": None if not kept.macs or not dense.macs else kept.macs / dense.macs,
        "params_share": kept.params / dense.params,
        "valid": trained.facts["valid"],
    }
    tests = taken(cases, "test")
    if tests:
        answer["test"] = error_figures([error for _, error in located(trained, tests)])
    return show_json(answer) if as_json else _show(answer)


@contextmanager
def _folder(out: Path) -> Iterator[Path]:
    """The run's folder; those that were made for it go where nothing came to be written."""
    try:
        new = [folder for folder in (out, *out.parents) if not folder.exists()]
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LorankError(f"a run needs a folder, and {out} cannot be one: {error}") from None
    try:
        yield out
    except BaseException:
        with suppress(OSError):  # one holds something
            for folder in new:
                folder.rmdir()
        raise


def _show(answer: dict[str, Any]) -> None:
    share = answer["macs_share"]
    show(
        *(told(split, answer[split]) for split in ("valid", "test") if split in answer),
        "" if share is None else f"The network keeps {percent(share)} of its MACs.",
        f"Wrote {answer['file']}.",
        f"Next: lorank slice predict {answer['folder']} SCAN",
    )


def told(split: str, found: dict[str, float]) -> str:
    """Sum errors up in a line.

    Example:
        >>> told("test", {"scans": 2.0, "mean": 1.25, "sd": 0.5, "largest": 2.0})
        'test: 2 scans, mean error 1.25 ± 0.50 mm, largest 2.0 mm'
    """
    return (
        f"{split}: {found['scans']:.0f} scans, mean error {found['mean']:.2f} ± "
        f"{found['sd']:.2f} mm, largest {found['largest']:.1f} mm"
    )
