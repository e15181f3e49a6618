"""What should training prefer? Tensors in, one differentiable scalar out."""

from lorank.penalties.operator_norm import operator_norm
from lorank.penalties.orthogonality import orthogonality
from lorank.penalties.sparsity import SPARSITY, hoyer, hoyer_square, l1, sparsity

__all__ = ["SPARSITY", "hoyer", "hoyer_square", "l1", "operator_norm", "orthogonality", "sparsity"]
