"""``lorank compress --calibrate``: unlabelled inputs say which errors matter."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer
from torch import Tensor, nn

import lorank
from lorank.atomic import replacing
from lorank.cli.network import Network, fitting
from lorank.cli.show import note
from lorank.compression.calibrate import batch_size
from lorank.compression.latency import device_of
from lorank.errors import LorankError, unknown
from lorank.nn.surgery import opened, select, sites
from lorank.ranks import Spectra
from lorank.zoo.samples import load_samples

Calibrate = Annotated[
    str | None,
    typer.Option(
        metavar="DATA",
        help="Unlabelled inputs to cut by: data as in --data, a *.npy file with an input a row, "
        "or for hf: models a *.txt file with a text a line.",
    ),
]
Samples = Annotated[
    int, typer.Option(metavar="N", min=1, help="Inputs of --calibrate that are used.")
]
Reconstruct = Annotated[
    bool,
    typer.Option(
        "--reconstruct/--no-reconstruct",
        help="With --calibrate, where data makes the factors: solve each layer again for what the "
        "cut layers before it give.",
    ),
]
Factors = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="With --calibrate: data makes the factors, too, which is best without training; "
        "weights truncates the weights at the ranks by data, to train on from.",
    ),
]
Sensitivity = Annotated[
    int,
    typer.Option(
        metavar="N",
        min=0,
        help="With --calibrate: try the cut of each layer on N inputs. Tries are kept beside the "
        "output, and an interrupted search goes on.",
    ),
]

SAMPLES = 1000
"""Inputs of ``--calibrate`` that are used, unless said otherwise."""

WALK = 512
"""Inputs of which the walk of ``--reconstruct`` makes use: more have not helped."""

FACTORS = ("data", "weights")


class Options(NamedTuple):
    """What was typed."""

    data: str | None
    root: Path | None
    samples: int
    reconstruct: bool
    sensitivity: int
    factors: str


class Evidence(NamedTuple):
    """Inputs, what they showed, and whether factors go by it, or by the weights alone."""

    batches: list[Any]
    calibration: lorank.Calibration
    reconstruct: bool
    fitted: bool


def check(options: Options) -> None:
    """Refuse options that do not fit together, before anything is loaded.

    Raises:
        LorankError: if there is no such source of factors, or inputs are missing.
    """
    if options.factors not in FACTORS:
        raise unknown("factors", options.factors, FACTORS)
    if options.data is not None:
        return
    if options.sensitivity:
        raise LorankError("--sensitivity needs inputs: name them with --calibrate")
    if options.samples != SAMPLES or not options.reconstruct:
        raise LorankError("--samples and --no-reconstruct are for --calibrate")
    if options.factors != "data":
        raise LorankError("--factors needs inputs that choose the ranks: name --calibrate")


def gather(
    options: Options, model: str, found: Network, target: torch.device, skip: Iterable[str] | None
) -> Evidence | None:
    """Load inputs and calibrate, where that was asked for.

    Raises:
        LorankError: if the inputs cannot be loaded or do not fit.
    """
    if options.data is None:
        return None
    batches = inputs(options, model, found, options.samples)
    dense = found.model.to(target)
    moved = [placed(batch, target) for batch in batches]
    calibration = lorank.calibrate(dense, moved, skip=skip)
    short = [name for name, seen in calibration.items() if seen.rows < seen.inputs.shape[-1]]
    if short:
        note(
            f"{calibration.samples} inputs are few for {len(short)} of {len(calibration)} layers "
            f"(such as {short[0]}), which read more entries than they saw: more give a better cut"
        )
    fitted = options.factors == "data"
    return Evidence(moved, calibration, options.reconstruct and fitted, fitted)


def inputs(options: Options, model: str, found: Network, count: int) -> list[Any]:
    """Load batches of inputs in the dtype of the model."""
    assert options.data is not None
    folder = model.removeprefix("hf:") if Path(model.removeprefix("hf:")).is_dir() else None
    batches = load_samples(options.data, count, root=options.root, tokenizer=folder)
    return [fitting(b, found.model) if isinstance(b, Tensor) else b for b in batches]


def first(batch: Any, count: int = 1) -> Any:
    """First samples of a batch, as a batch.

    Example:
        >>> first({"ids": torch.ones(4, 2)})["ids"].shape
        torch.Size([1, 2])
    """
    if isinstance(batch, Mapping):
        return {key: value[:count] for key, value in batch.items()}
    return batch[:count]


def limited(batches: Iterable[Any], count: int) -> list[Any]:
    """First samples of batches.

    Example:
        >>> [len(x) for x in limited([torch.ones(3), torch.ones(3)], 4)]
        [3, 1]
    """
    some: list[Any] = []
    for batch in batches:
        left = count - sum(map(batch_size, some))
        if left > 0:
            some.append(first(batch, left))
    return some


def placed(batch: Any, target: torch.device) -> Any:
    """A batch on a device."""
    if isinstance(batch, Mapping):
        return {key: value.to(target) for key, value in batch.items()}
    return batch.to(target)


def spectra(
    options: Options,
    evidence: Evidence | None,
    found: Network,
    example: Any,
    *,
    layout: str,
    skip: Iterable[str] | None,
    output: Path,
) -> Spectra:
    """Measure, by the weights alone or by the evidence.

    Raises:
        LorankError: as :func:`lorank.measure` and :func:`lorank.sensitivity`.
    """
    if evidence is None:
        return lorank.measure(found.model.cpu(), example, layout=layout, skip=skip)
    calibration = evidence.calibration
    known = lorank.measure(
        found.model,
        None if example is None else placed(example, device_of(found.model)),
        layout=layout,
        skip=skip,
        calibration=calibration,
    )
    missing = unreached(found.model, evidence, skip)
    if missing:
        note(
            f"{', '.join(missing)}: stays dense, the inputs of --calibrate do not reach it or the "
            "answer does not depend on it"
        )
    return _tried(options, known, evidence, found.model, output)


def made(spectra: Spectra, evidence: Evidence | None, model: nn.Module, example: Any) -> Spectra:
    """Spectra of the factors that a cut truncates: those that ranks go by, or the weights'."""
    if evidence is None or evidence.fitted:
        return spectra
    layouts = {name: found.layout for name, found in spectra.items()}
    return lorank.measure(model, example, layers=list(spectra), layout=layouts)


