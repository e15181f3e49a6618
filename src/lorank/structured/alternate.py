"""The published form: one update for each task in turn, each with an optimizer of its own."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from lorank.errors import LorankError, unknown
from lorank.structured.regularizers import SUPERVISED, Regularizers, Tapped, pair, rows_of

LAST = ("weighted", "supervised")


def optimizers_of(
    regularizers: Regularizers, make: Callable[[list[nn.Parameter]], Optimizer]
) -> dict[str, Optimizer]:
    """One optimizer for each task over what it trains, and one over everything.

    Args:
        regularizers: a network with its tasks.
        make: from parameters to an optimizer.

    Returns:
        Name of the part → optimizer; ``"supervised"`` is the one over everything.

    Raises:
        LorankError: if a part has nothing that is trained.

    Example:
        >>> from lorank.structured import InputTask, alternate
        >>> model = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> whole = Regularizers(model, {"in": InputTask(["0", "1"])})
        >>> sorted(optimizers_of(whole, lambda p: torch.optim.SGD(p, 0.1, momentum=0.9)))
        ['in', 'supervised']
    """
    parts = {SUPERVISED: regularizers.parameters()}
    for name in regularizers.names:
        term = regularizers.term(name)
        everything = isinstance(term, Tapped)
        parts[name] = regularizers.parameters() if everything else term.touched()
    return {name: make(trained(name, parameters)) for name, parameters in parts.items()}


def alternate(
    regularizers: Regularizers,
    batch: Any,
    epoch: float,
    optimizers: Mapping[str, Optimizer],
    *,
    last: str = "weighted",
    call: Callable[..., Any] | None = None,
) -> dict[str, Tensor]:
    """Make up to one update for each part of a batch: the tasks in their order, then the pairs.

    A task steps on all its rows, labelled or not, with its weight. Then the pairs step: with
    ``last="weighted"`` on the whole weighted sum, as the published code does, and with
    ``"supervised"`` on the supervised loss alone, so that with ``λ_s + λ_r = 1`` the two alternate.
    A part of weight 0, or without rows, makes no update, and its momentum rests.

    Args:
        regularizers: a network with its tasks.
        batch: ``(x, y)`` as for :meth:`Regularizers.loss`.
        epoch: for the weights.
        optimizers: as :func:`optimizers_of` makes them; several give several momentum buffers.
        last: ``"weighted"`` or ``"supervised"``.
        call: what to call in place of ``regularizers``: its wrapper for several processes.

    Returns:
        The parts without their weights, for a log.

    Raises:
        LorankError: if an optimizer is missing, ``last`` is unknown, or the batch is none.

    Source: the training loop of Belharbi et al., Neurocomputing 2018; the coupled form of ESANN
    2016. With momentum it is not the joint loss: steps of the same gradient add up differently.

    Example:
        >>> from lorank.structured import InputTask
        >>> model = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> whole = Regularizers(model, {"in": InputTask(["0", "1"])})
        >>> steps = optimizers_of(whole, lambda p: torch.optim.SGD(p, 0.01))
        >>> sorted(alternate(whole, (torch.ones(5, 8), torch.ones(5, 2)), 0, steps))
        ['in', 'supervised']
    """
    if last not in LAST:
        raise unknown("last step", last, LAST)
    for name in (SUPERVISED, *regularizers.names):
        if name not in optimizers:
            raise LorankError(
                f"alternating steps need an optimizer for each part, {name!r} has none"
            )
    run = call or regularizers
    x, y = pair(batch)
    pairs = rows_of(x, y).pairs
    parts: dict[str, Tensor] = {}
    for name in regularizers.names:
        parts |= _step(run, x, y, epoch, (name,), optimizers[name])
    if bool(pairs.any()):
        only = None if last == "weighted" else (SUPERVISED,)
        found = _step(run, x[pairs], y[pairs], epoch, only, optimizers[SUPERVISED])
        parts |= {name: value for name, value in found.items() if name not in parts}
    return parts


def _step(
    run: Callable[..., Any], x: Any, y: Any, epoch: float, only: Any, optimizer: Optimizer
) -> dict[str, Tensor]:
    total, parts = run(x, y, epoch, only)
    if parts:
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    return parts


def trained(name: str, parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    """Parameters of a part that are not frozen.

    Raises:
        LorankError: if all are.
    """
    found = [p for p in parameters if p.requires_grad]
    if not found:
        raise LorankError(f"all parameters of the part {name!r} are frozen: leave it out")
    return found
