"""What should training prefer? Tensors in, one differentiable scalar out."""

from lorank.penalties.classwise import CentreLoss, ClassInvariance
from lorank.penalties.invariance import INVARIANCE, class_invariance
from lorank.penalties.operator_norm import operator_norm
from lorank.penalties.orthogonality import orthogonality
from lorank.penalties.sparsity import SPARSITY, hoyer, hoyer_square, l1, sparsity

__all__ = [
    "INVARIANCE",
    "SPARSITY",
    "CentreLoss",
    "ClassInvariance",
    "class_invariance",
    "hoyer",
    "hoyer_square",
    "l1",
    "operator_norm",
    "orthogonality",
    "sparsity",
]
