"""Layers of a network that run one after another, forwards and transposed."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lorank.errors import LorankError
from lorank.linalg.precision import exact
from lorank.nn import Factored, Pair, Tap
from lorank.nn.adjoint import has_transpose, transpose_apply
from lorank.nn.tap import layer_at
from lorank.penalties.precision import at_least_float32

Link = str | nn.Module | Callable[[Tensor], Tensor]
"""A layer by its path, the layer itself, or a function such as ``torch.tanh``."""


class Chain:
    """Consecutive steps of a network: linear layers, and what lies between them.

    Args:
        links: paths, layers or functions in the order in which they run; a sequence stands for
            what is in it.
        model: where paths start from; not needed without paths.

    Raises:
        LorankError: if a path leads nowhere, no link is a linear layer, a link is no function, or
            one has linear layers inside without being a sequence.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
        >>> chain = Chain(["0", "1"], model)
        >>> chain(torch.ones(2, 4)).shape, chain.transposed(torch.ones(2, 3), [None]).shape
        (torch.Size([2, 3]), torch.Size([2, 4]))
    """

    def __init__(self, links: Sequence[Link], model: nn.Module | None = None):
        self.names = [link for link in links if isinstance(link, str)]
        found = [_found(link, model) for link in links]
        self.named = [(n, step) for n, step in zip(links, found, strict=True) if isinstance(n, str)]
        self.steps: list[Any] = [step for whole in found for step in _opened(whole)]
        self.layers: list[Any] = [step for step in self.steps if has_transpose(step)]
        if not self.layers:
            kinds = ", ".join(type(step).__name__ for step in self.steps) or "nothing"
            raise LorankError(f"a task needs at least one linear layer, found {kinds}")

    def __call__(self, x: Tensor) -> Tensor:
        """Run the steps in order."""
        for step in self.steps:
            x = step(x)
        return x

    def transposed(
        self,
        h: Tensor,
        biases: Sequence[Tensor | None],
        shapes: Sequence[Any] | None = None,
        own: Sequence[Any] | None = None,
    ) -> Tensor:
        """Run backwards: each linear layer transposed, activations between them as they are.

        Steps before the first linear layer and after the last are left out: they belong to the
        ends, where a reconstruction or a label is. Normalisation and dropout are left out too.

        Args:
            h: what the last linear layer's side gives.
            biases: one for each linear layer in the order of the chain, or None.
            shapes: of every step's input, as :meth:`watched` gives them.
            own: layers to use in place of the transposes, with biases of their own.
        """
        left = len(self.layers)
        for place in reversed(range(len(self.steps))):
            step = self.steps[place]
            if has_transpose(step):
                left -= 1
                if own is not None:
                    h = own[left](h)
                    continue
                maps = shapes[place][1:] if shapes and _channels(step) is not None else None
                h = _with_bias(transpose_apply(step, h, maps), biases[left], step)
            elif left == len(self.layers):
                h = _unflattened(step, h, shapes[place] if shapes else None)
            elif left:
                h = _mirrored(step, h, shapes[place] if shapes else None)
        return h

    def check_current(self, model: nn.Module) -> None:
        """Insist that the paths still lead to these layers.

        Raises:
            LorankError: if surgery has put another layer in a place since.
        """
        for name, step in self.named:
            if _now_at(model, name) is not step:
                raise LorankError(
                    f"the layer {name!r} has been replaced since the task was bound to it: "
                    "make tasks and optimizer anew after surgery"
                )

    def watched(self, x: Tensor) -> tuple[Tensor, list[Any]]:
        """Run the steps, and note the shape of each one's input, without the batch."""
        found: list[Any] = []
        for step in self.steps:
            found.append(tuple(x.shape[1:]))
            x = step(x)
        return x, found

    def parameters(self) -> list[nn.Parameter]:
        """What the steps are made of, each once."""
        modules = [step for step in self.steps if isinstance(step, nn.Module)]
        return list({id(p): p for module in modules for p in module.parameters()}.values())

    def squared_norm(self) -> Tensor:
        """``Σ ‖W‖_F²`` of the linear layers, at low-rank cost where they are in SVD form."""
        return torch.stack([squared_norm(layer) for layer in self.layers]).sum()


def _opened(step: Any) -> list[Any]:
    """What a sequence consists of; other steps as they are."""
    if has_transpose(step) or not isinstance(step, nn.Module):
        return [step]
    if isinstance(step, nn.Sequential):
        return [inner for part in step for inner in _opened(part)]
    if any(has_transpose(inner) for inner in step.modules()):
        raise LorankError(
            f"a task goes back through single layers, and {type(step).__name__} has several "
            "inside: name those that run one after another"
        )
    return [step]


def _now_at(model: nn.Module, name: str) -> nn.Module | None:
    try:
        return model.get_submodule(name)
    except AttributeError:
        return None


def _mirrored(step: Any, h: Tensor, shape: tuple[int, ...] | None) -> Tensor:
    """What a step between two linear layers does on the way back."""
    if isinstance(step, nn.Flatten):
        return h if shape is None else h.reshape(len(h), *shape)
    if _left_out(step):
        return h
    changed = step(h)
    if changed.shape != h.shape:
        raise _shape_changed(step)
    return changed


def _left_out(step: Any) -> bool:
    """Whether it is normalisation or dropout: of the activations only PReLU has parameters."""
    if not isinstance(step, nn.Module) or isinstance(step, nn.PReLU):
        return False
    if isinstance(step, nn.modules.dropout._DropoutNd):
        return True
    return any(True for _ in step.parameters()) or any(True for _ in step.buffers())


