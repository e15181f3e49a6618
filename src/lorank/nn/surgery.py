"""Find the layers of a model that have an SVD form, by name, and exchange them.

A model is never changed: it is copied with :func:`copy.deepcopy`, whose memo maps what is
exchanged to its successor. So a module used in two places stays one module, tied weights stay
tied, and what is replaced is not copied first.
"""

import copy
import fnmatch
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lorank.errors import LorankError, unknown
from lorank.linalg import SVD, Unfolding
from lorank.nn import attention
from lorank.nn.attention import Attention, Ties, is_dense, pack, unpack
from lorank.nn.conv import SVDConv
from lorank.nn.embedding import SVDEmbedding
from lorank.nn.factored import HOOKS, Factored, carries_hooks
from lorank.nn.linear import SVDLinear
from lorank.nn.quaternion import QuaternionLinear, SVDQuaternionLinear
from lorank.nn.quaternion_conv import QuaternionConv2d, SVDQuaternionConv
from lorank.nn.transposed import SVDConv1D

KINDS: dict[type[nn.Module], type[Factored]] = {
    nn.Linear: SVDLinear,
    nn.Conv1d: SVDConv,
    nn.Conv2d: SVDConv,
    nn.Conv3d: SVDConv,
    nn.ConvTranspose1d: SVDConv,
    nn.ConvTranspose2d: SVDConv,
    nn.ConvTranspose3d: SVDConv,
    nn.Embedding: SVDEmbedding,
    QuaternionLinear: SVDQuaternionLinear,
    QuaternionConv2d: SVDQuaternionConv,
}
"""Dense layer → its SVD form. A new layer type is one row here."""

FOREIGN: dict[str, type[Factored]] = {"transformers.pytorch_utils.Conv1D": SVDConv1D}
"""The same for layers of other libraries, by the full name of their class: nothing is imported."""

Key = tuple[Any, ...]


@dataclass
class Site:
    """One weight of a model that has, or could have, an SVD form.

    Attributes:
        name: path of the first layer that holds the weight.
        members: the layers that hold it, by path: several where weights are tied.
        aliases: every other path that leads to one of the members.
        kind: the SVD form, or ``None`` where there is none.
        reason: why the weight stays dense, or ``None``.
    """

    name: str
    members: dict[str, nn.Module]
    kind: type[Factored] | None
    reason: str | None = None
    aliases: list[str] = field(default_factory=list)

    @property
    def module(self) -> Any:
        """The first layer that holds the weight."""
        return self.members[self.name]

    @property
    def factored(self) -> bool:
        """Whether the weight is in SVD form already."""
        return isinstance(self.module, Factored)

    @property
    def lookup_only(self) -> bool:
        """Whether the weight is only ever read row by row, at no MACs."""
        return all(isinstance(m, nn.Embedding) for m in self.members.values())

    def weights(self, view: Unfolding) -> tuple[int, int]:
        """Weights of the dense kernel, and of each rank of the thin ones.

        An embedding expands its thin rows by a kernel that a linear layer stores transposed: such
        a tie shares the outer kernel alone when it is folded.
        """
        dense, per_rank = view.weights()
        forms = (type(m) if isinstance(m, Factored) else svd_form(m) for m in self.members.values())
        inner = {form.inner_role for form in forms if form is not None}
        return dense, per_rank + (len(inner) - 1) * view.groups * view.shape[1]

    def view(self, layout: str = "channel") -> Unfolding:
        """Return the weight's matrix view: the layer's own, or a dense layer's in a layout."""
        if self.factored:
            return self.module.view
        assert self.kind is not None
        return self.kind.unfold(self.module, layout)


