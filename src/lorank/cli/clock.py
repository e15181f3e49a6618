"""``lorank compress --latency``: options of the setting, a plan before the cut, the time after."""

from typing import Annotated, Any, NamedTuple

import torch
import typer
from torch import Tensor, nn

from lorank.cli.network import Network, fitting
from lorank.compression.latency_plan import Plan, latency_plan, paired
from lorank.compression.twin import formatted
from lorank.errors import LorankError
from lorank.ranks import Spectra

Latency = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE",
        help="Share of the dense network's measured time to take: 0.7. The device, --batch, "
        "--threads and --channels-last are the setting it holds in.",
    ),
]
Batch = Annotated[
    int | None, typer.Option(metavar="N", help="Inputs in one call, for --latency; 1 by default.")
]
Threads = Annotated[
    int | None,
    typer.Option(
        metavar="N", help="CPU threads, for --latency; by default as many as torch takes."
    ),
]
ChannelsLast = Annotated[
    bool,
    typer.Option(
        "--channels-last", help="Time in channels-last order, in which many CNNs run faster."
    ),
]
MULTIPLE = 8


class Clock(NamedTuple):
    """The setting that was asked for."""

    batch: int | None = None
    threads: int | None = None
    channels_last: bool = False

    def check(self, found: Network, wanted: bool) -> None:
        """Refuse a setting without a time to keep, and a network or numbers without a meaning.

        Raises:
            LorankError: if one is found.
        """
        if not wanted:
            if self != Clock():
                raise LorankError("--batch, --threads and --channels-last are for --latency")
            return
        for name, value in (("batch", self.batch), ("threads", self.threads)):
            if value is not None and value < 1:
                raise LorankError(f"--{name} must be at least 1, found {value}")
        if found.layers:
            raise LorankError(
                f"--latency is a share of the dense network's time, and {found.file} is in SVD "
                "form: compress the dense network"
            )
        if found.shape is None:
            raise LorankError(
                "--latency needs the size of an input: name it with --input or --data"
            )

    def example(self, found: Network, target: torch.device) -> Tensor:
        """Draw the input that is timed."""
        assert found.shape is not None
        x = fitting(found.shape.example(self.batch or 1), found.model).to(target)
        last = self.channels_last and x.ndim == 4
        return x.to(memory_format=torch.channels_last) if last else x

    def ordered(self, model: nn.Module) -> nn.Module:
        """Put a network in the order in memory that was asked for."""
        if self.channels_last:
            model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        return model

    def plan(
        self, found: Network, spectra: Spectra, share: float, multiple: int, target: torch.device
    ) -> Plan:
        """Choose ranks by the clock, before anything is cut."""
        model = self.ordered(found.model.to(target))
        x = self.example(found, target)
        return latency_plan(model, x, spectra, share, multiple=multiple, threads=self.threads)

    def answer(
        self, plan: Plan, found: Network, small: nn.Module, target: torch.device
    ) -> dict[str, Any]:
        """Time what was cut against the dense network, and say what was asked and reached."""
        dense, cut = found.model.to(target), formatted(small.to(target), found.model)
        x = self.example(found, target)
        reached = paired(dense, cut, example=x, threads=self.threads)
        return plan.plain() | {"reached": round(reached, 4)}


def full(plan: Plan) -> dict[str, int]:
    """Ranks of every measured layer; what stays dense has its full rank."""
    whole = {name: layer.full_rank for name, layer in plan.spectra.items()}
    return whole | plan.ranks


def in_words(answer: dict[str, Any]) -> str:
    """Say what a network takes of the dense one's time, and where that was measured.

    Example:
        >>> here = {"threads": 2, "device": "cpu", "inputs": "a tensor", "dtype": "float32"}
        >>> in_words({"reached": 0.7, "asked": 0.7, "setting": here | {"channels_last": False}})
        'Time: 70.0 % of the dense network (asked: 70.0 %), on cpu, 2 threads, float32, a tensor.'
    """
    here = answer["setting"]
    order = ", channels last" if here["channels_last"] else ""
    threads = f"{here['threads']} thread{'' if here['threads'] == 1 else 's'}"
    return (
        f"Time: {100 * answer['reached']:.1f} % of the dense network (asked: "
        f"{100 * answer['asked']:.1f} %), on {here['device']}, {threads}, {here['dtype']}{order}, "
        f"{here['inputs']}."
    )
