"""Arms of a comparison: with and without reconstruction, with and without a scaled output layer."""

import math
from numbers import Integral
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lorank.errors import LorankError, unknown
from lorank.structured.anneal import Anneal
from lorank.structured.fit import Plan
from lorank.structured.regularizers import Regularizers
from lorank.structured.scale import label_scale_
from lorank.structured.tasks import InputTask, OutputTask

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}


class Arm(NamedTuple):
    """What is added to plain supervised training."""

    tasks: tuple[str, ...] = ()
    """Of ``"in"`` and ``"out"``."""
    scale: str | None = None
    """Directions of :func:`label_scale_`, or None to leave the output layer as it is drawn."""


ARMS: dict[str, Arm] = {
    "sup": Arm(),
    "scaled sup": Arm(scale="random"),
    "in": Arm(("in",)),
    "out": Arm(("out",)),
    "in+out": Arm(("in", "out")),
    "scaled sup, label PCA": Arm(scale="pca"),
    "scaled sup, kept": Arm(scale="keep"),
    "centred, zero weights": Arm(scale="zero"),
    "scaled in+out": Arm(("in", "out"), scale="random"),
}
"""The first five are the comparison that everybody should make; plain *sup* starts from torch's
own initial weights."""

FIRST = tuple(ARMS)[:5]


def perceptron(
    sizes: tuple[int, ...],
    activation: str | tuple[str, ...] = "relu",
    *,
    published: bool = False,
    dropout: float = 0.0,
    dtype: torch.dtype | None = None,
) -> nn.Sequential:
    """A perceptron of linear layers and activations.

    Args:
        sizes: units of each layer, inputs and outputs among them.
        activation: after each layer but the last; a tuple names one for each layer, the last
            included.
        published: draw weights as the published code of structured outputs does, uniform on
            ``±√(6 / (in + out))``, four times that in front of a sigmoid, with biases of zero.
        dropout: share of the inputs that is dropped in training, by a layer in front.
        dtype: of the parameters.

    Raises:
        LorankError: if there are fewer than two sizes, one is not a whole number of at least 1, or
            an activation is unknown.

    Example:
        >>> perceptron((4, 3, 2))
        Sequential(
          (0): Linear(in_features=4, out_features=3, bias=True)
          (1): ReLU()
          (2): Linear(in_features=3, out_features=2, bias=True)
        )
    """
    if len(sizes) < 2:
        raise LorankError(f"a perceptron has inputs and outputs, found sizes {sizes}")
    for size in sizes:
        if isinstance(size, bool) or not isinstance(size, Integral) or size < 1:
            raise LorankError(f"a layer has a whole number of units, at least 1, found {size!r}")
    layers = len(sizes) - 1
    names = activation if isinstance(activation, tuple) else (activation,) * (layers - 1)
    parts: list[nn.Module] = [nn.Dropout(dropout)] if dropout else []
    for place in range(layers):
        linear = nn.Linear(sizes[place], sizes[place + 1], dtype=dtype)
        parts.append(linear)
        name = names[place] if place < len(names) else None
        if name is not None:
            if name not in ACTIVATIONS:
                raise unknown("activation", name, ACTIVATIONS)
            parts.append(ACTIVATIONS[name]())
        if published:
            _draw(linear, 4.0 if name == "sigmoid" else 1.0)
    return nn.Sequential(*parts)


def _draw(linear: nn.Linear, times: float) -> None:
    reach = times * math.sqrt(6 / (linear.in_features + linear.out_features))
    nn.init.uniform_(linear.weight, -reach, reach)
    nn.init.zeros_(linear.bias)