def sites(model: nn.Module) -> list[Site]:
    """List every weight of two or more axes, in the order of the model, with why it is skipped.

    Args:
        model: any module; packed attention must be opened first, by :func:`opened`.

    Returns:
        One entry a weight, however many layers share it.

    Example:
        >>> [site.name for site in sites(nn.Sequential(nn.Linear(2, 3), nn.ReLU()))]
        ['0']
    """
    found: dict[Key, Site] = {}
    paths = _paths(model)
    sealed = _sealed(model)
    for name, module in model.named_modules():
        for key, reason, kind in _weights(module, sealed.get(id(module))):
            if key not in found:
                found[key] = Site(name, {name: module}, kind, reason)
            else:
                _join(found[key], name, module, kind, reason)
    for site in found.values():
        every = [path for m in site.members.values() for path in paths[id(m)]]
        site.aliases = [path for path in every if path != site.name]
    return list(found.values())


def _paths(model: nn.Module) -> dict[int, list[str]]:
    paths: dict[int, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        paths.setdefault(id(module), []).append(name)
    return paths


def _sealed(model: nn.Module) -> dict[int, str]:
    """Layers whose weight is read by a module around them, with the reason to leave them alone."""
    sealed: dict[int, str] = {}
    for module in model.modules():
        if isinstance(module, nn.MultiheadAttention):
            why = attention.obstacle(module) or "it was not opened"
            reason = f"packed attention reads its weight, and stays packed: {why}"
            sealed.update((id(m), reason) for m in (module, module.out_proj))
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer) and id(module.self_attn) in sealed:
            reason = "the fused path of its encoder layer reads its weight"
            sealed.update((id(m), reason) for m in (module.linear1, module.linear2))
    return sealed


def _weights(
    module: nn.Module, sealed: str | None
) -> Iterable[tuple[Key, str | None, type[Factored] | None]]:
    """Identity, obstacle and SVD form of each weight that a module itself holds."""
    if isinstance(module, Factored):
        yield ("svd", id(module.U)), None, type(module)
        return
    kind = svd_form(module)
    if kind is not None and "weight" not in module._parameters:
        reason = "its weight is computed (weight_norm, spectral_norm, …): remove that first"
        yield ("module", id(module)), reason, kind
        return
    for name, weight in module.named_parameters(recurse=False):
        if kind is not None and name == "weight":
            yield _identity(weight), sealed or _obstacle(module, kind), kind
        elif _is_weight(weight):
            yield _identity(weight), sealed or f"{type(module).__name__} has no SVD form here", None


def _is_weight(parameter: Tensor) -> bool:
    return is_lazy(parameter) or parameter.ndim >= 2


def svd_form(module: nn.Module) -> type[Factored] | None:
    """Return the SVD form of a module: its own, or that of the dense type it is."""
    if isinstance(module, Factored):
        return type(module)
    found = _known(module)
    return found[1] if found else None


def _known(module: nn.Module) -> tuple[type[nn.Module], type[Factored]] | None:
    """Find the dense type that a module is, and its SVD form."""
    for dense, kind in KINDS.items():
        if isinstance(module, dense):
            return dense, kind
    for dense in type(module).__mro__:
        kind = FOREIGN.get(f"{dense.__module__}.{dense.__qualname__}")
        if kind is not None:
            return dense, kind
    return None


def _identity(weight: Tensor) -> Key:
    """Two weights are one where they show the same memory in the same way."""
    if type(weight) is not nn.Parameter or weight.device.type == "meta" or weight.numel() == 0:
        return ("object", id(weight))
    start = weight.untyped_storage().data_ptr(), weight.storage_offset()
    return (*start, tuple(weight.shape), weight.stride())


def _obstacle(module: nn.Module, kind: type[Factored]) -> str | None:
    found = _known(module)
    assert found is not None
    dense, _ = found
    weight = module.get_parameter("weight")
    if is_lazy(weight):
        return None  # refused in one sentence when it is measured
    if _runs_otherwise(module, dense):
        return f"{type(module).__name__} runs in its own way"
    if carries_hooks(module):
        return HOOKS
    if type(weight) is not nn.Parameter or weight.layout != torch.strided:
        return f"its weight is a {type(weight).__name__} of layout {weight.layout}"
    if module._modules or module._buffers or not {"weight", "bias"} >= set(module._parameters):
        return "it holds more than a weight and a bias, which would be lost"
    return kind.obstacle(module)


