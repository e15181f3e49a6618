"""A device that is not there: tensors that say they are on one, computed on the CPU.

A tensor on it takes part in operations with tensors on it alone, as on a GPU: an operation that
mixes places fails, and so does a draw there by a generator that is here. Values are those of the
CPU, so that what a function gives there can be held to what it gives here. What needs a real GPU
stays untold: its kernels, their precision and speed, autocast, ``torch.compile``, streams. So do
generators of its own, inference mode, files that are read back to where they were written, and
gradients in another place than their tensors, which cases look at themselves.

PyTorch is told of the device once a process, before the first backward pass, and cannot be made to
forget it: ``tests/test_elsewhere.py`` runs what needs it in a process of its own.
"""

import builtins
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

from lorank.nn import surgery

HERE = torch.device("cpu")
COPIES = {"aten::_to_copy", "aten::copy_"}
INDEXED = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
"""Places to index by may lie here for a tensor that lies there, and not the other way round."""
STRICT = {
    *("aten::cat", "aten::stack", "aten::index_select", "aten::gather", "aten::take"),
    *("aten::embedding", "aten::index_fill", "aten::scatter", "aten::masked_fill"),
    *("aten::searchsorted",),
}
"""Take no number from here; what works entry by entry does, as on a GPU."""
WAITS = {
    *("aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::masked_select"),
    *("aten::_unique2", "aten::unique_dim", "aten::unique_consecutive"),
    *("aten::repeat_interleave", "aten::is_nonzero"),
}
"""Cannot go on before a GPU has said what it found."""


