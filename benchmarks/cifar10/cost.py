"""Cost of a training step at batch 128: SVD form, dense, two convolutions, TRP; time and memory.

    python benchmarks/cifar10/cost.py
    python benchmarks/cifar10/cost.py --networks resnet20 --rounds 5

Ranks are those of the pretrained weights under a budget of MACs. All forms of a network take turns,
step by step, so that a slow moment of the machine hits all of them; times are medians, of processor
time on a CPU and of synchronised wall time on a GPU, and are given against the dense step. A step
is the forward pass, the loss with its penalties, the backward pass and SGD with momentum. TRP is
charged one truncation every 20 steps. Memory on a GPU is the peak of what is allocated; on a CPU it
is what the step holds when the backward pass begins: parameters, gradients, momenta, and tensors
saved for the backward pass, each storage once.
"""

import argparse
import copy
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lorank
from cifar10.data import Cifar, Part
from cifar10.job import Job
from cifar10.methods.trp import TRP
from cifar10.plan import Experiment, Schedule
from cifar10.published import pretrained
from lorank.atomic import replacing
from record import arguments, record

SHARES = (1.0, 0.72, 0.5, 0.28, 0.15)
WARM = 2  # rounds that are not counted
TRUNCATION = 20  # steps


class Form(NamedTuple):
    """A way to train a network.

    Attributes:
        model: what is trained.
        share: of the dense network's MACs that its ranks leave; 1 is full rank.
        penalty: a term of the loss, or none.
        truncate: what TRP does every 20 steps, or none.
    """

    model: nn.Module
    share: float
    penalty: Callable[[nn.Module], Tensor] | None = None
    truncate: Callable[[nn.Module], Any] | None = None


def forms(dense: nn.Module, example: Tensor) -> dict[str, Form]:
    """All contestants, by what the table calls them."""
    found = {"dense": Form(dense, 1.0)}
    spectra = lorank.measure(dense, example)
    layouts = {name: spectrum.layout for name, spectrum in spectra.items()}
    for share in SHARES:
        ranks = lorank.ranks.budget(spectra, macs=share)
        low = lorank.decompose(dense, ranks, layout=layouts)
        found[f"SVD form, {share:.0%}"] = Form(low, share, penalties)
        if share == 1:
            found["SVD form, 100%, no penalties"] = Form(copy.deepcopy(low), share)
        if share in (1.0, 0.5):
            two = contracted(copy.deepcopy(low), "thin")
            found[f"two convolutions, {share:.0%}"] = Form(two, share, penalties)
        if share == 0.28:
            found[f"plain pairs, {share:.0%}"] = Form(lorank.fold(low, example=example), share)
    trp, job = TRP(), a_job(dense, example)
    model = trp.begin(job)
    found["TRP"] = Form(
        model,
        1.0,
        lambda model: trp.penalty(job, model, 0.0),
        lambda model: trp.truncate(job, model),
    )
    return found


def penalties(model: nn.Module) -> Tensor:
    """Both penalties of SVD training."""
    return lorank.penalty(model, orthogonality=1.0, sparsity=0.01, kind="hoyer")


def contracted(model: nn.Module, how: str) -> nn.Module:
    """Fix the contraction of every layer in SVD form: ``thin`` is the published one."""
    for module in model.modules():
        if isinstance(module, lorank.nn.Factored):
            module.contraction = how
    return model


def a_job(dense: nn.Module, example: Tensor) -> Job:
    """What TRP wants to know: the dense network and a budget; it looks at no image."""
    nothing = Part(*(torch.empty(0) for _ in Part._fields))
    experiment = Experiment(
        suite="cost",
        network="",
        method="trp",
        budget=0.5,
        seed=0,
        use="trp",
        options={},
        schedule=Schedule(epochs=1),
    )
    return Job(experiment, dense, Cifar(nothing, nothing, nothing, torch.empty(0)), example)


