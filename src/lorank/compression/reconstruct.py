"""Reconstruct: solve each cut layer again for what the cut layers before it give."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lorank.compression.calibrate import LARGEST, Calibration, attempt, readers
from lorank.compression.latency import device_of
from lorank.compression.measure import layer_error
from lorank.compression.patches import check_positions, patches
from lorank.compression.sums import Gram, distributed
from lorank.compression.trace import Example, evaluating, first_argument
from lorank.errors import LorankError
from lorank.linalg import Moments, compensated, weighted_cut
from lorank.nn import Factored
from lorank.nn.surgery import Site, closed, exchange, opened, sites

STEPS = 16
"""The walk stops at most so often; a network with more cut layers is walked several at a time."""


class _Reached(BaseException):
    """The last layer of interest has been seen; a signal, which no handler of errors may catch."""


def reconstruct(
    model: nn.Module,
    dense: nn.Module,
    batches: Iterable[Example],
    *,
    calibration: Calibration | None = None,
    steps: int = STEPS,
    positions: int | None = 16,
    seed: int = 0,
) -> nn.Module:
    """Copy a cut network with its factors solved again in the order in which layers run.

    A cut changes what all later layers read. Walking from the input to the output, each cut layer
    gets the factors of its rank that best give, from the patches ``x̂`` of the network cut so
    far, what the dense layer makes of the true ones: ``min E‖H^½·(W·x − Ŵ·x̂)‖²``. Ranks,
    layouts and cost stay what they are, no weight outside the cut layers is touched, and no label
    is needed.

    Args:
        model: the network cut by :func:`lorank.decompose`, in SVD form; it is not changed.
        dense: the network it came from.
        batches: what both are called with; all are kept, and run ``steps`` times. The first one
            shows which layers run, and in which order; others stay as they were cut.
        calibration: of the dense network, to weigh the errors of each output direction.
        steps: at most so many stops; the layers between two stops are solved together.
        positions: at most so many output positions of each sample; ``None`` takes all.
        seed: draws the positions.

    Returns:
        A new model, to be folded.

    Raises:
        LorankError: if there is no batch, a network does not run on one, no layer is cut, the two
            networks have other layers, or a cut layer reads NaN or Inf.

    Cost: for each stop a pass of both networks over all batches, up to that layer. Source: Zhang,
    Zou, He and Sun, Accelerating very deep convolutional networks, TPAMI 2016, section 3.3
    (asymmetric reconstruction), with the least-squares step solved in closed form.

    Example:
        >>> import lorank
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
        >>> x = torch.randn(64, 8)
        >>> low = lorank.decompose(net, {"0": 2, "2": 3})
        >>> better = reconstruct(low, net, [x])
        >>> bool((better(x) - net(x)).norm() < (low(x) - net(x)).norm())
        True
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise LorankError(f"steps must be a whole number of at least 1, found {steps!r}")
    check_positions(positions)
    kept = list(batches)
    if not kept:
        raise LorankError("reconstruct needs at least one batch, found none")
    low, source = exchange(opened(model), {}), opened(dense)
    cut = _cut_sites(low, source)
    unknown = [repr(name) for name in cut if calibration is not None and name not in calibration]
    if unknown:
        raise LorankError(
            f"calibration has seen nothing of {', '.join(unknown)}: give the one that the cut was "
            "made with"
        )
    with evaluating(low), evaluating(source), torch.no_grad():
        calls = _calls(low, cut, kept[0])
        order, most = list(calls), -(-len(calls) // steps)
        for start in range(0, len(order), most):
            seen = [_Seen(name, *cut[name]) for name in order[start : start + most]]
            stop = sum(calls[one.name] for one in seen)
            for number, batch in enumerate(kept):
                for one in seen:
                    one.waiting.clear()
                for which, net in (("true", source), ("changed", low)):
                    noise = torch.Generator().manual_seed(seed * len(kept) + number)
                    _pass(net, seen, which, batch, _Draw(positions, noise), stop)
            for one in seen:
                one.solve(calibration, device_of(low))
    return closed(low)


def _cut_sites(low: nn.Module, source: nn.Module) -> dict[str, tuple[Site, Site]]:
    """Layers below full rank: name → its site in the dense and in the cut network.

    A table that is looked up as well is not among them: its rows are read without a pass before.

    Raises:
        LorankError: if there is none, or the dense network does not have it.
    """
    known = {site.name: site for site in sites(source)}
    found = {s.name: s for s in sites(low) if _solvable(s)}
    if not found:
        raise LorankError("reconstruct needs a layer in SVD form below full rank, found none")
    for name, site in found.items():
        same = known.get(name)
        if same is None or same.factored or _kernel(same) != _kernel(site):
            raise LorankError(
                f"reconstruct needs the dense network that was cut, and layer {name!r} is not the "
                "same in both"
            )
    return {name: (known[name], site) for name, site in found.items()}


def _solvable(site: Site) -> bool:
    if not site.factored or not site.module.weighed:
        return False
    every = len(readers(site)) == len(site.members)
    small = site.view().patch_size <= LARGEST  # of others no moments are kept
    return every and small and site.module.rank < min(site.view().shape)


def _kernel(site: Site) -> tuple[Any, ...]:
    view = site.view()
    return (view.out_channels, view.in_channels, view.kernel_size, view.groups, view.transposed)


def _calls(
    model: nn.Module, cut: Mapping[str, tuple[Site, Site]], batch: Example
) -> dict[str, int]:
    """Cut layers in the order in which a pass reaches them, with how often each is called.

    Raises:
        LorankError: if it reaches none.
    """
    calls: dict[str, int] = {}

    def count(name: str, *_: Any) -> None:
        calls[name] = calls.get(name, 0) + 1

    with ExitStack() as stack:
        for name, (_, site) in cut.items():
            for layer in readers(site):
                stack.callback(layer.register_forward_pre_hook(partial(count, name)).remove)
        attempt(model, batch)
    if not calls:
        raise LorankError("the batches reach no layer that was cut")
    return calls


class _Draw(NamedTuple):
    """Which positions are looked at: the same in both networks, where the noise begins anew."""

    positions: int | None
    noise: torch.Generator


class _Seen:
    """What one cut layer reads, in the dense network and in the cut one."""

    def __init__(self, name: str, dense: Site, low: Site):
        self.name = name
        self.sites = {"true": dense, "changed": low}
        self.view = low.view()
        self.waiting: list[Tensor] = []
        self.changed, self.cross = Gram(), Gram()

    def take(self, which: str, rows: Tensor) -> None:
        if which == "true":
            self.waiting.append(rows.clone())  # the network may go on to change them in place
            return
        true = self.waiting.pop(0) if self.waiting else None
        if true is not None and true.shape == rows.shape:  # else the two networks went other ways
            self.changed.add(rows, rows)
            self.cross.add(true, rows)

    def solve(self, calibration: Calibration | None, device: torch.device) -> None:
        """Put the best factors for the changed input in the place of the present ones."""
        n = self.view.patch_size
        for gram in (self.changed, self.cross) if distributed() else ():
            gram.join((self.view.groups, n, n), device)
        if not self.changed.rows:
            return
        known = (calibration or {}).get(self.name)
        moments = Moments(self.changed.mean, known and known.outputs, self.changed.rows)
        layer: Factored = self.sites["changed"].module
        weight = self.sites["true"].module.weight
        try:
            kernel = compensated(self.view, weight, moments, self.cross.mean)
            factors = weighted_cut(self.view, kernel, moments, layer.rank)
        except LorankError as error:
            raise layer_error(self.sites["changed"], error) from None
        for old, new in zip((layer.U, layer.S, layer.Vh), factors, strict=True):
            old.copy_(new)


def _pass(
    model: nn.Module, seen: Sequence[_Seen], which: str, batch: Example, draw: _Draw, stop: int
) -> None:
    """Run up to the last call of some layers, and keep what they read."""
    calls = iter(range(1, stop + 1))

    def keep(one: _Seen, layer: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        x = first_argument(args, named).detach()
        one.take(which, patches(layer, one.view, x, *draw))
        if next(calls) == stop:
            raise _Reached

    with ExitStack() as stack:
        for one in seen:
            for layer in readers(one.sites[which]):
                hook = partial(keep, one)
                handle = layer.register_forward_pre_hook(hook, with_kwargs=True)
                stack.callback(handle.remove)
        with suppress(_Reached):
            attempt(model, batch)
