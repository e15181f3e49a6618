"""``lorank compress``: measure, choose and apply, without training."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import nn

import lorank
from lorank.cli import calibration, clock
from lorank.cli import options as opt
from lorank.cli.accuracy import accuracy
from lorank.cli.figures import LAYERS, compared, figures, layer_shares, reached
from lorank.cli.network import (
    Network,
    device,
    disk_bytes,
    fitting,
    network,
    source,
    warn_if_random,
    writable,
)
from lorank.cli.record import Option as RecordOption
from lorank.cli.record import check_place, origin, write_record
from lorank.cli.shards import choice, compress_shards, is_folder_job, local, new_folder
from lorank.cli.show import (
    Column,
    asides,
    note,
    show,
    show_json,
    size,
    table,
)
from lorank.errors import LorankError
from lorank.ranks import Spectra
from lorank.report import cut_rows, skipped_rows
from lorank.training.batches import as_trained, training_batches
from lorank.zoo import Data

BATCH = 128


def compress(
    context: typer.Context,
    model: opt.Model,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="File to write, *.safetensors; for hf:FOLDER also a new folder.",
        ),
    ],
    macs: Annotated[
        float | None,
        typer.Option(parser=opt.amount, metavar="BUDGET", help="MACs to keep: 0.5, or a count."),
    ] = None,
    params: Annotated[
        float | None,
        typer.Option(
            parser=opt.amount, metavar="BUDGET", help="Parameters to keep: 0.5, or a count."
        ),
    ] = None,
    memory: Annotated[
        float | None,
        typer.Option(
            "--bytes", parser=opt.amount, metavar="BUDGET", help="Memory to keep: 0.5, or a count."
        ),
    ] = None,
    latency: clock.Latency = None,
    rule: Annotated[
        str | None,
        typer.Option(
            metavar="NAME:VALUE",
            help="A rule for each layer instead of a budget: energy:0.95, threshold:0.05, "
            "stable_rank:2, effective_rank, gavish_donoho, optimal_shrinkage, evbmf, csp.",
        ),
    ] = None,
    layout: opt.Layout = "auto",
    multiple: Annotated[
        int | None,
        typer.Option(metavar="N", help="Ranks are multiples of N; 8 for --latency, otherwise 1."),
    ] = None,
    batch: clock.Batch = None,
    threads: clock.Threads = None,
    channels_last: clock.ChannelsLast = False,
    skip: opt.Skip = None,
    calibrate: calibration.Calibrate = None,
    samples: calibration.Samples = calibration.SAMPLES,
    factors: calibration.Factors = "data",
    reconstruct: calibration.Reconstruct = True,
    sensitivity: calibration.Sensitivity = 0,
    recalibrate: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=0,
            help="Training batches that estimate BatchNorm statistics anew; they need --data.",
        ),
    ] = 0,
    augment: Annotated[
        bool,
        typer.Option(
            "--augment",
            help="Crop, pad and mirror these batches, as the data's training does.",
        ),
    ] = False,
    weights: opt.Weights = None,
    option: opt.ModelOption = None,
    spec: opt.Spec = None,
    data: opt.Data = None,
    root: opt.Root = None,
    limit: opt.Limit = None,
    shape: opt.Input = None,
    where: opt.Device = None,
    record: RecordOption = None,
    as_json: opt.Json = False,
) -> None:
    """Make a trained network smaller without training: measure, choose ranks, cut, save.

    For when there is no time or data to train, or to see what training would have to win back.
    Give one target: --macs, --params, --bytes, --latency or --rule. With --data the accuracy
    before and after is shown, and --recalibrate repairs BatchNorm, which a cut upsets. --latency
    is measured on this device, and refused before anything is cut where it cannot be had.

    --calibrate cuts by what unlabelled inputs show to matter, and loses a fraction of what a cut
    by the weights alone loses. --factors weights keeps its ranks and truncates the weights: a
    lower start, from which epochs of training led further.

    Examples:
      lorank compress resnet20 --weights r.th --macs 0.5 --calibrate cifar10:FOLDER -o s.safetensors
      lorank compress runs/digits/dense.safetensors --macs 0.5 --data digits -o b.safetensors
      lorank compress resnet56 --weights r.th --latency 0.7 --batch 32 --threads 2 -o e.safetensors
      lorank compress hf:FOLDER --macs 0.6 --calibrate texts.txt -o SMALL_FOLDER
    """
    folder = is_folder_job(model, output)
    if folder and calibrate is None:
        ran = {"--data": data, "--weights": weights, "--recalibrate": recalibrate, "--input": shape}
        ran |= {"--latency": latency, "--batch": batch, "--threads": threads}
        ran |= {"--record": record, "--bytes": memory, "--sensitivity": sensitivity}
        ran |= {"--samples": samples != calibration.SAMPLES, "--no-reconstruct": not reconstruct}
        ran |= {"--channels-last": channels_last, "--model": spec, "--option": option}
        ran |= {"--augment": augment, "--factors": factors != "data"}
        asked = _asked(macs=macs, params=params, bytes=memory, latency=latency, rule=rule)
        settings = {"multiple": 1 if multiple is None else multiple, "layout": layout}
        compress_shards(model, output, asked, **settings, skip=skip, as_json=as_json, unused=ran)
        return
    with asides():
        asked = _asked(macs=macs, params=params, bytes=memory, latency=latency, rule=rule)
        setting = clock.Clock(batch, threads, channels_last)
        new_folder(output) if folder else writable(output, ".safetensors")
        check_place(record, output)
        given = source(weights, spec, option, data, root, shape)
        if augment and not recalibrate:
            raise LorankError("--augment changes the batches of --recalibrate, which is not given")
        if recalibrate and given.data is None:
            raise LorankError("--recalibrate needs training batches: name them with --data")
        asked_for = calibration.Options(calibrate, root, samples, reconstruct, sensitivity, factors)
        calibration.check(asked_for)
        found = _cuttable(network(local(model) if folder else model, given))
        warn_if_random(model, found)
        setting.check(found, latency is not None)
        dense, target = found.model.to(device(where)), device(where)
        before = None if given.data is None else accuracy(dense, given.data, limit=limit)
        evidence = calibration.gather(asked_for, model, found, target, skip)
        example = found.example()
        if example is None and evidence is not None:
            few = calibration.first(evidence.batches[0])
            example = calibration.placed(few, torch.device("cpu"))  # where costs are counted
        spectra = calibration.spectra(
            asked_for, evidence, found, example, layout=layout, skip=skip, output=output
        )
        if multiple is None:
            multiple = clock.MULTIPLE if latency is not None else 1
        plan = None
        if latency is not None:
            plan = setting.plan(found, spectra, latency, multiple, target)
            spectra = plan.spectra
        dense = dense.cpu()
        ranks = _ranks(spectra, asked, multiple) if plan is None else clock.full(plan)
        rows = cut_rows(calibration.made(spectra, evidence, dense, example), ranks)
        small = _cut(found, spectra, rows, example, evidence)
        after = None
        if given.data is not None:
            if recalibrate:
                lorank.recalibrate(
                    small.to(target), _batches(given.data, recalibrate, augment, small)
                )
            after = accuracy(small.to(target), given.data, limit=limit)
        lorank.save(small.cpu(), output, info=found.info)
        if all(row["stays_dense"] for row in rows):
            note("every layer stays dense: no rank that was chosen saves anything")
        if found.layers and lorank.cost(small) == lorank.cost(dense):
            note(
                "nothing was cut: a budget is a share of the dense network, and this network, cut "
                "before, is within it"
            )
        answer = {
            "model": model,
            "file": str(output),
            "asked": {"target": asked[0], "value": asked[1]},
            "before": figures(lorank.cost(dense, example), before),
            "after": figures(lorank.cost(small, example), after),
            "file_bytes": disk_bytes(output),
            "layers": rows,
            "skipped": skipped_rows(dense, spectra, calibration.unreached(dense, evidence, skip)),
        }
        if evidence is not None:
            answer["factors"] = factors
        if plan is not None:
            answer["latency"] = setting.answer(plan, found, small, target)
        write_record(record, answer, spectra, found, origin(context))
    show_json(answer) if as_json else _show(answer)


def _asked(**given: Any) -> tuple[str, Any]:
    named = [(name, value) for name, value in given.items() if value is not None]
    if len(named) != 1:
        words = " and ".join(f"--{name}" for name, _ in named) or "none"
        every = ", ".join(f"--{name}" for name in given)
        raise LorankError(f"give one of {every}, found {words}")
    return named[0]


def _cuttable(found: Network) -> Network:
    """Refuse a network that was cut and folded before; one in SVD form can be cut further."""
    if any(entry["form"] == "pair" for entry in found.layers.values()):
        raise LorankError(
            f"{found.file} was cut before: compress the dense network, or the one in SVD form "
            "(svd.safetensors of a run)"
        )
    return found


def _ranks(spectra: Spectra, asked: tuple[str, Any], multiple: int) -> dict[str, int]:
    """Choose ranks, never above what the factors have."""
    if asked[0] == "macs" and spectra.macs is None:
        raise LorankError("--macs needs the size of an input: name it with --input or --data")
    chosen = choice(asked, multiple)(spectra)
    return {layer: min(r, spectra[layer].values.shape[-1]) for layer, r in chosen.items()}


def _cut(
    found: Network,
    spectra: Spectra,
    rows: list[dict[str, Any]],
    example: Any,
    evidence: calibration.Evidence | None,
) -> nn.Module:
    """Cut where it pays, and give plain layers back; what stays dense keeps its weights."""
    ranks = {row["layer"]: row["rank"] for row in rows if row["stays_dense"] is None}
    if found.layers:
        known = evidence.calibration if evidence is not None and evidence.fitted else None
        low = lorank.prune(found.model, ranks, calibration=known)
        return lorank.fold(low.cpu(), example=example)
    if not ranks:
        return lorank.fold(found.model)
    layouts = {name: spectra[name].layout for name in ranks}
    if evidence is None:
        low = lorank.decompose(found.model, ranks, layout=layouts)
    else:
        low = calibration.cut(found.model, ranks, layouts, evidence)
    return lorank.fold(low, example=example)


def _batches(data: Data, count: int, augment: bool, model: nn.Module) -> Iterator[Any]:
    batches = itertools.islice(training_batches(data, BATCH, seed=0, workers=0), count)
    images = as_trained((images for images, _ in batches), data.augment if augment else None)
    return (fitting(batch, model) for batch in images)


SKIPPED = [Column("layer", "stays dense"), Column("kind", "kind"), Column("reason", "why")]


def _show(answer: dict[str, Any]) -> None:
    before, after, asked = answer["before"], answer["after"], answer["asked"]
    show(table([row | layer_shares(row) for row in answer["layers"]], LAYERS), "")
    if answer["skipped"]:
        show(table(answer["skipped"], SKIPPED), "")
    show(
        compared(before, after, ("before", "after")),
        "",
        f"Asked: {asked['target']} {asked['value']}. Reached: {reached(before, after)}.",
        *([clock.in_words(answer["latency"])] if "latency" in answer else []),
        f"Wrote {answer['file']}, {size(answer['file_bytes'])}.",
    )
