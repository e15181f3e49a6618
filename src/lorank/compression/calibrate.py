"""Calibrate: what each layer reads, and how much the network's answer depends on what it writes."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lorank.compression.latency import device_of
from lorank.compression.patches import check_positions, patches
from lorank.compression.sums import Gram, all_of, distributed, single
from lorank.compression.trace import Example, describe, evaluating, first_argument, run
from lorank.errors import LorankError
from lorank.linalg import Moments, Unfolding
from lorank.nn import SVDEmbedding
from lorank.nn.surgery import Site, opened, select, sites

POSITIONS = 16
"""Output positions of a sample that are looked at: neighbours hardly differ, and a moment costs
as much as the layer's own work at so many times its patch's size in positions."""

Answer = Callable[[Any], Tensor]


LARGEST = 8192
"""Largest patch whose whole moment is kept, half a gigabyte; of larger ones only the power is."""


class Calibration(dict[str, Moments]):
    """Layer name → :class:`lorank.linalg.Moments`, and how many samples they were taken from.

    Layers that no batch has reached, or that the answer does not depend on, are not in it.

    Example:
        >>> table = Calibration({"0": Moments(torch.eye(4)[None], None, 64)}, samples=64)
        >>> list(table), table.samples
        (['0'], 64)
    """

    def __init__(self, *args, samples: int = 0, **kwargs):
        super().__init__(*args, **kwargs)
        self.samples = samples


def calibrate(
    model: nn.Module,
    batches: Iterable[Example],
    *,
    answer: Answer | None = None,
    outputs: bool = True,
    layers: Iterable[str] | None = None,
    skip: Iterable[str] | None = None,
    positions: int | None = POSITIONS,
    seed: int = 0,
) -> Calibration:
    """Gather the second moments that tell a cut which errors matter, from unlabelled inputs.

    For each weight: ``G = E[x·xᵀ]`` of the patches it reads, and ``H = E[Σ g·gᵀ]`` of the
    gradients ``g = Jᵀv`` at its output, ``J`` the derivative of the network's answer and v normal
    noise. To first order an error ``D`` of the weight then moves the answer by
    ``E‖δ‖² ≈ ‖H^½·D·G^½‖_F²``. One forward and one backward pass a batch; sums are kept in
    float64, and their size does not depend on how many batches there are. Under
    ``torch.distributed`` each process takes its own batches, and all end with the sum.

    Args:
        model: dense, in SVD form, or both; it is run in evaluation mode and not changed.
        batches: what the model is called with (a tensor, a tuple of arguments, a dict of named
            ones), each with as many samples as its first tensor has rows.
        answer: picks from what the model returns the tensor that matters; by default a tensor
            itself, ``logits`` where there are some, and else the first float tensor.
        outputs: watch gradients as well; without them the error of each layer's own output
            counts, and one forward pass a batch is all.
        layers: names or shell patterns of the layers to watch; by default all that have an SVD
            form, but for embeddings that are only looked up. Layers of quaternions are left out:
            their errors cannot be weighed.
        skip: names or patterns of layers to leave alone.
        positions: at most so many output positions of each sample enter ``G``; ``None`` takes
            all.
        seed: draws the positions and the noise.

    Returns:
        A table by layer name, for :func:`lorank.measure` and :func:`lorank.decompose`.

    Raises:
        LorankError: if there is no batch, the model does not run on one, a layer reads NaN or
            Inf, no layer is reached, the answer has no gradient, or gradients are asked for under
            ``torch.inference_mode``.

    Cost: a batch costs a forward pass, a backward pass without weight gradients, and ``p·n²`` MACs
    a sample and layer for p positions and patches of n entries. ``n² + m²`` numbers a layer; of
    patches of more than ``LARGEST`` entries only the power is kept, and each direction counts
    alike.
    Source: Martens and Grosse, Optimizing neural networks with Kronecker-factored approximate
    curvature, 2015; Grosse and Martens, 2016, for convolutions.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> calibration = calibrate(model, [torch.ones(8, 4)])
        >>> calibration["0"].inputs.shape, calibration["0"].outputs.shape, calibration.samples
        (torch.Size([1, 4, 4]), torch.Size([1, 3, 3]), 8)
    """
    if outputs and torch.is_inference_mode_enabled():
        raise LorankError(
            "calibrate follows gradients, and under torch.inference_mode there are none: pass "
            "outputs=False"
        )
    check_positions(positions)
    model = opened(model)
    chosen = select(sites(model), layers, skip)
    watched = [s for s in chosen if not s.lookup_only and s.kind is not None and s.kind.weighed]
    if not watched:
        raise LorankError("no layer is left to calibrate: layers or skip leave none")
    sums = {site.name: _Sums(site.view()) for site in watched}
    noise = torch.Generator().manual_seed(seed)
    samples = 0
    with ExitStack() as stack:
        stack.enter_context(evaluating(model))
        stack.enter_context(_frozen(model))
        for site in watched:
            for layer in readers(site):
                watch = partial(_watch, site.name, sums[site.name], positions, noise, outputs)
                handle = layer.register_forward_hook(watch, with_kwargs=True)
                stack.callback(handle.remove)
        for batch in batches:
            samples += batch_size(batch)
            _pass(model, batch, answer, outputs, noise)
    samples = _joined(sums, samples, device_of(model))
    if samples == 0:
        raise LorankError("calibration needs at least one batch, found none")
    reached = {n: s.moments(samples) for n, s in sums.items() if s.counts(outputs)}
    if not reached and any(s.inputs.rows for s in sums.values()):
        raise LorankError(
            "the model's answer must depend on its layers by a derivative, and has none: "
            "pass outputs=False, or an answer that picks another tensor"
        )
    if not reached:
        raise LorankError("calibration reached no layer that can be decomposed")
    return Calibration(reached, samples=samples)


class _Sums:
    """Running sums of one weight."""

    def __init__(self, view: Unfolding):
        self.view = view
        self.inputs = Gram()
        self.outputs = Gram()

    def moments(self, samples: int) -> Moments:
        written = self.outputs.total
        outputs = None if written is None else written / samples
        return Moments(self.inputs.mean, outputs, self.inputs.rows)

    def add(self, rows: Tensor) -> None:
        """Add patches, or of large ones their root mean squares."""
        if self.view.patch_size > LARGEST:
            rows = single(rows).square().mean(-1, keepdim=True).sqrt()
        self.inputs.add(rows, rows)

    def counts(self, outputs: bool) -> bool:
        """Whether the layer was reached, and the answer depends on it."""
        return self.inputs.rows > 0 and (self.outputs.rows > 0 or not outputs)

    def join(self, device: torch.device) -> None:
        groups = self.view.groups
        n, m = self.view.patch_size, self.view.out_channels // groups
        n = n if n <= LARGEST else 1
        self.inputs.join((groups, n, n), device)
        self.outputs.join((groups, m, m), device)


def readers(site: Site) -> list[nn.Module]:
    """Layers of a site that multiply by its weight: not a tied embedding, which looks rows up."""
    tables = nn.Embedding, SVDEmbedding
    return [layer for layer in site.members.values() if not isinstance(layer, tables)]


def attempt(model: nn.Module, batch: Example) -> Any:
    """Run a model on one of many batches.

    Raises:
        LorankError: if it does not run.
    """
    try:
        return run(model, batch)
    except LorankError:
        raise
    except Exception as error:
        raise LorankError(
            f"the model must run on every batch, and failed on {describe(batch)}: {error}"
        ) from error


def _watch(
    name: str,
    sums: _Sums,
    positions: int | None,
    noise: torch.Generator,
    outputs: bool,
    layer: nn.Module,
    args: tuple[Any, ...],
    named: dict[str, Any],
    out: Tensor,
) -> Tensor | None:
    """Add a call's patches, and see to it that its gradient is added when it comes."""
    x = first_argument(args, named).detach()
    with torch.no_grad():
        rows = patches(layer, sums.view, x, positions, noise)
        if not torch.isfinite(rows).all():
            raise LorankError(
                f"calibration needs finite inputs, and layer {name!r} read NaN or Inf in "
                f"{describe(x)}"
            )
        sums.add(rows)
    if not outputs:
        return None
    if not out.requires_grad:  # the first layer on its path: gradients begin here
        out = out.detach().requires_grad_()
    out.register_hook(partial(_add_gradient, sums))
    return out.clone()  # what follows may work in place


