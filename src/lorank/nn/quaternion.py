"""Layers whose weights are quaternions: plain, and in SVD form."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorank.errors import LorankError, unknown
from lorank.linalg import SVD
from lorank.linalg.quaternion.unfold import PARTS, QuaternionUnfolding, real_kernel
from lorank.nn.adjoint import check_rows
from lorank.nn.factored import Factored
from lorank.nn.pair import Pair

GAINS = {"he": lambda fan_in, fan_out: 2 / fan_in, "glorot": lambda i, o: 2 / (i + o)}
"""How the variance of a real weight follows from the real fans: before ReLU, before others."""


class Quaternionic(nn.Module):
    """What plain quaternion layers share: four weights in one parameter, and their real form.

    ``weight (4, out / 4, in / 4, *taps)`` holds the parts w, x, y, z; features lie in four blocks
    ``[w | x | y | z]``, and the layer multiplies its input from the left.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(self, shape: tuple[int, ...], bias: bool, **factory: Any):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape, **factory))
        made = nn.Parameter(torch.empty(PARTS * shape[1], **factory)) if bias else None
        self.register_parameter("bias", made)
        self.reset_parameters()

    def reset_parameters(self, criterion: str = "he") -> None:
        """Draw the weights anew: modulus of four degrees of freedom, all directions alike.

        Four independent normal parts of one variance are the distribution that no rotation of
        quaternions changes. Every output is a sum over ``in`` real inputs, so that variance is
        He's ``2 / in`` or Glorot's ``2 / (in + out)``, for real fans. The bias is zero.

        Raises:
            LorankError: if the criterion is unknown.
        """
        if criterion not in GAINS:
            raise unknown("criterion", criterion, GAINS)
        taps = math.prod(self.weight.shape[3:])
        fan_out, fan_in = (PARTS * n * taps for n in self.weight.shape[1:3])
        nn.init.normal_(self.weight, std=math.sqrt(GAINS[criterion](fan_in, fan_out)))
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def real_weight(self) -> Tensor:
        """Weight of the real layer that does the same (differentiable): 4× the numbers."""
        return real_kernel(self.weight)


class QuaternionLinear(Quaternionic):
    """``y = A·x + b`` for quaternion vectors, ``A (out / 4, in / 4)``, from four real weights.

    Inputs and outputs are real features in blocks ``[w | x | y | z]``; 4 numbers do the work of
    a 4×4 block of a real layer. The forward pass is one real operation on the real counterpart.

    Args:
        in_features: real inputs, a multiple of four.
        out_features: real outputs, a multiple of four.
        bias: add one number to each output.
        device: where the parameters are made.
        dtype: of the parameters.

    Raises:
        LorankError: if a size is not a positive multiple of four.

    Cost: ``in·out`` MACs a row, as a real layer, from a quarter of its weights. Source: Parcollet
    et al., Quaternion recurrent neural networks, 2019; Gaudet and Maida, 2018.

    Example:
        >>> layer = QuaternionLinear(8, 12)
        >>> layer(torch.ones(2, 8)).shape, layer.weight.shape
        (torch.Size([2, 12]), torch.Size([4, 3, 2]))
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ):
        shape = PARTS, quarter(out_features), quarter(in_features)
        super().__init__(shape, bias, device=device, dtype=dtype)

    @property
    def in_features(self) -> int:
        """Real inputs."""
        return PARTS * self.weight.shape[2]

    @property
    def out_features(self) -> int:
        """Real outputs."""
        return PARTS * self.weight.shape[1]

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name, callers may use it
        """Apply the layer to ``(..., in)``, giving ``(..., out)``."""
        return F.linear(input, self.real_weight(), self.bias)

    def transpose_apply(self, y: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """Apply the real counterpart's transpose to ``(..., out)``, giving ``(..., in)``."""
        del size
        check_rows(y, self.out_features)
        return F.linear(y, self.real_weight().mT)

    def extra_repr(self) -> str:
        """Describe the layer in a printed model."""
        ends = f"in_features={self.in_features}, out_features={self.out_features}"
        return f"{ends}, bias={self.bias is not None}"


def quarter(size: int) -> int:
    """Quaternions in a number of real features.

    Raises:
        LorankError: if it is not a positive multiple of four.

    Example:
        >>> quarter(12)
        3
    """
    if isinstance(size, bool) or not isinstance(size, int) or size < 1 or size % PARTS:
        raise LorankError(f"quaternion features come in fours, found {size!r} of them")
    return size // PARTS