def _unflattened(step: Any, h: Tensor, shape: tuple[int, ...] | None) -> Tensor:
    """Before the last linear layer: only the shape is brought back."""
    if shape is None or tuple(h.shape[1:]) == shape:
        return h
    if not isinstance(step, nn.Flatten):
        raise _shape_changed(step)
    return h.reshape(len(h), *shape)


def _shape_changed(step: Any) -> LorankError:
    return LorankError(
        "what lies between the layers of a task, and after them, is undone on the way back, and "
        f"{getattr(step, '__name__', type(step).__name__)} changes the shape: "
        "use layers on one side of it"
    )


def _found(link: Link, model: nn.Module | None) -> Any:
    if isinstance(link, str):
        if model is None:
            raise LorankError(f"the path {link!r} needs a model to start from: give the layer")
        return layer_at(model, link)
    if not callable(link):
        raise LorankError(f"a task's layers are paths, layers or functions, found {link!r}")
    return link


def sides(layer: Any) -> tuple[int, int]:
    """Numbers or channels that a linear layer gives and reads.

    Example:
        >>> sides(nn.Linear(4, 3))
        (3, 4)
    """
    if isinstance(layer, Pair) or hasattr(layer, "in_features") or hasattr(layer, "in_channels"):
        channels = _channels(layer)
        return channels or (int(layer.out_features), int(layer.in_features))
    return int(layer.nf), int(layer.weight.shape[0])  # the linear layer of the GPT-2 family


def _channels(layer: Any) -> tuple[int, int] | None:
    """Channels on both sides of a convolution; None for other layers."""
    if not hasattr(layer, "in_channels"):
        return None
    return int(layer.out_channels), int(layer.in_channels)


def _with_bias(h: Tensor, bias: Tensor | None, layer: Any) -> Tensor:
    if bias is None:
        return h
    bias = bias.to(h.dtype)
    return h + (bias if _channels(layer) is None else bias.view(-1, *[1] * (h.ndim - 2)))


def squared_norm(layer: Any) -> Tensor:
    """``‖W‖_F²`` of a layer, in float32 at least; in SVD form from two r×r Gram matrices.

    Cost: ``r²·(m + n)`` for ``U (m, r)`` and ``Vh (r, n)``.

    Example:
        >>> import lorank
        >>> dense = nn.Linear(6, 4)
        >>> norms = squared_norm(dense), squared_norm(lorank.decompose(dense))
        >>> bool(torch.isclose(*norms, rtol=1e-4))
        True
    """
    if not isinstance(layer, Factored) or layer.U.ndim != 2:
        weight = layer.weight
        with exact(weight.device):
            return at_least_float32(weight + 0).square().sum()
    with exact(layer.U.device):
        U, s, Vh = (at_least_float32(factor) for factor in layer.factors)
        left, right = U * s, Vh
        return ((left.mT @ left) * (right @ right.mT)).sum()


def check_runs_first(chain: Chain, model: nn.Module, x: Tensor) -> None:
    """Insist that a chain is what the model does first: its named end gives the same.

    Raises:
        LorankError: if the model's own layer gives something else on ``x``.
    """
    last, end = _placed(chain, model)[-1]
    with Tap(model, end) as tap, torch.no_grad():
        evaluated(model, lambda: model(x))
        expected = tap[end]
        found = evaluated(model, lambda: _run(chain.steps[: last + 1], x))
    if not _same(found, expected):
        raise LorankError(
            f"the input task's layers ({_said(chain, model)}) are not what the model runs first: "
            f"alone they give something else than {end!r} does in the model; name all layers from "
            "the input on, and give functions between them as functions"
        )


def check_runs_last(chain: Chain, model: nn.Module, x: Tensor) -> None:
    """Insist that a chain is what the model does last: from what it reads it gives the output.

    Raises:
        LorankError: if the model's output on ``x`` is another.
    """
    first, start = _placed(chain, model)[0]
    with Tap(model, start, inputs=True) as tap, torch.no_grad():
        output = evaluated(model, lambda: model(x))
        found = evaluated(model, lambda: _run(chain.steps[first:], tap[start]))
    if not _same(found, output):
        raise LorankError(
            f"the output task's layers ({_said(chain, model)}) are not what the model runs last: "
            "alone they do not give the model's output; name all layers up to the output"
        )


def evaluated(model: nn.Module, call: Callable[[], Any]) -> Any:
    """Call something with the model in evaluation mode, and put the modes back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        return call()
    finally:
        for module, mode in modes:
            module.training = mode


def _placed(chain: Chain, model: nn.Module) -> list[tuple[int, str]]:
    """Which steps are layers of the model, by what names; all linear ones must be."""
    names = {id(module): name for name, module in model.named_modules()}
    for layer in chain.layers:
        if id(layer) not in names:
            raise LorankError(f"a task's layers are the model's own, and {layer} is not in it")
    return [(i, names[id(step)]) for i, step in enumerate(chain.steps) if id(step) in names]


def _run(steps: Sequence[Any], x: Tensor) -> Tensor | None:
    try:
        for step in steps:
            x = step(x)
    except RuntimeError:  # shapes that do not fit: these are other layers
        return None
    return x


def _same(a: Any, b: Any) -> bool:
    if not isinstance(a, Tensor) or not isinstance(b, Tensor) or a.shape != b.shape:
        return False
    a, b = a.double(), b.double()
    # Equal functions differ by rounding in half precision at worst; wrong ones by their whole size.
    return bool((a - b).norm() <= 0.05 * b.norm() + 1e-12)


def _said(chain: Chain, model: nn.Module) -> str:
    return ", ".join(name for _, name in _placed(chain, model))
