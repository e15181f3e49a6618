"""Input and output reconstruction as loss terms: tied auto-encoders on layers of a network."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lorank.errors import LorankError, unknown
from lorank.linalg.precision import exact
from lorank.nn.tap import layer_at
from lorank.penalties.precision import at_least_float32
from lorank.structured.anneal import Weight
from lorank.structured.chain import Chain, Link, sides
from lorank.structured.missing import labelled, present

SCALES = ("mean", "sum")


class Task(nn.Module):
    """What both tasks share: their layers, weight and scale, and biases of their own.

    The layers stay the model's: a task holds them without registering them, so that a network and
    its tasks have each parameter once.
    """

    def __init__(
        self, layers: Sequence[Link], weight: Weight, scale: str, tied: bool, decay: float
    ):
        super().__init__()
        if isinstance(layers, (str, nn.Module)):
            layers = [layers]
        if scale not in SCALES:
            raise unknown("scale", scale, SCALES)
        if not 0 <= decay < math.inf:
            raise LorankError(f"decay is at least 0 and finite, found {decay}")
        self.links, self.weight = tuple(layers), weight
        self.scale, self.tied, self.decay = scale, tied, decay
        self.biases = nn.ParameterList()
        self.own = nn.ModuleList()
        self._chain: list[Chain] = []

    def _bind_to_modules(self) -> None:
        """Bind at once where nothing is named by path."""
        if not any(isinstance(link, str) for link in self.links):
            self.bind(None)

    def bind(self, model: nn.Module | None) -> "Task":
        """Find the layers in a model, and make what the other half of the auto-encoder needs."""
        chain = Chain(self.links, model)
        self._chain = [chain]
        self.biases, self.own = nn.ParameterList(), nn.ModuleList()
        for layer in chain.layers:
            self._furnish(layer, *sides(layer))
        return self

    def _furnish(self, layer: Any, outputs: int, inputs: int) -> None:
        like = next(layer.parameters())
        if self.tied:
            self.biases.append(nn.Parameter(like.new_zeros(inputs)))
            return
        if hasattr(layer, "in_channels"):
            raise LorankError("an untied auto-encoder is for linear layers, found a convolution")
        self.own.append(nn.Linear(outputs, inputs).to(like))

    @property
    def chain(self) -> Chain:
        """The layers.

        Raises:
            LorankError: if they are named by path and no model is known yet.
        """
        if not self._chain:
            raise LorankError("a task whose layers are paths is bound first: task.bind(model)")
        return self._chain[0]

    def touched(self) -> list[nn.Parameter]:
        """Every parameter that the task trains: its layers' and its own."""
        return [*self.chain.parameters(), *self.parameters()]

    def _back(self, h: Tensor, shapes: Sequence[Any] | None = None) -> Tensor:
        """The other half of the auto-encoder: transposes, or layers of its own."""
        own = None if self.tied else list(self.own)
        return self.chain.transposed(h, list(self.biases), shapes, own)

    def _error(self, found: Tensor, wanted: Tensor) -> Tensor:
        """Squared error of rows: mean or sum over components, mean over rows; and the decay."""
        with exact(found.device):
            z = at_least_float32(found).flatten(1)
            gap = (z - wanted.flatten(1).to(z.dtype)).square()
            loss = (gap.mean(1) if self.scale == "mean" else gap.sum(1)).mean()
            if self.decay:
                loss = loss + self.decay * self.chain.squared_norm()
            return loss

    def _nothing(self) -> Tensor:
        """Zero, for a batch without anything to reconstruct; its gradient is zero too."""
        return torch.stack([p.flatten()[:1].sum() for p in self.touched()]).sum() * 0.0


class InputTask(Task):
    """``mean ‖x̂ − x‖²``: a denoising auto-encoder whose encoder is the first layers of a network.

    Inputs are corrupted by a random mask, run through the layers, and brought back by their
    transposes: ``x̂ = W₁ᵀ·a(W₂ᵀ·h + b₂) + b₁``, with one bias of its own for each layer.

    Args:
        layers: the first layers of the network in order, as paths or modules, with the
            activations between them and after them; functions may stand where the forward uses
            functions.
        weight: of the term, a number or a function of the epoch.
        scale: squared errors are averaged over the components (``"mean"``, as the supervised loss)
            or summed (``"sum"``, as in the published code: as many times heavier as there are
            components).
        corruption: share of the entries that are set to zero in training; 0 for none.
        tied: the way back is made of transposes; otherwise of linear layers of its own.
        centre: take the batch's mean off the code first, in this path only (published code).
        reconstruct: what follows the last transpose, such as ``torch.sigmoid`` for pixels.
        decay: adds ``decay·Σ‖W‖_F²`` of the layers (published code: 0.01).
        generator: source of the masks; by default torch's own.

    Raises:
        LorankError: if there is no linear layer, or a number is out of its range.

    Cost: one pass through the layers and one back: ``2·r·(in + out)`` MACs a row in SVD form.
    Source: Belharbi et al., Deep neural networks regularization for structured output prediction,
    Neurocomputing 2018, section 2; Vincent et al., 2008, for the corruption.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> loss = InputTask(["0", "1"], corruption=0.2).bind(model)(torch.ones(5, 8))
        >>> loss.shape, loss.requires_grad
        (torch.Size([]), True)
    """

    def __init__(
        self,
        layers: Sequence[Link],
        weight: Weight = 1.0,
        *,
        scale: str = "mean",
        corruption: float = 0.2,
        tied: bool = True,
        centre: bool = False,
        reconstruct: Callable[[Tensor], Tensor] | None = None,
        decay: float = 0.0,
        generator: torch.Generator | None = None,
    ):
        if not 0 <= corruption < 1:
            raise LorankError(f"corruption is a share from 0 and below 1, found {corruption}")
        super().__init__(layers, weight, scale, tied, decay)
        self.corruption, self.centre, self.reconstruct = corruption, centre, reconstruct
        self.generator = generator
        self._bind_to_modules()

    def forward(self, x: Tensor) -> Tensor:
        """The term of a batch of inputs; rows of NaN are left out."""
        _check_numbers(x, "inputs")
        here = present(x)
        if not bool(here.any()):
            return self._nothing()
        x = x[here]
        h, shapes = self.chain.watched(self._corrupted(x))
        if self.centre:
            h = h - h.mean(0, keepdim=True)
        found = self._back(h, shapes)
        return self._error(self.reconstruct(found) if self.reconstruct else found, x)

    def _corrupted(self, x: Tensor) -> Tensor:
        if not self.training or self.corruption == 0:
            return x
        share, generator = 1 - self.corruption, self.generator
        return x * _room(x, generator).bernoulli_(share, generator=generator).to(x.device)


