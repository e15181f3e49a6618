"""``torch.export`` programs of folded networks, checked after they are read again.

They are written here and never read: ``torch.export.load`` unpickles what a file holds, and
evaluates its sizes as Python, so a file of somebody else's can run code.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.utils._pytree import tree_leaves

from lorank.atomic import replacing
from lorank.compression.trace import Example, run
from lorank.errors import LorankError
from lorank.files.parity import (
    Open,
    Parity,
    arguments,
    brief,
    cases,
    exporting,
    failed,
    frozen,
    judged,
    on_cpu,
    opened,
    outputs,
    tolerance,
    traced_on,
)

PLAIN = (Tensor, tuple, list, dict)
"""Outputs that a reader without the model's own packages can take apart."""


def export_program(
    model: nn.Module,
    example: Example,
    path: str | Path,
    *,
    dynamic_batch: bool = True,
    dynamic_length: bool = False,
) -> Parity:
    """Write a folded or dense network as a ``torch.export`` program, and check what was written.

    ``torch.export.load(path).module()`` gives the network back, without its source code: in
    Python, or as what ``torch.compile``, AOTInductor and ExecuTorch start from. A copy of the
    model is exported, in evaluation mode on the CPU. The file is read again and run on the
    example and, with open axes, at one other size of each; it appears only if both agree with the
    model to 1000·eps of the largest output entry (20·eps in half precision). It holds neither the
    example, nor a pickle, nor a path of the machine it was made on. An output of a class of its
    own, such as that of Transformers, becomes a tuple of its tensors.

    Args:
        model: a network without layers in SVD form; it is not changed.
        example: what the model is called with: a tensor, a tuple of arguments or a dict of named
            ones.
        path: the file to write, by custom ``*.pt2``.
        dynamic_batch: leave the first axis of every input open; otherwise the file takes the
            example's batch size only.
        dynamic_length: leave the second axis of every input open too, as the length of a
            sequence.

    Returns:
        The errors found.

    Raises:
        LorankError: if a layer is in SVD form, the weights are on the meta device, the model does
            not run on the example or cannot be exported, or the file does not agree with it.

    Cost: a trace, and two forward passes for each of two batch sizes.

    Example:
        >>> import tempfile, lorank
        >>> target = Path(tempfile.mkdtemp()) / "small.pt2"
        >>> low = lorank.decompose(nn.Sequential(nn.Linear(8, 8)), {"0": 2})
        >>> parity = export_program(lorank.fold(low), torch.ones(1, 8), target)
        >>> parity.relative_error < parity.tolerance, parity.batches
        (True, (1, 2))
    """
    plain, example = frozen(model), on_cpu(example)
    with exporting(), replacing(path) as draft:
        open_ = opened(example, batch=dynamic_batch, length=dynamic_length)
        found = cases(plain, example, open_)
        program = _program(_readable(plain, example), traced_on(found, open_), open_)
        _write(program, draft)
        again = _read(draft)
        return judged(
            found,
            lambda x: outputs(again, x),
            tolerance(plain, example),
            open_.rows,
            "the file, read again,",
        )


def _readable(model: nn.Module, example: Example) -> nn.Module:
    """Make a model, our own copy, give a tuple of tensors where its output is of another class."""
    if type(run(model, example)) not in PLAIN:
        forward = model.forward

        @functools.wraps(forward)  # torch.export reads the names of the arguments
        def leaves(*args: Any, **named: Any) -> tuple[Tensor, ...]:
            found: Sequence[Any] = tree_leaves(forward(*args, **named))
            return tuple(x for x in found if isinstance(x, Tensor))

        model.forward = leaves
    return model


def _program(model: nn.Module, example: Example, open_: Open) -> ExportedProgram:
    """Run torch's exporter, and take off what is of this machine: the example, and source paths."""
    args, kwargs = arguments(example)
    # Ranges are inferred: a table of positions ends somewhere. A size that is fixed is an error.
    sizes = dict.fromkeys(open_.names, Dim.DYNAMIC)
    shapes = open_.spec(kwargs or args, sizes) if sizes else None
    try:
        program = torch.export.export(model, args, kwargs, dynamic_shapes=shapes)
    except Exception as error:
        raise failed("torch.export", model, open_, error) from error
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)
    program._example_inputs = None  # type: ignore[assignment] - there is no public way
    return program


def _write(program: ExportedProgram, draft: Path) -> None:
    try:
        with draft.open("wb") as file:
            torch.export.save(program, file)
    except OSError:
        raise
    except Exception as error:
        raise LorankError(f"the program could not be written: {brief(error)}") from error


def _read(draft: Path) -> nn.Module:
    """Read what was just written, and nothing else: see the module's first words."""
    try:
        with draft.open("rb") as file:
            return torch.export.load(file).module()
    except Exception as error:
        raise LorankError(f"torch must read the file again, and failed: {brief(error)}") from error