def _runs_otherwise(module: nn.Module, dense: type[nn.Module]) -> bool:
    """Whether a layer's pass differs from that of torch's own layer."""
    own = vars(module).keys() & RUNNING
    return bool(own) or any(
        getattr(type(module), name, None) is not getattr(dense, name, None) for name in RUNNING
    )


RUNNING = {"__call__", "forward", "_conv_forward", "_output_padding"}
"""What a layer's pass is made of."""


def _join(
    site: Site, name: str, module: nn.Module, kind: type[Factored] | None, reason: str | None
) -> None:
    """Add a layer that shares the site's weight; one that must stay dense keeps all dense."""
    if reason is None and site.reason is None:
        assert kind is not None
        assert site.kind is not None
        same = isinstance(module, Factored) or kind.unfold(module) == site.kind.unfold(site.module)
        if not same:
            reason = "the layers read the weight in different ways"
    if reason is not None and site.reason is None:
        site.reason = f"shares its weight with {name!r}: {reason}"
    site.members[name] = module


def opened(model: nn.Module) -> nn.Module:
    """Return the model with packed attention opened, on the same memory: nothing is copied.

    Returns the model itself where no attention is packed, or none can be opened.

    Raises:
        LorankError: if it is not a module.
    """
    check_module(model)
    ties: Ties = {}
    packed = [m for m in model.modules() if isinstance(m, nn.MultiheadAttention)]
    free = {id(m): unpack(m, ties) for m in packed if attention.obstacle(m) is None}
    return _unfused(exchange(model, free, share=True))


def check_module(model: object) -> None:
    """Refuse what is not a module.

    Raises:
        LorankError: if it is not one.
    """
    if not isinstance(model, nn.Module):
        raise LorankError(f"a model is a torch.nn.Module, found a {type(model).__name__}")


def closed(model: nn.Module) -> nn.Module:
    """Return the model with attention closed where its projections are all dense.

    In an encoder layer with a thin linear layer it stays open: torch's fused path, which reads
    the weights past their layers, is then not taken.
    """
    ties: Ties = {}
    held = {
        id(m.self_attn)
        for m in model.modules()
        if isinstance(m, nn.TransformerEncoderLayer) and (_thin(m.linear1) or _thin(m.linear2))
    }
    every = [m for m in model.modules() if isinstance(m, Attention) and id(m) not in held]
    dense = {id(m): pack(m, ties) for m in every if is_dense(m)}
    return _unfused(exchange(model, dense, share=True))


def _thin(module: nn.Module) -> bool:
    return isinstance(module, Factored) or hasattr(module, "svd_layout")


def _unfused(model: nn.Module) -> nn.Module:
    """Keep ``nn.TransformerEncoder`` from nested tensors while it holds opened attention."""
    for encoder in model.modules():
        if not isinstance(encoder, nn.TransformerEncoder):
            continue
        if any(isinstance(m, Attention) for m in encoder.modules()):
            if getattr(encoder, "use_nested_tensor", False):
                encoder.use_nested_tensor = False
                vars(encoder)["nested_when_closed"] = True
        elif hasattr(encoder, "nested_when_closed"):
            encoder.use_nested_tensor = vars(encoder).pop("nested_when_closed")
    return model


def exchange(model: nn.Module, successors: Mapping[int, Any], *, share: bool = False) -> nn.Module:
    """Copy a model with some of its modules or parameters exchanged.

    Args:
        model: what to copy.
        successors: identity of an object in the model → what stands in its place.
        share: keep parameters and buffers as they are, instead of copying them; the model
            itself is then returned when there is nothing to exchange.

    Raises:
        LorankError: if the model cannot be copied.
    """
    if share and not successors:
        return model
    memo: dict[int, Any] = dict(_results(model))
    if share:
        tensors = [*model.parameters(), *model.buffers()]
        memo.update((id(t), t) for t in tensors)
    memo.update(successors)
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:
        raise LorankError(
            f"a model must admit copy.deepcopy, and {type(model).__name__} does not: {error}"
        ) from error


