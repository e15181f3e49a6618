"""Quaternion arrays at the door: NumPy in, NumPy out, and nothing is copied."""

import warnings
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lorank.errors import LorankError

FLOATS = (torch.float32, torch.float64)

QArray = Any
"""A torch tensor or NumPy array ``(..., m, n, 4)``, or a NumPy array of quaternion dtype."""


class Kind(NamedTuple):
    """What an array was when it came, so that results can be given back as the same."""

    numpy: bool = False
    quaternions: Any = None
    """The dtype of the package numpy-quaternion, where entries are single scalars."""

    def give(self, A: Tensor) -> QArray:
        """A quaternion tensor as the kind that came in."""
        if not self.numpy:
            return A
        array = self.real(A)
        if self.quaternions is None:
            return array
        return array.astype("float64", copy=False).view(self.quaternions)[..., 0]

    def real(self, x: Tensor) -> Any:
        """A real (or complex) tensor as the kind that came in."""
        return x.detach().resolve_conj().cpu().contiguous().numpy() if self.numpy else x


def arrive(A: QArray) -> tuple[Tensor, Kind]:
    """View a quaternion matrix as a tensor ``(..., m, n, 4)``, without a copy.

    NumPy is recognised by name, never imported: this room needs torch alone.

    Raises:
        LorankError: if it is not a dense array of float32 or float64, has no entries, or is not
            a matrix with four parts on the last axis.
    """
    tensor, kind = as_tensor(A)
    if tensor.dtype not in FLOATS:
        found = str(tensor.dtype).removeprefix("torch.")
        raise LorankError(f"a quaternion matrix needs float32 or float64, found {found}")
    if tensor.layout != torch.strided:
        raise LorankError(f"a quaternion matrix needs a dense tensor, found {tensor.layout}")
    if tensor.ndim < 3 or tensor.shape[-1] != 4:
        raise LorankError(
            "a quaternion matrix has shape (..., m, n, 4), its parts w, x, y, z on the last axis,"
            f" found {tuple(tensor.shape)}"
        )
    if tensor.numel() == 0:
        raise LorankError(
            f"a quaternion matrix needs at least one entry, found shape {tuple(tensor.shape)}"
        )
    return tensor, kind


def arrive_finite(A: QArray) -> tuple[Tensor, Kind]:
    """:func:`arrive`, for a decomposition: finite, and without gradient history.

    Raises:
        LorankError: also if an entry is NaN or Inf.
    """
    tensor, kind = arrive(A)
    tensor = tensor.detach()
    check_finite(tensor)
    return tensor, kind


def check_together(A: Tensor, B: Tensor) -> None:
    """Insist on one device and on leading axes that broadcast.

    Raises:
        LorankError: otherwise.
    """
    if A.device != B.device:
        raise LorankError(
            f"quaternion matrices meet on one device, found {A.device} and {B.device}"
        )
    pairs = zip(reversed(A.shape[:-3]), reversed(B.shape[:-3]), strict=False)
    if any(a != b and 1 not in (a, b) for a, b in pairs):
        raise LorankError(
            f"leading axes broadcast, found shapes {tuple(A.shape)} and {tuple(B.shape)}"
        )


def check_finite(A: Tensor) -> None:
    """Insist on finite entries; a finite sum proves them at a fraction of the time and memory.

    Raises:
        LorankError: if an entry is NaN or Inf, or there are none, as on the device meta.
    """
    if A.is_meta:
        raise LorankError("a decomposition needs values, found a tensor on the device meta")
    if torch.isfinite(A.sum()):
        return
    bad = A.numel() - int(torch.isfinite(A).sum())
    if bad:
        raise LorankError(
            f"a decomposition needs finite values, found {bad} NaN or Inf among {A.numel()}"
        )


def check_range(A: Tensor) -> None:
    """Insist that what was computed from finite entries is finite.

    Raises:
        LorankError: if it left the range of its type.
    """
    if not torch.isfinite(A).all():
        raise LorankError(
            "numbers computed from these entries leave the range of their type: multiply the "
            "matrix by a number first, or take float64"
        )


def as_tensor(A: Any) -> tuple[Tensor, Kind]:
    """View any array as a tensor, and remember what it was.

    Raises:
        LorankError: if it is neither a tensor nor a NumPy array of numbers.
    """
    if isinstance(A, Tensor):
        return A, Kind()
    if not _is_numpy(A):
        raise LorankError(
            f"a quaternion matrix is a torch tensor or a NumPy array, found {type(A).__name__}"
        )
    if A.dtype.name == "quaternion":
        whole = A if A.flags.c_contiguous else A.copy()
        return _from_numpy(whole.view("float64").reshape(*A.shape, 4)), Kind(True, A.dtype)
    return _from_numpy(A), Kind(True)


def _is_numpy(A: object) -> bool:
    return any(c.__module__ == "numpy" and c.__name__ == "ndarray" for c in type(A).__mro__)


def _from_numpy(A: Any) -> Tensor:
    if A.dtype.kind not in "fiubc":
        raise LorankError(f"a quaternion matrix needs float32 or float64, found {A.dtype}")
    if not A.dtype.isnative:
        A = A.astype(A.dtype.newbyteorder("="))
    if any(stride < 0 or stride % A.itemsize for stride in A.strides):  # torch has no such view
        A = A.copy()
    try:
        with warnings.catch_warnings():  # read-only arrays are only read here
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            return torch.from_numpy(A)
    except TypeError:  # long double and other types that torch has not
        raise LorankError(
            f"a quaternion matrix needs float32 or float64, found {A.dtype}"
        ) from None
