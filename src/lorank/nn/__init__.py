"""What is a layer in SVD form?"""

from lorank.nn.attention import Attention
from lorank.nn.conv import SVDConv
from lorank.nn.embedding import SVDEmbedding
from lorank.nn.factored import Factored
from lorank.nn.linear import SVDLinear
from lorank.nn.pair import Pair
from lorank.nn.quaternion import QuaternionLinear, SVDQuaternionLinear
from lorank.nn.quaternion_conv import QuaternionConv2d, SVDQuaternionConv
from lorank.nn.tap import Tap
from lorank.nn.transposed import SVDConv1D

__all__ = [
    "Attention",
    "Factored",
    "Pair",
    "QuaternionConv2d",
    "QuaternionLinear",
    "SVDConv",
    "SVDConv1D",
    "SVDEmbedding",
    "SVDLinear",
    "SVDQuaternionConv",
    "SVDQuaternionLinear",
    "Tap",
]
