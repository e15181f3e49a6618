"""Linear layers that store their weight ``(in, out)``: ``Conv1D`` of the GPT-2 family."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lorank.linalg import SVD, Unfolding
from lorank.nn.linear import SVDLinear


class SVDConv1D(SVDLinear):
    """``y = x·W + b`` with ``Wᵀ = U·diag(|S|)·Vh``, for ``transformers.pytorch_utils.Conv1D``.

    The class is known by its name, so that transformers is not imported for it. Its pair is made
    of two plain linear layers.

    Cost: as :class:`SVDLinear`.

    Example:
        >>> import torch, lorank
        >>> home = {"__module__": "transformers.pytorch_utils"}  # stands in for the real class
        >>> dense = type("Conv1D", (torch.nn.Module,), home)()
        >>> dense.weight, dense.bias = (torch.nn.Parameter(torch.ones(s)) for s in ((8, 4), (4,)))
        >>> lorank.fold(lorank.decompose(dense, {"": 1}))(torch.ones(1, 8)).round()
        tensor([[9., 9., 9., 9.]], grad_fn=<RoundBackward0>)
    """

    settings: ClassVar[tuple[str, ...]] = ("in_features", "out_features", "nf", "nx")

    def __init__(
        self,
        factors: SVD,
        view: Unfolding,
        bias: nn.Parameter | None = None,
        dense_type: type[nn.Module] = nn.Module,
    ):
        super().__init__(factors, view, bias)
        self.dense_type = dense_type

    nf = property(lambda self: self.view.out_channels)
    nx = property(lambda self: self.view.in_channels)

    @classmethod
    def unfold(cls, module: Any, layout: str = "channel") -> Unfolding:
        """Return the weight transposed: rows are outputs, columns are inputs."""
        inputs, outputs = module.weight.shape
        return Unfolding(outputs, inputs, transposed=True, layout=layout)

    @classmethod
    def from_dense(
        cls, module: Any, factors: SVD, view: Unfolding, bias: nn.Parameter | None
    ) -> "SVDConv1D":
        """Take over a layer, and remember its class to give it back."""
        return cls(factors, view, bias, type(module))

    @classmethod
    def compose(cls, view: Unfolding, first: Tensor, second: Tensor) -> Tensor:
        """Multiply the weights of a pair, as the dense layer stores the product."""
        return super().compose(view, first, second).mT

    def dense(self, weight: nn.Parameter) -> nn.Module:
        """Give one layer of the class that it was."""
        make: Any = self.dense_type
        with torch.device("meta"):  # no memory, and no random numbers are drawn
            layer = make(self.nf, self.nx)
        layer.weight = weight
        layer.register_parameter("bias", self.bias)
        return layer
