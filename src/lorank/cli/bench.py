"""``lorank bench``: accuracy, size and measured time, side by side."""

from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

import lorank
from lorank.cli import options as opt
from lorank.cli.accuracy import accuracy
from lorank.cli.network import (
    Network,
    Source,
    device,
    fitting,
    is_file,
    model_file,
    network,
    read_shape,
    source,
    warn_if_random,
)
from lorank.cli.show import (
    Column,
    asides,
    count,
    milliseconds,
    note,
    percent,
    precise,
    share,
    show,
    show_json,
    size,
    table,
    times,
)
from lorank.compression.latency import latency
from lorank.errors import LorankError
from lorank.files import read_manifest
from lorank.nn.surgery import sites
from lorank.training.run import DENSE, FOLDED


def bench(
    models: opt.Models,
    batch: Annotated[int, typer.Option(metavar="N", min=1, help="Inputs in one call.")] = 1,
    threads: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="CPU threads; by default as many as torch takes."),
    ] = None,
    repeats: Annotated[int, typer.Option(metavar="N", min=1, help="Timed calls a model.")] = 100,
    warmup: Annotated[int, typer.Option(metavar="N", min=0, help="Calls before these.")] = 10,
    weights: opt.Weights = None,
    option: opt.ModelOption = None,
    spec: opt.Spec = None,
    data: opt.Data = None,
    root: opt.Root = None,
    limit: opt.Limit = None,
    shape: opt.Input = None,
    where: opt.Device = None,
    as_json: opt.Json = False,
) -> None:
    """Compare networks: accuracy, parameters, MACs, bytes and measured latency.

    The first is the reference. They are timed in turns (A B A B …) on one input, so a busy
    machine slows all alike. The folder of a run, given alone, compares its dense network with
    what came out. Fewer MACs are no promise of less time: this is where it shows.

    Examples:
      lorank bench runs/digits --data digits
      lorank bench resnet20 small.safetensors --weights resnet20.th --batch 1 --threads 1
      lorank bench a.safetensors b.safetensors --batch 32 --device cuda --json
    """
    with asides():
        names = _expanded(models)
        given = _common(names, source(weights, spec, option, data, root, shape))
        found = {label: network(text, _for(text, given)) for label, text in names.items()}
        for label, one in found.items():
            warn_if_random(label, one)
        target, first = device(where), next(iter(found.values()))
        example = fitting(_example(found, given, batch), first.model)
        plain = {label: _plain(label, one, example[:1]) for label, one in found.items()}
        rows = [_figures(label, found[label], plain[label], example[:1]) for label in plain]
        for model in plain.values():
            model.to(target)
        timed = latency(plain, example.to(target), repeats=repeats, warmup=warmup, threads=threads)
        for row in rows:
            row |= timed[row["model"]]._asdict()
            if given.data is not None:
                row["accuracy"] = accuracy(plain[row["model"]], given.data, limit=limit)
        answer = {
            "device": _device_name(target),
            "threads": threads or torch.get_num_threads(),
            "batch": batch,
            "input": ",".join(map(str, example.shape[1:])),
            "dtype": _dtype(plain[rows[0]["model"]]),
            "models": [row | _ratios(row, rows[0]) for row in rows],
        }
    show_json(answer) if as_json else _show(answer)


def _expanded(models: list[str]) -> dict[str, str]:
    """Label → what was typed; a run folder alone stands for its two networks."""
    if len(models) == 1 and is_file(models[0]) and Path(models[0]).is_dir():
        run = Path(models[0])
        models = [str(model_file(run, DENSE)), str(model_file(run, FOLDED))]
    labels: dict[str, str] = {}
    for text in models:
        again = sum(known == text for known in labels.values())
        labels[f"{text} ({again + 1})" if again else text] = text
    return labels


def _common(names: dict[str, str], given: Source) -> Source:
    """Let the first file say what input and classes a model by name has, if nobody does."""
    files = [model_file(text) for text in names.values() if is_file(text)]
    if given.weights is not None and len(files) == len(names):
        raise LorankError("--weights are for a model by name, and files have their own")
    if given.shape is not None or not files:
        return given
    info = read_manifest(files[0]).get("info") or {}
    options = {k: info[k] for k in ("in_channels", "classes", "size") if k in info}
    shape = read_shape(info["input"]) if "input" in info else None
    return given._replace(shape=shape, options=options | given.options)


def _for(text: str, given: Source) -> Source:
    """Keep what concerns a file from a name, and the other way round."""
    return given._replace(weights=None) if is_file(text) else given._replace(spec=None)


def _example(found: dict[str, Network], given: Source, batch: int) -> Tensor:
    if given.data is not None:
        images = [given.data.test[i % len(given.data.test)][0] for i in range(batch)]  # type: ignore[arg-type]
        return torch.stack(images)
    shapes = [given.shape, *(one.shape for one in found.values())]
    shape = next((s for s in shapes if s is not None), None)
    if shape is None:
        raise LorankError("timing needs the size of an input: name it with --input or --data")
    return shape.example(batch)


def _plain(label: str, found: Network, example: Tensor) -> torch.nn.Module:
    if any(site.factored for site in sites(found.model)):
        note(f"{label} is in SVD form: it was folded into plain layers first")
        return lorank.fold(found.model, example=example)
    return found.model


def _figures(label: str, found: Network, model: torch.nn.Module, example: Tensor) -> dict[str, Any]:
    cost = lorank.cost(model, example)
    return {
        "model": label,
        "accuracy": None,
        "params": cost.params,
        "macs": cost.macs,
        "memory_bytes": cost.bytes,
        "file_bytes": found.file.stat().st_size if found.file else None,
    }


def _ratios(row: dict[str, Any], first: dict[str, Any]) -> dict[str, Any]:
    return {
        "params_share": share(row["params"], first["params"]),
        "macs_share": share(row["macs"], first["macs"]),
        "speedup": share(first["median"], row["median"]),
    }


def _device_name(target: torch.device) -> str:
    if target.type == "cuda":
        return f"{target} ({torch.cuda.get_device_name(target)})"
    return str(target)


def _dtype(model: torch.nn.Module) -> str:
    names = sorted({str(p.dtype).removeprefix("torch.") for p in model.parameters()})
    return " and ".join(names)


COLUMNS = [
    Column("model", "model"),
    Column("accuracy", "accuracy", precise),
    Column("params", "params", count),
    Column("params_share", "", percent),
    Column("macs", "MACs", count),
    Column("macs_share", "", percent),
    Column("file_bytes", "file", size),
    Column("median", "median ms", milliseconds),
    Column("p95", "p95 ms", milliseconds),
    Column("speedup", "speed", times),
]


def _show(answer: dict[str, Any]) -> None:
    threads = answer["threads"]
    show(
        table(answer["models"], COLUMNS),
        "",
        f"Shares and speed are relative to the first. Timed on {answer['device']}, "
        f"{threads} thread{'' if threads == 1 else 's'}, {answer['dtype']}, "
        f"batch {answer['batch']} of {answer['input']}, {answer['models'][0]['runs']} calls each, "
        "in turns. MACs are for one input.",
    )
