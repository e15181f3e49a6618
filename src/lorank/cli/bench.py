"""``lorank bench``: accuracy, size and measured time, side by side."""

import math
import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

import lorank
from lorank.cli import options as opt
from lorank.cli.accuracy import accuracy
from lorank.cli.engines import (
    ON_CPU,
    Bench,
    Runner,
    of_file,
    of_network,
    one_input,
    read_engines,
    tensors,
)
from lorank.cli.network import (
    Network,
    Shape,
    Source,
    device,
    disk_bytes,
    fitting,
    is_file,
    is_hub_folder,
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
from lorank.compression.agreement import Compared
from lorank.compression.latency import latency, threads_set
from lorank.errors import LorankError
from lorank.files import read_manifest
from lorank.files.runtime import OnnxModel
from lorank.nn.surgery import sites
from lorank.training.run import DENSE, FOLDED
from lorank.zoo import Data

COMPARED = 256
"""Test inputs on which outputs are compared."""

DRAWN = 16
"""As many inputs are drawn at random, where there are no data."""

CALIBRATED = 128
"""Training inputs on which int8 scales are chosen."""

CHUNK = 64
SEED = 0

EXPORTED = (".onnx", ".pt2")

Entry = Network | Path
"""A network for torch, or an ONNX file."""


def bench(
    models: opt.Models,
    batch: Annotated[int, typer.Option(metavar="N", min=1, help="Inputs in one call.")] = 1,
    engine: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="What runs the networks: eager, compiled (torch.compile), onnx (ONNX Runtime) or "
            "int8 (ONNX Runtime, quantized); may be repeated. By default eager.",
        ),
    ] = None,
    channels_last: Annotated[
        bool, typer.Option("--channels-last", help="Keep images with channels last, in torch.")
    ] = False,
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
    """Compare networks: accuracy, output error, parameters, MACs, bytes and measured latency.

    The first is the reference. They are timed in turns (A B A B …) on one input, so a busy
    machine slows all alike; with several engines, each network is timed on each. The output error
    needs no labels. A MODEL may also be an *.onnx file. The folder of a run, given alone, compares
    its dense network with what came out. Fewer MACs are no promise of less time: this is where it
    shows.

    Examples:
      lorank bench runs/digits --data digits
      lorank bench resnet20 small.safetensors --weights resnet20.th --batch 1 --threads 1
      lorank bench a.safetensors b.safetensors --engine eager --engine onnx --engine int8
      lorank bench small.onnx small-int8.onnx --batch 32 --json
    """
    with asides(), ExitStack() as stack:
        engines = read_engines(engine)
        names = _expanded(models)
        given = _common(names, source(weights, spec, option, data, root, shape))
        found = {label: _entry(text, given) for label, text in names.items()}
        stack.enter_context(threads_set(threads))
        target = _target(where, engines, found)
        example = _example(found, given, batch)
        plain = {k: _plain(k, x, example[:1]) for k, x in found.items() if isinstance(x, Network)}
        rows = {k: _figures(k, x, plain.get(k), example[:1]) for k, x in found.items()}
        made = Bench(
            engines,
            example.to(target),
            _inputs(example, given.data, limit),
            _calibration(given.data) if "int8" in engines else None,
            Path(stack.enter_context(tempfile.TemporaryDirectory())),
            _images(channels_last, example),
        )
        runners = _runners(found, plain, made)
        answers = [rows[label] | _facts(runner) for label, runner in runners]
        _compare(answers, [runner for _, runner in runners], made)
        calls = _calls(runners, made)
        timed = latency(calls, (), repeats=repeats, warmup=warmup, device=target)
        for row, (_, runner), spent in zip(answers, runners, timed.values(), strict=True):
            row |= spent._asdict()
            if given.data is not None:
                row["accuracy"] = accuracy(runner, given.data, limit=limit)
        answer = {
            "device": _device_name(target),
            "threads": torch.get_num_threads(),
            "batch": batch,
            "input": ",".join(map(str, example.shape[1:])),
            "dtype": _dtype(runners[0][1], example),
            "compared": len(made.inputs),
            "channels_last": channels_last,
            "models": [row | _ratios(row, answers[0]) for row in answers],
        }
    show_json(answer) if as_json else _show(answer)