class SVDQuaternionLinear(Factored):
    """``y = A·x + b`` with ``A = U·diag(|S|)·Vh`` of quaternions, the rank counted in quaternions.

    A quaternion rank is four real ranks of the real counterpart, at a quarter of their numbers.

    Cost for B rows: the cheaper of ``B·4r·(in + out)`` MACs and ``r·in·out + B·in·out``.

    Example:
        >>> import lorank
        >>> layer = lorank.decompose(QuaternionLinear(8, 12), {"": 1})
        >>> layer(torch.ones(2, 8)).shape, layer.rank, layer.U.shape
        (torch.Size([2, 12]), 1, torch.Size([4, 3, 1]))
    """

    settings: ClassVar[tuple[str, ...]] = ("in_features", "out_features")
    weighed: ClassVar[bool] = False

    @classmethod
    def unfold(cls, module: QuaternionLinear, layout: str = "channel") -> QuaternionUnfolding:
        """Return the weight as it is: rows are outputs, columns are inputs."""
        _, rows, columns = module.weight.shape
        return QuaternionUnfolding(rows, columns, layout=layout)

    @classmethod
    def from_dense(
        cls,
        module: QuaternionLinear,
        factors: SVD,
        view: Any,
        bias: nn.Parameter | None,
    ) -> "SVDQuaternionLinear":
        """Take over a quaternion layer."""
        del module
        return cls(factors, view, bias)

    @property
    def in_features(self) -> int:
        """Real inputs."""
        return PARTS * self.view.in_channels

    @property
    def out_features(self) -> int:
        """Real outputs."""
        return PARTS * self.view.out_channels

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name, callers may use it
        """Apply the layer to ``(..., in)``, giving ``(..., out)``."""
        if self._rebuilds(math.prod(input.shape[:-1]), (), ()):
            return F.linear(input, real_kernel(self.matrix()), self.bias)
        U, s, Vh = self.factors
        if self.out_features <= self.in_features:
            U = U * s
        else:
            Vh = s.unsqueeze(-1) * Vh
        between = F.linear(input, real_kernel(Vh))
        return F.linear(between, real_kernel(U), self.bias)

    def transpose_apply(self, y: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """Apply the real counterpart's transpose to ``(..., out)``, giving ``(..., in)``."""
        del size
        check_rows(y, self.out_features)
        if self._rebuilds(math.prod(y.shape[:-1]), (), ()):
            return F.linear(y, real_kernel(self.matrix()).mT)
        U, s, Vh = self.factors
        return F.linear(F.linear(y, real_kernel(U * s).mT), real_kernel(Vh).mT)

    def sides(self) -> tuple[Tensor, Tensor]:
        """Real counterparts: orthonormal exactly where the quaternion factors are."""
        return real_kernel(self.U), real_kernel(self.Vh)

    def kernels(self, U: Tensor, Vh: Tensor) -> tuple[Tensor, Tensor]:
        """Both factors are weights of quaternion layers already."""
        return Vh, U

    def pair(self, inner: nn.Parameter, outer: nn.Parameter) -> Pair:
        """Give two quaternion layers; the bias sits on the second."""
        return Pair(self, quaternion_linear(inner, None), quaternion_linear(outer, self.bias))

    @classmethod
    def compose(cls, view: Any, first: Tensor, second: Tensor) -> Tensor:
        """Multiply the weights of a pair, as quaternions."""
        return view.product(second, first)

    def dense(self, weight: nn.Parameter) -> nn.Module:
        """Give one quaternion layer."""
        return quaternion_linear(weight, self.bias)


def quaternion_linear(weight: nn.Parameter, bias: nn.Parameter | None) -> QuaternionLinear:
    """Make a plain quaternion layer that holds exactly these parameters.

    Args:
        weight: ``(4, out / 4, in / 4)``.
        bias: ``(out,)`` or None.

    Raises:
        LorankError: if the weight has not four parts.

    Example:
        >>> quaternion_linear(nn.Parameter(torch.ones(4, 3, 2)), None)
        QuaternionLinear(in_features=8, out_features=12, bias=False)
    """
    if weight.ndim != 3 or weight.shape[0] != PARTS:
        raise LorankError(
            f"a quaternion weight is (4, out / 4, in / 4), found shape {tuple(weight.shape)}"
        )
    _, rows, columns = weight.shape
    layer = QuaternionLinear(PARTS * columns, PARTS * rows, bias=bias is not None, device="meta")
    layer.weight = weight
    layer.register_parameter("bias", bias)
    return layer
