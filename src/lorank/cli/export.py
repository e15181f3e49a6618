"""``lorank export``: an ONNX file or a torch.export program, checked."""

from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn

import lorank
from lorank.cli import options as opt
from lorank.cli.network import Network, Source, fitting, network, source, warn_if_random, writable
from lorank.cli.show import asides, note, percent, show, show_json, size
from lorank.errors import LorankError
from lorank.files import Parity, Quantized, export_int8, export_program
from lorank.files import export as write_onnx
from lorank.files.quantized import rows
from lorank.nn.surgery import sites

ENDINGS = {".onnx": "ONNX Runtime", ".pt2": "The program, read again,"}
"""Ending of a file → who is compared with torch."""

JUDGED = 64
"""Inputs that the error of int8 is found on."""

CALIBRATED = 128
"""Training inputs that int8 scales are chosen on."""

CALL = 16
SEED = 0


def export(
    model: opt.Model,
    output: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="File to write, *.onnx or *.pt2.", show_default=False),
    ],
    static: Annotated[
        bool, typer.Option("--static", help="Fix the batch size at 1; by default it stays open.")
    ] = False,
    dynamic_length: Annotated[
        bool,
        typer.Option("--dynamic-length", help="Leave the second axis of the input open as well."),
    ] = False,
    int8: Annotated[
        bool,
        typer.Option("--int8", help="Quantize the ONNX file to int8, and state what that changes."),
    ] = False,
    weights: opt.Weights = None,
    option: opt.ModelOption = None,
    spec: opt.Spec = None,
    data: opt.Data = None,
    root: opt.Root = None,
    shape: opt.Input = None,
    as_json: opt.Json = False,
) -> None:
    """Write a network as ONNX or as a torch.export program, and check it.

    Last step, for servers and devices without torch (*.onnx), or for torch without the network's
    source code (*.pt2). Layers in SVD form are folded into plain ones first: exporters would
    multiply them out, and the saving would be lost. With --int8, name --data for networks with
    convolutions: their scales are then chosen once, on training images.

    Examples:
      lorank export runs/digits digits.onnx
      lorank export small.safetensors small.onnx --int8 --data cifar10:DIR
      lorank export resnet20 dense.pt2 --weights resnet20.th --input 3,32,32
    """
    with asides():
        _check(output, int8)
        given = source(weights, spec, option, data, root, shape)
        found = network(model, given)
        warn_if_random(model, found)
        if found.shape is None:
            raise LorankError("export needs the size of an input: name it with --input or --data")
        example = _example(found, given, JUDGED if int8 and not static else 1)
        folded = any(site.factored for site in sites(found.model))
        if folded:
            note(f"{model} is in SVD form: it was folded into plain layers first")
        plain = lorank.fold(found.model, example=example[:1]) if folded else found.model
        axes = {"dynamic_batch": not static, "dynamic_length": dynamic_length}
        calibration = _calibration(found, given, 1 if static else CALL) if int8 else None
        parity, quantized = _written(plain, example, output, calibration, axes)
        answer = {
            "model": model,
            "file": str(output),
            "file_bytes": output.stat().st_size,
            "input": str(found.shape),
            "folded": folded,
            **axes,
            **parity._asdict(),
            "int8": quantized and quantized._asdict(),
        }
    show_json(answer) if as_json else _show(answer)


def _check(output: Path, int8: bool) -> None:
    """Refuse a file that cannot be written, before any work is done."""
    if output.suffix not in ENDINGS:
        raise LorankError(f"the file to write must end in {' or '.join(ENDINGS)}, found {output}")
    if int8 and output.suffix != ".onnx":
        raise LorankError(f"--int8 is for *.onnx, found {output}")
    writable(output, output.suffix)


def _example(found: Network, given: Source, count: int) -> Tensor:
    """Take real inputs where there are data: that is what the check should be about."""
    if given.data is not None:
        count = min(count, len(given.data.test))  # type: ignore[arg-type]
        images = torch.stack([given.data.test[i][0] for i in range(count)])
        return fitting(images, found.model)
    assert found.shape is not None
    return fitting(found.shape.example(count), found.model)


def _calibration(found: Network, given: Source, count: int) -> list[Tensor]:
    """Draw training inputs, always the same; none where there are no data."""
    if given.data is None:
        note(
            "int8 scales are chosen at each call, and the error is that on random inputs: no --data"
        )
        return []
    train = given.data.train
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(SEED))  # type: ignore[arg-type]
    drawn = torch.stack([train[i][0] for i in order[:CALIBRATED].tolist()])
    return rows(fitting(drawn, found.model), min(count, len(drawn)))


def _written(
    model: nn.Module,
    example: Tensor,
    output: Path,
    calibration: list[Tensor] | None,
    axes: dict[str, Any],
) -> tuple[Parity, Quantized | None]:
    try:
        if calibration is not None:
            return export_int8(model, example, output, calibration=calibration, **axes)
        write = write_onnx if output.suffix == ".onnx" else export_program
        return write(model, example, output, **axes), None
    except LorankError as error:
        said = str(error).replace("dynamic_length=False or ", "no --dynamic-length or ")
        raise type(error)(said.replace("dynamic_batch=False", "--static")) from error


def _show(answer: dict[str, Any]) -> None:
    batches = "any batch" if answer["dynamic_batch"] else "a batch of 1"
    length = ", of any length," if answer["dynamic_length"] else ""
    checked = ENDINGS[Path(answer["file"]).suffix]
    show(
        f"Wrote {answer['file']}, {size(answer['file_bytes'])}, for {batches} of "
        f"{answer['input']}{length}.",
        f"{checked} agrees with torch: largest relative error {answer['relative_error']:.1e} "
        f"(allowed {answer['tolerance']:.1e}).",
        *_quantized(answer["int8"]),
    )


def _quantized(found: dict[str, Any] | None) -> list[str]:
    if found is None:
        return []
    share = percent(found["int8_bytes"] / found["float_bytes"])
    return [
        f"int8, {found['method']}: {found['layers']} layers, {found['float_layers']} stay in "
        f"float; {share} of the float file's {size(found['float_bytes'])}.",
        f"Its outputs are {found['relative_error']:.1e} of their norm away from float, cosine "
        f"{found['cosine']:.4f}.",
    ]