def cut(
    model: nn.Module, ranks: Mapping[str, int], layouts: Mapping[str, str], evidence: Evidence
) -> nn.Module:
    """Cut by the evidence; the result lies on the CPU."""
    calibration = lorank.Calibration(
        {name: evidence.calibration[name] for name in ranks}, samples=evidence.calibration.samples
    )
    device = next(iter(calibration.values())).inputs.device
    dense = model.to(device)
    known = calibration if evidence.fitted else None
    low = lorank.decompose(dense, ranks, layout=layouts, calibration=known)
    if evidence.reconstruct:
        some = limited(evidence.batches, WALK)
        low = lorank.reconstruct(low, dense, some, calibration=calibration)
    model.cpu()
    return low.cpu()


def unreached(model: nn.Module, evidence: Evidence | None, skip: Iterable[str] | None) -> list[str]:
    """Name the layers that nobody left out, and that no input has reached."""
    if evidence is None:
        return []
    wanted = select(sites(opened(model)), None, skip)
    return [s.name for s in wanted if not s.lookup_only and s.name not in evidence.calibration]


def _tried(
    options: Options, spectra: Spectra, evidence: Evidence, model: nn.Module, output: Path
) -> Spectra:
    """Try the cut of each layer where that was asked for; tries are kept beside the output."""
    if not options.sensitivity:
        return spectra
    some = limited(evidence.batches, options.sensitivity)
    place = output.with_name(f".{output.name}.tries.json")
    mark = _fingerprint(model, some)
    known = _known(place, mark)
    if known:
        note(f"{len(known)} tries were kept from before: {place}")

    def keep(key: str, distance: float) -> None:
        known[key] = distance
        with replacing(place) as draft:
            draft.write_text(json.dumps({"of": mark, "tries": known}))

    found = lorank.sensitivity(
        model, spectra, some, calibration=evidence.calibration, known=dict(known), note=keep
    )
    place.unlink(missing_ok=True)
    return found


def _known(place: Path, mark: str) -> dict[str, float]:
    """Tries of an interrupted search, where they are of the same network and inputs."""
    try:
        kept = json.loads(place.read_text())
        if kept["of"] == mark:
            return {str(key): float(value) for key, value in kept["tries"].items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        pass  # none, or damaged: a search anew costs time and nothing else
    return {}


def _fingerprint(model: nn.Module, batches: list[Any]) -> str:
    digest = hashlib.sha256(lorank.__version__.encode())
    tensors = [*model.state_dict().values()]
    for batch in batches:
        tensors += batch.values() if isinstance(batch, Mapping) else [batch]
    for tensor in tensors:
        if isinstance(tensor, Tensor):
            flat = tensor.detach().cpu().contiguous().flatten()
            digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
