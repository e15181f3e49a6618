"""What every layer in SVD form shares: the factors, and what follows from them."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lorank.errors import LorankError, unknown
from lorank.linalg import SVD, Unfolding
from lorank.linalg.precision import exact
from lorank.nn.pair import Pair

CONTRACTIONS = ("auto", "rebuild", "thin")
"""How a layer may contract: ``rebuild`` makes the dense weight and runs one operation, ``thin``
runs two thin ones, ``auto`` takes the cheaper for the shapes at hand."""

NEAR_TIE = 0.75
"""Two thin operations are chosen only below this share of the other order's MACs: one large
operation runs closer to the processor's peak than two thin ones, and keeps no map in between."""

Shared = dict[tuple[int, str], nn.Parameter]
"""Parameters of folded layers by (identity of U, role), so that tied layers stay tied."""


HOOKS = "it carries hooks, which would be lost"


def carries_hooks(module: nn.Module) -> bool:
    """Whether a module does something of its own before or after its pass."""
    kinds = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
    return any(getattr(module, kind, None) for kind in kinds)


class Factored(nn.Module):
    """A layer whose weight exists only as ``W = U·diag(|S|)·Vh``.

    The three factors are ordinary parameters; the sign of ``S`` means nothing. Shapes:
    ``U (rows, r)``, ``S (r,)``, ``Vh (r, columns)``, with a leading group axis for grouped
    convolutions; factors of quaternions have a leading axis of four parts. The view knows the
    algebra: how a weight is decomposed and how factors are multiplied. A subclass says how a dense
    layer is read (:meth:`unfold`), how it is taken over (:meth:`from_dense`), how it runs, and how
    it is given back (:meth:`pair`, :meth:`dense`); rank, weight, spectrum and cost follow from the
    factors.

    Source: Yang et al., Learning Low-Rank Deep Neural Networks via Singular Vector
    Orthogonality Regularization and Singular Value Sparsification, 2020.
    """

    U: nn.Parameter
    S: nn.Parameter
    Vh: nn.Parameter
    bias: nn.Parameter | None
    inner_role: ClassVar[str] = "inner"
    weighed: ClassVar[bool] = True
    """Whether a calibration can weigh its errors (:func:`lorank.linalg.weighted_cut`)."""
    settings: ClassVar[tuple[str, ...]] = ()
    """Attributes of the dense layer that the layer in SVD form, and its pair, have too."""

    def __init__(self, factors: SVD, view: Unfolding, bias: nn.Parameter | None = None):
        super().__init__()
        self.view = view
        self.contraction = "auto"
        for name, factor in zip(SVD._fields, factors, strict=True):
            kept = factor if isinstance(factor, nn.Parameter) else nn.Parameter(factor)
            self.register_parameter(name, kept)
        self.register_parameter("bias", bias)

    @classmethod
    @abstractmethod
    def unfold(cls, module: Any, layout: str = "channel") -> Unfolding:
        """Return the matrix view of a dense layer's weight in a layout."""

    @classmethod
    @abstractmethod
    def from_dense(
        cls, module: Any, factors: SVD, view: Unfolding, bias: nn.Parameter | None
    ) -> "Factored":
        """Take over a dense layer's configuration with factors of its weight."""

    @abstractmethod
    def pair(self, inner: nn.Parameter, outer: nn.Parameter) -> Pair:
        """Give two plain layers, whose weights are the two kernels, in this layer's place."""

    @classmethod
    @abstractmethod
    def compose(cls, view: Unfolding, first: Tensor, second: Tensor) -> Tensor:
        """Multiply the weights of a pair's two layers into the dense weight."""

    @abstractmethod
    def dense(self, weight: nn.Parameter) -> nn.Module:
        """Give one plain dense layer in this layer's place."""

    @abstractmethod
    def kernels(self, U: Tensor, Vh: Tensor) -> tuple[Tensor, Tensor]:
        """Weights of the inner and of the outer plain layer, from two factors."""

    @staticmethod
    def positions(module: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Input and output map of one position, where no real input is known.

        Args:
            module: a dense layer of this kind, or a layer in SVD form.
        """
        del module
        return (), ()

    @staticmethod
    def obstacle(module: Any) -> str | None:
        """Say why a dense layer of this kind cannot be taken over, or ``None``."""
        del module
        return None

    @property
    def rank(self) -> int:
        """The rank that the factors have room for."""
        return self.S.shape[-1]

    @property
    def factors(self) -> SVD:
        """The factors as they are, with ``|S|`` (differentiable, not sorted)."""
        return SVD(self.U, self.S.abs(), self.Vh)

    @property
    def weight(self) -> Tensor:
        """The dense weight, rebuilt (differentiable): code that reads ``.weight`` works."""
        return self.view.kernel(self.matrix()).contiguous()

    def matrix(self) -> Tensor:
        """``U·diag(|S|)·Vh``; ``|S|`` is multiplied into the smaller factor."""
        U, s, Vh = self.factors
        rows, columns = self.view.shape
        if rows <= columns:
            return self.view.product(U * s.unsqueeze(-2), Vh)
        return self.view.product(U, s.unsqueeze(-1) * Vh)

    def transpose_apply(self, y: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """Apply ``Wᵀ`` to what the layer gives (:func:`lorank.nn.adjoint.transpose_apply`).

        Raises:
            LorankError: if this kind of layer has no transpose here.
        """
        del y, size
        raise LorankError(f"there is no transpose of {type(self).__name__} to apply")

    def spectrum(self) -> SVD:
        """SVD of the product: the singular values of the weight, which ``|S|`` need not be."""
        return self.view.product_svd(SVD(self.U, self.S, self.Vh))

    def singular_values(self) -> Tensor:
        """Singular values of the weight, without their vectors."""
        return self.view.product_singular_values(SVD(self.U, self.S, self.Vh))

    def sides(self) -> tuple[Tensor, Tensor]:
        """Both factors as real matrices, orthonormal where U and Vh are (differentiable)."""
        return self.U, self.Vh

    def plain(self, as_pair: bool, multiple: int = 1, shared: Shared | None = None) -> nn.Module:
        """Give this layer back as plain torch layers with the same function.

        ``|S|`` is split evenly, ``√|S|`` into each kernel: both then have the same scale, which
        quantisation and further training like better than one large and one orthonormal factor.

        Args:
            as_pair: two thin layers; otherwise one dense layer.
            multiple: the pair's rank is padded with zeros up to a multiple of this.
            shared: parameters of layers folded before, to keep ties.
        """
        shared = {} if shared is None else shared
        with torch.no_grad(), exact(self.U.device):
            if as_pair:
                inner, outer = self.kernels(*self._balanced(multiple))
                layer = self.pair(
                    self._share(shared, self.inner_role, inner),
                    self._share(shared, "outer", outer),
                )
            else:
                layer = self.dense(self._share(shared, "dense", self.weight))
        return layer.train(self.training)

    def _share(self, shared: Shared, role: str, value: Tensor) -> nn.Parameter:
        """Make the parameter for a role, or return the one that a tied layer has made."""
        key = id(self.U), f"{role} {tuple(value.shape)}"
        if key not in shared:
            fresh = value.detach().clone(memory_format=torch.contiguous_format)
            shared[key] = nn.Parameter(fresh, requires_grad=self.U.requires_grad)
        return shared[key]

    def _balanced(self, multiple: int) -> tuple[Tensor, Tensor]:
        U, s, Vh = self.factors
        root = s.sqrt()
        extra = -self.rank % multiple
        U = nn.functional.pad(U * root.unsqueeze(-2), (0, extra))
        return U, nn.functional.pad(root.unsqueeze(-1) * Vh, (0, 0, 0, extra))

    def _rebuilds(self, batch: int, in_size: tuple[int, ...], out_size: tuple[int, ...]) -> bool:
        """Whether the dense weight should be rebuilt for an input of these sizes."""
        dense, per_rank = self.view.macs(in_size, out_size)
        rebuilding = batch * dense + self.rank * self.view.product_macs()
        return self._asked_or(batch * per_rank * self.rank > NEAR_TIE * rebuilding)

    def _asked_or(self, rebuild: bool) -> bool:
        """Whether to rebuild the dense weight: as asked, or as it is cheaper."""
        if self.contraction not in CONTRACTIONS:
            raise unknown("contraction", self.contraction, CONTRACTIONS)
        return rebuild if self.contraction == "auto" else self.contraction == "rebuild"

    def extra_repr(self) -> str:
        """Describe the layer in a printed model."""
        rows, columns = self.view.shape
        full = min(rows, columns)
        groups = f", groups={self.view.groups}" if self.view.groups > 1 else ""
        return (
            f"{rows}x{columns}, rank={self.rank} of {full}, layout={self.view.layout}{groups}, "
            f"bias={self.bias is not None}"
        )
