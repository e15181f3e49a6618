"""Hugging Face folders: what lies in one, and a compressed network as one.

A compressed folder holds what the dense one held (configuration, tokenizer, …), the weights as
``model.lorank*.safetensors``, and ``lorank.json``, which says what was cut. The weights' names
follow the library's rule for a variant, so that ``from_pretrained``, which knows nothing of pairs,
finds no weights and says so, instead of drawing the missing ones at random.
"""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from lorank.atomic import replacing
from lorank.errors import LorankError
from lorank.files import shards
from lorank.files.manifest import FORMAT, VERSION, manifest_text, tied_names
from lorank.files.shards import Entry, Part
from lorank.files.structure import describe

MANIFEST, CONFIG = "lorank.json", "config.json"
INDEX = "model.safetensors.index.json"
OWN_INDEX = "model.safetensors.index.lorank.json"

SHARD_BYTES = 5_000_000_000
"""A file of weights is no larger, where no single tensor is."""

PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".msgpack", ".h5")
NOT_COPIED = (*PICKLED, ".safetensors", ".onnx", ".gguf", ".py")


class Folder(NamedTuple):
    """A dense Hugging Face folder.

    Attributes:
        path: where it is.
        config: its ``config.json``.
        files: its safetensors files, in order.
        entries: tensor name → where it lies.
    """

    path: Path
    config: dict[str, Any]
    files: list[Path]
    entries: dict[str, Entry]

    @property
    def architecture(self) -> str | None:
        """The class that the weights were saved from, where the configuration says it."""
        named = self.config.get("architectures")
        return str(named[0]) if isinstance(named, list) and named else None


def open_folder(path: str | Path) -> Folder:
    """Read what a dense Hugging Face folder holds: configuration and headers, no weights.

    Raises:
        LorankError: if it is no such folder, has no safetensors weights, lacks a shard, or its
            weights are quantized or were cut before.
    """
    path = Path(path)
    config = read_config(path)
    if (path / MANIFEST).exists():
        raise LorankError(f"{path} was cut before: compress the dense network")
    if "quantization_config" in config:
        raise LorankError(
            f"singular values are taken of float weights, and {path} is quantized: "
            "compress the network it came from"
        )
    files, wanted = _files(path)
    found: dict[str, Entry] = {}
    for file in files:
        found |= shards.entries(file)
    lacking = sorted(wanted - found.keys())
    if lacking:
        raise LorankError(f"{path / INDEX} names {lacking[0]!r}, and no shard holds it")
    return Folder(path, config, files, found)


def read_config(path: Path) -> dict[str, Any]:
    """Read ``config.json``.

    Raises:
        LorankError: if there is no such folder or file, or it is no JSON object.
    """
    if not (path / CONFIG).is_file():
        raise LorankError(f"a Hugging Face folder holds {CONFIG}, and {path} does not")
    return _object(path / CONFIG)


def _object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LorankError(f"{path} is not readable JSON: {error}") from None
    if not isinstance(found, dict):
        raise LorankError(f"{path} must hold a JSON object, found a {type(found).__name__}")
    return found


def _files(path: Path) -> tuple[list[Path], set[str]]:
    """Name the files of weights, and the tensors that an index promises."""
    if (path / INDEX).is_file():
        table = _object(path / INDEX).get("weight_map")
        if not isinstance(table, dict) or not table:
            raise LorankError(f"{path / INDEX} must hold a weight_map, and does not")
        names = sorted({str(name) for name in table.values()})
        if any(Path(name).name != name for name in names):
            raise LorankError(f"{path / INDEX} names files outside its folder")
        return [path / name for name in names], set(table)
    single = sorted(path.glob("*.safetensors"))
    if (path / "model.safetensors") in single:
        single = [path / "model.safetensors"]
    if len(single) == 1:
        return single, set()
    if single:
        raise LorankError(f"several safetensors files need {INDEX}, and {path} has none")
    pickled = next((p.name for p in sorted(path.iterdir()) if p.suffix in PICKLED), None)
    if pickled:
        raise LorankError(
            f"weights are read as safetensors, and {path} has only {pickled}, which may hold code: "
            "save it anew with transformers, save_pretrained(FOLDER)"
        )
    raise LorankError(f"{path} holds a configuration and no weights (*.safetensors)")


def own_names(count: int) -> list[str]:
    """Names of the files of weights in a compressed folder.

    Example:
        >>> own_names(1), own_names(2)[1]
        (['model.lorank.safetensors'], 'model.lorank-00002-of-00002.safetensors')
    """
    if count == 1:
        return ["model.lorank.safetensors"]
    return [f"model.lorank-{k:05d}-of-{count:05d}.safetensors" for k in range(1, count + 1)]


def copy_others(source: Path, target: Path) -> None:
    """Copy what a folder holds besides weights and code: configuration, tokenizer, notes."""
    for path in sorted(source.rglob("*")):
        inner = path.relative_to(source)
        if any(part.startswith(".") for part in inner.parts) or not path.is_file():
            continue
        if path.name.endswith(NOT_COPIED) or re.search(r"\.index(\.\w+)?\.json$", path.name):
            continue
        if path.name == MANIFEST:
            continue
        (target / inner).parent.mkdir(parents=True, exist_ok=True)
        with replacing(target / inner) as draft:
            shutil.copyfile(path, draft)