def modern(
    arm: Arm,
    model: nn.Sequential,
    labels: Tensor,
    epochs: int,
    *,
    weights: tuple[float, float] = (1.0, 1.0),
    seed: int = 0,
) -> Regularizers:
    """An arm as we would run it: mean-scaled tasks, annealed to zero at half of the training.

    Args:
        arm: what to add.
        model: a perceptron of :func:`perceptron` with a linear output; scaled in place if asked.
        labels: for the scale; NaN is missing, and labels without inputs count.
        epochs: of the training, for the annealing.
        weights: of the input and of the output task at first.
        seed: of the masks and of random directions.

    Raises:
        LorankError: if the network has no hidden layer of its own for the supervised task.

    Example:
        >>> labels = torch.randn(20, 2)
        >>> modern(ARMS["in+out"], perceptron((6, 5, 4, 2)), labels, 10).names
        ('in', 'out')
    """
    if arm.scale is not None:
        drawn = torch.Generator().manual_seed(seed)
        label_scale_(model[-1], labels, arm.scale, generator=drawn)
    check_room(model, arm)
    masks = torch.Generator(next(model.parameters()).device).manual_seed(seed)
    terms: dict[str, Any] = {}
    half = max(epochs / 2, 1.0)
    if "in" in arm.tasks:
        fade = Anneal("linear", 0, half, weights[0], 0.0)
        terms["in"] = InputTask(_first(model), fade, generator=masks)
    if "out" in arm.tasks:
        fade = Anneal("linear", 0, half, weights[1], 0.0)
        last = len(model) - 1
        terms["out"] = OutputTask([str(last)], fade, code=str(last - 1))
    return Regularizers(model, terms)


def _first(model: nn.Sequential) -> list[str]:
    """Paths of a perceptron's first linear layer, its activation, and what comes before."""
    linear = next(i for i, layer in enumerate(model) if isinstance(layer, nn.Linear))
    return [str(place) for place in range(linear + 2)]


def check_room(model: nn.Sequential, arm: Arm) -> None:
    """Insist on a layer between those of the tasks, which belongs to the supervised one alone.

    Raises:
        LorankError: if the tasks' layers touch.
    """
    linear = sum(isinstance(layer, nn.Linear) for layer in model)
    if len(arm.tasks) >= linear:
        raise LorankError(
            f"tasks on the first and the last layer leave one between them to the supervised task: "
            f"{len(arm.tasks)} tasks need at least {len(arm.tasks) + 1} linear layers, "
            f"found {linear}"
        )


def published(arm: Arm, model: nn.Sequential, epochs: int, *, seed: int = 0) -> Regularizers:
    """An arm in the published setting: summed losses, weight decay in the tasks, centred codes.

    The annealing is that of the published runs, compressed from 1,000 epochs: the input task's
    weight is 1 up to a tenth of the training and falls to 0 at half of it, the output task's at
    seven tenths. Use it with :func:`published_plan`.

    Args:
        arm: what to add; a scale is refused, for its output layer is bent by tanh.
        model: ``perceptron(sizes, ("sigmoid", "sigmoid", "tanh", "tanh"), published=True)``.
        epochs: of the training.
        seed: of the masks.

    Raises:
        LorankError: if the arm has a scaled output layer.

    Example:
        >>> bent = ("sigmoid", "sigmoid", "tanh", "tanh")
        >>> model = perceptron((8, 6, 5, 4, 3), bent, published=True)
        >>> published(ARMS["out"], model, 100).weights(40)
        {'supervised': 1.0, 'out': 0.5}
    """
    if arm.scale is not None:
        raise LorankError("the published setting has a bent output layer, and takes no label scale")
    check_room(model, arm)
    masks = torch.Generator().manual_seed(seed)
    common: dict[str, Any] = {"scale": "sum", "decay": 1e-2, "centre": True}
    terms: dict[str, Any] = {}
    if "in" in arm.tasks:
        fade = Anneal("linear", 0.1 * epochs, 0.5 * epochs)
        pixels = torch.sigmoid
        terms["in"] = InputTask(["0", "1"], fade, reconstruct=pixels, generator=masks, **common)
    if "out" in arm.tasks:
        fade = Anneal("linear", 0.1 * epochs, 0.7 * epochs)
        last = len(model) - 2
        terms["out"] = OutputTask([str(last), str(last + 1)], fade, code=str(last - 1), **common)
    return Regularizers(model, terms)


def published_plan(epochs: int) -> Plan:
    """SGD with momentum 0.9 at a constant rate, batches of ten, one update for each task.

    Learning rate times epochs is that of the published 1,000 epochs at 0.001.

    Example:
        >>> published_plan(100).learning_rate
        0.01
    """
    return Plan(
        epochs=epochs,
        batch_size=10,
        optimizer="sgd",
        learning_rate=1.0 / epochs,
        weight_decay=0.0,
        schedule="constant",
        form="alternate",
    )
