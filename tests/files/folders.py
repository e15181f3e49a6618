"""Small Hugging Face folders of an architecture that nobody knows, made without transformers."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

LAYERS = 3


def weights(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Linear layers of falling spectra, an embedding, norms, a head."""
    generator = torch.Generator().manual_seed(3)

    def falling(rows: int, columns: int) -> Tensor:
        U, _, Vh = torch.linalg.svd(
            torch.randn(rows, columns, generator=generator), full_matrices=False
        )
        return (U * 0.8 ** torch.arange(len(Vh))) @ Vh

    found = {"model.embed_tokens.weight": torch.randn(50, 24, generator=generator)}
    for k in range(LAYERS):
        found |= {
            f"model.layers.{k}.up.weight": falling(40, 24),
            f"model.layers.{k}.up.bias": torch.randn(40, generator=generator),
            f"model.layers.{k}.down.weight": falling(24, 40),
            f"model.layers.{k}.input_norm.weight": torch.ones(24),
        }
    found["lm_head.weight"] = torch.randn(50, 24, generator=generator)
    return {name: value.to(dtype).contiguous() for name, value in found.items()}


def make(folder: Path, tensors: dict[str, Tensor] | None = None, shards: int = 2) -> Path:
    """Write a dense folder, its tensors dealt out over shards in turn."""
    tensors = weights() if tensors is None else tensors
    folder.mkdir()
    config = {"architectures": ["NobodyKnowsIt"], "model_type": "nobody-knows-it"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"mean": true}')
    if shards == 1:
        save_file(tensors, folder / "model.safetensors")
        return folder
    where = {}
    for k in range(shards):
        name = f"model-{k + 1:05d}-of-{shards:05d}.safetensors"
        part = {key: tensors[key] for key in list(tensors)[k::shards]}
        save_file(part, folder / name)
        where |= dict.fromkeys(part, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, hidden ones too."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
