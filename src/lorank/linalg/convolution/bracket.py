"""The norm of a convolution between two numbers as close as asked, valid for every image size."""

import itertools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from lorank.errors import LorankError
from lorank.linalg.convolution.blocks import Numbers, kernel_blocks, trimmed, unit_scaled
from lorank.linalg.convolution.norms import (
    LARGEST_CHUNK,
    below,
    enclosed,
    gram,
    symbol_room,
    symbols_at,
)
from lorank.linalg.convolution.symbol import symbol
from lorank.linalg.precision import exact

GRID = 8, 4
"""Cells of the first level along an axis, for each tap after the first; the second where a cell is
dear, its smaller side above ``DEAR``."""

DEAR = 64

LEVELS = 26
"""Halvings after which cells are as small as float64 can tell apart."""

MOST = 2**17, 2**38
"""Cells of a level, and their MACs, beyond which the search ends with the gap that it has."""

CANDIDATES = 2
"""Cells of a batch whose norms are computed: those that promise most."""

MANY, LOOKS = 256, 8
"""Cells left of a batch from which on better ones are sought, and how often."""

AIM = 3 / 4
"""Share of the tolerance at which a cell is tested; the rest is for rounding."""


class NormBracket(NamedTuple):
    """``lower ≤ ‖convolution‖ ≤ upper``, and where the lower end is reached.

    Shapes: ``frequency (axes,)`` in radians; ``left (out,)`` and ``right (in·phases,)``, unit
    singular vectors, complex, of the symbol there. With a stride the right one has the phases of
    the image as channels, as :func:`lorank.linalg.convolution.symbol.polyphase` orders them.

    Example:
        >>> norm_bracket(torch.ones(1, 1, 3, 3)).frequency.tolist()
        [0.0, 0.0]
    """

    lower: float
    upper: float
    frequency: Tensor
    left: Tensor
    right: Tensor
    group: int


class _Cells(NamedTuple):
    """Boxes around frequencies, all of the same half-widths."""

    group: Tensor
    centre: Tensor

    def take(self, index: Tensor) -> "_Cells":
        return _Cells(self.group[index], self.centre[index])


def norm_bracket(
    weight: Tensor,
    *,
    stride: Numbers = 1,
    dilation: Numbers = 1,
    groups: int = 1,
    padding: str | Numbers = "zeros",
    tol: float = 1e-3,
) -> NormBracket:
    """Enclose the largest singular value of a convolution, ``upper ≤ lower·(1 + tol)``.

    The upper end holds for images of every size with zero, circular or no padding (with circular
    padding and a stride: where the stride divides the size and the padding adds at most the
    kernel's reach), and is reached in the limit of large images with zero padding. A box of
    half-widths ``d`` around a frequency that holds a maximiser of ``‖F‖`` has a centre of at least
    ``sup‖F‖·cos(Σ D·d)``, D half the kernel's reach along an axis (the lemma of the module
    ``bounds_grid``): boxes that cannot beat the best value found by more than the tolerance are
    dropped, the others halved along each axis. A norm is compared with a number by a Cholesky
    decomposition, a fifth of the price of eigenvalues.

    Both ends keep room for rounding: the search goes on in float64 where float32 leaves no room
    within ``tol``. Where the symbol is as good as constant it may end with a larger gap, at a
    hundred thousand cells; both ends hold then, too.

    Args:
        weight: ``(out, in/groups, *kernel)``, or a matrix, or the weight of a transposed layer.
        stride: of each axis.
        dilation: of each axis.
        groups: number of groups.
        padding: the layer's; only refused where it copies pixels.
        tol: relative gap, at least 1e-9.

    Raises:
        LorankError: as for :func:`lorank.linalg.operator_norm_bound`, or for another ``tol``.

    Cost: a product and a Cholesky decomposition of the smaller channel count for each of some fifty
    frequencies where the symbol has a peak, to a thousand where it is flat; where hundreds are left
    at once, a decomposition more of each.

    Source: branch and bound on the lemma of M. Riesz, and Duffin and Schaeffer; ours.

    Example:
        >>> found = norm_bracket(torch.ones(1, 1, 3, 3))
        >>> found.lower <= 9 <= found.upper <= 9.01
        True
    """
    if not 1e-9 <= tol < 1:
        raise LorankError(f"a relative gap is between 1e-9 and 1, found {tol!r}")
    blocks = kernel_blocks(
        weight.detach(), stride=stride, dilation=dilation, groups=groups, padding=padding
    )
    with torch.no_grad(), exact(weight.device):
        blocks, scale = unit_scaled(trimmed(blocks))
        best = _search(blocks, tol)
        at = _one(best.blocks[best.group], best.frequency[None])[0]
        U, _, Vh = torch.linalg.svd(at, full_matrices=False)
        ends = best.lower * float(scale), best.upper * float(scale)
        return NormBracket(*ends, best.frequency, U[:, 0], Vh[0].conj(), best.group)


