"""How long does it take to compress a folder, and which decomposition is fastest on this machine?

Writes a random network of GPT-2-small shapes as a sharded folder, without transformers, compresses
it tensor by tensor, and times the decompositions of its matrices.
"""

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

import lorank
from lorank.files.huggingface_run import Settings, compress_folder
from lorank.linalg import gram_singular_values, gram_svd, randomized_svd, singular_values, svd
from record import record

WIDTH, LAYERS, ENTRIES = 768, 12, 50_257
MATRICES = {"attn.qkv": (2304, 768), "attn.out": (768, 768), "mlp.up": (3072, 768)}
MATRICES |= {"mlp.down": (768, 3072)}
RANK = 64


def network(folder: Path) -> int:
    """Write the folder, a shard every four layers; returns the number of parameters."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"architectures": ["Random"]}))
    generator = torch.Generator().manual_seed(0)
    where, count = {}, 0
    for shard in range(LAYERS // 4 + 1):
        part = {}
        if shard == LAYERS // 4:
            part["embed.weight"] = torch.randn(ENTRIES, WIDTH, generator=generator)
        for layer in range(4 * shard, min(4 * shard + 4, LAYERS)):
            for name, size in MATRICES.items():
                part[f"layers.{layer}.{name}.weight"] = torch.randn(size, generator=generator) / 50
        file = f"model-{shard:05d}.safetensors"
        save_file(part, folder / file)
        where |= dict.fromkeys(part, file)
        count += sum(value.numel() for value in part.values())
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    return count


def seconds(work: Callable[[], object], repeats: int = 3) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def decompositions() -> dict[str, dict[str, float]]:
    torch.set_num_threads(1)
    found = {}
    for rows, columns in sorted(set(MATRICES.values())):
        A = torch.randn(rows, columns, generator=torch.Generator().manual_seed(1))
        found[f"{rows}x{columns}"] = {
            "values, float32": seconds(lambda A=A: singular_values(A)),
            "values, Gram in float64": seconds(lambda A=A: gram_singular_values(A)),
            "vectors, float32": seconds(lambda A=A: svd(A)),
            "vectors, Gram in float64": seconds(lambda A=A: gram_svd(A)),
            f"vectors, sketch of rank {RANK}": seconds(lambda A=A: randomized_svd(A, RANK)),
        }
    return found


def main() -> None:
    half = Settings(lambda spectra: lorank.ranks.budget(spectra, params=0.8), {"params": 0.8})
    with tempfile.TemporaryDirectory() as place:
        dense, small = Path(place) / "dense", Path(place) / "small"
        count = network(dense)
        start = time.perf_counter()
        answer = compress_folder(dense, small, half)
        took = time.perf_counter() - start
    figures = {
        "parameters": count,
        "kept": answer["after"]["params"] / answer["before"]["params"],
        "seconds": round(took, 1),
    }
    print(figures)
    figures["seconds a matrix, one thread"] = decompositions()
    record("shards", figures)


if __name__ == "__main__":
    main()
