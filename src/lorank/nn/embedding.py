"""An embedding in SVD form: the partner of a tied output layer."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorank.linalg import SVD, Unfolding
from lorank.nn.factored import Factored
from lorank.nn.linear import linear
from lorank.nn.pair import Pair


class SVDEmbedding(Factored):
    """A table ``W = U·diag(|S|)·Vh`` of ``(entries, r)`` by ``(r, size)``, read row by row.

    A look-up of N rows costs ``N·r·size`` MACs where the dense table costs none: it saves
    memory, not time. It exists because language models tie the table to their output layer.

    Example:
        >>> import torch, lorank
        >>> table = lorank.decompose(torch.nn.Embedding(100, 16), {"": 4})
        >>> table(torch.tensor([3, 5])).shape
        torch.Size([2, 16])
    """

    inner_role: ClassVar[str] = "expanding"
    """Its inner kernel is the transpose of a linear layer's: tied layers cannot share it."""

    settings: ClassVar[tuple[str, ...]] = ("num_embeddings", "embedding_dim", "padding_idx")

    def __init__(
        self,
        factors: SVD,
        view: Unfolding,
        bias: nn.Parameter | None = None,
        padding_idx: int | None = None,
    ):
        super().__init__(factors, view, bias)
        self.padding_idx = padding_idx

    @classmethod
    def unfold(cls, module: nn.Embedding, layout: str = "channel") -> Unfolding:
        """Return the table as it is: rows are entries, columns the embedding's size."""
        return Unfolding(module.num_embeddings, module.embedding_dim, layout=layout)

    @classmethod
    def from_dense(
        cls, module: nn.Embedding, factors: SVD, view: Unfolding, bias: nn.Parameter | None
    ) -> "SVDEmbedding":
        """Take over an embedding."""
        return cls(factors, view, bias, module.padding_idx)

    @staticmethod
    def obstacle(module: nn.Embedding) -> str | None:
        """Some options change or need the dense rows."""
        if module.max_norm is not None:
            return "max_norm rewrites the dense table at each look-up"
        if module.sparse:
            return "sparse gradients need the dense table"
        if module.scale_grad_by_freq:
            return "scale_grad_by_freq scales gradients of the dense table's rows"
        return None

    @property
    def num_embeddings(self) -> int:
        """Number of entries."""
        return self.view.out_channels

    @property
    def embedding_dim(self) -> int:
        """Size of an entry."""
        return self.view.in_channels

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name, callers may use it
        """Look up ``(...)`` indices, giving ``(..., size)``."""
        indices = input
        if self._asked_or(indices.numel() > self.num_embeddings):
            return self._rows(indices, self.matrix())
        U, s, Vh = self.factors
        rows = self._rows(indices, U) @ (s.unsqueeze(-1) * Vh)
        if self.padding_idx is None:
            return rows
        return torch.where((indices == self.padding_idx).unsqueeze(-1), rows.detach(), rows)

    def _rows(self, indices: Tensor, table: Tensor) -> Tensor:
        return F.embedding(indices, table, self.padding_idx)

    def kernels(self, U: Tensor, Vh: Tensor) -> tuple[Tensor, Tensor]:
        """Weights of the expanding linear layer and of the thin table."""
        return Vh.mT, U

    def pair(self, inner: nn.Parameter, outer: nn.Parameter) -> Pair:
        """Give a thin embedding and the linear layer that expands its rows."""
        return Pair(self, self._table(outer), linear(inner, None))

    @classmethod
    def compose(cls, view: Unfolding, first: Tensor, second: Tensor) -> Tensor:
        """Multiply the weights of a pair: the table ``(entries, r)`` comes first."""
        del view
        return first @ second.mT

    def dense(self, weight: nn.Parameter) -> nn.Embedding:
        """Give one embedding."""
        return self._table(weight)

    def _table(self, weight: nn.Parameter) -> nn.Embedding:
        layer = nn.Embedding(
            *weight.shape,
            padding_idx=self.padding_idx,
            device="meta",
        )
        layer.weight = weight
        return layer
