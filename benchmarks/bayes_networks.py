"""Rank rules from statistics on real networks, at equal MACs, and on a weight's update.

Networks: pretrained CIFAR ResNets, without training. A statistical rule says one rank a layer; to
compare at equal MACs all its ranks are multiplied by one number, found by bisection, until the
network fits the budget. The energy rule finds its threshold in the same way, and the budget rule
needs neither. BatchNorm is estimated anew on 2,000 training images, accuracy is on the first
2,000 test images: a standard error of about 0.6 points. Factor 1 is the rule as it stands.

Updates: a 64-256-256-10 network on scikit-learn's digits, Adam without decay, its middle layer
cut. The weight W has a statistical rank, and so has the update W − W₀; accuracy says which of
the two the network lives on.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import nn

import lorank
from lorank.ranks import Spectra, cost_of
from lorank.zoo import load_data, load_model
from pretrained_cut import accuracy, energy_at, training_images
from record import data_folder, record

SHARES = (0.75, 0.5, 0.35)
RULES = ("csp", "evbmf", "gavish_donoho", "optimal_shrinkage")


def scaled(spectra: Spectra, ranks: dict[str, int], factor: float) -> dict[str, int]:
    return {
        name: max(1, min(spectra[name].full_rank, round(factor * rank)))
        for name, rank in ranks.items()
    }


def fitted(spectra: Spectra, ranks: dict[str, int], share: float) -> tuple[dict[str, int], float]:
    """All ranks times the largest factor that keeps the network within a share of its MACs."""
    low, high = 0.0, 64.0
    for _ in range(50):
        factor = (low + high) / 2
        fits = cost_of(scaled(spectra, ranks, factor), spectra, "macs") <= share * spectra.macs
        low, high = (factor, high) if fits else (low, factor)
    return scaled(spectra, ranks, low), low


def network(name: str, data, images: int, done: Callable[[dict[str, Any]], None]) -> None:
    folder = data_folder()
    dense = load_model(name, weights=folder / f"resnet_cifar10/{name}.safetensors")
    example = torch.zeros(1, 3, 32, 32)
    spectra = lorank.measure(dense, example, layout="channel")
    done(
        {
            "model": name,
            "rule": "dense",
            "macs": 1.0,
            "accuracy": accuracy(dense, data.test, images),
        }
    )
    chosen = {rule: getattr(lorank.ranks, rule)(spectra) for rule in RULES}
    asked = [(rule, ranks, 1.0, None) for rule, ranks in chosen.items()]
    for share in SHARES:
        asked.append(("energy", energy_at(spectra, share), None, share))
        asked.append(("budget", lorank.ranks.budget(spectra, macs=share), None, share))
        asked += [(rule, *fitted(spectra, ranks, share), share) for rule, ranks in chosen.items()]
    for rule, ranks, factor, share in asked:
        small = lorank.fold(lorank.decompose(dense, ranks, layout="channel"), example=example)
        lorank.recalibrate(small, training_images(data.train))
        done(
            {
                "model": name,
                "rule": rule,
                "asked": share,
                "factor": factor,
                "macs": round(lorank.cost(small, example).macs / spectra.macs, 4),
                "mean_rank_share": sum(ranks[k] / spectra[k].full_rank for k in ranks) / len(ranks),
                "accuracy": accuracy(small, data.test, images),
            }
        )


def update(seed: int, epochs: int) -> dict[str, Any]:
    """Ranks of a middle layer and of its update, and accuracy with either cut."""
    train, test = _digits()
    torch.manual_seed(seed)
    size = train[0].shape[1]
    model = nn.Sequential(
        *(nn.Linear(size, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
    )
    start = model[2].weight.detach().clone()
    adam = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(train[0])).split(64):
            adam.zero_grad()
            nn.functional.cross_entropy(model(train[0][batch]), train[1][batch]).backward()
            adam.step()
    weight = model[2].weight.detach().clone()

    @torch.inference_mode()
    def right(matrix: torch.Tensor) -> float:
        model[2].weight.copy_(matrix)
        return float((model(test[0]).argmax(1) == test[1]).float().mean())

    def cut(matrix: torch.Tensor, rank: int) -> torch.Tensor:
        U, s, Vh = lorank.linalg.svd(matrix)
        return (U[:, :rank] * s[:rank]) @ Vh[:rank]

    def rank(matrix: torch.Tensor, **known: float) -> int:
        layer = nn.Sequential(nn.Linear(256, 256))
        layer[0].weight.data = matrix.clone()
        return lorank.ranks.csp(lorank.measure(layer), **known)["0"]

    own, delta = rank(weight, noise=float(start.std())), rank(weight - start)
    inferred = rank(weight)
    return {
        "seed": seed,
        "rank_of_weight": own,
        "rank_of_weight_noise_inferred": inferred,
        "rank_of_update": delta,
        "dense": right(weight),
        "without_training": right(start),
        "weight_cut": right(cut(weight, own)),
        "weight_cut_noise_inferred": right(cut(weight, inferred)),
        "weight_cut_half_the_rank": right(cut(weight, own // 2)),
        "weight_cut_twice_the_rank": right(cut(weight, 2 * own)),
        "start_and_update_cut": right(start + cut(weight - start, delta)),
        "start_and_update_cut_to_the_weight_s_rank": right(start + cut(weight - start, own)),
    }


def _digits() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Images as they are, without the random shifts that training on them uses elsewhere."""
    found = load_digits()
    images, labels = torch.tensor(found.data).float() / 16, torch.tensor(found.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    return [(images[part], labels[part]) for part in (order[:1000], order[1000:])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="*", default=["resnet20", "resnet56"])
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--runs", default="runs/bayes")
    args = parser.parse_args()
    torch.set_num_threads(1)
    folder = Path(args.runs)
    folder.mkdir(parents=True, exist_ok=True)
    book = folder / f"updates-{args.epochs}.jsonl"
    updates = _lines(book)
    for seed in range(len(updates), args.seeds):
        updates.append(update(seed, args.epochs))
        _append(book, updates[-1])
    networks, data = [], None
    for name in args.models:
        book = folder / f"{name}-{args.images}.jsonl"
        if not _lines(folder / f"{name}-{args.images}.done"):
            book.unlink(missing_ok=True)
            data = data or load_data(f"cifar10:{data_folder() / 'cifar10'}")
            network(name, data, args.images, lambda row, book=book: _append(book, row))
            _append(folder / f"{name}-{args.images}.done", {})
        networks += _lines(book)
    found = {"networks": networks, "updates": updates[: args.seeds]}
    record("bayes_networks", found, test_images=args.images, epochs=args.epochs)


def _lines(book: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in book.read_text().splitlines()] if book.exists() else []


def _append(book: Path, row: dict[str, Any]) -> None:
    with book.open("a") as pen:
        pen.write(json.dumps(row) + "\n")
    print(row, flush=True)


if __name__ == "__main__":
    main()
