"""Models on disk: safetensors, with the layouts and ranks in words. Nothing is unpickled."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lorank.errors import LorankError
from lorank.files.atomic import replacing
from lorank.files.structure import describe, rebuild

FORMAT = "lorank"
VERSION = 1


def save(model: nn.Module, path: str | Path, *, info: dict[str, Any] | None = None) -> None:
    """Save a network in SVD form, folded or dense, as one safetensors file.

    The file's header carries a manifest: which layers are in SVD form or folded into a pair, in
    which layout, at which rank. The same manifest is written beside it as ``NAME.json`` for
    people and other programs; :func:`load` needs only the safetensors file, which any
    safetensors reader opens. Both are written atomically.

    Args:
        model: the network.
        path: the file to write, by custom ``*.safetensors``.
        info: anything else to keep in the manifest that JSON can hold.

    Raises:
        LorankError: if the folder does not exist, or a weight is on the meta device.

    Example:
        >>> import tempfile, lorank
        >>> target = Path(tempfile.mkdtemp()) / "small.safetensors"
        >>> dense = nn.Linear(8, 8)
        >>> save(lorank.decompose(dense, {"": 2}), target)
        >>> load(target, dense).rank
        2
    """
    tensors, tied = _unique(model)
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "class": type(model).__name__,
        "layers": describe(model),
        "tied": tied,
        "info": info or {},
    }
    text = json.dumps(manifest, indent=2)
    path = Path(path)
    with replacing(path) as draft:
        save_file(tensors, draft, metadata={FORMAT: text})
    with replacing(path.with_suffix(".json")) as draft:
        draft.write_text(text + "\n")


def _unique(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors by name, each once, and the other names of those that are shared."""
    tensors: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    seen: dict[int, str] = {}
    for name, value in model.state_dict(keep_vars=True).items():
        if not isinstance(value, Tensor):
            raise LorankError(
                f"a model is saved as tensors, and {name!r} is a {type(value).__name__}"
            )
        if value.device.type == "meta":
            raise LorankError(f"a model is saved with its weights, and {name!r} is on meta")
        if id(value) in seen:
            tied[name] = seen[id(value)]
        else:
            seen[id(value)] = name
            tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
    return tensors, tied


def load(path: str | Path, dense_model: nn.Module) -> nn.Module:
    """Load a saved network: the dense model gives the architecture, the file everything else.

    Args:
        path: a file written by :func:`save`.
        dense_model: the dense network that the saved one came from (its weights do not matter);
            it is not changed.

    Returns:
        A new model with the dense model's dtypes, device and modes.

    Raises:
        LorankError: if the file is missing, truncated, not of lorank, of a newer version, or
            does not fit the model.

    Example: see :func:`save`.
    """
    manifest, tensors = read(path)
    for alias, name in manifest["tied"].items():
        tensors[alias] = tensors[name]
    model = rebuild(dense_model, manifest["layers"])
    _fill(model, tensors, path)
    return model


def _fill(model: nn.Module, tensors: dict[str, Tensor], path: str | Path) -> None:
    on_meta = any(p.device.type == "meta" for p in model.parameters())
    try:
        model.load_state_dict(tensors, assign=on_meta)
    except RuntimeError as error:
        found = " ".join(str(error).split())
        raise LorankError(f"{path} does not fit {type(model).__name__}: {found[:300]}") from None


def read_manifest(path: str | Path) -> dict[str, Any]:
    """Read the manifest of a saved network without its tensors.

    Raises:
        LorankError: as :func:`load`.
    """
    return _open(path, with_tensors=False)[0]


def read(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read the manifest and the tensors of a saved network.

    Raises:
        LorankError: as :func:`load`.
    """
    return _open(path, with_tensors=True)


def _open(path: str | Path, with_tensors: bool) -> tuple[dict[str, Any], dict[str, Tensor]]:
    path = Path(path)
    if not path.is_file():
        raise LorankError(f"a saved model is one file, and there is none at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            manifest = _manifest(path, file.metadata() or {})
            names = file.keys() if with_tensors else ()
            return manifest, {name: file.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise LorankError(f"{path} is not a whole safetensors file: {error}") from None


def _manifest(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    if FORMAT not in metadata:
        raise LorankError(
            f"{path} is a safetensors file without lorank's manifest: "
            "load it with torch's own load_state_dict"
        )
    try:
        manifest = json.loads(metadata[FORMAT])
        version, _ = manifest["version"], (manifest["layers"], manifest["tied"])
    except (json.JSONDecodeError, KeyError, TypeError):
        raise LorankError(f"{path} has a damaged manifest") from None
    if version > VERSION:
        raise LorankError(
            f"{path} has format version {version}, and this lorank reads up to {VERSION}: update it"
        )
    return manifest