def write_index(folder: Path, weight_map: Mapping[str, str], size: int) -> None:
    """Write which file holds which tensor."""
    index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(weight_map.items()))}
    with replacing(folder / OWN_INDEX) as draft:
        draft.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write what was cut: the last file of a folder, and the sign that it is whole."""
    text = manifest_text({"format": FORMAT, "version": VERSION, **manifest})
    with replacing(folder / MANIFEST) as draft:
        draft.write_text(text + "\n", encoding="utf-8")


def save_folder(
    model: nn.Module,
    folder: str | Path,
    *,
    source: str | Path | None = None,
    info: dict[str, Any] | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Save a transformers model, compressed or dense, as a Hugging Face folder.

    The folder appears as a whole or not at all. ``lorank.load(folder)`` gives the model back.

    Args:
        model: the network, with the ``config`` of its library.
        folder: a new folder, or an empty one.
        source: the folder that the dense network came from: tokenizer and other files are copied
            from it. By default the one that ``from_pretrained`` was given.
        info: anything else to keep in the manifest that JSON can hold.
        shard_bytes: a file of weights is no larger, where no single tensor is.

    Raises:
        LorankError: if the folder cannot be written or holds something, a tensor is on the meta
            device or sparse, or the model has no configuration to save.
    """
    tensors, tied = tied_names(model)
    config = _config(model)
    parts = {name: shards.held(value) for name, value in tensors.items()}
    origin = source or getattr(model, "name_or_path", None)
    manifest = {"class": type(model).__name__, "layers": describe(model), "tied": tied}
    with new_folder(Path(folder)) as draft:
        if origin and (Path(origin) / CONFIG).is_file():
            copy_others(Path(origin), draft)
        (draft / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        generation = getattr(model, "generation_config", None)
        if generation is not None:
            generation.save_pretrained(draft)
        _write_parts(draft, parts, shard_bytes)
        write_manifest(draft, {**manifest, "info": info or {}})


def has_config(model: object) -> bool:
    """Whether a model carries the configuration of its library, which a folder needs."""
    return hasattr(getattr(model, "config", None), "to_json_string")


def _config(model: Any) -> dict[str, Any]:
    if not has_config(model):
        raise LorankError(
            "a Hugging Face folder needs the model's configuration, and "
            f"{type(model).__name__} has none: save it as one file, *.safetensors"
        )
    return json.loads(model.config.to_json_string()) | {"architectures": [type(model).__name__]}


def _write_parts(folder: Path, parts: dict[str, Part], most: int) -> None:
    groups: list[dict[str, Part]] = [{}]
    for name in sorted(parts):
        filled = sum(part.size for part in groups[-1].values())
        if groups[-1] and filled + parts[name].size > most:
            groups.append({})
        groups[-1][name] = parts[name]
    names = own_names(len(groups))
    for file, group in zip(names, groups, strict=True):
        shards.write(folder / file, group, {"format": "pt"})
    where = {name: file for file, group in zip(names, groups, strict=True) for name in group}
    write_index(folder, where, sum(part.size for part in parts.values()))


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Give a folder beside the target to fill; it becomes the target when all went well.

    Raises:
        LorankError: if the target holds something already, or cannot be made.
    """
    target = Path(os.path.abspath(target))
    check_empty(target)
    try:
        draft = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name[:32]}."))
    except OSError as error:
        raise LorankError(f"{target} cannot be made: {error.strerror}") from None
    try:
        yield draft
        draft.chmod(0o755)
        os.replace(draft, target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def check_empty(target: Path) -> None:
    """Insist on a folder that can be filled.

    Raises:
        LorankError: if it is a file, holds something, or its parent does not exist.
    """
    if not target.parent.is_dir():
        raise LorankError(f"a folder is made in one that exists, found none: {target.parent}")
    if target.exists() and not target.is_dir():
        raise LorankError(f"a folder was to be written, and {target} is a file")
    if target.is_dir() and any(target.iterdir()):
        raise LorankError(f"a compressed network goes into a new or empty folder, not {target}")


def is_compressed(path: str | Path) -> bool:
    """Whether a path is a folder that holds a compressed network.

    Example:
        >>> is_compressed("no/such/folder")
        False
    """
    return (Path(path) / MANIFEST).is_file()


def compressed_bytes(path: Path) -> int:
    """Size on disk of the weights of a compressed folder."""
    return sum(file.stat().st_size for file in path.glob("model.lorank*.safetensors"))


def open_compressed(path: Path) -> tuple[dict[str, Any], dict[str, Entry]]:
    """Read the manifest of a compressed folder, and where its tensors lie.

    Raises:
        LorankError: if it is not whole.
    """
    if not is_compressed(path):
        raise LorankError(
            f"a compressed folder holds {MANIFEST}, and {path} does not: "
            "it is another folder, or its run has not ended"
        )
    manifest = _object(path / MANIFEST)
    table = _object(path / OWN_INDEX).get("weight_map")
    if not isinstance(manifest.get("layers"), dict) or not isinstance(table, dict):
        raise LorankError(f"{path} has a damaged manifest or index")
    if manifest.get("version", 0) > VERSION:
        raise LorankError(
            f"{path} has format version {manifest['version']}, and this lorank reads up to "
            f"{VERSION}: update it"
        )
    found: dict[str, Entry] = {}
    for name in sorted({Path(str(file)).name for file in table.values()}):
        found |= shards.entries(path / name)
    if set(table) - found.keys():
        raise LorankError(f"{path} lacks tensors that its index names")
    return manifest, found


def tensors(found: Mapping[str, Entry]) -> Iterator[tuple[str, Tensor]]:
    """Read tensors one by one."""
    for name, entry in found.items():
        yield name, shards.read(entry)
