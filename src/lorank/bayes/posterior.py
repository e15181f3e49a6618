"""What a sampler found: draws of identified quantities, the mean matrix, ranks, diagnostics."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lorank.bayes.problem import Problem
from lorank.errors import LorankError, unknown

Array = NDArray[np.float64]

RULES = ("edge", "mode", "slabs")
ENTRIES = 12
"""Entries of the matrix whose draws are kept for diagnostics."""

CHUNK = 256


@dataclass(frozen=True)
class Draws:
    """Raw draws of a sampler in the unit and basis of its problem, chains first.

    Attributes:
        d: ``(C, N, H)`` by slot.
        sigma: ``(C, N)``.
        U: ``(C, N, m, H)``.
        V: ``(C, N, m or n, H)``; the rows beyond m may be left out.
        slab: ``(C, N, H)``, P(slab | d), or ``None``.
        statistics: ``(C, N)`` each, of the sampler itself.
    """

    d: Array
    sigma: Array
    U: Array
    V: Array
    slab: Array | None
    statistics: dict[str, NDArray]


@dataclass(frozen=True)
class Posterior:
    """Draws of what the data can tell, in the data's units. Chains first, then draws.

    Attributes:
        mean: ``(rows, columns)``, posterior mean of the matrix behind the noise.
        sd: ``(rows, columns)``, posterior standard deviation of its entries.
        d: ``(C, N, H)``, singular values, sorted within each draw.
        sigma: ``(C, N)``, noise of one entry.
        slab: ``(C, N, H)``, probability that a slot is signal, given the draw; ``None`` for
            priors without a spike.
        entries: ``(C, N, E)``, draws of some entries of the matrix.
        places: ``(E, 2)``, their rows and columns.
        edge: ``(mn)^¼``, the detection edge in units of σ.
        statistics: of the sampler, ``(C, N)`` each; empty for Gibbs.
    """

    mean: Array
    sd: Array
    d: Array
    sigma: Array
    slab: Array | None
    entries: Array
    places: NDArray[np.int64]
    edge: float
    statistics: dict[str, NDArray]

    @property
    def noise(self) -> float:
        """Posterior mean of σ."""
        return float(self.sigma.mean())

    @property
    def values(self) -> Array:
        """``(H,)``, posterior means of the sorted singular values."""
        return self.d.mean((0, 1))

    @property
    def signal(self) -> Array | None:
        """``(H,)``, P(slot h is a slab), averaged over draws; ``None`` without a spike."""
        return None if self.slab is None else self.slab.mean((0, 1))

    @property
    def above(self) -> Array:
        """``(H,)``, P(d_h is above the detection edge ``σ·(mn)^¼``)."""
        return (self.d > self.edge * self.sigma[..., None]).mean((0, 1))

    def rank_distribution(self, by: str = "mode") -> Array:
        """``(H + 1,)``, P(rank = k).

        Args:
            by: ``"mode"`` counts components above the detection edge, ``"slabs"`` slots that
                are slabs (a sum of coins with the probabilities of each draw, averaged).

        Raises:
            LorankError: if the rule is unknown, or ``"slabs"`` is asked of a prior without them.

        Example:
            >>> import numpy as np
            >>> from lorank.bayes.gibbs import gibbs
            >>> found = gibbs(np.eye(5) + 0.1 * np.random.default_rng(0).normal(size=(5, 5)),
            ...               truncation=2, warmup=5, draws=5)
            >>> round(float(found.rank_distribution().sum()), 12)
            1.0
        """
        if by == "slabs":
            if self.slab is None:
                raise LorankError(
                    "only the prior 'csp' has slabs to count; ask for 'edge' or 'mode'"
                )
            return _coins(self.slab.reshape(-1, self.slab.shape[-1])).mean(0)
        if by == "mode":
            count = (self.d > self.edge * self.sigma[..., None]).sum(-1).ravel()
            return np.bincount(count, minlength=self.d.shape[-1] + 1) / count.size
        raise unknown("distribution of the rank", by, ("mode", "slabs"))

    def rank(self, by: str = "edge") -> int:
        """Rank by a stated rule; 0 is a rank.

        Args:
            by: ``"edge"``, how many components are more likely above the detection edge than
                not; ``"mode"``, the most likely number above it; ``"slabs"``, the most likely
                number of slabs.

        Raises:
            LorankError: if the rule is unknown or needs slabs that the prior does not have.

        Example:
            >>> import numpy as np
            >>> from lorank.bayes.gibbs import gibbs
            >>> found = gibbs(np.random.default_rng(0).normal(size=(6, 6)), truncation=2,
            ...               warmup=50, draws=50)
            >>> found.rank() <= 2
            True
        """
        if by not in RULES:
            raise unknown("rule for the rank", by, RULES)
        if by == "edge":
            return int((self.above > 0.5).sum())
        return int(self.rank_distribution(by).argmax())

    def inference_data(self) -> Any:
        """ArviZ ``InferenceData`` of the identified quantities; see ``diagnostics``.

        Raises:
            MissingExtraError: if ArviZ is not installed.
        """
        from lorank.bayes.diagnostics import inference_data

        return inference_data(self)


def _coins(p: Array) -> Array:
    """``(B, H)`` probabilities of independent coins → ``(B, H + 1)``, P(number of heads)."""
    counts = np.zeros((len(p), p.shape[1] + 1))
    counts[:, 0] = 1
    for h in range(p.shape[1]):
        one = p[:, h, None]
        counts[:, 1:] = counts[:, 1:] * (1 - one) + counts[:, :-1] * one
        counts[:, 0] *= 1 - p[:, h]
    return counts


def posterior(problem: Problem, draws: Draws, seed: int = 0) -> Posterior:
    """Turn raw draws into the data's units and basis.

    With complete data the posterior is the same under ``(U, V) → (SU, SV)`` for every diagonal
    matrix S of signs, so the mean lies on the diagonal of the singular basis, and what the draws
    have beside it is Monte Carlo noise: it is left out.

    Args:
        problem: what was sampled.
        draws: in its unit and basis.
        seed: of the null rows of V, which are uniform given the others, and of the entries kept.

    Returns:
        The posterior.

    Cost: ``O(draws · mn·H)``.
    """
    generator = np.random.default_rng([seed, 7])
    H, (m, n) = problem.truncation, problem.shape
    d, U = draws.d.reshape(-1, H), draws.U.reshape(-1, m, H)
    V = _whole(draws.V.reshape(-1, draws.V.shape[-2], H), n, generator)
    rows, columns = (n, m) if problem.upright else (m, n)
    places = np.unravel_index(
        generator.choice(m * n, min(ENTRIES, m * n), replace=False), (rows, columns)
    )
    total, square, kept = np.zeros((m, n)), np.zeros((rows, columns)), []
    for first in range(0, len(d), CHUNK):
        part = slice(first, first + CHUNK)
        core = (U[part] * d[part, None, :]) @ np.swapaxes(V[part], -1, -2)
        matrices = problem.outer(core)
        total += core.sum(0)
        square += (matrices**2).sum(0)
        kept.append(matrices[:, places[0], places[1]])
    core = total / len(d)
    plain = problem.outer(core)
    sd = np.sqrt(np.maximum(square / len(d) - plain**2, 0))
    if problem.observed is None:
        core = np.where(np.eye(m, n, dtype=bool), core, 0)
    unit = problem.unit
    return Posterior(
        mean=unit * problem.outer(core),
        sd=unit * sd,
        d=-np.sort(-unit * draws.d, axis=-1),
        sigma=unit * draws.sigma,
        slab=draws.slab,
        entries=unit * np.concatenate(kept).reshape(*draws.sigma.shape, -1),
        places=np.stack(places, axis=1),
        edge=problem.edge,
        statistics=draws.statistics,
    )


def _whole(V: Array, n: int, generator: np.random.Generator) -> Array:
    """Add the null rows: ``Q·R`` with ``RᵀR = I − VᵀV`` and Q uniform."""
    B, seen, H = V.shape
    if seen == n:
        return V
    free = generator.standard_normal((B, n - seen, H))
    Q, T = np.linalg.qr(free)
    Q *= np.sign(np.diagonal(T, axis1=-2, axis2=-1))[:, None, :]
    rest = np.eye(H) - np.swapaxes(V, -1, -2) @ V
    w, E = np.linalg.eigh(rest)
    root = np.sqrt(np.maximum(w, 0))[..., None] * np.swapaxes(E, -1, -2)
    return np.concatenate([V, Q @ root], axis=1)
