"""From a curve of offsets to one row: matched lines, and the rivals they are compared with."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lorank.errors import LorankError, unknown


class Decision(NamedTuple):
    """Where a rule puts the target.

    Attributes:
        row: in rows of the projection, fractional.
        score: of the rule, at most 1: for ``line`` the cosine times the share of its windows that
            agree, for ``line_raw`` the cosine, for votes their share.
    """

    row: float
    score: float


def line_scores(offsets: Tensor, first: int, step: int, rows: int, half: int) -> Tensor:
    """``s(r) = Σ_u −u·f(r+u) / (√Σ_u u² · √Σ_u f(r+u)²) · √(n(r) / n)`` for every row r.

    The cosine between the curve f about r and a line of slope −1 that is 0 in r. The sums run over
    the n(r) centres of windows with ``|u| ≤ half``; n is their number away from both ends, so that
    a line of which only a part can be seen scores less. A curve beyond the line's end counts as
    the line's end.

    Args:
        offsets: (n,), in rows, at the rows ``first + i·step``.
        first: row of the first.
        step: rows between two.
        rows: rows of the image; every one is tried, those without a window of their own too.
        half: half of the line's length, in rows.

    Returns:
        (rows,), between −1 and 1.

    Raises:
        LorankError: if the curve is empty or holds NaN or Inf, its windows lie outside the image,
            or the line is shorter than 2 steps.

    Cost: O(rows · half). Source: the decision of Belharbi et al., 2017, as their slides state it;
    the cosine and what happens near the ends are ours.

    Example:
        >>> s = line_scores(20.0 - torch.arange(50.0), 0, 1, 50, 10)
        >>> int(s.argmax()), round(float(s.max()), 4)
        (20, 1.0)
    """
    check_curve(offsets)
    check_places(offsets, first, step, rows)
    offsets = offsets.detach().cpu()
    if half < 2 * step:
        raise LorankError(f"half a line has at least 2 windows, found {half} rows, step {step}")
    f, seen = _on_rows(offsets.double().clamp(-half, half), first, step, rows)
    u = torch.arange(-half, half + 1, dtype=torch.float64)
    up = _sum(f, -u)
    squares = _sum(f.square(), torch.ones_like(u)) * _sum(seen, u.square())
    share = _sum(seen, torch.ones_like(u)) / ((2 * half) // step + 1)
    # A flat curve of zeros has no direction: it matches nothing.
    tiny = torch.finfo(torch.float64).tiny
    return (up / squares.clamp_min(tiny).sqrt()) * share.clamp(max=1).sqrt()


def _on_rows(values: Tensor, first: int, step: int, rows: int) -> tuple[Tensor, Tensor]:
    """Put a curve on the rows of the image, and say which rows have a value."""
    f, seen = torch.zeros(rows, dtype=torch.float64), torch.zeros(rows, dtype=torch.float64)
    at = first + step * torch.arange(len(values))
    f[at], seen[at] = values, 1.0
    return f, seen


def _sum(values: Tensor, weights: Tensor) -> Tensor:
    """``Σ_u weights(u)·values(r + u)`` for every r, with nothing beyond the ends."""
    half = len(weights) // 2
    return F.conv1d(values.view(1, 1, -1), weights.view(1, 1, -1), padding=half).flatten()


def match_raw(offsets: Tensor, first: int, step: int, rows: int, half: int) -> Decision:
    """``argmax_r s(r)``, between rows by the parabola through the best score and its neighbours.

    The published decision. Its peak moves where a network's offsets are not as long above the
    target as below: :func:`match_line` takes it as the place to look at.

    Args:
        offsets: as :func:`line_scores`, and the rest too.
        first: row of the first window's centre.
        step: rows between two windows.
        rows: rows of the image.
        half: half of the line's length, in rows.

    Raises:
        LorankError: as :func:`line_scores`.

    Example:
        >>> match_raw(20.0 - torch.arange(50.0), 0, 1, 50, 10).row
        20.0
    """
    scores = line_scores(offsets, first, step, rows, half)
    best = int(scores.argmax())
    return Decision(best + _vertex(scores, best), float(scores[best]))


OUT = 17
"""Rows beyond which a window's vote belongs to another vertebra: half of the 35 mm between two."""


