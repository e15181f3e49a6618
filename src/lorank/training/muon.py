"""Muon: the momentum of a matrix with all its singular values made equal, as a relative step."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from lorank.errors import LorankError

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the odd quintic that takes singular values between 0.002 and 1 near to 1 in five turns."""
TURNS = 5


def orthogonal(G: Tensor, turns: int = TURNS) -> Tensor:
    """Bring all singular values of matrices near to 1, by products alone.

    ``X ← a·X + (b·A + c·A²)·X`` with ``A = X·Xᵀ``, from ``X = G / ‖G‖_F``: the singular vectors
    stay, and each singular value goes through ``a·σ + b·σ³ + c·σ⁵``. Five turns bring what is not
    below 0.002 of ‖G‖_F between 0.68 and 1.2; zero stays zero.

    Args:
        G: ``(…, m, n)``.
        turns: of the iteration.

    Returns:
        ``(…, m, n)``.

    Cost: ``turns · (4·k²·l + 2·k³)`` FLOPs a matrix, k the smaller side and l the larger. Source:
    Jordan et al., Muon: an optimizer for hidden layers in neural networks, 2024.

    Example:
        >>> found = orthogonal(torch.diag(torch.tensor([5.0, 0.5])))
        >>> [0.68 < value < 1.2 for value in found.diag().tolist()]
        [True, True]
    """
    a, b, c = COEFFICIENTS
    tiny = torch.finfo(G.dtype).tiny
    X = G / G.abs().amax((-2, -1), keepdim=True).clamp_min(tiny)  # or squares may vanish
    X = X / torch.linalg.matrix_norm(X, keepdim=True).clamp_min(tiny)
    tall = G.shape[-2] > G.shape[-1]
    X = X.mT if tall else X
    for _ in range(turns):
        A = X @ X.mT
        X = a * X + (b * A + c * (A @ A)) @ X
    return X.mT if tall else X


class Muon(torch.optim.Optimizer):
    """Orthogonal momentum for matrices, and SGD with Nesterov momentum for all else.

    ``M ← μ·M + G`` and ``D = G + μ·M``; a matrix W then takes the step
    ``W ← (1 − lr·λ)·W − lr·‖W‖_F·O / ‖O‖_F`` with ``O`` of :func:`orthogonal` of D, so that the
    rate is the share of its norm by which a matrix changes in a step, whatever the scale of W or
    G; a matrix of zeros is given ``lr·O``. Vectors take ``lr·D``. Rates between 0.001 and 0.02 are
    usual: low ones to fine-tune briefly what is trained well, high ones for long training.

    Args:
        params: parameters, or groups of them. In a group, ``matrices`` says how many matrices
            each parameter holds along its first axis (a grouped convolution's kernel has one a
            group); 0 makes it a vector's step.
        lr: rate.
        momentum: μ.
        weight_decay: λ, decoupled.

    Raises:
        LorankError: if a parameter cannot be read as so many matrices, or a gradient is sparse.

    Cost: a buffer of the parameters' size, and the products of :func:`orthogonal`. Source: Jordan
    et al., Muon, 2024; the relative step is that of You et al., LARS, 2017.

    Example:
        >>> weight = torch.nn.Parameter(torch.eye(2))
        >>> optimizer = Muon([weight], lr=0.1, momentum=0.0)
        >>> (3 * weight[0, 0] + weight[1, 1]).backward()
        >>> optimizer.step()
        >>> torch.linalg.matrix_norm(weight.detach() - torch.eye(2)).item()  # lr · √2
        0.1414...
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.005,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ):
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "matrices": 1}
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, and see that they are what ``matrices`` says."""
        super().add_param_group(param_group)
        added = self.param_groups[-1]
        for p in added["params"]:
            count = added["matrices"]
            if count and (p.ndim < 2 or not p.numel() or len(p) % count):
                raise LorankError(
                    f"Muon reads {count} matrices in a parameter, along its first axis; "
                    f"found one of shape {tuple(p.shape)}"
                )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Take a step; a closure is called first, with gradients, and its value given back."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._move(p, group)
        return loss

    def _move(self, p: Tensor, group: dict[str, Any]) -> None:
        if p.grad.is_sparse:
            raise LorankError(f"Muon takes dense gradients, found a sparse one {tuple(p.shape)}")
        state = self.state[p]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(p)
        buffer = state["momentum_buffer"].mul_(group["momentum"]).add_(p.grad)
        direction = p.grad + group["momentum"] * buffer
        if group["matrices"]:
            direction = relative(p, direction, group["matrices"])
        p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(direction, alpha=group["lr"])


def relative(weight: Tensor, direction: Tensor, count: int) -> Tensor:
    """``‖W‖_F·O / ‖O‖_F`` of each matrix in a weight, in the weight's shape."""
    W, D = as_matrices(weight, count), as_matrices(direction, count)
    O = orthogonal(D)  # noqa: E741
    had, has = (torch.linalg.matrix_norm(t, keepdim=True) for t in (W, O))
    sized = O / has.clamp_min(torch.finfo(O.dtype).tiny) * had
    return torch.where(had > 0, sized, O).view(weight.shape)


def as_matrices(weight: Tensor, count: int) -> Tensor:
    """A weight as ``(count, rows, columns)``: a stack as it is, a kernel unfolded in each group.

    Example:
        >>> kernel = torch.zeros(6, 2, 3)
        >>> as_matrices(kernel, 6).shape, as_matrices(kernel, 2).shape
        (torch.Size([6, 2, 3]), torch.Size([2, 3, 6]))
    """
    if weight.ndim == 3 and len(weight) == count:
        return weight
    return weight.reshape(count, len(weight) // count, -1)
