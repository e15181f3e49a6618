"""Two thin layers in the place of a dense one, for code that reads the dense layer's weight."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from lorank.errors import LorankError

if TYPE_CHECKING:
    from lorank.nn.factored import Factored


class Pair(nn.Sequential):
    """``nn.Sequential`` of the two thin layers that a layer in SVD form folds into.

    It runs, saves and exports as a ``Sequential`` does. It also answers what models ask of a dense
    layer: its sizes and strides, its ``bias``, and its ``weight``, the product of the two kernels.
    T5 reads ``wo.weight.dtype`` on every call, ViT that of its patch embedding, Whisper the stride
    of its convolutions. The product is only formed where its values are asked for.

    Example:
        >>> import lorank
        >>> pair = lorank.fold(lorank.decompose(nn.Linear(8, 6), {"": 2}))
        >>> pair.in_features, pair.weight.shape, pair.weight.dtype
        (8, torch.Size([6, 8]), torch.float32)
    """

    __jit_unused_properties__ = ("weight", "bias")  # TorchScript runs a Sequential

    def __init__(self, layer: "Factored", first: nn.Module, second: nn.Module):
        super().__init__(first, second)
        self.view = layer.view
        self.svd_layout = layer.view.layout  # read by files, to describe the pair
        self.svd_form = type(layer)
        self.settings = {name: getattr(layer, name) for name in layer.settings}

    @property
    def weight(self) -> Tensor:
        """The dense weight (differentiable); a compiler removes a product that nobody reads."""
        if torch.compiler.is_compiling():
            return self.product()
        return Product(self)

    @property
    def bias(self) -> nn.Parameter | None:
        """The bias, which sits on the second layer."""
        bias: Any = self[1].bias if hasattr(self[1], "bias") else None
        return bias

    def product(self) -> Tensor:
        """Form the dense weight."""
        first, second = (layer.get_parameter("weight") for layer in self)
        return self.svd_form.compose(self.view, first, second)

    def dense_shape(self) -> tuple[int, ...]:
        """Shape of the dense weight."""
        return self.view.kernel_shape

    def __getattr__(self, name: str) -> Any:
        settings = vars(self).get("settings", {})
        return settings[name] if name in settings else super().__getattr__(name)


class Product(Tensor):
    """The dense weight of a pair: dtype, device and shape at once, values when they are needed."""

    @staticmethod
    def __new__(cls, pair: Pair) -> "Product":
        """Describe the product without forming it."""
        like = pair[0].get_parameter("weight")
        return Tensor._make_wrapper_subclass(  # pyright: ignore[reportAttributeAccessIssue]
            cls, pair.dense_shape(), dtype=like.dtype, device=like.device
        )

    def __init__(self, pair: Pair):
        super().__init__()
        self.pair = pair

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Answer questions about the product itself, and hand anything else its values."""
        del types
        with torch._C.DisableTorchFunctionSubclass():
            if func in ASKED:
                return func(*args, **(kwargs or {}))
            _writes_nothing(func, (*args, *(kwargs or {}).values()))
            args, kwargs = tree_map_only(Product, lambda p: p.pair.product(), (args, kwargs or {}))
        return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do the same for what comes past ``__torch_function__``."""
        del types
        args, kwargs = tree_map_only(Product, lambda p: p.pair.product(), (args, kwargs or {}))
        return func(*args, **kwargs)


def _writes_nothing(func: Any, args: tuple[Any, ...]) -> None:
    """Refuse to write into a product: the pair would not notice.

    Raises:
        LorankError: if the function works in place on it.
    """
    name = getattr(func, "__name__", "")
    in_place = name.endswith("_") and not name.endswith("__") and name != "requires_grad_"
    if in_place and args and isinstance(args[0], Product):
        raise LorankError(
            f"the weight of a pair is the product of its two layers, and {name} would not reach "
            "them: write into pair[0].weight and pair[1].weight"
        )


def _getter(name: str) -> Any:
    return getattr(Tensor, name).__get__


ASKED = {
    *map(_getter, ("dtype", "device", "shape", "ndim", "layout", "is_cuda", "is_meta")),
    *(Tensor.size, Tensor.dim, Tensor.numel, Tensor.is_floating_point, Tensor.element_size),
}
"""What is known of a product without its values."""
