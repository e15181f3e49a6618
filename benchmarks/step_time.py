"""Cost of a training step in SVD form against the dense step, ResNet-20, batch 128, one process.

Four models take turns, step by step, so that a slow moment of the machine hits all of them:
dense; full-rank SVD form with both penalties (contraction chosen by price); the same with two
convolutions always, as the published code runs; and SVD form cut to 35 % of the MACs. Figures
are medians of paired ratios to the dense step.
"""

import argparse
import statistics
import time

import torch
import torch.nn.functional as F
from torch import nn

import lorank
from lorank.zoo import load_model
from record import record


def contracting(model: nn.Module, how: str) -> nn.Module:
    """Fix the contraction of every layer in SVD form."""
    for module in model.modules():
        if isinstance(module, lorank.nn.Factored):
            module.contraction = how
    return model


def contestants(dense: nn.Module, layout: str, example: torch.Tensor) -> dict[str, nn.Module]:
    spectra = lorank.measure(dense, example, layout=layout)
    ranks = lorank.ranks.budget(spectra, macs=0.35)
    form = {"layout": layout}
    return {
        "dense": dense,
        "svd form, full rank": lorank.decompose(dense, **form),
        "two convolutions, full rank": contracting(lorank.decompose(dense, **form), "thin"),
        "svd form at 35 % of the MACs": lorank.decompose(dense, ranks, **form),
    }


def step(model: nn.Module, optimizer, x: torch.Tensor, y: torch.Tensor, penalised: bool) -> None:
    loss = F.cross_entropy(model(x), y)
    if penalised:
        loss = loss + lorank.penalty(model, orthogonality=1.0, sparsity=0.01, kind="hoyer")
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def time_steps(models: dict[str, nn.Module], batch: int, rounds: int) -> dict[str, list[float]]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, 3, 32, 32, generator=generator).to(memory_format=torch.channels_last)
    y = torch.randint(10, (batch,), generator=generator)
    optimizers = {
        name: torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
        for name, model in models.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(rounds + 2):
        for name, model in models.items():
            began = time.perf_counter()
            step(model.train(), optimizers[name], x, y, penalised=name != "dense")
            if turn >= 2:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--model", default="resnet20")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    example = torch.zeros(1, 3, 32, 32)
    figures = []
    for layout in ("channel", "spatial", "auto"):
        dense = load_model(args.model).to(memory_format=torch.channels_last)
        models = contestants(dense, layout, example)
        seconds = time_steps(models, args.batch, args.rounds)
        for name, times in seconds.items():
            ratios = [t / d for t, d in zip(times, seconds["dense"], strict=True)]
            row = {
                "layout": layout,
                "model": name,
                "ms": round(1e3 * statistics.median(times), 1),
                "ratio": round(statistics.median(ratios), 3),
                "ratio_quartiles": [round(q, 3) for q in statistics.quantiles(ratios, n=4)[::2]],
            }
            figures.append(row)
            print(row)
    record("step_time", figures, model=args.model, batch=args.batch, rounds=args.rounds)


if __name__ == "__main__":
    main()
