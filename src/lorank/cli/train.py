"""``lorank train``: SVD training by a recipe, from a dense network to a small plain one."""

import inspect
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from torch import nn

import lorank
from lorank.cli import options as opt
from lorank.cli.figures import compared, figures, layer_shares
from lorank.cli.network import Network, Source, is_file, is_trained, network, source
from lorank.cli.options import pairs
from lorank.cli.record import origin
from lorank.cli.show import Column, asides, note, percent, say, show, show_json, size, table
from lorank.errors import LorankError, unknown
from lorank.report import cut_rows, relative, skipped_rows
from lorank.report.pictures import Epoch, Spread, available, draw_run, require
from lorank.training.log import NAME as LOG
from lorank.training.log import read_log
from lorank.training.presets import PRESETS, preset
from lorank.training.recipe import LAST, Recipe
from lorank.training.recipe_text import change, read_recipe
from lorank.training.run import DENSE, FACTORED, FOLDED, Result
from lorank.training.run import train as carry_out
from lorank.training.state import NAME as STATE
from lorank.training.truncation import cut_ranks
from lorank.zoo import Data

PICTURE = "picture.png"
OPTIONS = ("epochs", "dense_epochs", "macs", "params", "energy", "sparsity")
DENSE_EPOCHS = 30
"""Of dense training before, for a model whose weights are not known to be trained."""


def train(
    context: typer.Context,
    model: opt.Model,
    data: opt.Data = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Folder of the run; the same command resumes it."),
    ] = None,
    recipe: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="practical (to a budget), paper (as published), or a FILE (.toml, .json).",
        ),
    ] = "practical",
    epochs: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, help="practical: in SVD form; paper: of each stage."),
    ] = None,
    dense_epochs: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            help=f"practical: dense epochs before; {DENSE_EPOCHS} where the weights are not known "
            "to be trained.",
        ),
    ] = None,
    macs: Annotated[
        float | None,
        typer.Option(
            parser=opt.amount, metavar="BUDGET", help="practical: MACs to keep; 0.35 by default."
        ),
    ] = None,
    params: Annotated[
        float | None,
        typer.Option(
            parser=opt.amount, metavar="BUDGET", help="practical: parameters to keep, instead."
        ),
    ] = None,
    energy: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help="paper: share of each layer's energy to keep."),
    ] = None,
    sparsity: Annotated[
        float | None, typer.Option(metavar="LAMBDA", help="Weight of the sparsity penalty.")
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="A trained network that teaches in place of the dense one: a file that lorank "
            "wrote, or a name.",
        ),
    ] = None,
    teacher_weights: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Trained weights of a teacher by name."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="PATH=VALUE",
            help="Change anything in the recipe: batch_size=64, stages.0.optimizer.lr=0.1, "
            "'skip=[\"linear\"]'; repeatable.",
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of weights, order, augmentation and mixtures.")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Begin anew where the folder holds a run.")
    ] = False,
    plot: Annotated[
        bool | None,
        typer.Option(
            "--plot/--no-plot", help=f"Draw {PICTURE}; by default where matplotlib is installed."
        ),
    ] = None,
    print_recipe: Annotated[
        bool, typer.Option("--print-recipe", help="Print the recipe as JSON, and do nothing.")
    ] = False,
    weights: opt.Weights = None,
    option: opt.ModelOption = None,
    root: opt.Root = None,
    as_json: opt.Json = False,
) -> None:
    """Train in SVD form: decompose, train, cut, fine-tune, fold into plain layers.

    Best accuracy at a budget. The run's folder holds the dense network, the one in SVD form and
    the plain one (model.safetensors), with a log of every epoch. A run that was stopped goes on
    when the same command is given again. On several devices: torchrun --nproc-per-node N -m
    lorank train ….

    Examples:
      lorank train resnet8 --data digits --out runs/digits
      lorank train resnet20 --weights resnet20.th --data cifar10:data --macs 0.3 --out runs/r20
      lorank train vgg --data fashion-mnist --recipe paper --epochs 20 --out runs/paper
      lorank train resnet8 --recipe practical --set batch_size=64 --print-recipe
    """
    presets = {
        "epochs": epochs,
        "dense_epochs": dense_epochs,
        "macs": macs,
        "params": params,
        "energy": energy,
        "sparsity": sparsity,
    }
    known = weights is not None or is_file(model) or is_trained(model, pairs(option))
    plan = _recipe(model, recipe, presets, settings or [], seed, bool(known))
    if print_recipe:
        return print(plan.model_dump_json(indent=2))
    if data is None or out is None:
        missing = [name for name, value in (("--data", data), ("--out", out)) if value is None]
        raise LorankError(f"training needs {' and '.join(missing)}")
    with asides():
        if plot:
            require()
        given = source(weights, None, option, data, root, seed=plan.seed)
        found = _dense(network(model, given))
        assert given.data is not None
        _check_cuts(plan, found)
        info = found.info | {"data": data} | ({"weights": str(weights)} if weights else {})
        guide = _teacher(teacher, teacher_weights, given)
        result = _run(found.model, given.data, plan, out, info, fresh, origin(context), guide)
        if not _leads():
            return None
        answer = _answer(found, result, out, info)
        if plot or (plot is None and available()):
            answer["picture"] = str(_draw(found, out, result.ranks))
    return show_json(answer) if as_json else _show(answer)