def _entry(text: str, given: Source) -> Entry:
    """Find the network, or the ONNX file, that a person named.

    Raises:
        LorankError: if there is none, or it is of a kind that is not read.
    """
    path = Path(text)
    if path.suffix == ".pt2":
        raise LorankError(
            f"{text} is not read: torch.export.load unpickles what a file holds, which can run "
            "code; name the network that it was exported from, or its *.onnx"
        )
    if path.suffix == ".onnx":
        if not path.is_file():
            raise LorankError(f"there is no ONNX file {text}")
        return path
    found = network(text, _for(text, given))
    warn_if_random(text, found)
    return found


def _target(name: str | None, engines: tuple[str, ...], found: dict[str, Entry]) -> torch.device:
    """Choose the device; ONNX Runtime is timed on the CPU."""
    runtime = bool(set(ON_CPU) & set(engines)) or any(isinstance(x, Path) for x in found.values())
    target = device("cpu" if runtime and name is None else name)
    if runtime and target.type != "cpu":
        raise LorankError(f"ONNX Runtime is timed on the CPU here, found --device {name}")
    return target


def _expanded(models: list[str]) -> dict[str, str]:
    """Label → what was typed; a run folder alone stands for its two networks."""
    if len(models) == 1 and _is_run(models[0]):
        run = Path(models[0])
        models = [str(model_file(run, DENSE)), str(model_file(run, FOLDED))]
    labels: dict[str, str] = {}
    for text in models:
        again = sum(known == text for known in labels.values())
        labels[f"{text} ({again + 1})" if again else text] = text
    return labels


def _is_run(text: str) -> bool:
    return not is_hub_folder(text) and is_file(text) and Path(text).is_dir()


def _common(names: dict[str, str], given: Source) -> Source:
    """Let the first file say what input and classes a model by name has, if nobody does."""
    texts = [text for text in names.values() if Path(text).suffix not in EXPORTED]
    files = [model_file(text) for text in texts if not is_hub_folder(text) and is_file(text)]
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


def _example(found: dict[str, Entry], given: Source, batch: int) -> Tensor:
    if given.data is not None:
        return _first(given.data, batch)
    known = (x.shape for x in found.values() if isinstance(x, Network))
    shape = next((s for s in (given.shape, *known) if s is not None), None)
    if shape is None:
        shape = next((_size(x) for x in found.values() if isinstance(x, Path)), None)
    if shape is None:
        raise LorankError("timing needs the size of an input: name it with --input or --data")
    return shape.example(batch)


def _size(path: Path) -> Shape:
    return one_input(OnnxModel(path), path)


def _first(data: Data, batch: int) -> Tensor:
    return torch.stack([data.test[i % len(data.test)][0] for i in range(batch)])  # type: ignore[arg-type]


def _inputs(example: Tensor, data: Data | None, limit: int | None) -> Tensor:
    """Choose the inputs on which outputs are compared: the first test data, or drawn ones."""
    if data is not None:
        size = min(limit or COMPARED, COMPARED, len(data.test))  # type: ignore[arg-type]
        return _first(data, size)
    whole = not example.is_floating_point()
    return Shape(tuple(example.shape[1:]), whole).example(max(DRAWN, len(example)))


def _calibration(data: Data | None) -> Tensor | None:
    """Draw training data that int8 scales are chosen on, always the same."""
    if data is None:
        note("int8 scales are chosen at each call: with --data they are chosen once, before")
        return None
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(SEED))  # type: ignore[arg-type]
    return torch.stack([data.train[i][0] for i in order[:CALIBRATED].tolist()])


def _images(channels_last: bool, example: Tensor) -> bool:
    if channels_last and example.ndim != 4:
        raise LorankError(
            f"--channels-last is for images, found an input of {example.ndim - 1} axes"
        )
    return channels_last


def _plain(label: str, found: Network, example: Tensor) -> torch.nn.Module:
    if any(site.factored for site in sites(found.model)):
        note(f"{label} is in SVD form: it was folded into plain layers first")
        return lorank.fold(found.model, example=fitting(example, found.model))
    return found.model


def _figures(
    label: str, found: Entry, model: torch.nn.Module | None, example: Tensor
) -> dict[str, Any]:
    row: dict[str, Any] = {"model": label, "engine": None, "accuracy": None}
    if model is None:  # an ONNX file
        return row | dict.fromkeys(("params", "macs", "memory_bytes", "file_bytes"))
    cost = lorank.cost(model, fitting(example, model))
    file = found.file if isinstance(found, Network) else None
    return row | {
        "params": cost.params,
        "macs": cost.macs,
        "memory_bytes": cost.bytes,
        "file_bytes": disk_bytes(file) if file else None,
    }


