"""Three ways to see a colour image as matrices, with one set of verbs."""

from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from lorank import linalg
from lorank.errors import LorankError, unknown
from lorank.linalg import SVD
from lorank.linalg.quaternion.algebra import qmatmul
from lorank.linalg.quaternion.randomized import generator_of
from lorank.linalg.quaternion.svd import qsvd

OVERSAMPLES, FAR = 10, 2
"""Columns beyond the rank that a random range finder takes; it is used where so many fit ``FAR``
times into the shorter side."""


@dataclass(frozen=True)
class Form:
    """One image size in one form. Ranks are numbers of singular triplets, a channel or in all.

    Attributes:
        height: rows of the image.
        width: columns of the image.
        parts: numbers of a pixel: 3 colours, or the 4 parts of a quaternion.
    """

    height: int
    width: int
    parts: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of a matrix."""
        return self.height, self.width

    def matrix(self, x: Tensor) -> Tensor:
        """See an image ``(height, width, parts)`` as matrices."""
        raise NotImplementedError

    def image(self, A: Tensor) -> Tensor:
        """See matrices as an image; the inverse of :meth:`matrix`."""
        raise NotImplementedError

    def numbers(self, rank: int) -> int:
        """Numbers to store at a rank: U and ``diag(s)·Vh``."""
        raise NotImplementedError

    def entry_noise(self, noise: float) -> float:
        """Standard deviation of one entry of a matrix, from that of one number of a pixel."""
        return noise

    def svd(self, A: Tensor, rank: int | None = None, n_iter: int = 2, seed: int = 0) -> SVD:
        """Decompose, wholly or to a rank; a low rank by a random range."""
        if rank is None or FAR * (rank + OVERSAMPLES) > min(self.shape):
            return self._cut(self._full(A), rank)
        return self._random(A, rank, n_iter, generator_of(seed))

    def product(self, U: Tensor, s: Tensor, Vh: Tensor) -> Tensor:
        """Multiply factors."""
        return (U * s.unsqueeze(-2)) @ Vh

    def _full(self, A: Tensor) -> SVD:
        return linalg.svd(A)

    def _random(self, A: Tensor, rank: int, n_iter: int, generator: torch.Generator) -> SVD:
        return linalg.randomized_svd(A, rank, power_iterations=n_iter, generator=generator)

    def _cut(self, factors: SVD, rank: int | None) -> SVD:
        U, s, Vh = factors
        return SVD(U[..., :rank], s[..., :rank], Vh[..., :rank, :])


class Quaternion(Form):
    """One ``height × width`` matrix of quaternions; colours are the imaginary parts."""

    def matrix(self, x: Tensor) -> Tensor:
        """Put a real part of zero before three colours."""
        return x if self.parts == 4 else torch.nn.functional.pad(x, (1, 0))

    def image(self, A: Tensor) -> Tensor:
        """Leave the real part out where there were three colours: the image has none."""
        return A[..., 4 - self.parts :]

    def numbers(self, rank: int) -> int:
        """Count four numbers an entry."""
        return 4 * rank * (self.height + self.width)

    def entry_noise(self, noise: float) -> float:
        """Add up the parts' variances: the law of its singular values knows only their sum."""
        return noise * self.parts**0.5

    def product(self, U: Tensor, s: Tensor, Vh: Tensor) -> Tensor:
        """Multiply quaternion factors."""
        return qmatmul(U * s.unsqueeze(-1), Vh)

    def _full(self, A: Tensor) -> SVD:
        return SVD(*qsvd(A))

    def _random(self, A: Tensor, rank: int, n_iter: int, generator: torch.Generator) -> SVD:
        found: Any = linalg.randomized_qsvd(  # pyright: ignore[reportAttributeAccessIssue]
            A, rank, n_oversamples=OVERSAMPLES, n_iter=n_iter, random_state=generator
        )
        return SVD(*found)

    def _cut(self, factors: SVD, rank: int | None) -> SVD:
        U, s, Vh = factors
        return SVD(U[:, :rank], s[:rank], Vh[:rank])


class Channels(Form):
    """One ``height × width`` matrix for each part of a pixel, all cut at one rank."""

    def matrix(self, x: Tensor) -> Tensor:
        """Put the parts first, as a batch."""
        return x.movedim(-1, 0).contiguous()

    def image(self, A: Tensor) -> Tensor:
        """Put the parts last again."""
        return A.movedim(0, -1)

    def numbers(self, rank: int) -> int:
        """Count every channel's factors."""
        return self.parts * rank * (self.height + self.width)

    def _random(self, A: Tensor, rank: int, n_iter: int, generator: torch.Generator) -> SVD:
        each = [super(Channels, self)._random(a, rank, n_iter, generator) for a in A]
        return SVD(*(torch.stack(factors) for factors in zip(*each, strict=True)))


class Unfolded(Form):
    """One ``height × (parts·width)`` matrix, the channels side by side."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the wide matrix."""
        return self.height, self.parts * self.width

    def matrix(self, x: Tensor) -> Tensor:
        """Lay the pixels' parts side by side; their order changes no singular value."""
        return x.reshape(self.shape)

    def image(self, A: Tensor) -> Tensor:
        """Take the parts together again."""
        return A.reshape(self.height, self.width, self.parts)

    def numbers(self, rank: int) -> int:
        """Count one column of the image's height, and a row of all parts."""
        return rank * (self.height + self.parts * self.width)


FORMS: dict[str, type[Form]] = {
    "quaternion": Quaternion,
    "channels": Channels,
    "unfolded": Unfolded,
}


def make_form(name: str, x: Tensor) -> Form:
    """Make the form of an image by name.

    Raises:
        LorankError: if the name is unknown.

    Example:
        >>> make_form("unfolded", torch.zeros(4, 5, 3)).numbers(2)
        38
    """
    if name not in FORMS:
        raise unknown("form", name, FORMS)
    return FORMS[name](*x.shape)


def check_rank(rank: object, most: int) -> int:
    """Refuse what is not a rank of a matrix.

    Raises:
        LorankError: if it is not a whole number from 1 to ``most``.

    Example:
        >>> check_rank(3, 5)
        3
    """
    if isinstance(rank, bool) or not isinstance(rank, Integral) or not 1 <= int(rank) <= most:
        raise LorankError(f"a rank is a whole number from 1 to {most}, found {rank!r}")
    return int(rank)
