"""Weights from a file into a model, without ever running code that a file may hold."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from lorank.errors import LorankError
from lorank.zoo.reason import reason

PICKLED = (".pt", ".pth", ".th")
WRAPPERS = ("state_dict", "model")
PREFIXES = ("module.", "_orig_mod.")


def load_weights(
    model: nn.Module, path: str | Path, *, rename: Mapping[str, str] | None = None
) -> nn.Module:
    """Put the weights of a file into ``model``, in place; every name and shape must agree.

    A ``.safetensors`` file holds the tensors of ``model.state_dict()`` by name. A ``.pt``,
    ``.pth`` or ``.th`` file holds the same as a dict, alone or as the entry ``"state_dict"`` or
    ``"model"`` of one; it is read with ``weights_only=True``, so a file with code is refused. The
    prefixes ``module.`` and ``_orig_mod.``, which wrappers leave behind, are dropped. Counters of
    batch normalisation (``num_batches_tracked``) may be absent. Nothing is written on an error.

    Args:
        model: the network to fill.
        path: the file.
        rename: what to write in place of parts of the file's names, after the prefixes are gone:
            ``{"fc.": "linear."}`` makes ``linear.weight`` of ``fc.weight``. All of them are
            applied, in turn, wherever a name holds them.

    Returns:
        The same ``model``.

    Raises:
        LorankError: if the file is missing, damaged, of another kind, holds code, or does not
            fit the model; or if ``rename`` is not of such parts, or gives two tensors one name.

    Example:
        >>> import os, tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "net.pt")
        >>> torch.save(nn.Linear(2, 1).state_dict(), path)
        >>> load_weights(nn.Linear(2, 1), path)
        Linear(in_features=2, out_features=1, bias=True)
    """
    path, parts = Path(path), {} if rename is None else _parts(rename)
    state = _renamed(_plain(_read(path), path), parts, path)
    _check(model.state_dict(), state, path)
    model.load_state_dict(state)
    return model


def _read(path: Path) -> Any:
    if not path.is_file():
        raise LorankError(f"there is no weights file {path}")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix in PICKLED:
        return _read_pickled(path)
    known = ", ".join((".safetensors", *PICKLED))
    raise LorankError(f"a weights file ends in one of {known}, but got {path.name}")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise LorankError(f"{path} is not a whole safetensors file: {reason(error)}") from None


def _read_pickled(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a foreign file may make the reader raise anything
        raise LorankError(
            f"{path} cannot be read as plain tensors (it is damaged, of another kind, or holds "
            f"code, which is never run): {reason(error)}"
        ) from None


def _plain(state: Any, path: Path) -> dict[str, Tensor]:
    for wrapper in WRAPPERS:
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not state:
        raise LorankError(
            f"{path} must hold a dict of tensors by name, but holds {type(state).__name__}"
            f"{' without entries' if isinstance(state, dict) else ''}"
        )
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise LorankError(
                f"{path} must hold tensors by name, but its entry {name!r} is "
                f"{type(value).__name__}"
            )
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return dict(state)  # a plain dict: torch then fills in counters that old files lack


def _parts(rename: Any) -> Mapping[str, str]:
    fit = isinstance(rename, Mapping) and all(
        isinstance(old, str) and old and isinstance(new, str) for old, new in rename.items()
    )
    if not fit:
        raise LorankError(
            "rename maps parts of names, which are not empty, to what takes their place, found "
            f"{rename!r}"
        )
    return rename


def _renamed(state: dict[str, Tensor], parts: Mapping[str, str], path: Path) -> dict[str, Tensor]:
    found: dict[str, tuple[str, Tensor]] = {}
    for old, value in state.items():
        name = old
        for theirs, ours in parts.items():
            name = name.replace(theirs, ours)
        if name in found:
            raise LorankError(
                f"every tensor needs a name of its own, but renaming the entries of {path} makes "
                f"{name} of both {found[name][0]} and {old}"
            )
        found[name] = (old, value)
    return {name: value for name, (_, value) in found.items()}


def _check(wanted: dict[str, Any], given: dict[str, Tensor], path: Path) -> None:
    counters = {name for name in wanted if name.endswith("num_batches_tracked")}
    missing = [name for name in wanted if name not in given and name not in counters]
    extra = [name for name in given if name not in wanted]
    shapes = [
        f"{name} {tuple(given[name].shape)} for {tuple(wanted[name].shape)}"
        for name in wanted
        if name in given and given[name].shape != wanted[name].shape
    ]
    faults = {"missing": missing, "unexpected": extra, "of another shape": shapes}
    if any(faults.values()):
        told = "; ".join(f"{len(v)} {k} ({_some(v)})" for k, v in faults.items() if v)
        raise LorankError(f"{path} does not fit the model: {told}")


def _some(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")
