"""Models on disk: safetensors, with the layouts and ranks in words. Nothing is unpickled."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lorank.atomic import replacing
from lorank.errors import LorankError
from lorank.files.huggingface import has_config, save_folder
from lorank.files.huggingface_model import load_folder
from lorank.files.manifest import FORMAT, VERSION, manifest_text, tied_names
from lorank.files.structure import describe, rebuild
from lorank.nn.surgery import check_module, exchange


def save(model: nn.Module, path: str | Path, *, info: dict[str, Any] | None = None) -> None:
    """Save a network in SVD form, folded or dense, as one safetensors file.

    The file's header carries a manifest: which layers are in SVD form or folded into a pair, in
    which layout, at which rank. The same manifest is written beside it as ``NAME.json`` for
    people and other programs; :func:`load` needs only the safetensors file, which any
    safetensors reader opens. Both are written atomically, and neither if one fails.

    Args:
        model: the network.
        path: the file to write, by custom ``*.safetensors``. For a transformers model any other
            name is a folder: see :func:`lorank.files.save_folder`.
        info: anything else to keep in the manifest that JSON can hold.

    Raises:
        LorankError: if the model is not a module, the folder does not exist, a weight is on the
            meta device or is not a tensor that safetensors holds, or ``info`` is more than JSON
            holds.

    Example:
        >>> import tempfile, lorank
        >>> target = Path(tempfile.mkdtemp()) / "small.safetensors"
        >>> dense = nn.Linear(8, 8)
        >>> save(lorank.decompose(dense, {"": 2}), target)
        >>> load(target, dense).rank
        2
    """
    check_module(model)
    if Path(path).suffix != ".safetensors" and has_config(model):
        save_folder(model, path, info=info)
        return
    tensors, tied = _unique(model)
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "class": type(model).__name__,
        "layers": describe(model),
        "tied": tied,
        "info": info or {},
    }
    text = manifest_text(manifest)
    path = Path(path)
    beside = path.parent / f"{path.name.removesuffix('.safetensors')}.json"
    with replacing(path) as draft, replacing(beside) as note:
        _write(tensors, draft, text)
        note.write_text(text + "\n")


def _write(tensors: dict[str, Tensor], draft: Path, text: str) -> None:
    try:
        save_file(tensors, draft, metadata={FORMAT: text})
    except (SafetensorError, KeyError, ValueError) as error:
        raise LorankError(f"the weights cannot be written as safetensors: {error}") from error


def _unique(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Copies of the tensors by name, each once, and the other names of those that are shared."""
    tensors, tied = tied_names(model)
    whole = torch.contiguous_format
    return {name: t.cpu().clone(memory_format=whole) for name, t in tensors.items()}, tied


def load(path: str | Path, dense_model: nn.Module | None = None) -> nn.Module:
    """Load a saved network: the dense model gives the architecture, the file everything else.

    Args:
        path: a file written by :func:`save`; or a compressed Hugging Face folder, whose own
            configuration gives the architecture.
        dense_model: the dense network that the saved one came from (its weights do not matter);
            it is not changed. A file needs it, a folder does not.

    Returns:
        A new model with the dense model's dtypes, device and modes.

    Raises:
        LorankError: if the file is missing, truncated, not of lorank, of a newer version, or
            does not fit the model.

    Example: see :func:`save`.
    """
    if dense_model is None and Path(path).is_dir():
        return load_folder(path)
    if dense_model is None:
        raise LorankError(
            f"a file does not hold the architecture: give the dense model too, load({str(path)!r}, "
            "dense_model)"
        )
    manifest, tensors = read(path)
    try:
        model = _off_meta(rebuild(dense_model, manifest["layers"]))
        _fill(model, tensors, manifest["tied"])
    except LorankError as error:
        raise LorankError(f"{path} does not fit {type(dense_model).__name__}: {error}") from error
    return model


def _fill(model: nn.Module, tensors: dict[str, Tensor], tied: dict[str, str]) -> None:
    """Put a file's tensors into a model of the right structure, in place."""
    values = {name: tensors[tied.get(name, name)] for name in (*tensors, *tied)}
    first: dict[int, str] = {}
    for name, target in model.state_dict(keep_vars=True).items():
        other = first.setdefault(id(target), name)
        if name in values and other in values and not _equal(values[name], values[other]):
            raise LorankError(
                f"{other!r} and {name!r} are one tensor in the model, and differ in the file"
            )
    try:
        model.load_state_dict(values)
    except RuntimeError as error:
        found = " ".join(str(error).split()).partition(": ")[2]
        raise LorankError(found[:300]) from None


def _equal(a: Tensor, b: Tensor) -> bool:
    return a is b or torch.equal(a, b)


def _off_meta(model: nn.Module) -> nn.Module:
    """Give every tensor on the meta device memory on the CPU; what is tied stays tied."""
    kept = set(model.state_dict())
    successors: dict[int, Any] = {}
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.device.type != "meta":
            continue
        if name not in kept:
            raise LorankError(f"buffer {name!r} is on the meta device, and no file keeps it")
        memory = torch.empty_like(tensor, device="cpu")
        successors[id(tensor)] = (
            nn.Parameter(memory, requires_grad=tensor.requires_grad)
            if isinstance(tensor, nn.Parameter)
            else memory
        )
    return exchange(model, successors, share=True)


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
            names = set(file.keys())
            if not names.issuperset(manifest["tied"].values()):
                raise _damaged(path)
            wanted = names if with_tensors else ()
            return manifest, {name: file.get_tensor(name) for name in sorted(wanted)}
    except (SafetensorError, OSError) as error:
        raise LorankError(f"{path} is not a whole safetensors file: {error}") from None


def _manifest(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    if FORMAT not in metadata:
        raise LorankError(
            f"{path} is a safetensors file without lorank's manifest: "
            "load it with torch's own load_state_dict"
        )
    try:
        manifest = json.loads(metadata[FORMAT])
    except json.JSONDecodeError:
        raise _damaged(path) from None
    if not _is_manifest(manifest):
        raise _damaged(path)
    if manifest["version"] > VERSION:
        raise LorankError(
            f"{path} has format version {manifest['version']}, and this lorank reads up to "
            f"{VERSION}: update it"
        )
    return manifest


def _is_manifest(found: Any) -> bool:
    """Whether a manifest has its parts; a newer version may keep anything else in them."""
    if not isinstance(found, dict) or type(found.get("version")) is not int:
        return False
    if found["version"] > VERSION:
        return True
    layers, tied = found.get("layers"), found.get("tied")
    return (
        isinstance(layers, dict)
        and all(isinstance(entry, dict) for entry in layers.values())
        and isinstance(tied, dict)
        and all(isinstance(name, str) for name in tied.values())
    )


def _damaged(path: Path) -> LorankError:
    return LorankError(f"{path} has a damaged manifest")