def _runners(
    found: dict[str, Entry], plain: dict[str, torch.nn.Module], made: Bench
) -> list[tuple[str, Runner]]:
    """Put each network on each engine, in the order typed."""
    pairs = []
    for label, entry in found.items():
        path = isinstance(entry, Path)
        made_of = of_file(label, entry, made) if path else of_network(label, plain[label], made)
        pairs += [(label, runner.eval()) for runner in made_of]
    return pairs


def _facts(runner: Runner) -> dict[str, Any]:
    empty = dict.fromkeys(("relative_error", "max_error", "cosine", "compile_seconds", "int8"))
    return empty | {"engine": runner.engine} | runner.facts


@torch.inference_mode()
def _compare(answers: list[dict[str, Any]], runners: list[Runner], made: Bench) -> None:
    """Add to each row how far its outputs are from the first one's."""
    compared = [Compared() for _ in runners]
    for part in made.inputs.to(made.example.device).split(CHUNK):
        expected, *others = (
            tensors(_output(r, row, part)) for r, row in zip(runners, answers, strict=True)
        )
        for one, found in zip(compared[1:], others, strict=True):
            if [y.shape for y in found] != [y.shape for y in expected]:
                note("outputs of different shapes have no error")
                return
            one.add(expected, found)
    for row, one in zip(answers[1:], compared[1:], strict=True):
        figures = one.agreement()._asdict()
        row |= {key: x if math.isfinite(x) else None for key, x in figures.items()}


def _output(runner: Runner, row: dict[str, Any], inputs: Tensor) -> Any:
    try:
        return runner(inputs)
    except LorankError:
        raise
    except Exception as error:
        raise LorankError(
            f"{row['model']} does not run on {len(inputs)} inputs at a time: {error}"
        ) from error


def _calls(runners: list[tuple[str, Runner]], made: Bench) -> dict[str, Any]:
    """Calls to time, each with an input of the form that its engine takes."""
    calls: dict[str, Any] = {}
    for label, runner in runners:
        if runner.batch not in (None, len(made.example)):
            raise LorankError(
                f"{label} takes {runner.batch} inputs at a time, found --batch {len(made.example)}"
            )
        calls[f"{label} on {runner.engine}"] = partial(runner.call, runner.take(made.example))
    return calls


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


def _dtype(runner: Runner, example: Tensor) -> str:
    dtypes = {p.dtype for p in runner.parameters()} or {runner.take(example).dtype}
    return " and ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))


def _error(value: float) -> str:
    return f"{value:.1e}"


def _cosine(value: float) -> str:
    return f"{value:.4f}"


def _seconds(value: float) -> str:
    return f"{value:.1f}"


COLUMNS = [
    Column("model", "model"),
    Column("engine", "engine"),
    Column("accuracy", "accuracy", precise),
    Column("relative_error", "output error", _error),
    Column("max_error", "largest", _error),
    Column("cosine", "cosine", _cosine),
    Column("params", "params", count),
    Column("params_share", "", percent),
    Column("macs", "MACs", count),
    Column("macs_share", "", percent),
    Column("file_bytes", "file", size),
    Column("median", "median ms", milliseconds),
    Column("p95", "p95 ms", milliseconds),
    Column("speedup", "speed", times),
    Column("compile_seconds", "compiling s", _seconds),
]


def _show(answer: dict[str, Any]) -> None:
    threads, rows = answer["threads"], answer["models"]
    engines = {row["engine"] for row in rows}
    labelled = any(row["accuracy"] is not None for row in rows)
    hidden = ({"engine"} if engines == {"eager"} else set()) | (
        {"max_error", "cosine"} if labelled else set()
    )
    show(
        table(rows, [column for column in COLUMNS if column.key not in hidden]),
        "",
        f"Shares and speed are relative to the first. Timed on {answer['device']}, "
        f"{threads} thread{'' if threads == 1 else 's'}, {answer['dtype']}, "
        f"batch {answer['batch']} of {answer['input']}, {rows[0]['runs']} calls each, "
        "in turns. MACs are for one input.",
        *_footnotes(answer),
    )


def _footnotes(answer: dict[str, Any]) -> list[str]:
    rows, found = answer["models"], []
    if any(row["relative_error"] is not None for row in rows):
        found.append(
            "Output error: ‖z − y‖ / ‖y‖ of the outputs z against the first one's y, on "
            f"{answer['compared']} inputs."
        )
    ways = sorted({row["int8"] for row in rows if row["int8"]})
    if ways:
        found.append(f"int8: {' and '.join(ways)} quantization by ONNX Runtime.")
    return found
