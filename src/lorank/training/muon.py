"""Muon: the momentum of a matrix with all its singular values made equal, as a relative step."""

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor

from lorank.errors import LorankError

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the odd quintic that takes singular values between 0.002 and 1 near to 1 in five turns."""
TURNS = 5

Matrices = int | Literal["stack"]
"""How a parameter holds matrices: so many along its first axis, each with its other axes unfolded;
``"stack"`` for ``(…, m, n)`` as it is; 0 for none."""


def orthogonal(G: Tensor, turns: int = TURNS) -> Tensor:
    """Bring all singular values of matrices near to 1, by products alone.

    ``X ← a·X + (b·A + c·A²)·X`` with ``A = X·Xᵀ``, from ``X = G / ‖G‖_F``: the singular vectors
    stay, and each singular value goes through ``a·σ + b·σ³ + c·σ⁵``. Five turns bring what is not
    below 0.002 of ‖G‖_F between 0.68 and 1.21; zero stays zero.

    Args:
        G: ``(…, m, n)``, real.
        turns: of the iteration.

    Returns:
        ``(…, m, n)``.

    Cost: ``turns · (4·k²·l + 2·k³)`` FLOPs a matrix, k the smaller side and l the larger. Source:
    Jordan et al., Muon: an optimizer for hidden layers in neural networks, 2024.

    Example:
        >>> found = orthogonal(torch.diag(torch.tensor([5.0, 0.5])))
        >>> [0.68 < value < 1.21 for value in found.diag().tolist()]
        [True, True]
    """
    if not G.numel():
        return G
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
    ``W ← (1 − lr·λ)·W − lr·‖W‖_F·O / ‖O‖_F`` with ``O`` of :func:`orthogonal` of D: the rate is the
    share of its norm by which a matrix changes in a step, whatever the scales of W and G. A matrix
    that begins as zeros steps as if its norm were at least that of an orthogonal one; one that
    begins tiny grows slowly. All else takes ``lr·D``. Rates from 0.003 to 0.02 served in our
    trials: low ones to fine-tune briefly what is trained well, high ones where much is to be
    learnt. Weights in half precision round small steps away: train in float32.

    Args:
        params: parameters, or groups of them. A group's ``matrices`` says how each of its
            parameters holds matrices (:data:`Matrices`): 1, the default, for a linear layer or a
            convolution, its number of groups for a grouped one, 0 for what is no matrix.
        lr: rate.
        momentum: μ.
        weight_decay: λ, decoupled.

    Raises:
        LorankError: if a parameter cannot be read as its group says, is complex, or has a sparse
            gradient; if a setting is out of its range.

    Cost: a buffer of the parameters' size, and the products of :func:`orthogonal`, in float32 at
    least. Source: Jordan et al., Muon, 2024; the relative step is that of You et al., LARS, 2017.

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
        """Add parameters that are what ``matrices`` says, or nothing."""
        super().add_param_group(param_group)
        try:
            check(self.param_groups[-1])
        except LorankError:
            self.param_groups.pop()
            raise

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Take a step; a closure is called first, with gradients, and its value given back."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        moving = [
            (p, group) for group in self.param_groups for p in group["params"] if p.grad is not None
        ]
        for p, _ in moving:
            if p.grad.is_sparse:
                shape = tuple(p.shape)
                raise LorankError(f"Muon takes dense gradients, found a sparse one of {shape}")
        for p, group in moving:
            self._move(p, group)
        return loss

    def _move(self, p: Tensor, group: dict[str, Any]) -> None:
        state, how = self.state[p], group.get("matrices", 1)
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(p)
        if how and "began_zero" not in state:
            zero = (as_matrices(p, how) == 0).all(-1, keepdim=True).all(-2, keepdim=True)
            state["began_zero"] = zero.to(p.dtype)
        assert p.grad is not None
        buffer = state["momentum_buffer"].mul_(group["momentum"]).add_(p.grad)
        direction = p.grad + group["momentum"] * buffer
        if how:
            direction = relative(p, direction, how, state["began_zero"])
        p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(direction, alpha=group["lr"])


def check(group: dict[str, Any]) -> None:
    """Refuse settings and parameters that make no step."""
    for name, most in (("lr", None), ("momentum", 1), ("weight_decay", None)):
        value = group[name]
        if not 0 <= value < (math.inf if most is None else most):
            bound = "at least 0 and finite" if most is None else f"in [0, {most})"
            raise LorankError(f"{name} of Muon must be {bound}, found {value}")
    how = group["matrices"]
    if how != "stack" and (type(how) is not int or how < 0):
        raise LorankError(f'matrices of a group are a number or "stack", found {how!r}')
    for p in group["params"]:
        shape = tuple(p.shape)
        if p.is_complex():
            raise LorankError(f"Muon takes real parameters, found a complex one of {shape}")
        if how and (p.ndim < 2 or not p.numel() or (how != "stack" and len(p) % how)):
            raise LorankError(
                f"a parameter of {shape} does not hold matrices as its group says ({how}): "
                "put what is no matrix into a group with matrices=0"
            )


def relative(weight: Tensor, direction: Tensor, how: Matrices, began_zero: Tensor) -> Tensor:
    """``‖W‖_F·O / ‖O‖_F`` of each matrix in a weight, in the weight's shape.

    A matrix that began as zeros counts for an orthogonal one, ``√min(m, n)``, at least.
    """
    W, D = as_matrices(weight, how), as_matrices(direction, how)
    O = orthogonal(D)  # noqa: E741
    has = torch.linalg.matrix_norm(O, keepdim=True).clamp_min(torch.finfo(O.dtype).tiny)
    least = began_zero.to(W.dtype) * min(W.shape[-2:]) ** 0.5
    size = torch.maximum(torch.linalg.matrix_norm(W, keepdim=True), least)
    return (O / has * size).view(weight.shape).to(weight.dtype)


def as_matrices(weight: Tensor, how: Matrices) -> Tensor:
    """A weight as ``(…, rows, columns)``, in float32 at least: half precision has no room to sum.

    Example:
        >>> kernel = torch.zeros(6, 2, 3)
        >>> as_matrices(kernel, "stack").shape, as_matrices(kernel, 2).shape
        (torch.Size([6, 2, 3]), torch.Size([2, 3, 6]))
    """
    wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
    return wide if how == "stack" else wide.reshape(how, len(wide) // how, -1)
