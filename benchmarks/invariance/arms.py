"""The arms: what each adds to the training of the same network, and the strengths to try."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn

from invariance.networks import WIDTH
from lorank.penalties import CentreLoss, ClassInvariance

Term = Callable[[Tensor, Tensor], Tensor]


class Arm(NamedTuple):
    """One arm.

    Attributes:
        grid: strengths to try, in geometric order; it grows where the best lies at its end.
        kind: of the penalty; ``kept centres`` is CentreLoss.
        normalise: of the penalty.
        strength: what a strength is: ``weight`` of the penalty, weight ``decay`` or ``dropout``.
        norm: whether the network has batch normalisation.
        base: the arm whose tuned weight decay it has; None tunes its own.
    """

    grid: tuple[float, ...]
    kind: str | None = None
    normalise: str | None = None
    strength: str = "weight"
    norm: bool = False
    base: str | None = "weight decay"


PLAIN = "weight decay"
"""The tuned baseline without normalisation."""

NORMED = "batch norm"
"""The tuned baseline with it."""

FINE = (0.003, 0.01, 0.03)
DECAYS = (0.3, 1.0, 3.0)

ARMS = {
    "none": Arm((0.01,), strength="decay", base=None),
    PLAIN: Arm(DECAYS, strength="decay", base=None),
    "dropout": Arm((0.1, 0.2, 0.35), strength="dropout"),
    "pairs": Arm(FINE, "pairs"),
    "pairs, spread 1": Arm((0.1, 0.3, 1.0), "pairs", "spread"),
    "centre loss": Arm((0.03, 0.1, 0.3), "kept centres"),
    "covariance": Arm((0.01, 0.1, 1.0), "covariance"),
    "contrastive": Arm((0.3, 1.0, 3.0), "contrastive"),
    "activation norm": Arm(FINE, "norm"),
    "all pairs": Arm(FINE, "all_pairs"),
    NORMED: Arm(DECAYS, strength="decay", norm=True, base=None),
    "batch norm, pairs": Arm(FINE, "pairs", norm=True, base=NORMED),
    "batch norm, activation norm": Arm(FINE, "norm", norm=True, base=NORMED),
}

LEFT_OUT = {"cnn": ("none", "covariance", "batch norm, activation norm")}
"""Arms that a network does not have, to keep the benchmark within an hour of one processor."""

CLASS_FREE = ("activation norm", "all pairs")


def term(arm: Arm, weight: float, net: str) -> Term | None:
    """What an arm adds to the loss, of the tapped activations and the labels."""
    if arm.kind is None:
        return None
    made: nn.Module
    if arm.kind == "kept centres":
        made = CentreLoss(10, WIDTH[net], weight)
    else:
        made = ClassInvariance(weight, arm.kind, normalise=arm.normalise)
    return made
