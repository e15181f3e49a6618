"""Does ``latency=0.7`` hold on a clock? ResNet-56, a ResNet-50-shaped network, a small encoder.

Each network is planned, cut for real, and timed against the dense one in turns: the ratio is the
median of paired rounds. Convolutional networks run in both orders in memory, and the dense time is
written beside, so that nobody needs to compare with the slower one. ``folded`` networks have their
BatchNorm folded into the convolutions before anything is measured, the dense one too. Weights are
random: only time is judged here. A share that cannot be reached is a row as well, with what the
library said before it cut anything.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

import lorank
from lorank.compression.latency_plan import latency_plan
from lorank.compression.turns import ratio, turns
from lorank.compression.twin import formatted
from lorank.errors import extra
from lorank.zoo import load_model
from record import RESULTS, record
from resnet50 import resnet50

Made = tuple[nn.Module, Tensor]


def encoder() -> nn.Module:
    """MiniLM's shape: 6 layers, hidden 384, feed-forward 1536."""
    transformers = extra("transformers", "transformers")
    shape = transformers.BertConfig(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    )
    return transformers.BertModel(shape, add_pooling_layer=False)


def images(make: Callable[[], nn.Module], side: int, folded: bool, last: bool, batch: int) -> Made:
    model, x = make().eval(), torch.randn(batch, 3, side, side)
    model = fuse(model) if folded else model
    if last:
        model.to(memory_format=torch.channels_last)
        x = x.to(memory_format=torch.channels_last)
    return model, x


def tokens(batch: int) -> Made:
    return encoder().eval(), torch.randint(0, 30000, (batch, 128))


def resnet56() -> nn.Module:
    return load_model("resnet56")


NETWORKS: dict[str, Callable[[int], Made]] = {
    "resnet56": partial(images, resnet56, 32, False, False),
    "resnet56 channels last": partial(images, resnet56, 32, False, True),
    "resnet56 folded": partial(images, resnet56, 32, True, False),
    "resnet56 folded channels last": partial(images, resnet56, 32, True, True),
    "resnet50": partial(images, resnet50, 224, False, False),
    "resnet50 channels last": partial(images, resnet50, 224, False, True),
    "encoder": tokens,
}


def one(name: str, batch: int, share: float, threads: int, repeats: int) -> dict[str, Any]:
    torch.manual_seed(0)
    dense, x = NETWORKS[name](batch)
    row: dict[str, Any] = {"network": name, "batch": batch, "threads": threads, "asked": share}
    began = time.perf_counter()
    spectra = lorank.measure(dense, x[:1])
    measured = time.perf_counter()
    row["seconds_spectra"] = round(measured - began, 1)
    try:
        plan = latency_plan(dense, x, spectra, share, threads=threads)
    except lorank.LorankError as refusal:
        return row | {
            "refused": str(refusal),
            "seconds_plan": round(time.perf_counter() - measured),
        }
    row["seconds_plan"] = round(time.perf_counter() - measured, 1)
    cut = lorank.decompose(dense, plan.ranks, layout=plan.layouts)
    small = formatted(lorank.fold(cut, example=x[:1]).eval(), dense)
    found = turns(
        {0: partial(dense, x), 1: partial(small, x)},
        device=x.device,
        repeats=repeats,
        threads=threads,
        seconds=60.0,
    )
    return row | {
        "predicted": round(plan.predicted, 3),
        "planned": round(plan.measured, 3),
        "measured": round(ratio(found[1], found[0]), 3),
        "dense_ms": round(1e3 * statistics.median(found[0]), 2),
        "cut_ms": round(1e3 * statistics.median(found[1]), 2),
        "smallest": round(plan.smallest, 3),
        "macs": round(cost(small, x) / cost(dense, x), 3),
        "layers": len(spectra),
        "cut": plan.ranks,
        "setting": plan.plain()["setting"],
    }


def cost(model: nn.Module, x: Tensor) -> int:
    macs = lorank.cost(model, x[:1]).macs
    assert macs is not None
    return macs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", choices=NETWORKS, action="append")
    parser.add_argument("--batch", type=int, action="append")
    parser.add_argument("--latency", type=float, default=0.7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=101)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    figures = before()
    for name in args.network or NETWORKS:
        for batch in args.batch or (1, 32):
            row = one(name, batch, args.latency, args.threads, args.repeats)
            print({key: value for key, value in row.items() if key not in ("cut", "setting")})
            figures[name, batch] = row
            rows = [figures[n, b] for n in NETWORKS for b in (1, 32) if (n, b) in figures]
            # What is there is kept: the networks take half an hour, and each is worth having.
            record("latency_budget", rows, command="python benchmarks/latency_budget.py")


def before() -> dict[tuple[str, int], dict[str, Any]]:
    """Rows of an earlier run, which this one replaces one by one."""
    path = RESULTS / "latency_budget.json"
    if not path.exists():
        return {}
    rows = json.loads(path.read_text())["figures"]
    return {(row["network"], row["batch"]): row for row in rows}


if __name__ == "__main__":
    main()
