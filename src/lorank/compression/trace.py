"""Watch one forward pass: how large the maps are at each layer, and what the pass costs."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lorank.errors import LorankError
from lorank.nn import Factored

Example = Any
"""What a model is called with: a tensor, a tuple of arguments, or a dict of named ones."""


class Call(NamedTuple):
    """One call of a layer: how many images or rows, and the map's size on both sides."""

    batch: int
    in_size: tuple[int, ...]
    out_size: tuple[int, ...]


class Trace(NamedTuple):
    """A forward pass: calls by identity of the layer, and multiply-accumulates.

    ``macs`` counts the whole pass, ``inside`` the part of it inside each watched layer.
    """

    calls: dict[int, list[Call]]
    inside: dict[int, int]
    macs: int


def trace(model: nn.Module, example: Example, watched: Sequence[nn.Module]) -> Trace:
    """Run a model once, in evaluation mode and without gradients, and watch some layers.

    MACs come from torch's own counter (half its FLOPs), with attention computed by its plain
    formula, the only one that the counter sees in full; recurrent layers, of which it sees some,
    are counted by formula.

    Args:
        model: the model; its modes are restored afterwards.
        example: a tensor, a tuple of arguments or a dict of named arguments.
        watched: layers to watch.

    Raises:
        LorankError: if the model does not run on the example.

    Example:
        >>> layer = nn.Linear(4, 2)
        >>> trace(layer, torch.ones(3, 4), [layer]).macs
        24
    """
    calls: dict[int, list[Call]] = {id(m): [] for m in watched}
    inside: dict[int, int] = {id(m): 0 for m in watched}
    unseen: list[int] = []
    counter = FlopCounterMode(display=False)
    with ExitStack() as stack:
        stack.enter_context(evaluating(model))
        for module in watched:
            for handle in _watch(module, calls[id(module)], inside, counter):
                stack.callback(handle.remove)
        for module in model.modules():
            if isinstance(module, nn.RNNBase):
                for handle in _watch_recurrent(module, unseen, counter):
                    stack.callback(handle.remove)
        stack.enter_context(torch.no_grad())
        stack.enter_context(_countable_attention())
        stack.enter_context(counter)
        try:
            run(model, example)
        except LorankError:
            raise
        except Exception as error:
            found = describe(example)
            raise LorankError(
                f"the model must run on the example, and failed on {found}: {error}"
            ) from error
    return Trace(calls, inside, counter.get_total_flops() // 2 + sum(unseen))


def run(model: nn.Module, example: Example) -> Any:
    """Call a model with a tensor, a tuple of arguments, or a dict of named arguments."""
    if isinstance(example, Mapping):
        return model(**example)
    if isinstance(example, (tuple, list)):
        return model(*example)
    return model(example)


def describe(example: Example) -> str:
    """Say in a few words what an example is."""
    if isinstance(example, Tensor):
        return f"a tensor of shape {tuple(example.shape)}"
    if isinstance(example, Mapping):
        return "named inputs " + ", ".join(f"{k}: {describe(v)}" for k, v in example.items())
    if isinstance(example, (tuple, list)):
        return f"{len(example)} inputs: " + ", ".join(map(describe, example))
    return f"a {type(example).__name__}"


@contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """Put each module back into its own training or evaluation mode afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Run a model in evaluation mode for a while."""
    with modes_kept(model):
        model.eval()
        yield


@contextmanager
def _countable_attention() -> Iterator[None]:
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


def _watch(
    module: nn.Module, calls: list[Call], inside: dict[int, int], counter: FlopCounterMode
) -> list[Any]:
    before: list[int] = []

    def enter(_: nn.Module, __: Any) -> None:
        before.append(counter.get_total_flops())

    def leave(_: nn.Module, args: tuple[Tensor, ...], named: dict[str, Tensor], out: Tensor):
        inside[id(module)] += (counter.get_total_flops() - before.pop()) // 2
        calls.append(_call(module, first_argument(args, named), out))

    return [
        module.register_forward_pre_hook(enter),
        module.register_forward_hook(leave, with_kwargs=True),
    ]


def first_argument(args: tuple[Any, ...], named: Mapping[str, Any]) -> Any:
    """Return what a layer reads: its first argument, by position or by name."""
    return args[0] if args else next(iter(named.values()))


def _call(module: nn.Module, x: Tensor, out: Tensor) -> Call:
    view = module.view if isinstance(module, Factored) else None
    taps = view.kernel_size if view is not None else getattr(module, "kernel_size", ())
    d = len(taps)
    if d == 0:
        return Call(out.shape[:-1].numel(), (), ())
    batch = x.shape[0] if x.ndim == d + 2 else 1
    return Call(batch, tuple(x.shape[-d:]), tuple(out.shape[-d:]))


def _watch_recurrent(module: nn.RNNBase, unseen: list[int], counter: FlopCounterMode) -> list[Any]:
    """Count nn.RNN, nn.LSTM, nn.GRU: every weight works once for each entry read.

    The counter sees some of their kernels and not others; what it saw is taken off.
    """
    before: list[int] = []

    def enter(_: nn.Module, __: Any) -> None:
        before.append(counter.get_total_flops())

    def leave(_: nn.Module, args: tuple[Any, ...], named: dict[str, Any], __: Any) -> None:
        x = first_argument(args, named)
        entries = x.data.shape[0] if not isinstance(x, Tensor) else x.shape[:-1].numel()
        weights = sum(p.numel() for n, p in module.named_parameters() if n.startswith("weight"))
        seen = (counter.get_total_flops() - before.pop()) // 2
        unseen.append(entries * weights - seen)

    return [
        module.register_forward_pre_hook(enter),
        module.register_forward_hook(leave, with_kwargs=True),
    ]