def _one(block: Tensor, angles: Tensor) -> Tensor:
    """Symbols of one block."""
    group = torch.zeros(len(angles), dtype=torch.long, device=block.device)
    return symbols_at(block.unsqueeze(0), group, angles)


def _search(blocks: Tensor, tol: float) -> "_Best":
    """Branch and bound."""
    reach = [(k - 1) / 2 for k in blocks.shape[3:]]
    best = _Best(blocks, tol)
    cells, half = _first(blocks, reach)
    if not any(reach):
        best.look(cells)
        best.settle(cells, 1.0)
        return best
    origin = torch.zeros_like(cells.centre[: len(blocks)])
    best.look(_Cells(torch.arange(len(blocks), device=blocks.device), origin))
    for _ in range(LEVELS):
        loss = math.cos(sum(D * d for D, d in zip(reach, half, strict=True)))
        cells = best.sift(cells, half, loss)
        if len(cells.group) << len(reach) > _most(blocks):
            best.settle(cells, loss)
            break
        if not len(cells.group):
            break
        cells, half = _halved(cells, half, reach)
    return best


def _most(blocks: Tensor) -> int:
    rows, columns = blocks.shape[1:3]
    cells, macs = MOST
    return min(cells, macs // (rows * columns * min(rows, columns)))


def _first(blocks: Tensor, reach: list[float]) -> tuple[_Cells, list[float]]:
    """Cells that cover half of all frequencies, for each block: the symbol's other half mirrors."""
    points = GRID[min(blocks.shape[1:3]) > DEAR]
    sizes = [points * round(2 * D) if D else 1 for D in reach]
    halved = next((a for a, D in enumerate(reach) if D), None)
    counts = [n // 2 if a == halved else n for a, n in enumerate(sizes)]
    steps = [
        2 * math.pi * (torch.arange(count).double() + (0.5 if D else 0.0)) / n
        for count, n, D in zip(counts, sizes, reach, strict=True)
    ]
    centre = torch.cartesian_prod(*steps).reshape(-1, len(reach)).to(blocks.device)
    group = torch.arange(len(blocks), device=blocks.device).repeat_interleave(len(centre))
    half = [math.pi / n if D else 0.0 for n, D in zip(sizes, reach, strict=True)]
    return _Cells(group, centre.repeat(len(blocks), 1)), half


def _halved(cells: _Cells, half: list[float], reach: list[float]) -> tuple[_Cells, list[float]]:
    half = [d / 2 for d in half]
    signs = [(-d, d) if D else (0.0,) for d, D in zip(half, reach, strict=True)]
    shifts = torch.tensor(list(itertools.product(*signs)), dtype=torch.float64)
    centre = (cells.centre.unsqueeze(1) + shifts.to(cells.centre)).flatten(0, 1)
    return _Cells(cells.group.repeat_interleave(len(shifts)), centre), half


class _Best:
    """The best value so far, and the largest bound of the cells that were dropped."""

    def __init__(self, blocks: Tensor, tol: float):
        self.blocks = blocks
        self.tol = tol
        self.symbol_room = symbol_room(blocks).double()
        self.lower = 0.0
        self.passed = 0.0
        self.started = False
        self.group = 0
        self.frequency = torch.zeros(blocks.ndim - 3, dtype=torch.float64, device=blocks.device)

    @property
    def upper(self) -> float:
        """What no frequency exceeds, once every cell is dropped."""
        return max(self.passed, self.lower)

    def look(self, cells: _Cells) -> bool:
        """Compute norms, and keep the best; says whether it is clearly better than the last."""
        before = self.lower
        for part in self._parts(cells):
            some = cells.take(part)
            low, _ = enclosed(symbols_at(self.blocks, *some))
            low = low.double() - self.symbol_room[some.group]
            value, place = low.max(dim=0)
            if float(value) > self.lower:
                self.lower, self.group = float(value), int(some.group[place])
                self.frequency = some.centre[place]
        return self.lower > before * (1 + self.tol / 32)

    def settle(self, cells: _Cells, loss: float) -> None:
        """Drop all cells, each at the bound of its own norm."""
        for part in self._parts(cells):
            some = cells.take(part)
            _, high = enclosed(symbols_at(self.blocks, *some))
            high = (high.double() + self.symbol_room[some.group]) / loss
            self.passed = max(self.passed, float(high.max()))

    def sift(self, cells: _Cells, half: list[float], loss: float) -> _Cells:
        """Cells that may hold more than the best value and the tolerance allow."""
        kept = [self._sifted(cells.take(part), half, loss) for part in self._parts(cells)]
        return _Cells(*(torch.cat(column) for column in zip(*kept, strict=True)))

    def _sifted(self, cells: _Cells, half: list[float], loss: float) -> _Cells:
        A = symbols_at(self.blocks, *cells)
        G = gram(A)
        if not self.started:
            self._improve(cells, G, half)
            self.started = True
        room = self.symbol_room[cells.group]
        aim = (self.lower * (1 + AIM * self.tol) * loss - room).clamp_min(0).to(A.real.dtype)
        bound = (below(A, G, aim).double() + room) / loss
        enough = self.lower * (1 + self.tol)
        if A.dtype != torch.complex128 and bool((bound.isfinite() & (bound > enough)).any()):
            self.blocks = self.blocks.double()
            self.symbol_room = symbol_room(self.blocks)
            return self._sifted(cells, half, loss)
        dropped = bound <= enough
        if dropped.any():
            self.passed = max(self.passed, float(bound[dropped].max()))
        left = torch.where(~dropped)[0]
        kept = cells.take(left)
        if len(left):
            powers = gram(G[left])
            self._improve(kept, powers, half)
            if len(left) > MANY:
                self._overtake(kept, A[left], G[left], powers, half)
        return kept

    def _overtake(
        self, cells: _Cells, A: Tensor, G: Tensor, powers: Tensor, half: list[float]
    ) -> None:
        """Look at cells whose centres beat the best value, as long as there are any.

        Cells of large powers need not be these: where two peaks are nearly as high, those around
        the lower one may have more singular values beside the largest.
        """
        for _ in range(LOOKS):
            best = (self.lower - self.symbol_room[cells.group]).clamp_min(0).to(A.real.dtype)
            above = torch.where(~below(A, G, best).isfinite())[0]
            before = self.lower
            if len(above):
                self._improve(cells.take(above), powers[above], half)
            if self.lower == before:
                return

    def _improve(self, cells: _Cells, powers: Tensor, half: list[float]) -> None:
        """Look at the cells of the largest ``‖(F·F*)^p‖_F``, and climb from a new best one."""
        real = torch.view_as_real(powers.resolve_conj()) if powers.is_complex() else powers
        size = real.flatten(1).square().sum(1)
        first = size.topk(min(CANDIDATES, len(size))).indices
        if self.look(cells.take(first)):
            self._climb(half)

    def _parts(self, cells: _Cells) -> tuple[Tensor, ...]:
        return torch.arange(len(cells.group), device=cells.group.device).split(self._chunk())

    def _chunk(self) -> int:
        return max(1, LARGEST_CHUNK // math.prod(self.blocks.shape[1:3]))

    def _climb(self, half: list[float]) -> None:
        """Walk uphill: with its singular vectors held, ``|u*Fv|`` is a polynomial of a few terms.

        At the best point of that nearby, F is at least as large.
        """
        steps = [torch.linspace(-d, d, 9 if d else 1, dtype=torch.float64) for d in half]
        around = torch.cartesian_prod(*steps).reshape(-1, len(half)).to(self.blocks.device)
        for shrink in (1.0, 0.3, 0.07):
            points = self.frequency + shrink * around
            best = self._held(points).argmax().unsqueeze(0)
            self.look(_Cells(torch.full_like(best, self.group), points[best]))

    def _held(self, points: Tensor) -> Tensor:
        """``|u*F(a)v|`` near the best frequency, u and v its singular vectors."""
        block = self.blocks[self.group]
        A = _one(block, self.frequency[None])[0]
        u = _leading(A)
        v = A.mH @ u
        taps = block.flatten(2).to(u)
        terms = torch.einsum("o,oip,i->p", u.conj(), taps, v / torch.linalg.vector_norm(v))
        # A kernel of one channel, whose tap p is the unit image p, has the phases as its symbol.
        count = taps.shape[-1]
        unit = torch.eye(count, dtype=block.dtype, device=block.device)
        phases = symbol(unit.reshape(count, 1, *block.shape[2:]), points).squeeze(-1)
        return (phases @ terms).abs()


def _leading(A: Tensor) -> Tensor:
    """Left singular vector of a matrix, roughly: a start for better ones."""
    G = A @ A.mH
    u = G[:, G.diagonal().real.argmax()]
    for _ in range(12):
        u = G @ (u / torch.linalg.vector_norm(u).clamp_min(1e-30))
    return u / torch.linalg.vector_norm(u).clamp_min(1e-30)
