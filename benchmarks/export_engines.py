"""What networks cost on four engines: torch eager, torch compiled, ONNX Runtime, and its int8.

Each network and its cut to half of the MACs are benched together by ``lorank bench``: in turns, on
one input, with the same threads. Accuracy is that on random test images, always the same ones; the
output error is against the dense network in torch. The encoder has MiniLM's shape and random
weights: its times and the errors of its engines mean something, the error of its cut does not.
"""

import argparse
import contextlib
import io
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lorank.cli import main as lorank
from record import data_folder, record

ENGINES = ("eager", "compiled", "onnx", "int8")
KEPT = (
    *("model", "engine", "accuracy", "relative_error", "cosine", "params_share", "macs_share"),
    *("file_bytes", "median", "p95", "speedup", "compile_seconds", "int8"),
)


class Encoder(nn.Module):
    """A sentence encoder of MiniLM's shape: 6 layers, width 384, 12 heads, mean of its outputs."""

    def __init__(self, words: int = 30522, width: int = 384, layers: int = 6):
        super().__init__()
        self.embed = nn.Embedding(words, width)
        layer = nn.TransformerEncoderLayer(
            width, 12, 4 * width, activation="gelu", batch_first=True
        )
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

    def forward(self, tokens: Tensor) -> Tensor:
        return nn.functional.normalize(self.layers(self.embed(tokens)).mean(1), dim=1)


def encoder() -> nn.Module:
    torch.manual_seed(0)
    return Encoder().eval()


def run(*arguments: Any) -> str:
    """Run a command of lorank, and give what it printed."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = lorank([str(argument) for argument in arguments])
    if code:
        sys.exit(f"lorank {arguments[0]} failed")
    return out.getvalue()


def benched(name: str, dense: list[Any], small: Path, common: list[Any], args: Any) -> list[dict]:
    """Bench a network against its cut."""
    engines = [word for engine in args.engines for word in ("--engine", engine)]
    figures = []
    for batch in args.batches:
        words = [*engines, "--threads", args.threads, "--batch", batch, "--json"]
        words += ["--repeats", args.repeats, "--warmup", args.warmup]
        answer = json.loads(run("bench", dense[0], small, *dense[1:], *common, *words))
        for row in answer["models"]:
            form = "small" if row["model"] == str(small) else "dense"
            kept = {key: row[key] for key in KEPT if row[key] is not None}
            figures.append({"network": name, "batch": batch, **kept, "model": form})
            print(figures[-1], flush=True)
    return figures


def resnet56(folder: Path, args: Any) -> list[dict]:
    weights = data_folder() / "resnet_cifar10/resnet56.safetensors"
    data = ["--data", f"cifar10:{data_folder() / 'cifar10'}", "--limit", args.images]
    small, dense = folder / "resnet56.safetensors", ["resnet56", "--weights", weights]
    run("compress", *dense, *data, "--macs", "0.5", "--recalibrate", 16, "-o", small)
    return benched("resnet56", dense, small, data, args)


def digits(folder: Path, args: Any) -> list[dict]:
    data = ["--data", "digits"]
    words = ["--dense-epochs", "12", "--epochs", "12", "--macs", "0.5", "--no-plot"]
    run("train", "resnet8", *data, *words, "--out", folder / "run")
    dense, small = folder / "run/dense.safetensors", folder / "run/model.safetensors"
    return benched("resnet8 on digits", [dense], small, data, args)


def minilm(folder: Path, args: Any) -> list[dict]:
    spec, size = "export_engines:encoder", ["--input", f"{args.words}:int"]
    small = folder / "encoder.safetensors"
    run("compress", spec, *size, "--macs", "0.5", "-o", small)
    return benched("encoder", [spec], small, size, args)


NETWORKS = {"resnet56": resnet56, "digits": digits, "encoder": minilm}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 32])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--warmup", type=int, default=5)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--words", type=int, default=64)
    args = parser.parse_args()
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        for name in args.networks:
            figures += NETWORKS[name](Path(folder), args)
    record("export_engines", figures, **vars(args))


if __name__ == "__main__":
    main()