def _results(model: nn.Module) -> dict[int, Tensor]:
    """Copies of computed tensors that modules keep (a normalised or masked weight), without graph.

    Torch refuses to copy them; a hook computes them anew before they are used.
    """
    kept = (v for m in model.modules() for v in vars(m).values() if isinstance(v, Tensor))
    return {id(v): v.detach().clone() for v in kept if not v.is_leaf}


def swap(model: nn.Module, factors: Mapping[str, tuple[SVD, Unfolding]]) -> nn.Module:
    """Copy a model with the named dense layers in SVD form.

    Args:
        model: a model whose packed attention has been opened.
        factors: site name → factors and the view they were made in.

    Returns:
        A new model; factors have the dense weight's dtype, device and ``requires_grad``.
    """
    successors: dict[int, Any] = {}
    for site in sites(model):
        if site.name not in factors:
            continue
        svd, view = factors[site.name]
        parameters = SVD(*(parameter_like(site.module.weight, factor) for factor in svd))
        for module in site.members.values():
            bias = copy.deepcopy(getattr(module, "bias", None), successors)
            kind = svd_form(module)
            assert kind is not None
            layer = kind.from_dense(module, parameters, view, bias)
            successors[id(module)] = layer.train(module.training)
    return exchange(model, successors)


def parameter_like(old: Tensor, value: Tensor) -> nn.Parameter:
    """Make a parameter of a value, with another's dtype, device and ``requires_grad``.

    The value's own memory is used where it holds nothing else.
    """
    value = value.detach().to(device=old.device, dtype=old.dtype).contiguous()
    if value.untyped_storage().nbytes() > value.numel() * value.element_size():
        value = value.clone()
    return nn.Parameter(value, requires_grad=old.requires_grad)


def select(
    every: Iterable[Site], layers: Iterable[str] | None = None, skip: Iterable[str] | None = None
) -> list[Site]:
    """Choose the sites to work on.

    Args:
        every: sites of a model.
        layers: names or shell patterns (``layer1.*``) of the layers wanted; by default all that
            have an SVD form, but for weights that are only looked up.
        skip: names or patterns of layers to leave alone.

    Raises:
        LorankError: if a name or pattern fits no layer, or names one that must stay dense.
    """
    every = list(every)
    if layers is None:
        chosen = [s for s in every if s.reason is None and not s.lookup_only]
    else:
        chosen = _matching(every, layers)
        for site in chosen:
            if site.reason is not None:
                raise LorankError(f"layer {site.name!r} stays dense: {site.reason}")
    unwanted = {id(s) for s in _matching(every, skip or ())}
    return [s for s in chosen if id(s) not in unwanted]


def _matching(every: list[Site], patterns: Iterable[str]) -> list[Site]:
    if isinstance(patterns, str):
        patterns = [patterns]
    kept: dict[int, Site] = {}
    for pattern in patterns:
        fits = [s for s in every if any(_fits(n, pattern) for n in names(s))]
        if not fits:
            raise unknown("layer", pattern, [s.name for s in every])
        kept.update((id(s), s) for s in fits)
    return [s for s in every if id(s) in kept]


def _fits(name: str, pattern: str) -> bool:
    return name == pattern or fnmatch.fnmatchcase(name, pattern)


def names(site: Site) -> list[str]:
    """Every path that leads to a site's weight, the first one first."""
    return [site.name, *site.aliases]


def by_site(every: Iterable[Site], table: Mapping[str, Any]) -> dict[str, Any]:
    """Rewrite a table by layer name so that it has each site's first name.

    Raises:
        LorankError: if it is not a table, a name fits no layer, or tied layers are given different
            entries.
    """
    if not isinstance(table, Mapping):
        raise LorankError(f"a table by layer name is a dict, found {table!r}")
    first = {name: site.name for site in every for name in names(site)}
    known: dict[str, Any] = {}
    for name, entry in table.items():
        if name not in first:
            raise unknown("layer", name, set(first.values()))
        before = known.setdefault(first[name], entry)
        if before is not entry and before != entry:
            raise LorankError(
                f"layers that share a weight need one entry, found {before} for "
                f"{first[name]!r} and {entry} for {name!r}"
            )
    return known
