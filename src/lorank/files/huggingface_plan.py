"""Which tensors of a Hugging Face folder can be cut? Found without reading a weight."""

import dataclasses
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lorank.compression.cost import nominal, site_macs
from lorank.errors import LorankError
from lorank.files import shards
from lorank.files.huggingface import Folder
from lorank.files.huggingface_model import blank_model, missing_names, model_names
from lorank.files.shards import FLOATS, Entry
from lorank.nn.surgery import Site, exchange, names, select, sites

NOT_BY_NAME = re.compile(
    r"embed|norm|(^|\.)(wte|wpe|shared|ln\w*|lm_head|head|heads|score|classifier|proj_out|qa_outputs)"
    r"(\.|$)|position|relative_attention_bias|token_type",
    re.IGNORECASE,
)
"""What a name says that is no linear layer inside: embeddings, normalisation, heads."""


@dataclass(frozen=True)
class Plan:
    """What can be cut in a folder, and what everything costs.

    Attributes:
        sites: weights to cut, on the meta device.
        homes: site name → name of the tensor that holds its weight.
        bases: site name → path of each layer that holds the weight → its name in the files.
        gone: every tensor that holds a weight of a site, once or again → the site's name.
        biases: tensor with a layer's bias → its name where the layer is a pair, by site name.
        twice: tensors that repeat another one, and are written once.
        params: parameters of the dense network.
        macs: multiply-accumulates of its layers for one position (one token).
        found_by: the class of the model; ``None`` where layers were told by their names.
        note: why the class was of no help.
    """

    sites: list[Site]
    homes: dict[str, str]
    bases: dict[str, dict[str, str]]
    gone: dict[str, str]
    biases: dict[str, dict[str, str]]
    twice: set[str]
    params: int
    macs: int
    found_by: str | None
    note: str | None = None


def plan(folder: Folder, skip: Iterable[str] | None = None) -> Plan:
    """Find what can be cut: by the model's class, or by names where that is not to be had.

    Args:
        folder: a dense folder.
        skip: names or patterns of layers to leave dense.

    Raises:
        LorankError: if nothing can be cut, a pattern fits no layer, tied tensors differ, or the
            weights are no floats.
    """
    model, found_by, note = _model(folder)
    own = model_names(folder.entries, model)
    chosen = select(sites(model), None, skip)
    keys = {name: key for key, name in own.items()}
    homes, bases, gone, biases = {}, {}, {}, {}
    for site in chosen:
        held = [keys[f"{n}.weight"] for n in names(site) if f"{n}.weight" in keys]
        if not held:
            continue
        homes[site.name] = _float(held[0], folder.entries[held[0]])
        bases[site.name] = {
            name: keys.get(f"{name}.weight", f"{name}.weight").removesuffix(".weight")
            for name in site.members
        }
        gone |= dict.fromkeys(held, site.name)
        biases[site.name] = _biases(site, keys)
    if not homes:
        raise LorankError(f"{folder.path} holds no weight that can be cut")
    every = [site for site in sites(model) if site.kind is not None]
    return Plan(
        [site for site in chosen if site.name in homes],
        homes,
        bases,
        gone,
        biases,
        _twice(folder, model, own),
        sum(p.numel() for p in model.parameters()),
        sum(site_macs(site, site.view(), nominal(site)).dense for site in every),
        found_by,
        note,
    )


def _model(folder: Folder) -> tuple[nn.Module, str | None, str | None]:
    """Make the model of the folder's class, or one of linear layers by names."""
    try:
        model = blank_model(folder.path)
        missing = missing_names(model_names(folder.entries, model), model)
        if not missing:
            return model, type(model).__name__, None
        why = f"{type(model).__name__} has parameters that the files lack, such as {missing[0]!r}"
    except LorankError as error:
        why = str(error)
    note = f"layers are told by their names, and embeddings, norms and heads left alone: {why}"
    return by_names(folder.entries), None, note


def by_names(found: dict[str, Entry]) -> nn.Module:
    """Make a model whose parameters have a checkpoint's names: linear layers where they may be.

    Example:
        >>> from pathlib import Path
        >>> stored = {"a.weight": Entry(Path("x"), "F32", (2, 3), 0, 24)}
        >>> by_names(stored).a
        Linear(in_features=3, out_features=2, bias=False)
    """
    root = nn.Module()
    for name, entry in found.items():
        *path, last = name.split(".")
        layer = ".".join(path)
        if last == "weight" and len(entry.shape) == 2 and path and not NOT_BY_NAME.search(layer):
            bias = found.get(f"{layer}.bias")
            has_bias = bias is not None and bias.shape == entry.shape[:1]
            outputs, inputs = entry.shape
            made = nn.Linear(inputs, outputs, bias=has_bias, device="meta")
            _inside(root, path[:-1]).add_module(path[-1], made)
    there = dict(root.named_parameters())
    for name, entry in found.items():
        if name not in there:
            *path, last = name.split(".")
            blank = nn.Parameter(torch.empty(entry.shape, device="meta"), requires_grad=False)
            _inside(root, path).register_parameter(last, blank)
    return root


def _inside(module: nn.Module, path: list[str]) -> nn.Module:
    for part in path:
        if part not in module._modules:
            module.add_module(part, nn.Module())
        module = module.get_submodule(part)
    return module


def _float(key: str, entry: Entry) -> str:
    if entry.word not in FLOATS:
        raise LorankError(
            f"singular values are taken of float weights, and {key!r} is stored as {entry.word}: "
            "compress the network before it is quantized"
        )
    return key


def _biases(site: Site, keys: dict[str, str]) -> dict[str, str]:
    """Where the bias of each layer of a site moves: to the second layer of its pair."""
    paths = {f"{n}.bias" for n in names(site)}
    moved = {name: key for name, key in keys.items() if name in paths}
    return {key: f"{key.removesuffix('.bias')}.1.bias" for key in moved.values()}


def _twice(folder: Folder, model: nn.Module, own: dict[str, str]) -> set[str]:
    """Tensors that the model ties to another one in the files; they must be equal."""
    first: dict[int, str] = {}
    twice = set()
    targets: dict[str, Any] = model.state_dict(keep_vars=True)
    for key in sorted(own):
        other = first.setdefault(id(targets[own[key]]), key)
        if other != key:
            if _digest(folder.entries[key]) != _digest(folder.entries[other]):
                raise LorankError(
                    f"{other!r} and {key!r} are one tensor in {type(model).__name__}, and differ "
                    f"in {folder.path}: set tie_word_embeddings to false in its configuration"
                )
            twice.add(key)
    return twice


def _digest(entry: Entry) -> str:
    found = hashlib.sha256()
    for piece in shards.chunks(entry):
        found.update(piece)
    return found.hexdigest()


def with_weight(site: Site, weight: Tensor) -> Site:
    """Copy a site with its weight in memory; its layers' biases stay on the meta device."""
    parameter = nn.Parameter(weight, requires_grad=False)
    successors = {id(site.module.weight): parameter}
    members = {name: exchange(m, successors) for name, m in site.members.items()}
    return dataclasses.replace(site, members=members)
