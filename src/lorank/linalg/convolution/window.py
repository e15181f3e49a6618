"""How a kernel moves over an image, one axis at a time: borders, stride and dilation.

Everything about a convolution as a matrix follows from 0/1 matrices, one for each tap of an axis:
``S_p[m, j] = 1`` where output m reads input j by tap p. In two dimensions ``T = Σ_pq S_p ⊗ S_q ⊗
K_pq``. A transposed convolution is the adjoint of a plain one and has its singular values.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lorank.errors import LorankError, unknown

PADDINGS = ("zeros", "circular", "valid")
REFUSED = ("reflect", "replicate")
Padding = str | int | Sequence[int] | Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Window:
    """One axis of a convolution.

    Attributes:
        taps: length of the kernel.
        size: length of the image that is read.
        before: pixels added in front of it.
        after: pixels added behind it; negative where the last ones are not read.
        stride: inputs from one output to the next.
        dilation: inputs from one tap to the next.
        wraps: whether the added pixels continue the image cyclically; otherwise they are zero.

    Example:
        >>> Window(3, 4, 1, 1).placements()[0].int().tolist()
        [[0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]
    """

    taps: int
    size: int
    before: int = 0
    after: int = 0
    stride: int = 1
    dilation: int = 1
    wraps: bool = False

    @property
    def reach(self) -> int:
        """Pixels from the first tap to the last."""
        return self.dilation * (self.taps - 1)

    @property
    def out(self) -> int:
        """Length of the image that is written; at most 0 where the kernel does not fit."""
        return (self.size + self.before + self.after - self.reach - 1) // self.stride + 1

    def resized(self, size: int) -> "Window":
        """Return the same layer on another image."""
        return replace(self, size=size)

    def reads(self) -> Tensor:
        """Input that each output reads by each tap, ``(taps, out)``; −1 is a zero of the border."""
        first = self.stride * torch.arange(self.out) - self.before
        at = self.dilation * torch.arange(self.taps).unsqueeze(-1) + first
        if self.wraps:
            return at % self.size
        return torch.where((at >= 0) & (at < self.size), at, -1)

    def placements(self) -> Tensor:
        """Return the 0/1 matrices ``(taps, out, size)``, in float64."""
        inside = self.reads()
        place = torch.zeros(self.taps, self.out, self.size + 1, dtype=torch.float64)
        place.scatter_(-1, (inside % (self.size + 1)).unsqueeze(-1), 1.0)
        return place[..., : self.size]

    def overlaps(self) -> Tensor:
        """``⟨S_p, S_q⟩``: in how many places two taps lie on each other, ``(taps, taps)``.

        Diagonal but for a cyclic image that is shorter than the kernel.
        """
        reads = self.reads()
        same = (reads.unsqueeze(0) == reads.unsqueeze(1)) & (reads >= 0)
        return same.sum(-1).double()

    def classes(self) -> dict["Window", int]:
        """Split off the pixels that do not interact: the windows of the classes, and how often.

        With stride 1 and dilation d the pixels ``j mod d`` form d layers of dilation 1.
        """
        d = self.dilation
        if self.wraps or d == 1 or self.stride > 1 or self.before % d:
            return {self: 1}
        parts: dict[Window, int] = {}
        for c in range(min(d, self.size)):
            size, out = -((c - self.size) // d), -((c - self.out) // d)
            before = self.before // d
            part = Window(self.taps, size, before, out + self.taps - 1 - size - before)
            if out > 0:
                parts[part] = parts.get(part, 0) + 1
        return parts


def windows(
    kernel: Sequence[int],
    size: int | Sequence[int],
    padding: Padding = "zeros",
    stride: int | Sequence[int] = 1,
    dilation: int | Sequence[int] = 1,
    *,
    transposed: bool = False,
    output_padding: int | Sequence[int] = 0,
) -> tuple[Window, ...]:
    """Lay a kernel over an image.

    Args:
        kernel: taps along each axis.
        size: the image that the layer reads; one number stands for every axis.
        padding: ``"zeros"`` keeps the size (at stride 1; an even kernel's odd zero comes after, as
            torch does it), ``"circular"`` the same cyclically, ``"valid"`` adds nothing; or zeros
            in number, for each axis one or ``(before, after)``.
        stride: of each axis.
        dilation: of each axis.
        transposed: the layer is the adjoint of this convolution. It then writes ``size·stride``
            under the two names that keep the size.
        output_padding: of a transposed layer, as in torch.

    Returns:
        A window for each axis; of a transposed layer those of the convolution that it is the
        adjoint of.

    Raises:
        LorankError: if a number is out of range, the layer writes nothing, or the padding is
            ``"reflect"`` or ``"replicate"``.

    Example:
        >>> [w.out for w in windows((3, 3), (8, 5), stride=2)]
        [4, 3]
    """
    axes = len(kernel)
    given = sizes = _each("an image size", size, axes, 1)
    strides = _each("a stride", stride, axes, 1)
    dilations = _each("a dilation", dilation, axes, 1)
    extra = _each("an output padding", output_padding, axes, 0)
    reach = [d * (k - 1) for k, d in zip(kernel, dilations, strict=True)]
    around = _around(padding, reach)
    if transposed:
        if any(e >= max(s, d) for e, s, d in zip(extra, strides, dilations, strict=True)):
            raise LorankError(
                "an output padding is below the stride or the dilation, found "
                f"{output_padding!r}, stride {stride!r} and dilation {dilation!r}"
            )
        keeps = padding in ("zeros", "circular")
        sizes = tuple(
            n * s if keeps else (n - 1) * s + r + 1 + e - sum(pads)
            for n, s, r, e, pads in zip(sizes, strides, reach, extra, around, strict=True)
        )
    wraps = padding == "circular"
    made = tuple(
        Window(k, n, *pads, s, d, wraps)
        for k, n, pads, s, d in zip(kernel, sizes, around, strides, dilations, strict=True)
    )
    if transposed:  # pixels of an output padding beyond the stride would be read, and are not
        spare = [s * (w.out - n) for w, n, s in zip(made, given, strides, strict=True)]
        made = tuple(replace(w, after=w.after - p) for w, p in zip(made, spare, strict=True))
    if any(min(w.size, w.out) < 1 for w in made):
        raise LorankError(
            f"a kernel that reaches over {tuple(r + 1 for r in reach)} pixels leaves nothing of an "
            f"image of {size} with padding {padding!r}"
        )
    return made


def _around(padding: Padding, reach: list[int]) -> list[tuple[int, int]]:
    """Pixels added before and after, for each axis."""
    if isinstance(padding, str):
        if padding in REFUSED:
            raise LorankError(
                f"padding {padding!r} copies pixels of the image, so the layer is no section of a "
                "convolution and its symbol bounds nothing: use 'zeros', 'circular' or 'valid'"
            )
        if padding not in PADDINGS:
            raise unknown("padding", padding, PADDINGS)
        if padding == "valid":
            return [(0, 0)] * len(reach)
        return [(r // 2, r - r // 2) for r in reach]
    given = [padding] * len(reach) if isinstance(padding, int) else list(padding)
    pairs = [(p, p) if isinstance(p, int) else tuple(p) for p in given]
    if len(pairs) != len(reach) or any(len(p) != 2 or min(p) < 0 for p in pairs):
        raise LorankError(
            f"padding counts zeros, for each of {len(reach)} axes one number or (before, after), "
            f"found {padding!r}"
        )
    return [(int(p[0]), int(p[1])) for p in pairs]


def _each(what: str, value: int | Sequence[int], axes: int, least: int) -> tuple[int, ...]:
    """One number for every axis, or a number for each."""
    values = tuple(value) if isinstance(value, Sequence) else (value,) * axes
    if len(values) != axes or any(not isinstance(v, int) or v < least for v in values):
        raise LorankError(
            f"{what} is an integer of at least {least}, or one for each of {axes} axes, "
            f"found {value!r}"
        )
    return values


def volume(sizes: Sequence[int]) -> int:
    """Pixels of an image.

    Example:
        >>> volume((8, 4))
        32
    """
    return math.prod(sizes)