NEAR = 8.0
"""Rows by which votes of one vertebra scatter: the width of the Gaussian that counts them."""


def match_line(offsets: Tensor, first: int, step: int, rows: int, half: int) -> Decision:
    """The best match that its windows also vote for, then the line of slope −1 itself.

    With ``a(r) = Σ_{|u| ≤ half} exp(−(u + f(r+u))² / 2·8²) / n``, the share of the line's windows
    whose vote ``c + f(c)`` is r within some 8 rows, first ``r = argmax s(r)·a(r)``: the cosine
    alone has its peak where long offsets are, and votes alone count windows far from the target.
    Then, three times, ``r ← mean of c + f(c)`` over the windows of the line, ``|c − r| ≤ half``,
    whose ``c + f(c)`` is within 17 rows of r: the row in which the line of slope −1 that fits these
    windows best, in least squares, is 0. What was confused with a neighbour stays out.

    Args:
        offsets: as :func:`line_scores`, and the rest too.
        first: row of the first window's centre.
        step: rows between two windows.
        rows: rows of the image.
        half: half of the line's length, in rows.

    Raises:
        LorankError: as :func:`line_scores`.

    Cost: O(rows · windows). Both factors together are ours.

    Example:
        >>> match_line(20.25 - torch.arange(50.0), 0, 1, 50, 10).row
        20.25
    """
    scores = line_scores(offsets, first, step, rows, half)
    at = first + step * torch.arange(len(offsets), dtype=torch.float64)
    places = at + offsets.double()
    scores = scores.clamp(min=0) * _share(at, places, rows, half) / ((2 * half) // step + 1)
    row = float(scores.argmax())
    score = min(float(scores[int(row)]), 1.0)
    for _ in range(3):
        near = places[((at - row).abs() <= half) & ((places - row).abs() <= OUT)]
        if not len(near):  # a curve that is nowhere like the line
            break
        row = float(near.mean())
    return Decision(min(max(row, 0.0), rows - 1.0), score)


def _share(at: Tensor, places: Tensor, rows: int, half: int) -> Tensor:
    """``Σ exp(−(place − r)² / 2·8²)`` over the windows within half of r, for every row r."""
    r = torch.arange(rows, dtype=torch.float64).unsqueeze(1)
    inside = (at - r).abs() <= half
    return ((-0.5 * ((places - r) / NEAR).square()).exp() * inside).sum(1)


def _vertex(scores: Tensor, best: int) -> float:
    if not 0 < best < len(scores) - 1:
        return 0.0
    before, here, after = (float(scores[best + i]) for i in (-1, 0, 1))
    bend = before - 2 * here + after
    found = 0.0 if bend >= 0 else 0.5 * (before - after) / bend
    return round(found, 9) + 0.0


def vote_mode(
    offsets: Tensor, first: int, step: int, rows: int, half: int, width: float = 0.0
) -> Decision:
    """Row with most votes; the window at c votes for ``c + f(c)``.

    Args:
        offsets: as :func:`line_scores`, and the rest too; ``half`` is not used.
        first: row of the first window's centre.
        step: rows between two windows.
        rows: rows of the image; votes beyond them are lost.
        half: not used.
        width: standard deviation of a Gaussian that smooths the votes, in rows; 0 for none.

    Raises:
        LorankError: if the curve is empty or not finite.

    Example:
        >>> vote_mode(20.0 - torch.arange(50.0), 0, 1, 50, 10)
        Decision(row=20.0, score=1.0)
    """
    votes = _votes(offsets, first, step)
    inside = votes[(votes >= 0) & (votes <= rows - 1)].long()
    counts = torch.bincount(inside, minlength=rows).double()
    if width > 0:
        reach = max(1, round(4 * width))
        u = torch.arange(-reach, reach + 1, dtype=torch.float64)
        counts = _sum(counts, (-0.5 * (u / width).square()).exp())
    best = int(counts.argmax())
    return Decision(float(best), float(counts[best]) / len(votes))


def vote_smooth(offsets: Tensor, first: int, step: int, rows: int, half: int) -> Decision:
    """Row with most votes, smoothed by a Gaussian of 8 rows: see :func:`vote_mode`."""
    return vote_mode(offsets, first, step, rows, half, width=8.0)


def vote_median(offsets: Tensor, first: int, step: int, rows: int, half: int) -> Decision:
    """Median of the votes ``c + f(c)``; the score is the share of votes within 5 rows of it."""
    votes = _votes(offsets, first, step)
    row = votes.median().clamp(0, rows - 1)
    return Decision(float(row), float(((votes - row).abs() <= 5).double().mean()))


def _votes(offsets: Tensor, first: int, step: int) -> Tensor:
    check_curve(offsets)
    at = first + step * torch.arange(len(offsets), dtype=torch.float64)
    return (at + offsets.double()).round()


def zero_crossing(offsets: Tensor, first: int, step: int, rows: int, half: int) -> Decision:
    """Zero of the falling curve that lies nearest to the middle of the scan.

    Far from the target a curve is arbitrary and has zeros as well, so that this rule stands here
    for comparison only. Without a zero the smallest offset decides.
    """
    check_curve(offsets)
    f = offsets.double()
    falls = ((f[:-1] >= 0) & (f[1:] < 0)).nonzero().flatten()
    if not len(falls):
        return Decision(float(first + step * int(f.abs().argmin())), 0.0)
    places = first + step * (falls + f[falls] / (f[falls] - f[falls + 1]))
    nearest = int((places - (rows - 1) / 2).abs().argmin())
    return Decision(float(places[nearest]), 1.0 / len(falls))


Rule = Callable[[Tensor, int, int, int, int], Decision]
RULES: dict[str, Rule] = {
    "line": match_line,
    "line_raw": match_raw,
    "vote_mode": vote_mode,
    "vote_smooth": vote_smooth,
    "vote_median": vote_median,
    "zero_crossing": zero_crossing,
}
"""Decisions by name; ``line`` is meant for use, the others are what it is compared with."""


def decide(
    offsets: Tensor, first: int, step: int, rows: int, half: int, rule: str = "line"
) -> Decision:
    """Decide by a rule of :data:`RULES`.

    Args:
        offsets: (n,), in rows, at the rows ``first + i·step``.
        first: row of the first.
        step: rows between two.
        rows: rows of the image.
        half: half of the line's length, in rows.
        rule: its name.

    Raises:
        LorankError: if the rule is unknown, or the curve is empty, not finite or outside the image.

    Example:
        >>> decide(20.0 - torch.arange(50.0), 0, 1, 50, 10, rule="zero_crossing").row
        20.0
    """
    if rule not in RULES:
        raise unknown("decision", rule, RULES)
    check_curve(offsets)
    check_places(offsets, first, step, rows)
    return RULES[rule](offsets.detach().cpu(), first, step, rows, half)


def check_curve(offsets: Tensor) -> None:
    """Refuse a curve on which nothing can be decided.

    Raises:
        LorankError: if it is empty, not one-dimensional, or not finite.
    """
    if not isinstance(offsets, Tensor) or offsets.ndim != 1 or not len(offsets):
        found = tuple(offsets.shape) if isinstance(offsets, Tensor) else type(offsets).__name__
        raise LorankError(f"a curve has one offset a window, and at least one: found {found}")
    bad = int((~torch.isfinite(offsets)).sum())
    if bad:
        raise LorankError(f"offsets are finite, found NaN or Inf in {bad} of {len(offsets)}")


def check_places(offsets: Tensor, first: int, step: int, rows: int) -> None:
    """Refuse windows whose centres are no rows of the image.

    Raises:
        LorankError: if the step is not positive, or a centre lies outside.
    """
    last = first + step * (len(offsets) - 1)
    if step < 1 or first < 0 or last >= rows:
        raise LorankError(
            f"windows go down an image of {rows} rows, found centres from row {first} to {last} by "
            f"steps of {step}"
        )
