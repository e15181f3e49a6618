"""``lorank structured``: reconstruction tasks and a scaled output layer, compared on small data."""

import statistics
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer
from torch import Tensor

from lorank.cli.options import Json
from lorank.cli.show import Column, asides, say, show, show_json, table
from lorank.errors import LorankError, unknown
from lorank.structured.arms import ARMS, FIRST, modern, perceptron
from lorank.structured.fit import Plan, fit
from lorank.structured.points import landed, point_errors
from lorank.zoo import load_data
from lorank.zoo.landmarks import landmarks

SETS = ("digits", "landmarks")


class Task(NamedTuple):
    """Inputs and labels to train on and to test on, and how predictions are judged."""

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    sides: Tensor | None
    about: str


def structured(
    data: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="digits: a digit's lower half from the upper; landmarks: 68 points of a face.",
        ),
    ] = "digits",
    folder: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Where lfpw_train.npz and lfpw_test.npz are."),
    ] = None,
    arms: Annotated[
        list[str] | None,
        typer.Option("--arm", metavar="NAME", help="An arm to run; repeatable. See --list."),
    ] = None,
    labels: Annotated[
        int, typer.Option(metavar="N", min=2, help="Training samples that keep their label.")
    ] = 100,
    unlabelled: Annotated[
        bool,
        typer.Option(
            "--unlabelled",
            help="Give tasks the other training samples, unpaired, and scales their labels, too.",
        ),
    ] = False,
    seeds: Annotated[int, typer.Option(metavar="N", min=1, help="Runs of each arm.")] = 3,
    epochs: Annotated[int, typer.Option(metavar="N", min=1, help="Passes over the labels.")] = 60,
    rate: Annotated[float, typer.Option(metavar="LR", help="Learning rate of AdamW.")] = 1e-3,
    listed: Annotated[bool, typer.Option("--list", help="List the arms, and stop.")] = False,
    as_json: Json = False,
) -> None:
    """Compare reconstruction tasks with a scaled output layer, by paired seeds.

    A seed draws the labelled samples, the initial weights and the order of the batches, the same
    for every arm; the table shows the gain over plain supervised training, seed by seed. A scaled
    output layer gained more than the tasks in our runs, so it is an arm of every comparison.

    Examples:
      lorank structured
      lorank structured --labels 50 --seeds 5 --unlabelled
      lorank structured --data landmarks --folder landmarks --arm sup --arm "scaled sup"
    """
    if listed:
        rows = [{"arm": n, "tasks": " + ".join(a.tasks), "scale": a.scale} for n, a in ARMS.items()]
        show_json({"arms": rows}) if as_json else show(_listed(rows))
        return
    wanted = list(dict.fromkeys(arms or FIRST))
    for name in wanted:
        if name not in ARMS:
            raise unknown("arm", name, ARMS)
    plan = Plan(epochs=epochs, learning_rate=rate)
    with asides():
        task = _task(data, folder)
        if labels > len(task.train[0]):
            raise LorankError(
                f"{data} has {len(task.train[0])} training samples, found --labels {labels}"
            )
        runs = []
        for seed in range(seeds):
            for name in wanted:
                runs.append(_run(name, task, labels, unlabelled, plan, seed))
                say(f"seed {seed}, {name}: {_figures(runs[-1])}")
    rows = [_summed(name, runs, "sup" in wanted) for name in wanted]
    answer = {
        "data": data,
        "labels": labels,
        "unlabelled": unlabelled,
        "seeds": seeds,
        "epochs": epochs,
        "rate": rate,
        "measure": _measure(task),
        "arms": rows,
        "runs": runs,
    }
    show_json(answer) if as_json else _show(answer, task)


def _task(data: str, folder: Path | None) -> Task:
    if data == "landmarks":
        if folder is None:
            raise LorankError("landmarks are read from a folder of .npz files: give --folder PATH")
        train, test = landmarks(folder)
        about = "68 points of a face from 50×50 pixels (LFPW)"
        return Task((train.x, train.y), (test.x, test.y), test.sides, about)
    if data != "digits":
        raise unknown("data", data, SETS)
    if folder is not None:
        raise LorankError(f"digits come with scikit-learn and take no folder, found {folder}")
    found = load_data("digits")
    train, test = (_halves(part) for part in (found.train, found.test))
    return Task(train, test, None, "the lower half of a digit's 8×8 pixels from the upper half")


def _halves(images: Any) -> tuple[Tensor, Tensor]:
    """Upper and lower half of each image, pixels between 0 and 1."""
    pixels = images.images.flatten(1).float() / 255
    half = pixels.shape[1] // 2
    return pixels[:, :half], pixels[:, half:]