def _teacher(name: str | None, weights: Path | None, given: Source) -> nn.Module | None:
    """The network that teaches, if one was named.

    Raises:
        LorankError: if it has no trained weights.
    """
    if name is None:
        if weights is not None:
            raise LorankError("--teacher-weights are of a --teacher, and there is none")
        return None
    found = network(name, given._replace(weights=weights, options={}))
    if weights is None and not is_file(name) and is_trained(name, {}) is False:
        raise LorankError(
            f"a teacher has trained weights, and {name!r} has none: give --teacher-weights FILE"
        )
    return found.model


def _recipe(
    model: str,
    name: str,
    options: dict[str, Any],
    settings: list[str],
    seed: int | None,
    trained: bool,
) -> Recipe:
    """Make the recipe that was asked for.

    Raises:
        LorankError: if it is unknown, or an option is none of its own.
    """
    given = {key: value for key, value in options.items() if value is not None}
    if name not in PRESETS and (Path(name).suffix in (".toml", ".json") or Path(name).exists()):
        if given:
            raise LorankError(f"a recipe of a file has no {_flags(given)}: change it with --set")
        plan = read_recipe(name)
    else:
        plan = preset(name, **_fitting(model, name, given, trained))
    return change(plan, [*([] if seed is None else [f"seed={seed}"]), *settings])


def _fitting(model: str, name: str, given: dict[str, Any], trained: bool) -> dict[str, Any]:
    """Refuse options that a preset does not have; plan dense training where it is needed."""
    if name not in PRESETS:
        raise unknown("recipe", name, [*PRESETS, "FILE.toml", "FILE.json"])
    taken = inspect.signature(PRESETS[name]).parameters
    wrong = [key for key in given if key not in taken]
    if wrong:
        own = [key for key in OPTIONS if key in taken]
        raise LorankError(f"the recipe {name!r} has no {_flags(wrong)}: it takes {_flags(own)}")
    if "macs" in given and "params" in given:
        raise LorankError("give one of --macs and --params, found both")
    if "dense_epochs" not in taken or "dense_epochs" in given or trained:
        return given
    if _leads():
        note(
            f"{model} is not known to be trained: {DENSE_EPOCHS} dense epochs come first "
            "(--dense-epochs N changes that, --weights FILE brings trained weights)"
        )
    return given | {"dense_epochs": DENSE_EPOCHS}


def _flags(names: Iterable[str]) -> str:
    return ", ".join(f"--{name.replace('_', '-')}" for name in names)


def _dense(found: Network) -> Network:
    """Refuse a network that is in SVD form or was cut: a run begins with a dense one."""
    if found.layers:
        raise LorankError(
            f"training begins with a dense network, and that of {found.file} was decomposed: "
            f"take the {DENSE} of its run"
        )
    return found


def _check_cuts(plan: Recipe, found: Network) -> None:
    """Refuse a cut that cannot be made now, and not after hours of training.

    Raises:
        LorankError: if a budget cannot be reached, or a rule or a layout is unknown.
    """
    assert found.shape is not None
    skip = [name for name in plan.skip if name != LAST]
    example = found.shape.example()  # in float32, as the loop will feed it
    spectra = lorank.measure(found.model, example, layout=plan.layout, skip=skip)
    for stage in plan.stages:
        if stage.cut is not None:
            cut_ranks(stage.cut, spectra)


