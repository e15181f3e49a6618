"""Hugging Face folders as models: the class that a configuration names, with weights put in."""

import importlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from lorank.errors import LorankError, extra
from lorank.files import shards
from lorank.files.huggingface import (
    CONFIG,
    is_compressed,
    open_compressed,
    open_folder,
    read_config,
)
from lorank.files.shards import Entry
from lorank.files.structure import LayerTable, rebuild

OLD_WORDS = (("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias"))
"""Names of checkpoints written by the first versions of the library, and today's."""


def blank_model(folder: Path) -> nn.Module:
    """Make the model that a folder's configuration names, with parameters on the meta device.

    Buffers, which files often leave out, are there with their values. No code of the folder is
    run.

    Raises:
        LorankError: if the installed library does not know the architecture.
        MissingExtraError: if transformers is not installed.
    """
    transformers: Any = extra("transformers", "transformers")
    accelerate: Any = extra("accelerate", "transformers")
    config = read_config(folder)
    named = config.get("architectures") or [None]
    try:
        settings = transformers.AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
        make = getattr(transformers, str(named[0]), None)
        with accelerate.init_empty_weights(include_buffers=False):
            model = transformers.AutoModel.from_config(settings) if make is None else make(settings)
    except Exception as error:  # whatever a library raises about a configuration it cannot use
        first = str(error).strip().splitlines() or [type(error).__name__]
        raise LorankError(
            f"{folder / CONFIG} names the architecture {named[0]!r}, which the installed "
            f"transformers {transformers.__version__} cannot make: {first[0][:200]}"
        ) from None
    if make is None and named[0] is not None:
        raise LorankError(
            f"{folder / CONFIG} names the architecture {named[0]!r}, which the installed "
            f"transformers {transformers.__version__} does not have"
        )
    model.tie_weights()
    return model.eval()


def model_names(keys: Iterable[str], model: nn.Module) -> dict[str, str]:
    """Match the names of a checkpoint with a model's own.

    A checkpoint may have been saved from the model inside, or from one with a head around: its
    names then lack the prefix of that model, or have one more.

    Args:
        keys: names of tensors in the checkpoint.
        model: the model, dense or with pairs.

    Returns:
        Name in the checkpoint → name in the model, for those that have one.
    """
    known = model.state_dict().keys()
    prefix = getattr(model, "base_model_prefix", "") + "."
    found: dict[str, str] = {}
    for key, name in _renamed(keys, model).items():
        for old, new in OLD_WORDS:
            name = name.replace(old, new)
        for candidate in (name, prefix + name, name.removeprefix(prefix)):
            if candidate in known:
                found[key] = candidate
                break
    return found


def _renamed(keys: Iterable[str], model: nn.Module) -> dict[str, str]:
    """Names as the library itself would rename them: its layers were named otherwise before."""
    try:
        mapping: Any = importlib.import_module("transformers.conversion_mapping")
        loading: Any = importlib.import_module("transformers.core_model_loading")
        rules = mapping.get_model_conversion_mapping(model)
        rules = [rule for rule in rules if isinstance(rule, loading.WeightRenaming)]
        return {key: loading.rename_source_key(key, rules, [])[0] for key in sorted(keys)}
    except (ImportError, AttributeError):  # before transformers 5 checkpoints had today's names
        return {key: key for key in keys}


def missing_names(found: Mapping[str, str], model: nn.Module) -> list[str]:
    """Parameters that a checkpoint has under none of their names."""
    there = set(found.values())
    groups: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(name)
    return [names[0] for names in groups.values() if there.isdisjoint(names)]


def load_folder(path: str | Path) -> nn.Module:
    """Load a Hugging Face folder, compressed or dense, as a running model in evaluation mode.

    The class that the configuration names is made without memory, its layers become the pairs
    that the manifest lists, then the weights are read, one tensor at a time: peak memory is that
    of the weights that are stored.

    Raises:
        LorankError: if the folder is not whole, its architecture is unknown to the installed
            library, or the weights do not fit.
        MissingExtraError: if transformers is not installed.
    """
    path = Path(path)
    layers: LayerTable = {}
    if is_compressed(path):
        manifest, found = open_compressed(path)
        layers = manifest["layers"]
    else:
        found = open_folder(path).entries
    dense = blank_model(path)
    try:
        model = rebuild(dense, _table(layers, dense)) if layers else dense
        _fill(model, found)
    except LorankError as error:
        raise LorankError(f"{path} does not fit {type(dense).__name__}: {error}") from None
    _generation(model, path)
    return model.eval()


def _table(layers: LayerTable, dense: nn.Module) -> LayerTable:
    """Rewrite the table of a checkpoint by the model's own names."""
    own = model_names([f"{name}.weight" for name in layers], dense)
    return {
        own.get(f"{name}.weight", f"{name}.weight").removesuffix(".weight"): entry
        for name, entry in layers.items()
    }


def _fill(model: nn.Module, found: Mapping[str, Entry]) -> None:
    """Read the weights into a model whose parameters are on the meta device, in place."""
    own = model_names(found, model)
    missing = missing_names(own, model)
    if missing:
        raise LorankError(f"{len(missing)} parameters are not in the files, such as {missing[0]!r}")
    values = {}
    targets = model.state_dict(keep_vars=True)
    filled: dict[int, nn.Parameter] = {}
    for key, name in own.items():
        target, entry = targets[name], found[key]
        if entry.shape != tuple(target.shape):
            raise LorankError(
                f"{name!r} must have shape {tuple(target.shape)}, found {entry.shape} as {key!r}"
            )
        if id(target) in filled:
            continue
        tensor = shards.read(entry)
        if isinstance(target, nn.Parameter):
            tensor = filled[id(target)] = nn.Parameter(tensor, requires_grad=target.requires_grad)
        values[name] = tensor
    values |= {n: filled[id(t)] for n, t in targets.items() if id(t) in filled}
    model.load_state_dict(values, strict=False, assign=True)


def _generation(model: Any, path: Path) -> None:
    """Give a model that generates the folder's settings for it."""
    if not (path / "generation_config.json").is_file() or not hasattr(model, "generation_config"):
        return
    transformers: Any = extra("transformers", "transformers")
    model.generation_config = transformers.GenerationConfig.from_pretrained(str(path))