class OutputTask(Task):
    """``mean ‖ŷ − y‖²``: an auto-encoder of labels whose decoder is the last layers of a network.

    Labels are encoded by the transposes of the layers, and decoded by the layers themselves:
    ``ŷ = P(a(Wᵀ·y + b))``. No input is needed. The best linear one, tied and of rank r, is the
    principal subspace of the labels.

    Args:
        layers: the last layers of the network up to its output, as for :class:`InputTask`.
        weight: of the term, a number or a function of the epoch.
        scale: ``"mean"`` or ``"sum"`` over the components, as for :class:`InputTask`.
        tied: the encoder is made of transposes; otherwise of linear layers of its own.
        code: the activation in front of ``layers`` in the network, as a path, a module or a
            function: the code then lies where the network's own activations do. None is none.
        noise: standard deviation of noise added to the labels in training.
        centre: take the batch's mean off the code first (published code).
        decay: adds ``decay·Σ‖W‖_F²`` of the layers (published code: 0.01).
        generator: source of the noise; by default torch's own.

    Raises:
        LorankError: if there is no linear layer, or a number is out of its range.

    Cost: one pass back through the layers and one forth: ``2·r·(in + out)`` MACs a row in SVD
    form. Source: Belharbi et al., Neurocomputing 2018, section 2.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> loss = OutputTask(["2"], code="1").bind(model)(torch.ones(5, 2))
        >>> loss.shape, loss.requires_grad
        (torch.Size([]), True)
    """

    def __init__(
        self,
        layers: Sequence[Link],
        weight: Weight = 1.0,
        *,
        scale: str = "mean",
        tied: bool = True,
        code: Link | None = None,
        noise: float = 0.0,
        centre: bool = False,
        decay: float = 0.0,
        generator: torch.Generator | None = None,
    ):
        if not 0 <= noise < math.inf:
            raise LorankError(
                f"noise is a standard deviation of at least 0 and finite, found {noise}"
            )
        super().__init__(layers, weight, scale, tied, decay)
        self._asked = (code,)  # in a tuple, as the layers: a module of the model stays its own
        self._code: list[Any] = []
        self.noise, self.centre, self.generator = noise, centre, generator
        if not isinstance(code, str):
            self._bind_to_modules()

    def bind(self, model: nn.Module | None) -> "Task":
        """Find the layers, and the activation in front of them, in a model."""
        super().bind(model)
        (code,) = self._asked
        if isinstance(code, str) and model is None:
            raise LorankError(f"the path {code!r} needs a model: task.bind(model)")
        found = layer_at(model, code) if isinstance(code, str) and model is not None else code
        self._code = [] if found is None else [found]
        if isinstance(code, str):
            self.chain.named.append((code, found))
        return self

    def forward(self, y: Tensor) -> Tensor:
        """The term of a batch of labels; those that miss an entry are left out."""
        _check_numbers(y, "labels")
        here = labelled(y, whole=True)
        if not bool(here.any()):
            return self._nothing()
        y = y[here]
        # Labels come as float64 from NumPy; the supervised loss takes them at any precision too.
        h = self._back(self._noisy(y).to(next(self.chain.layers[-1].parameters()).dtype))
        h = self._code[0](h) if self._code else h
        if self.centre:
            h = h - h.mean(0, keepdim=True)
        return self._error(self.chain(h), y)

    def _noisy(self, y: Tensor) -> Tensor:
        if not self.training or self.noise == 0:
            return y
        generator = self.generator
        return y + self.noise * _room(y, generator).normal_(generator=generator).to(y.device)


def _room(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Room for a draw, on the generator's device: it draws nowhere else."""
    return torch.empty_like(like, device=like.device if generator is None else generator.device)


def _check_numbers(values: Tensor, kind: str) -> None:
    """Refuse classes and tokens: a squared error from them means nothing."""
    if not values.is_floating_point():
        raise LorankError(
            f"a task reconstructs {kind} that are floating-point numbers, found {values.dtype}"
        )
