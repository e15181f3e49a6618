"""How each kind of operation passes on a Lipschitz constant, one row an operation.

All constants are of the Euclidean norm of the whole tensor.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from lorank.errors import LorankError

SLOPES: dict[str, float] = {
    **dict.fromkeys(("relu", "relu_", "relu6", "hardtanh", "tanh", "softsign"), 1.0),
    **dict.fromkeys(("logsigmoid", "abs", "neg", "clamp", "clip", "clone", "detach"), 1.0),
    "sigmoid": 0.25,
    "hardsigmoid": 1 / 6,
    "hardswish": 1.5,
    "silu": 1.0999,  # at x = 2.3994
    "gelu": 1.1290,  # at √2: Φ(√2) + √2·φ(√2) = 1.12890; 1.12899 with tanh
    "mish": 1.0885,  # at x = 1.4906
    "selu": 1.7581,  # scale·α, as x → 0 from below
    "softmax": 0.5,  # its derivative is a variance of unit vectors: at most (2/√2)²/4
}
"""Largest slope of functions of one entry, and of softmax."""

MOVES = (
    *("flatten", "unflatten", "view", "reshape", "permute", "transpose", "movedim", "swapaxes"),
    *("squeeze", "unsqueeze", "contiguous", "identity", "chunk", "split", "unbind", "narrow"),
    *("flip", "roll", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "t"),
    *("T", "mT", "H", "mH", "data"),
)
"""What only moves entries, or leaves some out."""

LAYERS: dict[type[nn.Module], str] = {
    nn.ReLU: "relu",
    nn.ReLU6: "relu6",
    nn.Hardtanh: "hardtanh",
    nn.Tanh: "tanh",
    nn.Softplus: "softplus",
    nn.Softsign: "softsign",
    nn.LogSigmoid: "logsigmoid",
    nn.CELU: "celu",
    nn.ELU: "elu",
    nn.SELU: "selu",
    nn.LeakyReLU: "leaky_relu",
    nn.Sigmoid: "sigmoid",
    nn.Hardsigmoid: "hardsigmoid",
    nn.Hardswish: "hardswish",
    nn.SiLU: "silu",
    nn.GELU: "gelu",
    nn.Mish: "mish",
    nn.Softmax: "softmax",
    nn.Identity: "identity",
    nn.Dropout: "identity",
    nn.Dropout1d: "identity",
    nn.Dropout2d: "identity",
    nn.Dropout3d: "identity",
    nn.Flatten: "flatten",
    nn.Unflatten: "unflatten",
    nn.PixelShuffle: "pixel_shuffle",
    nn.PixelUnshuffle: "pixel_unshuffle",
    nn.ChannelShuffle: "channel_shuffle",
    nn.MaxPool1d: "max_pool1d",
    nn.MaxPool2d: "max_pool2d",
    nn.MaxPool3d: "max_pool3d",
    nn.AvgPool1d: "avg_pool1d",
    nn.AvgPool2d: "avg_pool2d",
    nn.AvgPool3d: "avg_pool3d",
    nn.AdaptiveAvgPool1d: "adaptive_avg_pool1d",
    nn.AdaptiveAvgPool2d: "adaptive_avg_pool2d",
    nn.AdaptiveAvgPool3d: "adaptive_avg_pool3d",
    nn.AdaptiveMaxPool1d: "adaptive_max_pool1d",
    nn.AdaptiveMaxPool2d: "adaptive_max_pool2d",
    nn.AdaptiveMaxPool3d: "adaptive_max_pool3d",
}
"""Layers of torch that are a function of the table below, with their settings as its arguments."""


class Call(NamedTuple):
    """One operation of a network.

    Attributes:
        args: its arguments by position; values of the network stand for themselves.
        kwargs: its arguments by name.
        bound: gives the constant of an argument; 0 of what does not depend on the input.
        shape: gives the shape of an argument.
        value: gives the tensor of an argument that is a constant, or ``None``.
        out: shape of the result.
        inputs: values of the network among the arguments.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    bound: Callable[[Any], float]
    shape: Callable[[Any], tuple[int, ...]]
    value: Callable[[Any], Any]
    out: tuple[int, ...]
    inputs: tuple[Any, ...] = ()

    def get(self, place: int, name: str, default: Any = None) -> Any:
        """An argument by position or name."""
        return self.args[place] if len(self.args) > place else self.kwargs.get(name, default)

    @property
    def read(self) -> float:
        """Constant of the first argument, where no other depends on the network's input."""
        first = self.get(0, "input")
        if any(self.bound(value) for value in self.inputs if value is not first):
            raise LorankError("an argument besides the first depends on the network's input")
        return self.bound(first)

    def spread(self, value: Any) -> float:
        """Constant of an argument that is repeated to the result's shape: ``√copies`` more."""
        if not self.bound(value):
            return 0.0
        return self.bound(value) * math.sqrt(math.prod(self.out) / math.prod(self.shape(value)))


Rule = Callable[[Call], float]


def _slope(value: float) -> Rule:
    return lambda call: value * call.read


def _leaky(call: Call) -> float:
    return call.read * max(1.0, abs(call.get(1, "negative_slope", 0.01)))


def _elu(call: Call) -> float:
    return call.read * max(1.0, abs(call.get(1, "alpha", 1.0)))


def _celu(call: Call) -> float:
    if not call.get(1, "alpha", 1.0) > 0:
        raise LorankError("its alpha is not above zero, and it grows exponentially")
    return call.read


