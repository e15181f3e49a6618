"""A Lipschitz certificate: how much a feed-forward network can enlarge a change of its input."""

import math
import operator
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg

from lorank.compression.lipschitz_layers import folds, gain, has_gain, refuse_hooks
from lorank.compression.lipschitz_rules import LAYERS, RULES, Call
from lorank.compression.trace import Example, describe, evaluating
from lorank.errors import LorankError
from lorank.nn.surgery import check_module


class Step(NamedTuple):
    """One operation of the network: where, what, its own gain, and the bound up to it."""

    layer: str
    operation: str
    gain: float
    constant: float


class Certificate(NamedTuple):
    """A bound, and how it came about.

    Attributes:
        constant: L with ``‖f(x) − f(y)‖₂ ≤ L·‖x − y‖₂`` for all inputs of the example's shape.
        steps: the operations that changed the bound, in order.
    """

    constant: float
    steps: list[Step]


def lipschitz(model: nn.Module, example: Example, *, tol: float = 1e-2) -> Certificate:
    """Certify ``‖f(x) − f(y)‖₂ ≤ L·‖x − y‖₂`` for a feed-forward network in evaluation mode.

    The network is traced, and every operation passes on the bound of what it reads: a layer
    multiplies it by its norm, a sum adds those of its terms, so that a residual block has
    ``1 + L``. A convolution's norm is the upper end of its certified bracket
    (:func:`lorank.linalg.norm_bracket`), which holds for every image size and for zero padding; a
    BatchNorm after a convolution or a linear layer is multiplied into its weight first.

    Norms multiply along the depth, and the directions that two layers enlarge most seldom meet: the
    constant is a proof, and real gains lie far below it.

    Args:
        model: a network of convolutions, linear layers (dense, in SVD form or folded), BatchNorm,
            activations, pooling, sums, concatenation and reshaping. It is not changed.
        example: what it is called with. Only the shapes matter, and only pooling, means and cyclic
            strided layers make the bound depend on them.
        tol: relative gap wanted for each convolution's norm; flat symbols make a small one slow.

    Returns:
        The constant and the steps that led to it.

    Raises:
        LorankError: if the network cannot be traced or run, or holds an operation without a known
            constant; the message names it and says why.

    Cost: a certified norm for each layer, and one forward pass.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.ReLU())
        >>> _ = nn.init.ones_(model[0].weight)
        >>> 9 <= lipschitz(model, torch.ones(1, 1, 8, 8)).constant <= 9.1
        True
    """
    check_module(model)
    refuse_hooks(model)
    with evaluating(model), torch.no_grad():
        # A layer alone is put into a network of one: tracing would look into it.
        network = nn.Sequential(model) if has_gain(model) else model
        walk = _Walk(network, tol)
        walk.run(example)
        return walk.certificate()


