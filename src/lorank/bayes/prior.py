"""The prior of singular values: a narrow spike, a heavy slab, and weights that favour the spike."""

import math
from dataclasses import dataclass
from numbers import Real

import torch
from torch import Tensor

from lorank.errors import LorankError

MANY = 100
"""Largest α: a step of the process, of mean 1/α, stays as long as the spacing of its grid."""


@dataclass(frozen=True)
class Prior:
    """Cumulative shrinkage prior in units of the detection edge ``σ·(mn)^¼``.

    ``d | spike ~ Exp(mean κ₀·edge)``; ``d | slab`` has the Lomax density
    ``a·bᵃ/(b + d)^{a+1}``, ``b = κ·edge``, an exponential whose mean is inverse-gamma; the slot h
    is a spike with probability ``π_h``, ``1 − π_h = e^{−S_h}``, S a sum of h draws of Exp(α).

    Attributes:
        alpha: α, the expected number of slabs a priori.
        shape: a, the tail of the slab.
        scale: κ, the slab's scale over the edge.
        spike: κ₀, the spike's mean over the edge.
        nothing: probability that there is no signal at all, in [0, 1). Without it the first slot
            is a slab with probability α/(1 + α), and pure noise of twenty rows or more is given a
            rank in a fifth of runs; this little makes it a thirtieth, and costs no error where
            there is signal.
        shifted: start the slab at the edge. A component below it leaves no trace in the data,
            so a slab that reaches below can never be ruled out.

    Raises:
        LorankError: if a number is not positive and finite, α is above 100, or ``nothing`` or
            ``shifted`` is out of range.

    Source: Tanaka, Bayesian singular value regularization via a cumulative shrinkage process,
    2020, for the model; its constants are not known here, and these are our own. Legramanti,
    Durante and Dunson, Biometrika, 2020, for the process.

    Example:
        >>> prior = Prior()
        >>> float(prior.log_slab(torch.tensor([0.5, 1.0]), 1.0)[0])
        -inf
    """

    alpha: float = 5.0
    shape: float = 1.0
    scale: float = 1.0
    spike: float = 0.05
    nothing: float = 0.02
    shifted: bool = True

    def __post_init__(self):
        for name in ("alpha", "shape", "scale", "spike", "nothing"):
            number = getattr(self, name)
            if isinstance(number, bool) or not isinstance(number, Real):
                raise LorankError(f"{name} of the prior is a number, found {number!r}")
            object.__setattr__(self, name, float(number))  # of any kind, it meets tensors
            if name != "nothing" and not 0 < float(number) < math.inf:
                raise LorankError(f"{name} of the prior is positive and finite, found {number!r}")
        if self.alpha > MANY:
            raise LorankError(f"alpha of the prior is at most {MANY}, found {self.alpha!r}")
        if not 0 <= self.nothing < 1:
            raise LorankError(
                f"nothing, the prior probability of no signal, is in [0, 1), found {self.nothing!r}"
            )

        if not isinstance(self.shifted, bool):
            raise LorankError(f"shifted of the prior is True or False, found {self.shifted!r}")

    def log_spike(self, d: Tensor, edge: Tensor | float) -> Tensor:
        """Log density of a spike at ``d ≥ 0``."""
        mean = torch.as_tensor(self.spike * edge, dtype=d.dtype, device=d.device)
        return -d / mean - mean.log()

    def log_slab(self, d: Tensor, edge: Tensor | float) -> Tensor:
        """Log density of a slab at ``d ≥ 0``; −∞ below the edge where it is shifted."""
        b = torch.as_tensor(self.scale * edge, dtype=d.dtype, device=d.device)
        start = torch.as_tensor(edge if self.shifted else 0.0, dtype=d.dtype, device=d.device)
        beyond = (d - start).clamp_min(0)
        density = (
            math.log(self.shape) + self.shape * b.log() - (self.shape + 1) * (b + beyond).log()
        )
        return torch.where(d >= start, density, -math.inf)