def _run(
    model: nn.Module,
    data: Data,
    plan: Recipe,
    out: Path,
    info: dict[str, Any],
    fresh: bool,
    made: dict[str, Any],
    teacher: nn.Module | None,
) -> Result:
    """Train or go on, in a folder that holds this very run or none."""
    if not fresh:
        _same_run(out, info)
    try:
        return carry_out(
            model, data, plan, out, fresh=fresh, info=info, origin=made, teacher=teacher
        )
    except KeyboardInterrupt:
        if _leads():
            say("stopped: the same command goes on from the last whole epoch")
        raise


def _same_run(out: Path, info: dict[str, Any]) -> None:
    """Refuse a folder with the run of another model or other data.

    Raises:
        LorankError: if it holds one.
    """
    if not ((out / STATE).exists() and (out / LOG).exists()):
        return
    events = read_log(out)
    held = events[0].get("info", {}) if events else {}
    differing = [key for key in {**held, **info} if held.get(key) != info.get(key)]
    if events and differing:
        told = ", ".join(f"{k} {held.get(k)!r}, now {info.get(k)!r}" for k in differing)
        raise LorankError(
            f"{out} holds another run ({told}): take another folder, or begin anew with --fresh"
        )


def _leads() -> bool:
    """Whether this is the process that speaks for a distributed run."""
    return os.environ.get("RANK", "0") == "0"


def _answer(found: Network, result: Result, out: Path, info: dict[str, Any]) -> dict[str, Any]:
    low = lorank.load(out / FACTORED, found.model)
    example = found.example()
    after = lorank.measure(low, example, layers=list(result.ranks))
    rows = cut_rows(after, result.ranks)
    files = {name: str(out / name) for name in (FOLDED, FACTORED, DENSE, LOG)}
    return {
        "folder": str(out),
        **info,
        "dense": figures(result.dense_cost, result.dense_accuracy),
        "low_rank": figures(result.cost, result.accuracy),
        # What the cut kept was decided on the way: the spectrum that is left is whole.
        "layers": [{k: v for k, v in row.items() if k != "energy"} for row in rows],
        "skipped": skipped_rows(low, after),
        "files": files,
        "file_bytes": (out / FOLDED).stat().st_size,
    }


def _draw(found: Network, out: Path, ranks: dict[str, int]) -> Path:
    """Draw a run from its log, its dense network and the one in SVD form, in the same layouts."""
    low, dense = (lorank.load(out / name, found.model) for name in (FACTORED, DENSE))
    after = lorank.measure(low, layers=list(ranks))
    layouts = {name: layer.layout for name, layer in after.items()}
    before = lorank.measure(dense, layout=layouts, layers=list(after))
    epochs = [
        Epoch(event["stage"], event["accuracy"], sum(event["ranks"].values()))
        for event in read_log(out)
        if event["event"] == "epoch"
    ]
    layers = {
        name: Spread(relative(before[name]), relative(layer), ranks[name])
        for name, layer in after.items()
    }
    draw_run(out / PICTURE, epochs, layers, title=out.name)
    return out / PICTURE


COLUMNS = [
    Column("layer", "layer"),
    Column("layout", "layout"),
    Column("rank", "rank"),
    Column("full_rank", "of"),
    Column("macs_share", "MACs", percent),
    Column("params_share", "params", percent),
    Column("stays_dense", "stays dense"),
]
SKIPPED = [Column("layer", "stays dense"), Column("kind", "kind"), Column("reason", "why")]


def _show(answer: dict[str, Any]) -> None:
    run = answer["folder"]
    data = f" --data {answer['data']}"
    show(
        table([row | layer_shares(row) for row in answer["layers"]], COLUMNS),
        "",
        *([table(answer["skipped"], SKIPPED), ""] if answer["skipped"] else []),
        compared(answer["dense"], answer["low_rank"], ("dense", "low-rank")),
        "",
        f"Wrote {answer['files'][FOLDED]}, {size(answer['file_bytes'])}"
        + (f", and {answer['picture']}." if "picture" in answer else "."),
        f"Next: lorank bench {run}{data}",
        f"      lorank export {run} {Path(run).name}.onnx",
    )