def _add_gradient(sums: _Sums, gradient: Tensor) -> None:
    g = gradient.detach()
    axes = len(sums.view.kernel_size)
    if axes:
        g = g if g.ndim == axes + 2 else g.unsqueeze(0)
        g = g.flatten(2).transpose(1, 2)
    g = g.reshape(-1, sums.view.groups, sums.view.out_channels // sums.view.groups).transpose(0, 1)
    sums.outputs.add(g, g)


def _pass(
    model: nn.Module,
    batch: Example,
    answer: Answer | None,
    outputs: bool,
    noise: torch.Generator,
) -> None:
    with torch.set_grad_enabled(outputs):
        result = attempt(model, batch)
    if not outputs:
        return
    wanted = (answer or answer_of)(result)
    if not wanted.requires_grad:  # this batch reached no layer, or the answer is cut off from it
        return
    v = torch.randn(wanted.shape, generator=noise).to(wanted)
    wanted.backward(v)


def answer_of(result: Any) -> Tensor:
    """Pick what counts of what a model returns: a tensor, ``logits``, the first float tensor.

    Raises:
        LorankError: if there is none.
    """
    if isinstance(result, Tensor):
        return result
    if isinstance(result, Mapping):
        if isinstance(result.get("logits"), Tensor):
            return result["logits"]
        result = tuple(result.values())
    if isinstance(result, tuple | list):
        found = [r for r in result if isinstance(r, Tensor) and r.is_floating_point()]
        if found:
            return found[0]
    raise LorankError(
        f"the model must return a float tensor, or a tuple or dict with one, found "
        f"{describe(result)}: pick one with answer"
    )


def batch_size(batch: Example) -> int:
    """Count the samples of a batch: the rows of its first tensor."""
    if isinstance(batch, Tensor):
        return batch.shape[0] if batch.ndim else 1
    entries: Iterator[Any] = iter(batch.values() if isinstance(batch, Mapping) else batch)
    return next((batch_size(e) for e in entries if isinstance(e, Tensor)), 1)


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Spare the gradients of weights, which nobody reads, and keep those that are there."""
    asked = [p for p in model.parameters() if p.requires_grad]
    try:
        for parameter in asked:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in asked:
            parameter.requires_grad_(True)


def _joined(sums: Mapping[str, _Sums], samples: int, device: torch.device) -> int:
    """Add up over processes."""
    if not distributed():
        return samples
    for one in sums.values():
        one.join(device)
    return all_of(samples, device)