class Backend(backend_registration._DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


class There(Tensor):
    """A tensor on the device, and the one on the CPU that holds its values."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "There":
        return Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=torch.device("elsewhere:0"),
        )

    def __init__(self, held: Tensor):
        self.held = held

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})

    # What a tensor of a real device does without its operations:

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"There({self.held!r})"

    def __deepcopy__(self, memo: dict[int, Any]) -> "There":
        copied = There(self.held.detach().clone()).requires_grad_(self.requires_grad)
        if isinstance(self, nn.Parameter):
            copied._is_param = True  # type: ignore[attr-defined]
        memo[id(self)] = copied
        return copied

    @property
    def data(self) -> Tensor:  # type: ignore[override]
        return Tensor.data.__get__(self)

    @data.setter
    def data(self, value: "There") -> None:
        Tensor.data.__set__(self, value)
        self.held = value.held

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.held.detach().__reduce_ex__(protocol)

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __getitem__(self, index: Any) -> Tensor:
        return super().__getitem__(_indices(index))

    def __setitem__(self, index: Any, value: Any) -> None:
        super().__setitem__(_indices(index), value)

    def numpy(self, **_: Any) -> Any:
        raise TypeError("can't convert elsewhere:0 device type tensor to numpy")

    def untyped_storage(self) -> Any:
        return self.held.untyped_storage()

    def new_tensor(self, data: Any, *, device: Any = None, **settings: Any) -> Tensor:
        return self.held.new_tensor(data, **settings).to(self.device if device is None else device)


class Elsewhere(TorchDispatchMode):
    """Sees operations whose arguments all lie here, and whose result is asked for there."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


waits: list[str] = []
"""Operations that wait for a GPU: they bring numbers there or back, or depend on what it found."""


def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Check where everything lies, compute here, and put the result where it belongs."""
    leaves = tree_leaves((args, kwargs))
    name, asked = func._schema.name, kwargs.get("device")
    there = any(isinstance(leaf, There) for leaf in leaves)
    if there and name not in COPIES:
        one_place(func, args, kwargs, leaves)
    onto = there if asked is None else torch.device(asked).type == "elsewhere"
    if onto and any(isinstance(leaf, torch.Generator) for leaf in leaves):
        raise RuntimeError(f"{name}: expected a generator of elsewhere, and found one of the cpu")
    if (there and name in WAITS) or crosses(func, args, onto):
        waits.append(name)
    if asked is not None:
        kwargs = {**kwargs, "device": HERE}
    done = func(*tree_map(_held, args), **tree_map(_held, kwargs))
    if name == "aten::copy_":
        return args[0]
    if not onto:
        return done
    return return_and_correct_aliasing(func, args, kwargs, tree_map(_put, done))


def crosses(func: Any, args: Any, onto: bool) -> bool:
    """Whether an operation copies between the places, or looks for what a mask chooses."""
    name = func._schema.name
    if name == "aten::_to_copy":
        return isinstance(args[0], There) != onto
    if name == "aten::copy_":
        return isinstance(args[0], There) != isinstance(args[1], There)
    if name not in INDEXED or not isinstance(args[0], There):
        return False
    places = [leaf for leaf in tree_leaves(args[1]) if isinstance(leaf, Tensor)]
    return any(not isinstance(place, There) or place.dtype == torch.bool for place in places)


def one_place(func: Any, args: Any, kwargs: dict[str, Any], leaves: list[Any]) -> None:
    """Refuse what a GPU refuses: a tensor from here beside one from there."""
    name = func._schema.name
    if name in INDEXED and isinstance(args[0], There):
        leaves = [leaf for leaf in leaves if all(leaf is not place for place in args[1])]
    here = [leaf for leaf in leaves if isinstance(leaf, Tensor) and not isinstance(leaf, There)]
    written = [args[0]] if name.endswith("_") else []
    written += [kwargs["out"]] if "out" in kwargs else []
    changed = any(leaf is target for leaf in here for target in written)
    strict = name.removesuffix("_") in STRICT
    if changed or any(leaf.ndim or strict for leaf in here):
        shapes = [tuple(leaf.shape) for leaf in here]
        raise RuntimeError(f"{name} takes tensors of one device, and found cpu ones of {shapes}")


def _indices(index: Any) -> Any:
    """Lists of places as tensors, which PyTorch makes of them where no mode sees it."""
    if isinstance(index, tuple):
        return tuple(_indices(part) for part in index)
    return torch.tensor(index) if isinstance(index, list) else index


def _held(leaf: Any) -> Any:
    return leaf.held if isinstance(leaf, There) else leaf


def _put(leaf: Any) -> Any:
    if not isinstance(leaf, Tensor):
        return leaf
    return There(leaf.resolve_conj().resolve_neg())  # such views are marks that a wrapper lacks


def _made(real: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A maker of tensors from plain values, which PyTorch lets no mode see."""

    def made(*args: Any, device: Any = None, **settings: Any) -> Tensor:
        found = real(*args, **settings)
        return found if device is None else found.to(device)

    return made


def _loaded(real: Callable[..., Any]) -> Callable[..., Any]:
    """A reader that puts every tensor of a file where it is asked to."""

    def loaded(*args: Any, map_location: Any = None, **settings: Any) -> Any:
        found = real(*args, map_location=HERE, **settings)
        if map_location is None or torch.device(map_location) == HERE:
            return found
        return tree_map(lambda x: x.to(map_location) if isinstance(x, Tensor) else x, found)

    return loaded


def _type(value: Any) -> type:
    """A parameter on a real device is no subclass of one."""
    plain = isinstance(value, There) and isinstance(value, nn.Parameter)
    return nn.Parameter if plain else builtins.type(value)


UNCAST = torch.library.Library("_", "IMPL")
"""Operations under autocast, which the device takes as they are; kept, or they are forgotten."""


def register() -> None:
    """Tell PyTorch of the device, for the rest of the process."""
    UNCAST.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    backend_registration._setup_privateuseone_for_python_backend("elsewhere", Backend())
    torch.inference_mode = torch.no_grad  # type: ignore[misc, assignment]  # it refuses wrappers
    for maker in ("tensor", "as_tensor", "asarray"):
        setattr(torch, maker, _made(getattr(torch, maker)))
    torch.load = _loaded(torch.load)
    surgery.type = _type  # type: ignore[attr-defined]


@contextmanager
def elsewhere() -> Iterator[torch.device]:
    """The device, while it can be used."""
    with Elsewhere():
        yield torch.device("elsewhere:0")
