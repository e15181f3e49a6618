"""``lorank matrix qsvd``: a colour image, or a quaternion array, at low rank."""

import math
from pathlib import Path
from typing import Annotated, Any

import typer

from lorank.atomic import replacing
from lorank.cli.options import Json
from lorank.cli.places import check_places
from lorank.cli.show import Column, asides, count, percent, precise, show, show_json, size, table
from lorank.colour import Compressed, Rival, compress, picture, pixels, psnr, rivals
from lorank.errors import LorankError
from lorank.report.decay import Decay, draw_decay
from lorank.zoo.image_file import ARRAY, checked_ending, read_image, write_image

COLUMNS = (
    Column("form", "Form"),
    Column("at", "At equal"),
    Column("rank", "Rank"),
    Column("numbers", "Numbers", count),
    Column("error", "Error", percent),
    Column("psnr", "PSNR, dB", lambda value: f"{value:.2f}"),
)


def qsvd(
    image: Annotated[
        Path,
        typer.Argument(
            metavar="IMAGE",
            help="A colour image, or an array *.npy (height, width, 4) of quaternions w, x, y, z "
            "or (height, width, 3) of colours.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Where to write the image at low rank: .png and others, or .npy for its numbers.",
        ),
    ] = None,
    rank: Annotated[
        int | None, typer.Option(metavar="K", help="Quaternion singular triplets to keep.")
    ] = None,
    energy: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help="Keep the fewest that hold this share of ‖A‖²."),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw the error against rank: .png, .svg or .pdf."),
    ] = None,
    iterations: Annotated[
        int, typer.Option(metavar="Q", min=0, help="Power iterations of the random sketch.")
    ] = 2,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Seed of the sketch.")] = 0,
    as_json: Json = False,
) -> None:
    """Cut a colour image, as one matrix of quaternions, to low rank.

    Red, green and blue are the three imaginary parts. The table sets it beside one matrix for
    each channel and one wide matrix of all, at equal storage and at equal rank: photographs are
    mostly kept better by those.

    Examples:
      lorank matrix qsvd photo.png --rank 50 -o small.png
      lorank matrix qsvd photo.jpg --energy 0.99 -o small.png --plot errors.svg
      lorank matrix qsvd wind.npy --rank 8 -o small.npy --json
    """
    with asides():
        if (rank is None) == (energy is None):
            raise LorankError("qsvd takes --rank or --energy, one of the two")
        if output is not None:
            checked_ending(output.suffix)
        check_places(image, output, plot, "IMAGE")
        found = read_image(image)
        try:
            small = compress(found, rank, energy=energy, n_iter=iterations, seed=seed)
        except LorankError as error:
            raise LorankError(f"{image}: {error}") from None
        about = {"n_iter": iterations, "seed": seed}
        rows = rivals(found, small.rank, **about)
        if output is not None:
            _write(output, small)
        if plot is not None:
            _draw(plot, image, small, found, rows, about)
        answer = _answer(image, small, rows, output, plot)
    show_json(answer) if as_json else _show(answer)


def _write(output: Path, small: Compressed) -> None:
    array = small.image()
    written = array if output.suffix.lower() == ARRAY else pixels(array)
    with replacing(output) as draft:
        write_image(draft, written, output.suffix)


def _draw(
    plot: Path, image: Path, small: Compressed, found: Any, rows: list[Rival], about: dict[str, int]
) -> None:
    decays = {"quaternion": Decay(small.errors(), small.form.numbers(1))}
    for row in rows:
        if row.at == "storage" and row.form != "quaternion":
            other = compress(found, row.rank, form=row.form, **about)
            decays[row.form] = Decay(other.errors(), other.form.numbers(1))
    with replacing(plot) as draft:
        draw_decay(draft, decays, small.rank, image.name, plot.suffix.removeprefix("."))


def _answer(
    image: Path, small: Compressed, rows: list[Rival], output: Path | None, plot: Path | None
) -> dict[str, Any]:
    form = small.form
    return {
        "image": str(image),
        "height": form.height,
        "width": form.width,
        "parts": form.parts,
        "rank": small.rank,
        "full_rank": min(form.shape),
        "energy": small.kept,
        "error": small.error(),
        "psnr": _finite(psnr(small.image(), picture(small.original))),
        "numbers": small.numbers,
        "numbers_before": form.height * form.width * form.parts,
        "rivals": [{**row._asdict(), "psnr": _finite(row.psnr)} for row in rows],
        "errors": small.errors(),
        "output": None if output is None else str(output),
        "plot": None if plot is None else str(plot),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _show(answer: dict[str, Any]) -> None:
    height, width = answer["height"], answer["width"]
    held = answer["numbers"] / answer["numbers_before"]
    show(
        f"{answer['image']}: {height} × {width}, rank {answer['rank']} of {answer['full_rank']}, "
        f"{precise(answer['energy'])} of the energy, {percent(held)} of the numbers.",
        table(answer["rivals"], COLUMNS),
    )
    for key in ("output", "plot"):
        if answer[key]:
            show(f"Wrote {answer[key]}, {size(Path(answer[key]).stat().st_size)}.")
