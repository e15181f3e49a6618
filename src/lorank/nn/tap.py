"""A tap: what a layer inside a network gave in the last forward pass, with its graph."""

import difflib
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from lorank.errors import LorankError, unknown


class Tap:
    """Keeps the live output of named layers while it is open; its hooks go when it closes.

    The tensor is the layer's own, not a copy: a loss that is made of it reaches the layers below.
    Each pass of the whole model empties the tap first, so that nothing of an earlier batch is
    read by mistake; a layer that runs several times in one pass leaves its last output. After the
    tap has closed what it holds can still be read. A layer inside a re-entrant checkpoint runs
    without a graph: ``checkpoint(…, use_reentrant=False)`` keeps one.

    Args:
        model: a network, dense or in SVD form; in ``DistributedDataParallel`` the names are those
            of the network inside.
        names: paths of layers, as in ``model.named_modules()``.
        flatten: give ``(batch, features)`` whatever the shape.
        inputs: keep what the layers read instead: their first positional argument.

    Raises:
        LorankError: if there is no such layer, no name is given, layers of the model cannot be
            watched (compiled, scripted, or in ``DataParallel``), or the tap is opened twice.

    Cost: none but the memory of the outputs until the next pass.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> with Tap(model, "1") as tap:
        ...     loss = model(torch.ones(5, 4)).sum() + tap["1"].square().sum()
        >>> tap["1"].shape, tap["1"].requires_grad
        (torch.Size([5, 3]), True)
    """

    def __init__(self, model: nn.Module, *names: str, flatten: bool = False, inputs: bool = False):
        if not isinstance(model, nn.Module):
            raise LorankError(f"a tap needs a torch module, found {type(model).__name__}")
        if not names:
            raise LorankError("a tap needs the path of at least one layer")
        self.model = _inside(model)
        self.layers = {name: layer_at(self.model, name) for name in names}
        self.flatten, self.inputs = flatten, inputs
        self._found: dict[str, Any] = {}
        self._hooks: list[Any] = []

    @property
    def names(self) -> tuple[str, ...]:
        """The layers' paths, as they were given."""
        return tuple(self.layers)

    def __enter__(self) -> Self:
        if self._hooks:  # the inner one would close both
            raise LorankError("the tap is open already: make a second Tap for a pass inside")
        self._found.clear()
        self._hooks.append(self.model.register_forward_pre_hook(self._forget))
        for name, layer in self.layers.items():
            self._hooks.append(layer.register_forward_hook(self._keeper(name)))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        while self._hooks:
            self._hooks.pop().remove()

    def __iter__(self) -> Iterator[str]:
        return iter(self.layers)

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.layers:
            raise unknown("tapped layer", name, self.layers)
        if name not in self._found:
            raise LorankError(
                f"the layer {name!r} has not run since the tap was opened or the last pass began: "
                "run the model, and name a layer that its forward calls"
            )
        value = self._found[name]
        if not isinstance(value, Tensor):
            raise LorankError(
                f"a tap reads layers that {'read' if self.inputs else 'give'} one tensor"
                f"{' as their first positional argument' if self.inputs else ''}, and "
                f"{name!r} ({type(self.layers[name]).__name__}) "
                f"{'read' if self.inputs else 'gave'} a {type(value).__name__}: "
                "name a layer inside it or after it"
            )
        return rows_of(value) if self.flatten else value

    @property
    def value(self) -> Tensor:
        """The output of the only layer.

        Raises:
            LorankError: if several layers are tapped.
        """
        if len(self.layers) != 1:
            raise LorankError(
                f"value is for a tap of one layer, found {len(self.layers)}: write tap[name]"
            )
        return self[next(iter(self.layers))]

    def clear(self) -> None:
        """Let go of the tensors, and of the graphs that they hold."""
        self._found.clear()

    def _forget(self, *_: Any) -> None:
        self._found.clear()

    def _keeper(self, name: str) -> Any:
        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            self._found[name] = next(iter(inputs), None) if self.inputs else output

        return keep


def rows_of(value: Tensor) -> Tensor:
    """What a layer gave as ``(batch, features)``.

    Raises:
        LorankError: if it has no axis beside the batch.

    Example:
        >>> rows_of(torch.ones(5, 3, 2)).shape
        torch.Size([5, 6])
    """
    if value.ndim < 2:
        raise LorankError(
            "flattening gives (batch, features), and this output has no axis beside the batch: "
            f"its shape is {tuple(value.shape)}"
        )
    return value.flatten(1)


def layer_at(model: nn.Module, name: str) -> nn.Module:
    """The layer of a path, or a sentence that names paths like it.

    Args:
        model: the network that the path starts from.
        name: a path, as in ``model.named_modules()``; ``""`` is the network itself.

    Raises:
        LorankError: if there is no such layer, or it cannot be watched.

    Example:
        >>> layer_at(nn.Sequential(nn.ReLU()), "0")
        ReLU()
    """
    layers = dict(model.named_modules(remove_duplicate=False))
    if not isinstance(name, str) or name not in layers:
        near = difflib.get_close_matches(str(name), [n for n in layers if n], n=3)
        hint = f": did you mean {' or '.join(map(repr, near))}?" if near else _some(layers)
        raise LorankError(f"there is no layer {name!r} in {type(model).__name__}{hint}")
    steps = name.split(".") if name else []
    for step in (layers[".".join(steps[:depth])] for depth in range(len(steps) + 1)):
        _check_watchable(step)
    return layers[name]


def _some(layers: dict[str, nn.Module]) -> str:
    """The first few names, where none is near."""
    named = [n for n in layers if n]
    more = ", …" if len(named) > 8 else ""
    return f": it has {', '.join(named[:8])}{more}" if named else ": it has no layers inside"


def _inside(model: nn.Module) -> nn.Module:
    """The network inside ``DistributedDataParallel``, whose own layers run."""
    if isinstance(model, DistributedDataParallel):
        model = model.module
    _check_watchable(model)
    return model


def _check_watchable(module: nn.Module) -> None:
    """Refuse what runs past the hooks of its layers: a tap would read nothing, or old values."""
    kind = type(module).__name__
    if isinstance(module, DataParallel):
        raise LorankError(
            "DataParallel runs copies of the layers, which a tap cannot read: "
            "use DistributedDataParallel, or tap model.module on one device"
        )
    if kind == "OptimizedModule" or getattr(module, "_compiled_call_impl", None) is not None:
        raise LorankError(
            f"a compiled model runs past the hooks of its layers ({kind}): tap the model before "
            "it is compiled, or give it an output for the layer"
        )
    if isinstance(module, torch.jit.ScriptModule):
        raise LorankError(
            f"a scripted model takes no hooks ({kind}): tap the model that it was made of"
        )
