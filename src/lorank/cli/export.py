"""``lorank export``: an ONNX file, checked."""

from pathlib import Path
from typing import Annotated, Any

import typer
from torch import Tensor, nn

import lorank
from lorank.cli import options as opt
from lorank.cli.network import Network, Source, fitting, network, source, warn_if_random, writable
from lorank.cli.show import asides, note, show, show_json, size
from lorank.errors import LorankError
from lorank.files import Parity
from lorank.files import export as write_onnx
from lorank.nn.surgery import sites


def export(
    model: opt.Model,
    output: Annotated[
        Path, typer.Argument(metavar="FILE", help="File to write, *.onnx.", show_default=False)
    ],
    static: Annotated[
        bool, typer.Option("--static", help="Fix the batch size at 1; by default it stays open.")
    ] = False,
    weights: opt.Weights = None,
    option: opt.ModelOption = None,
    spec: opt.Spec = None,
    data: opt.Data = None,
    root: opt.Root = None,
    shape: opt.Input = None,
    as_json: opt.Json = False,
) -> None:
    """Write a network as ONNX, and check it against ONNX Runtime.

    Last step, for servers and devices without torch. Layers in SVD form are folded into plain
    ones first: exporters would multiply them out, and the saving would be lost.

    Examples:
      lorank export runs/digits digits.onnx
      lorank export small.safetensors small.onnx --static
      lorank export resnet20 dense.onnx --weights resnet20.th --input 3,32,32
    """
    with asides():
        writable(output, ".onnx")
        given = source(weights, spec, option, data, root, shape)
        found = network(model, given)
        warn_if_random(model, found)
        if found.shape is None:
            raise LorankError("export needs the size of an input: name it with --input or --data")
        example = _example(found, given)
        folded = any(site.factored for site in sites(found.model))
        if folded:
            note(f"{model} is in SVD form: it was folded into plain layers first")
        plain = lorank.fold(found.model, example=example) if folded else found.model
        parity = _written(plain, example, output, static)
        answer = {
            "model": model,
            "file": str(output),
            "file_bytes": output.stat().st_size,
            "input": str(found.shape),
            "folded": folded,
            "dynamic_batch": not static,
            **parity._asdict(),
        }
    show_json(answer) if as_json else _show(answer)


def _example(found: Network, given: Source) -> Tensor:
    """Take a real input where there is data: that is what the check should be about."""
    if given.data is not None:
        return fitting(given.data.test[0][0].unsqueeze(0), found.model)
    example = found.example()
    assert example is not None
    return example


def _written(model: nn.Module, example: Tensor, output: Path, static: bool) -> Parity:
    try:
        return write_onnx(model, example, output, dynamic_batch=not static)
    except LorankError as error:
        raise LorankError(str(error).replace("pass dynamic_batch=False", "--static")) from error


def _show(answer: dict[str, Any]) -> None:
    batches = "any batch" if answer["dynamic_batch"] else "a batch of 1"
    show(
        f"Wrote {answer['file']}, {size(answer['file_bytes'])}, for {batches} of "
        f"{answer['input']}.",
        f"ONNX Runtime agrees with torch: largest relative error {answer['relative_error']:.1e} "
        f"(allowed {answer['tolerance']:.1e}).",
    )
