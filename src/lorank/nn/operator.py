"""A linear layer or convolution as an operator: the kernel that its norm is computed from."""

from typing import Any, NamedTuple

from torch import Tensor, nn

from lorank.errors import LorankError
from lorank.linalg import SVD, Unfolding
from lorank.linalg.convolution.bounds import operator_norm_bound
from lorank.linalg.convolution.bracket import NormBracket, norm_bracket
from lorank.linalg.convolution.core import core_kernel
from lorank.nn.conv import SVDConv
from lorank.nn.linear import SVDLinear
from lorank.nn.pair import Pair

CONVOLUTIONS = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
)
DENSE = (nn.Linear, *CONVOLUTIONS)


class OperatorKernel(NamedTuple):
    """A kernel with the norm of a layer, and how it moves.

    Attributes:
        weight: of the layer, or the small core of a layer in SVD form; differentiable.
        settings: stride, dilation, groups and padding, as ``linalg`` takes them.
    """

    weight: Tensor
    settings: dict[str, Any]

    def bound(self, method: str = "grid") -> Tensor:
        """Upper bound of the norm (:func:`lorank.linalg.operator_norm_bound`)."""
        return operator_norm_bound(self.weight, method, **self.settings)

    def bracket(self, tol: float = 1e-3) -> NormBracket:
        """Enclose the norm (:func:`lorank.linalg.norm_bracket`)."""
        return norm_bracket(self.weight, tol=tol, **self.settings)


def is_operator(module: nn.Module) -> bool:
    """Whether a module is a linear layer or a convolution: dense, in SVD form, or a folded pair.

    Example:
        >>> is_operator(nn.Conv2d(1, 1, 3)), is_operator(nn.ReLU())
        (True, False)
    """
    if isinstance(module, Pair):
        return issubclass(module.svd_form, (SVDConv, SVDLinear)) and _real(module)
    if isinstance(module, (SVDConv, SVDLinear)):
        return _real(module)
    return isinstance(module, DENSE)


def _real(module: Any) -> bool:
    """Whether a layer in SVD form has real factors: others unfold in their own way."""
    return type(module.view) is Unfolding


def runs_as(module: nn.Module, kinds: tuple[type[nn.Module], ...]) -> bool:
    """Whether a module runs as one of some kinds, and not in a way of its own.

    Example:
        >>> runs_as(nn.Linear(1, 1), (nn.Conv1d, nn.Linear)), runs_as(nn.ReLU(), (nn.Linear,))
        (True, False)
    """
    found = next((kind for kind in kinds if isinstance(module, kind)), None)
    passes = ("forward", "_conv_forward")
    return found is not None and all(
        getattr(type(module), name, None) is getattr(found, name, None) for name in passes
    )


def modules_with_norm(model: nn.Module) -> dict[str, nn.Module]:
    """Every linear layer and convolution by name, a pair as one layer.

    Of layers that share a weight there is one for each way to move it.

    Example:
        >>> list(modules_with_norm(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Conv1d(1, 1, 3))))
        ['0', '2']
    """
    found: dict[Any, tuple[str, nn.Module]] = {}
    inside: set[int] = set()
    for name, module in model.named_modules():
        if id(module) in inside or not is_operator(module):
            continue
        inside.update(id(part) for part in module.modules())
        weight = next(iter(module.parameters()), module)
        moves = [getattr(module, k, None) for k in ("stride", "dilation", "groups")]
        found.setdefault((id(weight), *moves), (name, module))
    return dict(found.values())


def operator_kernel(module: Any) -> OperatorKernel:
    """Read the kernel of a module that :func:`is_operator`.

    A layer in SVD form of rank r is served from its core, ``r`` channels in the place of all on
    the side of its 1×1 kernel: the eigenvalue problems are then of side r. Of a cyclic layer with a
    stride it is the kernel without the stride: where the stride does not divide an image, the last
    window is cut short, and only the unstrided norm holds.

    Raises:
        LorankError: if the layer runs in its own way, or pads cyclically beyond its kernel's reach.

    Example:
        >>> import torch, lorank
        >>> layer = lorank.decompose(torch.nn.Conv2d(8, 8, 3), {"": 2}, layout="channel")
        >>> operator_kernel(layer).weight.shape
        torch.Size([2, 8, 3, 3])
    """
    if not runs_as(module, (*DENSE, SVDConv, SVDLinear, Pair)):
        raise LorankError(
            f"{type(module).__name__} runs in its own way, and its norm is not that of its weight"
        )
    if isinstance(module, Pair):
        weight = module.product()
    elif isinstance(module, (SVDConv, SVDLinear)):
        weight = core_kernel(module.view, SVD(module.U, module.S, module.Vh))
    else:
        weight = module.weight
    if weight.ndim == 2:
        return OperatorKernel(weight, {})
    settings = {name: getattr(module, name) for name in ("stride", "dilation", "groups")}
    if module.padding_mode == "circular":
        _check_cyclic(module)
        settings["stride"] = 1
    return OperatorKernel(weight, settings | {"padding": module.padding_mode})


def _check_cyclic(module: Any) -> None:
    if isinstance(module.padding, str):
        return
    kernel, dilation = module.kernel_size, module.dilation
    reach = tuple(d * (k - 1) for k, d in zip(kernel, dilation, strict=True))
    if any(2 * p > r for p, r in zip(module.padding, reach, strict=True)):
        raise LorankError(
            f"it pads cyclically by {tuple(module.padding)}, more than half of the kernel's reach "
            f"{reach}: it writes some pixels twice, and no bound of its norm holds"
        )
