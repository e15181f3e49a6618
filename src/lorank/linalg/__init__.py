"""Numbers: tensors in, tensors out. Nothing here knows what a layer is."""

from lorank.linalg.convolution.bounds import BOUNDS, operator_norm_bound
from lorank.linalg.convolution.bracket import NormBracket, norm_bracket
from lorank.linalg.convolution.operator import operator_energy, operator_matrix
from lorank.linalg.convolution.spectrum import (
    OperatorSpectrum,
    factored_singular_values,
    operator_singular_values,
)
from lorank.linalg.gram import gram_singular_values, gram_svd
from lorank.linalg.quaternion.algebra import qct, qmatmul, qnorm
from lorank.linalg.quaternion.blocked import Growth, qsvd_adaptive
from lorank.linalg.quaternion.errors import QSVDError, expected_qsvd_error, qsvd_error
from lorank.linalg.quaternion.krylov import qsvd_krylov
from lorank.linalg.quaternion.least_squares import qlstsq, qpinv, qsolve, qtls
from lorank.linalg.quaternion.parts import (
    adjoint,
    from_adjoint,
    from_complex_pair,
    from_parts,
    from_real_counterpart,
    from_rgb,
    real_counterpart,
    to_complex_pair,
    to_parts,
    to_rgb,
)
from lorank.linalg.quaternion.qr import qcholesky, qqr
from lorank.linalg.quaternion.randomized import qsvd_lowrank, randomized_qsvd
from lorank.linalg.quaternion.sketch import QuaternionSketch
from lorank.linalg.quaternion.svd import QSVD, qsvd, qsvdvals
from lorank.linalg.randomized import leading, randomized_svd
from lorank.linalg.shrinkage import denoised_value, detection_edge, median_noise, shrink
from lorank.linalg.svd import (
    SVD,
    product_singular_values,
    product_svd,
    singular_values,
    svd,
    truncate,
)
from lorank.linalg.unfold import Unfolding
from lorank.linalg.weighted import (
    Moments,
    compensated,
    weighted_cut,
    weighted_error,
    weighted_singular_values,
)

__all__ = [
    "BOUNDS",
    "QSVD",
    "SVD",
    "Growth",
    "Moments",
    "NormBracket",
    "OperatorSpectrum",
    "QSVDError",
    "QuaternionSketch",
    "Unfolding",
    "adjoint",
    "compensated",
    "denoised_value",
    "detection_edge",
    "expected_qsvd_error",
    "factored_singular_values",
    "from_adjoint",
    "from_complex_pair",
    "from_parts",
    "from_real_counterpart",
    "from_rgb",
    "gram_singular_values",
    "gram_svd",
    "leading",
    "median_noise",
    "norm_bracket",
    "operator_energy",
    "operator_matrix",
    "operator_norm_bound",
    "operator_singular_values",
    "product_singular_values",
    "product_svd",
    "qcholesky",
    "qct",
    "qlstsq",
    "qmatmul",
    "qnorm",
    "qpinv",
    "qqr",
    "qsolve",
    "qsvd",
    "qsvd_adaptive",
    "qsvd_error",
    "qsvd_krylov",
    "qsvd_lowrank",
    "qsvdvals",
    "qtls",
    "randomized_qsvd",
    "randomized_svd",
    "real_counterpart",
    "shrink",
    "singular_values",
    "svd",
    "to_complex_pair",
    "to_parts",
    "to_rgb",
    "truncate",
    "weighted_cut",
    "weighted_error",
    "weighted_singular_values",
]
