"""One loss for a network: the supervised task, reconstructions, and penalties on tapped layers."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lorank.errors import LorankError, unknown
from lorank.nn import Tap
from lorank.nn.tap import rows_of as flattened
from lorank.structured.anneal import Weight, weight_at
from lorank.structured.chain import check_runs_first, check_runs_last
from lorank.structured.missing import labelled, masked_mse, present
from lorank.structured.tasks import InputTask, OutputTask, Task

SUPERVISED = "supervised"


@dataclass(frozen=True)
class Tapped:
    """A penalty on a hidden layer: ``function(h, y)`` of what it gives for labelled inputs.

    Args:
        layer: path of the layer.
        function: ``(h, y) → scalar``, such as a class-wise penalty.
        weight: of the term, a number or a function of the epoch.
        flatten: give ``h`` as ``(batch, features)``.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 1))
        >>> small = Tapped("1", lambda h, y: h.square().mean(), weight=0.1)
        >>> total, parts = Regularizers(model, {"norm": small})(torch.ones(2, 4), torch.ones(2, 1))
        >>> sorted(parts)
        ['norm', 'supervised']
    """

    layer: str
    function: Callable[[Tensor, Tensor], Tensor]
    weight: Weight = 1.0
    flatten: bool = True


class Regularizers(nn.Module):
    """``λ_sup·J_sup + Σ λ_k·J_k``: a network's loss with reconstruction tasks and penalties.

    A plain module around the network: its parameters are the network's and the few that the
    tasks have of their own, so that one optimizer gets ``regularizers.parameters()``. For several
    processes wrap it whole, ``DistributedDataParallel(Regularizers(model, …))``: parameters that a
    batch does not use then get a gradient of zero. At test time the network alone is used.

    Args:
        model: the network.
        terms: name → :class:`InputTask`, :class:`OutputTask` or :class:`Tapped`.
        supervised: weight of the supervised loss, a number or a function of the epoch
            (``anneal.rest()`` couples it to another).
        loss: ``(outputs, labels) → scalar`` on rows with a label; by default the mean squared
            error over the entries of the labels that are not missing.
        check: look, at the first batch with inputs, whether the tasks' layers are what the network
            runs first and last.

    Raises:
        LorankError: if a term is of another kind, or its layers are not in the model.

    Cost: a forward pass, and those of the tasks; a term of weight 0 is not computed.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> terms = {"in": InputTask(["0", "1"], 0.5), "out": OutputTask(["2"], code="1")}
        >>> total, parts = Regularizers(model, terms).loss((torch.ones(5, 8), torch.ones(5, 2)), 0)
        >>> total.backward()
        >>> sorted(parts)
        ['in', 'out', 'supervised']
    """

    def __init__(
        self,
        model: nn.Module,
        terms: Mapping[str, InputTask | OutputTask | Tapped] | None = None,
        *,
        supervised: Weight = 1.0,
        loss: Callable[[Tensor, Tensor], Tensor] = masked_mse,
        check: bool = True,
    ):
        super().__init__()
        self.model, self.supervised, self.criterion = model, supervised, loss
        self.tasks = nn.ModuleDict()
        self.functions = (
            nn.ModuleDict()
        )  # of tapped penalties, so that their parameters are trained
        self.tapped: dict[str, Tapped] = {}
        self.check = check
        for name, term in (terms or {}).items():
            self._add(name, term)
        self._tap = Tap(model, *{t.layer for t in self.tapped.values()}) if self.tapped else None

    def _add(self, name: str, term: Any) -> None:
        if name == SUPERVISED or not name.isidentifier():
            raise LorankError(f"a term has a name of its own, of letters, found {name!r}")
        if isinstance(term, Tapped):
            self.tapped[name] = term
            if isinstance(term.function, nn.Module):
                self.functions[name] = term.function
        elif isinstance(term, Task):
            # Names such as "in" are no attributes of a ModuleDict, but keys of it.
            self.tasks[name] = term.bind(self.model)
        else:
            raise LorankError(
                f"a term is an InputTask, an OutputTask or a Tapped, "
                f"and {name!r} is a {type(term).__name__}"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """The terms' names, without the supervised one."""
        return (*self.tasks, *self.tapped)

    def term(self, name: str) -> Any:
        """A term by its name.

        Raises:
            LorankError: if there is none.
        """
        if name not in self.names:
            raise unknown("term", name, self.names)
        return self.tapped[name] if name in self.tapped else self.tasks[name]

    def weights(self, epoch: float = 0) -> dict[str, float]:
        """All weights at an epoch.

        Raises:
            LorankError: if one is negative or not finite.
        """
        found = {SUPERVISED: weight_at(self.supervised, epoch)}
        return found | {name: weight_at(self.term(name).weight, epoch) for name in self.names}

    def loss(
        self, batch: Any, epoch: float = 0, only: Iterable[str] | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The total of a batch at an epoch, and its parts.

        Args:
            batch: ``(x, y)``; either may be None, and rows of either may be NaN
                (:mod:`lorank.structured.missing`).
            epoch: for the weights.
            only: names of the parts to compute, ``"supervised"`` among them; by default all.

        Returns:
            The total, and the parts without their weights, detached, for a log.

        Raises:
            LorankError: if the batch has nothing in it, or is not a pair.
        """
        x, y = pair(batch)
        return self(x, y, epoch, only)

    def forward(
        self,
        x: Tensor | None,
        y: Tensor | None,
        epoch: float = 0,
        only: Iterable[str] | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The same with the batch in two arguments, for wrappers that call the module."""
        rows = rows_of(x, y)
        weights = self._wanted(epoch, only)
        parts: dict[str, Tensor] = {}
        if x is not None and self.check and bool(rows.seen.any()):
            self._check(x[rows.seen][:8])
        for name, task in self.tasks.items():
            source = x if isinstance(task, InputTask) else y
            here = rows.seen if isinstance(task, InputTask) else rows.whole
            task.chain.check_current(self.model)  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]
            if weights.get(name, 0.0) > 0 and source is not None and bool(here.any()):
                parts[name] = task(source)
        parts |= self._supervised(x, y, rows.pairs, weights)
        total = [weights[name] * _one(name, part) for name, part in parts.items()]
        total += self._rest(parts, weights)
        if not total:
            total = [self._zero(self.parameters())]
        whole = torch.stack(total).sum()
        return whole, {name: part.detach() for name, part in parts.items()}

    def _wanted(self, epoch: float, only: Iterable[str] | None) -> dict[str, float]:
        weights = self.weights(epoch)
        if only is None:
            return weights
        wanted = set(only)
        for name in wanted - weights.keys():
            raise unknown("part", name, weights)
        return {name: weight for name, weight in weights.items() if name in wanted}

    def _supervised(
        self, x: Tensor | None, y: Tensor | None, pairs: Tensor, weights: Mapping[str, float]
    ) -> dict[str, Tensor]:
        """The supervised loss and the tapped penalties, in one pass over the pairs."""
        penalties = [name for name in self.tapped if weights.get(name, 0.0) > 0]
        if x is None or y is None or not bool(pairs.any()):
            return {}
        if weights.get(SUPERVISED, 0.0) == 0 and not penalties:
            return {}
        x, y = (x, y) if bool(pairs.all()) else (x[pairs], y[pairs])
        with self._tap or nullcontext() as tap:
            outputs = self.model(x)
        found = {}
        if weights.get(SUPERVISED, 0.0) > 0:
            found[SUPERVISED] = self.criterion(outputs, y)
        for name in penalties:
            term = self.tapped[name]
            h = tap[term.layer]  # pyright: ignore[reportOptionalSubscript]
            found[name] = term.function(flattened(h) if term.flatten else h, y)
        if tap is not None:
            tap.clear()
        return found

    def _rest(self, parts: Mapping[str, Tensor], weights: Mapping[str, float]) -> list[Tensor]:
        """Zeros that touch every parameter, where several processes wait for all gradients."""
        if not torch.distributed.is_available() or not torch.distributed.is_initialized():
            return []
        if parts.keys() == {SUPERVISED, *self.names}:
            return []
        return [self._zero(self.parameters())]

    @staticmethod
    def _zero(parameters: Iterable[nn.Parameter]) -> Tensor:
        trained = [p for p in parameters if p.requires_grad]
        if not trained:
            return torch.zeros(())
        ends = [p.flatten()[:1].sum().float() for p in trained]
        return torch.stack([end.to(ends[0].device) for end in ends]).sum() * 0.0

    def _check(self, x: Tensor) -> None:
        """Look once whether the tasks' layers are the network's first and last."""
        self.check = False
        if torch.compiler.is_compiling():
            return
        for task in self.tasks.values():
            if isinstance(task, InputTask):
                check_runs_first(task.chain, self.model, x)
            elif isinstance(task, OutputTask):
                check_runs_last(task.chain, self.model, x)