def _softplus(call: Call) -> float:
    """It jumps where it becomes linear: by ``e^{−threshold}/beta``, nothing at a usual one."""
    if call.get(2, "threshold", 20.0) < 20 or not call.get(1, "beta", 1.0) > 0:
        raise LorankError("its threshold is below 20, where it jumps, or its beta not above zero")
    return call.read


def _dropout(call: Call) -> float:
    if call.get(2, "training", True):
        raise LorankError("it drops entries at random in evaluation mode, too")
    return call.read


def _sum_of_two(call: Call) -> float:
    first, second = call.args[:2]
    return call.spread(first) + abs(call.kwargs.get("alpha", 1)) * call.spread(second)


def _times(call: Call) -> float:
    first, second = call.args[:2]
    if call.bound(first) and call.bound(second):
        raise LorankError("a product of two values that both depend on the input has no constant")
    value, factor = (first, second) if call.bound(first) else (second, first)
    return call.spread(value) * _magnitude(call, factor)


def _divided(call: Call) -> float:
    if call.bound(call.args[1]):
        raise LorankError("a quotient by something that depends on the input has no constant")
    if call.kwargs.get("rounding_mode"):
        raise LorankError("it rounds, and jumps")
    return call.spread(call.args[0]) * _magnitude(call, call.args[1], torch.reciprocal)


def _magnitude(call: Call, factor: Any, change: Callable[[Any], Any] = torch.clone) -> float:
    found = factor if isinstance(factor, int | float) else call.value(factor)
    if found is None:
        raise LorankError("the factor is neither a number nor a parameter")
    return float(change(torch.as_tensor(found, dtype=torch.float64)).abs().max())


def _joined(call: Call) -> float:
    return math.hypot(*(call.bound(value) for value in call.args[0]))


def _mean(call: Call) -> float:
    return call.read / math.sqrt(_summed(call))


def _sum(call: Call) -> float:
    return call.read * math.sqrt(_summed(call))


def _summed(call: Call) -> int:
    """Entries that each result is a sum of."""
    shape = call.shape(call.get(0, "input"))
    dims = call.get(1, "dim", call.kwargs.get("axis"))
    if isinstance(dims, int):
        return shape[dims]
    return math.prod(shape[d] for d in dims or range(len(shape)))


def _pad(call: Call) -> float:
    mode = call.get(2, "mode", "constant")
    if mode != "constant":
        raise LorankError(f"padding by {mode!r} repeats entries")
    return call.read


def _indexed(call: Call) -> float:
    index = call.args[1]
    parts = index if isinstance(index, tuple) else (index,)
    if all(part is None or part is ... or isinstance(part, int | slice) for part in parts):
        return call.read
    raise LorankError("only whole numbers and slices are known not to repeat entries")


def _pooled(along: Callable[..., Any], axes: int, largest: bool) -> Rule:
    """Pooling is separable: along each axis a matrix, read off the pooling of its unit vectors.

    A mean has the norm of the matrix. Of a maximum each result changes by no more than the largest
    change in its window, and an entry stands in so many windows as its column has ones.
    """

    def rule(call: Call) -> float:
        if call.get(6, "divisor_override") and not largest:
            raise LorankError("its divisor is overridden")
        gain = 1.0
        for axis in range(axes):
            size = call.shape(call.get(0, "input"))[axis - axes]
            matrix = _along(along, size, call, axis)
            norm = matrix.sum(0).max().sqrt() if largest else torch.linalg.matrix_norm(matrix, 2)
            gain *= float(norm)
        return call.read * gain

    return rule


def _along(along: Callable[..., Any], size: int, call: Call, axis: int) -> Any:
    """Pool the unit vectors of one axis, ``(out, size)``."""
    skipped = ("return_indices", "divisor_override")
    args = [_entry(value, axis) for value in call.args[1:6]]
    kwargs = {k: _entry(v, axis) for k, v in call.kwargs.items() if k not in (*skipped, "input")}
    units = torch.eye(size, dtype=torch.float64).unsqueeze(1)
    return along(units, *args, **kwargs).squeeze(1).mT


def _entry(value: Any, axis: int) -> Any:
    return value[axis] if isinstance(value, Sequence) and not isinstance(value, str) else value


POOLS: dict[str, tuple[Callable[..., Any], bool]] = {
    "max_pool": (F.max_pool1d, True),
    "avg_pool": (F.avg_pool1d, False),
    "adaptive_max_pool": (F.adaptive_max_pool1d, True),
    "adaptive_avg_pool": (F.adaptive_avg_pool1d, False),
}

RULES: dict[str, Rule] = {
    **{name: _slope(value) for name, value in SLOPES.items()},
    **{name: _slope(1.0) for name in MOVES},
    **{
        f"{name}{axes}d": _pooled(along, axes, largest)
        for name, (along, largest) in POOLS.items()
        for axes in (1, 2, 3)
    },
    **dict.fromkeys(("add", "sub", "iadd", "isub", "add_", "sub_"), _sum_of_two),
    **dict.fromkeys(("mul", "imul", "mul_", "multiply"), _times),
    **dict.fromkeys(("truediv", "itruediv", "div", "div_"), _divided),
    **dict.fromkeys(("cat", "concat", "concatenate", "stack"), _joined),
    "leaky_relu": _leaky,
    "elu": _elu,
    "celu": _celu,
    "softplus": _softplus,
    "dropout": _dropout,
    "dropout2d": _dropout,
    "mean": _mean,
    "sum": _sum,
    "pad": _pad,
    "getitem": _indexed,
}
"""Name of a function of torch, or of a method of a tensor → the constant of its result."""
