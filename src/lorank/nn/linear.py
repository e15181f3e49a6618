"""A linear layer in SVD form."""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from lorank.linalg import SVD, Unfolding
from lorank.nn.adjoint import check_rows
from lorank.nn.factored import Factored
from lorank.nn.pair import Pair


class SVDLinear(Factored):
    """``y = x·Wᵀ + b`` with ``W = U·diag(|S|)·Vh``, ``U (out, r)``, ``Vh (r, in)``.

    Cost for B rows: the cheaper of ``B·r·(in + out)`` and ``r·in·out + B·in·out`` MACs.

    Example:
        >>> import torch, lorank
        >>> layer = lorank.decompose(torch.nn.Linear(8, 4))
        >>> layer(torch.ones(2, 8)).shape, layer.rank
        (torch.Size([2, 4]), 4)
    """

    settings: ClassVar[tuple[str, ...]] = ("in_features", "out_features")

    @classmethod
    def unfold(cls, module: nn.Linear, layout: str = "channel") -> Unfolding:
        """Return the weight as it is: rows are outputs, columns are inputs."""
        return Unfolding(module.out_features, module.in_features, layout=layout)

    @classmethod
    def from_dense(
        cls, module: nn.Linear, factors: SVD, view: Unfolding, bias: nn.Parameter | None
    ) -> "SVDLinear":
        """Take over a linear layer."""
        del module
        return cls(factors, view, bias)

    @property
    def in_features(self) -> int:
        """Size of an input row."""
        return self.view.in_channels

    @property
    def out_features(self) -> int:
        """Size of an output row."""
        return self.view.out_channels

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name, callers may use it
        """Apply the layer to ``(..., in)``, giving ``(..., out)``."""
        x = input
        if self._rebuilds(math.prod(x.shape[:-1]), (), ()):
            return F.linear(x, self.matrix(), self.bias)
        U, s, Vh = self.factors
        if self.out_features <= self.in_features:
            return F.linear(F.linear(x, Vh), U * s, self.bias)
        return F.linear(F.linear(x, s.unsqueeze(-1) * Vh), U, self.bias)

    def transpose_apply(self, y: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """Apply ``Wᵀ = Vhᵀ·diag(|S|)·Uᵀ`` to ``(..., out)``, giving ``(..., in)``.

        Cost: as the layer's own, ``r·(in + out)`` MACs a row or less.
        """
        del size
        check_rows(y, self.out_features)
        if self._rebuilds(math.prod(y.shape[:-1]), (), ()):
            return F.linear(y, self.matrix().mT)
        U, s, Vh = self.factors
        if self.out_features <= self.in_features:
            return F.linear(F.linear(y, (U * s).mT), Vh.mT)
        return F.linear(F.linear(y, U.mT), (s.unsqueeze(-1) * Vh).mT)

    def kernels(self, U: Tensor, Vh: Tensor) -> tuple[Tensor, Tensor]:
        """Both factors are weights of linear layers already."""
        return Vh, U

    def pair(self, inner: nn.Parameter, outer: nn.Parameter) -> Pair:
        """Give two linear layers; the bias sits on the second."""
        return Pair(self, linear(inner, None), linear(outer, self.bias))

    @classmethod
    def compose(cls, view: Unfolding, first: Tensor, second: Tensor) -> Tensor:
        """Multiply the weights of a pair: ``(out, r)`` by ``(r, in)``."""
        del view
        return second @ first

    def dense(self, weight: nn.Parameter) -> nn.Module:
        """Give one linear layer."""
        return linear(weight, self.bias)


def linear(weight: nn.Parameter, bias: nn.Parameter | None) -> nn.Linear:
    """Make a plain linear layer that holds exactly these parameters.

    Example:
        >>> import torch
        >>> linear(nn.Parameter(torch.ones(2, 3)), None)
        Linear(in_features=3, out_features=2, bias=False)
    """
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = weight
    layer.register_parameter("bias", bias)
    return layer