def _one(name: str, part: Any) -> Tensor:
    """A part as a scalar."""
    if not isinstance(part, Tensor) or part.numel() != 1:
        found = tuple(part.shape) if isinstance(part, Tensor) else type(part).__name__
        raise LorankError(f"each part of a loss is a tensor of one number, and {name!r} is {found}")
    return part.reshape(())


class Rows(NamedTuple):
    """Which rows have an input, a whole label, and an input with a label."""

    seen: Tensor
    whole: Tensor
    pairs: Tensor


def pair(batch: Any) -> tuple[Any, Any]:
    """A batch as ``(x, y)``.

    Raises:
        LorankError: if it is anything else.
    """
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        raise LorankError("a batch is a pair (x, y), either of them None where it is missing")
    return batch[0], batch[1]


def rows_of(x: Tensor | None, y: Tensor | None) -> Rows:
    """Look which rows of a batch are there.

    Raises:
        LorankError: if there is nothing in it, or its parts are no tensors, differ in length or
            lie on two devices.
    """
    given = next((part for part in (x, y) if part is not None), None)
    for part in (x, y):
        if part is not None and (not isinstance(part, Tensor) or part.ndim == 0):
            raise LorankError(f"a batch consists of tensors of rows, found {type(part).__name__}")
    if given is None or len(given) == 0:
        raise LorankError("a batch has inputs, labels or both, found nothing in it")
    if x is not None and y is not None and len(x) != len(y):
        raise LorankError(
            f"a batch has as many inputs as labels (NaN where one is missing), "
            f"found {len(x)} and {len(y)}"
        )
    if x is not None and y is not None and x.device != y.device:
        raise LorankError(
            f"a batch lies on one device, found inputs on {x.device} and labels on {y.device}"
        )
    none = torch.zeros(len(given), dtype=torch.bool, device=given.device)
    seen = none if x is None else present(x)
    known = none if y is None else labelled(y)
    return Rows(seen, none if y is None else labelled(y, whole=True), seen & known)