def _run(
    name: str, task: Task, labels: int, unlabelled: bool, plan: Plan, seed: int
) -> dict[str, Any]:
    """One arm at one seed."""
    x, y = task.train
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    rows, rest = order[:labels], order[labels:]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = perceptron((x.shape[1], 256, 128, 64, y.shape[1]))
    arm = ARMS[name]
    spare = unlabelled and len(rest) > 0
    known = torch.cat([y[rows], y[rest]]) if spare else y[rows]
    whole = modern(arm, network, known, plan.epochs, seed=seed)
    fit(
        whole,
        x[rows],
        y[rows],
        plan,
        x_only=x[rest] if spare and "in" in arm.tasks else None,
        y_only=y[rest] if spare and "out" in arm.tasks else None,
        seed=seed,
    )
    return {"arm": name, "seed": seed} | _judged(network, task)


@torch.no_grad()
def _judged(network: torch.nn.Module, task: Task) -> dict[str, float]:
    x, y = task.test
    found = network(x)
    if task.sides is not None:
        return landed(point_errors(found, y, task.sides))._asdict()
    gap = (found - y).double().square().mean()
    spread = (y - y.mean(0)).double().square().mean()
    return {"rmse": float(gap.sqrt()), "r2": float(1 - gap / spread)}


def _measure(task: Task) -> str:
    return "r2" if task.sides is None else "auc"


def _figures(run: dict[str, Any]) -> str:
    return ", ".join(f"{k} {v:.4f}" for k, v in run.items() if k not in ("arm", "seed"))


def _summed(name: str, runs: list[dict[str, Any]], paired: bool) -> dict[str, Any]:
    """Mean and deviation of an arm, and its gain over plain training by the same seeds."""
    mine = [run for run in runs if run["arm"] == name]
    row: dict[str, Any] = {"arm": name}
    for key in (k for k in mine[0] if k not in ("arm", "seed")):
        values = [run[key] for run in mine]
        row[key] = statistics.fmean(values)
        row[f"{key}_deviation"] = statistics.stdev(values) if len(values) > 1 else None
    if paired and name != "sup":
        key = "r2" if "r2" in row else "auc"
        base = {run["seed"]: run[key] for run in runs if run["arm"] == "sup"}
        gains = [run[key] - base[run["seed"]] for run in mine]
        row["gain"] = statistics.fmean(gains)
        row["better"] = sum(gain > 0 for gain in gains)
    return row


COLUMNS = (
    Column("arm", "Arm"),
    Column("shown_rmse", "RMSE"),
    Column("shown_r2", "R²"),
    Column("shown_cdf", "CDF at 0.1, %"),
    Column("shown_auc", "AUC, %"),
    Column("shown_nrmse", "NRMSE"),
    Column("shown_gain", "Gain on sup"),
    Column("shown_better", "Better"),
)
SHARES = ("cdf", "auc")


def _show(answer: dict[str, Any], task: Task) -> None:
    rows = [_shown(row, answer["seeds"], answer["measure"]) for row in answer["arms"]]
    count = answer["seeds"]
    show(
        f"{task.about}, {answer['labels']} labels, {count} seed{'s' if count > 1 else ''}, "
        f"{answer['epochs']} epochs.",
        table(rows, COLUMNS),
        "Mean ± standard deviation over seeds; the gain is in "
        f"{'R²' if answer['measure'] == 'r2' else 'AUC'}, seed by seed.",
    )


def _shown(row: dict[str, Any], seeds: int, measure: str) -> dict[str, Any]:
    shown = {"arm": row["arm"]}
    for key in ("rmse", "r2", "cdf", "auc", "nrmse"):
        if key in row:
            scale, digits = (100, 2) if key in SHARES else (1, 4)
            spread = row[f"{key}_deviation"]
            beside = "" if spread is None else f" ± {scale * spread:.{digits}f}"
            shown[f"shown_{key}"] = f"{scale * row[key]:.{digits}f}{beside}"
    if "gain" in row:
        scale, digits = (100, 2) if measure in SHARES else (1, 4)
        shown["shown_gain"] = f"{scale * row['gain']:+.{digits}f}"
        shown["shown_better"] = f"{row['better']} of {seeds}"
    return shown


def _listed(rows: list[dict[str, Any]]) -> Any:
    return table(
        rows,
        (Column("arm", "Arm"), Column("tasks", "Tasks"), Column("scale", "Output layer set by")),
    )
