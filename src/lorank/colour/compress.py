"""Compress a colour image by a truncated decomposition, and say what else the storage would buy."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lorank.colour.forms import FORMS, Form, Quaternion, check_rank, make_form
from lorank.colour.picture import like, picture, psnr
from lorank.errors import LorankError
from lorank.linalg import SVD

FIRST = 32
"""Rank that is tried first where an energy is asked for; it is doubled until it suffices."""


@dataclass(frozen=True)
class Compressed:
    """An image as factors.

    Attributes:
        form: how the image is seen as matrices, with its size.
        factors: ``U``, ``s``, ``Vh`` of these.
        energy: ``‖A‖_F²`` of the image.
        original: the array that was compressed, for the kind of the answer.

    Example:
        >>> small = compress(torch.ones(4, 5, 3), 1)
        >>> small.rank, small.numbers, small.image().shape
        (1, 36, torch.Size([4, 5, 3]))
    """

    form: Form
    factors: SVD
    energy: float
    original: Any

    @property
    def rank(self) -> int:
        """Singular triplets kept, in each matrix."""
        return self.factors.S.shape[-1]

    @property
    def numbers(self) -> int:
        """Numbers that the factors hold."""
        return self.form.numbers(self.rank)

    @property
    def kept(self) -> float:
        """Share of the image's energy in the factors."""
        return min(1.0, float(self.factors.S.square().sum()) / self.energy) if self.energy else 1.0

    def image(self) -> Any:
        """The image again: an array of the kind that came in, with floats between 0 and 1."""
        return like(self.original, self._image())

    def error(self) -> float:
        """Relative error ``‖A − image‖_F / ‖A‖_F``, computed from the image itself."""
        truth = picture(self.original)
        gap = float((self._image() - truth).norm())
        return gap / math.sqrt(self.energy) if self.energy else 0.0

    def errors(self) -> list[float]:
        """Relative error of every rank from 0 to this one, from the singular values.

        Cost: nothing; differences of squares below about 1e-7 are rounding.
        """
        squares = self.factors.S.double().square()
        each = squares.sum(0) if squares.ndim > 1 else squares
        left = self.energy - torch.cat([each.new_zeros(1), each.cumsum(0)])
        return (left.clamp_min(0) / max(self.energy, 1e-300)).sqrt().tolist()

    def _image(self) -> Tensor:
        return self.form.image(self.form.product(*self.factors))


def compress(
    image: Any,
    rank: int | None = None,
    *,
    energy: float | None = None,
    form: str = "quaternion",
    n_iter: int = 2,
    seed: int = 0,
) -> Compressed:
    """Cut an image to a rank, or to the smallest rank that keeps a share of its energy.

    A quaternion rank stores ``4·(height + width)`` numbers, a rank of every channel
    ``3·(height + width)`` and a rank of the unfolded image ``height + 3·width``. At equal storage
    photographs are as a rule kept best by the unfolded form, and worst by quaternions
    (:func:`rivals` measures it for an image): take quaternions for data that are, or are handled
    on, as quaternions.

    Args:
        image: colours ``(height, width, 3)`` or quaternions ``(height, width, 4)``.
        rank: singular triplets to keep.
        energy: share of ``‖A‖_F²`` to keep, in (0, 1], in place of a rank.
        form: ``"quaternion"``, ``"channels"`` or ``"unfolded"``.
        n_iter: power iterations of the random range finder, for low ranks.
        seed: of the random range.

    Returns:
        The factors, with the image that they make.

    Raises:
        LorankError: if the image, rank, energy or form cannot be used.

    Cost: ``O(height·width·rank)``; from a quarter of the full rank on, a full decomposition.

    Example:
        >>> small = compress(torch.rand(40, 60, 3), 5)
        >>> small.rank, small.numbers, small.image().shape
        (5, 2000, torch.Size([40, 60, 3]))
    """
    x = picture(image)
    made = make_form(form, x)
    A = made.matrix(x)
    full = min(made.shape)
    total = float(x.square().sum())
    if (rank is None) == (energy is None):
        raise LorankError("compress takes a rank or an energy, one of the two")
    if rank is not None:
        factors = made.svd(A, check_rank(rank, full), n_iter, seed)
        return Compressed(made, factors, total, image)
    assert energy is not None
    if not 0 < energy <= 1:
        raise LorankError(f"an energy is a share in (0, 1], found {energy!r}")
    return Compressed(made, _sufficient(made, A, energy * total, n_iter, seed), total, image)


def _sufficient(form: Form, A: Tensor, wanted: float, n_iter: int, seed: int) -> SVD:
    """Smallest rank whose energy suffices; the rank tried is doubled until it does."""
    full, width = min(form.shape), FIRST
    while True:
        factors = form.svd(A, min(width, full), n_iter, seed)
        squares = factors.S.square()
        sums = (squares.sum(0) if squares.ndim > 1 else squares).cumsum(0)
        enough = int((sums < wanted * (1 - ROUNDING)).sum()) + 1
        if enough <= len(sums) or len(sums) == full:
            return form._cut(factors, min(enough, full))
        width = full if factors.S.shape[-1] >= full // 2 else 2 * width


ROUNDING = 1e-12
"""Relative error of a sum of squares: all of the energy is found within it."""


class Rival(NamedTuple):
    """One form of an image against the others.

    Attributes:
        form: its name.
        at: what is equal to the quaternion form: ``"storage"`` or ``"rank"``.
        rank: singular triplets of each matrix.
        numbers: numbers stored.
        error: relative error.
        psnr: peak signal-to-noise ratio in decibels.

    Example:
        >>> Rival("channels", "rank", 1, 27, 0.0, float("inf")).numbers
        27
    """

    form: str
    at: str
    rank: int
    numbers: int
    error: float
    psnr: float


def rivals(image: Any, rank: int, *, n_iter: int = 2, seed: int = 0) -> list[Rival]:
    """Compare a quaternion rank with the other forms, at equal storage and at equal rank.

    At equal storage each form has the largest rank whose numbers are not more than the
    quaternion form's.

    Args:
        image: as in :func:`compress`.
        rank: quaternion rank.
        n_iter: as in :func:`compress`.
        seed: as in :func:`compress`.

    Returns:
        The quaternion form, then the others at equal storage and at equal rank.

    Raises:
        LorankError: as :func:`compress`.

    Example:
        >>> [(r.form, r.at, r.rank) for r in rivals(torch.rand(40, 60, 3), 5)][1:3]
        [('channels', 'storage', 6), ('unfolded', 'storage', 9)]
    """
    x = picture(image)
    made = [make_form(name, x) for name in FORMS]
    room = made[0].numbers(check_rank(rank, min(made[0].shape)))
    fair = [(name, "storage", _largest(f, room)) for name, f in zip(FORMS, made, strict=True)]
    same = [(name, "rank", rank) for name in FORMS if name != "quaternion"]
    rows = []
    for name, at, r in [*fair, *same]:
        small = compress(x, r, form=name, n_iter=n_iter, seed=seed)
        rows.append(Rival(name, at, r, small.numbers, small.error(), psnr(small.image(), x)))
    return rows


def _largest(form: Form, room: int) -> int:
    if isinstance(form, Quaternion):
        return room // form.numbers(1)
    return max(1, min(room // form.numbers(1), *form.shape))