class _Tracer(fx.Tracer):
    """Keep whole what has a gain of its own."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return has_gain(m) or super().is_leaf_module(m, module_qualified_name)


class _Watch(fx.Interpreter):
    """Runs a graph, and notes the shape of every tensor, the value of every number, and writes.

    A tensor and its views count their writes together, so that all that a write changes is seen.
    """

    def run_node(self, n: fx.Node) -> Any:
        before = {node: _writes(value) for node, value in self.env.items()}
        result = super().run_node(n)
        n.meta["wrote"] = [node for node, seen in before.items() if _writes(self.env[node]) != seen]
        if isinstance(result, Tensor):
            n.meta["shape"] = tuple(result.shape)
        elif isinstance(result, int | float):
            n.meta["number"] = result
        return result


def _writes(value: Any) -> int:
    """How often a tensor, or those of a tuple, were written to."""
    if isinstance(value, Tensor):
        return value._version
    return sum(map(_writes, value)) if isinstance(value, tuple | list) else 0


class _Walk:
    """Carries the bound through the graph of a network, node by node."""

    def __init__(self, network: nn.Module, tol: float):
        self.tracer = _Tracer()
        try:
            self.graph = self.tracer.trace(network)
        except Exception as error:
            raise LorankError(
                f"a certificate needs a network that torch.fx can trace, and "
                f"{type(network).__name__} cannot be traced: {error}"
            ) from error
        self.network = fx.GraphModule(network, self.graph)
        self.tol = tol
        self.bounds: dict[fx.Node, float] = {}
        self.steps: list[Step] = []

    def run(self, example: Example) -> None:
        """Run the graph once, and note the shape of every value."""
        try:
            _Watch(self.network).run(*self._arguments(example))
        except Exception as error:
            raise LorankError(
                f"the model must run on the example, and failed on {describe(example)}: {error}"
            ) from error

    def _arguments(self, example: Example) -> tuple[Any, ...]:
        if isinstance(example, Mapping):
            asked = [n.name for n in self.graph.nodes if n.op == "placeholder"]
            return tuple(example[name] for name in asked if name in example)
        return tuple(example) if isinstance(example, tuple | list) else (example,)

    def certificate(self) -> Certificate:
        """Go through all operations; the last one is the answer."""
        constant = 0.0
        for node in self.graph.nodes:
            constant = self._bound(node)
            self.bounds[node] = constant
            for other in node.meta.get("wrote", ()):
                # Of a view some entries may be as before, and some as written.
                self.bounds[other] = math.hypot(self.bounds[other], constant)
        if not constant < math.inf:
            raise LorankError(f"the network's Lipschitz constant is not finite, found {constant}")
        return Certificate(constant, self.steps)

    def _bound(self, node: fx.Node) -> float:
        if node.op == "placeholder":
            return 1.0
        if node.op == "output":
            given: list[fx.Node] = []  # one that is given twice counts twice
            map_arg(node.args, given.append)
            return math.hypot(*(self.bounds[n] for n in given))
        if not any(self.bounds[n] for n in node.all_input_nodes):
            return 0.0  # a weight, a constant, or the size of something
        if _is_size(node):
            return 0.0
        try:
            return self._passed_on(node)
        except LorankError as error:
            where = _place(node)
            raise LorankError(f"no Lipschitz constant is known for {where}: {error}") from None

    def _passed_on(self, node: fx.Node) -> float:
        if node.op != "call_module":
            return self._applied(node, _name(node), node.args, dict(node.kwargs))
        module = self.network.get_submodule(str(node.target))
        if type(module) in LAYERS:
            refuse_hooks(module)
            names: Any = getattr(module, "__constants__", ())
            settings = {k: getattr(module, k) for k in names if k != "inplace"}
            given = settings | dict(node.kwargs)
            return self._applied(node, LAYERS[type(module)], node.args, given)
        if not has_gain(module):
            raise LorankError(UNKNOWN)
        if self._folded_later(node, module):
            return math.inf
        return self._multiplied(node, module)

    def _multiplied(self, node: fx.Node, module: nn.Module) -> float:
        """Multiply by a layer's gain, or by that of a BatchNorm and the layer before it."""
        names, layers = [str(node.target)], [module]
        source = node.all_input_nodes[0]
        if source.op == "call_module":
            before = self.network.get_submodule(str(source.target))
            # Only a layer that was left to its BatchNorm: others may be written to in between.
            left = self.bounds[source] == math.inf
            if left and folds(before, module, _shape(source)):
                names, layers = [str(source.target), *names], [before, *layers]
                source = source.all_input_nodes[0]
        found = gain(layers[0], _shape(source), self.tol, *layers[1:])
        kinds = " + ".join(type(layer).__name__ for layer in layers)
        self.steps.append(Step(names[0], kinds, found, self.bounds[source] * found))
        return self.bounds[source] * found

    def _folded_later(self, node: fx.Node, module: nn.Module) -> bool:
        """Whether nothing but a BatchNorm reads a layer, which is then bounded with it."""
        if len(node.users) != 1:
            return False
        user = next(iter(node.users))
        if user.op != "call_module":
            return False
        return folds(module, self.network.get_submodule(str(user.target)), _shape(node))

    def _applied(self, node: fx.Node, name: str, args: Any, kwargs: dict[str, Any]) -> float:
        """Apply the rule of an operation without weights."""
        if name not in RULES:
            raise LorankError(UNKNOWN)
        if "out" in kwargs:
            raise LorankError("it writes into a tensor that was there before")
        call = Call(
            tuple(args),
            kwargs,
            self._of,
            _shape,
            self._value,
            _shape(node),
            tuple(node.all_input_nodes),
        )
        try:
            constant = RULES[name](call)
        except LorankError:
            raise
        except Exception as error:
            raise LorankError(f"its arguments are used in an unknown way ({error})") from error
        read = max(self.bounds[n] for n in node.all_input_nodes)
        if constant != read:
            self.steps.append(Step(_layer(node), name, constant / read, constant))
        return constant

    def _of(self, value: Any) -> float:
        return self.bounds[value] if isinstance(value, fx.Node) else 0.0

    def _value(self, value: Any) -> Any:
        if not isinstance(value, fx.Node):
            return None
        if value.op == "get_attr":
            return operator.attrgetter(str(value.target))(self.network)
        return value.meta.get("number")


UNKNOWN = "it is not in the tables of lorank.compression.lipschitz_rules"
SIZES = ("size", "dim", "numel", "__len__")


def _is_size(node: fx.Node) -> bool:
    """Whether a node asks for the shape, kind or place of a tensor, which no input changes."""
    if node.target is getattr:
        return node.args[1] in ("shape", "ndim", "dtype", "device", "requires_grad")
    return node.op == "call_method" and node.target in SIZES


def _shape(value: Any) -> tuple[int, ...]:
    return value.meta.get("shape", ()) if isinstance(value, fx.Node) else ()


def _name(node: fx.Node) -> str:
    """Name of a function of torch or Python, or of a method; none for anybody else's."""
    if node.op == "call_method":
        return str(node.target)
    if node.target is getattr:
        return str(node.args[1])
    home = (getattr(node.target, "__module__", None) or "torch").split(".")[0]
    known = home in ("torch", "_operator", "operator", "math", "builtins")
    return getattr(node.target, "__name__", "") if known else ""


def _layer(node: fx.Node) -> str:
    if node.op == "call_module":
        return str(node.target)
    stack = node.meta.get("nn_module_stack") or {"": None}
    return list(stack)[-1]


def _place(node: fx.Node) -> str:
    layer, what = _layer(node), "" if node.op == "call_module" else f"the operation {node.name!r}"
    where = f"layer {layer!r}" if layer else "the network itself"
    return f"{what} of {where}" if what else where