class Runner:
    """Steps of one form on one batch.

    Args:
        form: what is trained.
        batch: images and labels.
    """

    def __init__(self, form: Form, batch: tuple[Tensor, Tensor]):
        self.form = form
        self.x, self.y = batch
        self.model = form.model.train()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3, momentum=0.9)
        self.cuda = self.x.is_cuda

    def loss(self) -> Tensor:
        """The loss with its penalty."""
        with torch.autocast(self.x.device.type, torch.bfloat16, enabled=self.cuda):
            outputs = self.model(self.x)
        loss = F.cross_entropy(outputs.float(), self.y)
        return loss if self.form.penalty is None else loss + self.form.penalty(self.model)

    def step(self) -> None:
        """One step, without a truncation."""
        loss = self.loss()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def timed(self, what: Callable[[], Any]) -> float:
        """Seconds of processor time, or of a GPU's."""
        clock = time.perf_counter if self.cuda else time.process_time
        torch.cuda.synchronize() if self.cuda else None
        began = clock()
        what()
        torch.cuda.synchronize() if self.cuda else None
        return clock() - began

    def seconds(self) -> float:
        """Seconds of a step, with TRP's share of a truncation."""
        spent = self.timed(self.step)
        if self.form.truncate is not None:
            truncate = self.form.truncate
            spent += self.timed(lambda: truncate(self.model)) / TRUNCATION
        return spent

    def memory(self) -> int:
        """Bytes that a step needs, after at least one step was taken."""
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            self.step()
            held = before - sum(p.numel() * p.element_size() * 3 for p in self.model.parameters())
            return torch.cuda.max_memory_allocated() - held
        kept = {p.untyped_storage().data_ptr(): 0 for p in (self.x, *self.model.parameters())}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            kept.setdefault(storage.data_ptr(), storage.nbytes())
            alive.append(tensor)  # so that no address is used twice
            return tensor

        alive: list[Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            self.loss()
        weights = sum(p.numel() * p.element_size() for p in self.model.parameters())
        return sum(kept.values()) + 3 * weights


def rows_of(name: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of one network; what a folder of runs has already is not measured again."""
    if args.runs is None:
        return measured(name, args)
    path = args.runs / f"{name}-{args.device}-{args.batch}-{args.rounds}-{args.threads}.json"
    if not path.exists():
        found = measured(name, args)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as draft:
            draft.write_text(json.dumps(found))
    return json.loads(path.read_text())


def measured(name: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure one network."""
    device = torch.device(args.device)
    torch.manual_seed(0)
    dense = pretrained(name).to(device, memory_format=torch.channels_last).eval()
    example = torch.zeros(1, 3, 32, 32, device=device)
    whole = lorank.cost(dense, example).macs
    x = torch.randn(args.batch, 3, 32, 32, device=device).to(memory_format=torch.channels_last)
    batch = x, torch.randint(10, (args.batch,), device=device)
    runners = {
        title: Runner(form._replace(model=copied(form.model)), batch)
        for title, form in forms(dense, example).items()
    }
    seconds: dict[str, list[float]] = {title: [] for title in runners}
    for turn in range(args.rounds + WARM):
        for title, runner in runners.items():
            spent = runner.seconds()
            seconds[title] += [spent] if turn >= WARM else []
    memory = {title: runner.memory() for title, runner in runners.items()}
    rows = []
    for title, runner in runners.items():
        pairwise = [a / b for a, b in zip(seconds[title], seconds["dense"], strict=True)]
        macs = lorank.cost(runner.model.eval(), example).macs
        assert macs is not None
        assert whole is not None
        rows.append(
            {
                "network": name,
                "form": title,
                "macs_share": round(macs / whole, 4),
                "ms": round(1e3 * statistics.median(seconds[title]), 2),
                "ratio": round(
                    statistics.median(seconds[title]) / statistics.median(seconds["dense"]), 3
                ),
                "ratio_quartiles": [round(q, 3) for q in statistics.quantiles(pairwise, n=4)[::2]],
                "mib": round(memory[title] / 2**20, 1),
                "memory_ratio": round(memory[title] / memory["dense"], 3),
            }
        )
        print(rows[-1], flush=True)
    return rows


def copied(model: nn.Module) -> nn.Module:
    """A model of its own, in channels-last order."""
    return copy.deepcopy(model).to(memory_format=torch.channels_last)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", default=["resnet20", "resnet56"])
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--runs", type=Path, help="where each network's rows are kept")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    figures = [row for name in args.networks for row in rows_of(name, args)]
    device = torch.cuda.get_device_name() if args.device.startswith("cuda") else "CPU"
    words = " ".join(["python benchmarks/cifar10/cost.py", *arguments()])
    record(
        "cifar10_cost",
        figures,
        command=words,
        batch=args.batch,
        rounds=args.rounds,
        device=device,
    )


if __name__ == "__main__":
    main()
